package conformance

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// short is the TTL of leases that a case watches running out.
const short = 2 * time.Second

func tryRenewKeeps(c *check) {
	h := c.holder()
	// Three times as long as it is left alone, so that a busy machine is not taken for an arbiter
	// that forgets.
	l := h.lease(c.idler(), 3*short)
	for range 4 {
		c.wait(short)
		c.granted("TTL-1", "a renewal in time", c.renew(l))
	}
	c.untouched("TTL-1", l)
}

func tryRenewOrder(c *check) {
	rs := c.idlers(2)
	h := c.holder()
	a, b := h.lease(rs[0], long), h.lease(rs[1], long)
	want := []*arbiterv1.LeaseRef{ref(b), {Id: c.name + "-nothing", Token: 1}, ref(a)}
	got := call(c, "RenewLeases", c.api.RenewLeases, &arbiterv1.RenewLeasesRequest{Group: c.target.Group, Leases: want}).GetResults()
	c.want(len(got) == len(want), "RENEW-1", "%d leases were renewed, %d are answered", len(want), len(got))
	for i, x := range got {
		c.want(x.GetId() == want[i].GetId(), "RENEW-1", "answer %d is about %q, asked was %q", i, x.GetId(), want[i].GetId())
	}
	c.granted("RENEW-1", "a renewal beside one of a lease that is not there", got[0].GetRefusal())
	c.refused("RENEW-2", "the renewal of a lease that is not there", got[1].GetRefusal(), leaseLost)
	c.granted("RENEW-1", "a renewal beside one of a lease that is not there", got[2].GetRefusal())
}

// ranOut wants a lease to have run out.
func (c *check) ranOut(clause string, l *arbiterv1.Lease) {
	c.refused(clause, "the renewal of a lease that ran out", c.renew(l), leaseLost)
	now := c.recorded(l.GetReplica())
	c.want(now.GetId() != l.GetId() || now.GetPhase() == expired, "TTL-4", "the lease ran out, and is shown as %s", show(now))
}

func tryExpired(c *check) {
	r := c.idler()
	h := c.holder()
	l := h.lease(r, short)
	c.wait(2 * short)
	c.ranOut("TTL-2", l)
	c.granted("TTL-4", "the release of a lease that ran out, by its holder", c.release(l))
	c.want(c.recorded(r.GetName()) == nil, "TTL-4", "the holder has given back a lease that ran out, and it is still there")
	l = h.lease(r, short)
	c.wait(2 * short)
	c.refused("TTL-2", "the pin of a lease that ran out", c.pin(l, r.GetInstance()).GetRefusal(), leaseLost)
}

func tryStolen(c *check) {
	r := c.idler()
	old := c.holder()
	l := old.lease(r, long)
	old.succeed()
	c.granted("REL-1", "the release by the next leader", c.release(c.recorded(r.GetName())))
	b := c.holder()
	theirs := b.lease(r, long)
	c.refused("RENEW-2", "the renewal of a lease that another has by now", c.renew(l), leaseLost, staleToken)
	c.untouched("RENEW-2", theirs)
	// The release comes first: without pins it is the last that can be tried.
	c.granted("REL-2", "the release of a lease that was released", c.release(l))
	c.untouched("REL-2", theirs)
	c.refused("PIN-7", "the pin of a lease that another has by now", c.pin(l, r.GetInstance()).GetRefusal(), leaseLost, staleToken)
	c.untouched("PIN-7", theirs)
}

func tryReleased(c *check) {
	r := c.idler()
	h := c.holder()
	l := h.lease(r, long)
	c.granted("REL-1", "the release", call(c, "ReleaseLease", c.api.ReleaseLease, &arbiterv1.ReleaseLeaseRequest{
		Group: c.target.Group, Lease: ref(l), Outcome: upgraded, Version: c.name,
	}).GetRefusal())
	now := find(c.state(), r.GetName())
	c.want(now.GetLease() == nil && now.GetServing(), "REL-1", "after the release %s must have no lease and serve again", r.GetName())
	c.refused("RENEW-2", "the renewal of a released lease", c.renew(l), leaseLost)
	c.granted("REL-2", "a second release", c.release(l))
	c.granted("REL-2", "the release of a lease that never was", c.release(&arbiterv1.Lease{Id: c.name + "-nothing", Token: 1}))
	c.want(c.recorded(r.GetName()) == nil, "RENEW-2", "the renewal of a released lease has brought it back")
	c.refused("PIN-7", "the pin of a released lease", c.pin(l, r.GetInstance()).GetRefusal(), leaseLost)
}

func (c *check) force(replica string) (*arbiterv1.ForceReleaseLeaseResponse, error) {
	return try(c, "ForceReleaseLease", arbiterv1.NewArbiterServiceClient(c.target.Admin).ForceReleaseLease,
		&arbiterv1.ForceReleaseLeaseRequest{Group: c.target.Group, Replica: replica, Reason: "conformance: " + c.name})
}

func tryForced(c *check) {
	r := c.idler()
	none, err := c.force(r.GetName())
	if denied(err) {
		c.skip("the kit may not release by force here: %s", err)
	}
	c.want(err == nil && none.GetReleased() == nil, "FORCE-1", "there was no lease on %s to release by force: %v", r.GetName(), err)
	h := c.holder()
	l := h.lease(r, long)
	if c.caps.GetLeases() == arbiterv1.LeaseSupport_LEASE_SUPPORT_PINNED {
		c.pinned(l)
	}
	was, err := c.force(r.GetName())
	c.want(err == nil && was.GetReleased().GetId() == l.GetId(), "FORCE-1", "the answer must name the lease that was ended, %s: %v", l.GetId(), err)
	c.refused("FORCE-1", "the renewal of a lease that was ended by force", c.renew(l), leaseLost)
	now := c.recorded(r.GetName())
	c.want(now == nil || now.GetPhase() == expired, "FORCE-1", "the lease was ended by force, and is shown as %s", show(now))
	_, err = c.force(r.GetName())
	c.want(err == nil, "FORCE-1", "to end it once more failed: %v", err)
	c.await("TTL-4", "end a lease that was released by force, twice", func(s *arbiterv1.GroupState) bool { return find(s, r.GetName()).GetLease() == nil })
}

func denied(err error) bool {
	return slices.Contains([]codes.Code{codes.PermissionDenied, codes.Unauthenticated}, status.Code(err))
}

func tryRetired(c *check) {
	r := c.idler()
	h := c.holder()
	l := h.lease(r, long)
	c.refused("RETIRE-1", "to retire a holder that has a lease", h.retire(), holderHasLeases)
	c.untouched("RETIRE-1", l)
	c.granted("REL-1", "the release", c.release(l))
	old := *h
	next := h.succeed()
	c.refused("ADOPT-4", "to retire a holder with an old token", old.retire(), staleToken)
	c.granted("RETIRE-1", "to retire a holder without leases", next.retire())
	c.granted("RETIRE-2", "to retire it again", next.retire())
	for _, x := range []*holder{h, next} {
		x.term += 10
		got := call(c, "AdoptLeases", c.api.AdoptLeases, x.adoptRequest())
		c.refused("RETIRE-3", "the adoption of a retired holder", got.GetRefusal(), holderRetired)
	}
	c.refused("ADOPT-4", "an acquisition of a retired holder", next.acquire(next.request(long, 1, r)).GetRefusal(), staleToken)
}

func tryPinOutlivesTTL(c *check) {
	h := c.holder()
	l := h.lease(c.idler(), time.Second)
	c.pinned(l)
	c.throughout(4*time.Second, "PIN-5", "a pin has ended by time", func(s *arbiterv1.GroupState) bool {
		now := find(s, l.GetReplica()).GetLease()
		return now.GetId() == l.GetId() && now.GetPhase() == pinned
	})
	c.granted("RENEW-2", "the renewal of a pin", c.renew(l))
}

func tryRestartKeeps(c *check) {
	rs := c.idlers(1)
	gone := c.holder()
	c.granted("RETIRE-1", "to retire a holder without leases", gone.retire())
	h := c.holder()
	old := *h
	h = h.succeed()
	q := h.request(long, 1, rs[0])
	l := h.acquire(q).GetLeases()
	c.want(len(l) == 1, "GRANT-5", "%s is idle and nothing was granted", rs[0].GetName())
	if c.caps.GetLeases() == arbiterv1.LeaseSupport_LEASE_SUPPORT_PINNED {
		c.pinned(l[0])
	}
	before := c.recorded(rs[0].GetName())
	c.restart(0)

	c.untouched("DUR-1", before)
	c.refused("DUR-1", "a call with a token that was stale before the restart", old.acquire(old.request(long, 1, rs...)).GetRefusal(), staleToken)
	late := call(c, "AdoptLeases", c.api.AdoptLeases, old.adoptRequest())
	c.refused("DUR-1", "an adoption in a term that was over before the restart", late.GetRefusal(), staleToken)
	late = call(c, "AdoptLeases", c.api.AdoptLeases, gone.adoptRequest())
	c.refused("DUR-1", "the adoption of a holder that was retired before the restart", late.GetRefusal(), holderRetired)
	again := h.acquire(q).GetLeases()
	c.want(len(again) == 1 && again[0].GetId() == before.GetId(), "GRANT-6", "over the restart the repeated request got another lease than %s", before.GetId())
	c.granted("DUR-1", "the renewal of a lease from before the restart", c.renew(before))
	c.granted("DUR-1", "the release of a lease from before the restart", c.release(before))
	now := h.lease(rs[0], long)
	c.want(now.GetToken() > before.GetToken() && now.GetId() != before.GetId(), "GRANT-7", "the first grant after the restart has token %d and id %s; before it was %d and %s",
		now.GetToken(), now.GetId(), before.GetToken(), before.GetId())
}

// skewed leases a replica for a while, and restarts the arbiter with another clock. At the end
// of the case the clock is right again.
func (c *check) skewed(ttl, clock time.Duration) (h *holder, l *arbiterv1.Lease) {
	r := c.idler()
	h = c.holder()
	l = h.lease(r, ttl)
	c.restart(clock)
	c.atEnd(func() { c.restart(0) })
	return h, l
}

func tryClockAhead(c *check) {
	// Longer than it takes to look for what a restart must keep, shorter than the skew.
	h, l := c.skewed(long, time.Hour)
	c.untouched("TTL-3", l)
	c.granted("TTL-1", "the renewal of a lease that is younger than its TTL", c.renew(l))
	c.pinned(l)
	now := c.recorded(l.GetReplica())
	c.restart(2 * time.Hour)
	c.untouched("PIN-5", now)
	c.granted("REL-1", "the release", c.release(now))
	h.lease(find(c.state(), l.GetReplica()), long)
}

func tryClockBehind(c *check) {
	h, l := c.skewed(short, -time.Hour)
	c.wait(2 * short)
	c.ranOut("TTL-3", l)
	c.granted("TTL-4", "the release of a lease that ran out, by its holder", c.release(l))
	next := h.lease(find(c.state(), l.GetReplica()), long)
	c.want(next.GetToken() > l.GetToken(), "GRANT-7", "with the clock set back, token %d came after %d", next.GetToken(), l.GetToken())
}

func tryOutsider(c *check) {
	if c.target.Outsider == nil {
		c.skip("the target names no outsider: a connection of somebody who may not lease")
	}
	r := c.idler()
	h := c.holder()
	l := h.lease(r, long)
	api, group := arbiterv1.NewArbiterServiceClient(c.target.Outsider), c.target.Group
	attempts := map[string]func(context.Context) error{
		"AdoptLeases":   func(ctx context.Context) error { _, err := api.AdoptLeases(ctx, h.adoptRequest()); return err },
		"AcquireLeases": func(ctx context.Context) error { _, err := api.AcquireLeases(ctx, h.request(long, 1, r)); return err },
		"RenewLeases": func(ctx context.Context) error {
			_, err := api.RenewLeases(ctx, &arbiterv1.RenewLeasesRequest{Group: group, Leases: []*arbiterv1.LeaseRef{ref(l)}})
			return err
		},
		"PinLease": func(ctx context.Context) error {
			_, err := api.PinLease(ctx, &arbiterv1.PinLeaseRequest{Group: group, Lease: ref(l), Instance: r.GetInstance()})
			return err
		},
		"ReleaseLease": func(ctx context.Context) error {
			_, err := api.ReleaseLease(ctx, &arbiterv1.ReleaseLeaseRequest{Group: group, Lease: ref(l), Outcome: undone})
			return err
		},
		"RetireHolder": func(ctx context.Context) error {
			_, err := api.RetireHolder(ctx, &arbiterv1.RetireHolderRequest{Group: group, Holder: h.id, Token: h.token})
			return err
		},
		"RequestHandover": func(ctx context.Context) error {
			_, err := api.RequestHandover(ctx, &arbiterv1.RequestHandoverRequest{Group: group, Holder: h.id, Token: h.token, From: r.GetName(), Candidates: []string{r.GetName()}})
			return err
		},
		"ForceReleaseLease": func(ctx context.Context) error {
			_, err := api.ForceReleaseLease(ctx, &arbiterv1.ForceReleaseLeaseRequest{Group: group, Replica: r.GetName(), Reason: "an outsider"})
			return err
		},
	}
	for method, attempt := range attempts {
		ctx, cancel := context.WithTimeout(c.ctx, c.target.Timeout)
		err := attempt(ctx)
		cancel()
		c.want(denied(err), "SEC-2", "%s of somebody who may not lease was answered %s", method, status.Code(err))
	}
	c.untouched("SEC-2", l)
}
