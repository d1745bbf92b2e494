package protocol

import "fmt"

// leader emits what one incarnation of the upgrader may do: let what it has under way
// arrive, lose it (a crash, or a conflict), or read and decide. What it decided may arrive
// at any later moment, or never: a crash and a freeze at every instruction are in there, for
// everything is derived from objects.
//
// With Batch it decides on several replicas and sets before it lets the first of that arrive,
// and then on nothing more until all has arrived or is lost: that is one look at the world,
// and one batch of writes.
func (n *next) leader(l int) {
	s := n.s
	who := fmt.Sprintf("leader %d", s.number(l))
	n.arrivals(l, who)
	n.hear(l, who)
	if n.OwnWrites && (s.minds[l].delivering || !n.Batch && s.under(l)) {
		return
	}
	n.adopt(l, who)
	for i := range s.n {
		n.learn(l, int(i), who)
		if s.r[i].hands[l].op != opNone {
			continue
		}
		n.acquire(l, int(i), who)
		n.handover(l, int(i), who)
		n.decideReplica(l, int(i), who)
	}
	for j := range s.m {
		if s.minds[l].ops[j].op == setNone {
			n.decideSet(l, j, who)
		}
	}
	n.leave(l, who)
}

// arrivals: what l has under way.
func (n *next) arrivals(l int, who string) {
	s := n.s
	for i := range s.n {
		if s.r[i].hands[l].op != opNone {
			n.arrive(l, int(i), who)
		}
	}
	for j := range s.m {
		if s.minds[l].ops[j].op != setNone {
			n.arriveSet(l, j, who)
		}
	}
}

// number is that of the leader with hands and minds l.
func (s *state) number(l int) uint8 {
	if int(s.lead)&1 == l {
		return s.lead
	}
	return s.lead - 1
}

// latest says whether nobody has succeeded l.
func (s *state) latest(l int) bool { return int(s.lead)&1 == l }

// accepted says whether l adopted last.
func (s *state) accepted(l int) bool { return s.number(l) == s.reign }

// heir says whether l is the latest and has not adopted yet.
func (s *state) heir(l int) bool { return s.latest(l) && s.lead != s.reign }

// fair is c for the latest leader: one that was succeeded may stop for ever.
func (s *state) fair(l int, c class) class {
	if s.latest(l) {
		return c
	}
	return unfair
}

func (n *next) decideReplica(l, i int, who string) {
	op, must := n.decide(l, i)
	if op != opNone && n.mayCall(l, op) {
		n.try(n.s.fair(l, decided+class(op)), who, "decides: "+opNames[op]+",", i, begin(l, op))
	}
	if must {
		return
	}
	if u := n.undo(l, i); u != opNone && u != op && n.mayCall(l, u) {
		n.try(unfair, who, "decides: "+opNames[u]+",", i, begin(l, u))
	}
}

// mayCall says whether l may decide on op: an heir calls no arbiter but to adopt.
func (n *next) mayCall(l int, op uint8) bool {
	return !n.bound(l) || !(&hand{op: op}).calls()
}

// bound says whether l may do no more than protect, or give back, until it has adopted.
func (n *next) bound(l int) bool { return n.AdoptFirst && n.s.heir(l) }

func begin(l int, op uint8) func(*state, *replica) string {
	return func(_ *state, r *replica) string {
		r.hands[l].op, r.hands[l].fresh = op, true
		return ""
	}
}

// begins: another leader has a look at everything. It is an heir until it has adopted: it does
// what waits for nothing (a hold, a higher partition, with its term on the set), and what gives
// back if the plan is deleted.
func (n *next) begins() {
	n.try(unfair, fmt.Sprintf("leader %d", n.s.lead+1), "begins", -1, func(t *state, _ *replica) string {
		t.lead++
		l := int(t.lead & 1)
		t.minds[l] = mind{wish: t.wish, deleted: t.deleted}
		for j := range t.m {
			t.minds[l].view[j] = t.t[j].template
		}
		for i := range t.n {
			t.r[i].hands[l] = t.r[i].listed()
		}
		return ""
	})
}

// listed is what the arbiter's list says of the lease. One that has expired can only be given
// back, as that on a pod which is another now.
func (r *replica) listed() hand {
	if r.phase == none {
		return hand{}
	}
	return hand{token: r.token, gone: !r.sameUID || r.phase == expired}
}

// adopt makes an heir the one whom the arbiter accepts.
func (n *next) adopt(l int, who string) {
	if !n.s.heir(l) || n.s.under(l) {
		return
	}
	n.try(n.s.fair(l, adopts), who, "adopts all leases", -1, func(t *state, _ *replica) string {
		t.reign = t.lead
		for i := range t.n {
			r := &t.r[i]
			if n.Token && r.phase != none {
				r.token = n.token(int(i), r)
			}
			r.hands[l] = r.listed()
		}
		return ""
	})
}

// token is a new one for a lease on r: of a trace, that which it shows next.
func (n *next) token(i int, r *replica) uint16 {
	if n.want != nil {
		return max(n.want.Replicas[i].Token, r.top())
	}
	return r.top()
}

// hear: the plan, and a template that another tool wrote, as late as the cache likes.
func (n *next) hear(l int, who string) {
	s := n.s
	d := &s.minds[l]
	if s.under(l) {
		return
	}
	if d.wish != s.wish || d.deleted != s.deleted {
		n.try(s.fair(l, hears), who, "hears what the plan says", -1, func(t *state, _ *replica) string {
			t.minds[l].wish, t.minds[l].deleted = t.wish, t.deleted
			return ""
		})
	}
	for j := range s.m {
		// The version of the set with a later leader's term tells l to stop, whatever else is in it.
		if later := n.SetFence && n.TermOrder && s.t[j].term > s.number(l); d.view[j] != s.t[j].template && !later {
			n.trySet(s.fair(l, hears), who, "sees the template of", j, func(t *state, k *target) string {
				t.minds[l].view[j] = k.template
				return ""
			})
		}
	}
}

// blind says whether l may be working from a cache of set j of some time ago: its successor, or
// another tool, has written it since l did. A successor puts its term on with its first write.
func (n *next) blind(l int, j uint8) bool {
	s := n.s
	return !s.latest(l) && (s.t[j].term > s.number(l) || !n.SetFence) || s.minds[l].view[j] != s.t[j].template
}

// observed says whether, as far as l can see, Kruise has seen the latest change of set j.
func (n *next) observed(l int, j uint8) bool {
	d := &n.s.minds[l]
	return d.saw[j] || n.blind(l, j) && d.view[j] != n.s.t[j].template
}

// pending says whether, as far as l knows, set j has not got the images that the plan wants.
func (n *next) pending(l int, j uint8) bool {
	d := &n.s.minds[l]
	return !n.trace && !n.Follow && !d.deleted && d.view[j] != n.Wishes[d.wish]
}

// learn: the leases as the arbiter lists them. A leader that was succeeded learns nothing
// more (tokens that it was not given tell it that it was).
func (n *next) learn(l, i int, who string) {
	s := n.s
	r := &s.r[i]
	if !s.accepted(l) && !s.heir(l) || r.hands[l].op != opNone {
		return
	}
	h := r.listed()
	if h.token == r.hands[l].token && h.gone == r.hands[l].gone {
		return
	}
	n.try(learns, who, "learns how it stands with its lease on", i, func(_ *state, r *replica) string {
		r.hands[l] = h
		return ""
	})
}

// settled says whether set j is ready for leases on its replicas, as far as l sees.
func (n *next) settled(l int, j uint8) bool {
	s := n.s
	return n.owns(l, j) && s.minds[l].ops[j].op != setRaise && !s.minds[l].deleted && s.t[j].hook && !n.pending(l, j) && n.observed(l, j) && n.confirmed(l, j)
}

// owns says whether l's term is on set j, as far as it can see.
func (n *next) owns(l int, j uint8) bool {
	s := n.s
	return !n.SetFence || s.t[j].term == s.number(l) || s.t[j].term > s.number(l) && n.blind(l, j)
}

// acquire is one call; its arrival, the answer and the belief are one action, unless the answer
// is lost.
func (n *next) acquire(l, i int, who string) {
	s := n.s
	r := &s.r[i]
	j := r.target
	switch {
	case !s.accepted(l) && n.Token, s.heir(l), !n.settled(l, j),
		r.phase != none || !n.idleFor(r) || r.rev == 0 || r.hands[l].token != 0 || s.leases() >= n.MaxLeased,
		r.rev == s.minds[l].view[j] && r.verified == r.rev && !n.untold(l, r),
		r.rev != s.minds[l].view[j] && r.marked():
		return
	}
	n.try(s.fair(l, acquires), who, "acquires a lease on", i, func(_ *state, r *replica) string {
		r.phase, r.token, r.sameUID = leased, n.token(i, r), true
		r.hands[l] = hand{token: r.token}
		return ""
	})
	n.try(unfair, who, "acquires a lease, and does not hear of it, on", i, func(_ *state, r *replica) string {
		r.phase, r.token, r.sameUID = leased, n.token(i, r), true
		return ""
	})
}

// handover asks for the end of the duty of a worker that is not upgraded, when nothing else
// is to be done and an upgraded one is idle.
func (n *next) handover(l, i int, who string) {
	s := n.s
	r := &s.r[i]
	if !n.Handover || !s.accepted(l) || !r.working || r.revoked || s.leases() > 0 || !n.settled(l, r.target) || r.verified == s.minds[l].view[r.target] {
		return
	}
	heir := false
	for k := range s.n {
		o := &s.r[k]
		view := s.minds[l].view[o.target]
		switch {
		case !n.settled(l, o.target), o.revoked, o.rev != 0 && o.rev != view && !o.working:
			return
		}
		heir = heir || o.rev == view && o.verified == view && !o.working
	}
	if !heir {
		return
	}
	n.try(asks, who, "asks that duty be moved away from", i, func(_ *state, r *replica) string {
		r.revoked = true
		return ""
	})
}

// confirmed says whether every pod of set j is known to be held, by Kruise too.
func (n *next) confirmed(l int, j uint8) bool {
	s := n.s
	for i := range s.n {
		r := &s.r[i]
		if r.target != j || r.rev == 0 || r.released() {
			continue
		}
		if n.needsHold(l, r) || n.Handshake && r.state == updated && r.hands[l].token == 0 {
			return false
		}
	}
	return true
}

// needsHold says whether the hold of a pod that is not released must be put on, or put on anew:
// in the state Updating Kruise does not look at it, and when there is another template by now it
// may stay in that for ever.
func (n *next) needsHold(l int, r *replica) bool {
	return !r.released() && (!r.hold || n.Heed && r.state == updating && r.rev != n.s.minds[l].view[r.target])
}

// released says, from the pod alone, that its hold was taken off for an upgrade.
func (r *replica) released() bool { return r.rev != 0 && !r.hold && r.grant && r.note != 0 }

// marked says whether the pod bears traces of an upgrade.
func (r *replica) marked() bool { return r.grant || r.note != 0 || r.rev != 0 && r.state == preparing }

// superseded says whether the pod bears a token that was given to a later leader than l.
func (n *next) superseded(r *replica, l int) bool {
	k := n.s.number(l)
	return n.FenceToken && (r.noteBy > k || r.fenceBy > k)
}

// mine says whether l believes in a lease on this very pod that nothing on the pod denies.
func (n *next) mine(r *replica, l int) bool {
	h := r.hands[l]
	return r.rev != 0 && h.token != 0 && !h.gone && !n.bound(l) &&
		(!n.FenceToken || h.token > r.fence && h.token >= r.note && !n.superseded(r, l))
}

func (n *next) drained(r *replica) bool { return r.gateClosed || !n.Gate }

// selected says whether l counts i among those that Kruise may have.
func (n *next) selected(r *replica, l int) bool {
	switch {
	case r.rev == 0 || r.rev == n.s.minds[l].view[r.target]:
		return false
	case r.released():
		return true
	}
	return n.mine(r, l) && r.note == r.hands[l].token && r.grant && n.drained(r) && r.hold &&
		r.hands[l].op != opUndo && !n.pending(l, r.target) && !n.s.minds[l].deleted
}

// protected is the partition of set j that is exact at revision rev if those are selected
// of which sel says so.
func (s *state) protected(j, rev uint8, sel func(i int) bool) (k uint8) {
	for i := range s.n {
		if r := &s.r[i]; r.target == j && r.rev != rev && (r.rev == 0 || !sel(int(i))) {
			k++
		}
	}
	return k
}

// decide is the next step for replica i, from one version of its pod; must says that
// nothing else can be decided instead.
func (n *next) decide(l, i int) (op uint8, must bool) {
	s := n.s
	r := &s.r[i]
	j := r.target
	t := &s.t[j]
	if r.rev == 0 || n.superseded(r, l) || !t.hook {
		return opNone, true
	}
	if !s.minds[l].deleted && n.needsHold(l, r) && (t.seen.hook || n.blind(l, j)) {
		return opHold, true
	}
	if n.bound(l) && !s.minds[l].deleted {
		return opNone, true
	}
	if !n.observed(l, j) || !n.owns(l, j) || s.minds[l].ops[j].op == setRaise {
		return opNone, true // what raises the partition comes alone
	}
	return n.step(l, i)
}

// step is decide for a pod that is held, or released, in a set that Kruise has seen.
func (n *next) step(l, i int) (op uint8, must bool) {
	s := n.s
	r := &s.r[i]
	j := r.target
	h := r.hands[l]
	view := s.minds[l].view[j]
	switch {
	case r.rev != view && r.released():
		return opNone, true
	case r.rev == view && (r.verified != view || n.untold(l, r)):
		return n.verify(l, r), true
	case r.rev == view && (h.token != 0 || r.released() || r.hold && r.state == updated):
		return readmit(r, h), true
	case r.rev == view && !r.marked(), h.token == 0 && !r.marked():
		return n.tend(l, r, h), true
	case h.token == 0 || n.pending(l, j) || s.minds[l].deleted || h.gone || n.FenceToken && r.fence >= h.token:
		return n.undo(l, i), true
	}
	return n.forward(r, l), false
}

// untold says whether nobody has told the arbiter of the revision that was verified on the pod,
// and will not: it was noted under an earlier token. Then it is verified anew.
func (n *next) untold(l int, r *replica) bool {
	h := r.hands[l]
	return n.FenceToken && n.s.trusted>>r.rev&1 == 0 && !r.released() && (h.token == 0 || r.fence < h.token)
}

// forward is the next step of a leased replica on its way to its release.
func (n *next) forward(r *replica, l int) uint8 {
	switch {
	case !n.mine(r, l) || !r.hold || r.state == updated:
		return opNone
	case r.note != r.hands[l].token || !n.drained(r):
		return opNote
	case !r.grant:
		return opGrant
	case r.state == preparing && n.Pin:
		return opPin
	case r.state == preparing:
		return opHoldOff
	}
	return opNone
}

// verify is the next step for a pod that came to the update revision and was not verified.
func (n *next) verify(l int, r *replica) uint8 {
	h := r.hands[l]
	switch {
	case n.s.minds[l].deleted && h.token == 0 && !r.released():
		// Nobody verified it, and nobody will: what an ended lease left on it goes.
		if r.marked() && !chosenInVain(r) {
			return opUndo
		}
		return n.tend(l, r, h)
	case !n.Readmission && h.token != 0 && r.state != updating:
		return opRelease
	case r.restarting || r.state == preparing || r.state == updating, h.token == 0 && !r.released():
		return opNone
	case h.token != 0 && r.phase != pinned:
		return opPinOnly
	}
	return opReadmit
}

// chosenInVain: Kruise takes back by itself what it has chosen at the update revision.
func chosenInVain(r *replica) bool { return r.state == preparing && !r.grant && r.note == 0 }

// readmit is the next step for a verified pod: given back when Kruise has confirmed the hold.
func readmit(r *replica, h hand) uint8 {
	switch {
	case chosenInVain(r):
		return opNone
	case r.marked():
		return opUnmark
	case r.hold && r.state == updated:
		return opNone
	case r.gateClosed:
		return opGateOpen
	case h.token != 0:
		return opRelease
	}
	return opNone
}

// tend opens a gate that is closed for nobody, and takes the hold off when the plan goes.
func (n *next) tend(l int, r *replica, h hand) uint8 {
	switch {
	case r.gateClosed && h.token == 0:
		return opGateOpen
	case n.s.minds[l].deleted && (r.hold || r.verified != 0) && n.givesBack(l, r.target):
		return opUnhold
	}
	return opNone
}

// undo is how replica i is taken back, if it may be: until the hold is released everything
// can be undone at any time (paused, duty wanted, wrong pod chosen: the reason does not matter
// here), once the partition protects the replica and Kruise has seen that.
func (n *next) undo(l, i int) uint8 {
	s := n.s
	r := &s.r[i]
	h := r.hands[l]
	j := r.target
	isNew := r.rev == s.minds[l].view[j]
	switch {
	case r.rev == 0 || r.released() || n.superseded(r, l) || !n.observed(l, j) || !n.owns(l, j),
		isNew && (h.token != 0 || chosenInVain(r)), h.token == 0 && !r.marked(), n.OwnWrites && s.minds[l].ops[j].op != setNone,
		n.AwaitKruise && r.restarting && h.token != 0 && !r.marked() && r.fence >= h.token && !r.gateClosed:
		return opNone
	}
	if others := s.protected(j, s.minds[l].view[j], func(k int) bool { return k != i && n.selected(&s.r[k], l) }); s.minds[l].part[j] < others {
		return opNone
	}
	written := !r.marked() && (n.FenceToken && n.UndoWrites && r.fence >= h.token || !n.UndoWrites || !n.FenceToken && !r.gateClosed)
	switch {
	case !n.UndoFirst && h.token != 0:
		return opReleaseThenUndo
	case !written:
		return opUndo
	case r.gateClosed:
		return opGateOpen
	case h.token != 0:
		return opRelease
	}
	return opNone
}

// arrive lets what l has under way on replica i reach its goal, or get lost.
func (n *next) arrive(l, i int, who string) {
	s := n.s
	h := s.r[i].hands[l]
	n.try(unfair, who, "loses (conflict, crash): "+opNames[h.op]+",", i, func(_ *state, r *replica) string {
		r.hands[l].op, r.hands[l].fresh = opNone, false
		return ""
	})
	c := s.fair(l, arrived+class(h.op))
	switch h.op {
	case opPin, opPinOnly:
		n.try(c, who, "calls Pin for", i, func(t *state, r *replica) string {
			t.minds[l].delivering = true
			return n.pin(r, l)
		})
		return
	case opRelease, opReleaseThenUndo:
		n.try(c, who, "calls Release for", i, func(t *state, r *replica) string {
			t.minds[l].delivering = true
			return n.release(t, r, l)
		})
		return
	}
	if s.r[i].rev != 0 && (h.fresh || !n.Precondition) {
		n.try(c, who, "writes: "+opNames[h.op]+",", i, func(t *state, r *replica) string {
			t.minds[l].delivering = true
			if h.op == opReadmit && !s.latest(l) {
				t.minds[1-l].ops[r.target].overtaken = t.minds[1-l].ops[r.target].op != setNone
			}
			bad := n.write(t, r, l)
			r.touch()
			return bad
		})
	}
}

// pin is the arbiter's answer to Pin, and what l makes of it.
func (n *next) pin(r *replica, l int) string {
	h := &r.hands[l]
	op := h.op
	h.op = opNone
	if !r.accepts(*h) || !n.idleFor(r) || op == opPin && !r.sameUID {
		h.fresh = false
		return ""
	}
	r.phase, r.sameUID = pinned, true
	h.gone = h.gone && op == opPin
	if op == opPin {
		h.op = opHoldOff // of the very version that was seen before
	}
	return ""
}

// release is the arbiter's answer to Release. Checked: undo or readmission was written.
func (n *next) release(t *state, r *replica, l int) (bad string) {
	h := &r.hands[l]
	if r.phase != none && h.token == r.token { // one that has expired, too: its holder says that it is through
		atWork := r.committed && r.verified != r.rev && r.restarting
		// A plan that leaves takes holds off, also under a lease of which it has not heard.
		bare := !r.hold && (r.committed || !t.deleted)
		left := r.grant || r.note != 0 || r.gateClosed || bare || atWork
		if left && r.rev != 0 && !h.gone && h.op == opRelease {
			bad = "P5: the lease is released before undo or readmission is complete"
		}
		if r.rev != 0 && r.phase == pinned && r.verified == r.rev {
			t.trusted |= 1 << r.rev
		}
		r.phase, r.committed = none, false
	}
	then := opNone
	if h.op == opReleaseThenUndo {
		then = opUndo
	}
	*h = hand{op: then, fresh: h.fresh && then != opNone}
	return bad
}

// write applies what l decided to the pod.
func (n *next) write(s *state, r *replica, l int) (bad string) {
	h := &r.hands[l]
	op := h.op
	h.op = opNone
	switch op {
	case opNote:
		r.note, r.noteBy = h.token, s.number(l)
		bad = n.drain(r)
	case opGrant:
		r.grant = true
	case opHoldOff:
		r.hold, r.committed, r.verified = false, true, 0
		if r.working {
			bad = "P1: the hold of a working replica is released"
		}
	case opHold:
		r.hold, r.state, r.grant = true, updated, false
		if t := &s.t[r.target]; s.uniform(r.target) && r.rev == s.minds[l].view[r.target] && r.rev == t.finished {
			r.verified = r.rev
		}
	case opReadmit:
		if !r.hold || n.Confirm {
			r.state = updated
		}
		r.hold = true
		r.grant, r.note, r.noteBy, r.verified = false, 0, 0, s.minds[l].view[r.target]
		n.fence(s, r, l)
	case opUnmark:
		r.grant, r.note, r.noteBy = false, 0, 0
	case opUndo:
		r.grant, r.note, r.noteBy = false, 0, 0
		if r.state == preparing && r.rev != s.minds[l].view[r.target] {
			r.state = normal
		}
		n.fence(s, r, l)
	case opGateOpen:
		r.gateClosed = false
	case opUnhold:
		r.hold, r.verified = false, 0
	}
	return bad
}

// drain is what the note brings with it.
func (n *next) drain(r *replica) (bad string) {
	switch {
	case !n.Gate:
		r.grant = true
	case !r.gateClosed:
		r.gateClosed = true
		if r.working {
			bad = "P1: our gate is closed on a working replica"
		}
	}
	return bad
}

// fence ends what may be done to this pod under l's lease.
func (n *next) fence(s *state, r *replica, l int) {
	if n.FenceToken && r.hands[l].token != 0 {
		r.fence, r.fenceBy = max(r.fence, r.hands[l].token), max(r.fenceBy, min(s.number(l), s.reign))
	}
}
