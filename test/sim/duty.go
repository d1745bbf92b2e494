package sim

import (
	"slices"
	"time"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
)

// This file has what applications do that part with duty only slowly, or not at all, or die
// while it moves.

// moving are the replicas between which duty moves: those that lost it and are not idle yet,
// and those that are to get it, or just did.
func (s *Sim) moving() []string {
	var out []string
	h := s.arb.memory.Handover
	for _, name := range sortedNames(s.arb.record.Members) {
		m := s.arb.record.Members[name]
		w := s.apps[m.Instance]
		switch {
		case h != nil && (h.From == name || h.To == name),
			!m.Assigned && m.Duty == roster.Working,
			m.Assigned && (w == nil || !w.works(s.now)):
			out = append(out, name)
		}
	}
	return out
}

// dieMoving ends a container, or takes a pod away, in the middle of a change of duty.
func (s *Sim) dieMoving() bool {
	all := s.moving()
	if !s.cfg.Handovers || len(all) == 0 {
		return false
	}
	name := all[s.rnd.IntN(len(all))]
	p, ok := s.api.pods[name]
	switch {
	case !ok || p.Terminating:
		return false
	case p.Running == "" || p.Crashes > 0 || s.chance(2):
		s.change(name, "chaos", "the pod is deleted while duty moves", func(q *Pod) { q.Terminating = true })
	default:
		s.change(name, "chaos", "its container will end while duty moves", func(q *Pod) { q.Crashes = 1 })
	}
	return true
}

// linger makes an application slow to let go of duty.
func (s *Sim) linger() (did bool) {
	s.somePod(func(p Pod) {
		if did = s.cfg.Handovers && p.Running != ""; did {
			s.slow(p.Name, time.Duration(1+s.rnd.IntN(40))*time.Second)
		}
	})
	return did
}

// slow lets the application of a replica go on for a while when it loses duty, at most as long
// as what it was told last allows. It says so whenever it reports, and acknowledges that it is
// idle when it has really stopped (attendance.proto, obligations of the replica).
func (s *Sim) slow(name string, takes time.Duration) {
	s.lingers[name] = takes
	s.tell("app", "%s takes %v to let go of duty", name, takes)
}

// stays says whether an application that works and hears that it shall not goes on for now.
func (s *Sim) stays(w *app) bool {
	if !w.works(s.now) || w.answer.working || s.lingers[w.name] == 0 {
		w.leaves = time.Time{}
		return false
	}
	if w.leaves.IsZero() {
		w.leaves = s.now.Add(s.lingers[w.name])
		s.tell("app", "%s is to stop working, and takes its time", w.name)
	}
	return s.now.Before(w.leaves)
}

// refuseHandovers lets the arbiter refuse whatever handover is asked for: the application
// cannot part with duty now.
func (s *Sim) refuseHandovers() bool {
	if !s.cfg.Handovers {
		return false
	}
	s.refuses = s.now.Add(time.Duration(1+s.rnd.IntN(30)) * time.Second)
	s.tell("chaos", "handovers are refused for %v", s.refuses.Sub(s.now))
	return true
}

// handover is roster.RequestHandover, unless none is made now.
func (a *arbiter) handover(from string, to []string) (successor string, no *lease.Refusal) {
	if a.s.now.Before(a.s.refuses) {
		no = lease.Refuse(lease.NoSuccessor, "handover", "%s cannot part with duty now", from)
		no.RetryAfter = 5 * time.Second
		a.s.Kinds["handover refused by the application"]++
		return "", no
	}
	successor, answer := roster.RequestHandover(&a.record, a.memory, a.input(), from, slices.Clone(to))
	if answer != roster.Accepted {
		return "", lease.Refuse(lease.NoSuccessor, "handover", "%s stays", from)
	}
	return successor, nil
}
