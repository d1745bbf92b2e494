package e2e

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// fate is what an upgrade in place may or may not change of a pod.
type fate struct {
	Image      string
	SameUID    bool
	Restarts   int32
	NewImageID bool
}

// fates compares the pods of now with those of before.
func fates(before map[string]harness.Pod, now harness.Now) map[string]fate {
	out := map[string]fate{}
	for name, p := range now.Pods {
		out[name] = fate{
			Image: p.Image, SameUID: p.UID == before[name].UID, Restarts: p.Restarts(),
			NewImageID: p.ImageID() != before[name].ImageID(),
		}
	}
	return out
}

// upgraded is what fates should be when exactly these ordinals were upgraded once.
func upgraded(ordinals ...int) map[string]fate {
	out := map[string]fate{}
	for i := range 5 {
		out[fmt.Sprintf("sample-%d", i)] = fate{Image: harness.OldImage, SameUID: true}
	}
	for _, o := range ordinals {
		out[fmt.Sprintf("sample-%d", o)] = fate{Image: harness.NewImage, SameUID: true, Restarts: 1, NewImageID: true}
	}
	return out
}

const parked = harness.Parked

func (s *stage) check(before map[string]harness.Pod, want map[string]fate, partition int32) {
	s.t.Helper()
	now := s.now()
	if diff := cmp.Diff(want, fates(before, now)); diff != "" {
		s.t.Errorf("the pods (-want +got):\n%s", diff)
	}
	if got := now.Sets[harness.Group].Partition; got != partition {
		s.t.Errorf("the partition is %d, not %d", got, partition)
	}
}

// handovers counts how often each replica lost its duty since its first n shifts.
func handovers(shifts []harness.Shift) map[string]int {
	out := map[string]int{}
	for _, s := range shifts {
		if !s.To.IsZero() {
			out[s.Pod]++
		}
	}
	return out
}

// checkRunByItself wants every replica upgraded a second time, with at most one handover
// from each since the first begun shifts.
func (s *stage) checkRunByItself(before map[string]harness.Pod, begun int) {
	s.t.Helper()
	for name, n := range handovers(s.Attendants.Shifts()[begun:]) {
		if n > 1 {
			s.t.Errorf("%s lost its duty %d times", name, n)
		}
	}
	for name, got := range fates(before, s.now()) {
		want := fate{Image: "alpine:3.19.0", SameUID: true, Restarts: 2, NewImageID: true}
		if diff := cmp.Diff(want, got); diff != "" {
			s.t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestTheWorkedExample(t *testing.T) {
	s := newStage(t)
	s.followsTheModel()
	before := s.begin(harness.Named(0, 2, 4), 3)
	t.Run("replicas 1 and 3, which are off duty, are upgraded in place, the others untouched, partition 3", func(t *testing.T) {
		s := s.on(t)
		s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
		s.await("two are upgraded", waiting("2/5", "WaitingForDuty"))
		s.check(before, upgraded(1, 3), 3)
	})
	t.Run("when duty is with 0, 1 and 2, replica 4 is upgraded, partition 2", func(t *testing.T) {
		s := s.on(t)
		s.assign(harness.Named(0, 1, 2))
		s.await("three are upgraded", waiting("3/5", "WaitingForDuty"))
		s.check(before, upgraded(1, 3, 4), 2)
	})
	t.Run("when duty moves on, all are upgraded, the partition is parked and the plan is ready", func(t *testing.T) {
		s := s.on(t)
		s.assign(harness.Named(1, 3, 4))
		s.await("the plan is ready", settled)
		s.check(before, upgraded(0, 1, 2, 3, 4), parked)
	})
	t.Run("the same plan with handover Request runs to its end by itself, with at most one handover per replica", func(t *testing.T) {
		s := s.on(t)
		s.assign(harness.Slots(3))
		s.awaitWorking(3)
		begun := len(s.Attendants.Shifts()) - 3
		s.apply(harness.PlanManifest("alpine:3.19.0", "{handover: Request, maxUnavailable: 2}"))
		s.await("the plan is ready", settled)
		s.checkRunByItself(before, begun)
	})
	t.Run("all of it by the service accounts of the manifests: the administrator wrote the set once, and no pod", func(t *testing.T) {
		s := s.on(t)
		e, err := s.Evidence(t.Context())
		s.must(err)
		type tally struct{ Releases, AdminSets, AdminPods int }
		var got tally
		for _, w := range e.Writes {
			byAdmin := w.User == controlplane.Admin().Username()
			switch {
			case w.Ours() && w.Hold != nil && !*w.Hold:
				got.Releases++
			case byAdmin && w.Kind == "statefulsets":
				got.AdminSets++
			case byAdmin && w.Kind == "pods":
				got.AdminPods++
			}
		}
		if diff := cmp.Diff(tally{Releases: 10, AdminSets: 1}, got); diff != "" {
			t.Errorf("the writes (-want +got):\n%s", diff)
		}
	})
}
