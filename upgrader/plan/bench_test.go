package plan

import (
	"math"
	"testing"
)

// most is the number of replicas for which the planner has a budget: 1 ms, and no
// allocation for a replica that does not move.
const most = 10_000

// big is a rollout of which half is done, with one replica on its way and everybody
// else working, waiting or upgraded.
func big(n int) *World {
	w := rollout(n)
	for j := range n {
		r := w.pod(j)
		switch {
		case j < n/2:
			r.Revision, r.Verified = "v2", "v2"
			if j%2 == 0 {
				r.Duty, r.Working = Working, "true"
			}
		case j%3 == 0:
			r.Duty, r.Working = Working, "true"
		}
	}
	w.pod(n - 1).release()
	w.web().Partition = int32(n - n/2 - 1) //nolint:gosec // a small number
	return w
}

func BenchmarkNext(b *testing.B) {
	for _, bb := range []struct {
		name  string
		world *World
	}{
		{"half of a rollout done", big(most)},
		{"complete", func() *World { w := rollout(most); w.complete(); return w }()},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Next(bb.world, now)
			}
		})
	}
}

func TestAllocationsDoNotGrowWithReplicasThatDoNotMove(t *testing.T) {
	// The fewest of several: with the race detector a sync.Pool, as fmt has one, forgets at random.
	count := func(w *World) float64 {
		fewest := math.Inf(1)
		for range 30 {
			fewest = min(fewest, testing.AllocsPerRun(1, func() { Next(w, now) }))
		}
		return fewest
	}
	small, large := count(big(100)), count(big(most))
	if large > small {
		t.Errorf("%v allocations for %d replicas, %v for 100", large, most, small)
	}
}
