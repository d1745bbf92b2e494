package server

import (
	"context"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// only is a Groups of one group, under any name.
type only struct{ group *duty.Group }

func (o only) Group(context.Context, string) (*duty.Group, error) { return o.group, nil }

// calls are the requests of the service that come from outside, each with its handler.
var calls = []struct {
	request func() proto.Message
	do      func(context.Context, *arbiterService, proto.Message) error
}{
	{func() proto.Message { return &arbiterv1.AdoptLeasesRequest{} }, func(ctx context.Context, s *arbiterService, m proto.Message) error {
		_, err := s.AdoptLeases(ctx, m.(*arbiterv1.AdoptLeasesRequest))
		return err
	}},
	{func() proto.Message { return &arbiterv1.AcquireLeasesRequest{} }, func(ctx context.Context, s *arbiterService, m proto.Message) error {
		_, err := s.AcquireLeases(ctx, m.(*arbiterv1.AcquireLeasesRequest))
		return err
	}},
	{func() proto.Message { return &arbiterv1.RenewLeasesRequest{} }, func(ctx context.Context, s *arbiterService, m proto.Message) error {
		_, err := s.RenewLeases(ctx, m.(*arbiterv1.RenewLeasesRequest))
		return err
	}},
	{func() proto.Message { return &arbiterv1.PinLeaseRequest{} }, func(ctx context.Context, s *arbiterService, m proto.Message) error {
		_, err := s.PinLease(ctx, m.(*arbiterv1.PinLeaseRequest))
		return err
	}},
	{func() proto.Message { return &arbiterv1.ReleaseLeaseRequest{} }, func(ctx context.Context, s *arbiterService, m proto.Message) error {
		_, err := s.ReleaseLease(ctx, m.(*arbiterv1.ReleaseLeaseRequest))
		return err
	}},
	{func() proto.Message { return &arbiterv1.RetireHolderRequest{} }, func(ctx context.Context, s *arbiterService, m proto.Message) error {
		_, err := s.RetireHolder(ctx, m.(*arbiterv1.RetireHolderRequest))
		return err
	}},
	{func() proto.Message { return &arbiterv1.RequestHandoverRequest{} }, func(ctx context.Context, s *arbiterService, m proto.Message) error {
		_, err := s.RequestHandover(ctx, m.(*arbiterv1.RequestHandoverRequest))
		return err
	}},
}

// FuzzRequests sends what a broken or hostile upgrader may send to a group that has lost its
// record, then to the same group once more: each is answered or refused with a reason, and
// tokens stay such that they can grow.
func FuzzRequests(f *testing.F) {
	lease := &arbiterv1.Lease{Id: "e-5", Replica: "ns/web-0", Token: 5, Phase: arbiterv1.LeasePhase_LEASE_PHASE_PINNED}
	ref := &arbiterv1.LeaseRef{Id: "e-5", Token: 6}
	for i, m := range []proto.Message{
		&arbiterv1.AdoptLeasesRequest{Group: "ns/web", Holder: "h", Term: 1, Identity: "i", KnownLeases: []*arbiterv1.Lease{lease}},
		&arbiterv1.AcquireLeasesRequest{Group: "ns/web", Holder: "h", Token: 1, RequestId: "r"},
		&arbiterv1.RenewLeasesRequest{Group: "ns/web", Leases: []*arbiterv1.LeaseRef{ref}},
		&arbiterv1.PinLeaseRequest{Group: "ns/web", Lease: ref, Instance: "u0"},
		&arbiterv1.ReleaseLeaseRequest{Group: "ns/web", Lease: ref},
		&arbiterv1.RetireHolderRequest{Group: "ns/web", Holder: "h", Token: 6},
		&arbiterv1.RequestHandoverRequest{Group: "ns/web", Holder: "h", Token: 6, From: "ns/web-0", Candidates: []string{"ns/web-1"}},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), data)
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		c := calls[int(kind)%len(calls)]
		m := c.request()
		if proto.Unmarshal(data, m) != nil {
			return
		}
		g, stop := lostGroup(t)
		defer stop()
		s := &arbiterService{groups: only{g}}
		for range 2 {
			switch code := status.Code(c.do(t.Context(), s, m)); code { //nolint:exhaustive // the rest is wrong
			case codes.OK, codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition:
			default:
				t.Fatalf("%v is answered with %s", m, code)
			}
		}
		r, err := s.AdoptLeases(t.Context(), &arbiterv1.AdoptLeasesRequest{Group: "ns/web", Holder: "another", Term: 1, Identity: "i"})
		if err != nil || r.GetToken() <= 0 {
			t.Errorf("after %v another holder adopts with token %d, error %v", m, r.GetToken(), err)
		}
	})
}

// lostGroup runs a group of two whose record was lost while an upgrade was under way.
func lostGroup(t *testing.T) (g *duty.Group, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	g = duty.New(duty.Config{
		Key: "ns/web", Prefix: "ns/", Store: lost{store.NewMemory()}, Now: time.Now, NewEpoch: func() string { return "e" },
		FirstToken: func() int64 { return 1 }, Log: logr.Discard(),
	})
	done := make(chan struct{})
	go func() { defer close(done); g.Run(ctx) }()
	pods := map[string]roster.Pod{"web-0": {Instance: "u0", LeaseID: "e-5", Ready: true}, "web-1": {Instance: "u1", Ready: true}}
	settings := duty.Settings{MaxLeased: 1, PinOverdue: time.Hour, Roster: roster.Config{Slots: 1, Settle: time.Minute, Failover: time.Minute, Lifetime: time.Minute}}
	if err := g.Configure(ctx, settings, pods); err != nil {
		t.Fatal(err)
	}
	return g, func() { cancel(); <-done }
}

// lost is a store whose record was lost before it was first loaded.
type lost struct{ store.Store }

func (l lost) Load(ctx context.Context) (store.Record, store.Version, error) {
	r, v, err := l.Store.Load(ctx)
	r.Lost = r.Leases.Epoch == ""
	return r, v, err
}
