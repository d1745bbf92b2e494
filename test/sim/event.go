package sim

import "time"

// event is what a tick may deliver to an actor.
type event struct {
	name string
	// weight is how many of 100 ticks choose it.
	weight int
	// deliver says whether there was anything to deliver. A tick that had nothing for the
	// actor that it chose (no news in its watch, nothing to start for a kubelet, a
	// reconciliation of what was reconciled before that finds nothing to do) is idle and
	// no step.
	deliver func(*Sim, *kruise) bool
}

// events are all that can happen. A process takes one step for each of its requests: it
// stops before the next one.
var events = []event{
	{"Kruise hears of a pod", 8, func(s *Sim, k *kruise) bool { return k.cache.nextPod(s.api) }},
	{"Kruise hears of a set", 4, func(s *Sim, k *kruise) bool { return k.cache.nextSet(s.api) }},
	{"Kruise reconciles or writes", 18, (*Sim).stepKruise},
	{"the upgrader hears of a pod", 10, func(s *Sim, _ *kruise) bool { return s.leader.cache.nextPod(s.api) }},
	{"the upgrader hears of a set", 4, func(s *Sim, _ *kruise) bool { return s.leader.cache.nextSet(s.api) }},
	{"the upgrader hears of duty", 3, func(s *Sim, _ *kruise) bool {
		was := s.leader.watch
		s.leader.watch = min(was+1, len(s.arb.shown)-1)
		return s.leader.watch != was
	}},
	{"the upgrader hears of the plan", 3, func(s *Sim, _ *kruise) bool {
		was := s.leader.plan.rv
		s.leader.plan = s.plan
		return s.leader.plan.rv != was
	}},
	{"the upgrader decides or writes", 18, (*Sim).stepLeader},
	{"the upgrader renews leases", 3, func(s *Sim, _ *kruise) bool {
		s.leader.renew()
		return s.leader.holds()
	}},
	{"the arbiter hears of pods, or time passes for it", 5, (*Sim).stepArbiter},
	{"the arbiter fences", 1, func(s *Sim, _ *kruise) bool {
		return s.changes(func() { s.arb.fence() })
	}},
	{"an application reports, or hears its duty", 10, func(s *Sim, _ *kruise) bool {
		runs := false
		s.somePod(func(p Pod) { runs = p.Running != "" && !s.lost(p); s.stepApp(p) })
		return runs
	}},
	{"a kubelet acts", 9, func(s *Sim, _ *kruise) bool {
		return s.changes(func() { s.somePod(s.kubelet) })
	}},
	{"a leader of old goes on", 2, func(s *Sim, _ *kruise) bool {
		any := len(s.frozen) > 0 && s.ticks >= s.thawAt
		s.thaw()
		return any
	}},
	{"trouble, users, foreign tools", 2, func(s *Sim, _ *kruise) bool {
		was := s.troubles
		return s.changes(s.trouble) || s.troubles != was
	}},
}

// Tick lets some time pass and chooses an event. It returns which one, as an index of
// Events, and whether it delivered anything, which makes it a step.
func (s *Sim) Tick() (kind int, delivered bool) {
	s.rnd.tick(s.ticks)
	s.ticks++
	s.now = s.now.Add(time.Duration(s.rnd.pass()) * time.Millisecond)
	k := s.kruises[s.rnd.IntN(len(s.kruises))]
	n := s.rnd.IntN(100)
	for n >= events[kind].weight {
		n -= events[kind].weight
		kind++
	}
	if delivered = events[kind].deliver(s, k); delivered {
		s.delivered[kind]++
	}
	s.check()
	return kind, delivered
}

// changes says whether fn changed any object, or anything that the arbiter keeps.
func (s *Sim) changes(fn func()) bool {
	rv, plan, shown := s.api.rv, s.plan.rv, len(s.arb.shown)
	fn()
	return s.api.rv != rv || s.plan.rv != plan || len(s.arb.shown) != shown
}

// stepKruise goes on with what Kruise does for a set.
func (s *Sim) stepKruise(k *kruise) bool {
	begins, seen := k.sync == nil, k.cache.podPos+k.cache.setPos
	k.step()
	return k.sync != nil || !begins || s.news(k.set, seen)
}

// stepLeader goes on with the leader's reconciliation. A leader that is to freeze does it
// before one of its requests.
func (s *Sim) stepLeader(*kruise) bool {
	u := s.leader
	begins, seen := u.proc == nil, u.cache.podPos+u.cache.setPos+u.watch+u.plan.rv
	u.step()
	did := u.proc != nil || !begins || s.news(u.name, seen)
	if s.freeze && u.proc != nil && s.chance(3) {
		s.succeed(true)
	}
	return did
}

func (s *Sim) stepArbiter(*kruise) bool {
	news := s.arb.cache.nextPod(s.api)
	if s.arb.cache.behind(s.api) {
		news = s.arb.cache.nextSet(s.api) || news
	}
	return s.changes(func() { s.arb.do(func(time.Time) {}) }) || news
}

// news says whether an actor that found nothing to do had looked at all that before.
func (s *Sim) news(actor string, seen int) bool {
	was, looked := s.looked[actor]
	s.looked[actor] = seen
	return !looked || was != seen
}
