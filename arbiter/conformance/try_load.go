package conformance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

func tryWatchGap(c *check) {
	r := c.idler()
	h := c.holder()
	w, first := c.opened()
	l := h.lease(r, long)
	has := func(id string) func(*arbiterv1.GroupState) bool {
		return func(s *arbiterv1.GroupState) bool { return find(s, r.GetName()).GetLease().GetId() == id }
	}
	seen := w.until("WATCH-2", "show the lease "+l.GetId(), has(l.GetId()))
	c.want(len(seen.GetReplicas()) == len(first.GetReplicas()), "WATCH-2", "after a change the watch sent %d of %d replicas", len(seen.GetReplicas()), len(first.GetReplicas()))
	w.close()

	c.granted("REL-1", "the release", c.release(l))
	l = h.lease(r, long)
	w, now := c.opened()
	c.want(has(l.GetId())(now), "LIST-3", "the first message of a new watch does not show the lease %s, which was answered before; it shows %s",
		l.GetId(), show(find(now, r.GetName()).GetLease()))
	c.want(now.GetEpoch() != first.GetEpoch() || now.GetRevision() > first.GetRevision(), "LIST-4",
		"the first message of a new watch has revision %d, the one before had %d", now.GetRevision(), first.GetRevision())
	c.granted("REL-1", "the release", c.release(l))
	w.until("WATCH-2", "show the release", has(""))
}

func tryWatchSlow(c *check) {
	r := c.idler()
	h := c.holder()
	var slow []*watch
	for range 8 {
		w, _ := c.opened()
		slow = append(slow, w)
	}
	gone, _ := c.opened()
	gone.close()
	for range 50 {
		l := h.lease(r, long)
		c.granted("WATCH-3", "a release while nobody reads what is watched", c.release(l))
	}
	l := h.lease(r, long)
	for _, w := range slow {
		w.until("WATCH-2", "show the last state, in which "+r.GetName()+" is leased", func(s *arbiterv1.GroupState) bool {
			return find(s, r.GetName()).GetLease().GetId() == l.GetId()
		})
	}
}

// spoilt are the ways to spoil an acquisition, by the field that is beyond its limit.
var spoilt = map[string]func(*arbiterv1.AcquireLeasesRequest){
	"group":      func(q *arbiterv1.AcquireLeasesRequest) { q.Group = "" },
	"holder":     func(q *arbiterv1.AcquireLeasesRequest) { q.Holder = strings.Repeat("h", 254) },
	"request_id": func(q *arbiterv1.AcquireLeasesRequest) { q.RequestId = strings.Repeat("r", 129) },
	"candidates": func(q *arbiterv1.AcquireLeasesRequest) { q.Candidates = nil },
	"max":        func(q *arbiterv1.AcquireLeasesRequest) { q.Max = 0 },
	"ttl":        func(q *arbiterv1.AcquireLeasesRequest) { q.Ttl = nil },
}

// spoiltTTLs are no times to live.
var spoiltTTLs = []*durationpb.Duration{
	{}, {Seconds: -1}, {Seconds: 3601}, {Nanos: 500_000_000}, {Seconds: 1, Nanos: 1}, {Seconds: 1 << 60}, {Seconds: 1, Nanos: -1},
}

func tryGarbage(c *check) {
	rs := c.idlers(1)
	h := c.holder()
	other := h.lease(rs[0], long)
	bad := func(field string, q *arbiterv1.AcquireLeasesRequest) {
		invalid(c, field, "AcquireLeases", c.api.AcquireLeases, q)
	}
	for field, spoil := range spoilt {
		q := h.request(long, 1, rs...)
		spoil(q)
		bad(field, q)
	}
	for _, ttl := range spoiltTTLs {
		q := h.request(long, 1, rs...)
		q.Ttl = ttl
		bad("ttl", q)
	}
	crowd := h.request(long, 1, rs...)
	for len(crowd.GetCandidates()) <= 1000 {
		crowd.Candidates = append(crowd.Candidates, crowd.GetCandidates()[0])
	}
	bad("candidates", crowd)
	crowd = h.request(long, 1, rs...)
	crowd.Max = 1001
	bad("max", crowd)

	group := c.target.Group
	adopt := func(field string, q *arbiterv1.AdoptLeasesRequest) {
		invalid(c, field, "AdoptLeases", c.api.AdoptLeases, q)
	}
	adopt("holder", &arbiterv1.AdoptLeasesRequest{Group: group, Term: 1, Identity: "i"})
	adopt("identity", &arbiterv1.AdoptLeasesRequest{Group: group, Holder: h.id, Term: 1})
	adopt("term", &arbiterv1.AdoptLeasesRequest{Group: group, Holder: h.id, Term: -1, Identity: "i"})
	for _, outcome := range []arbiterv1.LeaseOutcome{0, 99} {
		fail(c, "ERR-7", fmt.Sprintf("with outcome %d", outcome), "ReleaseLease", c.api.ReleaseLease,
			&arbiterv1.ReleaseLeaseRequest{Group: group, Lease: ref(other), Outcome: outcome}, codes.InvalidArgument)
	}
	invalid(c, "version", "ReleaseLease", c.api.ReleaseLease, &arbiterv1.ReleaseLeaseRequest{Group: group, Lease: ref(other), Outcome: upgraded})
	invalid(c, "leases", "RenewLeases", c.api.RenewLeases, &arbiterv1.RenewLeasesRequest{Group: group})
	c.garbagePins(other)
	for what, bytes := range nonsense() {
		for _, method := range []string{"AcquireLeases", "AdoptLeases", "ReleaseLease"} {
			c.want(c.send(method, what, bytes) != nil, "ERR-8", "%s was answered as if it were a request", what)
		}
	}
	c.untouched("ERR-2", other)
	c.want(leases(c.last) == 1, "ERR-2", "one lease was granted in good order, and after garbage there are %d", leases(c.last))
}

func (c *check) garbagePins(l *arbiterv1.Lease) {
	if c.caps.GetLeases() != arbiterv1.LeaseSupport_LEASE_SUPPORT_PINNED {
		return
	}
	invalid(c, "lease", "PinLease", c.api.PinLease, &arbiterv1.PinLeaseRequest{Group: c.target.Group, Instance: l.GetInstance()})
	invalid(c, "instance", "PinLease", c.api.PinLease, &arbiterv1.PinLeaseRequest{Group: c.target.Group, Lease: ref(l)})
}

// How many callers a burst has, and how many calls each makes.
const (
	burst      = 200
	burstCalls = 10
)

func tryOverload(c *check) {
	free := c.idlers(1)
	before, most := c.last, room(c.last)
	hs := []*holder{c.holder(), c.holder(), c.holder()}
	requests := make([]*arbiterv1.AcquireLeasesRequest, burst)
	for i := range requests {
		h := hs[i%len(hs)]
		requests[i] = h.request(long, len(free), free...)
	}
	var all sync.WaitGroup
	var odd atomic.Pointer[string]
	for i := range burst {
		all.Go(func() {
			for range burstCalls {
				if problem := c.burstOnce(i, requests[i], most); problem != "" {
					odd.Store(&problem)
					return
				}
			}
		})
	}
	all.Wait()
	if p := odd.Load(); p != nil {
		c.fails("ERR-6", "in a burst of %d callers: %s", burst, *p)
	}
	s := c.await("ERR-6", "serve again when the load was gone", func(*arbiterv1.GroupState) bool { return true })
	c.want(leases(s) <= most, "GRANT-4", "a burst of %d callers got %d leases, %d were possible", burst, leases(s), most)
	c.want(len(s.GetReplicas()) == len(before.GetReplicas()), "LIST-1", "after a burst the group has %d replicas, before %d", len(s.GetReplicas()), len(before.GetReplicas()))
}

// burstOnce makes the calls of one caller, and says what is odd about the answers. Errors are
// none of that, except that a call must end.
func (c *check) burstOnce(i int, q *arbiterv1.AcquireLeasesRequest, most int) string {
	ctx, cancel := context.WithTimeout(c.ctx, 4*c.target.Timeout)
	defer cancel()
	var err error
	switch i % 3 {
	case 0:
		var got *arbiterv1.AcquireLeasesResponse
		if got, err = c.api.AcquireLeases(ctx, q); err == nil && len(got.GetLeases()) > most {
			return fmt.Sprintf("%d leases were granted, %d were possible", len(got.GetLeases()), most)
		}
	case 1:
		var got *arbiterv1.ListReplicasResponse
		if got, err = c.api.ListReplicas(ctx, &arbiterv1.ListReplicasRequest{Group: q.GetGroup()}); err == nil {
			return crowded(got.GetState(), most)
		}
	case 2:
		_, err = c.api.RenewLeases(ctx, &arbiterv1.RenewLeasesRequest{Group: q.GetGroup(), Leases: []*arbiterv1.LeaseRef{{Id: c.name + "-nothing", Token: 1}}})
	}
	if status.Code(err) == codes.DeadlineExceeded && c.ctx.Err() == nil {
		return fmt.Sprintf("a call was not answered for %s", 4*c.target.Timeout)
	}
	return ""
}

// crowded says what is odd about a state in a burst.
func crowded(s *arbiterv1.GroupState, most int) string {
	switch {
	case len(s.GetReplicas()) == 0:
		return "a state without replicas was answered as if it were one"
	case leases(s) > most:
		return fmt.Sprintf("a state shows %d leases, %d were possible", leases(s), most)
	case s.GetServing() < s.GetFloor():
		return fmt.Sprintf("a state shows %d that serve, below the floor of %d", s.GetServing(), s.GetFloor())
	}
	return ""
}
