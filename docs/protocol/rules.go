package protocol

// Rules is a protocol with bounds. Each flag of the first group is a mechanism of
// DESIGN.md; each of the second mends what this model found missing; taking any of them
// out must give a counterexample.
type Rules struct {
	Pin          bool // the hold is released only under a pinned lease
	Token        bool // the arbiter refuses calls with a token older than the adoption
	Hold         bool // Kruise is told of the hold (the lifecycle hook)
	Precondition bool // every write of ours names the version that it was decided on
	SetFence     bool // a new leader puts its term on the set before it acts
	Handshake    bool // no template is written before Kruise has confirmed every hold
	UndoFirst    bool // the pod is taken back before its lease is released
	PodFence     bool // the arbiter touches the pod of an expired lease before it forgets it

	OneWrite     bool // the template is written together with the partition
	Conclude     bool // a rollout ends only when status.currentRevision agrees
	Readmission  bool // the lease is released after the hold is back and Kruise has confirmed it
	Acknowledged bool // a replica whose duty was taken is idle only when it says so
	Restore      bool // a plan that goes raises the partition to what protects, and then restores no lower one
	Finish       bool // a plan that goes finishes or undoes what it has begun first
	AwaitKruise  bool // no lease is given back while the containers that Kruise updates restart
	Heed         bool // a pod that is left in the state Updating, in which Kruise looks at no hold, is held anew
	Confirm      bool // Kruise confirms the hold of whatever was verified, also one that was on all the time

	FenceToken bool // a fence is a token, written at expiry, undo and readmission, and compared
	NewbornBan bool // no duty for a pod born under a holder until its hold is confirmed
	OwnWrites  bool // an upgrader does not decide on a cache that lacks its own writes
	TermOrder  bool // a leader that finds a later term on the set stops; it does not write its own
	AdoptFirst bool // a new leader does no more than protect, or give back, before it has adopted
	UndoWrites bool // an undo writes the pod even where there is nothing to take back

	Targets   []int   // how many replicas each set has
	Wishes    []uint8 // the revisions that the plan asks for, one after the other, at any moment
	Follow    bool    // somebody else writes the templates, at any moment, and no partition
	Delete    bool    // the plan may be deleted at any moment
	Slots     int     // that many replicas work, and go only on request; 0: duty comes and goes
	Handover  bool    // the upgrader asks for that
	Leaders   int     // 1, or 2: another takes over at any moment, the first lives on
	MaxLeased int     // leases at a time
	Losses    int     // pods lost, in all
	Expiries  int     // leases that expire, in all
	Gate      bool    // pods declare our gate: it is closed before a replica is selected
	Keeps     bool    // a name whose pod is lost keeps its duty: the new pod has it at once (decision 0012)
	Strays    bool    // the label of a hold may stay where a set has no hook any more (decision 0007)
	Batch     bool    // an upgrader decides on several replicas and sets at a time

	before [maxTargets]uint8 // the partitions that a plan which goes restores
	trace  bool              // any number of leaders, one after the other; what the plan asks for is not known
}

// Design is DESIGN.md without the mends; Protocol has them.
var (
	Design = Rules{
		Pin: true, Token: true, Hold: true, Precondition: true, SetFence: true, Handshake: true,
		UndoFirst: true, PodFence: true, OneWrite: true, Conclude: true, Readmission: true,
		Acknowledged: true, Restore: true, Finish: true, AwaitKruise: true, Heed: true, Confirm: true, OwnWrites: true, TermOrder: true, AdoptFirst: true, UndoWrites: true,
		Targets: []int{3}, Wishes: []uint8{2}, Leaders: 2, MaxLeased: 1, Gate: true, Expiries: 1,
	}
	Protocol = Design.with(func(r *Rules) { r.FenceToken, r.NewbornBan = true, true })
)

func (p Rules) with(change func(*Rules)) Rules {
	change(&p)
	return p
}

// initial returns the states in which everything begins: all pods at v1 without a hold,
// no set armed, each combination of duty with a worker.
func (p *Rules) initial() []state {
	var all []state
	n := 0
	for _, k := range p.Targets {
		n += k
	}
	for workers := range 1 << n {
		s := p.blank()
		on := 0
		for i := range s.n {
			s.r[i].working = workers>>i&1 == 1
			if s.r[i].working {
				on++
			}
		}
		if p.Slots == 0 || on == p.Slots {
			all = append(all, s)
		}
	}
	return all
}

// blank is initial without anybody at work.
func (p *Rules) blank() state {
	s := state{trusted: 1 << 1, losses: uint8(p.Losses), expiries: uint8(p.Expiries)} //nolint:gosec // small bounds
	for j, k := range p.Targets {
		t := &s.t[j]
		t.set = set{template: 1}
		t.seen, t.current, t.finished = t.set, 1, 1
		s.m++
		for range k {
			r := &s.r[s.n]
			r.target = uint8(j)
			r.rev, r.verified = 1, 0
			r.seen = r.pod
			s.n++
		}
	}
	for l := range s.minds {
		for j := range s.m {
			s.minds[l].view[j] = 1
		}
	}
	s.look()
	return s
}

// done says whether the plan is complete, or gone, and nothing was left behind.
func (p *Rules) done(s *state) bool {
	if s.deleted {
		return s.left
	}
	for i := range s.n {
		r := &s.r[i]
		t := &s.t[r.target]
		if t.template != p.Wishes[s.wish] || t.partition != parked || t.current != t.template {
			return false
		}
		if r.rev != t.template || r.verified != r.rev || !r.hold || r.state != normal || r.marked() ||
			r.gateClosed || r.phase != none || r.committed {
			return false
		}
	}
	return true
}

// invariant returns the promise that s breaks, or "". What a write may not do is checked
// where the write is (see step.bad).
func (p *Rules) invariant(s *state) string {
	for i := range s.n {
		r := &s.r[i]
		switch {
		case p.Pin && r.committed && r.phase != pinned:
			return "P3: the hold was released, and the replica is not pinned until it is readmitted"
		case p.Pin && r.committed && r.working:
			return "P3: duty between the release of the hold and readmission"
		case r.phase != none && r.working:
			return "P1: duty under a lease"
		case r.rev != 0 && !r.hold && r.note != 0 && !r.committed:
			return "P5: a hold was left off"
		case s.left && (r.phase != none || r.marked() || r.gateClosed || r.rev != 0 && r.hold && !r.born && !p.Strays):
			return "P7: the plan is gone and has left something behind"
		}
	}
	return ""
}

// class says to which kind of action a step belongs; the fair ones are not put off for ever.
type class uint8

const (
	unfair class = iota // may happen, may as well never happen
	seesPods
	seesGrant // before it sees that the partition was lowered
	seesSets
	seesLowered // and its pods are not late
	kruiseWrites
	kruiseChooses // a pod with a grant
	kruiseUpdates
	kruiseCreates
	kruiseConcludes
	restarts
	fences
	forgets
	acknowledges
	acknowledgesOld // one that is not at the revision which is wanted, or not verified there
	hears           // what the plan says, and the template of a set
	learns          // of its leases
	adopts
	asks // for a handover
	acquires
	termed
	arms
	templates
	readsPods // to lower the partition
	readsSet
	lowers
	conflicts // what can only be refused, is
	mustRaise
	raises
	ends // a rollout: conclude, park
	leaves
	decided // + op
	arrived = decided + class(ops)
	classes = arrived + class(ops)
)

// step is one action and the state it leads to.
type step struct {
	who, what string
	replica   int // -1: none
	target    int // -1: none
	class     class
	to        state
	bad       string // the promise that the action itself breaks
}

// next is one look at what may happen in a state.
type next struct {
	*Rules
	s    *state
	st   step
	emit func(*step)
	// want is what a trace shows next; nil in an exploration.
	want *Sight
}

// all calls emit for every action that is possible in s.
func (n *next) all(s *state) {
	n.s = s
	for i := range s.n {
		n.environment(int(i))
		n.arbiter(int(i))
		n.kruisePod(int(i))
	}
	n.kruiseCaches()
	n.kruiseConclude()
	n.user()
	if s.left {
		return
	}
	if n.trace {
		n.leader(int(s.lead & 1))
		if s.lead > 0 {
			n.leader(int(s.lead-1) & 1)
		}
		if s.lead < n.want.latest() {
			n.begins()
		}
		return
	}
	for l := range n.Leaders {
		if l > int(s.lead) {
			n.begins()
			continue
		}
		n.leader(l)
	}
}

// try emits the action that change makes of a copy of s.
func (n *next) try(c class, who, what string, i int, change func(t *state, r *replica) string) {
	n.tryOf(c, who, what, i, -1, change)
}

// trySet is try about set j.
func (n *next) trySet(c class, who, what string, j uint8, change func(t *state, k *target) string) {
	n.tryOf(c, who, what, -1, int(j), func(t *state, _ *replica) string { return change(t, &t.t[j]) })
}

func (n *next) tryOf(c class, who, what string, i, j int, change func(t *state, r *replica) string) {
	st := &n.st
	st.who, st.what, st.replica, st.target, st.class, st.to = who, what, i, j, c, *n.s
	var r *replica
	if i >= 0 {
		r = &st.to.r[i]
	}
	st.bad = change(&st.to, r)
	if n.Precondition {
		st.to.settle()
	}
	st.to.idle()
	st.to.look()
	n.emit(st)
}

// environment: containers have restarted, pods are lost.
func (n *next) environment(i int) {
	if n.s.r[i].restarting {
		n.try(restarts, "kubelet", "has restarted the containers of", i, func(_ *state, r *replica) string {
			r.restarting = false
			return ""
		})
	}
	if n.s.losses == 0 || n.s.r[i].rev == 0 {
		return
	}
	n.try(unfair, "node", "loses the pod", i, func(t *state, r *replica) string {
		t.losses--
		r.pod, r.gateClosed, r.verified = pod{}, false, 0
		r.note, r.fence, r.noteBy, r.fenceBy = 0, 0, 0, 0
		r.kept = n.Keeps && r.working
		r.working, r.revoked, r.sameUID, r.born = false, false, false, false
		r.touch()
		for l := range t.minds {
			o := &t.minds[l].ops[r.target]
			o.overtaken = o.op != setNone
		}
		for l := range r.hands {
			r.hands[l].gone = r.hands[l].token != 0
		}
		return ""
	})
}

// user: another image is asked for, the plan is deleted; each leader hears of it at any
// time.
func (n *next) user() {
	s := n.s
	if int(s.wish)+1 < len(n.Wishes) && !s.deleted {
		n.try(unfair, "user", "asks for another image", -1, func(t *state, _ *replica) string {
			t.wish++
			return ""
		})
	}
	if n.Delete && !s.deleted {
		n.try(unfair, "user", "deletes the plan", -1, func(t *state, _ *replica) string {
			t.deleted = true
			return ""
		})
	}
	if n.Follow && !s.deleted {
		for j := range s.m {
			if want := n.Wishes[s.wish]; s.t[j].template != want && s.t[j].hook {
				n.trySet(templates, "another tool", "writes the template, and no partition, to", j, func(t *state, k *target) string {
					k.template = want
					t.touchSet(j)
					return ""
				})
			}
		}
	}
}

// arbiter: duty comes and goes (the application has acknowledged, in assigned mode), and
// leases end.
func (n *next) arbiter(i int) {
	r := &n.s.r[i]
	if n.mayWork(r) {
		n.try(unfair, "arbiter", "gives duty to", i, func(_ *state, r *replica) string {
			r.working, r.kept = true, false
			return ""
		})
	}
	if r.kept {
		n.try(acknowledges, "arbiter", "takes duty from the name of", i, func(_ *state, r *replica) string {
			r.kept = false
			return ""
		})
	}
	if r.working && (n.Slots == 0 || r.revoked) {
		c := acknowledges
		if r.rev != n.Wishes[n.s.wish] || r.verified != r.rev {
			c = acknowledgesOld
		}
		n.try(c, "application", "acknowledges the end of duty of", i, func(_ *state, r *replica) string {
			r.working, r.revoked = false, false
			return ""
		})
	}
	n.leaseEnds(i)
}

// mayWork says whether the arbiter may give duty to r: idle, not leased, at a revision that
// it trusts, and not born without a confirmed hold. The last two are for as long as there is
// a holder.
func (n *next) mayWork(r *replica) bool {
	if r.working || r.rev == 0 || r.phase != none {
		return false
	}
	if n.Slots > 0 {
		on := 0
		for k := range n.s.n {
			if n.s.r[k].working {
				on++
			}
		}
		if on >= n.Slots {
			return false
		}
	}
	if n.s.left {
		return true
	}
	unproven := n.NewbornBan && !r.kept && r.born && (!r.hold || r.state == updated)
	return n.s.trusted>>r.rev&1 == 1 && !unproven
}

// leaseEnds: by time, at any moment, and then when the pod has been fenced.
func (n *next) leaseEnds(i int) {
	r := &n.s.r[i]
	if r.phase == leased && n.s.expiries > 0 {
		n.try(unfair, "arbiter", "lets the lease expire on", i, func(t *state, r *replica) string {
			t.expiries--
			r.phase = expired
			return ""
		})
	}
	switch fence := n.PodFence && r.rev != 0; {
	case r.phase != expired:
	case fence && n.FenceToken && r.fence < r.token:
		n.try(fences, "arbiter", "fences", i, func(t *state, r *replica) string {
			r.touch()
			r.fence, r.fenceBy = r.token, max(r.fenceBy, t.reign)
			return ""
		})
	default:
		n.try(forgets, "arbiter", "forgets the lease on", i, func(_ *state, r *replica) string {
			if fence && !n.FenceToken {
				r.touch() // and in the same moment
			}
			r.phase = none
			return ""
		})
	}
}

// accepts is the arbiter's check of the token of a call about a lease. Without the token
// check a lease keeps the token that it was granted with, which then is but its id.
func (r *replica) accepts(h hand) bool {
	return (r.phase == leased || r.phase == pinned) && h.token == r.token
}

func (s *state) leases() (n int) {
	for i := range s.n {
		if s.r[i].phase != none {
			n++
		}
	}
	return n
}

// idleFor says whether the arbiter takes r for idle.
func (p *Rules) idleFor(r *replica) bool {
	return !r.kept && !r.working || !p.Acknowledged && r.revoked
}
