package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"offduty.dev/arbiter/client"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/policy"
	"offduty.dev/arbiter/roster"
	"offduty.dev/upgrader/plan"
	sessions "offduty.dev/upgrader/session"
)

// line is an upgrader's connection with the model of the arbiter: the calls of arbiter/server
// without their wire. A session.Arbiter.
type line struct {
	u *upgrader
	// requests are the ids of wishes, which are random, by the number that the model gives them.
	requests map[string]string
	// state is the snapshot that was converted last.
	state *client.GroupState
	at    int
}

const prefix = namespace + "/"

func bare(replica string) string { return strings.TrimPrefix(replica, prefix) }

// call runs a call and pauses before it, as before each request. about says what it is for,
// in the words of scenarios.
func (l *line) call(name, about string, fn func(now time.Time)) error {
	l.u.pause(about)
	return l.now(name, fn)
}

// now is call without the pause.
func (l *line) now(name string, fn func(now time.Time)) error {
	s := l.u.s
	if s.now.Before(s.cut) {
		return fmt.Errorf("%s: the arbiter cannot be reached: %w", name, client.ErrUnavailable)
	}
	if err := s.ask(l.u.name, fn); err != nil {
		return fmt.Errorf("%s: %w: %w", name, err, client.ErrOutcomeUnknown)
	}
	return nil
}

// replica on which a lease is; "" when there is none.
func (l *line) replica(ref client.LeaseRef) string {
	for name, x := range l.u.s.arb.table.Leases {
		if x.ID == ref.ID {
			return name
		}
	}
	return ""
}

// Capabilities is session.Arbiter.
func (l *line) Capabilities(context.Context, string) (client.Capabilities, error) {
	return client.Capabilities{Listing: true, Leases: client.LeasesPinned, Handover: true, Implementation: "model"}, nil
}

// Adopt is session.Arbiter.
func (l *line) Adopt(_ context.Context, _, holder string, term int64, identity string, known []client.Lease) (out client.Adopted, no *client.Refusal, err error) {
	r := lease.AdoptRequest{Holder: holder, Term: term, Identity: identity}
	slices.SortFunc(known, func(a, b client.Lease) int { return strings.Compare(a.Replica, b.Replica) })
	for _, x := range known {
		r.Known = append(r.Known, lease.Lease{ID: x.ID, Replica: bare(x.Replica), Token: x.Token, Phase: wirePhase(x.Phase), Instance: x.Instance, TTL: x.TTL})
	}
	a, by := l.u.s.arb, l.u.caller()
	err = l.call("adopt", request(plan.Adopt{}), func(now time.Time) {
		token, leases, refusal := a.table.Adopt(r, false)
		for _, x := range leases {
			a.ages.Renew(x, now)
			a.renewed[x.ID] = a.s.now
		}
		if refusal == nil {
			a.adopts(by)
		}
		out, no = client.Adopted{Token: token, Leases: clientLeases(leases)}, clientRefusal(refusal)
	})
	if no != nil && no.Reason == client.ReasonHolderRetired {
		l.u.s.Kinds["a retired holder refused"]++
	}
	if err == nil && no == nil {
		if holder != l.u.s.plan.uid {
			l.u.s.fail("7: %s adopts for %s, which has gone", l.u.name, holder)
		}
		l.u.s.tell(l.u.name, "adopts with token %d", out.Token)
	}
	return out, no, err
}

// Acquire is session.Arbiter.
func (l *line) Acquire(_ context.Context, q client.AcquireRequest) (out client.AcquireResult, no *client.Refusal, err error) {
	id, known := l.requests[q.RequestID]
	if !known {
		l.u.s.requests++
		id = strconv.Itoa(l.u.s.requests)
		l.requests[q.RequestID] = id
	}
	r := lease.AcquireRequest{Holder: q.Holder, Token: q.Token, RequestID: id, Max: q.Max, TTL: q.TTL}
	for _, c := range q.Candidates {
		r.Candidates = append(r.Candidates, lease.Candidate{Replica: bare(c.Replica), Instance: c.Instance})
	}
	a, by := l.u.s.arb, l.u.caller()
	err = l.call("acquire", request(plan.Acquire{}), func(now time.Time) {
		before, leases := a.serving(), maps.Clone(a.table.Leases)
		got := a.acquire(r, now)
		a.granted(by, r, got, before, leases)
		for _, x := range got.Leases {
			a.ages.Renew(x, now)
			a.renewed[x.ID] = a.s.now
		}
		out, no = client.AcquireResult{Leases: clientLeases(got.Leases), Refusals: map[string]client.Refusal{}}, clientRefusal(got.Refusal)
		for _, x := range got.Refused {
			out.Refusals[prefix+x.Replica] = *clientRefusal(x.Refusal)
		}
	})
	if err != nil || no != nil {
		return client.AcquireResult{}, no, err
	}
	for _, x := range out.Leases {
		l.u.s.tell(l.u.name, "has the lease %s on %s", x.ID, x.Replica)
	}
	return out, nil, nil
}

// Renew is session.Arbiter. It is called by what goes on in the background of the process.
func (l *line) Renew(_ context.Context, _ string, refs []client.LeaseRef) ([]client.RenewResult, error) {
	out := make([]client.RenewResult, len(refs))
	a, by := l.u.s.arb, l.u.caller()
	err := l.now("renew", func(now time.Time) {
		for i, ref := range refs {
			x, no := a.table.Renew(lease.Ref(ref), &a.ages, now)
			if no == nil {
				a.ages.Renew(*x, now)
				a.renewed[x.ID] = a.s.now
				a.obeys(by)
			}
			out[i] = client.RenewResult{ID: ref.ID, Refusal: clientRefusal(no)}
		}
	})
	return out, err
}

// Pin is session.Arbiter.
func (l *line) Pin(_ context.Context, _ string, ref client.LeaseRef, instance string) (out client.Lease, no *client.Refusal, err error) {
	a, by := l.u.s.arb, l.u.caller()
	err = l.call("pin", request(plan.Pin{Pod: l.replica(ref)}), func(now time.Time) {
		if l.u.s.cfg.Without == PinCheck {
			for _, x := range a.table.Leases {
				if x.ID == ref.ID {
					out = clientLease(x)
					out.Phase = client.PhasePinned
				}
			}
			return
		}
		before := a.phase(ref.ID)
		x, refusal := a.table.Pin(lease.Ref(ref), instance, a.rules(), &a.ages, now)
		if no = clientRefusal(refusal); no == nil {
			a.pinned(by, *x, instance, before)
			out = clientLease(*x)
		}
	})
	switch {
	case err != nil:
	case no == nil:
		l.u.s.tell(l.u.name, "pins %s on %s", ref.ID, out.Replica)
	default:
		l.u.s.tell(l.u.name, "is refused the pin of %s: %s", ref.ID, no)
	}
	return out, no, err
}

// Release is session.Arbiter.
func (l *line) Release(_ context.Context, _ string, ref client.LeaseRef, outcome client.Outcome, version string) (no *client.Refusal, err error) {
	a, by := l.u.s.arb, l.u.caller()
	upgraded := outcome == client.Upgraded
	err = l.call("release", request(plan.ReleaseLease{Lease: plan.Lease{Replica: l.replica(ref)}}), func(time.Time) {
		ended, refusal := a.table.Release(lease.Ref(ref))
		no = clientRefusal(refusal)
		if ended == nil || refusal != nil {
			return
		}
		a.obeys(by)
		l.u.s.ended(by.name, plan.ReleaseLease{Lease: plan.Lease{ID: ended.ID, Replica: ended.Replica, Instance: ended.Instance}, Upgraded: upgraded, Revision: version})
		if upgraded {
			a.record.Trust(version)
			a.proven[version] = true
		}
		l.u.s.tell(by.name, "releases %s on %s, upgraded: %t", ended.ID, ended.Replica, upgraded)
	})
	return no, err
}

// Retire is session.Arbiter.
func (l *line) Retire(_ context.Context, _, holder string, token int64) (no *client.Refusal, err error) {
	err = l.call("retire", request(plan.Leave{}), func(time.Time) { no = clientRefusal(l.u.s.arb.table.Retire(holder, token)) })
	return no, err
}

// Handover is session.Arbiter.
func (l *line) Handover(_ context.Context, r client.HandoverRequest) (successor string, no *client.Refusal, err error) {
	a := l.u.s.arb
	to := make([]string, 0, len(r.Candidates))
	for _, c := range r.Candidates {
		to = append(to, bare(c))
	}
	err = l.call("handover", request(plan.Handover{}), func(time.Time) {
		successor, no = "", clientRefusal(a.table.CheckHolder(r.Holder, r.Token))
		if no != nil {
			return
		}
		var refusal *lease.Refusal
		successor, refusal = a.handover(bare(r.From), to)
		no = clientRefusal(refusal)
	})
	if err != nil || no != nil {
		return "", no, err
	}
	l.u.s.tell(l.u.name, "asks to move duty from %s to %q", r.From, successor)
	if successor != "" {
		successor = prefix + successor
	}
	return successor, nil, nil
}

// Watch is session.Arbiter.
func (l *line) Watch(context.Context, string, func()) sessions.Watcher { return l }

// Close is session.Arbiter.
func (l *line) Close() error { return nil }

// Stop is session.Watcher.
func (l *line) Stop() {}

// State is session.Watcher.
func (l *line) State() (client.GroupState, bool, error) {
	u := l.u
	if l.state == nil || l.at != u.watch {
		l.state, l.at = groupState(&u.s.arb.shown[u.watch], &u.s.cfg, u.s.arb.table.Epoch), u.watch
	}
	if !u.s.now.Before(u.s.cut) {
		return *l.state, true, nil
	}
	lost := *l.state
	lost.Replicas = slices.Clone(lost.Replicas)
	for i := range lost.Replicas {
		lost.Replicas[i].Duty = client.DutyUnknown
	}
	return lost, false, fmt.Errorf("the arbiter cannot be reached: %w", client.ErrUnavailable)
}

// groupState is what the arbiter's server sends of a snapshot (arbiter/server, toState).
func groupState(s *snapshot, cfg *Config, epoch string) *client.GroupState {
	g := &client.GroupState{Group: namespace + "/" + group, Revision: int64(s.revision), Epoch: epoch, Floor: cfg.Floor, MaxLeased: cfg.MaxLeased}
	rules, table := policy.Rules{Replicas: map[string]policy.Replica{}}, lease.Table{Leases: map[string]lease.Lease{}}
	for name, r := range s.replicas {
		rules.Replicas[name] = r.Rules
		if r.Lease.ID != "" {
			table.Leases[name] = r.Lease
		}
	}
	for _, name := range sortedNames(s.replicas) {
		r := s.replicas[name]
		m := client.Replica{Name: prefix + name, Instance: r.Rules.Instance, Serving: rules.Serves(&table, name), Unverified: r.Rules.Quarantined && cfg.Without != Proof}
		switch r.Duty {
		case roster.Working:
			m.Duty = client.DutyWorking
		case roster.Idle:
			m.Duty = client.DutyIdle
		case roster.Unknown:
		}
		if m.Serving {
			g.Serving++
		}
		if r.Lease.ID != "" {
			m.Lease = new(clientLease(r.Lease))
		}
		g.Replicas = append(g.Replicas, m)
	}
	return g
}

func sortedNames[T any](m map[string]T) []string {
	out := make([]string, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func clientLeases(ls []lease.Lease) []client.Lease {
	out := make([]client.Lease, 0, len(ls))
	for _, l := range ls {
		out = append(out, clientLease(l))
	}
	return out
}

func clientLease(l lease.Lease) client.Lease {
	return client.Lease{
		ID: l.ID, Replica: prefix + l.Replica, Holder: l.Holder, Token: l.Token, Phase: phases[l.Phase],
		Instance: l.Instance, TTL: l.TTL,
	}
}

var phases = map[lease.Phase]client.Phase{lease.Leased: client.PhaseLeased, lease.Pinned: client.PhasePinned, lease.Expired: client.PhaseExpired}

func wirePhase(p client.Phase) lease.Phase {
	for phase, is := range phases {
		if is == p {
			return phase
		}
	}
	return lease.Pinned
}

func clientRefusal(r *lease.Refusal) *client.Refusal {
	if r == nil {
		return nil
	}
	return &client.Refusal{Reason: reasons[r.Reason], Rule: r.Rule, Message: r.Message, RetryAfter: r.RetryAfter}
}

// reasons are the same on the wire, under the same names.
var reasons = map[lease.Reason]client.RefusalReason{
	lease.NotIdle: client.ReasonNotIdle, lease.BelowFloor: client.ReasonFloor, lease.MaxLeased: client.ReasonMaxLeased,
	lease.LeasedByOther: client.ReasonLeasedByOther, lease.StaleToken: client.ReasonStaleToken, lease.Lost: client.ReasonLeaseLost,
	lease.InstanceChanged: client.ReasonInstanceChanged, lease.Frozen: client.ReasonFrozen, lease.OverduePin: client.ReasonOverduePin,
	lease.UnknownReplica: client.ReasonUnknownReplica, lease.NoSuccessor: client.ReasonNoSuccessor,
	lease.DutyIsNamed: client.ReasonDutyIsNamed, lease.HolderHasLeases: client.ReasonHolderHasLeases,
	lease.HolderRetired: client.ReasonHolderRetired, lease.FreezeWindow: client.ReasonFreezeWindow, lease.Spread: client.ReasonSpread,
}
