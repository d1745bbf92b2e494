package client

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// call makes one unary call within the client's timeout.
func call[Q, A any](ctx context.Context, c *Client, name, group string,
	method func(context.Context, *Q, ...grpc.CallOption) (*A, error), request *Q,
) (*A, error) {
	timed, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	answer, err := method(timed, request)
	if err != nil {
		return nil, c.failure(ctx, name, group, err)
	}
	return answer, nil
}

// Capabilities asks what the arbiter can do for the group.
func (c *Client) Capabilities(ctx context.Context, group string) (Capabilities, error) {
	a, err := call(ctx, c, "capabilities", group, c.arbiter.GetCapabilities,
		&arbiterv1.GetCapabilitiesRequest{Group: group})
	if err != nil {
		return Capabilities{}, err
	}
	return Capabilities{
		Listing:        a.GetListing(),
		Leases:         supportOf(a.GetLeases()),
		Handover:       a.GetHandover(),
		Health:         a.GetHealth(),
		Implementation: a.GetImplementation(),
	}, nil
}

// List returns the group's state now.
func (c *Client) List(ctx context.Context, group string) (GroupState, error) {
	a, err := call(ctx, c, "list", group, c.arbiter.ListReplicas, &arbiterv1.ListReplicasRequest{Group: group})
	if err != nil {
		return GroupState{}, err
	}
	state, err := stateOf(a.GetState(), group)
	if err != nil {
		return GroupState{}, c.broken("list", group, err)
	}
	return state, nil
}

// Adopt makes the caller the only one who may act for the holder.
//
// term is the caller's leadership term, identity its name. known are leases that the
// caller finds recorded on its replicas; they count only if the arbiter lost its record.
// Refusals: ReasonStaleToken when a newer term has adopted, ReasonHolderRetired.
func (c *Client) Adopt(ctx context.Context, group, holder string, term int64, identity string, known []Lease) (Adopted, *Refusal, error) {
	wire := make([]*arbiterv1.Lease, 0, len(known))
	for _, l := range known {
		wire = append(wire, wireLease(l))
	}
	a, err := call(ctx, c, "adopt", group, c.arbiter.AdoptLeases, &arbiterv1.AdoptLeasesRequest{
		Group: group, Holder: holder, Term: term, Identity: identity, KnownLeases: wire,
	})
	if err != nil {
		return Adopted{}, nil, err
	}
	if r := refusalOf(a.GetRefusal()); r != nil {
		return Adopted{}, r, nil
	}
	leases, err := leasesOf(a.GetLeases(), holder)
	if err == nil && a.GetToken() <= 0 {
		err = fmt.Errorf("the holder's token must be above 0, not %d", a.GetToken())
	}
	if err != nil {
		return Adopted{}, nil, c.broken("adopt", group, err)
	}
	return Adopted{Token: a.GetToken(), Leases: leases}, nil, nil
}

// Acquire asks for leases on up to r.Max of r.Candidates.
//
// Repeating r.RequestID after a grant returns that grant. A "no" for one candidate is in
// the result; a "no" for all is the Refusal: ReasonStaleToken (adopt first),
// ReasonFrozen, ReasonOverduePin.
func (c *Client) Acquire(ctx context.Context, r AcquireRequest) (AcquireResult, *Refusal, error) {
	a, err := call(ctx, c, "acquire", r.Group, c.arbiter.AcquireLeases, wireAcquire(r))
	if err != nil {
		return AcquireResult{}, nil, err
	}
	if no := refusalOf(a.GetRefusal()); no != nil {
		return AcquireResult{}, no, nil
	}
	leases, err := leasesOf(a.GetLeases(), r.Holder)
	if err == nil {
		err = onlyCandidates(leases, r.Candidates)
	}
	if err != nil {
		return AcquireResult{}, nil, c.broken("acquire", r.Group, err)
	}
	refusals := make(map[string]Refusal, len(a.GetRefusals()))
	for _, no := range a.GetRefusals() {
		// An entry without a reason still stands in the list of the refused.
		refusals[no.GetReplica()] = Refusal{}
		if refusal := refusalOf(no.GetRefusal()); refusal != nil {
			refusals[no.GetReplica()] = *refusal
		}
	}
	return AcquireResult{Leases: leases, Refusals: refusals}, nil, nil
}

func onlyCandidates(leases []Lease, candidates []Candidate) error {
	wanted := make(map[string]struct{}, len(candidates))
	for _, c := range candidates {
		wanted[c.Replica] = struct{}{}
	}
	for _, l := range leases {
		if _, ok := wanted[l.Replica]; !ok {
			return fmt.Errorf("lease %s is on %s, which was no candidate", l.ID, l.Replica)
		}
	}
	return nil
}

// Renew extends leases by their TTL, counted from when the arbiter reads the request.
// It answers for each lease, in the order of refs. Renewer does this in the background.
func (c *Client) Renew(ctx context.Context, group string, refs []LeaseRef) ([]RenewResult, error) {
	wire := make([]*arbiterv1.LeaseRef, 0, len(refs))
	for _, r := range refs {
		wire = append(wire, wireRef(r))
	}
	a, err := call(ctx, c, "renew", group, c.arbiter.RenewLeases,
		&arbiterv1.RenewLeasesRequest{Group: group, Leases: wire})
	if err != nil {
		return nil, err
	}
	if len(a.GetResults()) != len(refs) {
		return nil, c.broken("renew", group, fmt.Errorf("%d results for %d leases", len(a.GetResults()), len(refs)))
	}
	results := make([]RenewResult, 0, len(refs))
	for i, r := range a.GetResults() {
		if r.GetId() != refs[i].ID {
			return nil, c.broken("renew", group, fmt.Errorf("result %d is for lease %s, not for %s", i, r.GetId(), refs[i].ID))
		}
		results = append(results, RenewResult{ID: r.GetId(), Refusal: refusalOf(r.GetRefusal())})
	}
	return results, nil
}

// Pin makes a lease last until it is released. instance is the pod UID that is about to
// be changed. A refused pin leaves the lease as it was. Repeating it is safe.
func (c *Client) Pin(ctx context.Context, group string, ref LeaseRef, instance string) (Lease, *Refusal, error) {
	a, err := call(ctx, c, "pin", group, c.arbiter.PinLease,
		&arbiterv1.PinLeaseRequest{Group: group, Lease: wireRef(ref), Instance: instance})
	if err != nil {
		return Lease{}, nil, err
	}
	if r := refusalOf(a.GetRefusal()); r != nil {
		return Lease{}, r, nil
	}
	// The point of no return depends on this answer: half a yes is none.
	lease, err := leaseOf(a.GetLease())
	switch {
	case err != nil:
	case lease.ID != ref.ID || lease.Token != ref.Token:
		err = fmt.Errorf("asked for lease %s with token %d, got %s with %d", ref.ID, ref.Token, lease.ID, lease.Token)
	case lease.Phase != PhasePinned:
		err = fmt.Errorf("lease %s is %s after it was pinned", lease.ID, lease.Phase)
	case lease.Instance != instance:
		err = fmt.Errorf("lease %s was pinned for instance %q, not for %q", lease.ID, lease.Instance, instance)
	}
	if err != nil {
		return Lease{}, nil, c.broken("pin", group, err)
	}
	return lease, nil, nil
}

// Release ends a lease or pin. version is the revision that was verified, with Upgraded
// only. Releasing one that is gone succeeds. Refusals: ReasonStaleToken.
func (c *Client) Release(ctx context.Context, group string, ref LeaseRef, outcome Outcome, version string) (*Refusal, error) {
	a, err := call(ctx, c, "release", group, c.arbiter.ReleaseLease, &arbiterv1.ReleaseLeaseRequest{
		Group: group, Lease: wireRef(ref), Outcome: wireOutcome(outcome), Version: version,
	})
	if err != nil {
		return nil, err
	}
	return refusalOf(a.GetRefusal()), nil
}

// Retire forgets a holder without leases. token is the holder's, from Adopt. Refusals:
// ReasonStaleToken, ReasonHolderHasLeases.
func (c *Client) Retire(ctx context.Context, group, holder string, token int64) (*Refusal, error) {
	a, err := call(ctx, c, "retire", group, c.arbiter.RetireHolder,
		&arbiterv1.RetireHolderRequest{Group: group, Holder: holder, Token: token})
	if err != nil {
		return nil, err
	}
	return refusalOf(a.GetRefusal()), nil
}

// Handover asks to move duty away from r.From and returns who shall take over; empty
// without a refusal: r.From has no duty any more, or is giving it up. Success is seen only
// in the duties of List and Watch.
func (c *Client) Handover(ctx context.Context, r HandoverRequest) (successor string, refusal *Refusal, err error) {
	a, err := call(ctx, c, "handover", r.Group, c.arbiter.RequestHandover, &arbiterv1.RequestHandoverRequest{
		Group: r.Group, Holder: r.Holder, Token: r.Token, From: r.From, Candidates: r.Candidates,
	})
	if err != nil {
		return "", nil, err
	}
	if r := refusalOf(a.GetRefusal()); r != nil {
		return "", r, nil
	}
	return a.GetSuccessor(), nil, nil
}

// ForceRelease ends the lease or pin on replica whatever its token: an administrator's
// way out. reason is for the record. It returns what was ended; nil: there was none.
func (c *Client) ForceRelease(ctx context.Context, group, replica, reason string) (*Lease, error) {
	a, err := call(ctx, c, "force release", group, c.arbiter.ForceReleaseLease,
		&arbiterv1.ForceReleaseLeaseRequest{Group: group, Replica: replica, Reason: reason})
	if err != nil {
		return nil, err
	}
	if a.GetReleased() == nil {
		return nil, nil //nolint:nilnil // documented: nothing was there to release
	}
	l, err := leaseOf(a.GetReleased())
	if err != nil {
		return nil, c.broken("force release", group, err)
	}
	return &l, nil
}
