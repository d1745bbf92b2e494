package plan

import "slices"

// leaving says whether t is to be given back: with the whole plan, because the plan names it
// no more, or because that was begun once.
func (n *next) leaving(t *Target) bool { return n.w.Policy.Deleting || t.Leaving }

// leaveTarget gives the set back, step by step, and never so that Kruise would update a
// replica because of it: partition first, observed; then the pods; then the rest. With the
// partition goes a note that the set is given back. From there on nobody lowers the partition
// or holds a pod anew before the set is disarmed, so that whoever takes a hold off may have
// been frozen for as long as it likes (docs/decisions/0013).
func (n *next) leaveTarget(i int, t *Target, sel selection, wrong *Replica) bool {
	n.replicas(i, t, sel, wrong)
	if n.inFlight(i, t) {
		// Who is past the point of no return is finished, also when the partition had to be
		// raised meanwhile. Holds are not put on any more: without all of them it stays up.
		if !t.Returning && !t.bare() {
			n.lower(i, t, sel)
		}
		return false
	}
	if p := max(t.OriginalPartition, t.protected(nil)); t.Partition < p || !t.Returning {
		n.act(ApplySet{Target: t.Name, ResourceVersion: t.ResourceVersion, Partition: p, Return: true, Why: Leaving})
		n.sayOf(i, rankDoing, Leaving, "restoring the partition of %s", t.Name)
		return false
	}
	if n.unhold(i, t) {
		return false
	}
	n.act(Disarm{Target: t.Name, ResourceVersion: t.ResourceVersion})
	n.sayOf(i, rankDoing, Leaving, "giving %s back", t.Name)
	return false
}

// inFlight says whether a replica is not finished, or not given up yet.
func (n *next) inFlight(i int, t *Target) bool {
	any := false
	for j := range t.Pods {
		r := &t.Pods[j]
		switch s := StepOf(n.w, t, r, n.now); {
		case s == StepMissing && r.Lease != nil:
			n.release(r, false, "")
			any = true
		case r.Lease != nil, r.Exists && r.marked():
			n.sayOf(i, rankDoing, Leaving, "finishing %s before %s is given back", r.Name, t.Name)
			any = true
		}
	}
	return any
}

// leased says whether the plan has a lease on any replica of the set.
func (t *Target) leased() bool {
	return slices.ContainsFunc(t.Pods, func(r Replica) bool { return r.Lease != nil })
}

// bare says whether any pod lacks its hold that Kruise must be kept off. One that was lost and
// came back at the update revision is in no danger from the partition, and has no duty before
// it is verified.
func (t *Target) bare() bool {
	return slices.ContainsFunc(t.Pods, func(r Replica) bool {
		return t.needsHold(&r) && (!t.isNew(&r) || r.Verified == t.UpdateRevision)
	})
}

// unhold takes our labels off the pods. The partition protects them now.
func (n *next) unhold(i int, t *Target) bool {
	any := false
	for j := range t.Pods {
		r := &t.Pods[j]
		if !r.Exists || r.Terminating {
			continue
		}
		if r.Gated && !r.GateOpen {
			n.sayOf(i, rankDoing, Leaving, "opening the gate of %s", r.Name)
			any = true // tend does it, in a patch of its own
			continue
		}
		if !r.Hold && r.Verified == "" {
			continue
		}
		p := n.patch(r, Leaving)
		p.Hold, p.Verified, p.Working, p.Returns = new(false), new(""), &r.WorkingDefault, t.Name
		n.act(p)
		n.sayOf(i, rankDoing, Leaving, "taking the hold off %s", r.Name)
		any = true
	}
	return any
}

// leave ends the plan when every set is given back.
func (n *next) leave(settled bool) {
	a := &n.w.Arbiter
	// An arbiter that has no such group, or has let go of the plan before, has nothing of it.
	silent := a.Blocked != nil && a.Blocked.Reason != GroupNotFound && a.Blocked.Reason != HolderRetired
	switch {
	case silent && a.Blocked.Reason != Connecting && n.abandoned():
		n.act(Leave{Untold: true})
		n.say(rankDoing, Leaving, "every target is gone, and the arbiter cannot be told: %s", a.Blocked.Message)
		return
	case silent:
		n.ask()
		n.sayBlocked(&Blocker{Reason: a.Blocked.Reason, Retry: a.Blocked.Retry, Message: "the plan's leases cannot be released: " + a.Blocked.Message})
		return
	case a.Blocked == nil && !n.adopted:
		n.adopt(Leaving, "taking over the leases of this plan, to give them back")
		return
	}
	for _, l := range a.Orphans {
		n.act(ReleaseLease{Lease: l})
	}
	n.condemned()
	if settled && n.leases == 0 {
		n.act(Leave{Bars: n.bars()})
		n.say(rankDoing, Leaving, "every target is given back")
	}
}

// bars are for the sets that a former leader may be about to take over.
func (n *next) bars() []Bar {
	var out []Bar
	for i := range n.w.Targets {
		if t := &n.w.Targets[i]; t.Listed && !t.Armed && t.Blocked == nil {
			out = append(out, Bar{Target: t.Name, ResourceVersion: t.ResourceVersion})
		}
	}
	return out
}

// abandoned says whether a plan whose arbiter cannot be asked has waited long enough:
// there is no set any more that Kruise could update. Its secret may be gone with its
// namespace, which could not go before the plan. The leases that the arbiter may still know
// end by time, or by an administrator.
func (n *next) abandoned() bool {
	for i := range n.w.Targets {
		if !n.w.Targets[i].Gone {
			return false
		}
	}
	left := n.w.Policy.ProgressDeadline - n.now.Sub(n.w.Policy.DeletingSince)
	n.after(left)
	return left <= 0
}
