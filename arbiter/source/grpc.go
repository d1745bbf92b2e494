package source

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/roster"
	dutyv1 "offduty.dev/proto/offduty/duty/v1"
)

// GRPC asks each member by gRPC whether it works. Each question has a connection of its own: none
// outlives a process that was restarted in place, or leads to a pod that has got its address.
type GRPC struct {
	spec        v1alpha1.GRPCSource
	credentials Credentials
}

var (
	_ application.Source   = (*GRPC)(nil)
	_ application.Handover = (*GRPC)(nil)
)

// NewGRPC returns a source; nil credentials: without TLS.
func NewGRPC(spec v1alpha1.GRPCSource, c Credentials) *GRPC { return &GRPC{spec: spec, credentials: c} }

// See implements application.Source.
func (s *GRPC) See(ctx context.Context, members map[string]application.Member) map[string]roster.Sight {
	return each(ctx, members, func(ctx context.Context, m application.Member) roster.Sight {
		ctx, cancel := context.WithTimeout(ctx, seconds(s.spec.Probe.TimeoutSeconds))
		defer cancel()
		conn, err := s.dial(ctx, m)
		if err != nil {
			return unknown("%v", err)
		}
		defer conn.Close() //nolint:errcheck // nothing is lost
		var out roster.Sight
		if s.spec.Health != nil {
			out, err = s.byHealth(ctx, conn)
		} else {
			out, err = s.byDuty(ctx, conn, m)
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return unknown("no answer within %s", seconds(s.spec.Probe.TimeoutSeconds))
		case err != nil:
			return unknown("%v", err)
		}
		return out
	})
}

// HandOver implements application.Handover, by DutyService.
func (s *GRPC) HandOver(ctx context.Context, from, to application.Member) error {
	conn, err := s.dial(ctx, from)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", application.ErrRefused, from.Name, err)
	}
	defer conn.Close() //nolint:errcheck // nothing is lost
	_, err = dutyv1.NewDutyServiceClient(conn).HandOver(ctx, &dutyv1.HandOverRequest{
		Replica: from.Name, Instance: from.Instance, Candidate: to.Name, CandidateInstance: to.Instance,
	})
	switch {
	case err == nil:
		return nil
	case slices.Contains(refusals, status.Code(err)):
		return fmt.Errorf("%w: %s: %w", application.ErrRefused, from.Name, faultOf("HandOver", err))
	}
	return fmt.Errorf("%s: %w", from.Name, faultOf("HandOver", err))
}

// refusals are the codes of one that has begun nothing: it does not work, does not know the
// other, or does not let us.
var refusals = []codes.Code{codes.FailedPrecondition, codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.Unimplemented}

func (s *GRPC) dial(ctx context.Context, m application.Member) (*grpc.ClientConn, error) {
	address, err := addressOf(m, s.spec.Port)
	if err != nil {
		return nil, err
	}
	transport := insecure.NewCredentials()
	if s.credentials != nil {
		config, err := s.credentials(ctx)
		if err != nil {
			return nil, err
		}
		config = config.Clone()
		config.NextProtos = nil // gRPC sets its own
		transport = credentials.NewTLS(config)
	}
	// passthrough: an address, of which no resolver makes anything else.
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(transport), grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)), grpc.WithUserAgent("offduty-arbiter"))
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return conn, nil
}

func (s *GRPC) byDuty(ctx context.Context, conn *grpc.ClientConn, m application.Member) (roster.Sight, error) {
	r, err := dutyv1.NewDutyServiceClient(conn).GetDuty(ctx, &dutyv1.GetDutyRequest{Replica: m.Name, Instance: m.Instance})
	if err != nil {
		return roster.Sight{}, faultOf("GetDuty", err)
	}
	d := duty{Replica: r.GetReplica(), Instance: r.GetInstance(), LagBytes: r.LagBytes, Reason: r.GetReason()}
	switch r.GetDuty() {
	case dutyv1.Duty_DUTY_WORKING:
		d.Duty = "working"
	case dutyv1.Duty_DUTY_IDLE:
		d.Duty = "idle"
	case dutyv1.Duty_DUTY_UNKNOWN:
		d.Duty = "unknown"
	case dutyv1.Duty_DUTY_UNSPECIFIED:
	}
	return d.sight(m, s.spec.MaxLagBytes), nil
}

func (s *GRPC) byHealth(ctx context.Context, conn *grpc.ClientConn) (roster.Sight, error) {
	h := s.spec.Health
	client := grpc_health_v1.NewHealthClient(conn)
	working, err := serving(ctx, client, h.Working)
	if err != nil {
		return roster.Sight{}, err
	}
	idle, err := serving(ctx, client, h.Idle)
	if err != nil {
		return roster.Sight{}, err
	}
	out := roster.Sight{}
	switch {
	case working && idle:
		return unknown("it contradicts itself: both %s and %s are SERVING", h.Working, h.Idle), nil
	case working:
		out.Duty = roster.Working
	case idle:
		out.Duty = roster.Idle
	default:
		return unknown("neither %s nor %s is SERVING", h.Working, h.Idle), nil
	}
	return out, nil
}

// serving asks for one service. One that the member does not know is not serving.
func serving(ctx context.Context, client grpc_health_v1.HealthClient, service string) (bool, error) {
	r, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	if status.Code(err) == codes.NotFound {
		return false, nil
	}
	if err != nil {
		return false, faultOf("Health/Check of "+service, err)
	}
	return r.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING, nil
}

// faultOf says what went wrong without what differs each time: an unavailable member is told of
// with the ports of the connection.
func faultOf(what string, err error) error {
	s := status.Convert(err)
	if s.Code() == codes.Unavailable {
		return fmt.Errorf("%s: %s", what, s.Code())
	}
	return fmt.Errorf("%s: %s: %s", what, s.Code(), short(s.Message()))
}
