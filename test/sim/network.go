package sim

import (
	"errors"
	"slices"
	"time"
)

// errTimeout is all that a sender learns of a request that was lost, or whose answer was.
var errTimeout = errors.New("no answer")

// message is a write on its way to the API server, or a call on its way to the arbiter.
type message struct {
	from string
	// do carries it out, under the preconditions that it names. It may be called more than
	// once, and when nobody waits for it any more: it must not look at its sender.
	do func() error
}

// send is the way of a request and of its answer. Most are carried out and answered; some
// are lost, or their answers are, some arrive when nobody waits for them any more, and some
// arrive twice.
func (s *Sim) send(r message) error {
	if !s.chaos || !s.chance(s.cfg.Unreliable) {
		return r.do()
	}
	const lost, late, unanswered, twice, again = 0, 1, 2, 3, 4
	what := s.rnd.IntN(again + 1)
	s.Kinds[[...]string{"request lost", "request late", "answer lost", "request twice", "request again later"}[what]]++
	switch what {
	case lost:
		return errTimeout
	case late:
		s.flying = append(s.flying, r)
		return errTimeout
	case unanswered:
		_ = r.do()
		return errTimeout
	case twice: // something in between has tried again
		_ = r.do()
	case again:
		s.flying = append(s.flying, r)
	}
	return r.do()
}

// ask is the way of a call to the arbiter and of its answer: as any other, and one that the
// client repeats because no answer came may have been carried out before (arbiter/client/dial.go,
// serviceConfig).
func (s *Sim) ask(from string, fn func(now time.Time)) error {
	call := message{from, func() error { s.arb.do(fn); return nil }}
	if s.delayed != "" && s.delayed == s.leader.about {
		s.delayed, s.flying = "", append(s.flying, call)
		return errTimeout
	}
	err := s.send(call)
	if err != nil || !s.chance(s.lossy) {
		return err
	}
	if s.chance(2) {
		s.Kinds["call repeated"]++
		s.arb.do(fn)
		return nil
	}
	s.Kinds["answer of the arbiter lost"]++
	return errTimeout
}

// land lets a request arrive for which nobody waits.
func (s *Sim) land() {
	i := s.rnd.IntN(len(s.flying))
	r := s.flying[i]
	s.flying = slices.Delete(s.flying, i, i+1)
	s.tell(r.from, "(a request that was sent earlier arrives)")
	s.landing = true
	defer func() { s.landing = false }()
	if err := r.do(); err != nil {
		s.tell(r.from, "(%v)", err)
	}
}

// network is what befalls requests and watches. It says whether anything did.
func (s *Sim) network() bool {
	if len(s.flying) > 0 && (!s.chaos || s.chance(4)) {
		s.land()
		s.troubles++
		return true
	}
	if !s.chaos || s.cfg.Unreliable == 0 {
		return false
	}
	switch s.rnd.IntN(8) {
	case 0:
		s.gap()
	case 1, 2:
		s.api.second.list(s.api)
	default:
		return false
	}
	return true
}

// gap is a watch that is lost: who watched lists anew, and never sees the versions between.
func (s *Sim) gap() {
	caches := []*Cache{s.kruises[0].cache, s.leader.cache, s.arb.cache}
	c := caches[s.rnd.IntN(len(caches))]
	if s.chance(2) {
		c.listPods(s.api)
	} else {
		c.listSets(s.api)
	}
	s.Kinds["watch lost"]++
	s.troubles++
}
