package protocol

import (
	"fmt"
	"slices"
	"strings"
)

// Result is what an exploration found.
type Result struct {
	States int    // distinct, up to exchange of ordinals
	Depth  int    // steps from the beginning to the farthest
	Bad    string // the promise that is broken, or ""
	Trace  []string
	Full   bool // every state within the bounds was visited
	Done   int  // states in which the upgrade is complete
	Stuck  int  // states from which completion cannot be reached any more
}

// explorer is a breadth-first search. Its memory is what bounds a model: about 150 bytes
// per state.
type explorer struct {
	rules  Rules
	index  map[key]uint32
	keys   []key
	parent []uint32
	first  []uint32 // of each state, its first entry in edges
	edges  []uint32 // the states that follow, of one state after the other
}

const noParent = ^uint32(0)

// Explore visits the states of p, at most limit, and stops at the first broken promise;
// no shorter way leads to any.
func Explore(p Rules, limit int) Result {
	x := &explorer{rules: p, index: map[key]uint32{}}
	for _, s := range p.initial() {
		x.add(s.canonical(), noParent)
	}
	var res Result
	for n := 0; n < len(x.keys) && len(x.keys) < limit; n++ {
		if bad := x.expand(n); bad != nil {
			res.Bad = bad.bad
			res.Trace = x.trace(uint32(n), bad)
			res.States, res.Depth = len(x.keys), len(res.Trace)
			return res
		}
		res.Full = n == len(x.keys)-1
	}
	res.States = len(x.keys)
	for n := uint32(len(x.keys) - 1); n != noParent; n = x.parent[n] { //nolint:gosec // limit
		res.Depth++
	}
	if res.Full {
		res.Done, res.Stuck, res.Trace = x.liveness()
	}
	return res
}

// expand adds what follows on state n. It returns a step that breaks a promise, if any does.
func (x *explorer) expand(n int) (bad *step) {
	s := x.keys[n].state()
	x.first = append(x.first, uint32(len(x.edges))) //nolint:gosec // limit
	x.rules.next(&s, func(st *step) {
		if st.bad == "" {
			st.bad = x.rules.invariant(&st.to)
		}
		switch {
		case st.bad == "":
			x.edges = append(x.edges, x.add(st.to.canonical(), uint32(n))) //nolint:gosec // limit
		case bad == nil:
			found := *st
			bad = &found
		}
	})
	return bad
}

func (x *explorer) add(k key, from uint32) uint32 {
	if n, ok := x.index[k]; ok {
		return n
	}
	n := uint32(len(x.keys)) //nolint:gosec // limit
	x.index[k] = n
	x.keys = append(x.keys, k)
	x.parent = append(x.parent, from)
	return n
}

// liveness marks backwards from completion until nothing changes: AG EF done.
func (x *explorer) liveness() (done, stuck int, trace []string) {
	good := make([]bool, len(x.keys))
	for n := range x.keys {
		if s := x.keys[n].state(); s.done() {
			good[n] = true
			done++
		}
	}
	x.first = append(x.first, uint32(len(x.edges))) //nolint:gosec // limit
	for x.spread(good) {
	}
	for n, ok := range good {
		if !ok {
			if stuck == 0 {
				trace = x.trace(uint32(n), nil)
			}
			stuck++
		}
	}
	return done, stuck, trace
}

// spread marks the states from which one step leads to a good one, and says whether there
// were any. Backwards, because most steps lead to a state that was found later.
func (x *explorer) spread(good []bool) (changed bool) {
	for n := len(good) - 1; n >= 0; n-- {
		next := x.edges[x.first[n]:x.first[n+1]]
		if !good[n] && slices.ContainsFunc(next, func(to uint32) bool { return good[to] }) {
			good[n], changed = true, true
		}
	}
	return changed
}

// trace retells the way to state n, with the ordinals kept, and then last.
func (x *explorer) trace(n uint32, last *step) []string {
	var way []key
	for ; n != noParent; n = x.parent[n] {
		way = append(way, x.keys[n])
	}
	slices.Reverse(way)
	s := way[0].state()
	lines := []string{"    " + s.String()}
	for _, k := range way[1:] {
		lines = append(lines, x.walk(&s, func(st *step) bool { return st.to.canonical() == k }))
	}
	if last != nil {
		lines = append(lines, x.walk(&s, func(st *step) bool {
			return (st.bad == last.bad || x.rules.invariant(&st.to) == last.bad) && st.to.canonical() == last.to.canonical()
		}))
		lines = append(lines, "    => "+last.bad)
	}
	return lines
}

// walk takes the first step from s that want accepts, and tells it.
func (x *explorer) walk(s *state, want func(*step) bool) string {
	var took *step
	x.rules.next(s, func(st *step) {
		if took == nil && want(st) {
			copied := *st
			took = &copied
		}
	})
	if took == nil {
		return "    (no such step)"
	}
	*s = took.to
	line := took.who + " " + took.what
	if took.replica >= 0 {
		line = strings.TrimSuffix(line, ",") + fmt.Sprintf(" replica %d", took.replica)
	}
	return line + "\n    " + s.String()
}
