package conformance

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

func seconds(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func tryAdoptAgain(c *check) {
	h := c.holder()
	first := h.token
	h.adopt()
	c.want(h.token == first, "ADOPT-2", "the same term and identity got token %d, then %d", first, h.token)
	next := h.succeed()
	c.want(next.token > first, "ADOPT-1", "the next leader got token %d after %d", next.token, first)
	late := call(c, "AdoptLeases", c.api.AdoptLeases, h.adoptRequest())
	c.refused("ADOPT-3", "the adoption in an earlier term", late.GetRefusal(), staleToken)
	next.adopt()
	c.want(next.token > first, "ADOPT-3", "the refused adoption has changed the token to %d", next.token)
	r := c.idler()
	next.lease(r, long)
}

func tryAdoptFences(c *check) {
	rs := c.idlers(1)
	other, old := c.holder(), c.holder()
	var theirs *arbiterv1.Lease
	if len(rs) > 1 && room(c.last) > 1 {
		theirs = other.lease(rs[1], long)
	}
	l := old.lease(rs[0], long)
	next := old.succeed()
	c.want(next.token > l.GetToken(), "ADOPT-1", "the adoption returned token %d, below that of a lease, %d", next.token, l.GetToken())
	raised := c.recorded(l.GetReplica())
	c.want(raised.GetId() == l.GetId() && raised.GetToken() == next.token, "ADOPT-1", "the adoption returned token %d; the lease has %d", next.token, raised.GetToken())

	c.refused("ADOPT-4", "a renewal with the old token", c.renew(l), staleToken)
	c.refused("ADOPT-4", "a release with the old token", c.release(l), staleToken)
	c.refused("ADOPT-4", "an acquisition with the old token", old.acquire(old.request(long, 1, rs...)).GetRefusal(), staleToken)
	c.refused("ADOPT-4", "a retirement with the old token", old.retire(), staleToken)
	c.untouched("ADOPT-4", raised)
	if theirs != nil {
		c.untouched("ADOPT-7", theirs)
	}
	c.granted("ADOPT-1", "a renewal with the new token", c.renew(raised))
	c.refused("ADOPT-4", "a pin with the old token", c.pin(l, l.GetInstance()).GetRefusal(), staleToken)
	c.untouched("ADOPT-4", raised)
	c.pinned(raised)
}

func tryAdoptFirst(c *check) {
	r := c.idler()
	h := &holder{check: c, id: c.name + "-never", term: 1, identity: "nobody"}
	for _, token := range []int64{0, 1, 1 << 62} {
		h.token = token
		got := h.acquire(h.request(long, 1, r))
		c.refused("ADOPT-5", "an acquisition for a holder for whom nobody has adopted", got.GetRefusal(), staleToken)
	}
	c.want(c.recorded(r.GetName()) == nil, "ADOPT-5", "a lease was granted to a holder for whom nobody has adopted")
}

func tryKnownLeases(c *check) {
	rs := c.idlers(1)
	other, h := c.holder(), c.holder()
	real := other.lease(rs[0], long)
	h.term++
	q := h.adoptRequest()
	for _, r := range rs {
		q.KnownLeases = append(q.KnownLeases, &arbiterv1.Lease{
			Id: c.name + "-claimed-" + r.GetName(), Replica: r.GetName(), Holder: h.id, Token: real.GetToken() + 1000,
			Phase: pinned, Instance: r.GetInstance(), Ttl: seconds(long),
		})
	}
	got := call(c, "AdoptLeases", c.api.AdoptLeases, q)
	c.granted("ADOPT-6", "the adoption", got.GetRefusal())
	h.token = got.GetToken()
	c.want(len(got.GetLeases()) == 0, "ADOPT-6", "leases that were claimed were entered, though the arbiter has its record")
	c.untouched("ADOPT-6", real)
	c.want(leases(c.last) == 1, "ADOPT-6", "the group has %d leases, one was granted", leases(c.last))
}

func tryAcquireOrder(c *check) {
	rs := c.idlers(2)
	h := c.holder()
	stranger := &arbiterv1.Replica{Name: c.name + "/nobody", Instance: "x"}
	got := h.acquire(h.request(long, 1, stranger, rs[1], rs[0]))
	c.want(len(got.GetRefusals()) == 1 && got.GetRefusals()[0].GetReplica() == stranger.GetName(), "GRANT-9",
		"of a name that is not in the group, and two idle replicas with max 1, exactly the name must be refused")
	c.refused("GRANT-8", "a name that is not in the group", got.GetRefusals()[0].GetRefusal(), unknownReplica)
	c.want(len(got.GetLeases()) == 1 && got.GetLeases()[0].GetReplica() == rs[1].GetName(), "GRANT-5",
		"with max 1 the first candidate that is not refused, %s, must be granted, and it alone", rs[1].GetName())
	more := h.acquire(h.request(long, 2, rs[1], rs[0]))
	c.want(len(more.GetLeases()) == 2, "GRANT-9", "the answer must list the lease that the holder has among the candidates, and the new one")
}

func tryAcquireDuplicate(c *check) {
	rs := c.idlers(1)
	h := c.holder()
	q := h.request(long, 1, rs...)
	first := h.acquire(q).GetLeases()
	c.want(len(first) == 1, "GRANT-5", "with max 1 there were %d grants", len(first))
	again := h.acquire(q).GetLeases()
	c.want(len(again) == 1 && again[0].GetId() == first[0].GetId() && again[0].GetToken() == first[0].GetToken(), "GRANT-6",
		"the repeated request must return the same lease, %s, and no other", show(first[0]))
	c.granted("REL-1", "the release", c.release(first[0]))

	q = h.request(long, 1, rs...)
	var all sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(c.ctx, c.target.Settle)
			defer cancel()
			for r, err := c.api.AcquireLeases(ctx, q); ctx.Err() == nil; r, err = c.api.AcquireLeases(ctx, q) {
				if err == nil && len(r.GetLeases()) > 0 {
					ids[i] = r.GetLeases()[0].GetId()
					return
				}
			}
		})
	}
	all.Wait()
	for _, id := range ids {
		c.want(id == ids[0] && id != "", "GRANT-6", "one request, sent %d times at once, got these leases: %q", len(ids), ids)
	}
	c.want(leases(c.state()) == 1, "GRANT-6", "one request for one lease, sent %d times at once, has made %d leases", len(ids), leases(c.last))
}

// tryAcquireLate is for a holder that did not hear of a grant: it asks anew, for one, and must
// not end up with two.
func tryAcquireLate(c *check) {
	rs := c.idlers(2)
	h := c.holder()
	late := h.lease(rs[1], long)
	got := h.acquire(h.request(long, 1, rs...)).GetLeases()
	c.want(len(got) > 0, "GRANT-9", "the answer must list the lease that the holder has among the candidates, %s", show(late))
	c.want(len(got) == 1 && got[0].GetId() == late.GetId(), "GRANT-10",
		"with max 1, and one lease of the holder among the candidates, nothing more must be granted; the answer has %d leases", len(got))
	c.want(leases(c.state()) == 1, "GRANT-10", "the holder has asked for one lease, twice, and there are %d", leases(c.last))
}

func tryAcquireReordered(c *check) {
	rs := c.idlers(1)
	old := c.holder()
	late := old.request(long, 1, rs[0])
	sent := old.request(long, 1, rs[0])
	l := old.acquire(sent).GetLeases()
	c.want(len(l) == 1, "GRANT-5", "%s is idle and nothing was granted", rs[0].GetName())
	next := old.succeed()
	mine := c.recorded(rs[0].GetName())
	c.granted("REL-1", "the release by the next leader", c.release(mine))
	for _, q := range []*arbiterv1.AcquireLeasesRequest{late, sent} {
		c.refused("ADOPT-4", "a request of the former leader that arrives late", old.acquire(q).GetRefusal(), staleToken)
	}
	c.want(c.recorded(rs[0].GetName()) == nil, "ADOPT-4", "a request of the former leader that arrived late was granted")
	next.lease(rs[0], long)
}

func tryAcquireIdle(c *check) {
	r := c.someWorking()
	h := c.holder()
	got := h.acquire(h.request(long, 1, r))
	c.want(len(got.GetLeases()) == 0 && len(got.GetRefusals()) == 1, "GRANT-1", "%s works; it must be refused", r.GetName())
	c.refused("GRANT-1", "a lease on "+r.GetName()+", which works,", got.GetRefusals()[0].GetRefusal(), notIdle)
}

func tryAcquireInstance(c *check) {
	r := c.idler()
	h := c.holder()
	for _, instance := range []string{"another-instance", ""} {
		q := h.request(long, 1, r)
		q.Candidates[0].Instance = instance
		got := h.acquire(q)
		c.want(len(got.GetLeases()) == 0 && len(got.GetRefusals()) == 1, "GRANT-2", "%s runs as %q, and was leased as %q", r.GetName(), r.GetInstance(), instance)
		c.refused("GRANT-2", "a lease on another instance", got.GetRefusals()[0].GetRefusal(), instanceChanged)
	}
}

func tryAcquireOne(c *check) {
	r := c.idler()
	a, b := c.holder(), c.holder()
	l := a.lease(r, long)
	got := b.acquire(b.request(long, 1, r))
	c.want(len(got.GetLeases()) == 0 && len(got.GetRefusals()) == 1, "GRANT-3", "%s is leased by %s, and %s got a lease, too", r.GetName(), a.id, b.id)
	c.refused("GRANT-3", "a lease on a replica that another has", got.GetRefusals()[0].GetRefusal(), leasedByOther)
	c.untouched("GRANT-3", l)
	c.granted("REL-1", "the release", c.release(l))
	b.lease(r, long)
}

func tryTokensGrow(c *check) {
	r := c.idler()
	a, b := c.holder(), c.holder()
	c.want(b.token > a.token, "ADOPT-1", "a second holder got token %d after %d", b.token, a.token)
	last, ids := b.token, map[string]bool{}
	for range 4 {
		for _, h := range []*holder{a, b} {
			l := h.lease(r, long)
			c.want(l.GetToken() > last, "GRANT-7", "the token of a grant is %d, the group has seen %d", l.GetToken(), last)
			c.want(!ids[l.GetId()], "GRANT-7", "the id %s was used for two leases", l.GetId())
			last, ids[l.GetId()] = l.GetToken(), true
			c.granted("REL-1", "the release", c.release(l))
		}
		a.term++
		a.adopt()
		c.want(a.token > last, "ADOPT-1", "an adoption got token %d, the group has seen %d", a.token, last)
		last = a.token
	}
}

func tryQuorumEdge(c *check) {
	free := c.idlers(1)
	most := room(c.last)
	if len(free) <= most {
		c.skip("it needs more idle replicas than floor and max_leased allow to lease; %d are idle, %d may be leased", len(free), most)
	}
	a, b := c.holder(), c.holder()
	got := a.acquire(a.request(long, len(free), free...))
	c.want(len(got.GetLeases()) >= most, "GRANT-5", "%d leases were possible (%d serve, floor %d, max_leased %d), %d were granted",
		most, c.last.GetServing(), c.last.GetFloor(), c.last.GetMaxLeased(), len(got.GetLeases()))
	c.edge(most)
	c.want(len(got.GetLeases())+len(got.GetRefusals()) == len(free), "GRANT-9", "%d candidates were named, the answer has %d", len(free), len(got.GetLeases())+len(got.GetRefusals()))
	for _, x := range got.GetRefusals() {
		c.refused("GRANT-4", "one lease more", x.GetRefusal(), belowFloor, maxLeased)
	}
	for _, x := range b.acquire(b.request(long, len(free), free[most:]...)).GetRefusals() {
		c.refused("GRANT-4", "one lease more, for another holder", x.GetRefusal(), belowFloor, maxLeased)
	}
	c.edge(most)
	c.granted("REL-1", "the release", c.release(got.GetLeases()[0]))
	b.acquire(b.request(long, len(free), free...))
	c.edge(most)
}

// edge wants the group to be at its limit and not beyond.
func (c *check) edge(most int) {
	s := c.state()
	c.want(s.GetServing() >= s.GetFloor() && leases(s) <= int(s.GetMaxLeased()), "GRANT-4",
		"%d leases are beyond the limit: %d serve, floor %d, max_leased %d", leases(s), s.GetServing(), s.GetFloor(), s.GetMaxLeased())
	c.want(leases(s) == most, "GRANT-4", "%d leases were possible, there are %d", most, leases(s))
}

// serving makes a replica (un)able to serve and waits until that is seen.
func (c *check) serving(r *arbiterv1.Replica, serving bool) {
	before := c.state().GetServing()
	c.setServing(r.GetName(), serving)
	c.await("LIST-1", "count anew who serves", func(s *arbiterv1.GroupState) bool { return s.GetServing() != before })
}

func tryQuorumEdgePin(c *check) {
	free := c.idlers(1)
	spare := int(c.last.GetServing() - c.last.GetFloor())
	h := c.holder()
	l := h.lease(free[0], long)
	// Take away as many others as are spare, and one.
	if len(free)-1 < spare {
		c.skip("it needs %d idle replicas beside the leased one, to bring the group below its floor", spare)
	}
	for _, r := range free[1 : spare+1] {
		c.serving(r, false)
	}
	c.want(c.state().GetServing() < c.last.GetFloor(), "LIST-1", "%d replicas were made unable to serve, one is leased, and %d serve", spare, c.last.GetServing())
	c.refused("PIN-3", "a pin below the floor", c.pin(l, l.GetInstance()).GetRefusal(), belowFloor)
	c.untouched("PIN-4", l)
	c.serving(free[1], true)
	c.pinned(l)
}

func tryFlipLeased(c *check) {
	r := c.idler()
	h := c.holder()
	l := h.lease(r, long)
	if c.setDuty(r.GetName()) {
		c.await("BAN-2", "stop saying that "+r.GetName()+" is idle, which works", func(s *arbiterv1.GroupState) bool { return !idle(find(s, r.GetName())) })
	} else {
		c.throughout(2*time.Second, "BAN-1", r.GetName()+" is leased and must get no duty", func(s *arbiterv1.GroupState) bool { return !works(find(s, r.GetName())) })
	}
	c.want(c.recorded(r.GetName()).GetId() == l.GetId(), "BAN-1", "the lease is gone: a call to duty does not end it")
}

func tryFlipPin(c *check) {
	r := c.idler()
	h := c.holder()
	l := h.lease(r, long)
	if !c.setDuty(r.GetName()) {
		c.pinned(l)
		c.skip("the driver cannot make a leased replica work: the arbiter's ban stood, and the pin was granted")
	}
	c.await("BAN-2", "stop saying that "+r.GetName()+" is idle, which works", func(s *arbiterv1.GroupState) bool { return !idle(find(s, r.GetName())) })
	c.refused("PIN-1", "the pin of a replica that works", c.pin(l, l.GetInstance()).GetRefusal(), notIdle)
	c.untouched("PIN-4", l)
}

func tryFailoverBan(c *check) {
	w := c.someWorking()
	r := c.idler()
	h := c.holder()
	l := h.lease(r, long)
	c.setServing(w.GetName(), false)
	moved := func(s *arbiterv1.GroupState) bool {
		for _, x := range s.GetReplicas() {
			if x.GetName() != w.GetName() && works(x) {
				return true
			}
		}
		return false
	}
	for waited := time.Duration(0); waited < c.target.Settle; waited += again {
		s := c.state()
		c.want(!works(find(s, r.GetName())), "BAN-1", "%s is leased, and has duty since %s failed", r.GetName(), w.GetName())
		if moved(s) {
			break
		}
		c.wait(again)
	}
	c.untouched("BAN-1", l)
}

func tryRecreatedPin(c *check) {
	old := c.idler()
	h := c.holder()
	l := h.lease(old, long)
	r := c.recreate(old)
	c.untouched("BAN-1", l)
	c.refused("PIN-2", "the pin of an instance that is gone", c.pin(l, old.GetInstance()).GetRefusal(), instanceChanged)
	c.untouched("PIN-4", l)
	c.want(!works(find(c.last, r.GetName())), "BAN-1", "%s is leased, and works since it was created anew", r.GetName())
	c.await("LIST-2", "say again that "+r.GetName()+" is idle", func(s *arbiterv1.GroupState) bool { return idle(find(s, r.GetName())) })
	got := c.pin(l, r.GetInstance())
	c.granted("PIN-2", "the pin of the instance that runs now", got.GetRefusal())
	c.want(got.GetLease().GetInstance() == r.GetInstance(), "PIN-2", "the pin is for %q, asked for was %q", got.GetLease().GetInstance(), r.GetInstance())
}

func tryPinInstance(c *check) {
	h := c.holder()
	l := h.lease(c.idler(), long)
	c.refused("PIN-2", "a pin for another instance", c.pin(l, "another-instance").GetRefusal(), instanceChanged)
	c.untouched("PIN-4", l)
	c.pinned(l)
}

func tryPinAgain(c *check) {
	h := c.holder()
	l := h.lease(c.idler(), long)
	c.pinned(l)
	c.granted("PIN-6", "the repeated pin", c.pin(l, l.GetInstance()).GetRefusal())
	c.granted("RENEW-2", "the renewal of a pin", c.renew(l))
	c.want(c.recorded(l.GetReplica()).GetPhase() == pinned, "RENEW-2", "the renewed pin is %s", show(c.recorded(l.GetReplica())))
}
