package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"offduty.dev/arbiter/client"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// answer is everything that a method may return.
type answer struct {
	Value   any
	Refusal *client.Refusal
	Kind    error
}

func wireLease(phase arbiterv1.LeasePhase) *arbiterv1.Lease {
	return &arbiterv1.Lease{
		Id: "l1", Replica: "ns/a-0", Holder: "plan", Token: 7, Phase: phase,
		Instance: "uid", Ttl: durationpb.New(30 * time.Second), Overdue: true,
	}
}

func lease(phase client.Phase) client.Lease {
	return client.Lease{
		ID: "l1", Replica: "ns/a-0", Holder: "plan", Token: 7, Phase: phase,
		Instance: "uid", TTL: 30 * time.Second, Overdue: true,
	}
}

var (
	wireNo = &arbiterv1.Refusal{
		Reason: arbiterv1.RefusalReason_REFUSAL_REASON_FLOOR, Rule: "minServing 3",
		Message: "wait", RetryAfter: durationpb.New(time.Second),
	}
	no = &client.Refusal{Reason: client.ReasonFloor, Rule: "minServing 3", Message: "wait", RetryAfter: time.Second}
)

func kindOf(err error) error {
	for _, kind := range []error{
		client.ErrProtocol, client.ErrHandshake, client.ErrInvalid, client.ErrUnavailable, client.ErrUnimplemented,
		client.ErrNotFound, client.ErrDenied, client.ErrOutcomeUnknown, context.Canceled,
	} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return err
}

func TestEachCallSaysWhatItMeansAndUnderstandsTheAnswer(t *testing.T) {
	ref := client.LeaseRef{ID: "l1", Token: 7}
	wireRef := &arbiterv1.LeaseRef{Id: "l1", Token: 7}
	acquire := client.AcquireRequest{
		Group: "ns/g", Holder: "plan", Token: 5, RequestID: "r", Max: 2, TTL: 30 * time.Second,
		Candidates: []client.Candidate{{Replica: "ns/a-0", Instance: "uid"}, {Replica: "ns/a-1"}},
	}
	wireAcquire := &arbiterv1.AcquireLeasesRequest{
		Group: "ns/g", Holder: "plan", Token: 5, RequestId: "r", Max: 2, Ttl: durationpb.New(30 * time.Second),
		Candidates: []*arbiterv1.Candidate{{Replica: "ns/a-0", Instance: "uid"}, {Replica: "ns/a-1"}},
	}
	type caller func(context.Context, *client.Client) (any, *client.Refusal, error)
	doAcquire := caller(func(ctx context.Context, c *client.Client) (any, *client.Refusal, error) {
		return c.Acquire(ctx, acquire)
	})
	adopt := caller(func(ctx context.Context, c *client.Client) (any, *client.Refusal, error) {
		return c.Adopt(ctx, "ns/g", "plan", 3, "me", []client.Lease{lease(client.PhasePinned)})
	})
	pin := caller(func(ctx context.Context, c *client.Client) (any, *client.Refusal, error) {
		return c.Pin(ctx, "ns/g", ref, "uid")
	})
	list := caller(func(ctx context.Context, c *client.Client) (any, *client.Refusal, error) {
		v, err := c.List(ctx, "ns/g")
		return v, nil, err
	})
	release := caller(func(ctx context.Context, c *client.Client) (any, *client.Refusal, error) {
		r, err := c.Release(ctx, "ns/g", ref, client.Upgraded, "rev-2")
		return nil, r, err
	})
	renew := caller(func(ctx context.Context, c *client.Client) (any, *client.Refusal, error) {
		v, err := c.Renew(ctx, "ns/g", []client.LeaseRef{ref, {ID: "l2", Token: 8}})
		return v, nil, err
	})
	handover := caller(func(ctx context.Context, c *client.Client) (any, *client.Refusal, error) {
		return c.Handover(ctx, client.HandoverRequest{Group: "ns/g", Holder: "plan", Token: 5, From: "ns/a-0", Candidates: []string{"ns/a-1"}})
	})
	retire := caller(func(ctx context.Context, c *client.Client) (any, *client.Refusal, error) {
		r, err := c.Retire(ctx, "ns/g", "plan", 5)
		return nil, r, err
	})
	force := caller(func(ctx context.Context, c *client.Client) (any, *client.Refusal, error) {
		v, err := c.ForceRelease(ctx, "ns/g", "ns/a-0", "dead")
		return v, nil, err
	})
	pinned, leased := arbiterv1.LeasePhase_LEASE_PHASE_PINNED, arbiterv1.LeasePhase_LEASE_PHASE_LEASED
	pinnedLease := lease(client.PhasePinned)
	tests := []struct {
		name   string
		call   caller
		asked  proto.Message // nil: checked by another case
		answer proto.Message
		want   answer
	}{
		{
			name: "capabilities of an arbiter that can do all",
			call: func(ctx context.Context, c *client.Client) (any, *client.Refusal, error) {
				v, err := c.Capabilities(ctx, "ns/g")
				return v, nil, err
			},
			asked: &arbiterv1.GetCapabilitiesRequest{Group: "ns/g"},
			answer: &arbiterv1.GetCapabilitiesResponse{
				Listing: true, Leases: arbiterv1.LeaseSupport_LEASE_SUPPORT_PINNED, Handover: true, Health: true, Implementation: "x 1",
			},
			want: answer{Value: client.Capabilities{Listing: true, Leases: client.LeasesPinned, Handover: true, Health: true, Implementation: "x 1"}},
		},
		{
			name:  "a list, in which a duty that we do not know is unknown",
			call:  list,
			asked: &arbiterv1.ListReplicasRequest{Group: "ns/g"},
			answer: &arbiterv1.ListReplicasResponse{State: &arbiterv1.GroupState{
				Group: "ns/g", Revision: 4, Epoch: "e", Floor: 3, Serving: 5, MaxLeased: 2, Frozen: true, Message: "m",
				Replicas: []*arbiterv1.Replica{
					{
						Name: "ns/a-0", Duty: arbiterv1.Duty_DUTY_IDLE, Health: arbiterv1.Health_HEALTH_UNHEALTHY, Instance: "uid",
						Serving: true, DutyGeneration: 9, Lease: wireLease(pinned), Message: "why",
					},
					{Name: "ns/a-1", Duty: arbiterv1.Duty(99)},
				},
			}},
			want: answer{Value: client.GroupState{
				Group: "ns/g", Revision: 4, Epoch: "e", Floor: 3, Serving: 5, MaxLeased: 2, Frozen: true, Message: "m",
				Replicas: []client.Replica{
					{
						Name: "ns/a-0", Duty: client.DutyIdle, Health: client.Unhealthy, Instance: "uid",
						Serving: true, Generation: 9, Lease: &pinnedLease, Message: "why",
					},
					{Name: "ns/a-1"},
				},
			}},
		},
		{
			name: "a list that names a replica twice is not believed",
			call: list,
			answer: &arbiterv1.ListReplicasResponse{State: &arbiterv1.GroupState{
				Group: "ns/g", Replicas: []*arbiterv1.Replica{{Name: "ns/a-0"}, {Name: "ns/a-0", Duty: arbiterv1.Duty_DUTY_IDLE}},
			}},
			want: answer{Value: client.GroupState{}, Kind: client.ErrProtocol},
		},
		{
			name:   "a list of another group is not believed",
			call:   list,
			answer: &arbiterv1.ListReplicasResponse{State: &arbiterv1.GroupState{Group: "ns/other"}},
			want:   answer{Value: client.GroupState{}, Kind: client.ErrProtocol},
		},
		{
			name: "adoption sends known leases and returns the token",
			call: adopt,
			asked: &arbiterv1.AdoptLeasesRequest{
				Group: "ns/g", Holder: "plan", Term: 3, Identity: "me",
				KnownLeases: []*arbiterv1.Lease{{
					Id: "l1", Replica: "ns/a-0", Holder: "plan", Token: 7, Phase: pinned, Instance: "uid", Ttl: durationpb.New(30 * time.Second),
				}},
			},
			answer: &arbiterv1.AdoptLeasesResponse{Token: 9, Leases: []*arbiterv1.Lease{wireLease(leased)}},
			want:   answer{Value: client.Adopted{Token: 9, Leases: []client.Lease{lease(client.PhaseLeased)}}},
		},
		{
			name:   "a refused adoption",
			call:   adopt,
			answer: &arbiterv1.AdoptLeasesResponse{Refusal: wireNo},
			want:   answer{Value: client.Adopted{}, Refusal: no},
		},
		{
			name:   "an adoption without a token is not believed",
			call:   adopt,
			answer: &arbiterv1.AdoptLeasesResponse{},
			want:   answer{Value: client.Adopted{}, Kind: client.ErrProtocol},
		},
		{
			name:  "leases and refusals for each candidate",
			call:  doAcquire,
			asked: wireAcquire,
			answer: &arbiterv1.AcquireLeasesResponse{
				Leases:   []*arbiterv1.Lease{wireLease(leased)},
				Refusals: []*arbiterv1.CandidateRefusal{{Replica: "ns/a-1", Refusal: wireNo}, {Replica: "ns/a-2"}},
			},
			want: answer{Value: client.AcquireResult{
				Leases:   []client.Lease{lease(client.PhaseLeased)},
				Refusals: map[string]client.Refusal{"ns/a-1": *no, "ns/a-2": {}},
			}},
		},
		{
			name:   "a reason that we do not know is a refusal all the same",
			call:   doAcquire,
			answer: &arbiterv1.AcquireLeasesResponse{Refusal: &arbiterv1.Refusal{Reason: 99, RetryAfter: durationpb.New(-time.Second)}},
			want:   answer{Value: client.AcquireResult{}, Refusal: &client.Refusal{}},
		},
		{
			name: "a lease on a replica that was no candidate is not believed",
			call: doAcquire,
			answer: &arbiterv1.AcquireLeasesResponse{Leases: []*arbiterv1.Lease{
				{Id: "l", Replica: "ns/a-7", Holder: "plan", Token: 1},
			}},
			want: answer{Value: client.AcquireResult{}, Kind: client.ErrProtocol},
		},
		{
			name: "a lease of another holder is not believed",
			call: doAcquire,
			answer: &arbiterv1.AcquireLeasesResponse{Leases: []*arbiterv1.Lease{
				{Id: "l", Replica: "ns/a-0", Holder: "other", Token: 1},
			}},
			want: answer{Value: client.AcquireResult{}, Kind: client.ErrProtocol},
		},
		{
			name:   "renewals in order",
			call:   renew,
			asked:  &arbiterv1.RenewLeasesRequest{Group: "ns/g", Leases: []*arbiterv1.LeaseRef{wireRef, {Id: "l2", Token: 8}}},
			answer: &arbiterv1.RenewLeasesResponse{Results: []*arbiterv1.RenewResult{{Id: "l1"}, {Id: "l2", Refusal: wireNo}}},
			want:   answer{Value: []client.RenewResult{{ID: "l1"}, {ID: "l2", Refusal: no}}},
		},
		{
			name:   "renewals of which one is missing are not believed",
			call:   renew,
			answer: &arbiterv1.RenewLeasesResponse{Results: []*arbiterv1.RenewResult{{Id: "l1"}}},
			want:   answer{Value: []client.RenewResult(nil), Kind: client.ErrProtocol},
		},
		{
			name:   "a pin",
			call:   pin,
			asked:  &arbiterv1.PinLeaseRequest{Group: "ns/g", Lease: wireRef, Instance: "uid"},
			answer: &arbiterv1.PinLeaseResponse{Lease: wireLease(pinned)},
			want:   answer{Value: lease(client.PhasePinned)},
		},
		{
			name:   "a refused pin",
			call:   pin,
			answer: &arbiterv1.PinLeaseResponse{Refusal: wireNo},
			want:   answer{Value: client.Lease{}, Refusal: no},
		},
		{
			name:   "a pin that is not pinned is none",
			call:   pin,
			answer: &arbiterv1.PinLeaseResponse{Lease: wireLease(leased)},
			want:   answer{Value: client.Lease{}, Kind: client.ErrProtocol},
		},
		{
			name: "a pin of another pod is none",
			call: pin,
			answer: &arbiterv1.PinLeaseResponse{Lease: &arbiterv1.Lease{
				Id: "l1", Replica: "ns/a-0", Holder: "plan", Token: 7, Phase: pinned, Instance: "younger",
			}},
			want: answer{Value: client.Lease{}, Kind: client.ErrProtocol},
		},
		{
			name:   "an empty answer to a pin is none",
			call:   pin,
			answer: &arbiterv1.PinLeaseResponse{},
			want:   answer{Value: client.Lease{}, Kind: client.ErrProtocol},
		},
		{
			name: "a release",
			call: release,
			asked: &arbiterv1.ReleaseLeaseRequest{
				Group: "ns/g", Lease: wireRef, Outcome: arbiterv1.LeaseOutcome_LEASE_OUTCOME_UPGRADED, Version: "rev-2",
			},
			answer: &arbiterv1.ReleaseLeaseResponse{},
		},
		{
			name:   "a refused release",
			call:   release,
			answer: &arbiterv1.ReleaseLeaseResponse{Refusal: wireNo},
			want:   answer{Refusal: no},
		},
		{
			name:   "a retirement",
			call:   retire,
			asked:  &arbiterv1.RetireHolderRequest{Group: "ns/g", Holder: "plan", Token: 5},
			answer: &arbiterv1.RetireHolderResponse{Refusal: wireNo},
			want:   answer{Refusal: no},
		},
		{
			name: "a handover",
			call: handover,
			asked: &arbiterv1.RequestHandoverRequest{
				Group: "ns/g", Holder: "plan", Token: 5, From: "ns/a-0", Candidates: []string{"ns/a-1"},
			},
			answer: &arbiterv1.RequestHandoverResponse{Successor: "ns/a-1"},
			want:   answer{Value: "ns/a-1"},
		},
		{
			name:   "a handover of duty that is being given up already has no successor",
			call:   handover,
			answer: &arbiterv1.RequestHandoverResponse{},
			want:   answer{Value: ""},
		},
		{
			name:   "a forced release",
			call:   force,
			asked:  &arbiterv1.ForceReleaseLeaseRequest{Group: "ns/g", Replica: "ns/a-0", Reason: "dead"},
			answer: &arbiterv1.ForceReleaseLeaseResponse{Released: wireLease(pinned)},
			want:   answer{Value: &pinnedLease},
		},
		{
			name:   "a forced release of nothing",
			call:   force,
			answer: &arbiterv1.ForceReleaseLeaseResponse{},
			want:   answer{Value: (*client.Lease)(nil)},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := &double{answer: tt.answer}
			c := listen(t, d).dial()
			var got answer
			var err error
			got.Value, got.Refusal, err = tt.call(t.Context(), c)
			got.Kind = kindOf(err)
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) })); diff != "" {
				t.Errorf("answer (-want +got):\n%s\nerror: %v", diff, err)
			}
			if tt.asked == nil {
				return
			}
			if diff := cmp.Diff(tt.asked, d.asked, protocmp.Transform()); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEveryRefusalReasonHasANameOfItsOwn(t *testing.T) {
	names := map[string]bool{}
	for number := range arbiterv1.RefusalReason_name {
		d := &double{answer: &arbiterv1.ReleaseLeaseResponse{Refusal: &arbiterv1.Refusal{Reason: arbiterv1.RefusalReason(number)}}}
		refusal, err := listen(t, d).dial().Release(t.Context(), "g", client.LeaseRef{}, client.Undone, "")
		if err != nil {
			t.Fatal(err)
		}
		names[refusal.Reason.String()] = true
	}
	if len(names) != len(arbiterv1.RefusalReason_name) {
		t.Errorf("%d reasons on the wire, %d names: %v", len(arbiterv1.RefusalReason_name), len(names), names)
	}
}

func TestFailuresAreSortedByWhatTheCallerCanDo(t *testing.T) {
	detailed, err := status.New(codes.InvalidArgument, "bad").WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "ttl", Description: "whole seconds"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		err  error
		want error
		text string
	}{
		{"an invalid request names its fields", detailed.Err(), client.ErrInvalid, "ttl: whole seconds"},
		{"no such group", status.Error(codes.NotFound, "x"), client.ErrNotFound, "check that the group exists"},
		{"no such call", status.Error(codes.Unimplemented, "x"), client.ErrUnimplemented, "capabilities"},
		{"not allowed", status.Error(codes.PermissionDenied, "x"), client.ErrDenied, "client certificate"},
		{"not known", status.Error(codes.Unauthenticated, "x"), client.ErrDenied, "client certificate"},
		{"not now", status.Error(codes.Unavailable, "starting"), client.ErrUnavailable, "cannot be reached: starting"},
		{"a crash", status.Error(codes.Internal, "boom"), client.ErrOutcomeUnknown, "boom"},
		{"a code from the future", status.Error(codes.Code(77), "boom"), client.ErrOutcomeUnknown, "boom"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := listen(t, &double{err: tt.err}).dial()
			_, err := c.List(t.Context(), "ns/g")
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), "127.0.0.1:9443") {
				t.Errorf("got %v, want %v with %q and the address", err, tt.want, tt.text)
			}
		})
	}
}

func TestACallerThatGivesUpSeesItsOwnReason(t *testing.T) {
	c := listen(t, &double{}).dial()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.List(ctx, "ns/g"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
