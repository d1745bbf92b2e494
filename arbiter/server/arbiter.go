// Package server is the transport of the arbiter: the two gRPC services over the groups,
// and who may call what. It decides nothing about leases and duty.
package server

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/lease"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// Groups finds groups by key, "<namespace>/<roster>".
type Groups interface {
	// Group returns the group, ready or not.
	//
	// Errors: ErrNoGroup; duty.ErrUnavailable when it is not known yet whether there is one.
	Group(ctx context.Context, key string) (*duty.Group, error)
}

// arbiterService implements offduty.arbiter.v1.ArbiterService.
type arbiterService struct {
	arbiterv1.UnimplementedArbiterServiceServer
	groups  Groups
	version string
}

// group checks the key of a request and finds the group.
func (s *arbiterService) group(ctx context.Context, key string, c *checks) (*duty.Group, error) {
	c.text("group", key, maxName)
	if err := c.err(); err != nil {
		return nil, err
	}
	g, err := s.groups.Group(ctx, key)
	return g, toStatus(err)
}

// GetCapabilities says what this arbiter can do: everything, but that it moves no duty which
// the application gives.
func (s *arbiterService) GetCapabilities(ctx context.Context, r *arbiterv1.GetCapabilitiesRequest) (*arbiterv1.GetCapabilitiesResponse, error) {
	g, err := s.group(ctx, r.GetGroup(), &checks{})
	if err != nil {
		return nil, err
	}
	return &arbiterv1.GetCapabilitiesResponse{
		Listing: true, Leases: arbiterv1.LeaseSupport_LEASE_SUPPORT_PINNED, Handover: g.HandsOver(), Health: true,
		Implementation: "offduty reference arbiter " + s.version,
	}, nil
}

// ListReplicas returns the state that was saved last.
func (s *arbiterService) ListReplicas(ctx context.Context, r *arbiterv1.ListReplicasRequest) (*arbiterv1.ListReplicasResponse, error) {
	g, err := s.group(ctx, r.GetGroup(), &checks{})
	if err != nil {
		return nil, err
	}
	v := g.View()
	if v == nil {
		return nil, toStatus(fmt.Errorf("group %s: %w: its members are not known yet", r.GetGroup(), duty.ErrUnavailable))
	}
	return &arbiterv1.ListReplicasResponse{State: toState(v)}, nil
}

// WatchReplicas streams states. A client that reads slowly misses states, never the last.
func (s *arbiterService) WatchReplicas(r *arbiterv1.WatchReplicasRequest, stream grpc.ServerStreamingServer[arbiterv1.WatchReplicasResponse]) error {
	ctx := stream.Context()
	g, err := s.group(ctx, r.GetGroup(), &checks{})
	if err != nil {
		return err
	}
	select {
	case <-g.Ready():
	case <-g.Stopped():
	case <-ctx.Done():
		return toStatus(ctx.Err())
	}
	for {
		v := g.View()
		if v == nil {
			return toStatus(fmt.Errorf("group %s: %w: it is being stopped", g.Key(), duty.ErrUnavailable))
		}
		if err := stream.Send(&arbiterv1.WatchReplicasResponse{State: toState(v)}); err != nil {
			return fmt.Errorf("send the state of group %s: %w", g.Key(), err)
		}
		select {
		case <-v.Superseded():
		case <-g.Stopped():
			return toStatus(fmt.Errorf("group %s: %w: it is being stopped", g.Key(), duty.ErrUnavailable))
		case <-ctx.Done():
			return toStatus(ctx.Err())
		}
	}
}

// AdoptLeases makes the caller the only actor for a holder.
func (s *arbiterService) AdoptLeases(ctx context.Context, r *arbiterv1.AdoptLeasesRequest) (*arbiterv1.AdoptLeasesResponse, error) {
	var c checks
	c.text("holder", r.GetHolder(), maxName)
	c.text("identity", r.GetIdentity(), maxName)
	if r.GetTerm() < 0 {
		c.fail("term", "must not be negative")
	}
	c.list("known_leases", len(r.GetKnownLeases()), 0)
	for i, l := range r.GetKnownLeases() {
		c.text(fmt.Sprintf("known_leases[%d].id", i), l.GetId(), maxName)
		c.text(fmt.Sprintf("known_leases[%d].replica", i), l.GetReplica(), 2*maxName)
	}
	g, err := s.group(ctx, r.GetGroup(), &c)
	if err != nil {
		return nil, err
	}
	req := lease.AdoptRequest{Holder: r.GetHolder(), Term: r.GetTerm(), Identity: r.GetIdentity()}
	for _, l := range r.GetKnownLeases() {
		name, ok := strings.CutPrefix(l.GetReplica(), g.Prefix())
		if !ok {
			continue // not a replica of this group
		}
		req.Known = append(req.Known, lease.Lease{
			ID: l.GetId(), Replica: name, Token: l.GetToken(), Phase: fromPhase(l.GetPhase()),
			Instance: l.GetInstance(), TTL: l.GetTtl().AsDuration().Truncate(time.Second),
		})
	}
	token, leases, refusal, err := g.Adopt(ctx, req)
	if err != nil {
		return nil, toStatus(err)
	}
	return &arbiterv1.AdoptLeasesResponse{Refusal: toRefusal(refusal), Token: token, Leases: toLeases(g.Prefix(), leases)}, nil
}

// AcquireLeases grants leases on idle replicas.
func (s *arbiterService) AcquireLeases(ctx context.Context, r *arbiterv1.AcquireLeasesRequest) (*arbiterv1.AcquireLeasesResponse, error) {
	var c checks
	c.text("holder", r.GetHolder(), maxName)
	c.text("request_id", r.GetRequestId(), maxRequest)
	c.list("candidates", len(r.GetCandidates()), 1)
	c.list("max", int(r.GetMax()), 1)
	c.ttl("ttl", r.GetTtl())
	for i, x := range r.GetCandidates() {
		c.text(fmt.Sprintf("candidates[%d].replica", i), x.GetReplica(), 2*maxName)
	}
	g, err := s.group(ctx, r.GetGroup(), &c)
	if err != nil {
		return nil, err
	}
	req := lease.AcquireRequest{
		Holder: r.GetHolder(), Token: r.GetToken(), RequestID: r.GetRequestId(),
		Max: int(r.GetMax()), TTL: r.GetTtl().AsDuration(),
	}
	out := &arbiterv1.AcquireLeasesResponse{}
	for _, x := range r.GetCandidates() {
		name, ok := strings.CutPrefix(x.GetReplica(), g.Prefix())
		if !ok {
			out.Refusals = append(out.Refusals, &arbiterv1.CandidateRefusal{
				Replica: x.GetReplica(), Refusal: toRefusal(notMember(x.GetReplica())),
			})
			continue
		}
		req.Candidates = append(req.Candidates, lease.Candidate{Replica: name, Instance: x.GetInstance()})
	}
	got, err := g.Acquire(ctx, req)
	if err != nil {
		return nil, toStatus(err)
	}
	out.Leases, out.Refusal = toLeases(g.Prefix(), got.Leases), toRefusal(got.Refusal)
	for _, x := range got.Refused {
		out.Refusals = append(out.Refusals, &arbiterv1.CandidateRefusal{
			Replica: g.Prefix() + x.Replica, Refusal: toRefusal(x.Refusal),
		})
	}
	return out, nil
}

func notMember(replica string) *lease.Refusal {
	return lease.Refuse(lease.UnknownReplica, "members", "%s is not a member", replica)
}

// RenewLeases makes leases young again.
func (s *arbiterService) RenewLeases(ctx context.Context, r *arbiterv1.RenewLeasesRequest) (*arbiterv1.RenewLeasesResponse, error) {
	var c checks
	c.list("leases", len(r.GetLeases()), 1)
	g, err := s.group(ctx, r.GetGroup(), &c)
	if err != nil {
		return nil, err
	}
	refs := make([]lease.Ref, 0, len(r.GetLeases()))
	for _, x := range r.GetLeases() {
		refs = append(refs, toRef(x))
	}
	refusals, err := g.Renew(ctx, refs)
	if err != nil {
		return nil, toStatus(err)
	}
	out := &arbiterv1.RenewLeasesResponse{}
	for i, ref := range refs {
		out.Results = append(out.Results, &arbiterv1.RenewResult{Id: ref.ID, Refusal: toRefusal(refusals[i])})
	}
	return out, nil
}

func toRef(r *arbiterv1.LeaseRef) lease.Ref { return lease.Ref{ID: r.GetId(), Token: r.GetToken()} }

// PinLease makes a lease last until it is released.
func (s *arbiterService) PinLease(ctx context.Context, r *arbiterv1.PinLeaseRequest) (*arbiterv1.PinLeaseResponse, error) {
	var c checks
	c.text("lease.id", r.GetLease().GetId(), maxName)
	c.text("instance", r.GetInstance(), maxName)
	g, err := s.group(ctx, r.GetGroup(), &c)
	if err != nil {
		return nil, err
	}
	l, refusal, err := g.Pin(ctx, toRef(r.GetLease()), r.GetInstance())
	switch {
	case err != nil:
		return nil, toStatus(err)
	case refusal != nil:
		return &arbiterv1.PinLeaseResponse{Refusal: toRefusal(refusal)}, nil
	}
	return &arbiterv1.PinLeaseResponse{Lease: toLease(g.Prefix(), *l)}, nil
}

// ReleaseLease ends a lease.
func (s *arbiterService) ReleaseLease(ctx context.Context, r *arbiterv1.ReleaseLeaseRequest) (*arbiterv1.ReleaseLeaseResponse, error) {
	var c checks
	c.text("lease.id", r.GetLease().GetId(), maxName)
	verified := ""
	switch r.GetOutcome() {
	case arbiterv1.LeaseOutcome_LEASE_OUTCOME_UPGRADED:
		c.text("version", r.GetVersion(), maxName)
		verified = r.GetVersion()
	case arbiterv1.LeaseOutcome_LEASE_OUTCOME_UNDONE:
	case arbiterv1.LeaseOutcome_LEASE_OUTCOME_UNSPECIFIED:
		c.fail("outcome", "must be UPGRADED or UNDONE")
	default:
		c.fail("outcome", "%d is not understood: must be UPGRADED or UNDONE", r.GetOutcome())
	}
	g, err := s.group(ctx, r.GetGroup(), &c)
	if err != nil {
		return nil, err
	}
	refusal, err := g.Release(ctx, toRef(r.GetLease()), verified)
	if err != nil {
		return nil, toStatus(err)
	}
	return &arbiterv1.ReleaseLeaseResponse{Refusal: toRefusal(refusal)}, nil
}

// RetireHolder forgets a holder.
func (s *arbiterService) RetireHolder(ctx context.Context, r *arbiterv1.RetireHolderRequest) (*arbiterv1.RetireHolderResponse, error) {
	var c checks
	c.text("holder", r.GetHolder(), maxName)
	g, err := s.group(ctx, r.GetGroup(), &c)
	if err != nil {
		return nil, err
	}
	refusal, err := g.Retire(ctx, r.GetHolder(), r.GetToken())
	if err != nil {
		return nil, toStatus(err)
	}
	return &arbiterv1.RetireHolderResponse{Refusal: toRefusal(refusal)}, nil
}

// RequestHandover asks to move duty.
func (s *arbiterService) RequestHandover(ctx context.Context, r *arbiterv1.RequestHandoverRequest) (*arbiterv1.RequestHandoverResponse, error) {
	var c checks
	c.text("holder", r.GetHolder(), maxName)
	c.text("from", r.GetFrom(), 2*maxName)
	c.list("candidates", len(r.GetCandidates()), 1)
	g, err := s.group(ctx, r.GetGroup(), &c)
	if err != nil {
		return nil, err
	}
	from, ok := strings.CutPrefix(r.GetFrom(), g.Prefix())
	if !ok {
		return &arbiterv1.RequestHandoverResponse{Refusal: toRefusal(notMember(r.GetFrom()))}, nil
	}
	var candidates []string
	for _, x := range r.GetCandidates() {
		if name, ok := strings.CutPrefix(x, g.Prefix()); ok {
			candidates = append(candidates, name)
		}
	}
	successor, refusal, err := g.Handover(ctx, r.GetHolder(), r.GetToken(), from, candidates)
	switch {
	case err != nil:
		return nil, toStatus(err)
	case refusal != nil || successor == "":
		return &arbiterv1.RequestHandoverResponse{Refusal: toRefusal(refusal)}, nil
	}
	return &arbiterv1.RequestHandoverResponse{Successor: g.Prefix() + successor}, nil
}

// ForceReleaseLease ends a lease for an administrator.
func (s *arbiterService) ForceReleaseLease(ctx context.Context, r *arbiterv1.ForceReleaseLeaseRequest) (*arbiterv1.ForceReleaseLeaseResponse, error) {
	var c checks
	c.text("replica", r.GetReplica(), 2*maxName)
	c.text("reason", r.GetReason(), maxReason)
	g, err := s.group(ctx, r.GetGroup(), &c)
	if err != nil {
		return nil, err
	}
	name, ok := strings.CutPrefix(r.GetReplica(), g.Prefix())
	if !ok {
		return nil, status.Errorf(codes.NotFound, "%s is not a replica of group %s: name it as %s<pod>", r.GetReplica(), g.Key(), g.Prefix())
	}
	was, err := g.ForceRelease(ctx, name, IdentityFrom(ctx).Name(), r.GetReason())
	if err != nil {
		return nil, toStatus(err)
	}
	out := &arbiterv1.ForceReleaseLeaseResponse{}
	if was != nil {
		out.Released = toLease(g.Prefix(), *was)
	}
	return out, nil
}
