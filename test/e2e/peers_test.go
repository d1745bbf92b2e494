package e2e

import (
	"testing"

	"offduty.dev/test/e2e/harness"
)

// Races that others had, and what we do instead. docs/develop.md says which of them are in
// other tests.

// kruise #1183: one pod was being prepared for its update and had left service when another
// one was lost. That one came back new, the partition was satisfied by it, and the first stayed
// out of service for good.
//
// Here the partition is exact: the one that was lost counts, and so does the one selected.
func TestALostPodThatComesBackNewStrandsNobody(t *testing.T) {
	s := newStage(t)
	s.begin(harness.Named(0, 2, 4), 3)
	other := map[string]string{"sample-1": "sample-3", "sample-3": "sample-1"}
	var selected string
	var lost error
	done := s.History.When(func(n harness.Now) (ok bool) {
		selected, ok = harness.StepOf("selected").Seen(n, harness.NewImage)
		return ok
	}, func() { lost = s.remove("pod/" + other[selected]) })
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 1}"))
	s.wait("a replica is selected", done)
	s.must(lost)
	s.await("both are upgraded, and nothing is under way", func(n harness.Now) error {
		if err := waiting("2/5", "WaitingForDuty")(n); err != nil {
			return err
		}
		return quiet(n)
	})
	s.checkImages(3, "3.18.2", "3.18.0", "3.18.2", "3.18.0", "3.18.2")
	s.assign(harness.Named(1, 3))
	s.await("the plan is ready", settled)
	s.guarded()
}

// KubeBlocks #10186: the labels that tell the roles were lost, and with them the order of
// updates and the knowledge of who may be touched.
//
// Here labels only order and inform. Duty is the arbiter's.
func TestLostRoleLabelsCostNoWorkerAnything(t *testing.T) {
	s := newStage(t)
	before := s.begin(harness.Named(0, 2, 4), 3)
	var lost error
	done := s.History.When(func(n harness.Now) bool {
		_, ok := harness.StepOf("selected").Seen(n, harness.NewImage)
		return ok
	}, func() {
		_, lost = s.Kubectl(t.Context(), "", "label", "pods", "--all", "--namespace", s.Namespace, "working-")
	})
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
	s.wait("a replica is selected", done)
	s.must(lost)
	s.await("those off duty are upgraded", waiting("2/5", "WaitingForDuty"))
	s.check(before, upgraded(1, 3), 3)
	_, err := s.Kubectl(t.Context(), "", "label", "pods", "--all", "--namespace", s.Namespace, "--overwrite", "working=false")
	s.must(err)
	s.assign(harness.Named(0, 2, 1))
	s.await("the one that is off duty now is upgraded", waiting("3/5", "WaitingForDuty"))
	s.check(before, upgraded(1, 3, 4), 2)
	s.assign(harness.Named(1, 3, 4))
	s.await("the plan is ready", settled)
	s.check(before, upgraded(0, 1, 2, 3, 4), harness.Parked)
	s.guarded()
}

// guarded wants everything that was done so far to have been done under leases and pins.
func (s *stage) guarded() {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	for _, v := range e.ProveGuards() {
		s.t.Error(v)
	}
}
