package conformance

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// Short names for what the cases talk about.
const (
	working = arbiterv1.Duty_DUTY_WORKING

	leased  = arbiterv1.LeasePhase_LEASE_PHASE_LEASED
	pinned  = arbiterv1.LeasePhase_LEASE_PHASE_PINNED
	expired = arbiterv1.LeasePhase_LEASE_PHASE_EXPIRED

	upgraded = arbiterv1.LeaseOutcome_LEASE_OUTCOME_UPGRADED
	undone   = arbiterv1.LeaseOutcome_LEASE_OUTCOME_UNDONE

	notIdle         = arbiterv1.RefusalReason_REFUSAL_REASON_NOT_IDLE
	belowFloor      = arbiterv1.RefusalReason_REFUSAL_REASON_FLOOR
	maxLeased       = arbiterv1.RefusalReason_REFUSAL_REASON_MAX_LEASED
	leasedByOther   = arbiterv1.RefusalReason_REFUSAL_REASON_LEASED_BY_OTHER
	staleToken      = arbiterv1.RefusalReason_REFUSAL_REASON_STALE_TOKEN
	leaseLost       = arbiterv1.RefusalReason_REFUSAL_REASON_LEASE_LOST
	instanceChanged = arbiterv1.RefusalReason_REFUSAL_REASON_INSTANCE_CHANGED
	unknownReplica  = arbiterv1.RefusalReason_REFUSAL_REASON_UNKNOWN_REPLICA
	noSuccessor     = arbiterv1.RefusalReason_REFUSAL_REASON_NO_SUCCESSOR
	dutyIsNamed     = arbiterv1.RefusalReason_REFUSAL_REASON_DUTY_IS_NAMED
	holderHasLeases = arbiterv1.RefusalReason_REFUSAL_REASON_HOLDER_HAS_LEASES
	holderRetired   = arbiterv1.RefusalReason_REFUSAL_REASON_HOLDER_RETIRED
)

// works says whether the arbiter says that a replica works.
func works(r *arbiterv1.Replica) bool { return r.GetDuty() == working }

func idle(r *arbiterv1.Replica) bool { return r.GetDuty() == arbiterv1.Duty_DUTY_IDLE }

// find returns a replica of a state, nil when it has none of that name.
func find(s *arbiterv1.GroupState, name string) *arbiterv1.Replica {
	for _, r := range s.GetReplicas() {
		if r.GetName() == name {
			return r
		}
	}
	return nil
}

// leases counts the leases of a state.
func leases(s *arbiterv1.GroupState) int {
	n := 0
	for _, r := range s.GetReplicas() {
		if r.GetLease() != nil {
			n++
		}
	}
	return n
}

// state returns the group now, which must be in order.
func (c *check) state() *arbiterv1.GroupState {
	s := call(c, "ListReplicas", c.api.ListReplicas, &arbiterv1.ListReplicasRequest{Group: c.target.Group}).GetState()
	c.inOrder(s)
	return s
}

// inOrder checks what holds for any state.
func (c *check) inOrder(s *arbiterv1.GroupState) {
	c.want(s.GetGroup() == c.target.Group, "LIST-1", "the state says that it is of group %q, asked for was %q", s.GetGroup(), c.target.Group)
	c.want(s.GetEpoch() != "", "LIST-4", "the state has no epoch")
	seen, serving := map[string]bool{}, 0
	for _, r := range s.GetReplicas() {
		c.want(r.GetName() != "" && !seen[r.GetName()], "LIST-1", "a replica %q is there twice, or has no name", r.GetName())
		seen[r.GetName()] = true
		if r.GetServing() {
			serving++
		}
		if l := r.GetLease(); l != nil {
			c.want(l.GetReplica() == r.GetName(), "LIST-1", "%s carries a lease on %q", r.GetName(), l.GetReplica())
			c.want(!r.GetServing(), "LIST-5", "%s is leased and counts as serving", r.GetName())
		}
	}
	c.want(int(s.GetServing()) == serving, "LIST-1", "serving is %d, but %d replicas serve", s.GetServing(), serving)
	c.later(s)
}

// later holds a state against the one before.
func (c *check) later(s *arbiterv1.GroupState) {
	last := c.last
	c.last = s
	if last.GetEpoch() != s.GetEpoch() {
		return
	}
	ok := s.GetRevision() > last.GetRevision() || s.GetRevision() == last.GetRevision() && proto.Equal(s, last)
	if c.restarted {
		c.restarted = false
		c.should(ok, "LIST-4", "over the restart the revision went from %d to %d within epoch %s", last.GetRevision(), s.GetRevision(), s.GetEpoch())
		return
	}
	c.want(ok, "LIST-4", "after revision %d came revision %d within epoch %s, with another content", last.GetRevision(), s.GetRevision(), s.GetEpoch())
}

// await looks at the group until ok, which must come within Settle.
func (c *check) await(clause, what string, ok func(*arbiterv1.GroupState) bool) *arbiterv1.GroupState {
	for waited := time.Duration(0); ; waited += again {
		s := c.state()
		if ok(s) {
			return s
		}
		if waited >= c.target.Settle {
			c.fails(clause, "for %s the arbiter did not %s", c.target.Settle, what)
		}
		c.wait(again)
	}
}

// linger waits until ok, for Settle at most: what the driver takes back is not seen at once, and
// the next case should not take what was before for what is.
func (c *check) linger(ok func(*arbiterv1.GroupState) bool) {
	for waited := time.Duration(0); waited < c.target.Settle && !ok(c.state()); waited += again {
		c.wait(again)
	}
}

// throughout looks at the group for d; each state must be ok.
func (c *check) throughout(d time.Duration, clause, what string, ok func(*arbiterv1.GroupState) bool) {
	for waited := time.Duration(0); waited < d; waited += again {
		c.want(ok(c.state()), clause, "%s", what)
		c.wait(again)
	}
}

// free are the replicas that can be leased for all that is seen: idle, not leased, serving.
func (c *check) free() []*arbiterv1.Replica {
	var out []*arbiterv1.Replica
	for _, r := range c.state().GetReplicas() {
		if idle(r) && r.GetLease() == nil && r.GetServing() {
			out = append(out, r)
		}
	}
	return out
}

// room is how many of them may be leased at a time.
func room(s *arbiterv1.GroupState) int {
	return max(0, min(int(s.GetServing()-s.GetFloor()), int(s.GetMaxLeased())-leases(s)))
}

// idlers returns n replicas that can be leased at the same time, or skips the case.
func (c *check) idlers(n int) []*arbiterv1.Replica {
	free := c.free()
	if len(free) < n || room(c.last) < n {
		c.skip("it needs %d idle replicas that may be leased at a time; the group has %d, floor %d, %d serving, max_leased %d",
			n, len(free), c.last.GetFloor(), c.last.GetServing(), c.last.GetMaxLeased())
	}
	return free
}

// idler returns one of them.
func (c *check) idler() *arbiterv1.Replica { return c.idlers(1)[0] }

// someWorking returns a replica that works, or skips the case.
func (c *check) someWorking() *arbiterv1.Replica {
	for _, r := range c.state().GetReplicas() {
		if r.GetDuty() == working {
			return r
		}
	}
	c.skip("it needs a working replica, and the group has none")
	return nil
}

// long is the TTL of leases that shall not end while a case lasts.
const long = 10 * time.Minute

// holder is one upgrader, as the arbiter sees it.
type holder struct {
	*check
	id       string
	term     int64
	identity string
	token    int64
	requests int
}

// holder makes a new one that has adopted. It leaves nothing behind when the case ends.
func (c *check) holder() *holder {
	h := &holder{check: c, id: fmt.Sprintf("%s-h%d", c.name, len(c.holders)), term: 1, identity: "leader-1"}
	c.holders = append(c.holders, h)
	h.adopt()
	return h
}

func (h *holder) adoptRequest() *arbiterv1.AdoptLeasesRequest {
	return &arbiterv1.AdoptLeasesRequest{Group: h.target.Group, Holder: h.id, Term: h.term, Identity: h.identity}
}

// adopt adopts in the holder's present term.
func (h *holder) adopt() *arbiterv1.AdoptLeasesResponse {
	r := call(h.check, "AdoptLeases", h.api.AdoptLeases, h.adoptRequest())
	h.granted("ADOPT-1", "the adoption", r.GetRefusal())
	h.token = r.GetToken()
	return r
}

// succeed is the next leader of the holder; the old one keeps its token.
func (h *holder) succeed() *holder {
	next := *h
	next.term, next.identity = h.term+1, fmt.Sprintf("leader-%d", h.term+1)
	next.adopt()
	h.holders = append(h.holders, &next)
	return &next
}

func (h *holder) request(ttl time.Duration, maximum int, rs ...*arbiterv1.Replica) *arbiterv1.AcquireLeasesRequest {
	h.requests++
	q := &arbiterv1.AcquireLeasesRequest{
		Group: h.target.Group, Holder: h.id, Token: h.token, RequestId: fmt.Sprintf("%s-t%d-r%d", h.id, h.term, h.requests),
		Max: int32(maximum), Ttl: seconds(ttl), //nolint:gosec // at most a thousand
	}
	for _, r := range rs {
		q.Candidates = append(q.Candidates, &arbiterv1.Candidate{Replica: r.GetName(), Instance: r.GetInstance()})
	}
	return q
}

func (h *holder) acquire(q *arbiterv1.AcquireLeasesRequest) *arbiterv1.AcquireLeasesResponse {
	return call(h.check, "AcquireLeases", h.api.AcquireLeases, q)
}

// lease takes a lease that nothing stands against.
func (h *holder) lease(r *arbiterv1.Replica, ttl time.Duration) *arbiterv1.Lease {
	got := h.acquire(h.request(ttl, 1, r))
	if len(got.GetLeases()) != 1 {
		h.fails("GRANT-5", "%s is idle and serves, nothing stands against a lease, and none was granted", r.GetName())
	}
	l := got.GetLeases()[0]
	h.want(l.GetReplica() == r.GetName() && l.GetHolder() == h.id && l.GetPhase() == leased && l.GetId() != "" && l.GetToken() > 0,
		"GRANT-9", "the lease that was granted is not the one that was asked for")
	return l
}

// ref names a lease with the token that the caller has.
func ref(l *arbiterv1.Lease) *arbiterv1.LeaseRef {
	return &arbiterv1.LeaseRef{Id: l.GetId(), Token: l.GetToken()}
}

// renew renews one lease.
func (c *check) renew(l *arbiterv1.Lease) *arbiterv1.Refusal {
	r := call(c, "RenewLeases", c.api.RenewLeases, &arbiterv1.RenewLeasesRequest{Group: c.target.Group, Leases: []*arbiterv1.LeaseRef{ref(l)}})
	c.want(len(r.GetResults()) == 1 && r.GetResults()[0].GetId() == l.GetId(), "RENEW-1", "one lease was renewed, and the answer is not about it")
	return r.GetResults()[0].GetRefusal()
}

func (c *check) pin(l *arbiterv1.Lease, instance string) *arbiterv1.PinLeaseResponse {
	if c.caps.GetLeases() != arbiterv1.LeaseSupport_LEASE_SUPPORT_PINNED {
		c.skip("the arbiter declares %s: there are no pins", c.caps.GetLeases())
	}
	r := call(c, "PinLease", c.api.PinLease, &arbiterv1.PinLeaseRequest{Group: c.target.Group, Lease: ref(l), Instance: instance})
	if r.GetRefusal() == nil {
		c.want(r.GetLease().GetId() == l.GetId() && r.GetLease().GetPhase() == pinned, "PIN-6", "the answer to a pin that was not refused must carry the lease, pinned")
	}
	return r
}

// pinned pins a lease that nothing stands against.
func (c *check) pinned(l *arbiterv1.Lease) {
	c.granted("PIN-1", "a pin that nothing stands against", c.pin(l, l.GetInstance()).GetRefusal())
}

func (c *check) release(l *arbiterv1.Lease) *arbiterv1.Refusal {
	return call(c, "ReleaseLease", c.api.ReleaseLease, &arbiterv1.ReleaseLeaseRequest{Group: c.target.Group, Lease: ref(l), Outcome: undone}).GetRefusal()
}

func (h *holder) retire() *arbiterv1.Refusal {
	return call(h.check, "RetireHolder", h.api.RetireHolder, &arbiterv1.RetireHolderRequest{Group: h.target.Group, Holder: h.id, Token: h.token}).GetRefusal()
}

// recorded returns the lease that the arbiter shows on a replica, nil when there is none.
func (c *check) recorded(replica string) *arbiterv1.Lease { return find(c.state(), replica).GetLease() }

// untouched wants the lease to be there as it was.
func (c *check) untouched(clause string, l *arbiterv1.Lease) {
	now := c.recorded(l.GetReplica())
	c.want(now.GetId() == l.GetId() && now.GetToken() == l.GetToken() && now.GetPhase() == l.GetPhase() && now.GetHolder() == l.GetHolder(),
		clause, "the lease on %s must be as it was, %s; it is %s", l.GetReplica(), show(l), show(now))
}

// tidy ends every lease of the case's holders, and the holders.
func (c *check) tidy() {
	seen := map[string]bool{}
	for _, h := range slices.Backward(c.holders) {
		if seen[h.id] {
			continue
		}
		seen[h.id] = true
		h.leave()
	}
}

// leave is what an upgrader does whose plan is deleted, with a term above all others.
func (h *holder) leave() {
	h.term += 1000
	r := call(h.check, "AdoptLeases", h.api.AdoptLeases, h.adoptRequest())
	if reason := r.GetRefusal().GetReason(); reason == holderRetired {
		return
	}
	h.granted("ADOPT-1", "the adoption of a later leader", r.GetRefusal())
	h.token = r.GetToken()
	for _, l := range r.GetLeases() {
		h.granted("REL-1", "the release by the holder", h.release(l))
	}
	h.granted("RETIRE-1", "to retire a holder that has no leases", h.retire())
}
