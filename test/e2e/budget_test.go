package e2e

import (
	"testing"
	"time"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/test/e2e/harness"
)

// costs are the upgrader's writes during one rollout.
type costs struct{ pods, sets, statuses int }

func (s *stage) costs(since time.Time) costs {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	var c costs
	for _, w := range e.Writes {
		switch {
		case !w.Ours() || w.At.Before(since):
		case w.Kind == "pods":
			c.pods++
		case w.Kind == "statefulsets":
			c.sets++
		case w.Kind == "upgradeplans" && w.Sub == "status":
			c.statuses++
		}
	}
	return c
}

// batches counts how often the partition was lowered, once for each batch.
func (s *stage) batches(since time.Time) int {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	n, last := 0, int32(parked)
	for _, k := range e.Sets {
		// From parked to exact, with the new template, is no batch.
		if k.At.After(since) && k.Partition < last && last != parked {
			n++
		}
		last = k.Partition
	}
	return n
}

func TestWritesStayWithinTheirBudget(t *testing.T) {
	const replicas = 5
	for _, c := range []struct {
		name   string
		gates  []string
		perPod int
		steps  int // that a replica takes, Upgraded included
	}{
		{name: "without a gate a replica costs at most 4 writes", perPod: 4, steps: 6},
		{name: "with a gate a replica costs at most 6 writes", gates: []string{v1alpha1.InServiceGate}, perPod: 6, steps: 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			s.begin(harness.Slots(0), 0, c.gates...)
			s.apply(harness.PlanManifest(harness.OldImage, "{maxUnavailable: 2}"))
			s.await("the set is taken over", settled)
			begun := time.Now()
			s.apply(harness.PlanManifest(harness.NewImage, "{maxUnavailable: 2}"))
			s.await("the plan is ready", settled)
			took := time.Since(begun)
			got, batches := s.costs(begun), s.batches(begun)
			t.Logf("%d replicas in %d batches, %s: %d writes to pods (%.1f per replica), %d to the set (%.1f per batch), %d of the plan's status (%.1f per batch)",
				replicas, batches, took.Round(time.Millisecond), got.pods, float64(got.pods)/replicas,
				got.sets, float64(got.sets)/float64(batches), got.statuses, float64(got.statuses)/float64(batches))
			for _, b := range []struct {
				what     string
				got, max int
			}{
				{"to pods", got.pods, c.perPod * replicas},
				{"to the set", got.sets, 2 * batches},
				{"of the plan's status", got.statuses, c.steps * batches},
			} {
				if b.got > b.max {
					t.Errorf("%d writes %s, more than %d", b.got, b.what, b.max)
				}
			}
		})
	}
}
