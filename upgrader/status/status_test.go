package status

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)

// world has one armed set of n replicas that are being upgraded from v1 to v2.
func world(n int) *plan.World {
	t := plan.Target{Name: "web", Armed: true, Observed: true, TemplateSeen: true, CurrentRevision: "v1", UpdateRevision: "v2", Partition: int32(n)} //nolint:gosec // a small number
	for i := range n {
		t.Pods = append(t.Pods, plan.Replica{
			Name: fmt.Sprintf("web-%d", i), Exists: true, UID: fmt.Sprintf("u%d", i), Revision: "v1",
			State: plan.StateNormal, Hold: true, Duty: plan.Idle, Fit: true, UpdateDone: true,
		})
	}
	return &plan.World{Policy: plan.Policy{MaxUnavailable: 1, VerifyTimeout: time.Minute}, Targets: []plan.Target{t}}
}

func decision(reason plan.Reason, mut ...func(*plan.Decision)) plan.Decision {
	d := plan.Decision{Reason: reason, Message: "why", Targets: make([]plan.Remark, 1)}
	for _, m := range mut {
		m(&d)
	}
	return d
}

func done(d *plan.Decision)    { d.Done = true }
func stalled(d *plan.Decision) { d.Stalled = true }

// shown are the conditions that are true, and Ready's reason.
func shown(s *v1alpha1.UpgradePlanStatus) string {
	var out []string
	for _, c := range s.Conditions {
		if c.Status == metav1.ConditionTrue {
			out = append(out, c.Type)
		}
	}
	slices.Sort(out)
	reason := "no Ready condition"
	if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady); c != nil {
		reason = c.Reason
	}
	return strings.Join(out, " ") + " (" + reason + ")"
}

func TestConditions(t *testing.T) {
	blocked := world(1)
	blocked.Arbiter.Blocked = &plan.Blocker{Reason: plan.ArbiterUnreachable, Message: "gone"}
	for _, tt := range []struct {
		name   string
		world  *plan.World
		d      plan.Decision
		failed error
		want   string
	}{
		{"a complete plan is ready and nothing else", world(1), decision(plan.Complete, done), nil, "ArbiterReachable Ready (Complete)"},
		{"one on its way reconciles and progresses", world(1), decision(plan.Updating), nil, "ArbiterReachable Progressing Reconciling (Updating)"},
		{"a stalled one does not reconcile", world(1), decision(plan.ReplicaFailed, stalled), nil, "ArbiterReachable Stalled (ReplicaFailed)"},
		{"one of whose targets is stalled while others go on is stalled and progresses", world(1), decision(plan.TargetNotFound, stalled, func(d *plan.Decision) {
			d.Going = plan.Remark{Reason: plan.Updating, Message: "web-1"}
		}), nil, "ArbiterReachable Progressing Stalled (TargetNotFound)"},
		{"a paused one does not progress", world(1), decision(plan.Paused), nil, "ArbiterReachable Reconciling (Paused)"},
		{"one whose arbiter is gone says so", blocked, decision(plan.ArbiterUnreachable, stalled), nil, "Stalled (ArbiterUnreachable)"},
		{"a write that will not succeed either stalls it", world(1), decision(plan.Updating), fmt.Errorf("%w", &plan.Stuck{Blocker: plan.Blocker{Reason: plan.TemplateRefused, Message: "bad"}}), "ArbiterReachable Stalled (TemplateRefused)"},
		{"a write that failed keeps a plan from being ready", world(1), decision(plan.Complete, done), errors.New("forbidden"), "ArbiterReachable Progressing Reconciling (WriteFailed)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Of(&v1alpha1.UpgradePlanStatus{}, 3, tt.world, tt.d, tt.failed, now)
			if got := shown(s); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if s.ObservedGeneration != 3 {
				t.Errorf("observed generation %d", s.ObservedGeneration)
			}
			for _, c := range s.Conditions {
				if c.ObservedGeneration != 3 || c.Reason == "" {
					t.Errorf("condition %+v", c)
				}
			}
		})
	}
}

func TestStalledAndReconcilingGoAgain(t *testing.T) {
	w := world(1)
	s := Of(&v1alpha1.UpgradePlanStatus{}, 1, w, decision(plan.ReplicaFailed, stalled), nil, now)
	s = Of(s, 1, w, decision(plan.Updating), nil, now)
	if got := shown(s); got != "ArbiterReachable Progressing Reconciling (Updating)" {
		t.Error(got)
	}
	s = Of(s, 1, w, decision(plan.Complete, done), nil, now)
	if got := shown(s); got != "ArbiterReachable Ready (Complete)" {
		t.Error(got)
	}
	if meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionStalled) != nil || meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReconciling) != nil {
		t.Error("kstatus wants Stalled and Reconciling to be absent when they are not true")
	}
}

func TestEqualInputsMakeNoNewStatus(t *testing.T) {
	busy := world(3)
	busy.Targets[0].Pods[1].Lease = &plan.Lease{ID: "L1", Valid: true, Instance: "u1"}
	busy.Targets[0].Pods[2].Trouble = &plan.Blocker{Reason: "CrashLoopBackOff", Message: "it crashes"}
	gone := &plan.World{Targets: []plan.Target{{Name: "web", Gone: true, Blocked: &plan.Blocker{Reason: plan.TargetNotFound}}}}
	for name, w := range map[string]*plan.World{"on its way": busy, "large": world(2 * maxReplicas), "without its set": gone} {
		t.Run(name, func(t *testing.T) {
			d := decision(plan.Updating)
			first := Of(&v1alpha1.UpgradePlanStatus{}, 1, w, d, nil, now)
			second := Of(first, 1, w, d, nil, now.Add(time.Hour))
			if diff := cmp.Diff(first, second); diff != "" {
				t.Errorf("nothing has changed but the time (-first +second):\n%s", diff)
			}
		})
	}
}

func TestOfLeavesTheOldStatusAlone(t *testing.T) {
	old := Of(&v1alpha1.UpgradePlanStatus{}, 1, world(2), decision(plan.Updating), nil, now)
	copied := old.DeepCopy()
	Of(old, 2, world(3), decision(plan.Complete, done), nil, now.Add(time.Hour))
	if diff := cmp.Diff(copied, old); diff != "" {
		t.Errorf("the cached object was written to:\n%s", diff)
	}
}

func TestCounters(t *testing.T) {
	w := world(4)
	p := w.Targets[0].Pods
	p[0].Duty = plan.Working
	p[1].Revision, p[1].Verified = "v2", "v2"
	p[2].Lease = &plan.Lease{ID: "L2", Valid: true, Instance: "u2"}
	p[3].Duty = plan.Unknown
	d := decision(plan.Draining)
	d.Targets[0] = plan.Remark{Reason: plan.Draining, Message: "draining web-2"}
	s := Of(&v1alpha1.UpgradePlanStatus{}, 1, w, d, nil, now)
	got := fmt.Sprintf("%s of %d, %d leased, %d working", s.Progress, s.Replicas, s.LeasedReplicas, s.WorkingReplicas)
	if got != "1/4 of 4, 1 leased, 2 working" {
		t.Error(got)
	}
	want := v1alpha1.TargetStatus{Name: "web", CurrentRevision: "v1", UpdateRevision: "v2", Partition: new(int32(4)), Replicas: 4, UpgradedReplicas: 1, Reason: "Draining", Message: "draining web-2"}
	if diff := cmp.Diff(want, s.Targets[0]); diff != "" {
		t.Errorf("target (-want +got):\n%s", diff)
	}
	if r := s.ReplicaStatuses[2]; r.Step != "Leased" || r.Lease != "L2" || r.Duty != "Idle" {
		t.Errorf("replica %+v", r)
	}
}

// By the partition in its status a plan knows which sets it may have taken over.
func TestASetThatThePlanMayNotTouchIsShownWithoutItsPartition(t *testing.T) {
	blocked := &plan.Blocker{Reason: plan.ContainerNotFound, Message: "no such container"}
	for _, c := range []struct {
		name         string
		set          func(*plan.Target)
		shown, known bool
	}{
		{"it is to be taken over", func(*plan.Target) {}, true, true},
		{"bad input keeps it from being taken over", func(t *plan.Target) { t.Blocked = blocked }, true, false},
		{"bad input came after it could have been", func(t *plan.Target) { t.Blocked, t.Listed = blocked, true }, true, true},
		{"it is taken over", func(t *plan.Target) { t.Armed, t.Blocked = true, blocked }, true, true},
		{"nobody knows whether it is", func(t *plan.Target) { t.Unread, t.Blocked = true, blocked }, true, true},
		{"it was dropped, and is to be barred", func(t *plan.Target) { t.Leaving, t.Listed = true, true }, true, true},
		{"it was dropped, and nobody ever could", func(t *plan.Target) { t.Leaving = true }, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := world(2)
			w.Targets[0].Armed = false
			c.set(&w.Targets[0])
			s := Of(&v1alpha1.UpgradePlanStatus{}, 1, w, decision(plan.Arming), nil, now)
			if shown := len(s.Targets) == 1; shown != c.shown || shown && (s.Targets[0].Partition != nil) != c.known {
				t.Errorf("the status has %+v", s.Targets)
			}
		})
	}
}

func TestProgressTime(t *testing.T) {
	began := Of(&v1alpha1.UpgradePlanStatus{}, 1, world(2), decision(plan.Updating), nil, now)
	later := now.Add(time.Minute)
	forward := world(2)
	forward.Targets[0].Pods[0].Lease = &plan.Lease{ID: "L", Valid: true, Instance: "u0"}
	moved := world(2)
	moved.Targets[0].UpdateRevision = "v3"
	for _, tt := range []struct {
		name       string
		generation int64
		world      *plan.World
		moves      bool
	}{
		{"waiting is no progress", 1, world(2), false},
		{"a step forward is", 1, forward, true},
		{"a new wish begins anew", 2, world(2), true},
		{"so does a new template", 1, moved, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Of(began, tt.generation, tt.world, decision(plan.Updating), nil, later)
			if moved := s.LastProgressTime.Time.Equal(later.Truncate(time.Second)); moved != tt.moves {
				t.Errorf("last progress %s at %s", s.LastProgressTime, later)
			}
		})
	}
}

func TestAFailedReplicaKeepsItsTime(t *testing.T) {
	w := world(1)
	r := &w.Targets[0].Pods[0]
	r.Hold, r.Grant, r.Note, r.Lease = false, true, plan.Note{ID: "L", Token: 1}, &plan.Lease{ID: "L", Token: 1, Pinned: true, Valid: true, Instance: "u0"}
	s := Of(&v1alpha1.UpgradePlanStatus{}, 1, w, decision(plan.Updating), nil, now)
	if s.ReplicaStatuses[0].Step != "Released" {
		t.Fatalf("it is %s", s.ReplicaStatuses[0].Step)
	}
	since := s.ReplicaStatuses[0].Since
	r.LastStep, r.LastSince = plan.StepReleased, since.Time
	for range 2 { // as failed, and as failed again
		s = Of(s, 1, w, decision(plan.ReplicaFailed, stalled), nil, now.Add(2*time.Minute))
		if got := s.ReplicaStatuses[0]; got.Step != "Failed" || !got.Since.Equal(since) {
			t.Errorf("%+v: the time counts from the release, or it would fail, recover and fail again", got)
		}
		r.LastStep = plan.StepFailed
	}
}

func TestLimit(t *testing.T) {
	w := world(maxReplicas + 5)
	last := len(w.Targets[0].Pods) - 1
	w.Targets[0].Pods[last].Lease = &plan.Lease{ID: "L", Valid: true, Instance: "u"}
	s := Of(&v1alpha1.UpgradePlanStatus{}, 1, w, decision(plan.Updating), nil, now)
	if len(s.ReplicaStatuses) != maxReplicas || s.ReplicaStatuses[0].Name != w.Targets[0].Pods[last].Name {
		t.Errorf("%d replicas are listed, %s first", len(s.ReplicaStatuses), s.ReplicaStatuses[0].Name)
	}
	if s.Replicas != maxReplicas+5 {
		t.Errorf("%d are counted", s.Replicas)
	}
	d := decision(plan.Updating)
	d.Message = "x" + strings.Repeat("…", 20_000)
	s = Of(s, 1, w, d, nil, now)
	if m := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady).Message; len(m) > 32_768 || !utf8.ValidString(m) {
		t.Errorf("a message of %d bytes, valid %t, does not survive the API server", len(m), utf8.ValidString(m))
	}
}
