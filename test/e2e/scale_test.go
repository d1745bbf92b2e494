package e2e

import (
	"fmt"
	"slices"
	"testing"

	"offduty.dev/test/e2e/harness"
)

// scale changes the number of replicas, and which ordinals are left out.
func (s *stage) scale(replicas int, reserved string) {
	s.t.Helper()
	s.must(s.Patch(s.t.Context(), "asts", harness.Group, fmt.Sprintf(`{"spec":{"replicas":%d,"reserveOrdinals":%s}}`, replicas, reserved)))
}

// exactly wants the plan to be at progress, waiting with reason, exactly these pods to be
// there, and none to be on its way.
func exactly(progress, reason string, ordinals ...int) func(harness.Now) error {
	return func(n harness.Now) error {
		if err := waiting(progress, reason)(n); err != nil {
			return err
		}
		for _, o := range ordinals {
			if _, ok := n.Pods[fmt.Sprintf("sample-%d", o)]; !ok {
				return fmt.Errorf("there is no sample-%d", o)
			}
		}
		if len(n.Pods) != len(ordinals) {
			return fmt.Errorf("there are %d pods", len(n.Pods))
		}
		return quiet(n)
	}
}

func TestScalingDuringAPlan(t *testing.T) {
	s := newStage(t)
	s.begin(harness.Named(0, 2, 4), 3)
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
	s.await("two are upgraded", waiting("2/5", "WaitingForDuty"))
	t.Run("replicas that are added come at the new image, are held, and are verified before they count", func(t *testing.T) {
		s := s.on(t)
		s.scale(7, "[]")
		s.await("four are upgraded", exactly("4/7", "WaitingForDuty", 0, 1, 2, 3, 4, 5, 6))
		s.verifiedUnderALease("sample-5", "sample-6")
	})
	t.Run("an ordinal that is reserved goes, another comes instead", func(t *testing.T) {
		s := s.on(t)
		s.scale(7, "[3]")
		s.await("four are upgraded", exactly("4/7", "WaitingForDuty", 0, 1, 2, 4, 5, 6, 7))
	})
	t.Run("replicas that are taken away count no more", func(t *testing.T) {
		s := s.on(t)
		s.scale(4, "[3]")
		s.await("one is upgraded", exactly("1/4", "WaitingForDuty", 0, 1, 2, 4))
	})
	t.Run("one that is taken away in the middle of its upgrade keeps its lease until its pod is gone", func(t *testing.T) {
		s := s.on(t)
		goOn := s.holdUpdates() // it stays in the middle until it is taken away
		var scaled error
		done := s.History.When(released, func() {
			scaled = s.Patch(t.Context(), "asts", harness.Group, `{"spec":{"replicas":3}}`)
		})
		s.patchRoster(`{"floor":{"minServing":2}}`)
		s.assign(harness.Named(0, 1, 2))
		s.wait("the last one is released", done)
		s.must(scaled)
		s.await("it is gone, and the plan goes on", exactly("1/3", "WaitingForDuty", 0, 1, 2))
		s.leasedUntilGone("sample-4")
		goOn()
	})
	t.Run("and when duty moves, the plan completes", func(t *testing.T) {
		s := s.on(t)
		s.assign(harness.Named(1))
		s.await("the plan is ready", settled)
		for name, p := range s.now().Pods {
			if p.Image != harness.NewImage {
				t.Errorf("%s has %s", name, p.Image)
			}
		}
	})
	t.Run("a replica that is added to a complete plan is held and verified, and nobody else is touched", func(t *testing.T) {
		s := s.on(t)
		s.scale(5, "[]")
		s.await("the plan is ready with five", func(n harness.Now) error {
			if err := settled(n); err != nil {
				return err
			}
			if p := n.Plans[harness.Group]; p.Status.Progress != "5/5" {
				return fmt.Errorf("it is at %s", p.Status.Progress)
			}
			return quiet(n)
		})
	})
}

// verifiedUnderALease wants each pod to have been leased before it was noted as verified.
func (s *stage) verifiedUnderALease(pods ...string) {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	for _, pod := range pods {
		leased := slices.ContainsFunc(e.Rosters, func(r harness.Roster) bool { return leases(r, pod) })
		verified := slices.ContainsFunc(e.Pods, func(p harness.Pod) bool { return p.Name == pod && p.Verified != "" })
		if !leased || !verified {
			s.t.Errorf("%s: leased %t, verified %t", pod, leased, verified)
		}
	}
}

// leases says whether a pod's name was leased at a version of the roster.
func leases(r harness.Roster, pod string) bool {
	for _, l := range r.Status.Leases {
		if l.Replica == pod {
			return true
		}
	}
	return false
}

// leasedUntilGone wants the last lease on a pod's name to have ended after its pod did.
func (s *stage) leasedUntilGone(pod string) {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	var gone, leased int64
	for _, p := range e.Pods {
		if p.Name == pod && p.Gone {
			gone = p.Version
		}
	}
	for _, r := range e.Rosters {
		if leases(r, pod) {
			leased = r.Version
		}
	}
	ended := slices.IndexFunc(e.Rosters, func(r harness.Roster) bool { return r.Version > leased })
	if gone == 0 || leased == 0 || ended < 0 || e.Rosters[ended].Version < gone {
		s.t.Errorf("%s: its pod was gone at version %d, it was leased at %d last:\n%s", pod, gone, leased, e.Story(pod, e.Pods[len(e.Pods)-1].At))
	}
}
