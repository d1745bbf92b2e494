package protocol

import (
	"fmt"
	"slices"
)

// liveness looks for what keeps the plan from its end, in two ways: states from which no
// step leads there any more (AG EF done), and fair runs that never come there, although they
// could (promise 6).
//
// A run is fair if each kind of action that is possible again and again is done again and
// again (strong fairness, by kind: see class). What a leader does that was succeeded, a
// crash, a lost reply, a change of mind, a lost pod, an expiry, the user and the giving of
// duty are not of these kinds: they may happen or not, for ever.
func (x *explorer) liveness(res *Result) {
	x.first = append(x.first, uint32(len(x.edges))) //nolint:gosec // limit
	good := make([]bool, len(x.keys))
	done := make([]bool, len(x.keys))
	var s state
	for n := range x.keys {
		x.keys[n].unpack(&s, x.n, x.m)
		if x.rules.done(&s) {
			good[n], done[n] = true, true
			res.Done++
		}
	}
	for x.spread(good) {
	}
	for n, ok := range good {
		if !ok {
			if res.Stuck == 0 {
				res.Trace = x.trace(uint32(n), nil)
			}
			res.Stuck++
		}
	}
	if res.Stuck > 0 {
		return
	}
	f := finder{explorer: x, out: done}
	if loop := f.find(); loop != nil {
		res.Loop = true
		res.Trace = append(x.trace(loop[0], nil), fmt.Sprintf("    => P6: from here on for ever, within %d states:", len(loop)))
		res.Trace = append(res.Trace, f.retellLoop(loop)...)
	}
}

// spread marks the states from which one step leads to a good one, and says whether there
// were any. Backwards, because most steps lead to a state that was found later.
func (x *explorer) spread(good []bool) (changed bool) {
	for n := len(good) - 1; n >= 0; n-- {
		if good[n] {
			continue
		}
		for _, to := range x.edges[x.first[n]:x.first[n+1]] {
			if good[to] {
				good[n], changed = true, true
				break
			}
		}
	}
	return changed
}

// finder looks for a fair run among the states that are not out. It is the usual way for
// strong fairness: take the strongly connected components; of one in which a kind of action
// is possible and never done inside, take those states out, and look again at the rest. What
// remains with all that is possible done inside is a fair run.
type finder struct {
	*explorer
	out   []bool   // done, or taken out
	comp  []uint32 // of each state, the number of its component; 0: not looked at
	index []uint32
	low   []uint32
	stack []uint32
	calls []call
	count uint32
	comps uint32
}

// call is a frame of the depth-first search, which is too deep for the real stack.
type call struct {
	n    uint32
	edge uint32
}

func (f *finder) find() []uint32 {
	n := len(f.keys)
	f.comp, f.index, f.low = make([]uint32, n), make([]uint32, n), make([]uint32, n)
	todo := [][]uint32{nil}
	for len(todo) > 0 {
		within := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		var loop []uint32
		f.components(within, func(c []uint32) {
			if loop != nil {
				return
			}
			rest, fair := f.judge(c)
			switch {
			case fair:
				loop = append([]uint32(nil), c...)
			case len(rest) > 0:
				todo = append(todo, rest)
			}
		})
		if loop != nil {
			return loop
		}
	}
	return nil
}

// judge says whether component c has a fair run, or which of its states are left to be
// looked at again.
func (f *finder) judge(c []uint32) (rest []uint32, fair bool) {
	possible, inside := f.kindsOf(c)
	fair = true
	for k := unfair + 1; k < classes; k++ {
		fair = fair && (inside[k] || !possible[k])
	}
	if fair || len(c) == 1 {
		return nil, fair // one state: a run that stands still
	}
	for _, n := range c {
		f.out[n] = slices.ContainsFunc(f.kinds[f.first[n]:f.first[n+1]], func(k class) bool { return k != unfair && !inside[k] })
		if !f.out[n] {
			rest = append(rest, n)
		}
	}
	return rest, false
}

// kindsOf says which kinds of action are possible in component c, and which lead from a
// state of it to another.
func (f *finder) kindsOf(c []uint32) (possible, inside [classes]bool) {
	id := f.comp[c[0]]
	for _, n := range c {
		for e := f.first[n]; e < f.first[n+1]; e++ {
			k := f.kinds[e]
			possible[k] = true
			if to := f.edges[e]; f.comp[to] == id && !f.out[to] {
				inside[k] = true
			}
		}
	}
	return possible, inside
}

// components tells every strongly connected component of the states within (nil: all) that
// are not out (Tarjan). All others count as looked at.
func (f *finder) components(within []uint32, tell func([]uint32)) {
	if within == nil {
		for n := range f.keys {
			f.visit(uint32(n), tell)
		}
		return
	}
	for _, n := range within {
		f.comp[n], f.index[n] = 0, 0
	}
	for _, n := range within {
		f.visit(n, tell)
	}
}

func (f *finder) visit(root uint32, tell func([]uint32)) {
	if f.out[root] || f.index[root] != 0 {
		return
	}
	f.enter(root)
	for len(f.calls) > 0 {
		top := &f.calls[len(f.calls)-1]
		n := top.n
		if top.edge < f.first[n+1] {
			to := f.edges[top.edge]
			top.edge++
			switch {
			case f.out[to]:
			case f.index[to] == 0:
				f.enter(to)
			case f.comp[to] == 0:
				f.low[n] = min(f.low[n], f.index[to])
			}
			continue
		}
		f.calls = f.calls[:len(f.calls)-1]
		if len(f.calls) > 0 {
			up := f.calls[len(f.calls)-1].n
			f.low[up] = min(f.low[up], f.low[n])
		}
		if f.low[n] == f.index[n] {
			f.close(n, tell)
		}
	}
}

func (f *finder) enter(n uint32) {
	f.count++
	f.index[n], f.low[n] = f.count, f.count
	f.stack = append(f.stack, n)
	f.calls = append(f.calls, call{n: n, edge: f.first[n]})
}

// close takes a component off the stack.
func (f *finder) close(n uint32, tell func([]uint32)) {
	f.comps++
	k := len(f.stack)
	for {
		k--
		f.comp[f.stack[k]] = f.comps
		if f.stack[k] == n {
			break
		}
	}
	c := append([]uint32(nil), f.stack[k:]...)
	f.stack = f.stack[:k]
	tell(c)
}

// retellLoop tells a way through some of a component, at most a dozen steps, and back into it.
func (f *finder) retellLoop(loop []uint32) []string {
	in := map[uint32]bool{}
	for _, n := range loop {
		in[n] = true
	}
	way, seen := []uint32{loop[0]}, map[uint32]bool{loop[0]: true}
	for len(way) < 12 {
		n := way[len(way)-1]
		next, found := n, false
		for _, to := range f.edges[f.first[n]:f.first[n+1]] {
			if in[to] && (!found || !seen[to]) {
				next, found = to, true
			}
		}
		if !found {
			break
		}
		way = append(way, next)
		if seen[next] {
			break
		}
		seen[next] = true
	}
	lines, _ := f.retell(way)
	return lines[1:]
}
