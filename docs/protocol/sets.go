package protocol

// decideSet: arming, the template, the partition down (pods read first, the set later) or
// up, the end of the rollout, the way out. What is not the partition of a rollout is a single
// action: its two ends cannot be torn apart by a crash, since it carries the set's version.
func (n *next) decideSet(l int, j uint8, who string) {
	s := n.s
	t := &s.t[j]
	d := &s.minds[l]
	if !t.hook && s.accepted(l) && d.view[j] == t.template {
		if !d.deleted && !d.delivering {
			n.arm(l, j, who)
		}
		return
	}
	if n.SetFence && t.term != s.number(l) || !s.latest(l) && !n.SetFence && n.Token {
		n.foreign(l, j, who)
		return
	}
	if d.view[j] != t.template {
		return // what it decided on the old one would conflict
	}
	switch {
	case !t.hook:
		return
	case n.bound(l) && !d.deleted: // it raises the partition, and nothing else
		n.raise(l, j, who)
		return
	case d.deleted:
		n.giveBack(l, j, who)
	case n.pending(l, j):
		n.template(l, j, who, n.Wishes[d.wish])
	case n.trace && n.want.Sets[j].Template != t.template:
		n.template(l, j, who, n.want.Sets[j].Template)
	default:
		n.finish(l, j, who)
	}
	n.readPods(l, j, who)
	n.raise(l, j, who)
}

// foreign is decideSet where another leader's term is on the set.
func (n *next) foreign(l int, j uint8, who string) {
	if !n.s.latest(l) {
		n.term(l, j, who)
		n.readPods(l, j, who)
		return
	}
	if n.s.minds[l].view[j] == n.s.t[j].template {
		n.raise(l, j, who) // which waits for nothing, and brings the term with it
	}
	if !n.bound(l) || n.s.minds[l].deleted {
		n.term(l, j, who)
	}
}

// raise is for when somebody is not to be updated any more, or for a change of mind.
func (n *next) raise(l int, j uint8, who string) {
	s := n.s
	t := &s.t[j]
	if s.claims(l, j) {
		return
	}
	exact := s.size(j)
	if t.seen.template == t.template {
		exact = s.protected(j, t.template, func(i int) bool { return n.selected(&s.r[i], l) })
	}
	if exact > t.partition {
		n.raiseTo(s.fair(l, mustRaise), l, j, who, exact)
	}
	must := n.must(j)
	if must > t.partition && must != exact && t.term == s.number(l) {
		n.raiseTo(unfair, l, j, who, must) // a change of mind
	}
	// One that was released and is being deleted counts no more, which only a trace can tell of:
	// an exploration has no pods that are on their way out.
	for up := max(must, t.partition) + 1; n.trace && up <= s.size(j); up++ {
		n.raiseTo(unfair, l, j, who, up)
	}
}

func (n *next) raiseTo(c class, l int, j uint8, who string, up uint8) {
	n.trySet(c, who, "decides: raise the partition of", j, func(x *state, _ *target) string {
		x.minds[l].ops[j] = setOp{op: setRaise, partition: up, fresh: true}
		return ""
	})
}

// must is what the partition of set j must be when nobody but those released is selected.
func (n *next) must(j uint8) uint8 {
	s := n.s
	t := &s.t[j]
	if t.seen.template != t.template {
		return s.size(j)
	}
	return s.protected(j, t.template, func(i int) bool { return s.r[i].released() })
}

func (s *state) size(j uint8) (k uint8) {
	for i := range s.n {
		if s.r[i].target == j {
			k++
		}
	}
	return k
}

// uniform says whether no rollout is under way in set j.
func (s *state) uniform(j uint8) bool {
	t := &s.t[j]
	for i := range s.n {
		if s.r[i].target == j && s.r[i].rev != 0 && s.r[i].rev != t.template {
			return false
		}
	}
	return t.current == t.template && t.seen.template == t.template
}

// term puts l's term on set j.
func (n *next) term(l int, j uint8, who string) {
	s := n.s
	t := &s.t[j]
	if !n.SetFence || t.term > s.number(l) || !n.observed(l, j) || !t.hook || s.minds[l].delivering || s.minds[l].view[j] != t.template {
		return
	}
	n.trySet(termed, who, "puts its term on", j, func(x *state, k *target) string {
		k.term = x.number(l)
		x.touchSet(j)
		return ""
	})
}

func (n *next) arm(l int, j uint8, who string) {
	to := parked
	if !n.s.uniform(j) {
		to = max(n.s.protected(j, n.s.t[j].template, nobody), n.s.t[j].partition)
	}
	n.trySet(n.s.fair(l, arms), who, "arms", j, func(x *state, k *target) string {
		if k.finished == 0 && x.uniform(j) {
			k.finished = k.template
		}
		k.hook, k.partition, k.term = true, to, x.number(l)
		x.touchSet(j)
		return ""
	})
}

func nobody(int) bool { return false }

// template is written when every pod is held, Kruise has confirmed that, and nobody is on a
// way from which it can be taken back.
func (n *next) template(l int, j uint8, who string, want uint8) {
	s := n.s
	t := &s.t[j]
	if s.minds[l].delivering || t.seen != t.set || !n.confirmed(l, j) || n.moving(l, j) || s.claims(l, j) {
		return
	}
	n.trySet(s.fair(l, templates), who, "writes the template and the partition of", j, func(x *state, k *target) (bad string) {
		k.template = want
		if n.OneWrite {
			k.partition = x.size(j)
		}
		if k.partition < x.size(j) {
			bad = "P4: a template is written, and the partition is below the number of replicas"
		}
		x.minds[l].view[j] = want
		x.touchSet(j)
		return bad
	})
}

// moving says whether any replica of set j can still be taken back, or is being.
func (n *next) moving(l int, j uint8) bool {
	s := n.s
	for i := range s.n {
		r := &s.r[i]
		if r.target == j && r.rev != 0 && r.rev != s.minds[l].view[j] && !r.released() && (r.marked() || r.hands[l].token != 0) {
			return true
		}
	}
	return false
}

// claims says whether l has anything under way on a replica of set j.
func (s *state) claims(l int, j uint8) bool {
	for i := range s.n {
		if s.r[i].target == j && s.r[i].hands[l].op != opNone {
			return true
		}
	}
	return false
}

// readPods computes the exact partition from the pods as they are now.
func (n *next) readPods(l int, j uint8, who string) {
	s := n.s
	t := &s.t[j]
	view := s.minds[l].view[j]
	if !t.hook || !n.observed(l, j) || !n.confirmed(l, j) {
		return
	}
	sel := 0
	down := s.protected(j, view, func(i int) bool {
		if n.selected(&s.r[i], l) {
			sel++
			return true
		}
		return false
	})
	if sel == 0 || down >= t.partition {
		return
	}
	// One that is being deleted counts no more: it may lower it for fewer.
	for to := down; to < t.partition && (to == down || to < down+uint8(sel)); to++ {
		c := s.fair(l, readsPods)
		if to > down {
			c = unfair
		}
		n.trySet(c, who, "reads the pods, will lower the partition of", j, func(x *state, _ *target) string {
			x.minds[l].ops[j] = setOp{op: setLowerPod, partition: to}
			return ""
		})
	}
}

// finish ends the rollout of set j.
func (n *next) finish(l int, j uint8, who string) {
	s := n.s
	t := &s.t[j]
	if t.seen != t.set || s.minds[l].delivering {
		return
	}
	for i := range s.n {
		r := &s.r[i]
		if r.target == j && (r.rev != t.template || r.verified != r.rev || r.marked() || !r.hold || r.state == updated || r.hands[l].token != 0) {
			return
		}
	}
	switch {
	case n.Conclude && t.current != t.template:
		n.trySet(s.fair(l, ends), who, "sets status.currentRevision of", j, func(_ *state, k *target) string {
			k.current = k.template
			return ""
		})
	case t.partition != parked:
		n.trySet(s.fair(l, ends), who, "parks the partition of", j, func(x *state, k *target) string {
			k.partition, k.finished = parked, k.template
			x.touchSet(j)
			return ""
		})
	}
}

// inFlight says whether a replica of set j is not finished yet.
func (n *next) inFlight(l int, j uint8) bool {
	for i := range n.s.n {
		if r := &n.s.r[i]; r.target == j && (r.hands[l].token != 0 || r.marked()) {
			return true
		}
	}
	return false
}

// restored is the partition that a plan leaves behind, if the set has that template.
func (n *next) restored(j, template uint8) uint8 {
	if !n.Restore {
		return 0 // what the field is when its owner gives it up
	}
	return max(n.before[j], n.s.protected(j, template, nobody))
}

// givesBack says whether set j is ready for its holds to be taken off.
func (n *next) givesBack(l int, j uint8) bool {
	s := n.s
	restored := s.minds[l].part[j] == n.restored(j, s.minds[l].view[j])
	return n.owns(l, j) && n.observed(l, j) && restored && (!n.Finish || !n.inFlight(l, j))
}

// giveBack restores the partition, and when the holds are off, the rest.
func (n *next) giveBack(l int, j uint8, who string) {
	s := n.s
	t := &s.t[j]
	if s.minds[l].delivering || t.seen != t.set || n.Finish && n.inFlight(l, j) || s.claims(l, j) {
		return
	}
	if to := n.restored(j, t.template); t.partition != to {
		n.trySet(s.fair(l, leaves), who, "restores the partition of", j, func(x *state, k *target) (bad string) {
			if to < x.protected(j, k.template, nobody) {
				bad = "P4: the partition is set below the number of protected replicas"
			}
			k.partition = to
			x.touchSet(j)
			return bad
		})
		return
	}
	for i := range s.n {
		if r := &s.r[i]; r.target == j && r.rev != 0 && (r.hold && (n.Finish || !r.marked()) || r.gateClosed) {
			return
		}
	}
	n.trySet(s.fair(l, leaves), who, "gives back", j, func(x *state, k *target) string {
		k.hook = false
		x.touchSet(j)
		return ""
	})
}

// leave is the last step of a plan that is deleted: its holder is retired, which the arbiter
// refuses while it has leases.
func (n *next) leave(l int, who string) {
	s := n.s
	if !s.minds[l].deleted || !s.accepted(l) || s.under(l) {
		return
	}
	for j := range s.m {
		if s.t[j].hook {
			return
		}
	}
	for i := range s.n {
		r := &s.r[i]
		if r.phase != none || r.hands[l].token != 0 {
			n.orphan(l, int(i), who)
			return
		}
	}
	n.try(leaves, who, "retires its holder and goes", -1, func(t *state, _ *replica) string {
		t.left = true
		return ""
	})
}

// orphan gives a lease back whose set is given back already.
func (n *next) orphan(l, i int, who string) {
	if r := &n.s.r[i]; r.hands[l].token != 0 && r.hands[l].op == opNone {
		n.try(decided+class(opRelease), who, "decides: release,", i, begin(l, opRelease))
	}
}

// readSet is the second half of a decision to lower the partition.
func (n *next) readSet(l int, j uint8, who string, goesOn bool) {
	s := n.s
	if number := s.number(l); !n.TermOrder && s.t[j].term > number {
		n.trySet(unfair, who, "puts its older term on", j, func(x *state, k *target) string {
			k.term = number
			x.touchSet(j)
			return ""
		})
	}
	if goesOn {
		n.trySet(s.fair(l, readsSet), who, "reads the set, decides: lower the partition of", j, func(x *state, _ *target) string {
			x.minds[l].ops[j].op, x.minds[l].ops[j].fresh = setLower, true
			return ""
		})
	}
}

func (n *next) arriveSet(l int, j uint8, who string) {
	s := n.s
	t := &s.t[j]
	o := s.minds[l].ops[j]
	number := s.number(l)
	goesOn := (!n.SetFence || t.term == number) && o.partition < t.partition && t.seen == t.set && s.minds[l].view[j] == t.template
	c := unfair
	if o.op == setLowerPod && !goesOn {
		c = s.fair(l, conflicts)
	}
	n.trySet(c, who, "loses (conflict, crash) its write of", j, func(x *state, _ *target) string {
		x.minds[l].ops[j] = setOp{}
		return ""
	})
	if o.op == setLowerPod {
		n.readSet(l, j, who, goesOn)
		return
	}
	if !o.fresh && n.Precondition {
		return
	}
	c = lowers
	if o.op == setRaise {
		c = raises
	}
	n.trySet(s.fair(l, c), who, "writes: the partition of", j, func(x *state, k *target) (bad string) {
		exact := x.protected(j, k.template, func(i int) bool { r := &x.r[i]; return r.grant && r.note != 0 })
		if o.partition < exact && !o.overtaken {
			bad = "P4: the partition is set below the number of protected replicas"
		}
		k.partition = o.partition
		if o.op == setRaise {
			k.term = max(k.term, number)
		}
		x.minds[l].ops[j] = setOp{}
		x.minds[l].delivering = true
		x.touchSet(j)
		return bad
	})
}
