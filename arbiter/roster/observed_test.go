package roster_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/arbiter/roster"
)

// observe makes the roster an observed one, in which web-0 and web-1 work.
func (b *bench) observe(workers int) *bench {
	b.config = roster.Config{Observed: &roster.Observed{Workers: workers}}
	for name := range b.pods {
		b.sight(name, roster.Idle)
	}
	return b.sight("web-0", roster.Working).sight("web-1", roster.Working)
}

// sight is what the source says of a pod from now on.
func (b *bench) sight(name string, d roster.Duty) *bench {
	return b.pod(name, func(p *roster.Pod) { p.Sight = roster.Sight{Instance: p.Instance, Duty: d} })
}

func TestStepOfAnObservedRoster(t *testing.T) {
	tests := map[string]struct {
		workers int
		do      func(b *bench)
		want    string
	}{
		"who is seen to work has duty":                           {2, func(b *bench) { b.step(0) }, "0* 1*"},
		"duty moves as it is seen to move":                       {2, func(b *bench) { b.step(0).sight("web-0", roster.Idle).sight("web-4", roster.Working).step(0) }, "1* 4*"},
		"any number works if none is expected":                   {0, func(b *bench) { b.sight("web-2", roster.Working).step(0) }, "0* 1* 2*"},
		"one more than expected: nobody is idle":                 {2, func(b *bench) { b.sight("web-2", roster.Working).step(0) }, "0* 1* 2* 3? 4?"},
		"one fewer than expected: nobody is idle":                {2, func(b *bench) { b.sight("web-0", roster.Idle).step(0) }, "0? 1* 2? 3? 4?"},
		"nobody works: nobody is idle":                           {2, func(b *bench) { b.sight("web-0", roster.Idle).sight("web-1", roster.Idle).step(0) }, "0? 1? 2? 3? 4?"},
		"one of whom nothing is said is unknown":                 {2, func(b *bench) { b.pod("web-3", func(p *roster.Pod) { p.Sight = roster.Sight{} }).step(0) }, "0* 1* 3?"},
		"one whose source fails is unknown":                      {2, func(b *bench) { b.sight("web-3", roster.Unknown).step(0) }, "0* 1* 3?"},
		"a worker whose source fails may work, and is the fewer": {2, func(b *bench) { b.step(0).sight("web-0", roster.Unknown).step(0) }, "0*? 1* 2? 3? 4?"},
		"without an expected number the others stay idle":        {0, func(b *bench) { b.step(0).sight("web-0", roster.Unknown).step(0) }, "0*? 1*"},
		"a word that is not understood is unknown":               {2, func(b *bench) { b.sight("web-3", "Sleeping").step(0) }, "0* 1* 3?"},
		"a sight of an earlier instance is none": {2, func(b *bench) {
			b.pod("web-3", func(p *roster.Pod) { p.Instance = "new" }).step(0)
		}, "0* 1* 3?"},
		"a member without a pod is unknown": {0, func(b *bench) {
			b.step(0)
			delete(b.pods, "web-3")
			b.step(0)
		}, "0* 1* 3?"},
		"a member without a pod is forgotten in time, whatever it did": {0, func(b *bench) {
			b.step(0)
			delete(b.pods, "web-0")
			b.step(0).step(10 * time.Minute)
		}, "1*"},
		"a sight is believed while it is young": {2, func(b *bench) {
			b.pod("web-3", func(p *roster.Pod) { p.Sight.Until = start.Add(10 * time.Second) }).step(9 * time.Second)
		}, "0* 1*"},
		"a sight that is too old is none": {2, func(b *bench) {
			b.pod("web-3", func(p *roster.Pod) { p.Sight.Until = start.Add(10 * time.Second) }).step(0).step(10 * time.Second)
		}, "0* 1* 3?"},
		"one that is leased works if it is seen to": {0, func(b *bench) {
			b.leased["web-3"] = true
			b.step(0).sight("web-3", roster.Working).step(0)
		}, "0* 1* 3*"},
		"while the record is lost nobody is idle": {2, func(b *bench) {
			b.frozen = true
			b.step(0)
		}, "0? 1? 2? 3? 4?"},
		"nobody is given duty when all have lost it": {2, func(b *bench) {
			for n := range b.pods {
				b.sight(n, roster.Idle)
			}
			b.step(0).step(time.Hour)
		}, "0? 1? 2? 3? 4?"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 3).observe(tt.workers)
			tt.do(b)
			if got := b.duties(); got != tt.want {
				t.Errorf("got %q, want %q\n%s", got, tt.want, cmp.Diff(nil, b.record.Members))
			}
		})
	}
}

func TestWhatIsNotedOfAnObservedRoster(t *testing.T) {
	b := newBench(t, 0).observe(2)
	b.leased["web-1"] = true
	b.pod("web-3", func(p *roster.Pod) { p.Sight = roster.Sight{Instance: p.Instance, Why: "no such key: role"} })
	b.pod("web-4", func(p *roster.Pod) { p.Sight.Until = b.now.Add(time.Minute) }).step(0)
	want := roster.Notes{
		Wanted: 2, Assigned: 2, Working: []string{"web-0", "web-1"}, Called: []string{"web-1"},
		Unknown: []string{"web-3"}, WhyUnknown: "no such key: role",
	}
	if diff := cmp.Diff(want, b.notes); diff != "" {
		t.Error(diff)
	}
	if !b.next.Equal(b.now.Add(time.Minute)) {
		t.Errorf("the next look is at %s", b.next)
	}
	b.sight("web-2", roster.Working).step(0)
	if diff := cmp.Diff("the application is not settled: 3 seen to work, not 2", b.notes.Unsettled); diff != "" {
		t.Error(diff)
	}
}

func TestDutyThatIsObservedDoesNotMoveWhenAsked(t *testing.T) {
	b := newBench(t, 0).observe(2).step(0)
	if _, got := roster.RequestHandover(&b.record, b.memory, b.input(), "web-0", []string{"web-3"}); got != roster.RefusedObserved {
		t.Errorf("the answer is %d", got)
	}
}

// FuzzObserved drives an observed roster at random and checks who may be idle.
func FuzzObserved(f *testing.F) {
	f.Add(uint8(2), []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Add(uint8(0), []byte{10, 3, 0, 9, 33, 12, 90, 8, 200, 17, 6, 6, 42, 9, 9, 9})
	f.Fuzz(func(t *testing.T, workers uint8, steps []byte) {
		b := newBench(t, 0).observe(int(workers % 4)).step(0)
		for i, s := range steps {
			if i > 300 {
				return
			}
			before := b.record.Clone()
			b.shakeSights(s)
			b.step(0)
			b.checkObserved(before, i)
		}
	})
}

func (b *bench) shakeSights(s byte) {
	name := []string{"web-0", "web-1", "web-2", "web-3", "web-4"}[s/8%5]
	p, ok := b.pods[name]
	switch s % 8 {
	case 0:
		delete(b.pods, name)
		return
	case 1:
		p, ok = roster.Pod{Instance: p.Instance + "'", Sight: p.Sight}, true
	case 2:
		p.Sight = roster.Sight{Instance: p.Instance, Duty: roster.Idle}
	case 3:
		p.Sight = roster.Sight{Instance: p.Instance, Duty: roster.Working}
	case 4:
		p.Sight = roster.Sight{Instance: p.Instance, Duty: roster.Unknown}
	case 5:
		p.Sight.Until = b.now.Add(time.Duration(s) * time.Second)
	case 6:
		b.now = b.now.Add(time.Duration(s) * time.Second)
	case 7:
		b.leased[name] = !b.leased[name]
	}
	if ok {
		b.pods[name] = p
	}
}

//nolint:gocognit // a list of invariants
func (b *bench) checkObserved(before roster.Record, step int) {
	b.t.Helper()
	working := 0
	for _, m := range b.record.Members {
		if m.Duty == roster.Working {
			working++
		}
	}
	for n, m := range b.record.Members {
		p, exists := b.pods[n]
		old, known := before.Members[n]
		says := roster.Duty("")
		if o := p.Sight; exists && o.Instance == p.Instance && (o.Until.IsZero() || o.Until.After(b.now)) {
			says = o.Duty
		}
		switch {
		case m.Assigned && m.Duty == roster.Idle, m.Duty == roster.Working && !m.Assigned:
			b.t.Fatalf("step %d: %s is %+v", step, n, m)
		case m.Duty == roster.Working != (says == roster.Working), m.Duty == roster.Idle && says != roster.Idle:
			b.t.Fatalf("step %d: %s is %s, and the source says %q", step, n, m.Duty, says)
		case m.Duty == roster.Idle && b.config.Observed.Workers > 0 && working != b.config.Observed.Workers:
			b.t.Fatalf("step %d: %s is idle while %d work", step, n, working)
		case known && m.Generation < old.Generation, known && m.Assigned != old.Assigned && m.Generation == old.Generation:
			b.t.Fatalf("step %d: %s goes from %+v to %+v", step, n, old, m)
		case !slices.Contains([]roster.Duty{roster.Working, roster.Idle, roster.Unknown}, m.Duty):
			b.t.Fatalf("step %d: the duty of %s is %q", step, n, m.Duty)
		}
	}
}
