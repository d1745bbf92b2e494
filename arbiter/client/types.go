package client

import (
	"fmt"
	"time"
)

// Duty is what the arbiter says of a replica.
type Duty int

// DutyUnknown is treated as DutyWorking, always.
const (
	DutyUnknown Duty = iota
	DutyWorking
	DutyIdle
)

// String returns Unknown, Working or Idle.
func (d Duty) String() string {
	switch d {
	case DutyWorking:
		return "Working"
	case DutyIdle:
		return "Idle"
	case DutyUnknown:
	}
	return "Unknown"
}

// Health is what the application says of itself.
type Health int

// HealthUnknown: the arbiter does not report health.
const (
	HealthUnknown Health = iota
	Healthy
	Unhealthy
)

// String returns Unknown, Healthy or Unhealthy.
func (h Health) String() string {
	switch h {
	case Healthy:
		return "Healthy"
	case Unhealthy:
		return "Unhealthy"
	case HealthUnknown:
	}
	return "Unknown"
}

// Phase is how far a lease has come.
type Phase int

// The phases. A lease in PhaseUnknown or PhaseExpired permits nothing.
const (
	PhaseUnknown Phase = iota
	PhaseLeased
	PhasePinned
	PhaseExpired
)

// String returns Unknown, Leased, Pinned or Expired.
func (p Phase) String() string {
	switch p {
	case PhaseLeased:
		return "Leased"
	case PhasePinned:
		return "Pinned"
	case PhaseExpired:
		return "Expired"
	case PhaseUnknown:
	}
	return "Unknown"
}

// Outcome says why a lease is released.
type Outcome int

// Upgraded: the replica was upgraded and verified. Undone: it is as it was before.
const (
	Undone Outcome = iota + 1
	Upgraded
)

// Lease is the promise that a replica's name gets no duty.
type Lease struct {
	// ID is never used again in the group.
	ID      string
	Replica string
	Holder  string
	// Token grows strictly within the group and fences late holders.
	Token int64
	Phase Phase
	// Instance is the pod UID for which it was granted or pinned.
	Instance string
	// TTL is how long it lasts without renewal.
	TTL time.Duration
	// Overdue: pinned for longer than the group allows.
	Overdue bool
}

// Ref returns what names the lease in calls.
func (l Lease) Ref() LeaseRef { return LeaseRef{ID: l.ID, Token: l.Token} }

// LeaseRef names a lease and proves the right to act on it.
type LeaseRef struct {
	ID    string
	Token int64
}

// Replica is one member of a group.
type Replica struct {
	// Name lasts: "<namespace>/<pod name>" on Kubernetes.
	Name   string
	Duty   Duty
	Health Health
	// Instance is the UID of the pod that has this name now; empty: none seen.
	Instance string
	// Serving: it counts for the floor.
	Serving bool
	// Generation grows with every change of its duty.
	Generation int64
	// Lease on this name; nil: none.
	Lease *Lease
	// Message says why duty is what it is, for people.
	Message string
	// Unverified: it gets no duty before a lease on it is released as upgraded.
	Unverified bool
}

// GroupState is one consistent state of a group. It is shared: do not change it.
type GroupState struct {
	Group string
	// Revision grows with each state within one Epoch.
	Revision int64
	Epoch    string
	// Replicas in the order of the arbiter; no name occurs twice.
	Replicas []Replica
	// Floor is how many must be able to serve, Serving how many can.
	Floor, Serving int
	// MaxLeased is how many leases the group allows at a time.
	MaxLeased int
	// Frozen: the arbiter lost its record and grants nothing until holders have adopted.
	Frozen bool
	// Message is for an administrator.
	Message string
}

// Replica returns the replica of that name, and whether there is one.
func (s GroupState) Replica(name string) (Replica, bool) {
	for _, r := range s.Replicas {
		if r.Name == name {
			return r, true
		}
	}
	return Replica{}, false
}

// dutyUnknown returns a copy in which nobody's duty is known.
func (s GroupState) dutyUnknown() GroupState {
	replicas := make([]Replica, len(s.Replicas))
	copy(replicas, s.Replicas)
	for i := range replicas {
		replicas[i].Duty = DutyUnknown
	}
	s.Replicas = replicas
	return s
}

// RefusalReason is why an arbiter says no. The set is closed; each has one remedy.
type RefusalReason int

// The reasons, as in the wire's RefusalReason. ReasonUnknown is one that this package
// does not understand: a refusal all the same.
const (
	ReasonUnknown RefusalReason = iota
	ReasonNotIdle
	ReasonFloor
	ReasonMaxLeased
	ReasonLeasedByOther
	ReasonStaleToken
	ReasonLeaseLost
	ReasonInstanceChanged
	ReasonFrozen
	ReasonOverduePin
	ReasonUnknownReplica
	ReasonNoSuccessor
	ReasonDutyIsNamed
	ReasonHolderHasLeases
	ReasonHolderRetired
	ReasonFreezeWindow
	ReasonSpread
)

// String returns the reason in one word.
func (r RefusalReason) String() string {
	switch r {
	case ReasonNotIdle:
		return "NotIdle"
	case ReasonFloor:
		return "Floor"
	case ReasonMaxLeased:
		return "MaxLeased"
	case ReasonLeasedByOther:
		return "LeasedByOther"
	case ReasonStaleToken:
		return "StaleToken"
	case ReasonLeaseLost:
		return "LeaseLost"
	case ReasonInstanceChanged:
		return "InstanceChanged"
	case ReasonFrozen:
		return "Frozen"
	case ReasonOverduePin:
		return "OverduePin"
	case ReasonUnknownReplica:
		return "UnknownReplica"
	case ReasonNoSuccessor:
		return "NoSuccessor"
	case ReasonDutyIsNamed:
		return "DutyIsNamed"
	case ReasonHolderHasLeases:
		return "HolderHasLeases"
	case ReasonHolderRetired:
		return "HolderRetired"
	case ReasonFreezeWindow:
		return "FreezeWindow"
	case ReasonSpread:
		return "Spread"
	case ReasonUnknown:
	}
	return "Unknown"
}

// Refusal is an arbiter's "no". Asking again at once is useless.
type Refusal struct {
	Reason RefusalReason
	// Rule that refused, with its numbers.
	Rule string
	// Message says what was refused and what to do, for people.
	Message string
	// RetryAfter is when to ask again even if nothing has changed; 0: on a change only.
	RetryAfter time.Duration
}

// String returns the refusal in one line.
func (r Refusal) String() string {
	switch {
	case r.Message == "" && r.Rule == "":
		return r.Reason.String()
	case r.Message == "":
		return fmt.Sprintf("%s (%s)", r.Reason, r.Rule)
	case r.Rule == "":
		return fmt.Sprintf("%s: %s", r.Reason, r.Message)
	}
	return fmt.Sprintf("%s: %s (%s)", r.Reason, r.Message, r.Rule)
}

// LeaseSupport is what kind of promise an arbiter makes.
type LeaseSupport int

// NoLeases: best effort. LeasesTTL: leases, but no pins. LeasesPinned: both.
const (
	NoLeases LeaseSupport = iota
	LeasesTTL
	LeasesPinned
)

// Capabilities is what an arbiter can do for a group.
type Capabilities struct {
	// Listing: List and Watch work.
	Listing bool
	Leases  LeaseSupport
	// Handover: Handover works.
	Handover bool
	// Health of replicas is reported.
	Health bool
	// Implementation is the arbiter's name and version, for people.
	Implementation string
}

// Adopted is the answer to Adopt.
type Adopted struct {
	// Token is sent with Acquire, Handover and Retire.
	Token int64
	// Leases are all that the holder has, with raised tokens.
	Leases []Lease
}

// Candidate is a replica on which a lease is wanted.
type Candidate struct {
	Replica string
	// Instance is its pod UID as the caller sees it.
	Instance string
}

// AcquireRequest asks for leases.
type AcquireRequest struct {
	Group  string
	Holder string
	// Token is the holder's, from Adopt.
	Token int64
	// RequestID is unique per wish, 1 to 128 characters.
	RequestID string
	// Candidates in order of preference, 1 to 1000.
	Candidates []Candidate
	// Max is how many leases are wanted, those among the candidates that the holder has
	// already included; 1 to 1000.
	Max int
	// TTL is in whole seconds, 1 to 3600.
	TTL time.Duration
}

// AcquireResult answers per candidate.
type AcquireResult struct {
	// Leases that the holder has now among the candidates. One that is not new may have
	// been renewed last a while ago: see Renewer.Track.
	Leases []Lease
	// Refusals by name of the candidate. A candidate beyond Max is in neither.
	Refusals map[string]Refusal
}

// RenewResult is the answer for one lease.
type RenewResult struct {
	ID string
	// Refusal is nil when the lease was renewed.
	Refusal *Refusal
}

// HandoverRequest asks to move duty away from a working replica.
type HandoverRequest struct {
	Group  string
	Holder string
	// Token is the holder's, from Adopt.
	Token int64
	From  string
	// Candidates who should take over, in order of preference.
	Candidates []string
}
