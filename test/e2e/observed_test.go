package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	arbiterclient "offduty.dev/arbiter/client"
	"offduty.dev/test/e2e/harness"
)

// voters is an application that decides by itself who works, and shows it in a label.
type voters struct {
	*stage
	shifts []harness.Shift
}

// label writes the label of a replica. It works from before that is begun until it is done.
func (v *voters) label(pod, role string) {
	v.t.Helper()
	i := slices.IndexFunc(v.shifts, func(s harness.Shift) bool { return s.Pod == pod && s.To.IsZero() })
	if role == "primary" && i < 0 {
		v.shifts = append(v.shifts, harness.Shift{Pod: pod, UID: v.History.Now().Pods[pod].UID, From: time.Now()})
	}
	_, err := v.Kubectl(v.t.Context(), "", "label", "pod", pod, "--namespace", v.Namespace, "--overwrite", "role="+role)
	v.must(err)
	if role != "primary" && i >= 0 {
		v.shifts[i].To = time.Now()
	}
}

// work moves duty to these ordinals: first everybody else stops.
func (v *voters) work(ordinals ...int) {
	v.t.Helper()
	for i := range 5 {
		if !slices.Contains(ordinals, i) {
			v.label(fmt.Sprintf("sample-%d", i), "replica")
		}
	}
	for _, o := range ordinals {
		v.label(fmt.Sprintf("sample-%d", o), "primary")
	}
}

// says wants the roster to show who works, and why it is ready or not.
func says(working, reason string) func(harness.Now) error {
	return func(n harness.Now) error {
		s := n.Rosters[harness.Group].Status
		for _, c := range s.Conditions {
			if c.Type == "Ready" && c.Reason == reason && s.Working == working {
				return nil
			}
		}
		return fmt.Errorf("%q work: %+v", s.Working, s.Conditions)
	}
}

const threeByRole = `{workers: 3, pods: {working: 'has(object.metadata.labels.role) && object.metadata.labels.role == "primary"'}}`

func TestTheWorkedExampleOfAnObservedRoster(t *testing.T) {
	s := newStage(t)
	v := &voters{stage: s}
	s.apply(harness.ObservedManifest(`{workers: 3, pods: {working: 'object.metadata.lables.role == "primary"'}}`))
	s.await("the mistake is shown", says("", "InvalidSource"))
	s.apply(harness.ObservedManifest(threeByRole))
	s.apply(harness.SetManifest())
	s.awaitFive(true)
	before := s.now().Pods
	s.await("nobody is idle before anybody works", says("", "Unsettled"))
	v.work(0, 2, 4)
	s.await("three work", says("sample-0,sample-2,sample-4", "OnDuty"))
	for _, step := range []struct {
		name     string
		do       func(v *voters)
		await    func(harness.Now) error
		upgraded []int
		parts    int32
	}{
		{
			"replicas 1 and 3, which are seen to be idle, are upgraded in place, the others untouched",
			func(v *voters) {
				v.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
			}, waiting("2/5", "WaitingForDuty"),
			[]int{1, 3},
			3,
		},
		{
			"with a fourth that is seen to work nobody is idle, and nothing goes on",
			func(v *voters) {
				v.label("sample-1", "primary")
				v.await("four work", says("sample-0,sample-1,sample-2,sample-4", "Unsettled"))
			}, waiting("2/5", "WaitingForDuty"),
			[]int{1, 3},
			3,
		},
		{
			"when the application has moved duty to 0, 1 and 2, replica 4 is upgraded",
			func(v *voters) { v.label("sample-4", "replica") }, waiting("3/5", "WaitingForDuty"),
			[]int{1, 3, 4},
			2,
		},
		{
			"when duty moves on, all are upgraded", func(v *voters) { v.work(1, 3, 4) },
			settled,
			[]int{0, 1, 2, 3, 4},
			parked,
		},
	} {
		t.Run(step.name, func(t *testing.T) {
			on := s.on(t)
			v.stage = on
			step.do(v)
			on.await("it is so", step.await)
			on.check(before, upgraded(step.upgraded...), step.parts)
		})
	}
	t.Run("nobody who worked was disturbed, and everything was leased and pinned", func(t *testing.T) {
		on := s.on(t)
		e, err := on.Evidence(t.Context())
		on.must(err)
		e.Shifts = v.shifts
		for _, violation := range append(e.Prove(), e.ProveGuards()...) {
			t.Error(violation)
		}
		if n := len(e.Shifts); n < 6 {
			t.Errorf("the proof knows of %d shifts only", n)
		}
	})
	t.Run("a replica that is called to duty between lease and pin is not pinned", func(t *testing.T) {
		v.stage = s.on(t)
		v.calledBeforeThePin()
	})
}

// calledBeforeThePin leases idle replicas as another holder, and pins each as soon as the
// application has called it to duty. No cache can know of that yet.
func (v *voters) calledBeforeThePin() {
	t := v.t
	t.Helper()
	k, err := v.Arbiter("upgrader")
	v.must(err)
	defer k.Close()
	group := v.Namespace + "/" + harness.Group
	adopted, no, err := k.Adopt(t.Context(), group, "somebody-else", 1, "e2e", nil)
	v.must(err)
	if no != nil {
		t.Fatal(no)
	}
	for round := range 3 {
		v.work(1, 3, 4)
		v.await("three work", says("sample-1,sample-3,sample-4", "OnDuty"))
		pod := v.now().Pods["sample-0"]
		got, no, err := k.Acquire(t.Context(), arbiterclient.AcquireRequest{
			Group: group, Holder: "somebody-else", Token: adopted.Token, RequestID: fmt.Sprint(round), Max: 1, TTL: time.Minute,
			Candidates: []arbiterclient.Candidate{{Replica: v.Namespace + "/sample-0", Instance: pod.UID}},
		})
		v.must(err)
		if no != nil || len(got.Leases) != 1 {
			t.Fatalf("no lease: %v, %+v", no, got)
		}
		ref := arbiterclient.LeaseRef{ID: got.Leases[0].ID, Token: got.Leases[0].Token}
		v.label("sample-1", "replica")
		v.label("sample-0", "primary")
		_, no, err = k.Pin(t.Context(), group, ref, pod.UID)
		v.must(err)
		if no == nil || no.Reason != arbiterclient.ReasonNotIdle {
			t.Fatalf("round %d: a replica that works was pinned: %v", round, no)
		}
		if diff := cmp.Diff("duty: idle", no.Rule); diff != "" {
			t.Error(diff)
		}
		v.await("it is shown", says("sample-0,sample-3,sample-4", "CalledToDuty"))
		if no, err := k.Release(t.Context(), group, ref, arbiterclient.Undone, ""); err != nil || no != nil {
			t.Fatal(no, err)
		}
	}
}
