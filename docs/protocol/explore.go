package protocol

import (
	"fmt"
	"slices"
	"strings"
)

// Result is what an exploration found.
type Result struct {
	States int    // distinct, up to exchange of ordinals
	Steps  int    // between them
	Depth  int    // steps from the beginning to the farthest
	Bad    string // the promise that is broken, or ""
	Trace  []string
	Full   bool // every state within the bounds was visited
	Done   int  // states in which the plan is complete, or gone
	Stuck  int  // states from which that cannot be reached any more
	// Loop: a fair run goes on for ever, or stands still, and is never complete. Trace ends
	// with it.
	Loop bool
}

// explorer is a breadth-first search. Its memory is what bounds a model: about 100 bytes
// per state.
type explorer struct {
	rules  *Rules
	n, m   uint8
	slots  []uint32 // open addressing; an entry is the number of a state, plus 1
	keys   []key
	parent []uint32
	first  []uint32 // of each state, its first entry in edges
	edges  []uint32 // the states that follow, of one state after the other
	kinds  []class  // of each edge
}

const noParent = ^uint32(0)

// Explore visits the states of p, at most limit, and stops at the first broken promise;
// no shorter way leads to any.
func Explore(p Rules, limit int) Result {
	x := &explorer{rules: &p, slots: make([]uint32, 1<<12)}
	for _, s := range p.initial() {
		x.n, x.m = s.n, s.m
		x.add(s.canonical(), noParent)
	}
	var res Result
	for n := 0; n < len(x.keys) && len(x.keys) < limit; n++ {
		if bad := x.expand(n); bad != nil {
			res.Bad = bad.bad
			res.Trace = x.trace(uint32(n), bad)
			res.States, res.Depth = len(x.keys), len(x.way(uint32(n)))
			return res
		}
		res.Full = n == len(x.keys)-1
	}
	res.States, res.Steps = len(x.keys), len(x.edges)
	res.Depth = len(x.way(uint32(len(x.keys)-1))) - 1 //nolint:gosec // limit
	if res.Full {
		x.liveness(&res)
	}
	return res
}

// expand adds what follows on state k. It returns a step that breaks a promise, if any does.
func (x *explorer) expand(k int) (bad *step) {
	var s state
	x.keys[k].unpack(&s, x.n, x.m)
	x.first = append(x.first, uint32(len(x.edges))) //nolint:gosec // limit
	w := next{Rules: x.rules}
	w.emit = func(st *step) {
		if st.bad == "" {
			st.bad = x.rules.invariant(&st.to)
		}
		switch {
		case st.bad == "":
			x.edges = append(x.edges, x.add(st.to.canonical(), uint32(k))) //nolint:gosec // limit
			x.kinds = append(x.kinds, st.class)
		case bad == nil:
			found := *st
			bad = &found
		}
	}
	w.all(&s)
	return bad
}

func (k *key) hash() uint64 {
	h := uint64(14695981039346656037)
	for _, w := range k {
		h ^= w
		h *= 0x9E3779B97F4A7C15
		h ^= h >> 29
	}
	return h
}

// add returns the number of a state, new or not.
func (x *explorer) add(k key, from uint32) uint32 {
	if len(x.keys)*4 >= len(x.slots)*3 {
		x.grow()
	}
	mask := uint64(len(x.slots) - 1) //nolint:gosec // not negative
	for i := k.hash() & mask; ; i = (i + 1) & mask {
		switch n := x.slots[i]; {
		case n == 0:
			x.keys = append(x.keys, k)
			x.parent = append(x.parent, from)
			x.slots[i] = uint32(len(x.keys)) //nolint:gosec // limit
			return x.slots[i] - 1
		case x.keys[n-1] == k:
			return n - 1
		}
	}
}

func (x *explorer) grow() {
	slots := make([]uint32, 2*len(x.slots))
	mask := uint64(len(slots) - 1) //nolint:gosec // not negative
	for n := range x.keys {
		i := x.keys[n].hash() & mask
		for slots[i] != 0 {
			i = (i + 1) & mask
		}
		slots[i] = uint32(n + 1)
	}
	x.slots = slots
}

// way returns the states from the beginning to n.
func (x *explorer) way(n uint32) (way []uint32) {
	for ; n != noParent; n = x.parent[n] {
		way = append(way, n)
	}
	slices.Reverse(way)
	return way
}

// trace retells the way to state n, with the ordinals kept, and then last.
func (x *explorer) trace(n uint32, last *step) []string {
	lines, s := x.retell(x.way(n))
	if last != nil {
		lines = append(lines, x.walk(&s, func(st *step) bool {
			return (st.bad == last.bad || x.rules.invariant(&st.to) == last.bad) && st.to.canonical() == last.to.canonical()
		}), "    => "+last.bad)
	}
	return lines
}

// retell tells a way, and returns where it ends.
func (x *explorer) retell(way []uint32) (lines []string, s state) {
	x.keys[way[0]].unpack(&s, x.n, x.m)
	lines = []string{"    " + s.String()}
	for _, n := range way[1:] {
		lines = append(lines, x.walk(&s, func(st *step) bool { return st.to.canonical() == x.keys[n] }))
	}
	return lines, s
}

// walk takes the first step from s that want accepts, and tells it.
func (x *explorer) walk(s *state, want func(*step) bool) string {
	var took *step
	w := next{Rules: x.rules}
	w.emit = func(st *step) {
		if took == nil && want(st) {
			copied := *st
			took = &copied
		}
	}
	from := *s
	w.all(&from)
	if took == nil {
		return "    (no such step)"
	}
	*s = took.to
	return took.String() + "\n    " + s.String()
}

// String is the step in words.
func (st *step) String() string {
	line := strings.TrimSuffix(st.who+" "+st.what, ",")
	switch {
	case st.replica >= 0:
		line += fmt.Sprintf(" replica %d", st.replica)
	case st.target >= 0:
		line += fmt.Sprintf(" set %d", st.target)
	}
	return line
}
