package plan

import "time"

// Decision is what to do next, and why not more.
type Decision struct {
	// Actions are independent of each other, or in an order in which each is safe when
	// those before it failed.
	Actions []Action
	// Reason and Message are the plan's: what it does, or for whom it waits.
	Reason  Reason
	Message string
	// Stalled: it, or one of its targets, will not go on unless somebody does something.
	Stalled bool
	// Going is what goes on all the same; empty when nothing does.
	Going Remark
	// Done: nothing is left to do.
	Done bool
	// Targets holds, in the order of World.Targets, what each does or waits for.
	Targets []Remark
	// Recheck is when time alone may change the decision; 0: only an event can.
	Recheck time.Duration
}

// Succeeded says whether a later leader has acted on any of the sets, whatever else the
// plan has to say: then nothing more is to be written, not even a status.
func (d *Decision) Succeeded() bool {
	for _, t := range d.Targets {
		if t.Reason == Succeeded {
			return true
		}
	}
	return false
}

// Remark is why a plan or one of its targets is where it is.
type Remark struct {
	Reason  Reason
	Message string
}

// Action is one write, to the cluster or to the arbiter.
type Action interface{ isAction() }

// Adopt makes this upgrader the only actor for the plan.
type Adopt struct{}

// Acquire asks for up to Max leases on the candidates, best first.
type Acquire struct {
	Candidates []Candidate
	Max        int
}

// Candidate is a replica for which a lease is wanted.
type Candidate struct{ Replica, UID string }

// Handover asks the arbiter to move duty from From to one of To.
type Handover struct {
	From string
	To   []string
}

// ReleaseLease gives a lease back. Upgraded tells the arbiter that Revision was verified.
type ReleaseLease struct {
	Lease    Lease
	Upgraded bool
	Revision string
	// Unused: nothing was begun under it, as it was outdated. It is asked for again.
	Unused bool
}

// ApplySet takes a set over, or changes its partition. Precondition: ResourceVersion.
type ApplySet struct {
	Target          string
	ResourceVersion string
	Partition       int32
	// Proven is the revision at which the set is at rest; "": what was noted before stays.
	Proven string
	// Return notes on the set that it is given back from now on.
	Return bool
	Why    Reason
}

// WriteTemplate writes the plan's images and the partition in one patch. Precondition:
// ResourceVersion.
type WriteTemplate struct {
	Target          string
	ResourceVersion string
	Partition       int32
}

// SetCurrentRevision makes status.currentRevision agree with the update revision.
type SetCurrentRevision struct {
	Target          string
	ResourceVersion string
	Revision        string
}

// Disarm restores what arming took over, except the partition, and removes the
// annotation. Precondition: ResourceVersion.
type Disarm struct {
	Target          string
	ResourceVersion string
}

// PatchPod changes labels, annotations and the gate of one pod in one patch.
// Preconditions: UID and ResourceVersion. Nil means: leave it.
type PatchPod struct {
	Pod             string
	UID             string
	ResourceVersion string

	Hold     *bool
	Grant    *bool
	Working  *string
	State    *State
	Note     *Note
	Verified *string
	// Fence ends whatever is still under way under this token or a lower one.
	Fence *int64
	// Returns is the set with which the pod is given back; "": it is not. The hold goes only if
	// the API server itself, and not the cache, says that the set is still being given back.
	Returns string
	// Gate opens (true) or closes (false) the plan's readiness gate. It cannot be
	// combined with Hold, Grant or State: it goes through the status subresource.
	Gate *bool
	Why  Reason
}

// Commit pins the lease, unless it is pinned, and then takes the hold off the pod, and with
// it what was verified there: the point of no return. Preconditions: UID and ResourceVersion of the very version that was
// seen to be ready for it.
type Commit struct {
	Pod             string
	UID             string
	ResourceVersion string
	Lease           Lease
}

// Pin pins the lease of a replica that came back at the update revision, so that it
// cannot run out before the arbiter is told what was verified.
type Pin struct {
	Pod   string
	Lease Lease
}

// Bar ends whatever an earlier leader, which was frozen, may still have under way for a set
// that is not armed: taking it over for a plan that has gone, or names it no more. It leaves
// the set as it is, at another resourceVersion. Precondition: ResourceVersion.
type Bar struct {
	Target          string
	ResourceVersion string
}

// Leave forgets the plan: the sets that it might have taken over are barred, the holder is
// retired, the finalizer removed.
type Leave struct {
	Bars []Bar
	// Untold: the arbiter cannot be asked, and is not told.
	Untold bool
}

func (Adopt) isAction()              {}
func (Acquire) isAction()            {}
func (Handover) isAction()           {}
func (ReleaseLease) isAction()       {}
func (ApplySet) isAction()           {}
func (WriteTemplate) isAction()      {}
func (SetCurrentRevision) isAction() {}
func (Disarm) isAction()             {}
func (PatchPod) isAction()           {}
func (Commit) isAction()             {}
func (Pin) isAction()                {}
func (Bar) isAction()                {}
func (Leave) isAction()              {}
