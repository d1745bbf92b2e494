package e2e

import (
	"fmt"
	"testing"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/test/e2e/harness"
)

func TestPodsWithOurReadinessGateAreDrainedFirst(t *testing.T) {
	s := newStage(t)
	s.followsTheModel()
	before := s.begin(harness.Named(0, 2, 4), 3, v1alpha1.InServiceGate)
	t.Run("their gates are opened when a plan takes them over, and they become ready", func(t *testing.T) {
		s := s.on(t)
		s.apply(harness.PlanManifest(harness.OldImage, "{handover: Wait, maxUnavailable: 2}"))
		s.await("all pods are in service", inService)
		s.await("the plan is ready", settled)
	})
	t.Run("only the idle ones are drained and upgraded", func(t *testing.T) {
		s := s.on(t)
		s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
		s.await("two are upgraded", waiting("2/5", "WaitingForDuty"))
		s.check(before, upgraded(1, 3), 3)
	})
	t.Run("all are upgraded when duty has moved", func(t *testing.T) {
		s := s.on(t)
		s.assign(harness.Named(1, 3))
		s.await("the plan is ready", settled)
		s.check(before, upgraded(0, 1, 2, 3, 4), parked)
		s.await("all pods are in service again", inService)
	})
	t.Run("each hold was released only when its pod was not ready any more", func(t *testing.T) {
		s.on(t).releasedOutOfService(5)
	})
}

// inService wants every gate to be open.
func inService(n harness.Now) error {
	for _, p := range n.Pods {
		if p.Gate != "True" || !p.Ready {
			return fmt.Errorf("%s is not: %s", p.Name, harness.Describe(p))
		}
	}
	return nil
}

// releasedOutOfService wants so many holds to have been released, each of a pod that was
// not ready any more because its gate was closed.
func (s *stage) releasedOutOfService(want int) {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	last, released := map[string]harness.Pod{}, 0
	for _, p := range e.Pods {
		b := last[p.Name]
		last[p.Name] = p
		if !b.Hold || p.Hold {
			continue
		}
		released++
		if b.Ready || b.Gate != "False" {
			s.t.Errorf("%s was released while it was in service:\n%s", p.Name, e.Story(p.Name, p.At))
		}
	}
	if released != want {
		s.t.Errorf("%d holds were released, not %d", released, want)
	}
}
