package sim

import "slices"

// shrinker makes the tape of a failing case smaller, as long as the same check fails.
// It works as delta debugging does (Zeller and Hildebrandt, 2002), on decisions instead of
// input, as Hypothesis does.
type shrinker struct {
	c      Case
	tape   *Tape
	broken string
	// budget is how many ticks may still be run.
	budget int
}

// Shrink returns the smallest tape that it finds on which the same check fails. It runs
// about budget ticks for that.
func (c Case) Shrink(broken string, t *Tape, budget int) *Tape {
	x := &shrinker{c: c, tape: t, broken: broken, budget: budget}
	// The calm goes on by chance; what does not end does not end for one random order alone.
	x.try(&Tape{Setup: t.Setup, Ticks: t.Ticks[:t.Trouble], Trouble: t.Trouble})
	x.idle()
	for size := max(1, len(x.tape.Ticks)/2); ; size = max(1, size/2) {
		less := x.without(size)
		if x.budget <= 0 || size == 1 && !less {
			break
		}
	}
	x.smaller()
	for x.without(1) && x.budget > 0 {
	}
	return x.tape
}

// try takes a tape if the same check fails on it.
func (x *shrinker) try(t *Tape) bool {
	if x.budget <= 0 {
		return false
	}
	// Whether a run ends is seen when it was given the time for it.
	s := x.c.Replay(t, x.ends(), false)
	x.budget -= s.ticks
	if s.err == nil || s.broken != x.broken {
		return false
	}
	if s.ticks < len(t.Ticks) {
		t = t.cut(s.ticks, len(t.Ticks))
	}
	x.tape = t
	return true
}

// ends says whether what failed is that the run does not end.
func (x *shrinker) ends() bool { return len(x.broken) > 0 && x.broken[0] == '6' }

// idle leaves out all ticks at once that delivered nothing.
func (x *shrinker) idle() {
	d := newDice(x.c.Seed, 1)
	d.replayed = x.tape
	s := newSim(d, x.c.configure, false)
	defer s.stop()
	next := x.tape
	for i, gone := 0, 0; i < len(x.tape.Ticks) && s.err == nil; i++ {
		if i == x.tape.Trouble {
			s.calm()
		}
		if _, delivered := s.Tick(); !delivered && i+1 < len(x.tape.Ticks) {
			next = next.cut(i-gone, i-gone+1)
			gone++
		}
	}
	x.try(next)
}

// without leaves out blocks of ticks of a size, wherever it can, from the end on. It says
// whether it could anywhere.
func (x *shrinker) without(size int) bool {
	less := false
	for end := len(x.tape.Ticks); end > 0 && x.budget > 0; end -= size {
		end = min(end, len(x.tape.Ticks))
		less = x.try(x.tape.cut(max(0, end-size), end)) || less
	}
	return less
}

// smaller makes decisions 0, and else half as high.
func (x *shrinker) smaller() {
	for i := 0; i < len(x.tape.Ticks); i++ {
		for j := 0; i < len(x.tape.Ticks) && j < len(x.tape.Ticks[i]); j++ {
			for _, v := range []int{0, x.tape.Ticks[i][j] / 2} {
				if v < x.tape.Ticks[i][j] && x.try(x.tape.set(i, j, v)) {
					break
				}
			}
		}
	}
}

// cut leaves out the ticks from i to j; their time goes by before the next one.
func (t *Tape) cut(i, j int) *Tape {
	out := &Tape{Setup: t.Setup, Ticks: slices.Delete(slices.Clone(t.Ticks), i, j), Trouble: t.Trouble}
	out.Trouble -= max(0, min(j, t.Trouble)-i)
	if i < len(out.Ticks) && len(out.Ticks[i]) > 0 {
		next := slices.Clone(out.Ticks[i])
		for _, gone := range t.Ticks[i:j] {
			next[0] += gone[0]
		}
		out.Ticks[i] = next
	}
	return out
}

// set changes one decision.
func (t *Tape) set(i, j, v int) *Tape {
	out := &Tape{Setup: t.Setup, Ticks: slices.Clone(t.Ticks), Trouble: t.Trouble}
	out.Ticks[i] = slices.Clone(out.Ticks[i])
	out.Ticks[i][j] = v
	return out
}
