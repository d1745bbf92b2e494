package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/arbiter/roster"
	"offduty.dev/upgrader/observe"
	"offduty.dev/upgrader/plan"
)

// compare demands that the mirror sees the world as observe.World does, on the same caches
// and with the same answers of the arbiter. Messages are for people, and not compared.
func (r *stack) compare(scene *observe.Scene) {
	u := r.u
	leases := map[string]plan.Lease{}
	for name, l := range scene.View.Leases {
		leases[bare(name)] = bareLease(l)
	}
	state := u.told()
	arb := scene.View.Arbiter
	arb.Orphans, arb.Condemned = nil, nil
	mirrored, _ := u.observe(state, arb, leases, scene.View.Doubted)
	real := scene.World
	real.LastProgress = time.Time{} // a deadline that no run reaches
	real.Arbiter.Orphans, real.Arbiter.Condemned = bareLeases(real.Arbiter.Orphans), bareLeases(real.Arbiter.Condemned)
	if diff := cmp.Diff(unsaid(*mirrored), unsaid(real)); diff != "" {
		u.s.fail("mirror: %s sees another world (-mirror +real):\n%s", u.name, diff)
	}
}

func bareLeases(ls []plan.Lease) []plan.Lease {
	var out []plan.Lease
	for _, l := range ls {
		out = append(out, bareLease(l))
	}
	return out
}

func bareLease(l plan.Lease) plan.Lease {
	l.Replica = bare(l.Replica)
	return l
}

// unsaid is a world without what is written for people.
func unsaid(w plan.World) plan.World {
	w.Targets = slices.Clone(w.Targets)
	for i := range w.Targets {
		t := &w.Targets[i]
		t.TemplateWriter, t.TemplateBlocked = "", silent(t.TemplateBlocked)
		t.Blocked = silent(t.Blocked)
		t.Pods = slices.Clone(t.Pods)
		for j := range t.Pods {
			p := &t.Pods[j]
			p.Trouble = silent(p.Trouble)
			p.GateSince, p.FitSince, p.LastSince = p.GateSince.UTC(), p.FitSince.UTC(), p.LastSince.UTC()
			if p.Lease != nil {
				l := bareLease(*p.Lease)
				p.Lease = &l
			}
		}
	}
	return w
}

func silent(b *plan.Blocker) *plan.Blocker {
	if b == nil {
		return nil
	}
	c := *b
	c.Message = ""
	return &c
}

// told is the state of the group as it is known: nobody's duty is while the arbiter cannot be
// reached (arbiter/client, feed.lose).
func (u *upgrader) told() snapshot {
	state := u.s.arb.shown[u.watch]
	if !u.s.now.Before(u.s.cut) {
		return state
	}
	state.replicas = maps.Clone(state.replicas)
	for name, r := range state.replicas {
		r.Duty = roster.Unknown
		state.replicas[name] = r
	}
	return state
}
