package protocol

import (
	"fmt"
	"slices"
	"strings"
)

// replicas is the size of the one set, and of the group.
const replicas = 3

// The lifecycle states that Kruise keeps in a pod's label. An absent label counts as
// normal, as it does in Kruise.
const (
	normal uint8 = iota
	preparing
	updating
	updated
)

// The phases of a lease. expired still bans duty until the pod has been fenced.
const (
	none uint8 = iota
	leased
	pinned
	expired
)

// What an upgrader may have under way on a replica: decided on a version that was read
// earlier, not yet arrived at the API server or the arbiter.
const (
	opNone uint8 = iota
	opNote
	opGateClose
	opGrant
	opPin
	opHoldOff
	opUndo
	opGateOpen
	opRelease
	opReadmit
	opHold
	opReleaseThenUndo // only in the variant that releases first
)

// What an upgrader may have under way on the set.
const (
	setNone     uint8 = iota
	setLowerPod       // the pods have been read, the set has not
	setLower
	setRaise
)

// pod is what both the API server and Kruise's cache know of a pod.
type pod struct {
	alive, new, hold, grant bool
	state                   uint8
}

// hand is what one upgrader knows of, and has under way on, one replica.
type hand struct {
	token uint8 // of the lease that it believes to have; 0: none
	gone  bool  // the pod that it leased is not the one that is there now
	op    uint8
	fresh bool // nobody has written the pod since the version that op was decided on
}

// replica is everything about one ordinal, so that ordinals can be exchanged.
type replica struct {
	pod                  // as the API server has it
	gateClosed, verified bool
	note, fence          uint8 // lease tokens in annotations; 0: none
	noteB, fenceB        bool  // the token was given to the second leader
	seen                 pod   // as Kruise's cache has it
	working              bool  // duty as the application has it, and the arbiter at least
	phase, token         uint8 // the arbiter's lease
	sameUID              bool  // the pod is the one that the lease was granted for
	committed            bool  // ghost: the hold was released, readmission not yet done
	born                 bool  // the arbiter saw this pod come up while a holder was registered
	hands                [2]hand
}

// setOp is what one upgrader has under way on the set.
type setOp struct {
	op, partition uint8
	fresh         bool
	overtaken     bool // a pod was lost since the pods were read: P4 does not judge it
}

// set is the part of the Advanced StatefulSet that matters.
type set struct {
	hook, template bool // the hook is on; the template is v2
	partition      uint8
}

// state is one state of the whole system. The leaders are 0 and 1: 0 began and may wake
// up at any time, 1 succeeds it.
type state struct {
	r         [replicas]replica
	set       set
	term      uint8 // in the set's annotation: the leader that owns it
	seen      set   // as Kruise's cache has it
	expecting bool  // Kruise has updated a pod and not yet seen that in its cache
	succeeded bool  // leader 1 has begun
	adopted   uint8 // the leader whose calls the arbiter accepts
	trusted   bool  // the arbiter trusts v2
	losses    uint8 // how many more pods may be lost
	expiries  uint8 // how many more leases may expire
	sets      [2]setOp
}

// key is a state, packed, up to exchange of ordinals. A replica takes one word.
type key [replicas + 1]uint64

type packer struct {
	w uint64
	n uint
}

func (p *packer) num(v uint8, bits uint) {
	p.w |= uint64(v) << p.n
	p.n += bits
}

func (p *packer) flags(bs ...bool) {
	for _, b := range bs {
		if b {
			p.w |= 1 << p.n
		}
		p.n++
	}
}

func (p *packer) take(bits uint) uint8 {
	v := uint8(p.w & (1<<bits - 1)) //nolint:gosec // masked
	p.w >>= bits
	return v
}

func (p *packer) takeFlags(bs ...*bool) {
	for _, b := range bs {
		*b = p.take(1) == 1
	}
}

func (r *replica) pack() uint64 {
	var p packer
	p.flags(r.alive, r.new, r.hold, r.grant, r.gateClosed, r.verified, r.noteB, r.fenceB,
		r.seen.alive, r.seen.new, r.seen.hold, r.seen.grant, r.working, r.sameUID, r.committed, r.born)
	p.num(r.state, 2)
	p.num(r.seen.state, 2)
	p.num(r.note, 3)
	p.num(r.fence, 3)
	p.num(r.phase, 2)
	p.num(r.token, 3)
	for i := range r.hands {
		h := &r.hands[i]
		p.num(h.token, 3)
		p.num(h.op, 4)
		p.flags(h.gone, h.fresh)
	}
	return p.w
}

func unpackReplica(w uint64) (r replica) {
	p := packer{w: w}
	p.takeFlags(&r.alive, &r.new, &r.hold, &r.grant, &r.gateClosed, &r.verified, &r.noteB, &r.fenceB,
		&r.seen.alive, &r.seen.new, &r.seen.hold, &r.seen.grant, &r.working, &r.sameUID, &r.committed, &r.born)
	r.state = p.take(2)
	r.seen.state = p.take(2)
	r.note = p.take(3)
	r.fence = p.take(3)
	r.phase = p.take(2)
	r.token = p.take(3)
	for i := range r.hands {
		h := &r.hands[i]
		h.token = p.take(3)
		h.op = p.take(4)
		p.takeFlags(&h.gone, &h.fresh)
	}
	return r
}

// canonical packs s: tokens by rank, because only their order means anything, and
// replicas sorted, because nothing depends on the ordinal.
func (s *state) canonical() key {
	var k key
	for i := range s.r {
		r := s.r[i]
		r.rank()
		k[i] = r.pack()
	}
	slices.Sort(k[:replicas])
	var p packer
	p.flags(s.set.hook, s.set.template, s.seen.hook, s.seen.template, s.expecting, s.succeeded, s.trusted)
	p.num(s.set.partition, 2)
	p.num(s.seen.partition, 2)
	p.num(s.term, 1)
	p.num(s.adopted, 1)
	p.num(s.losses, 2)
	p.num(s.expiries, 2)
	for i := range s.sets {
		p.num(s.sets[i].op, 2)
		p.num(s.sets[i].partition, 2)
		p.flags(s.sets[i].fresh, s.sets[i].overtaken)
	}
	k[replicas] = p.w
	return k
}

func (k key) state() (s state) {
	for i := range s.r {
		s.r[i] = unpackReplica(k[i])
	}
	p := packer{w: k[replicas]}
	p.takeFlags(&s.set.hook, &s.set.template, &s.seen.hook, &s.seen.template, &s.expecting, &s.succeeded, &s.trusted)
	s.set.partition = p.take(2)
	s.seen.partition = p.take(2)
	s.term = p.take(1)
	s.adopted = p.take(1)
	s.losses = p.take(2)
	s.expiries = p.take(2)
	for i := range s.sets {
		s.sets[i].op = p.take(2)
		s.sets[i].partition = p.take(2)
		p.takeFlags(&s.sets[i].fresh, &s.sets[i].overtaken)
	}
	return s
}

// rank renumbers the tokens of r by their order, from 1.
func (r *replica) rank() {
	if r.phase == none {
		r.token = 0
	}
	vs := [...]*uint8{&r.note, &r.fence, &r.token, &r.hands[0].token, &r.hands[1].token}
	// A fence below everything that is or will be compared with it says nothing.
	if r.fence > 0 && !r.fenceB {
		low := true
		for _, v := range [...]uint8{r.token, r.hands[0].token, r.hands[1].token} {
			low = low && (v == 0 || v > r.fence)
		}
		if low {
			r.fence = 0
		}
	}
	var used [9]bool
	for _, v := range vs {
		used[*v] = true
	}
	var rank [9]uint8
	n := uint8(0)
	for v := 1; v < len(used); v++ {
		if used[v] {
			n++
			rank[v] = n
		}
	}
	for _, v := range vs {
		*v = rank[*v]
	}
}

// top is a token above all that are known of r. (Ranks leave room: at most five are used.)
func (r *replica) top() uint8 {
	return 1 + max(r.note, r.fence, r.token, r.hands[0].token, r.hands[1].token)
}

// touch is a write of the pod: whoever read an earlier version now holds an old one.
func (r *replica) touch() {
	for i := range r.hands {
		r.hands[i].fresh = false
	}
}

// settle forgets what can only end in a conflict: a write that was decided on a version
// that is no longer there.
func (s *state) settle() {
	for i := range s.r {
		for j := range s.r[i].hands {
			switch h := &s.r[i].hands[j]; h.op {
			case opNone, opPin, opRelease, opReleaseThenUndo:
			default:
				if !h.fresh {
					h.op = opNone
				}
			}
		}
	}
	for j := range s.sets {
		if o := &s.sets[j]; !o.fresh && o.op != setLowerPod {
			*o = setOp{}
		}
	}
}

func (s *state) touchSet() {
	for i := range s.sets {
		s.sets[i].fresh = false
	}
}

var (
	stateNames = [...]string{"Normal", "Preparing", "Updating", "Updated"}
	phaseNames = [...]string{"-", "leased", "pinned", "expired"}
	opNames    = [...]string{
		"", "note", "close gate", "grant", "pin", "hold off", "undo", "open gate",
		"release", "readmit", "hold", "release, then undo",
	}
)

// String shows the state in a few words per replica, for traces.
func (s state) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "partition %d (Kruise: %d)", s.set.partition, s.seen.partition)
	for i := range s.r {
		r := &s.r[i]
		fmt.Fprintf(&b, " | %s%s", r.pod, mark(r.gateClosed, ",gate closed"))
		if r.seen != r.pod {
			fmt.Fprintf(&b, " (Kruise: %s)", r.seen)
		}
		b.WriteString(mark(r.working, " WORKING"))
		if r.phase != none {
			fmt.Fprintf(&b, " %s", phaseNames[r.phase])
		}
		for j, h := range r.hands {
			if h.op != opNone {
				fmt.Fprintf(&b, " [leader %d: %s]", j, opNames[h.op])
			}
		}
	}
	return b.String()
}

func (p pod) String() string {
	if !p.alive {
		return "absent"
	}
	v := "v1"
	if p.new {
		v = "v2"
	}
	return v + mark(p.hold, ",hold") + mark(p.grant, ",grant") + "," + stateNames[p.state]
}

func mark(b bool, s string) string {
	if b {
		return s
	}
	return ""
}
