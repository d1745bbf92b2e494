package source_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/source"
)

// script is a source that says of each member what the test wants.
type script struct {
	asked atomic.Int32
	mu    sync.Mutex
	says  map[string]roster.Duty
	took  time.Duration
}

func (s *script) say(name string, d roster.Duty) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.says[name] = d
}

// takes is how long it takes to answer.
func (s *script) takes(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took = d
}

func (s *script) See(ctx context.Context, members map[string]application.Member) map[string]roster.Sight {
	s.asked.Add(1)
	s.mu.Lock()
	out, took := map[string]roster.Sight{}, s.took
	for name, m := range members {
		out[name] = roster.Sight{Instance: m.Instance, Duty: s.says[name], Why: "so"}
	}
	// A lock that is held while the bubble's clock stands would stop it.
	s.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
	}
	return out
}

// probing is a prober of db-0, which is idle, in a bubble with a clock of its own.
type probing struct {
	*script
	*source.Prober
	t       *testing.T
	changes atomic.Int32
}

func inProbe(t *testing.T, spec v1alpha1.Probing, test func(p *probing)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &probing{script: &script{says: map[string]roster.Duty{"db-0": roster.Idle}}, t: t}
		p.Prober = source.NewProber(p.script, spec, time.Now, func() { p.changes.Add(1) })
		p.db0("u0")
		go p.Run(t.Context())
		synctest.Wait()
		test(p)
	})
}

// db0 is what is known of db-0.
func (p *probing) db0(instance string) roster.Sight {
	return p.Follow(map[string]application.Member{"db-0": {Name: "db-0", Instance: instance}})["db-0"]
}

func (p *probing) wants(d roster.Duty) {
	p.t.Helper()
	if got := p.db0("u0"); got.Duty != d {
		p.t.Errorf("db-0 is %s (%s), not %s", got.Duty, got.Why, d)
	}
}

func (p *probing) pass(d time.Duration) {
	time.Sleep(d) // the bubble's clock
	synctest.Wait()
}

// again waits until it has asked n times more; a pass may see one or two.
func (p *probing) again(n int32) {
	for until := p.asked.Load() + n; p.asked.Load() < until; {
		p.pass(50 * time.Millisecond)
	}
}

var everyTwo = v1alpha1.Probing{PeriodSeconds: 2, TimeoutSeconds: 1, MaxAgeSeconds: 10, SuccessThreshold: 1, FailureThreshold: 1}

func TestAProberAsksAgainAndSaysWhenItIsDifferent(t *testing.T) {
	inProbe(t, everyTwo, func(p *probing) {
		p.wants(roster.Idle)
		p.pass(20 * time.Second)
		if p.asked.Load() < 10 || p.asked.Load() > 13 {
			p.t.Errorf("it asked %d times in 20 s", p.asked.Load())
		}
		if p.changes.Load() != 1 {
			p.t.Errorf("it said %d times that something had changed", p.changes.Load())
		}
		p.say("db-0", roster.Working)
		p.pass(2 * time.Second)
		p.wants(roster.Working)
		if p.changes.Load() != 2 {
			p.t.Errorf("it said %d times that something had changed", p.changes.Load())
		}
		p.say("db-0", roster.Unknown)
		p.pass(2 * time.Second)
		p.wants(roster.Unknown)
	})
}

func TestAnAnswerAgesFromTheQuestion(t *testing.T) {
	inProbe(t, everyTwo, func(p *probing) {
		p.takes(time.Second)
		p.pass(10 * time.Second)
		began := time.Now()
		got := p.Look(p.t.Context(), map[string]application.Member{"db-0": {Name: "db-0", Instance: "u0"}})["db-0"]
		if !got.Until.Equal(began.Add(10 * time.Second)) {
			p.t.Errorf("it is believed for %s", got.Until.Sub(began))
		}
	})
}

func TestOneThatIsNewIsAskedAtOnce(t *testing.T) {
	inProbe(t, everyTwo, func(p *probing) {
		if got := p.db0("u1"); got.Duty != roster.Unknown || got.Why != "it was not asked yet" {
			p.t.Errorf("of a new instance: %+v", got)
		}
		synctest.Wait()
		if got := p.db0("u1"); got.Duty != roster.Idle || got.Instance != "u1" {
			p.t.Errorf("of a new instance: %+v", got)
		}
	})
}

func TestIdleIsBelievedWhenItWasSaidOftenEnough(t *testing.T) {
	spec := everyTwo
	spec.SuccessThreshold = 3
	inProbe(t, spec, func(p *probing) {
		p.wants(roster.Unknown)
		p.again(1)
		p.wants(roster.Unknown)
		p.again(1)
		p.wants(roster.Idle)
		p.say("db-0", roster.Working)
		p.again(1)
		p.wants(roster.Working)
		p.say("db-0", roster.Idle)
		p.again(1)
		p.wants(roster.Unknown)
		p.again(2)
		p.wants(roster.Idle)
	})
}

func TestAFailureIsOverlookedAsOftenAsDeclaredButNotByALook(t *testing.T) {
	spec := everyTwo
	spec.FailureThreshold = 3
	inProbe(t, spec, func(p *probing) {
		p.say("db-0", roster.Unknown)
		p.again(2)
		p.wants(roster.Idle)
		all := map[string]application.Member{"db-0": {Name: "db-0", Instance: "u0"}}
		if got := p.Look(p.t.Context(), all)["db-0"]; got.Duty != roster.Unknown {
			p.t.Errorf("a look shows %+v", got)
		}
		p.wants(roster.Unknown) // that was the third
		p.say("db-0", roster.Idle)
		if got := p.Look(p.t.Context(), all)["db-0"]; got.Duty != roster.Idle {
			p.t.Errorf("a look shows %+v", got)
		}
		p.wants(roster.Idle)
	})
}

func TestASourceThatLeavesOneOutOrHangs(t *testing.T) {
	inProbe(t, everyTwo, func(p *probing) {
		p.takes(time.Hour)
		began := time.Now()
		p.Look(p.t.Context(), map[string]application.Member{"db-0": {Name: "db-0", Instance: "u0"}})
		if d := time.Since(began); d > 3*time.Second {
			p.t.Errorf("a look took %s", d)
		}
	})
}
