package plan

// replicas moves each replica of t that is on its way by one step. It returns true while
// any of them can still be taken back, or is being.
func (n *next) replicas(i int, t *Target, sel selection, wrong *Replica) bool {
	moving := false
	for j := range t.Pods {
		r := &t.Pods[j]
		switch s := StepOf(n.w, t, r, n.now); s {
		case StepProtected, StepUpgraded:
			n.tend(r)
		case StepMissing:
			n.missing(i, r)
		case StepUndoing:
			moving = true
			n.undo(i, t, r, Undoing)
		case StepLeased, StepDraining, StepSelected:
			moving = true
			n.forward(i, t, r, s, sel[j], wrong)
		case StepReleased:
			n.sayUpgrading(i, t, r)
		case StepFailed:
			if n.givenUp(t, r) {
				n.undo(i, t, r, Leaving)
				continue
			}
			n.failed(i, t, r)
		case StepVerifying:
			if n.leaving(t) && r.Lease == nil && !r.released() {
				n.leaveUnverified(i, t, r)
				continue
			}
			n.verify(i, t, r)
		case StepReadmitting:
			n.readmit(i, t, r)
		case StepNone:
		}
	}
	return moving
}

// leaveUnverified is for a replica at the update revision that nobody verified: it is not
// ours, and will not be. What an ended lease left on it goes.
func (n *next) leaveUnverified(i int, t *Target, r *Replica) {
	if r.marked() {
		n.undo(i, t, r, Leaving)
		return
	}
	n.tend(r)
}

func (n *next) patch(r *Replica, why Reason) PatchPod {
	return PatchPod{Pod: r.Name, UID: r.UID, ResourceVersion: r.ResourceVersion, Why: why}
}

// label is the value that the working label should have; "" while nobody knows.
func (n *next) label(r *Replica) string {
	switch {
	case n.w.Arbiter.Blocked != nil || n.leaving(&n.w.Targets[r.Target]):
		return ""
	case r.Duty == Idle || r.Lease != nil:
		return "false"
	default:
		return "true"
	}
}

// tend keeps the label and the gate of a replica that is not on its way in line.
func (n *next) tend(r *Replica) {
	p := n.patch(r, "")
	if l := n.label(r); l != "" && l != r.Working {
		p.Working = new(l) // not &l: that would allocate for every replica
	}
	if r.Gated && !r.GateOpen && r.Lease == nil {
		p.Gate = new(true)
	}
	if p.Working != nil || p.Gate != nil {
		n.act(p)
	}
}

func (n *next) missing(i int, r *Replica) {
	n.sayOf(i, rankWaiting, WaitingForPod, "%s has no running pod", r.Name)
}

// undoReason says why r, which is leased but not released, must be given back; "" if it
// need not be.
func (n *next) undoReason(t *Target, r *Replica) Reason {
	switch {
	case n.leaving(t):
		return Leaving
	case n.w.Policy.Paused:
		return Paused
	case t.TemplatePending:
		return WritingTemplate
	case r.Lease == nil || r.Lease.Lost:
		return LeaseLost
	case r.Lease.Instance != r.UID:
		return PodReplaced
	case r.Duty == Working:
		return DutyChanged
	case r.outdated():
		return LeaseOutdated
	case r.fenced():
		return LeaseLost // last: our own undo fences, too, and keeps its reason
	}
	return ""
}

// forward moves a leased replica towards its release, or undoes.
func (n *next) forward(i int, t *Target, r *Replica, s Step, selected bool, wrong *Replica) {
	why := n.undoReason(t, r)
	if why == "" && wrong != nil {
		why = WrongPodChosen
	}
	switch {
	case why != "":
		n.undo(i, t, r, why)
	case !r.Lease.Valid:
		n.sayOf(i, rankDoing, WaitingForLease, "the lease on %s is being confirmed", r.Name)
	case s == StepLeased:
		p := n.patch(r, Draining)
		p.Note = &Note{ID: r.Lease.ID, Token: r.Lease.Token}
		if r.Working != "false" {
			p.Working = new("false")
		}
		if !r.Gated {
			p.Grant = new(true)
		} else if !r.GateClosed {
			p.Gate = new(false)
		}
		n.act(p)
		n.sayOf(i, rankDoing, Draining, "preparing %s", r.Name)
	case s == StepDraining:
		n.after(n.w.Policy.DrainTimeout - n.now.Sub(r.GateSince))
		n.sayOf(i, rankDoing, Draining, "draining %s", r.Name)
	case !r.Grant:
		p := n.patch(r, Selecting)
		p.Grant = new(true)
		n.act(p)
		n.sayOf(i, rankDoing, Selecting, "selecting %s", r.Name)
	case selected && r.Hold && r.State == StatePreparingUpdate && n.w.Arbiter.Blocked == nil:
		n.act(Commit{Pod: r.Name, UID: r.UID, ResourceVersion: r.ResourceVersion, Lease: *r.Lease})
		n.sayOf(i, rankDoing, Releasing, "releasing the hold of %s", r.Name)
	default:
		n.sayOf(i, rankDoing, Selecting, "Kruise has not yet chosen %s", r.Name)
	}
}

// chosenInVain says whether nothing but Kruise's choice is left on a pod at the update
// revision: Kruise takes that back by itself (refreshPodState).
func (n *next) chosenInVain(i int, t *Target, r *Replica) bool {
	if r.State != StatePreparingUpdate || !t.isNew(r) || r.Grant || r.Note.ID != "" {
		return false
	}
	n.sayOf(i, rankWaiting, WaitingForKruise, "Kruise has not yet taken back its choice of %s", r.Name)
	return true
}

// givenUp says whether the plan leaves without r, which failed. It stays as it is.
func (n *next) givenUp(t *Target, r *Replica) bool {
	return n.leaving(t) && StepOf(n.w, t, r, n.now) == StepFailed && (!t.isNew(r) || !n.verified(r))
}

// undo gives a replica back: the pod first, the lease last. The partition was raised
// before (guard), because r does not count as selected any more.
func (n *next) undo(i int, t *Target, r *Replica, why Reason) {
	n.sayOf(i, rankDoing, Undoing, "taking %s back (%s)", r.Name, why)
	if n.chosenInVain(i, t, r) {
		return
	}
	if r.marked() || r.Lease != nil && !r.fenced() {
		p := n.patch(r, why)
		if r.marked() {
			p.Grant, p.Note = new(false), &Note{}
		}
		if r.Lease != nil {
			p.Fence = &r.Lease.Token
		}
		if r.State == StatePreparingUpdate && !t.isNew(r) {
			p.State = new(StateNormal) // Kruise leaves it there for ever otherwise
		}
		n.act(p)
		return
	}
	if r.Gated && !r.GateOpen {
		p := n.patch(r, why)
		p.Gate = new(true)
		n.act(p)
		return
	}
	// What may have been verified under this lease the arbiter does not hear: should the template
	// come back it keeps the replica from duty, says so, and it is verified again.
	n.release(r, false, "")
}

func (n *next) release(r *Replica, upgraded bool, revision string) {
	if r.Lease == nil || !n.adopted || n.w.Arbiter.Blocked != nil {
		return
	}
	unused := !upgraded && n.undoReason(&n.w.Targets[r.Target], r) == LeaseOutdated
	n.act(ReleaseLease{Lease: *r.Lease, Upgraded: upgraded, Revision: revision, Unused: unused})
}

func (n *next) sayUpgrading(i int, t *Target, r *Replica) {
	n.after(n.w.Policy.VerifyTimeout - r.elapsed(StepReleased, n.now))
	if r.Trouble != nil {
		n.sayOf(i, rankBlocked, r.Trouble.Reason, "%s: %s", r.Name, r.Trouble.Message)
		return
	}
	n.sayOf(i, rankDoing, Updating, "Kruise is updating %s to %s", r.Name, t.UpdateRevision)
}

// failed says what became of a replica that did not become well. It stays pinned, so
// that it gets no duty; a new template lets it go first.
func (n *next) failed(i int, t *Target, r *Replica) {
	if t.isNew(r) && n.verified(r) {
		n.verify(i, t, r)
		return
	}
	reason, message := NotReady, "it did not become ready"
	if r.Trouble != nil {
		reason, message = r.Trouble.Reason, r.Trouble.Message
	}
	n.lost = append(n.lost, r.Name)
	k := rankStalled
	if t.TemplatePending {
		k = rankBlocked // the remedy is on its way, or has a reason of its own why it is not
	}
	n.sayOf(i, k, ReplicaFailed, "%s failed at %s: %s: %s; it stays out of duty: set an image that works, or mend the pod, and the plan goes on",
		r.Name, t.UpdateRevision, reason, message)
}

// verified says whether r runs its new images, is ready apart from our gate, and has
// been so for long enough.
func (n *next) verified(r *Replica) bool {
	if r.State == StateUpdating || !r.UpdateDone || !r.Fit || r.Unhealthy || r.State == StatePreparingUpdate {
		return false
	}
	// Who wants no time of readiness does not wait until our clock is where the node's was.
	if left := n.w.Policy.MinReady - n.now.Sub(r.FitSince); left > 0 && n.w.Policy.MinReady > 0 {
		n.after(left)
		return false
	}
	return true
}

// verify checks a replica at the update revision. One that got there without us (a lost
// pod that came back new) is leased first: it is by the release of a lease that the
// arbiter learns that the revision may have duty.
func (n *next) verify(i int, t *Target, r *Replica) {
	if !n.verified(r) {
		n.after(n.w.Policy.VerifyTimeout - r.elapsed(StepVerifying, n.now))
		if r.Trouble != nil {
			n.sayOf(i, rankBlocked, r.Trouble.Reason, "%s: %s", r.Name, r.Trouble.Message)
			return
		}
		n.sayOf(i, rankDoing, Verifying, "%s is not yet well at %s", r.Name, t.UpdateRevision)
		return
	}
	if r.Lease == nil && !r.released() {
		k := rankWaiting
		if r.Duty == Working {
			k = rankDoing // that it works is what is waited for
		}
		n.sayOf(i, k, Verifying, "%s came back at %s without an upgrade and is verified under a lease", r.Name, t.UpdateRevision)
		return
	}
	if l := r.Lease; l != nil && !l.Pinned {
		n.secure(i, t, r, *l)
		return
	}
	p := n.patch(r, Readmitting)
	p.Verified = &t.UpdateRevision
	if r.Lease != nil {
		p.Fence = &r.Lease.Token
	}
	if r.Note.ID != "" {
		p.Note = &Note{}
	}
	if r.Grant {
		p.Grant = new(false)
	}
	if !r.Hold {
		p.Hold = new(true)
	}
	if r.State != StateUpdated {
		// So that Kruise confirms the hold, also one that was on while it updated the pod: as
		// long as it believes the pod to be Updating it does not look at any hold.
		p.State = new(StateUpdated)
	}
	n.act(p)
	n.sayOf(i, rankDoing, Readmitting, "%s is well at %s", r.Name, t.UpdateRevision)
}

// secure pins the lease under which r is verified, or gives it back when it is lost. If it
// ended by time after the verification was noted, the arbiter would never be told.
func (n *next) secure(i int, t *Target, r *Replica, l Lease) {
	switch {
	case l.Lost:
		n.undo(i, t, r, LeaseLost) // another is asked for
	case !l.Valid:
		n.sayOf(i, rankDoing, WaitingForLease, "the lease on %s is being confirmed", r.Name)
	case n.w.Arbiter.Blocked == nil:
		l.Instance = r.UID
		n.act(Pin{Pod: r.Name, Lease: l})
		n.sayOf(i, rankDoing, Verifying, "pinning the lease on %s", r.Name)
	}
}

// readmit gives a verified replica back to duty: Kruise's state first, then the gate,
// then the lease.
func (n *next) readmit(i int, t *Target, r *Replica) {
	switch {
	case n.chosenInVain(i, t, r):
		return
	case r.marked():
		p := n.patch(r, Readmitting)
		p.Grant, p.Note = new(false), &Note{}
		n.act(p)
	case r.unconfirmed():
		n.sayOf(i, rankWaiting, Readmitting, "Kruise has not yet seen the hold of %s", r.Name)
		return
	case r.Gated && !r.GateOpen:
		p := n.patch(r, Readmitting)
		p.Gate = new(true)
		n.act(p)
	default:
		// Nothing was verified under a lease that is not pinned.
		n.release(r, r.Lease != nil && r.Lease.Pinned, t.UpdateRevision)
	}
	n.sayOf(i, rankDoing, Readmitting, "giving %s back", r.Name)
}
