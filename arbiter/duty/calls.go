package duty

import (
	"context"
	"fmt"
	"time"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

// Configure sets the group's settings and what is seen of its pods, by name. The first
// call makes the group ready; until then every other call fails with ErrUnavailable.
func (g *Group) Configure(ctx context.Context, settings Settings, pods map[string]roster.Pod) error {
	return g.do(ctx, true, func(t *txn) {
		if !g.configured {
			g.inherit(t.now, settings, pods)
		}
		g.settings, g.pods, g.configured = settings, pods, true
		g.look.Store(nil)
		if settings.Look != nil {
			g.look.Store(&settings.Look)
		}
		g.handsOver.Store(settings.Roster.Observed == nil || settings.HandOver != nil)
	})
}

// call is do for a configured group.
func (g *Group) call(ctx context.Context, step bool, fn func(*txn)) error {
	return g.do(ctx, step, g.ifConfigured(fn))
}

func (g *Group) ifConfigured(fn func(*txn)) func(*txn) {
	return func(t *txn) {
		if !g.configured {
			t.err = fmt.Errorf("group %s: %w: its members are not known yet", g.cfg.Key, ErrUnavailable)
			return
		}
		fn(t)
	}
}

// Adopt is lease.Table.Adopt. Adopting counts as a renewal of the holder's leases.
func (g *Group) Adopt(ctx context.Context, r lease.AdoptRequest) (token int64, leases []lease.Lease, refusal *lease.Refusal, err error) {
	err = g.call(ctx, true, func(t *txn) {
		before := t.leases.Clone()
		token, leases, refusal = t.leases.Adopt(r, t.frozen)
		t.renewed = leases
		t.dirty = t.dirty || before.LastToken != t.leases.LastToken
	})
	return token, leases, refusal, err
}

// Acquire is lease.Table.Acquire. A lease that the holder has already is renewed.
func (g *Group) Acquire(ctx context.Context, r lease.AcquireRequest) (lease.Acquired, error) {
	var out lease.Acquired
	err := g.call(ctx, false, func(t *txn) {
		out = t.leases.Acquire(r, g.rules, t.now)
		t.renewed = out.Leases
		t.dirty = t.dirty || out.Granted > 0
	})
	return out, err
}

// Renew is lease.Table.Renew for several leases; the refusals are in the order of refs.
func (g *Group) Renew(ctx context.Context, refs []lease.Ref) ([]*lease.Refusal, error) {
	var out []*lease.Refusal
	err := g.call(ctx, false, func(t *txn) {
		out = make([]*lease.Refusal, len(refs))
		t.renewed = nil
		for i, ref := range refs {
			l, refusal := t.leases.Renew(ref, &g.ages, t.now)
			if refusal != nil {
				out[i] = refusal
				continue
			}
			t.renewed = append(t.renewed, *l)
		}
	})
	return out, err
}

// Pin is lease.Table.Pin. Where duty is observed it is looked at anew: what was seen last
// may have changed since, and the pin is the last moment at which that can be known.
func (g *Group) Pin(ctx context.Context, ref lease.Ref, instance string) (pinned *lease.Lease, refusal *lease.Refusal, err error) {
	pods, err := g.lookAnew(ctx, "a pin")
	if err != nil {
		return nil, nil, err
	}
	err = g.send(ctx, &op{look: pods, run: g.ifConfigured(func(t *txn) {
		pinned, refusal = t.leases.Pin(ref, instance, g.rules, &g.ages, t.now)
		t.dirty = t.dirty || refusal == nil
	})})
	return pinned, refusal, err
}

// lookAnew looks at the pods of an observed roster; nil for any other.
func (g *Group) lookAnew(ctx context.Context, before string) (map[string]roster.Pod, error) {
	look := g.look.Load()
	if look == nil {
		return nil, nil
	}
	pods, err := (*look)(ctx)
	if err != nil {
		return nil, fmt.Errorf("group %s: %w: look at the members before %s: %w", g.cfg.Key, ErrUnavailable, before, err)
	}
	return pods, nil
}

// Release is lease.Table.Release. A verified revision, when not empty, may have duty from
// now on.
func (g *Group) Release(ctx context.Context, ref lease.Ref, verified string) (refusal *lease.Refusal, err error) {
	err = g.call(ctx, true, func(t *txn) {
		var ended *lease.Lease
		ended, refusal = t.leases.Release(ref)
		if ended == nil || refusal != nil {
			return
		}
		t.dirty = true
		t.roster.Trust(verified)
	})
	return refusal, err
}

// Retire is lease.Table.Retire.
func (g *Group) Retire(ctx context.Context, holder string, token int64) (refusal *lease.Refusal, err error) {
	err = g.call(ctx, true, func(t *txn) {
		before := len(t.leases.Holders)
		refusal = t.leases.Retire(holder, token)
		t.dirty = t.dirty || len(t.leases.Holders) != before
	})
	return refusal, err
}

// Fenced ends an expired lease after nothing of its holder can be under way any more.
func (g *Group) Fenced(ctx context.Context, id string) error {
	return g.call(ctx, true, func(t *txn) {
		t.dirty = t.leases.Fenced(id) || t.dirty
	})
}

// ForceRelease ends the lease on a replica for an administrator, and records who asked
// and why. It returns the lease as it was, nil when there was none.
func (g *Group) ForceRelease(ctx context.Context, replica, who, reason string) (was *lease.Lease, err error) {
	err = g.call(ctx, true, func(t *txn) {
		if was = t.leases.ForceRelease(replica); was == nil {
			return
		}
		entry := store.ForceRelease{
			// The record keeps whole seconds.
			Time: t.now.UTC().Truncate(time.Second), By: who, Replica: replica,
			LeaseID: was.ID, Holder: was.Holder, Reason: reason,
		}
		t.forced = append([]store.ForceRelease{entry}, t.forced...)
		t.forced = t.forced[:min(len(t.forced), store.MaxForceReleases)]
		t.dirty = true
	})
	if err == nil && was != nil {
		g.cfg.Log.Info("lease released by force", "group", g.cfg.Key, "lease", was.ID, "replica", g.cfg.Prefix+replica,
			"holder", was.Holder, "by", who, "reason", reason)
	}
	return was, err
}

// Handover asks to move duty away from a member, best to the candidates in their order.
// It returns the successor; an empty one means that from has no duty.
func (g *Group) Handover(ctx context.Context, holder string, token int64, from string, candidates []string) (successor string, refusal *lease.Refusal, err error) {
	if g.Observed() {
		return g.askHandover(ctx, holder, token, from, candidates)
	}
	err = g.call(ctx, true, func(t *txn) {
		if refusal = g.mayMove(t, holder, token, from); refusal != nil {
			return
		}
		var answer roster.Refused
		successor, answer = roster.RequestHandover(&t.roster, g.memory, g.input(t), from, candidates)
		refusal = refusalOf(answer, from)
	})
	return successor, refusal, err
}

// mayMove refuses a handover to whoever may not act, while nothing is certain, and during a freeze.
func (g *Group) mayMove(t *txn, holder string, token int64, from string) *lease.Refusal {
	if refusal := t.leases.CheckHolder(holder, token); refusal != nil {
		return refusal
	}
	if t.frozen {
		return lease.Refuse(lease.Frozen, "frozen: the record was lost", "duty does not move")
	}
	return g.rules.MayMove(from)
}

func refusalOf(r roster.Refused, from string) *lease.Refusal {
	switch r {
	case roster.Accepted:
		return nil
	case roster.RefusedUnknown:
		return lease.Refuse(lease.UnknownReplica, "members", "%s is not a member", from)
	case roster.RefusedNamed:
		return lease.Refuse(lease.DutyIsNamed, "assigned.working", "duty does not move from %s", from)
	case roster.RefusedObserved:
		return lease.Refuse(lease.DutyIsNamed, "observed: the application decides who works", "duty does not move from %s", from)
	case roster.RefusedBusy:
		return lease.Refuse(lease.NoSuccessor, "one handover at a time", "another handover is under way, not from %s", from)
	case roster.RefusedUncertain:
		return lease.Refuse(lease.NoSuccessor, "duty: it is not certain who works", "duty does not move from %s", from)
	case roster.RefusedAgain:
		return lease.Refuse(lease.NoSuccessor, "once per working replica, revision and plan: the application was asked before",
			"duty does not move from %s; see what the application says, and move it there", from)
	case roster.RefusedNoSuccessor:
	}
	return lease.Refuse(lease.NoSuccessor, "successor: a candidate that is idle, not leased and fit", "nobody can take over from %s", from)
}

// Reload makes the group read its record again before it does anything else: somebody
// else has changed it.
func (g *Group) Reload(ctx context.Context) error {
	return g.do(ctx, false, func(t *txn) {
		t.err = nil
		g.loaded, g.stepAt = false, t.now
	})
}
