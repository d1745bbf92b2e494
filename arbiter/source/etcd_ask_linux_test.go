package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/intstr"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/roster"
)

// double is an etcd member on an address of its own, as a pod has one (Linux has all of 127/8).
type double struct {
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedClusterServer

	id     uint64
	silent bool

	mu     sync.Mutex
	leader uint64
	answer error
	moved  []uint64
}

func (d *double) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	if d.silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return &pb.StatusResponse{
		Header: &pb.ResponseHeader{ClusterId: 9, MemberId: d.id}, Leader: d.leader, RaftTerm: 2, RaftIndex: 50, RaftAppliedIndex: 50,
	}, nil
}

func (d *double) MemberList(_ context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.GetLinearizable() {
		return nil, status.Error(codes.Unavailable, "a member that is alone has nothing linearizable to say")
	}
	out := &pb.MemberListResponse{}
	for i := range uint64(3) {
		// Nobody is to follow these addresses.
		out.Members = append(out.Members, &pb.Member{ID: i + 1, Name: fmt.Sprintf("db-%d", i), ClientURLs: []string{"http://192.0.2.1:2379"}})
	}
	return out, nil
}

func (d *double) MoveLeader(_ context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moved = append(d.moved, r.GetTargetID())
	return &pb.MoveLeaderResponse{}, d.answer
}

// doubles serves three members on one port; db-0 leads.
func doubles(t *testing.T) (*Etcd, map[string]application.Member, []*double) {
	t.Helper()
	var port int32
	members, all := map[string]application.Member{}, []*double{}
	for i := range 3 {
		address := fmt.Sprintf("127.0.83.%d", i+1)
		lis, err := net.Listen("tcp", fmt.Sprintf("%s:%d", address, port))
		if err != nil {
			t.Fatal(err)
		}
		port = int32(lis.Addr().(*net.TCPAddr).Port) //nolint:gosec // a port
		d := &double{id: uint64(i) + 1, leader: 1}
		s := grpc.NewServer()
		pb.RegisterMaintenanceServer(s, d)
		pb.RegisterClusterServer(s, d)
		go func() { _ = s.Serve(lis) }()
		t.Cleanup(s.Stop)
		name := fmt.Sprintf("db-%d", i)
		members[name] = application.Member{Name: name, Instance: "u", Address: address}
		all = append(all, d)
	}
	spec := v1alpha1.EtcdSource{Endpoint: v1alpha1.Endpoint{Port: intstr.FromInt32(port)}, Probe: v1alpha1.Probing{TimeoutSeconds: 1}}
	e := NewEtcd(spec, nil)
	t.Cleanup(e.Close)
	return e, members, all
}

func TestEtcdMembersAreAskedAtTheirPodsAddress(t *testing.T) {
	e, members, all := doubles(t)
	// One that is silent costs the others nothing.
	all[2].silent = true
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sights := e.See(ctx, members)
	if ctx.Err() != nil {
		t.Error("it has not returned before the context was done")
	}
	if sights["db-0"].Duty != roster.Working || sights["db-1"].Duty != roster.Idle || sights["db-2"].Duty != roster.Unknown {
		t.Errorf("seen: %+v", sights)
	}
	if why := sights["db-2"].Why; why != "its etcd does not answer: no answer in time" {
		t.Errorf("of the one that is silent it says %q", why)
	}
	members["db-1"] = application.Member{Name: "db-1", Instance: "u"}
	delete(members, "db-2")
	sights = e.See(t.Context(), members)
	if why := sights["db-1"].Why; why != "its etcd does not answer: it has no address" {
		t.Errorf("of a pod without an address it says %q", why)
	}
	if _, kept := e.conns["db-2"]; kept {
		t.Error("the connection to a member that is gone is kept")
	}
}

func TestLeadershipIsMovedToAHealthyFollowerOnly(t *testing.T) {
	for name, tt := range map[string]struct {
		change   func(all []*double)
		from, to string
		refused  bool
		failed   bool
		moved    int
	}{
		"the leader is asked for another": {from: "db-0", to: "db-1", moved: 1},
		"from does not lead":              {from: "db-1", to: "db-2", refused: true},
		"to follows somebody else":        {func(all []*double) { all[1].leader = 3 }, "db-0", "db-1", true, false, 0},
		"to follows nobody":               {func(all []*double) { all[1].leader = 0 }, "db-0", "db-1", true, false, 0},
		"etcd says no": {func(all []*double) {
			all[0].answer = status.Error(codes.FailedPrecondition, "etcdserver: bad leader transferee")
		}, "db-0", "db-1", true, false, 1},
		"what came of it is not known": {func(all []*double) {
			all[0].answer = status.Error(codes.Unavailable, "etcdserver: request timed out, leader transfer took too long")
		}, "db-0", "db-1", false, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			e, members, all := doubles(t)
			if tt.change != nil {
				tt.change(all)
			}
			err := e.HandOver(t.Context(), members[tt.from], members[tt.to])
			if errors.Is(err, application.ErrRefused) != tt.refused || (err != nil) != (tt.refused || tt.failed) {
				t.Errorf("answer: %v", err)
			}
			moved := 0
			for _, d := range all {
				moved += len(d.moved)
			}
			if moved != tt.moved {
				t.Errorf("%d calls of MoveLeader: %v", moved, err)
			}
		})
	}
}
