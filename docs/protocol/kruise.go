package protocol

// Kruise 1.8.3. It decides on its caches. What it writes is what it decided, on whatever
// the pod is by then: label patches carry no resourceVersion (lifecycle_utils.go,
// UpdatePodLifecycle), the in-place update reads again on a conflict and does not look at
// the hook again (inplace_update.go, updatePodInPlace).

const kruise = "Kruise"

// kruiseCaches: the caches follow, each by itself and as late as it likes. Copying the
// present is all: any state that a cache could show at the moment of a decision is one
// that it could have copied then and kept since.
func (n *next) kruiseCaches() {
	pods, sets, lowered, grant := n.s.late()
	first, last := seesPods, seesSets
	if grant && lowered {
		first = seesGrant
	}
	if lowered && !pods {
		last = seesLowered
	}
	if pods {
		n.try(first, kruise, "sees all pods as they are", -1, func(t *state, _ *replica) string {
			for i := range t.n {
				t.r[i].seen = t.r[i].pod
			}
			for j := range t.m {
				t.t[j].expecting = false
			}
			return ""
		})
	}
	if sets {
		n.try(last, kruise, "sees all sets as they are", -1, func(t *state, _ *replica) string {
			for j := range t.m {
				t.t[j].seen = t.t[j].set
			}
			return ""
		})
	}
}

// late says what Kruise has not seen: anything of the pods, of the sets; a lower partition, a
// grant.
func (s *state) late() (pods, sets, lowered, grant bool) {
	for j := range s.m {
		t := &s.t[j]
		pods = pods || t.expecting
		sets = sets || t.seen != t.set
		lowered = lowered || t.seen.partition > t.partition
	}
	for i := range s.n {
		r := &s.r[i]
		pods = pods || r.seen != r.pod
		grant = grant || r.grant && !r.seen.grant
	}
	return pods, sets, lowered, grant
}

// kruisePod is what Kruise does with one pod.
func (n *next) kruisePod(i int) {
	r := &n.s.r[i]
	t := &n.s.t[r.target]
	if t.expecting {
		return // it does nothing to the set before it has seen its own write
	}
	st, ok := refresh(n.told(t), r.seen)
	switch {
	case r.seen.rev == 0:
		if r.rev == 0 {
			n.kruiseCreates(i)
		}
	case ok:
		n.kruiseLabels(i, "refreshes to "+stateNames[st]+":", st, false)
	case r.seen.rev != t.seen.template && n.chosen(i):
		n.kruiseUpdates(i)
	}
}

// kruiseLabels writes the state label, and the hold where the handler's labels go with it.
func (n *next) kruiseLabels(i int, what string, st uint8, hold bool) {
	if r := &n.s.r[i]; r.rev == 0 || r.state == st && (r.hold || !hold) {
		return
	}
	c := kruiseWrites
	if r := &n.s.r[i]; st == preparing && r.seen.grant && r.grant {
		c = kruiseChooses
	}
	n.try(c, kruise, what, i, func(_ *state, r *replica) string {
		r.state = st
		r.hold = r.hold || hold
		if st == normal && r.seen.hold && r.hold {
			r.born = false
		}
		r.touch()
		return ""
	})
}

// kruiseUpdates is what Kruise does to a pod that it has chosen (inPlaceUpdatePod,
// stateful_set_control.go). In the state Updating it does not look at the hook.
func (n *next) kruiseUpdates(i int) {
	r := &n.s.r[i]
	t := &n.s.t[r.target]
	c := r.seen
	hook := n.told(t).hook
	switch hooked := hook && c.hold; {
	case c.state == updated && hook:
		n.kruiseLabels(i, "marks again: PreparingUpdate,", preparing, true)
	case c.state == updated: // without a hook Kruise does nothing in this state
	case c.state == normal && hooked:
		n.kruiseLabels(i, "chooses: PreparingUpdate,", preparing, false)
	case hooked && c.state != updating || r.rev == 0:
	default:
		n.try(kruiseUpdates, kruise, "UPDATES IN PLACE", i, func(t *state, r *replica) string {
			k := &t.t[r.target]
			r.rev, r.state, r.restarting = k.seen.template, updating, true
			r.seen.rev, r.seen.state, r.seen.restarting = r.rev, updating, true // expectations: it waits to see this write
			k.expecting = true
			r.touch()
			switch {
			case r.working:
				return "P1: Kruise updates a working replica"
			case !r.committed && !r.born && !t.left && r.phase == none:
				return "P7: Kruise updates a replica that nobody released, and that is not leased"
			}
			return ""
		})
	}
}

// told is a set as Kruise sees it.
func (n *next) told(t *target) set {
	seen := t.seen
	seen.hook = seen.hook && n.Hold
	return seen
}

// refresh is the state that Kruise gives to a pod, seen as c, before it looks at updates
// (refreshPodState, stateful_set_control.go). What was
// updated is refreshed when its containers run (CheckPodUpdateCompleted), at any revision.
func refresh(seen set, c pod) (st uint8, ok bool) {
	held := c.hold || !seen.hook
	isNew := c.rev == seen.template
	switch {
	case c.rev == 0:
		return normal, false
	case c.state == updated:
		return normal, held
	case c.state == updating && c.restarting, c.state == preparing && !isNew, c.state == normal:
		return normal, false
	case held:
		return normal, true
	}
	return updated, true
}

// chosen says whether Kruise's caches let it update replica i: pods at the update revision
// count first, then the granted ones, the rest in any order (sortPodsToUpdate,
// weightPriority).
func (n *next) chosen(i int) bool {
	s := n.s
	t := &s.t[s.r[i].target]
	room, granted := 0, 0
	for k := range s.n {
		r := &s.r[k]
		if r.target != s.r[i].target {
			continue
		}
		room++
		c := r.seen
		if _, ok := refresh(n.told(t), c); ok {
			return false // whoever refreshes a pod looks at updates the next time
		}
		switch {
		case c.rev == t.seen.template:
			room--
		case c.rev != 0 && c.grant && int(k) != i:
			granted++
		}
	}
	room -= int(t.seen.partition)
	if room <= 0 {
		return false
	}
	return s.r[i].seen.grant || room > granted
}

// kruiseCreates recreates a lost pod from the current or the update revision
// (isCurrentRevisionNeeded).
func (n *next) kruiseCreates(i int) {
	s := n.s
	t := &s.t[s.r[i].target]
	old := 0
	for k := range s.n {
		if c := s.r[k].seen; int(k) != i && s.r[k].target == s.r[i].target && c.rev != 0 && c.rev != t.seen.template {
			old++
		}
	}
	n.try(kruiseCreates, kruise, "creates anew", i, func(x *state, r *replica) string {
		k := &x.t[r.target]
		r.pod = pod{rev: k.current}
		if old >= int(k.seen.partition) {
			r.rev = k.seen.template
		}
		r.born = !x.left
		r.touch()
		if r.rev < k.finished && r.rev != k.template {
			return "P5: a lost pod comes back at a revision older than that of the rollout which was ended"
		}
		return ""
	})
}

// kruiseConclude: status.currentRevision follows when every pod is at the update revision
// and ready, which may never be so at once (completeRollingUpdate).
func (n *next) kruiseConclude() {
	s := n.s
	for j := range s.m {
		t := &s.t[j]
		if t.current == t.seen.template || t.expecting {
			continue
		}
		all := true
		for i := range s.n {
			all = all && (s.r[i].target != j || s.r[i].seen.rev == t.seen.template)
		}
		if all {
			n.trySet(unfair, kruise, "finds every pod ready and concludes the rollout of", j, func(_ *state, k *target) string {
				k.current = k.seen.template
				return ""
			})
		}
	}
}
