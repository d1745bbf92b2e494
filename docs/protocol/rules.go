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
	Handshake    bool // the template waits until Kruise has confirmed every hold
	UndoFirst    bool // the pod is taken back before its lease is released
	PodFence     bool // the arbiter touches the pod of an expired lease before it forgets it

	FenceToken bool // a fence is a token, written at expiry, undo and readmission, and compared
	NewbornBan bool // no duty for a pod born under a holder until its hold is confirmed
	OwnWrites  bool // an upgrader does not decide on a cache that lacks its own writes
	TermOrder  bool // a leader that finds a later term on the set stops; it does not write its own
	UndoWrites bool // an undo writes the pod even where there is nothing to take back

	Leaders   int  // 1, or 2: another takes over at any moment, the first lives on
	MaxLeased int  // leases at a time
	Losses    int  // pods lost, in all
	Expiries  int  // leases that expire, in all
	Gate      bool // pods declare our gate: it is closed before a replica is selected
}

// Design is DESIGN.md without the mends; Protocol has them.
var (
	Design = Rules{
		Pin: true, Token: true, Hold: true, Precondition: true, SetFence: true, Handshake: true,
		UndoFirst: true, PodFence: true, OwnWrites: true, TermOrder: true, UndoWrites: true,
		Leaders: 2, MaxLeased: 1, Gate: true, Expiries: 1,
	}
	Protocol = Design.with(func(r *Rules) { r.FenceToken, r.NewbornBan = true, true })
)

func (p Rules) with(change func(*Rules)) Rules {
	change(&p)
	return p
}

// initial returns the states in which everything begins: three pods at v1 without a hold,
// the set not armed, each combination of duty with a worker.
func (p Rules) initial() []state {
	var all []state
	for workers := 0; workers <= replicas; workers++ {
		var s state
		s.set = set{partition: replicas}
		s.seen = s.set
		s.losses, s.expiries = uint8(p.Losses), uint8(p.Expiries) //nolint:gosec // small bounds
		for i := range s.r {
			s.r[i].alive = true
			s.r[i].seen = s.r[i].pod
			s.r[i].working = i < workers
		}
		all = append(all, s)
	}
	return all
}

// done says whether the upgrade is complete and nothing was left behind.
func (s *state) done() bool {
	for i := range s.r {
		r := &s.r[i]
		if !r.alive || !r.new || !r.verified || !r.hold || r.state != normal || r.grant || r.note != 0 ||
			r.gateClosed || r.phase != none || r.committed {
			return false
		}
	}
	return true
}

// invariant returns the promise that s breaks, or "". What a write may not do is checked
// where the write is (see step.bad).
func (p Rules) invariant(s *state) string {
	for i := range s.r {
		r := &s.r[i]
		if p.Pin && r.committed && r.phase != pinned {
			return "P3: the hold was released, and the replica is not pinned until it is readmitted"
		}
		if p.Pin && r.committed && r.working {
			return "P3: duty between the release of the hold and readmission"
		}
		if r.phase != none && r.working {
			return "P1: duty under a lease"
		}
		if r.alive && !r.hold && r.note != 0 && !r.committed {
			return "P5: a hold was left off"
		}
	}
	return ""
}

// step is one action and the state it leads to.
type step struct {
	who, what string
	replica   int // -1: none
	to        state
	bad       string // the promise that the action itself breaks
}

// next calls emit for every action that is possible in s.
func (p Rules) next(s *state, emit func(*step)) {
	for i := range s.r {
		p.environment(s, i, emit)
		p.arbiter(s, i, emit)
		p.kruisePod(s, i, emit)
	}
	p.kruiseCaches(s, emit)
	for l := range p.Leaders {
		p.leader(s, l, emit)
	}
}

// try emits the action that change makes of a copy of s.
func (p Rules) try(s *state, emit func(*step), who, what string, i int, change func(t *state, r *replica) string) {
	st := step{who: who, what: what, replica: i, to: *s}
	var r *replica
	if i >= 0 {
		r = &st.to.r[i]
	}
	st.bad = change(&st.to, r)
	if p.Precondition {
		st.to.settle()
	}
	emit(&st)
}

// environment: pods are lost.
func (p Rules) environment(s *state, i int, emit func(*step)) {
	if s.losses == 0 || !s.r[i].alive {
		return
	}
	p.try(s, emit, "node", "loses the pod", i, func(t *state, r *replica) string {
		t.losses--
		r.pod, r.gateClosed, r.verified = pod{}, false, false
		r.note, r.fence, r.noteB, r.fenceB = 0, 0, false, false
		r.working, r.sameUID = false, false
		r.touch()
		for j := range t.sets {
			t.sets[j].overtaken = t.sets[j].op != setNone
		}
		for j := range r.hands {
			r.hands[j].gone = r.hands[j].token != 0
		}
		return ""
	})
}

// arbiter: duty comes and goes (the application has acknowledged, in assigned mode), and
// leases end.
func (p Rules) arbiter(s *state, i int, emit func(*step)) {
	r := &s.r[i]
	unproven := p.NewbornBan && r.born && (!r.hold || r.state == updated)
	if !r.working && r.alive && r.phase == none && (!r.new || r.verified || s.trusted) && !unproven {
		p.try(s, emit, "arbiter", "gives duty to", i, func(_ *state, r *replica) string {
			r.working = true
			return ""
		})
	}
	if r.working {
		p.try(s, emit, "application", "acknowledges the end of duty of", i, func(_ *state, r *replica) string {
			r.working = false
			return ""
		})
	}
	p.leaseEnds(s, i, emit)
}

// leaseEnds: by time, at any moment, and then when the pod has been fenced.
func (p Rules) leaseEnds(s *state, i int, emit func(*step)) {
	r := &s.r[i]
	if r.phase == leased && s.expiries > 0 {
		p.try(s, emit, "arbiter", "lets the lease expire on", i, func(t *state, r *replica) string {
			t.expiries--
			r.phase = expired
			return ""
		})
	}
	if r.phase == expired {
		p.try(s, emit, "arbiter", "fences, and forgets the lease on,", i, func(t *state, r *replica) string {
			if p.PodFence && r.alive {
				r.touch()
				if p.FenceToken {
					r.fence, r.fenceB = max(r.fence, r.token), r.fenceB || t.adopted == 1
				}
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
	for i := range s.r {
		if s.r[i].phase != none {
			n++
		}
	}
	return n
}

// kruiseCaches: the caches follow, each by itself and as late as it likes. Copying the
// present is all: any state that a cache could show at the moment of a decision is one
// that it could have copied then and kept since.
func (p Rules) kruiseCaches(s *state, emit func(*step)) {
	behind := s.expecting
	for i := range s.r {
		behind = behind || s.r[i].seen != s.r[i].pod
	}
	if behind {
		p.try(s, emit, "Kruise", "sees all pods as they are", -1, func(t *state, _ *replica) string {
			for i := range t.r {
				t.r[i].seen = t.r[i].pod
			}
			t.expecting = false
			return ""
		})
	}
	if s.seen != s.set && !s.expecting {
		p.try(s, emit, "Kruise", "sees the set as it is", -1, func(t *state, _ *replica) string {
			t.seen = t.set
			return ""
		})
	}
}

// kruisePod: Kruise decides on its caches. What it writes is what it decided, on whatever
// the pod is by then: label patches carry no resourceVersion (lifecycle_utils.go,
// UpdatePodLifecycle), the in-place update reads again on a conflict and does not look at
// the hook again (inplace_update.go, updatePodInPlace).
func (p Rules) kruisePod(s *state, i int, emit func(*step)) {
	c := s.r[i].seen
	switch st, ok := refresh(s.seen, c); {
	case !c.alive:
		if !s.r[i].alive && !s.expecting {
			p.kruiseCreates(s, i, emit)
		}
	case ok && !s.expecting:
		p.kruiseLabels(s, i, "refreshes to "+stateNames[st]+":", st, false, emit)
	case !c.new && s.chosen(i):
		p.kruiseUpdates(s, i, emit)
	}
}

// kruiseLabels writes the state label, and the hold where the handler's labels go with it.
func (p Rules) kruiseLabels(s *state, i int, what string, st uint8, hold bool, emit func(*step)) {
	if r := &s.r[i]; !r.alive || r.state == st && (r.hold || !hold) {
		return
	}
	p.try(s, emit, "Kruise", what, i, func(_ *state, r *replica) string {
		r.state = st
		r.hold = r.hold || hold
		r.touch()
		return ""
	})
}

// kruiseUpdates is what Kruise does to a pod that it has chosen (inPlaceUpdatePod,
// stateful_set_control.go).
func (p Rules) kruiseUpdates(s *state, i int, emit func(*step)) {
	c := s.r[i].seen
	switch hooked := s.seen.hook && c.hold; {
	case c.state == updated && s.seen.hook:
		p.kruiseLabels(s, i, "marks again: PreparingUpdate,", preparing, true, emit)
	case c.state == updated: // without a hook Kruise does nothing in this state
	case c.state == normal && hooked:
		p.kruiseLabels(s, i, "chooses: PreparingUpdate,", preparing, false, emit)
	case hooked || !s.r[i].alive:
	default:
		p.try(s, emit, "Kruise", "UPDATES IN PLACE", i, func(t *state, r *replica) string {
			r.new, r.state, r.verified = true, updating, false
			r.seen.new, r.seen.state = true, updating // expectations: it waits to see this write
			t.expecting = true
			r.touch()
			if r.working {
				return "P1: Kruise updates a working replica"
			}
			return ""
		})
	}
}

// refresh is the state that Kruise gives to a pod, seen as c, before it looks at updates
// (refreshPodState, stateful_set_control.go). The end of an update comes at any moment.
func refresh(seen set, c pod) (st uint8, ok bool) {
	held := c.hold || !seen.hook
	switch {
	case !c.alive:
		return normal, false
	case c.state == updated:
		return normal, held
	case c.new && (c.state == updating || c.state == preparing) && held:
		return normal, true
	case c.new && (c.state == updating || c.state == preparing):
		return updated, true
	}
	return normal, false
}

// chosen says whether Kruise's caches let it update replica i: pods at v2 count first,
// then the granted ones, the rest in any order (sortPodsToUpdate, weightPriority).
func (s *state) chosen(i int) bool {
	room := replicas - int(s.seen.partition)
	granted := 0
	for j := range s.r {
		if _, ok := refresh(s.seen, s.r[j].seen); ok && s.r[j].seen.state != updating && !s.expecting {
			return false // whoever refreshes a pod looks at updates the next time
		}
		switch c := s.r[j].seen; {
		case c.alive && c.new:
			room--
		case c.alive && c.grant && j != i:
			granted++
		}
	}
	if !s.seen.template || room <= 0 {
		return false
	}
	return s.r[i].seen.grant || room > granted
}

// kruiseCreates recreates a lost pod from the template (isCurrentRevisionNeeded).
func (p Rules) kruiseCreates(s *state, i int, emit func(*step)) {
	old := 0
	for j := range s.r {
		if c := s.r[j].seen; j != i && c.alive && !c.new {
			old++
		}
	}
	p.try(s, emit, "Kruise", "creates anew", i, func(t *state, r *replica) string {
		r.pod = pod{alive: true, new: t.seen.template && old >= int(t.seen.partition)}
		r.born = true
		r.touch()
		return ""
	})
}
