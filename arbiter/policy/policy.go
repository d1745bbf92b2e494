// Package policy decides which replicas of a group may be leased: idle ones, while the
// floor holds and no limit is reached. It is pure: no I/O, no clock.
package policy

import (
	"fmt"

	"offduty.dev/arbiter/lease"
)

// Replica is what the rules need to know of one member.
type Replica struct {
	// Instance is the pod UID now; empty when there is none.
	Instance string
	// Idle: it does not work, and that is certain.
	Idle bool
	// Why says why Idle is false, for people.
	Why string
	// Ready: it serves as far as its own state goes.
	Ready bool
	// Quarantined: it runs a revision that nobody has verified.
	Quarantined bool
}

// Rules are the limits of a group and its members; a lease.Judge.
type Rules struct {
	// Floor is how many replicas must serve at any time.
	Floor int
	// MaxLeased is how many may be leased at a time.
	MaxLeased int
	// Frozen: the record was lost, nothing is certain.
	Frozen bool
	// Overdue is the replica whose pin is overdue; empty when there is none.
	Overdue string
	// Replicas by name.
	Replicas map[string]Replica
}

var _ lease.Judge = Rules{}

// Quorum is the majority of voters.
func Quorum(voters int) int { return voters/2 + 1 }

// Serves says whether a replica counts for the floor: known, ready, not leased and not
// quarantined.
func (r Rules) Serves(t *lease.Table, replica string) bool {
	_, leased := t.Leases[replica]
	return !leased && r.couldServe(replica)
}

func (r Rules) couldServe(replica string) bool {
	m, known := r.Replicas[replica]
	return known && m.Ready && !m.Quarantined
}

// Serving counts the replicas that serve.
func (r Rules) Serving(t *lease.Table) int {
	n := 0
	for name := range r.Replicas {
		if r.Serves(t, name) {
			n++
		}
	}
	return n
}

// MayGrant refuses every grant while the record is being recovered or a pin is overdue.
func (r Rules) MayGrant(*lease.Table) *lease.Refusal {
	if r.Frozen {
		return lease.Refuse(lease.Frozen, "frozen: the record was lost", "no lease is granted")
	}
	if r.Overdue != "" {
		return lease.Refuse(lease.OverduePin, "pinOverdueSeconds: "+r.Overdue, "no lease is granted")
	}
	return nil
}

// MayLease refuses one candidate. A replica that does not serve anyway may be leased
// below the floor: that makes nothing worse.
func (r Rules) MayLease(t *lease.Table, replica, instance string) (notServing bool, refusal *lease.Refusal) {
	if refusal := r.mayTouch(replica, instance); refusal != nil {
		return false, refusal
	}
	if n := len(t.Leases); n >= r.MaxLeased {
		return false, lease.Refuse(lease.MaxLeased, fmt.Sprintf("maxLeased %d: %d leased", r.MaxLeased, n),
			"%s is not leased", replica)
	}
	if !r.Serves(t, replica) {
		return true, nil
	}
	if n := r.Serving(t); n-1 < r.Floor {
		return false, lease.Refuse(lease.BelowFloor, fmt.Sprintf("floor %d: %d serve, %d without %s", r.Floor, n, n-1, replica),
			"%s is not leased", replica)
	}
	return false, nil
}

// MayPin looks again, just before the point of no return. A pin that is overdue or a
// limit that was lowered does not stop one that was granted before.
func (r Rules) MayPin(t *lease.Table, l lease.Lease, instance string) *lease.Refusal {
	if r.Frozen {
		return lease.Refuse(lease.Frozen, "frozen: the record was lost", "%s is not pinned", l.Replica)
	}
	if refusal := r.mayTouch(l.Replica, instance); refusal != nil {
		return refusal
	}
	if n := r.Serving(t); n < r.Floor && !l.NotServing && !r.Replicas[l.Replica].Quarantined {
		return lease.Refuse(lease.BelowFloor, fmt.Sprintf("floor %d: %d serve without %s", r.Floor, n, l.Replica),
			"%s is not pinned", l.Replica)
	}
	return nil
}

// mayTouch holds for grants and pins: a known replica, the named instance, idle.
func (r Rules) mayTouch(replica, instance string) *lease.Refusal {
	m, known := r.Replicas[replica]
	switch {
	case !known:
		return lease.Refuse(lease.UnknownReplica, "members", "%s is not a member", replica)
	case m.Instance != instance || instance == "":
		return lease.Refuse(lease.InstanceChanged, fmt.Sprintf("instance: %q runs, %q was named", m.Instance, instance),
			"%s is another instance", replica)
	case !m.Idle:
		return lease.Refuse(lease.NotIdle, "duty: idle", "%s is not idle (%s)", replica, m.Why)
	}
	return nil
}
