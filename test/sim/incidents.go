package sim

import (
	"time"

	"offduty.dev/upgrader/plan"
)

// moreIncidents are sentences about what more.go has.
var moreIncidents = []form{
	among("the clock of <host> is <time> ahead", hostForm, func(d *director, w words) error { d.s.setClock(w[0], span(w[1])); return nil }),
	among("the clock of <host> is <time> behind", hostForm, func(d *director, w words) error { d.s.setClock(w[0], -span(w[1])); return nil }),
	act("the node of <pod> is cut off for <time>", func(d *director, w words) error { d.s.loseNode(d.pod(w).Node, false, span(w[1])); return nil }),
	act("the node of <pod> has no power for <time>", func(d *director, w words) error { d.s.loseNode(d.pod(w).Node, true, span(w[1])); return nil }),
	act("somebody removes <pod> by force", func(d *director, w words) error { d.s.forced(d.pod(w)); return nil }),
	act("the user takes <set> out of the plan", func(d *director, w words) error { d.s.takeOut(w[0]); return nil }),
	act("the user puts <set> into the plan again", func(d *director, w words) error { d.s.putIn(w[0]); return nil }),
	act("<pod> is evicted", func(d *director, w words) error { d.s.evictPod(d.pod(w)); return nil }),
	act("the container of <pod> ends <n> times", func(d *director, w words) error {
		d.s.change(w[0], "chaos", "its container will end", func(p *Pod) { p.Crashes = number(w[1]) })
		return nil
	}),
	act("the probe of <pod> fails for <time>", func(d *director, w words) error {
		d.s.change(w[0], "chaos", "its probe fails", func(p *Pod) { p.UnwellUntil = d.s.now.Add(span(w[1])) })
		return nil
	}),
	act("the application of <pod> takes <time> to let go of duty", func(d *director, w words) error { d.s.slow(w[0], span(w[1])); return nil }),
	act("handovers are refused for <time>", func(d *director, w words) error { d.s.refuses = d.s.now.Add(span(w[0])); return nil }),
	act("somebody writes that <pod> was verified at <image>", func(d *director, w words) error {
		d.s.change(w[0], "user", "writes that it was verified", func(p *Pod) { p.Verified = revision(p.Set, w[1]) })
		return nil
	}),
	act("somebody takes the note of the lease off <pod>", func(d *director, w words) error {
		d.s.change(w[0], "user", "takes the note off", func(p *Pod) { p.Note = plan.Note{} })
		return nil
	}),
	act("the former leader wakes, does what it was about to do, hears of pods, and decides anew", func(d *director, _ words) error {
		u := d.s.frozen[0]
		d.finish(u)
		for u.cache.nextPod(d.s.api) {
		}
		u.step()
		d.finish(u)
		d.s.frozen = d.s.frozen[1:]
		return d.broken
	}),
	among("the call in which the upgrader <request> is late", requestForm, func(d *director, w words) error { d.s.delayed = w[0]; return nil }),
	act("what is under way arrives", func(d *director, _ words) error {
		for len(d.s.flying) > 0 && !d.over() {
			d.s.land()
			d.after(func() bool { return false })
		}
		return d.broken
	}),
	act("somebody takes the hook off <set>", func(d *director, w words) error { d.s.unhook(w[0]); return nil }),
	act("somebody puts back the settings of <set>", func(d *director, w words) error { d.s.resettle(w[0]); return nil }),
	act("the user creates a plan", func(d *director, _ words) error { d.s.away = false; d.s.createPlan(); return nil }),
	act("no image can be pulled for <time>", func(d *director, w words) error { d.s.noPulls = d.s.now.Add(span(w[0])); return nil }),
}

// finish lets an upgrader go on until its decision is carried out.
func (d *director) finish(u *upgrader) {
	for u.proc != nil && !d.over() {
		u.step()
		d.after(func() bool { return false })
	}
}

func (d *director) pod(w words) Pod { return d.s.api.pods[w[0]] }

// setClock makes the clock of a host wrong.
func (s *Sim) setClock(host string, skew time.Duration) {
	for _, h := range s.hosts() {
		if h.name == host {
			*h.skew = skew
		}
	}
}

var moreConditions = []form{
	is("the upgrader stands before it <request>", func(s *Sim, w words) bool { return s.leader.proc != nil && s.leader.about == w[0] }),
	is("a call is under way", func(s *Sim, _ words) bool { return len(s.flying) > 0 }),
	is("an application works as <pod>", func(s *Sim, w words) bool { return s.worksAs(w[0]) }),
}
