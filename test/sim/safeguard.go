package sim

import (
	"fmt"
	"slices"
	"time"

	"offduty.dev/arbiter/lease"
	"offduty.dev/upgrader/plan"
)

// Safeguard is a part of the protocol that a run can be without, to see that the promises
// depend on it.
type Safeguard int

// The safeguards.
const (
	Nothing      Safeguard = iota
	Precondition           // uid and resourceVersion in the writes of pods
	PinCheck               // the pin before the hold is released
	Hold                   // the hold in Kruise's hook
	Ban                    // no duty for a leased name
	Partition              // the exact partition: it is 0 at once
	Priority               // the grant's weight in Kruise's order
	Lasting                // that a pinned lease does not end by time
	Expiring               // that one which is not pinned does
	Verification           // that a pod which came back new is verified before it may work
	Keeping                // that a lease is kept until the replica is given back
	Returning              // that leases are given back
	Asking                 // that an application asks before it works
	Evidence               // that a handover is believed when it is seen
	Proof                  // that a revision is proven before a set that looks at rest is taken for it
	Looking                // that the arbiter looks anew at the floor before anything is begun late
	Heeding                // that what a later leader has noted is heeded
	Counting               // that what the holder has among the candidates counts
	Monotonic              // that the arbiter counts time by what passes, and not by the wall clock
	Announcing             // that a set says that it is given back before any hold goes
)

var safeguards = []string{
	"nothing", "precondition", "pin", "hold", "ban", "partition", "priority", "lasting", "expiring",
	"verification", "keeping", "returning", "asking", "evidence", "proof", "looking", "heeding", "counting", "monotonic", "announcing",
}

// Safeguards are the names of what a run can be without.
func Safeguards() []string { return safeguards[1:] }

func (g Safeguard) String() string { return safeguards[g] }

// MarshalText is the safeguard's name.
func (g Safeguard) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText takes a safeguard's name.
func (g *Safeguard) UnmarshalText(text []byte) error {
	i := slices.Index(safeguards, string(text))
	if i < 0 {
		return fmt.Errorf("there is no safeguard %q: they are %v", text, safeguards)
	}
	*g = Safeguard(i)
	return nil
}

// from is what becomes of what was decided, without a safeguard.
func (g Safeguard) from(actions []plan.Action) []plan.Action {
	if g != Partition && g != Returning {
		return actions
	}
	var out []plan.Action
	for _, a := range actions {
		switch a := a.(type) {
		case plan.ApplySet:
			if g == Partition {
				a.Partition = 0
			}
			out = append(out, a)
		case plan.WriteTemplate:
			if g == Partition {
				a.Partition = 0
			}
			out = append(out, a)
		case plan.ReleaseLease:
			if g != Returning {
				out = append(out, a)
			}
		default:
			out = append(out, a)
		}
	}
	return out
}

// acquire asks the table for leases.
func (a *arbiter) acquire(r lease.AcquireRequest, now time.Time) lease.Acquired {
	if a.s.cfg.Without == Counting {
		for _, c := range r.Candidates {
			if l, ok := a.table.Leases[c.Replica]; ok && l.Holder == r.Holder {
				r.Max++
			}
		}
	}
	return a.table.Acquire(r, a.rules(), now)
}

// loosen does what the arbiter would do without a safeguard.
func (a *arbiter) loosen(now time.Time) {
	if a.s.cfg.Without == Verification {
		for _, p := range a.cache.pods {
			a.record.Trust(p.Revision)
		}
	}
	if a.s.cfg.Without == Expiring {
		for _, l := range a.table.Leases {
			a.ages.Renew(l, now)
		}
	}
	if a.s.cfg.Without != Lasting {
		return
	}
	for name, l := range a.table.Leases {
		if l.Phase == lease.Pinned && now.Sub(l.GrantedAt) > l.TTL {
			delete(a.table.Leases, name)
		}
	}
}
