package plan

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// now is the moment of every decision in these tests.
var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// rollout is a world with a rollout from v1 to v2 before it: one armed set "web" of n
// held, idle replicas, nobody selected, and an arbiter that answers.
func rollout(n int) *World {
	w := &World{
		Term: 1,
		Policy: Policy{
			MaxUnavailable: 1, RequestHandover: true,
			DrainTimeout: time.Minute, VerifyTimeout: 10 * time.Minute, ProgressDeadline: time.Hour,
		},
		Arbiter: Arbiter{Adopted: true},
	}
	w.addTarget("web", n)
	return w
}

func (w *World) addTarget(name string, n int) {
	t := Target{
		Name: name, ResourceVersion: "s1", Observed: true, Replicas: n,
		CurrentRevision: "v1", UpdateRevision: "v2", Partition: int32(n), //nolint:gosec // a small number
		Armed: true, ArmedTerm: 1, Settings: true, TemplateSeen: true, Listed: true, Proven: "v1",
	}
	for i := range n {
		t.Pods = append(t.Pods, Replica{
			Name: name + "-" + strconv.Itoa(i), Target: len(w.Targets), Exists: true,
			UID: "u" + strconv.Itoa(i), ResourceVersion: "r" + strconv.Itoa(i), Revision: "v1", State: StateNormal,
			Hold: true, Working: "false", Verified: "v1", Ready: true, Fit: true, UpdateDone: true,
			FitSince: now.Add(-time.Hour), Duty: Idle,
		})
	}
	w.Targets = append(w.Targets, t)
}

// complete brings every replica of every target to v2 and ends the rollout.
func (w *World) complete() {
	for i := range w.Targets {
		t := &w.Targets[i]
		t.CurrentRevision, t.Proven, t.Partition = "v2", "v2", Parked
		for j := range t.Pods {
			t.Pods[j].Revision, t.Pods[j].Verified = "v2", "v2"
		}
	}
}

func (w *World) web() *Target       { return &w.Targets[0] }
func (w *World) pod(j int) *Replica { return &w.Targets[0].Pods[j] }
func (w *World) work(ordinals ...int) {
	for _, j := range ordinals {
		w.pod(j).Duty, w.pod(j).Working = Working, "true"
	}
}

// lease gives r a valid lease "L-<pod>" with token 7.
func (r *Replica) lease() *Replica {
	r.Lease = &Lease{ID: "L-" + r.Name, Replica: "ns/" + r.Name, Token: 7, Valid: true, Instance: r.UID}
	return r
}

func (r *Replica) pin() *Replica { r.lease().Lease.Pinned = true; return r }

// note writes the lease on the pod.
func (r *Replica) note() *Replica {
	r.lease().Note, r.Working = Note{ID: r.Lease.ID, Token: r.Lease.Token}, "false"
	return r
}

// grant makes r selected; the partition has to be lowered for it still.
func (r *Replica) grant() *Replica { r.note().Grant = true; return r }

// chosen is selected and marked by Kruise.
func (r *Replica) chosen() *Replica { r.grant().State = StatePreparingUpdate; return r }

// release takes the hold off: the point of no return.
func (r *Replica) release() *Replica {
	r.chosen().Hold, r.Lease.Pinned, r.Verified = false, true, ""
	return r
}

// update is what Kruise and the kubelet make of a released replica.
func (r *Replica) update() *Replica {
	r.release().Revision, r.State = "v2", StateUpdated
	return r
}

// vanish leaves the name without a pod.
func (r *Replica) vanish() *Replica {
	*r = Replica{Name: r.Name, Target: r.Target, Duty: r.Duty, Lease: r.Lease}
	return r
}

// reborn is a new pod under the old name, as Kruise creates it from the template.
func (r *Replica) reborn(revision string) *Replica {
	r.vanish()
	r.Exists, r.UID, r.ResourceVersion, r.Revision, r.State = true, "new-"+r.Name, "n1", revision, StateNormal
	r.Working, r.UpdateDone = "false", true
	return r
}

func (r *Replica) gated(open bool) *Replica {
	r.Gated, r.GateOpen, r.GateClosed, r.GateSince = true, open, !open, now.Add(-10*time.Second)
	return r
}

// lines tells what a decision does, one line for each action.
func lines(d Decision) []string {
	out := make([]string, 0, len(d.Actions))
	for _, a := range d.Actions {
		out = append(out, line(a))
	}
	return out
}

func line(a Action) string {
	switch a := a.(type) {
	case Adopt:
		return "adopt"
	case Acquire:
		names := make([]string, 0, len(a.Candidates))
		for _, c := range a.Candidates {
			names = append(names, c.Replica)
		}
		return fmt.Sprintf("acquire %d of %s", a.Max, strings.Join(names, " "))
	case Handover:
		return fmt.Sprintf("handover from %s to %s", a.From, strings.Join(a.To, " "))
	case ReleaseLease:
		return lineRelease(a)
	case ApplySet:
		s := fmt.Sprintf("apply %s partition %d (%s)", a.Target, a.Partition, a.Why)
		if a.Proven != "" {
			s += " proven " + a.Proven
		}
		if a.Return {
			s += " returning"
		}
		return s
	case WriteTemplate:
		return fmt.Sprintf("template %s partition %d", a.Target, a.Partition)
	case SetCurrentRevision:
		return "currentRevision " + a.Target + " " + a.Revision
	case Disarm:
		return "disarm " + a.Target
	case PatchPod:
		return "patch " + a.Pod + linePatch(a)
	case Commit:
		return fmt.Sprintf("commit %s %s pinned=%t", a.Pod, a.Lease.ID, a.Lease.Pinned)
	case Pin:
		return fmt.Sprintf("pin %s for %s", a.Lease.ID, a.Lease.Instance)
	case Bar:
		return "bar " + a.Target
	case Leave:
		s := "leave"
		for _, b := range a.Bars {
			s += ", " + line(b)
		}
		if a.Untold {
			s += " untold"
		}
		return s
	}
	return fmt.Sprintf("%T", a)
}

func lineRelease(a ReleaseLease) string {
	switch {
	case a.Upgraded:
		return "release " + a.Lease.ID + " upgraded " + a.Revision
	case a.Unused:
		return "release " + a.Lease.ID + " unused"
	}
	return "release " + a.Lease.ID + " undone"
}

func linePatch(p PatchPod) string {
	s := ""
	for _, f := range []struct {
		name string
		v    *bool
	}{{"hold", p.Hold}, {"grant", p.Grant}, {"gate", p.Gate}} {
		if f.v != nil {
			s += fmt.Sprintf(" %s=%t", f.name, *f.v)
		}
	}
	for _, f := range []struct {
		name string
		v    *string
	}{{"working", p.Working}, {"state", (*string)(p.State)}, {"verified", p.Verified}} {
		if f.v != nil {
			s += fmt.Sprintf(" %s=%s", f.name, *f.v)
		}
	}
	if p.Note != nil {
		s += " note=" + p.Note.ID
	}
	if p.Fence != nil {
		s += " fence=" + strconv.FormatInt(*p.Fence, 10)
	}
	return s
}

// test is one decision.
type test struct {
	name    string
	world   func() *World
	want    []string
	reason  Reason
	says    string // in the message
	stalled bool
}

func run(t *testing.T, tests []test) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := Next(tt.world(), now)
			if diff := cmp.Diff(append([]string{}, tt.want...), lines(d)); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
			if d.Reason != tt.reason || d.Stalled != tt.stalled {
				t.Errorf("reason %s stalled %t, want %s %t; message: %s", d.Reason, d.Stalled, tt.reason, tt.stalled, d.Message)
			}
			if !strings.Contains(d.Message, tt.says) {
				t.Errorf("message %q does not say %q", d.Message, tt.says)
			}
		})
	}
}
