package e2e

import (
	"context"
	"testing"

	"offduty.dev/test/e2e/harness"
)

func TestDutyMayBeAskedToMoveAllTheTime(t *testing.T) {
	for _, c := range []struct {
		name     string
		named    bool
		assigned string
		workers  int
		strategy string
	}{
		{
			name:  "workers are named anew as fast as possible: no worker is disturbed, and all replicas end upgraded",
			named: true, assigned: harness.Named(0, 2, 4), workers: 3, strategy: "{handover: Wait, maxUnavailable: 2}",
		},
		{
			name:     "the number of workers changes as fast as possible: no worker is disturbed, and all replicas end upgraded",
			assigned: harness.Slots(3), workers: 3, strategy: "{handover: Request, maxUnavailable: 2}",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			before := s.begin(c.assigned, c.workers)
			f, err := s.Flip(t.Context(), c.named, 1)
			if err != nil {
				t.Fatal(err)
			}
			s.apply(harness.PlanManifest(harness.NewImage, c.strategy))
			// Whoever is asked to work all the time is seldom idle for long enough: on a loaded machine
			// that is a matter of luck, and so of time.
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			s.must(s.History.Await(ctx, "the plan is ready", settled))
			flips, problems := f.Stop()
			if len(problems) > 0 || flips == 0 {
				t.Errorf("duty was flipped %d times, and these failed: %v", flips, problems)
			}
			s.check(before, upgraded(0, 1, 2, 3, 4), parked)
			t.Logf("duty was asked to move %d times; the application had %d shifts", flips, len(s.Attendants.Shifts()))
		})
	}
}
