package sim

import (
	"testing"
	"time"
)

// BenchmarkSteps measures a step, and each kind of event apart: how often it comes, what it
// costs when it delivers something, and what the ticks cost that deliver nothing. The checks
// of the promises are part of each tick.
func BenchmarkSteps(b *testing.B) {
	type cost struct {
		n    int
		time time.Duration
	}
	kinds, idle := make([]cost, len(events)), cost{}
	for seed := uint64(1); b.Loop(); seed++ {
		s := newSim(newDice(seed, 0), func(s *Sim) { s.draw(Nothing) }, false)
		for s.ticks < Troubled && s.err == nil {
			began := time.Now()
			kind, delivered := s.Tick()
			to := &idle
			if delivered {
				to = &kinds[kind]
			}
			to.n++
			to.time += time.Since(began)
		}
		s.stop()
	}
	all := idle
	for i, k := range kinds {
		all.n, all.time = all.n+k.n, all.time+k.time
		if k.n > 0 {
			b.Logf("%9d × %6d ns  %s", k.n, k.time.Nanoseconds()/int64(k.n), events[i].name)
		}
	}
	b.Logf("%9d × %6d ns  idle", idle.n, idle.time.Nanoseconds()/int64(max(1, idle.n)))
	steps := all.n - idle.n
	b.ReportMetric(float64(all.time.Nanoseconds())/float64(max(1, steps)), "ns/step")
	b.ReportMetric(float64(steps)/all.time.Minutes()/1e6, "Msteps/min")
	b.ReportMetric(0, "ns/op") // an op is a seed, of which nobody asks how long it takes
}
