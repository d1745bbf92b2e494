package lease

import (
	"fmt"
	"time"
)

// Reason says why something was refused. The set is closed; each value has one remedy.
type Reason int

// The reasons, as in offduty.arbiter.v1.RefusalReason.
const (
	NotIdle Reason = iota + 1
	BelowFloor
	MaxLeased
	LeasedByOther
	StaleToken
	Lost
	InstanceChanged
	Frozen
	OverduePin
	UnknownReplica
	NoSuccessor
	DutyIsNamed
	HolderHasLeases
	HolderRetired
	FreezeWindow
	Spread
)

// Refusal is a "no" as data. It is not an error: the state allows no better answer now.
type Refusal struct {
	// Reason is for programs.
	Reason Reason
	// Rule names the rule that refused, with its numbers.
	Rule string
	// Message says what was refused and what to do, for people.
	Message string
	// RetryAfter is when asking again makes sense without any change of state; 0: on change.
	RetryAfter time.Duration
}

// Refuse makes a refusal whose message ends with the remedy of its reason.
func Refuse(reason Reason, rule, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Rule: rule, Message: fmt.Sprintf(format, args...) + ": " + reason.Remedy()}
}

// Remedy says what the caller can do about a reason.
func (r Reason) Remedy() string {
	switch r {
	case NotIdle:
		return "wait for its duty to change, or request handover"
	case BelowFloor:
		return "wait, or heal the other replicas"
	case MaxLeased:
		return "wait for a release"
	case LeasedByOther:
		return "wait for the other holder to release it"
	case StaleToken:
		return "stop acting for this holder, or adopt if you lead"
	case Lost:
		return "undo what was done under it"
	case InstanceChanged:
		return "look at the replica again"
	case Frozen:
		return "adopt, naming the leases found on the replicas"
	case OverduePin:
		return "finish and release the overdue replica, or have an administrator release it by force"
	case UnknownReplica:
		return "check the name and the group's members"
	case NoSuccessor:
		return "wait for another replica to become idle and healthy"
	case DutyIsNamed:
		return "ask the administrator to name other working replicas"
	case HolderHasLeases:
		return "release them first"
	case HolderRetired:
		return "let its plan go; one that is applied anew is another holder"
	case FreezeWindow:
		return "wait for its end, or change the freeze windows"
	case Spread:
		return "wait for a release, or change the spread"
	}
	return "do not repeat the request"
}
