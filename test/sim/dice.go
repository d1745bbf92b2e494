package sim

import "math/rand/v2"

// dice are where everything comes from that a run leaves to chance: the generator of a
// seed, or a Tape on which the throws of an earlier run are noted.
type dice struct {
	rnd *rand.Rand
	// own is for what was added later to the beginning of a run: what stood there before is
	// thrown as ever.
	own *rand.Rand
	// noted are the throws of this run, if they are wanted; replayed those to be repeated.
	noted, replayed *Tape
	// left are the throws of this tick that are still to be repeated; over: there are none
	// for this tick and those after it, and the generator decides.
	left []int
	over bool
}

// Tape is a run as a list of decisions: those of the beginning, and those of each tick.
// Decisions can be left out and made smaller, and what is left is a run as well: a throw
// that is missing is 0, one that is too high for its dice the highest.
type Tape struct {
	Setup []int
	Ticks [][]int
	// Trouble is how many of the ticks come before the calm.
	Trouble int
}

func newDice(seed, stream uint64) *dice {
	return &dice{rnd: rand.New(rand.NewPCG(seed, stream)), own: rand.New(rand.NewPCG(seed, stream+ownStream))}
}

// ownStream is any number. With this one the seeds that tests name are as they were.
const ownStream = 1000

// setup begins the throws that decide the beginning, which are few and not shrunk.
func (d *dice) setup() {
	if d.replayed != nil {
		d.left = d.replayed.Setup
	}
}

// tick begins the throws of tick n, counted from 0.
func (d *dice) tick(n int) {
	if d.noted != nil {
		d.noted.Ticks = append(d.noted.Ticks, nil)
	}
	if d.replayed != nil {
		if d.over = n >= len(d.replayed.Ticks); !d.over {
			d.left = d.replayed.Ticks[n]
		}
	}
}

// IntN throws: a number below n.
func (d *dice) IntN(n int) int { return d.throw(d.rnd, n) }

func (d *dice) throw(rnd *rand.Rand, n int) int {
	v := 0
	switch {
	case d.replayed == nil || d.over:
		v = rnd.IntN(n)
	case len(d.left) > 0:
		v, d.left = min(d.left[0], n-1), d.left[1:]
	}
	if d.noted != nil {
		to := &d.noted.Setup
		if t := len(d.noted.Ticks); t > 0 {
			to = &d.noted.Ticks[t-1]
		}
		*to = append(*to, v)
	}
	return v
}

// Shuffle brings n things into some order.
func (d *dice) Shuffle(n int, swap func(i, j int)) {
	for i := n - 1; i > 0; i-- {
		swap(i, d.IntN(i+1))
	}
}

// pass is how much time goes by before a tick, in milliseconds. What is replayed may be
// more than a tick lasts: that of the ticks left out before it.
func (d *dice) pass() int {
	const longest = 80
	if d.replayed != nil && !d.over && len(d.left) > 0 {
		v := d.left[0]
		if d.left = d.left[1:]; d.noted != nil {
			t := &d.noted.Ticks[len(d.noted.Ticks)-1]
			*t = append(*t, v)
		}
		return v
	}
	return d.IntN(longest)
}
