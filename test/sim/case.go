package sim

import (
	"fmt"
	"strings"
)

// What a run is like unless somebody says otherwise.
const (
	Troubled = 2500  // ticks in which things go wrong
	Bound    = 20000 // ticks in which the plan must then complete
)

// Case is a run: a seed, how long there is trouble, in how many ticks the plan must complete
// after that, and what is taken out.
type Case struct {
	Seed            uint64
	Troubled, Bound int
	Without         Safeguard
	// Real: the upgraders are the real ones, and not what mirrors them.
	Real bool
	// Compare, with Real: what mirrors them must see the same world at each decision.
	Compare bool
}

// Run runs the case, and stops where a promise breaks.
func (c Case) Run() *Sim { return c.run(newDice(c.Seed, 0), false, c.Troubled, true) }

// Note runs the case and notes all its decisions.
func (c Case) Note() (*Sim, *Tape) {
	d, t := newDice(c.Seed, 0), &Tape{}
	d.noted = t
	s := c.run(d, false, c.Troubled, true)
	t.Trouble = min(c.Troubled, len(t.Ticks))
	return s, t
}

// Replay runs what is on a tape. Beyond its end a run goes on by chance if it is to be seen
// whether it ends, and stops otherwise.
func (c Case) Replay(t *Tape, on, verbose bool) *Sim {
	d := newDice(c.Seed, 1)
	d.replayed = t
	return c.run(d, verbose, t.Trouble, on)
}

// configure draws what the seed decides.
func (c Case) configure(s *Sim) {
	s.draw(c.Without)
	s.cfg.Real, s.cfg.Compare = c.Real, c.Compare
}

func (c Case) run(d *dice, verbose bool, trouble int, on bool) *Sim {
	s := newSim(d, c.configure, verbose)
	defer s.stop()
	more := func() bool {
		if s.err != nil || !on && s.ticks >= len(d.replayed.Ticks) {
			return false
		}
		s.Tick()
		return s.err == nil
	}
	for range trouble {
		if !more() {
			return s
		}
	}
	s.calm()
	for range c.Bound {
		if !more() || s.Done() {
			return s
		}
	}
	if c.Bound > 0 {
		s.fail("6: not done %d ticks after the last trouble: %s: %s", c.Bound, s.leader.last.Reason, s.leader.last.Message)
	}
	return s
}

// Err is what broke, if anything did.
func (s *Sim) Err() error { return s.err }

// Steps is how many events were delivered.
func (s *Sim) Steps() int {
	n := 0
	for _, d := range s.delivered {
		n += d
	}
	return n
}

// Promise is the number of the promise that broke; "" when what broke is none of them.
func Promise(err error) string {
	if err == nil {
		return ""
	}
	number, _, ok := strings.Cut(err.Error(), ":")
	if !ok || len(number) != 1 {
		return ""
	}
	return number
}

// Command is what runs a seed again.
func (c Case) Command() string {
	out := fmt.Sprintf("go run ./test/sim/run -first %d -seeds 1", c.Seed)
	if c.Troubled != Troubled {
		out += fmt.Sprintf(" -trouble %d", c.Troubled)
	}
	if c.Bound != Bound {
		out += fmt.Sprintf(" -bound %d", c.Bound)
	}
	if c.Real {
		out += " -real"
	}
	if c.Without != Nothing {
		out += fmt.Sprintf(" -without %s", c.Without)
	}
	return out
}
