package protocol

// leader emits what one incarnation of the upgrader may do: let what it has under way
// arrive, lose it (a crash, or a conflict), or, with nothing under way, read and decide.
// What it decided may arrive at any later moment, or never: a crash and a freeze at every
// instruction are in there, for everything is derived from objects.
func (p Rules) leader(s *state, l int, emit func(*step)) {
	if l == 1 && !p.takeover(s, emit) {
		return
	}
	who := [...]string{"leader 0", "leader 1"}[l]
	free := s.sets[l].op == setNone || !p.OwnWrites
	for i := range s.r {
		if s.r[i].hands[l].op != opNone {
			p.arrive(s, l, i, who, emit)
			free = false
		}
	}
	if s.sets[l].op != setNone {
		p.arriveSet(s, l, who, emit)
	}
	if !free {
		return
	}
	for i := range s.r {
		p.learn(s, l, i, who, emit)
		p.acquire(s, l, i, who, emit)
		if op := p.decide(s, l, i); op != opNone {
			p.try(s, emit, who, "decides: "+opNames[op]+",", i, begin(l, op))
		}
		if op := p.undo(s, l, i); op != opNone {
			p.try(s, emit, who, "decides: undo,", i, begin(l, op))
		}
	}
	if s.sets[l].op == setNone {
		p.decideSet(s, l, who, emit)
	}
}

func begin(l int, op uint8) func(*state, *replica) string {
	return func(_ *state, r *replica) string {
		r.hands[l].op, r.hands[l].fresh = op, true
		return ""
	}
}

// takeover lets leader 1 begin: Adopt, then its term on the set. It returns whether it
// may go on.
func (p Rules) takeover(s *state, emit func(*step)) bool {
	if !s.succeeded {
		p.try(s, emit, "leader 1", "takes over: adopts all leases", -1, func(t *state, _ *replica) string {
			t.succeeded, t.adopted = true, 1
			for i := range t.r {
				r := &t.r[i]
				if r.phase != leased && r.phase != pinned {
					continue
				}
				if p.Token {
					r.token = r.top()
				}
				r.hands[1].token, r.hands[1].gone = r.token, !r.sameUID
			}
			return ""
		})
		return false
	}
	if p.SetFence && s.term == 0 {
		p.try(s, emit, "leader 1", "puts its term on the set", -1, func(t *state, _ *replica) string {
			t.term = 1
			t.touchSet()
			return ""
		})
		return false
	}
	return true
}

// blind says whether l may be working from a cache of the set from before it was succeeded.
func (s *state) blind(l int) bool { return l == 0 && s.succeeded }

// observed says whether, as far as l can see, Kruise has seen the latest change of the set.
func (s *state) observed(l int) bool { return s.blind(l) || s.seen == s.set }

// learn: the leases as the arbiter lists them. A leader that was succeeded learns nothing
// more (tokens that it was not given tell it that it was).
func (p Rules) learn(s *state, l, i int, who string, emit func(*step)) {
	r := &s.r[i]
	if int(s.adopted) != l || r.hands[l].op != opNone {
		return
	}
	h := hand{}
	if r.phase == leased || r.phase == pinned {
		h = hand{token: r.token, gone: !r.sameUID}
	}
	if h.token == r.hands[l].token && h.gone == r.hands[l].gone {
		return
	}
	p.try(s, emit, who, "learns how it stands with its lease on", i, func(_ *state, r *replica) string {
		r.hands[l] = h
		return ""
	})
}

// acquire is one call; its arrival, the answer and the belief are one action.
func (p Rules) acquire(s *state, l, i int, who string, emit func(*step)) {
	r := &s.r[i]
	switch {
	case int(s.adopted) != l && p.Token,
		!s.set.template || !s.observed(l) || !p.confirmed(s) || s.marked(i),
		r.phase != none || r.working || !r.alive || r.hands[l].token != 0 || s.leases() >= p.MaxLeased,
		r.new && r.verified, !r.new && (r.state != normal || r.grant || r.note != 0):
		return
	}
	p.try(s, emit, who, "acquires a lease on", i, func(_ *state, r *replica) string {
		r.phase, r.token, r.sameUID = leased, r.top(), true
		r.hands[l] = hand{token: r.token}
		return ""
	})
}

// marked says whether a lease has left its marks on a replica other than i that has not
// got one now: they are taken back before another lease is asked for.
func (s *state) marked(i int) bool {
	for j := range s.r {
		if r := &s.r[j]; j != i && r.phase == none && (r.grant || r.note != 0 || r.gateClosed || !r.new && r.state == preparing) {
			return true
		}
	}
	return false
}

// confirmed says whether every pod at v1 is known to be held, by Kruise too.
func (p Rules) confirmed(s *state) bool {
	for i := range s.r {
		if r := &s.r[i]; r.alive && !r.new && !r.released() && (!r.hold || p.Handshake && r.state == updated) {
			return false
		}
	}
	return true
}

// released says, from the pod alone, that its hold was taken off for an upgrade.
func (r *replica) released() bool { return r.alive && !r.hold && r.grant && r.note != 0 }

// superseded says whether the pod bears a token that was given to a later leader than l.
func (p Rules) superseded(r *replica, l int) bool {
	return p.FenceToken && l == 0 && (r.noteB || r.fenceB)
}

// mine says whether l believes in a lease on this very pod that nothing on the pod denies.
func (p Rules) mine(r *replica, l int) bool {
	h := r.hands[l]
	return r.alive && h.token != 0 && !h.gone &&
		(!p.FenceToken || h.token > r.fence && h.token >= r.note && !p.superseded(r, l))
}

func (p Rules) drained(r *replica) bool { return r.gateClosed || !p.Gate }

// selected says whether l counts i among those that Kruise may have.
func (p Rules) selected(r *replica, l int) bool {
	return !r.new && (r.released() || p.mine(r, l) && r.note == r.hands[l].token && r.grant && p.drained(r))
}

// protected is the partition that is exact if those are selected of which sel says so.
func (s *state) protected(sel func(i int) bool) (n uint8) {
	for i := range s.r {
		if r := &s.r[i]; !r.alive || !r.new && !sel(i) {
			n++
		}
	}
	return n
}

// decide is the next step forward for replica i, from one version of its pod.
func (p Rules) decide(s *state, l, i int) uint8 {
	r := &s.r[i]
	h := r.hands[l]
	if !r.alive || p.superseded(r, l) || !s.observed(l) {
		return opNone
	}
	if !r.hold && !r.released() && (s.set.hook || !p.Hold) && (!r.new || h.token == 0) {
		return opHold
	}
	if r.new {
		return readmit(r, h)
	}
	if !p.mine(r, l) || !r.hold || r.state == updated || !s.set.template {
		return opNone
	}
	switch {
	case r.note != h.token:
		return opNote
	case !p.drained(r):
		return opGateClose
	case !r.grant:
		return opGrant
	case r.state == preparing && p.Pin:
		return opPin
	case r.state == preparing:
		return opHoldOff
	}
	return opNone
}

// readmit is the next step for a pod at v2: verified under the lease, given back when
// Kruise has confirmed the hold.
func readmit(r *replica, h hand) uint8 {
	switch {
	case h.token == 0 || r.state == preparing || r.state == updating:
		return opNone
	case !r.verified:
		return opReadmit
	case r.state != normal || !r.hold:
		return opNone
	case r.gateClosed:
		return opGateOpen
	}
	return opRelease
}

// mayUndo: until the hold is released everything can be undone at any time (paused, duty
// wanted, wrong pod chosen: the reason does not matter here), once the partition protects
// the replica and Kruise has seen that.
func (p Rules) mayUndo(s *state, l, i int) bool {
	r := &s.r[i]
	if !r.alive || r.new || !r.hold || r.state == updated || p.superseded(r, l) || !s.observed(l) {
		return false
	}
	if r.hands[l].token == 0 && !r.grant && r.note == 0 && !r.gateClosed && r.state != preparing {
		return false
	}
	others := s.protected(func(j int) bool { return j != i && p.selected(&s.r[j], l) })
	return s.blind(l) || s.set.partition >= others
}

// undo is how replica i is taken back, if it may be.
func (p Rules) undo(s *state, l, i int) uint8 {
	r := &s.r[i]
	lease := r.hands[l].token != 0
	switch {
	case !p.mayUndo(s, l, i):
		return opNone
	case !p.UndoFirst && lease:
		return opReleaseThenUndo
	case !p.UndoWrites && lease && !r.grant && r.note == 0 && !r.gateClosed && r.state == normal:
		return opRelease
	}
	return opUndo
}

// arrive lets what l has under way on replica i reach its goal, or get lost.
func (p Rules) arrive(s *state, l, i int, who string, emit func(*step)) {
	h := s.r[i].hands[l]
	p.try(s, emit, who, "loses (conflict, crash): "+opNames[h.op]+",", i, func(_ *state, r *replica) string {
		r.hands[l].op, r.hands[l].fresh = opNone, false
		return ""
	})
	switch h.op {
	case opPin:
		p.try(s, emit, who, "calls Pin for", i, func(_ *state, r *replica) string { return p.pin(r, l) })
		return
	case opRelease, opReleaseThenUndo:
		p.try(s, emit, who, "calls Release for", i, func(t *state, r *replica) string { return p.release(t, r, l) })
		return
	}
	if s.r[i].alive && (h.fresh || !p.Precondition) {
		p.try(s, emit, who, "writes: "+opNames[h.op]+",", i, func(_ *state, r *replica) string {
			bad := p.write(r, l)
			fresh := r.hands[l].op != opNone
			r.touch()
			r.hands[l].fresh = fresh // of a write of one's own one knows the version
			return bad
		})
	}
}

// pin is the arbiter's answer to Pin, and what l makes of it.
func (p Rules) pin(r *replica, l int) string {
	h := &r.hands[l]
	if !r.accepts(*h) || r.working || !r.sameUID {
		h.op, h.fresh = opNone, false
		return ""
	}
	r.phase = pinned
	h.op = opHoldOff // of the very version that was seen before
	return ""
}

// release is the arbiter's answer to Release. Checked: undo or readmission was written.
func (p Rules) release(t *state, r *replica, l int) (bad string) {
	h := &r.hands[l]
	if r.accepts(*h) {
		back := r.new && r.verified || r.born || !r.committed
		left := r.grant || r.note != 0 || r.gateClosed || !r.hold || !back
		if left && r.alive && !h.gone && h.op == opRelease {
			bad = "P5: the lease is released before undo or readmission is complete"
		}
		t.trusted = t.trusted || r.new && r.verified
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
func (p Rules) write(r *replica, l int) (bad string) {
	h := &r.hands[l]
	op := h.op
	h.op = opNone
	switch op {
	case opNote:
		r.note, r.noteB = h.token, l == 1
	case opGateClose:
		r.gateClosed = true
		if r.working {
			bad = "P1: our gate is closed on a working replica"
		}
	case opGrant:
		r.grant = true
	case opHoldOff:
		r.hold, r.committed = false, true
		if r.working {
			bad = "P1: the hold of a working replica is released"
		}
	case opHold:
		r.hold, r.state, r.grant = true, updated, false
	case opReadmit:
		r.hold, r.grant, r.verified, r.state = true, false, true, updated
		r.note, r.noteB = 0, false
		p.fence(r, l)
	case opUndo:
		r.grant, r.note, r.noteB = false, 0, false
		if r.state == preparing {
			r.state = normal
		}
		p.fence(r, l)
		h.op = afterwards(r, h)
	case opGateOpen:
		r.gateClosed = false
		h.op = afterwards(r, h)
	}
	return bad
}

// afterwards is what follows on an undo: the gate, and the lease last.
func afterwards(r *replica, h *hand) uint8 {
	switch {
	case r.gateClosed:
		return opGateOpen
	case h.token != 0:
		return opRelease
	}
	return opNone
}

// fence ends what may be done to this pod under l's lease.
func (p Rules) fence(r *replica, l int) {
	if p.FenceToken && r.hands[l].token != 0 {
		r.fence, r.fenceB = max(r.fence, r.hands[l].token), r.fenceB || l == 1
	}
}

// decideSet: arming, the template, the partition down (pods read first, the set later) or
// up. Arming and the template are single actions: only leader 0 lives then, or nothing
// that the other could do to the set would survive its term.
func (p Rules) decideSet(s *state, l int, who string, emit func(*step)) {
	if p.SetFence && int(s.term) != l {
		if s.blind(l) {
			p.readPods(s, l, who, emit)
		}
		return
	}
	switch {
	case p.Hold && !s.set.hook:
		p.try(s, emit, who, "arms the set", -1, func(t *state, _ *replica) string {
			t.set.hook = true
			t.touchSet()
			return ""
		})
		return
	case !s.set.template:
		if !p.armed(s) {
			return
		}
		p.try(s, emit, who, "writes the template and partition 3", -1, func(t *state, _ *replica) string {
			t.set.template, t.set.partition = true, replicas
			t.touchSet()
			return ""
		})
		return
	}
	p.readPods(s, l, who, emit)
	up := s.protected(func(i int) bool { return s.r[i].released() })
	if up > s.set.partition {
		p.try(s, emit, who, "decides: raise the partition", -1, func(t *state, _ *replica) string {
			t.sets[l] = setOp{op: setRaise, partition: up, fresh: true}
			return ""
		})
	}
}

// armed says whether the template may be written.
func (p Rules) armed(s *state) bool {
	for i := range s.r {
		if r := &s.r[i]; !r.alive || !r.hold || p.Handshake && r.state != normal {
			return false
		}
	}
	return s.seen == s.set
}

// readPods computes the exact partition from the pods as they are now.
func (p Rules) readPods(s *state, l int, who string, emit func(*step)) {
	down := s.protected(func(i int) bool { return p.selected(&s.r[i], l) })
	if !s.set.template || down >= s.set.partition || !s.observed(l) || !p.confirmed(s) {
		return
	}
	p.try(s, emit, who, "reads the pods, will lower the partition", -1, func(t *state, _ *replica) string {
		t.sets[l] = setOp{op: setLowerPod, partition: down}
		return ""
	})
}

func (p Rules) arriveSet(s *state, l int, who string, emit func(*step)) {
	o := s.sets[l]
	p.try(s, emit, who, "loses (conflict, crash) its write of the set", -1, func(t *state, _ *replica) string {
		t.sets[l] = setOp{}
		return ""
	})
	if o.op == setLowerPod {
		if s.blind(l) && !p.TermOrder && s.term == 1 {
			p.try(s, emit, who, "puts its older term on the set", -1, func(t *state, _ *replica) string {
				t.term = 0
				t.touchSet()
				return ""
			})
		}
		if (!p.SetFence || int(s.term) == l) && o.partition < s.set.partition && s.seen == s.set {
			p.try(s, emit, who, "reads the set, decides: lower the partition", -1, func(t *state, _ *replica) string {
				t.sets[l].op, t.sets[l].fresh = setLower, true
				return ""
			})
		}
		return
	}
	if !o.fresh && p.Precondition {
		return
	}
	p.try(s, emit, who, "writes: the partition", -1, func(t *state, _ *replica) (bad string) {
		exact := t.protected(func(i int) bool { r := &t.r[i]; return r.grant && r.note != 0 })
		if o.partition < exact && !o.overtaken {
			bad = "P4: the partition is set below the number of protected replicas"
		}
		t.set.partition = o.partition
		t.sets[l] = setOp{}
		t.touchSet()
		return bad
	})
}
