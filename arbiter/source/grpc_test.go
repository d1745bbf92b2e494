package source_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/intstr"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/source"
	dutyv1 "offduty.dev/proto/offduty/duty/v1"
)

// dutyServer answers with what a test wants.
type dutyServer struct {
	dutyv1.UnimplementedDutyServiceServer
	t      *testing.T
	answer *dutyv1.GetDutyResponse
	err    error
	// asked is the handover that was asked for.
	asked string
}

// HandOver notes what it is asked for.
func (s *dutyServer) HandOver(_ context.Context, r *dutyv1.HandOverRequest) (*dutyv1.HandOverResponse, error) {
	s.asked = r.GetReplica() + "/" + r.GetInstance() + " to " + r.GetCandidate() + "/" + r.GetCandidateInstance()
	return &dutyv1.HandOverResponse{}, s.err
}

func (s *dutyServer) register(g *grpc.Server) { dutyv1.RegisterDutyServiceServer(g, s) }

// GetDuty does not answer at all when it has neither answer nor error.
func (s *dutyServer) GetDuty(ctx context.Context, r *dutyv1.GetDutyRequest) (*dutyv1.GetDutyResponse, error) {
	if r.GetReplica() != "db-1" || r.GetInstance() != "u1" {
		s.t.Errorf("asked was %v", r)
	}
	if s.answer == nil && s.err == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.answer, s.err
}

// askGRPC asks db-1, which serves what register registers.
func askGRPC(t *testing.T, spec v1alpha1.GRPCSource, register func(*grpc.Server)) roster.Sight {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	go server.Serve(l) //nolint:errcheck // it ends with the test
	defer server.Stop()
	spec.Port, spec.Probe.TimeoutSeconds = intstr.FromInt32(int32(l.Addr().(*net.TCPAddr).Port)), 1 //nolint:gosec // a port
	s := source.NewGRPC(spec, nil)
	return s.See(t.Context(), map[string]application.Member{"db-1": {Name: "db-1", Instance: "u1", Address: "127.0.0.1"}})["db-1"]
}

func TestAMemberSaysByGRPCWhetherItWorks(t *testing.T) {
	type response = dutyv1.GetDutyResponse
	most := new(int64(100))
	for name, tt := range map[string]struct {
		maxLag *int64
		answer *response
		err    error
		want   roster.Sight
	}{
		"it works":                    {nil, &response{Duty: dutyv1.Duty_DUTY_WORKING}, nil, roster.Sight{Duty: roster.Working}},
		"it is idle":                  {nil, &response{Duty: dutyv1.Duty_DUTY_IDLE, Replica: "db-1", Instance: "u1"}, nil, roster.Sight{Duty: roster.Idle}},
		"it does not know":            {nil, &response{Duty: dutyv1.Duty_DUTY_UNKNOWN, Reason: "no quorum"}, nil, roster.Sight{Duty: roster.Unknown, Why: "it says that it does not know: no quorum"}},
		"it says nothing":             {nil, &response{}, nil, roster.Sight{Duty: roster.Unknown, Why: `it says "", which is no duty`}},
		"it says what nobody knows":   {nil, &response{Duty: 9}, nil, roster.Sight{Duty: roster.Unknown, Why: `it says "", which is no duty`}},
		"another replica answers":     {nil, &response{Duty: dutyv1.Duty_DUTY_IDLE, Replica: "db-2"}, nil, roster.Sight{Duty: roster.Unknown, Why: "another replica answered at its address: db-2"}},
		"it lags too far":             {most, &response{Duty: dutyv1.Duty_DUTY_IDLE, LagBytes: new(int64(101))}, nil, roster.Sight{Duty: roster.Idle, Unfit: "it lags by more than 100 bytes"}},
		"it does not lag":             {most, &response{Duty: dutyv1.Duty_DUTY_IDLE, LagBytes: new(int64(0))}, nil, roster.Sight{Duty: roster.Idle}},
		"it does not say how far":     {most, &response{Duty: dutyv1.Duty_DUTY_IDLE}, nil, roster.Sight{Duty: roster.Idle, Unfit: "it does not say how far it lags"}},
		"it fails":                    {nil, nil, status.Error(codes.Internal, "its disk is full"), roster.Sight{Duty: roster.Unknown, Why: "GetDuty: Internal: its disk is full"}},
		"it takes longer than it may": {nil, nil, nil, roster.Sight{Duty: roster.Unknown, Why: "no answer within 1s"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.want.Instance = "u1"
			server := &dutyServer{t: t, answer: tt.answer, err: tt.err}
			got := askGRPC(t, v1alpha1.GRPCSource{MaxLagBytes: tt.maxLag}, server.register)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("it does not serve that", func(t *testing.T) {
		want := roster.Sight{Instance: "u1", Duty: roster.Unknown, Why: "GetDuty: Unimplemented: unknown service offduty.duty.v1.DutyService"}
		if diff := cmp.Diff(want, askGRPC(t, v1alpha1.GRPCSource{}, func(*grpc.Server) {})); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		s := source.NewGRPC(v1alpha1.GRPCSource{Endpoint: v1alpha1.Endpoint{Port: intstr.FromInt32(1)}, Probe: v1alpha1.Probing{TimeoutSeconds: 1}}, nil)
		got := s.See(t.Context(), map[string]application.Member{"db-1": {Name: "db-1", Instance: "u1", Address: "127.0.0.1"}})["db-1"]
		if got.Duty != roster.Unknown || got.Why != "GetDuty: Unavailable" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAMemberIsAskedByGRPCToHandOver(t *testing.T) {
	for name, tt := range map[string]struct {
		err     error
		refused bool
	}{
		"it does so":                 {nil, false},
		"it does not work":           {status.Error(codes.FailedPrecondition, "no leader"), true},
		"it has failed, and at what": {status.Error(codes.Internal, "its disk is full"), false},
	} {
		t.Run(name, func(t *testing.T) {
			server := &dutyServer{t: t, err: tt.err}
			g := grpc.NewServer()
			server.register(g)
			var lc net.ListenConfig
			l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go g.Serve(l) //nolint:errcheck // ends with Stop
			defer g.Stop()
			port := int32(l.Addr().(*net.TCPAddr).Port) //nolint:gosec // a port
			s := source.NewGRPC(v1alpha1.GRPCSource{Endpoint: v1alpha1.Endpoint{Port: intstr.FromInt32(port)}}, nil)
			err = s.HandOver(t.Context(), application.Member{Name: "db-1", Instance: "u1", Address: "127.0.0.1"}, application.Member{Name: "db-2", Instance: "u2"})
			if errors.Is(err, application.ErrRefused) != tt.refused || (err == nil) != (tt.err == nil) {
				t.Errorf("the error is %v", err)
			}
			if got, want := server.asked, "db-1/u1 to db-2/u2"; got != want {
				t.Errorf("it was asked for %q, not %q", got, want)
			}
		})
	}
}

func TestAMemberShowsByItsHealthWhetherItWorks(t *testing.T) {
	spec := v1alpha1.GRPCSource{Health: &v1alpha1.GRPCHealth{Working: "leader", Idle: "follower"}}
	for name, tt := range map[string]struct {
		serving []string
		want    roster.Sight
	}{
		"a leader":                    {[]string{"leader"}, roster.Sight{Duty: roster.Working}},
		"a follower":                  {[]string{"follower", "in-sync"}, roster.Sight{Duty: roster.Idle}},
		"one that starts":             {nil, roster.Sight{Duty: roster.Unknown, Why: "neither leader nor follower is SERVING"}},
		"one that contradicts itself": {[]string{"leader", "follower"}, roster.Sight{Duty: roster.Unknown, Why: "it contradicts itself: both leader and follower are SERVING"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.want.Instance = "u1"
			got := askGRPC(t, spec, func(s *grpc.Server) {
				h := health.NewServer()
				h.SetServingStatus("leader", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
				for _, service := range tt.serving {
					h.SetServingStatus(service, grpc_health_v1.HealthCheckResponse_SERVING)
				}
				grpc_health_v1.RegisterHealthServer(s, h)
			})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
