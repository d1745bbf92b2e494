// Package policy decides which replicas of a group may be leased: idle ones, while the
// floor holds and no limit is reached. It is pure: no I/O, no clock.
package policy

import (
	"fmt"
	"maps"
	"slices"
	"time"

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
	// Domain is the topology domain in which it runs; empty: not known.
	Domain string
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
	// Spread, if not empty, is the topology key by which leased replicas share one domain.
	Spread string
	// Unclear says why the rules cannot be applied, so that nothing is leased; empty: they can.
	Unclear string
	// Freeze is that of the window which is open; zero: none is.
	Freeze Freeze
	// Replicas by name.
	Replicas map[string]Replica
}

var _ lease.Judge = Rules{}

// Quorum is the majority of voters.
func Quorum(voters int) int { return voters/2 + 1 }

// Share is that many percent of the members, rounded up.
func Share(percent, members int) int { return (percent*members + 99) / 100 }

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

// MayGrant refuses every grant while the record is being recovered, a pin is overdue or the
// rules are not clear.
func (r Rules) MayGrant(*lease.Table) *lease.Refusal {
	if r.Frozen {
		return lease.Refuse(lease.Frozen, "frozen: the record was lost", "no lease is granted")
	}
	if r.Overdue != "" {
		return lease.Refuse(lease.OverduePin, "pinOverdueSeconds: "+r.Overdue, "no lease is granted")
	}
	if r.Unclear != "" {
		return lease.Refuse(lease.FreezeWindow, r.Unclear, "no lease is granted")
	}
	return nil
}

// MayMove refuses to move duty for an upgrade during a freeze.
func (r Rules) MayMove(from string) *lease.Refusal {
	switch {
	case r.Unclear != "":
		return lease.Refuse(lease.FreezeWindow, r.Unclear, "duty does not move from %s", from)
	case r.Freeze.Window != "":
		return r.freeze("duty does not move from %s", from)
	}
	return nil
}

// mayDisturb refuses to touch a replica during a freeze. One at a revision that nobody has
// verified is part of an upgrade that has begun, and is brought to its end.
func (r Rules) mayDisturb(replica, format string) *lease.Refusal {
	if r.Freeze.Window == "" || r.Replicas[replica].Quarantined {
		return nil
	}
	return r.freeze(format, replica)
}

func (r Rules) freeze(format, replica string) *lease.Refusal {
	rule := fmt.Sprintf("freezeWindows: %s is open until %s", r.Freeze.Window, r.Freeze.Until.UTC().Format(time.RFC3339))
	return lease.Refuse(lease.FreezeWindow, rule, format, replica)
}

// MayLease refuses one candidate. A replica that does not serve anyway may be leased
// below the floor: that makes nothing worse.
func (r Rules) MayLease(t *lease.Table, replica, instance string) (notServing bool, refusal *lease.Refusal) {
	if refusal := r.mayTouch(replica, instance); refusal != nil {
		return false, refusal
	}
	if refusal := r.mayDisturb(replica, "%s is not leased"); refusal != nil {
		return false, refusal
	}
	if n := len(t.Leases); n >= r.MaxLeased {
		return false, lease.Refuse(lease.MaxLeased, fmt.Sprintf("maxLeased %d: %d leased", r.MaxLeased, n),
			"%s is not leased", replica)
	}
	if refusal := r.mayJoin(t, replica); refusal != nil {
		return false, refusal
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
	if refusal := r.mayDisturb(l.Replica, "%s is not pinned"); refusal != nil {
		return refusal
	}
	if n := r.Serving(t); n < r.Floor && !l.NotServing && !r.Replicas[l.Replica].Quarantined {
		return lease.Refuse(lease.BelowFloor, fmt.Sprintf("floor %d: %d serve without %s", r.Floor, n, l.Replica),
			"%s is not pinned", l.Replica)
	}
	return nil
}

// mayJoin refuses a replica that runs in another topology domain than those that are leased. Of
// one whose domain is not known that cannot be said.
func (r Rules) mayJoin(t *lease.Table, replica string) *lease.Refusal {
	if r.Spread == "" {
		return nil
	}
	mine := r.Replicas[replica].Domain
	if mine == "" {
		return lease.Refuse(lease.Spread, fmt.Sprintf("spread %s: the domain of %s is not known", r.Spread, replica), "%s is not leased", replica)
	}
	for _, other := range slices.Sorted(maps.Keys(t.Leases)) {
		if theirs := r.Replicas[other].Domain; theirs != mine {
			return lease.Refuse(lease.Spread, fmt.Sprintf("spread %s: %s is in %s, and %s, which is leased, in %s", r.Spread, replica, mine, other, nowhere(theirs)),
				"%s is not leased", replica)
		}
	}
	return nil
}

func nowhere(domain string) string {
	if domain == "" {
		return "one that is not known"
	}
	return domain
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
