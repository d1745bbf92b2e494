package plan

import "time"

// Step is how far a replica has come (DESIGN: one replica's way).
type Step int

// The steps, in their order. Undoing leads from any of Leased, Draining and Selected back
// to Protected. Failed is Released or Verifying for too long.
const (
	StepNone Step = iota
	StepMissing
	StepProtected
	StepUndoing
	StepLeased
	StepDraining
	StepSelected
	StepReleased
	StepFailed
	StepVerifying
	StepReadmitting
	StepUpgraded
)

var stepNames = [...]string{
	StepNone: "", StepMissing: "Missing", StepProtected: "Protected", StepUndoing: "Undoing", StepLeased: "Leased",
	StepDraining: "Draining", StepSelected: "Selected", StepReleased: "Released", StepFailed: "Failed",
	StepVerifying: "Verifying", StepReadmitting: "Readmitting", StepUpgraded: "Upgraded",
}

// String returns the step as it stands in a plan's status.
func (s Step) String() string { return stepNames[s] }

// ParseStep is the inverse of String; StepNone for anything else.
func ParseStep(s string) Step {
	for i, n := range stepNames {
		if n == s {
			return Step(i)
		}
	}
	return StepNone
}

// StepOf derives the step of a replica of target t of w at now. One that was released fails
// also while its lease is not known: an upgrader that has just started must not give it, and
// others with it, another try.
func StepOf(w *World, t *Target, r *Replica, now time.Time) Step {
	s := t.rawStep(w, r, now)
	if (s == StepReleased || s == StepVerifying) && (r.Lease != nil || r.released()) && r.elapsed(s, now) >= w.Policy.VerifyTimeout {
		return StepFailed
	}
	return s
}

func (t *Target) rawStep(w *World, r *Replica, now time.Time) Step {
	switch {
	case !r.Exists || r.Terminating:
		return StepMissing
	case r.released() && !t.isNew(r):
		return StepReleased
	case t.isNew(r) && (r.Verified != t.UpdateRevision || !r.Hold || (r.Unverified || r.Lease != nil) && !r.fenced()):
		// What notes a verification puts the hold on, and ends the lease for the pod, in the same
		// write; what takes the hold off takes an earlier one off: any other is not ours.
		return StepVerifying
	case t.isNew(r) && (r.Lease != nil || r.unconfirmed()):
		return StepReadmitting
	case t.isNew(r) && !r.marked():
		if t.TemplatePending {
			return StepProtected // well, but at images that the plan wants to replace
		}
		return StepUpgraded
	case r.Lease == nil && r.marked():
		return StepUndoing
	case r.Lease == nil:
		return StepProtected
	case !r.noted():
		return StepLeased
	case !r.drained(w, now):
		return StepDraining
	default:
		return StepSelected
	}
}

// isNew says whether r's pod is at the update revision.
func (t *Target) isNew(r *Replica) bool {
	return r.Exists && t.UpdateRevision != "" && r.Revision == t.UpdateRevision
}

// released says whether the hold was taken off for an upgrade: the point of no return is
// behind us. It is derived from the pod alone, so that it holds also while the arbiter
// cannot be asked.
func (r *Replica) released() bool { return r.Exists && !r.Hold && r.Grant && r.Note.ID != "" }

// marked says whether the pod bears traces of an upgrade.
func (r *Replica) marked() bool {
	return r.Grant || r.Note.ID != "" || r.State == StatePreparingUpdate
}

// noted says whether the pod names the present lease with its present token. A new
// leader's token differs, so that it writes the pod once: whatever its predecessor still
// has under way conflicts with that write.
func (r *Replica) noted() bool {
	return r.Lease != nil && r.Note == Note{ID: r.Lease.ID, Token: r.Lease.Token} && r.Working == "false" && (!r.Gated || r.GateClosed)
}

// fenced says whether the lease of r is void for this pod: it was ended by the arbiter, or
// we are giving it back. A mere touch of the pod would stop old writes, but not one that is
// decided on the touched pod (docs/decisions/0001-fences-are-tokens.md).
func (r *Replica) fenced() bool { return r.Lease != nil && r.Fenced >= r.Lease.Token }

// outdated says whether nothing was begun under the lease of r yet, and it is too late to: the
// arbiter looked at the floor when it granted the lease, and looks again at the pin, which is
// after the gate was closed. Asking again makes it look anew. One that is pinned was verified
// under it, and then the template moved on.
func (r *Replica) outdated() bool {
	return r.Lease != nil && r.Lease.Outdated && r.Hold && r.Note.ID != r.Lease.ID && (!r.Gated || !r.GateClosed)
}

// drained says whether traffic has left the pod, or has had its time to.
func (r *Replica) drained(w *World, now time.Time) bool {
	return !r.Gated || (r.GateClosed && (!r.Ready || now.Sub(r.GateSince) >= w.Policy.DrainTimeout))
}

// needsHold says whether the hold must be put on, in the way that makes Kruise confirm it.
// Kruise does not look at the hold of a pod that it is updating (inPlaceUpdatePod): one that
// came into that state without us, and for which there is another template by now, is not
// protected by the hold that it bears.
func (t *Target) needsHold(r *Replica) bool {
	return r.Exists && !r.Terminating && !r.released() &&
		(!r.Hold || r.State == StateAbsent || r.State == StateUpdating && !t.isNew(r))
}

// heeded says whether Kruise heeds the hold that r bears, and knows of it.
func (r *Replica) heeded() bool {
	return r.Hold && (r.State == StateNormal || r.State == StatePreparingUpdate)
}

// unconfirmed says whether Kruise has not yet shown that it knows of the hold.
func (r *Replica) unconfirmed() bool {
	return r.Exists && !r.Terminating && r.Hold && (r.State == StateUpdated || r.State == StateAbsent)
}

// idle says whether a lease on r may be asked for.
func (r *Replica) idle() bool { return r.Duty == Idle && r.Lease == nil && r.LeasedBy == "" }

// elapsed is how long the replica has been in step s.
func (r *Replica) elapsed(s Step, now time.Time) time.Duration {
	if (r.LastStep != s && r.LastStep != StepFailed) || r.LastSince.IsZero() {
		return 0
	}
	return now.Sub(r.LastSince)
}
