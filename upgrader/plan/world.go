package plan

import "time"

// Parked is the partition of a set that is not being rolled out: Kruise updates nothing,
// also after a scale-up.
const Parked int32 = 2147483647

// Duty is what the arbiter says of a replica.
type Duty int

// Unknown is treated as Working, always.
const (
	Unknown Duty = iota
	Working
	Idle
)

// String returns the duty as it stands in a plan's status.
func (d Duty) String() string {
	switch d {
	case Working:
		return "Working"
	case Idle:
		return "Idle"
	case Unknown:
	}
	return "Unknown"
}

// State is Kruise's lifecycle state of a pod (label lifecycle.apps.kruise.io/state).
type State string

// The states that matter here. A pod that was created before lifecycle hooks were in use
// has StateAbsent.
const (
	StateAbsent          State = ""
	StateNormal          State = "Normal"
	StatePreparingUpdate State = "PreparingUpdate"
	StateUpdating        State = "Updating"
	StateUpdated         State = "Updated"
)

// World is everything that a decision depends on, read at one moment.
type World struct {
	Policy  Policy
	Arbiter Arbiter
	// Term is the leadership term of this upgrader.
	Term int64
	// Targets in the order of the plan.
	Targets []Target
	// LastProgress is when a replica last took a step forward; zero: never.
	LastProgress time.Time
}

// Policy is the plan's spec, with defaults filled in.
type Policy struct {
	Paused   bool
	Deleting bool
	// DeletingSince is when the plan was deleted.
	DeletingSince time.Time
	// MaxUnavailable is the batch limit, at least 1. Percent says that it is one.
	MaxUnavailable int
	Percent        bool
	// RequestHandover: ask the arbiter to move duty; otherwise wait.
	RequestHandover  bool
	DrainTimeout     time.Duration
	VerifyTimeout    time.Duration
	MinReady         time.Duration
	ProgressDeadline time.Duration
}

// Arbiter is the state of the conversation with the arbiter.
type Arbiter struct {
	// Blocked says why nothing can be asked of the arbiter now; nil: all is well.
	Blocked *Blocker
	// Adopted: the leases were adopted in this term.
	Adopted bool
	// Doubted: the arbiter shows a lease of this plan with a higher token than any that this
	// upgrader was given: a later leader may have adopted. Adopting tells.
	Doubted bool
	// Frozen: the arbiter lost its record and grants nothing yet.
	Frozen bool
	// Again is when adopting may help although Blocked; zero: not before something changes.
	Again time.Time
	// Refused is set while a request for leases on RefusedFor was refused and the group
	// has not changed since; then asking the same again is useless before RetryAt (zero:
	// until a change).
	Refused    *Blocker
	RefusedFor []Candidate
	RetryAt    time.Time
	// Futile says that the arbiter grants leases and then refuses to pin them, or grants them
	// too late for anything to be begun; nil: it does not. Nothing is asked for before Patience.
	Futile   *Blocker
	Patience time.Time
	// Outside is a replica of the group that is idle and no target's; "" if there is none.
	Outside string
	// HandoverFrom is the replica whose handover was accepted and is awaited.
	HandoverFrom string
	// HandoverRefused is as Refused, for a handover.
	HandoverRefused    *Blocker
	HandoverRefusedFor Handover
	// HandoverAgain is when asking for a handover may help although one is awaited or was
	// refused; zero: not before something changes.
	HandoverAgain time.Time
	// Orphans are leases of this plan on replicas that no target has any more.
	Orphans []Lease
	// Condemned are those on replicas that no target shall have any more, but whose pods
	// are still there: a name must not get duty while Kruise may still be at its pod.
	Condemned []Lease
}

// Blocker is something that stands in the way, and what to do about it.
type Blocker struct {
	Reason  Reason
	Message string
	// Retry: it may pass without anybody doing anything, so it is no stall yet.
	Retry bool
}

// Target is one Advanced StatefulSet.
type Target struct {
	Name string
	// Blocked: the target is missing or cannot be served. Nothing is written to it.
	Blocked *Blocker
	// Gone: there is no such set.
	Gone bool
	// Leaving: the plan names the set no more, or it is Returning. It is given back while the
	// plan goes on.
	Leaving bool
	// Returning: the set says that somebody has begun to give it back. Nobody takes that back,
	// a plan that names the set again arms it anew when it was disarmed.
	Returning bool
	// Barred: Bar was carried out since the world was read. The plan's status need not name
	// the set any more.
	Barred bool
	// Listed: the plan's status says that it may have taken the set over, so that it is given
	// back also when the spec names it no more. It is not taken over before.
	Listed bool
	// Unread: the set may be armed by this plan, but the annotation cannot be read; Blocked
	// says why. The plan cannot leave before it can be.
	Unread bool
	// Newer: a newer upgrader has armed it for this plan, so that this one must not touch
	// anything of the plan, its other sets and its leases included.
	Newer bool

	ResourceVersion string
	// Observed: Kruise has seen the current generation of the set.
	Observed bool
	// Replicas is the number that the set should have.
	Replicas        int
	CurrentRevision string
	UpdateRevision  string
	Partition       int32

	// Armed: the set carries our annotation. The fields below it are meaningless otherwise.
	Armed bool
	// ArmedTerm is the leadership term written in it.
	ArmedTerm int64
	// OriginalPartition is what the partition was before.
	OriginalPartition int32
	// Proven is the revision at which the set was last at rest: when it was taken over, or
	// when a rollout had ended with every replica verified; "": not known. It is read from the
	// annotation of a plan that is gone, too.
	Proven string
	// HookSeen: Kruise knows the hook, so that what it makes of a hold can be believed,
	// also while it has not seen later changes of the set. Observed implies it.
	HookSeen bool
	// Settings: hook, priorities, update policy and maxUnavailable are as they must be.
	Settings bool

	// Changes are the images that the rollout brings to the set. What fails with an image
	// in one set is not risked in another that gets the same.
	Changes []string
	// TemplatePending: the template does not have the images that the plan wants.
	TemplatePending bool
	// TemplateBlocked says why the images cannot be written, e.g. for want of a container.
	TemplateBlocked *Blocker
	// TemplateRetry is when that may be tried again; zero: not before something changes.
	TemplateRetry time.Time
	// TemplateSeen: Kruise's UpdateRevision is that of the set's present template. While
	// it is not, nothing counts as upgraded.
	TemplateSeen bool
	// TemplateWritten: this generation of the plan wrote its images already, so that
	// TemplatePending means that somebody else wrote others.
	TemplateWritten bool
	// TemplateWriter names who wrote the template last, if it was not us.
	TemplateWriter string

	// Pods holds one entry for each ordinal, also for those without a pod, by ordinal.
	Pods []Replica
}

// Replica is one ordinal of a target.
type Replica struct {
	// Name is the pod's name.
	Name string
	// Target is the index of its target in World.Targets.
	Target int

	// Exists is false while there is no pod; then only Duty, Health and Lease count.
	Exists          bool
	Terminating     bool
	UID             string
	ResourceVersion string
	Revision        string
	State           State

	Hold  bool
	Grant bool
	// Working is the value of the working label: "true", "false" or "".
	Working string
	// WorkingDefault is the label's value in the template, which a given back pod gets.
	WorkingDefault string
	// Note is the lease that is written on the pod.
	Note Note
	// Doubted: the note has a higher token than any that this upgrader was given, and the
	// arbiter has not said since that nobody else has adopted.
	Doubted bool
	// Fenced is the highest token under which nothing may be done to the pod any more:
	// a lease with that token or a lower one has ended, or is about to.
	Fenced int64
	// Verified is the revision that was verified on this pod.
	Verified string
	// Behind counts the later revisions that any replica of its set is at, or shall be:
	// 0 at the latest, 1 in a plain rollout, more if an earlier one was not finished.
	Behind int

	// Gated: the pod declares the plan's readiness gate.
	Gated bool
	// GateOpen and GateClosed: the condition is True, is False; neither: it is not there.
	GateOpen   bool
	GateClosed bool
	// GateSince is when the gate's condition last changed.
	GateSince time.Time

	// Ready is the pod's own Ready condition.
	Ready bool
	// Fit: ready apart from the plan's gate, since FitSince.
	Fit      bool
	FitSince time.Time
	// UpdateDone: every container that the last in-place update changed runs its new image.
	UpdateDone bool
	// Trouble is the pod's own reason for not becoming ready (ImagePullBackOff, …).
	Trouble *Blocker
	// LastStep is the step that the plan's status shows for the present update revision,
	// and LastSince when the replica came to it. StepNone: not known.
	LastStep  Step
	LastSince time.Time

	Duty Duty
	// Unlisted: the arbiter answers, and its group has no such replica.
	Unlisted bool
	// Unverified: the arbiter gives it no duty, as nobody has told it that the revision was
	// verified: the pod came to it before the set was taken over, while some plan upgraded.
	Unverified bool
	// Unhealthy: the application says that it is not fit for duty.
	Unhealthy bool
	// Lease of this plan on the replica's name.
	Lease *Lease
	// LeasedBy is the holder of a lease that is not ours.
	LeasedBy string
}

// Note is the lease that a pod's annotation names.
type Note struct {
	ID    string
	Token int64
}

// Lease is the arbiter's promise, as the upgrader knows it.
type Lease struct {
	ID      string
	Replica string
	Token   int64
	Pinned  bool
	// Valid: surely in force at this moment. Always true for a pin.
	Valid bool
	// Lost: it was in force and is not any more, as far as we can be sure. A lease that is
	// neither was granted just now and is about to be confirmed.
	Lost bool
	// Outdated: another leader asked for it, or it was asked for longer ago than half its TTL.
	// What the arbiter looked at when it granted it, the floor above all, says nothing any more.
	Outdated bool
	// Instance is the pod UID for which it was granted.
	Instance string
}
