// Package roster decides who should work in one group, and says who does. It is pure:
// no I/O, no clock.
package roster

import (
	"maps"
	"time"
)

// Duty is what a member does, as far as the arbiter has seen. Unknown is to be treated
// as Working.
type Duty string

// The duties.
const (
	Working Duty = "Working"
	Idle    Duty = "Idle"
	Unknown Duty = "Unknown"
)

// Member is the recorded duty of one member.
//
// Invariants (FuzzStep): Assigned implies Duty is not Idle; a member with a lease is
// never given duty by the arbiter; Generation grows by every change of Assigned and never
// falls while the member is recorded.
type Member struct {
	// Assigned: it has been given duty, or was last seen to have it.
	Assigned bool
	// Generation grows with each change of Assigned; 1 at first.
	Generation int64
	// Duty is Idle only after the member acknowledged that, or can no longer work.
	Duty Duty
	// Attends: the running instance has attended. One that has is asked for its duty,
	// one that has not is timed.
	Attends bool
	// Instance is the pod UID when last seen.
	Instance string
	// Message says why Duty is what it is, for people.
	Message string
}

// Record is what is stored of the roster.
type Record struct {
	// Members by name.
	Members map[string]Member
	// Trusted revisions, oldest first: those present before any holder adopted, and
	// those that were verified.
	Trusted []string
	// Asked are the handovers that an application was asked for. The slice is replaced, never
	// changed.
	Asked []Asked
}

// Clone returns a record that shares nothing with r.
func (r Record) Clone() Record {
	c := Record{Members: maps.Clone(r.Members), Trusted: append([]string(nil), r.Trusted...), Asked: r.Asked}
	if c.Members == nil {
		c.Members = map[string]Member{}
	}
	return c
}

// Config is how duty is given.
type Config struct {
	// Observed: the application decides who works; the rest is then without effect. Nil: the
	// arbiter does.
	Observed *Observed
	// Named: the administrator names the workers, in Names; otherwise Slots members work.
	Named bool
	Names []string
	Slots int
	// Settle is how long a member that does not attend may go on working after its duty
	// was taken.
	Settle time.Duration
	// Failover is how long a worker may be unfit before its duty goes to another.
	Failover time.Duration
	// Lifetime is how long a member that attends may rely on an answer.
	Lifetime time.Duration
}

// Pod is what is seen of a member now. A member without one is missing.
type Pod struct {
	// Instance is the pod's UID.
	Instance string
	// Revision is its controller revision, "<set>-<hash>"; empty: not known, trusted.
	Revision string
	// Ready is the pod's readiness.
	Ready bool
	// Terminating: its deletion has begun.
	Terminating bool
	// Down: none of its containers runs, by the kubelet's word.
	Down bool
	// OnDuty: its duty label says working.
	OnDuty bool
	// Held: the upgrader holds it, and Kruise has shown that it knows.
	Held bool
	// LeaseID is the lease noted on the pod, Verified the revision that an upgrader has
	// verified on it. Used only after a loss of the record.
	LeaseID  string
	Verified string
	// Token is the highest token that stands on the pod, of a lease or a fence. The record
	// knows no lower one, unless it was lost or set back.
	Token int64
	// Fenced is the token up to which leases on the pod are void.
	Fenced int64
	// Node on which it runs; empty: none yet.
	Node string
	// Sight is what the source of an observed roster says of it.
	Sight Sight
}

// Marked says whether an upgrader that has adopted was at the pod, and has not given it back.
func (p Pod) Marked() bool { return p.LeaseID != "" || p.Verified != "" }

// Health is what an attending member says of itself.
type Health int

// The healths.
const (
	HealthUnknown Health = iota
	Healthy
	Unhealthy
)

// Attendance is what is known of a member's conversation with this process.
type Attendance struct {
	// Connected: a conversation is open.
	Connected bool
	// Instance that attends, or attended last.
	Instance string
	Health   Health
	// Acked is the generation that is in effect at the member, AckedDuty the duty.
	Acked     int64
	AckedDuty Duty
	// Telling: an answer that says working is being sent at this moment.
	Telling bool
	// ToldUntil is when the last answer that could have said working has run out.
	ToldUntil time.Time
	// OldUntil is the same for earlier instances of the name.
	OldUntil time.Time
}

// Handover is a move of duty under way.
type Handover struct {
	From, To string
	// until is when duty that the application moves is no longer expected to move.
	until time.Time
}

// Memory is what this process alone knows: since when. Losing it makes waits begin anew.
type Memory struct {
	// revoked: since when a member without duty has not been seen idle.
	revoked map[string]time.Time
	// unfit: since when an assigned member could not work.
	unfit map[string]time.Time
	// missing: since when a member has had no pod.
	missing map[string]time.Time
	// Handover under way; nil when there is none.
	Handover *Handover
}

// NewMemory returns a memory that knows nothing yet.
func NewMemory() *Memory {
	return &Memory{revoked: map[string]time.Time{}, unfit: map[string]time.Time{}, missing: map[string]time.Time{}}
}

// Input is everything that Step decides on.
type Input struct {
	Config Config
	// Pods and Attendance by member name.
	Pods       map[string]Pod
	Attendance map[string]Attendance
	// Leased says whether a name has a lease in any phase.
	Leased func(name string) bool
	// Holders says whether any holder is registered: an upgrade may be at work.
	Holders bool
	// Frozen: the record was lost; no duty is given or taken.
	Frozen bool
	Now    time.Time
}

// Notes say what an administrator should know.
type Notes struct {
	// Wanted is how many members should work, Assigned how many have duty.
	Wanted, Assigned int
	// Leased are named workers that cannot work because they are leased.
	Leased []string
	// Absent are named workers without a pod.
	Absent []string
	// Quarantined are members at a revision that nobody has verified.
	Quarantined []string
	// Unheld are members that could have duty if the upgrader held their pods.
	Unheld []string
	// BestEffort are members that have or had duty and do not attend.
	BestEffort []string
	// Draining are members whose duty was taken and that may still work.
	Draining []string
	// Unfit are members with duty that cannot do it now.
	Unfit []string

	// Of an observed roster: Working are seen to work, Called although they are leased.
	Working, Called []string
	// Unknown are members whose duty is not known, WhyUnknown is why not, of the first.
	Unknown    []string
	WhyUnknown string
	// Unsettled says that nobody is idle because of how many work; empty: not so.
	Unsettled string
}
