package protocol

import (
	"fmt"
	"slices"
	"strings"
)

// The most that a trace may have. An exploration packs 3 replicas in 2 targets.
const (
	maxReplicas = 10
	maxTargets  = 3
)

// parked is the partition of a set that is not being rolled out; 7 when it is packed.
const parked uint8 = 15

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
	opNote       // the lease's token on the pod, and the gate closed or the grant put on
	opGrant
	opPin // and then, of the same version, the hold off: the point of no return
	opHoldOff
	opPinOnly // before a pod that came back new is verified
	opReadmit
	opUnmark
	opUndo
	opGateOpen
	opRelease
	opHold
	opUnhold          // the plan leaves
	opReleaseThenUndo // only in the variant that releases first
	ops
)

// What an upgrader may have under way on a set.
const (
	setNone     uint8 = iota
	setLowerPod       // the pods have been read, the set has not
	setLower
	setRaise
)

// pod is what both the API server and Kruise's cache know of a pod. Revisions are numbered
// from 1; 0: there is no pod.
type pod struct {
	rev         uint8
	hold, grant bool
	state       uint8
	restarting  bool // its containers do not all run their images yet
}

// hand is what one upgrader knows of, and has under way on, one replica.
type hand struct {
	token uint16 // of the lease that it believes to have; 0: none
	gone  bool   // the pod that it leased is not the one that is there now
	op    uint8
	fresh bool // nobody has written the pod since the version that op was decided on
}

// replica is everything about one ordinal, so that ordinals can be exchanged.
type replica struct {
	target          uint8
	pod                    // as the API server has it
	gateClosed      bool   // our readiness gate
	verified        uint8  // the revision that the pod's annotation calls verified
	note, fence     uint16 // lease tokens in annotations; 0: none
	noteBy, fenceBy uint8  // the number of the leader to whom that token was given
	seen            pod    // as Kruise's cache has it
	working         bool   // duty as the application has it, and the arbiter at least
	revoked         bool   // its duty was taken, which it has not acknowledged yet
	phase           uint8  // the arbiter's lease
	token           uint16
	sameUID         bool // the pod is the one that the lease was granted for
	committed       bool // ghost: the hold was released, readmission not yet done
	kept            bool // the arbiter means the next pod of that name to work
	born            bool // the arbiter saw this pod come up while a holder was registered, and no confirmed hold since
	hands           [2]hand
}

// set is the part of an Advanced StatefulSet that matters.
type set struct {
	hook      bool  // armed, with the lifecycle hook
	template  uint8 // revision
	partition uint8
}

// target is one set, and what is said of it elsewhere.
type target struct {
	set
	seen      set   // as Kruise's cache has it
	expecting bool  // Kruise has updated a pod and not yet seen that in its cache
	current   uint8 // status.currentRevision
	term      uint8 // in the set's annotation: the number of the leader that owns it
	finished  uint8 // the revision at which it was last at rest, as its annotation says
}

// setOp is what one upgrader has under way on a set.
type setOp struct {
	op, partition uint8
	fresh         bool
	overtaken     bool // a pod was lost since the pods were read: P4 does not judge it
}

// mind is what one upgrader knows beside leases.
type mind struct {
	wish    uint8 // of the plan: how many of its images have been asked for, less one
	deleted bool  // the plan is being deleted
	view    [maxTargets]uint8
	// The partition of the last version of each set that bears no later term, and whether Kruise
	// had observed that: with the next one it stops.
	part       [maxTargets]uint8
	saw        [maxTargets]bool
	ops        [maxTargets]setOp
	delivering bool // some of what it has decided has arrived: it decides no more before all has
}

// state is one state of the whole system. Leaders are numbered; the latest and the one
// before it live, at hands and minds [number & 1]. One that has begun and not adopted yet is
// an heir: the arbiter still answers its predecessor.
type state struct {
	n, m     uint8 // replicas and targets
	r        [maxReplicas]replica
	t        [maxTargets]target
	minds    [2]mind
	lead     uint8 // the number of the latest leader
	reign    uint8 // the number of the one that adopted last, whose calls the arbiter accepts
	wish     uint8 // as mind
	deleted  bool
	left     bool   // the plan is gone, and its holder with it
	trusted  uint32 // a bit for each revision that the arbiter trusts
	losses   uint8  // how many more pods may be lost
	expiries uint8  // how many more leases may expire
}

// key is a state, packed, up to exchange of ordinals. A replica takes one word.
type key [packedReplicas + 2]uint64

const packedReplicas, packedTargets = 3, 2

type packer struct {
	w uint64
	n uint
}

func (p *packer) num(v uint8, bits uint) {
	p.w |= uint64(v) & (1<<bits - 1) << p.n
	p.n += bits
}

func (p *packer) token(v uint16) { p.num(uint8(v), 3) } //nolint:gosec // a rank

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

func (p *packer) takeToken() uint16 { return uint16(p.take(3)) }

func (p *packer) takeFlags(bs ...*bool) {
	for _, b := range bs {
		*b = p.take(1) == 1
	}
}

func (r *replica) pack() uint64 {
	var p packer
	p.num(r.target, 1)
	p.flags(r.hold, r.grant, r.gateClosed, r.seen.hold, r.seen.grant, r.working, r.revoked, r.sameUID, r.committed, r.born, r.kept, r.restarting, r.seen.restarting)
	p.num(r.rev, 2)
	p.num(r.seen.rev, 2)
	p.num(r.verified, 2)
	p.num(r.state, 2)
	p.num(r.seen.state, 2)
	p.num(r.noteBy, 1)
	p.num(r.fenceBy, 1)
	p.num(r.phase, 2)
	p.token(r.note)
	p.token(r.fence)
	p.token(r.token)
	for i := range r.hands {
		h := &r.hands[i]
		p.token(h.token)
		p.num(h.op, 4)
		p.flags(h.gone, h.fresh)
	}
	return p.w
}

func unpackReplica(w uint64) (r replica) {
	p := packer{w: w}
	r.target = p.take(1)
	p.takeFlags(&r.hold, &r.grant, &r.gateClosed, &r.seen.hold, &r.seen.grant, &r.working, &r.revoked, &r.sameUID, &r.committed, &r.born, &r.kept, &r.restarting, &r.seen.restarting)
	r.rev = p.take(2)
	r.seen.rev = p.take(2)
	r.verified = p.take(2)
	r.state = p.take(2)
	r.seen.state = p.take(2)
	r.noteBy = p.take(1)
	r.fenceBy = p.take(1)
	r.phase = p.take(2)
	r.note = p.takeToken()
	r.fence = p.takeToken()
	r.token = p.takeToken()
	for i := range r.hands {
		h := &r.hands[i]
		h.token = p.takeToken()
		h.op = p.take(4)
		p.takeFlags(&h.gone, &h.fresh)
	}
	return r
}

func (t *set) pack(p *packer) {
	p.flags(t.hook)
	p.num(t.template, 2)
	p.num(t.partition, 3)
}

func (t *set) unpack(p *packer) {
	p.takeFlags(&t.hook)
	t.template = p.take(2)
	if t.partition = p.take(3); t.partition == 7 {
		t.partition = parked
	}
}

// canonical packs s: tokens by rank, because only their order means anything, and
// replicas of a target sorted, because nothing depends on the ordinal.
func (s *state) canonical() key {
	var k key
	for i := range s.n {
		r := s.r[i]
		r.rank()
		k[i] = r.pack()
	}
	for a := 0; a < int(s.n); {
		b := a + 1
		for b < int(s.n) && s.r[b].target == s.r[a].target {
			b++
		}
		slices.Sort(k[a:b])
		a = b
	}
	var p packer
	for j := range s.m {
		t := &s.t[j]
		t.pack(&p)
		t.seen.pack(&p)
		p.flags(t.expecting)
		p.num(t.current, 2)
		p.num(t.term, 1)
		p.num(t.finished, 2)
	}
	p.num(s.lead, 1)
	p.num(s.reign, 1)
	p.flags(s.deleted, s.left)
	p.num(uint8(s.trusted), 4) //nolint:gosec // of a few revisions
	p.num(s.losses, 2)
	p.num(s.expiries, 2)
	p.num(s.wish, 2)
	k[packedReplicas] = p.w
	p = packer{}
	for l := range s.minds {
		d := &s.minds[l]
		p.num(d.wish, 2)
		p.flags(d.deleted, d.delivering)
		for j := range s.m {
			o := &d.ops[j]
			p.num(d.view[j], 2)
			p.num(d.part[j], 3)
			p.flags(d.saw[j])
			p.num(o.op, 2)
			p.num(o.partition, 3)
			p.flags(o.fresh, o.overtaken)
		}
	}
	k[packedReplicas+1] = p.w
	return k
}

// unpack is the inverse of canonical, for n replicas in m targets.
func (k *key) unpack(s *state, n, m uint8) {
	*s = state{n: n, m: m}
	for i := range n {
		s.r[i] = unpackReplica(k[i])
	}
	p := packer{w: k[packedReplicas]}
	for j := range m {
		t := &s.t[j]
		t.unpack(&p)
		t.seen.unpack(&p)
		p.takeFlags(&t.expecting)
		t.current = p.take(2)
		t.term = p.take(1)
		t.finished = p.take(2)
	}
	s.lead = p.take(1)
	s.reign = p.take(1)
	p.takeFlags(&s.deleted, &s.left)
	s.trusted = uint32(p.take(4))
	s.losses = p.take(2)
	s.expiries = p.take(2)
	s.wish = p.take(2)
	p = packer{w: k[packedReplicas+1]}
	for l := range s.minds {
		d := &s.minds[l]
		d.wish = p.take(2)
		p.takeFlags(&d.deleted, &d.delivering)
		for j := range m {
			o := &d.ops[j]
			d.view[j] = p.take(2)
			if d.part[j] = p.take(3); d.part[j] == 7 {
				d.part[j] = parked
			}
			p.takeFlags(&d.saw[j])
			o.op = p.take(2)
			o.partition = p.take(3)
			p.takeFlags(&o.fresh, &o.overtaken)
		}
	}
}

// rank renumbers the tokens of r by their order, from 1.
func (r *replica) rank() {
	if r.phase == none {
		r.token = 0
	}
	vs := [...]*uint16{&r.note, &r.fence, &r.token, &r.hands[0].token, &r.hands[1].token}
	// A fence below everything that is or will be compared with it says nothing.
	if r.fence > 0 && r.fenceBy == 0 {
		low := true
		for _, v := range [...]uint16{r.token, r.hands[0].token, r.hands[1].token} {
			low = low && (v == 0 || v > r.fence)
		}
		if low {
			r.fence = 0
		}
	}
	var rank [16]uint16
	for _, v := range vs {
		rank[*v] = 1
	}
	rank[0] = 0
	n := uint16(0)
	for v := range rank {
		if rank[v] == 1 {
			n++
			rank[v] = n
		}
	}
	for _, v := range vs {
		*v = rank[*v]
	}
}

// top is a token above all that are known of r. (Ranks leave room: at most five are used.)
func (r *replica) top() uint16 {
	return 1 + max(r.note, r.fence, r.token, r.hands[0].token, r.hands[1].token)
}

// touch is a write of the pod: whoever read an earlier version now holds an old one.
func (r *replica) touch() {
	for i := range r.hands {
		r.hands[i].fresh = false
	}
}

// touchSet is a write of set j.
func (s *state) touchSet(j uint8) {
	for l := range s.minds {
		s.minds[l].ops[j].fresh = false
	}
}

// settle forgets what can only end in a conflict: a write that was decided on a version
// that is no longer there.
func (s *state) settle() {
	for i := range s.n {
		for l := range s.r[i].hands {
			if h := &s.r[i].hands[l]; !h.fresh && !h.calls() {
				h.op = opNone
			}
		}
	}
	for l := range s.minds {
		for j := range s.m {
			if o := &s.minds[l].ops[j]; !o.fresh && o.op != setLowerPod {
				*o = setOp{}
			}
		}
	}
}

// calls says whether what is under way goes to the arbiter, whom no version of a pod concerns.
func (h *hand) calls() bool {
	return h.op == opPin || h.op == opPinOnly || h.op == opRelease || h.op == opReleaseThenUndo
}

// look keeps up what each leader may still see of the sets: the present, or what was there when a
// successor put its term on.
func (s *state) look() {
	for l := range s.minds {
		for j := range s.m {
			if t := &s.t[j]; s.latest(l) || t.term <= s.number(l) {
				s.minds[l].part[j], s.minds[l].saw[j] = t.partition, t.seen == t.set
			}
		}
	}
}

// idle ends the delivery of a leader that has nothing under way any more.
func (s *state) idle() {
	for l := range s.minds {
		d := &s.minds[l]
		if d.delivering && !s.under(l) {
			d.delivering = false
		}
	}
}

// under says whether leader l has anything under way.
func (s *state) under(l int) bool {
	for i := range s.n {
		if s.r[i].hands[l].op != opNone {
			return true
		}
	}
	for j := range s.m {
		if s.minds[l].ops[j].op != setNone {
			return true
		}
	}
	return false
}

var (
	stateNames = [...]string{"Normal", "Preparing", "Updating", "Updated"}
	phaseNames = [...]string{"-", "leased", "pinned", "expired"}
	opNames    = [...]string{
		"", "note", "grant", "pin", "hold off", "pin what came back new", "readmit", "take marks off", "undo", "open gate",
		"release", "hold", "take hold off, leaving", "release, then undo",
	}
)

// String shows the state in a few words per replica, for traces.
func (s state) String() string {
	var b strings.Builder
	for j := range s.m {
		t := &s.t[j]
		if s.m > 1 {
			fmt.Fprintf(&b, "set %d: ", j)
		}
		b.WriteString(t.String())
		if t.seen != t.set {
			fmt.Fprintf(&b, " (Kruise: %s)", t.seen)
		}
		for i := range s.n {
			if s.r[i].target == j {
				b.WriteString(" | " + s.r[i].String())
			}
		}
		if j+1 < s.m {
			b.WriteString(" || ")
		}
	}
	return b.String()
}

func (t set) String() string {
	at := fmt.Sprint(t.partition)
	if t.partition == parked {
		at = "parked"
	}
	return fmt.Sprintf("v%d partition %s%s", t.template, at, mark(!t.hook, " not armed"))
}

func (r *replica) String() string {
	var b strings.Builder
	b.WriteString(r.pod.String() + mark(r.gateClosed, ",gate closed"))
	if r.seen != r.pod {
		fmt.Fprintf(&b, " (Kruise: %s)", r.seen)
	}
	b.WriteString(mark(r.working, " WORKING"))
	if r.phase != none {
		b.WriteString(" " + phaseNames[r.phase])
	}
	for l, h := range r.hands {
		if h.op != opNone {
			fmt.Fprintf(&b, " [leader %d: %s]", l, opNames[h.op])
		}
	}
	return b.String()
}

func (p pod) String() string {
	if p.rev == 0 {
		return "absent"
	}
	return fmt.Sprintf("v%d", p.rev) + mark(p.hold, ",hold") + mark(p.grant, ",grant") + "," + stateNames[p.state] + mark(p.restarting, ",restarting")
}

func mark(b bool, s string) string {
	if b {
		return s
	}
	return ""
}
