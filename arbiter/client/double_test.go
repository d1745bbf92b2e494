package client_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"offduty.dev/arbiter/client"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// double is an arbiter that records what it is asked and answers what it is told to.
type double struct {
	arbiterv1.UnimplementedArbiterServiceServer
	arbiterv1.UnimplementedAttendanceServiceServer

	asked  proto.Message
	answer proto.Message
	err    error
	watch  func(grpc.ServerStreamingServer[arbiterv1.WatchReplicasResponse]) error
	attend func(grpc.BidiStreamingServer[arbiterv1.AttendRequest, arbiterv1.AttendResponse]) error
}

func reply[A proto.Message](d *double, asked proto.Message) (A, error) {
	d.asked = asked
	var none A
	if d.err != nil {
		return none, d.err
	}
	a, ok := d.answer.(A)
	if !ok {
		return none, errors.New("the test gave no answer of this type")
	}
	return a, nil
}

func (d *double) GetCapabilities(_ context.Context, r *arbiterv1.GetCapabilitiesRequest) (*arbiterv1.GetCapabilitiesResponse, error) {
	return reply[*arbiterv1.GetCapabilitiesResponse](d, r)
}

func (d *double) ListReplicas(_ context.Context, r *arbiterv1.ListReplicasRequest) (*arbiterv1.ListReplicasResponse, error) {
	return reply[*arbiterv1.ListReplicasResponse](d, r)
}

func (d *double) AdoptLeases(_ context.Context, r *arbiterv1.AdoptLeasesRequest) (*arbiterv1.AdoptLeasesResponse, error) {
	return reply[*arbiterv1.AdoptLeasesResponse](d, r)
}

func (d *double) AcquireLeases(_ context.Context, r *arbiterv1.AcquireLeasesRequest) (*arbiterv1.AcquireLeasesResponse, error) {
	return reply[*arbiterv1.AcquireLeasesResponse](d, r)
}

func (d *double) RenewLeases(_ context.Context, r *arbiterv1.RenewLeasesRequest) (*arbiterv1.RenewLeasesResponse, error) {
	return reply[*arbiterv1.RenewLeasesResponse](d, r)
}

func (d *double) PinLease(_ context.Context, r *arbiterv1.PinLeaseRequest) (*arbiterv1.PinLeaseResponse, error) {
	return reply[*arbiterv1.PinLeaseResponse](d, r)
}

func (d *double) ReleaseLease(_ context.Context, r *arbiterv1.ReleaseLeaseRequest) (*arbiterv1.ReleaseLeaseResponse, error) {
	return reply[*arbiterv1.ReleaseLeaseResponse](d, r)
}

func (d *double) RetireHolder(_ context.Context, r *arbiterv1.RetireHolderRequest) (*arbiterv1.RetireHolderResponse, error) {
	return reply[*arbiterv1.RetireHolderResponse](d, r)
}

func (d *double) RequestHandover(_ context.Context, r *arbiterv1.RequestHandoverRequest) (*arbiterv1.RequestHandoverResponse, error) {
	return reply[*arbiterv1.RequestHandoverResponse](d, r)
}

func (d *double) ForceReleaseLease(_ context.Context, r *arbiterv1.ForceReleaseLeaseRequest) (*arbiterv1.ForceReleaseLeaseResponse, error) {
	return reply[*arbiterv1.ForceReleaseLeaseResponse](d, r)
}

func (d *double) WatchReplicas(_ *arbiterv1.WatchReplicasRequest, s grpc.ServerStreamingServer[arbiterv1.WatchReplicasResponse]) error {
	return d.watch(s)
}

func (d *double) Attend(s grpc.BidiStreamingServer[arbiterv1.AttendRequest, arbiterv1.AttendResponse]) error {
	return d.attend(s)
}

// network is where a double listens. It can be cut and mended.
type network struct {
	t        *testing.T
	double   *double
	server   *grpc.Server
	listener *bufconn.Listener
}

func listen(t *testing.T, d *double) *network {
	t.Helper()
	n := &network{t: t, double: d}
	n.mend()
	t.Cleanup(n.cut)
	return n
}

func (n *network) mend() {
	n.listener = bufconn.Listen(1 << 20)
	n.server = grpc.NewServer()
	arbiterv1.RegisterArbiterServiceServer(n.server, n.double)
	arbiterv1.RegisterAttendanceServiceServer(n.server, n.double)
	serve, at := n.server, n.listener
	go func() {
		if err := serve.Serve(at); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			n.t.Errorf("the double stopped: %v", err)
		}
	}()
}

func (n *network) cut() { n.server.Stop() }

func (n *network) dial() *client.Client {
	n.t.Helper()
	c, err := client.Dial(client.Config{
		Address:  "127.0.0.1:9443",
		Insecure: true,
		Dialer: func(ctx context.Context, _ string) (net.Conn, error) {
			return n.listener.DialContext(ctx)
		},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			n.t.Errorf("close the client: %v", err)
		}
	})
	return c
}
