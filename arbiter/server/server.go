package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

const (
	// maxMessage bounds a request: 1000 candidates with the longest names fit in.
	maxMessage = 2 << 20
	// maxHeader bounds what anybody can have us keep before we know who it is: the longest
	// token fits in.
	maxHeader = 32 << 10
	// stopWithin is how long calls under way may take when the server stops.
	stopWithin = 2 * time.Second
)

// Config is what the server needs.
type Config struct {
	Groups Groups
	// Certificates for mTLS; nil is plaintext, which Serve refuses on anything but a
	// loopback address.
	Certificates Certificates
	Roles        Roles
	// Tokens accepts service-account tokens beside certificates; nil: certificates only.
	Tokens Tokens
	// AdmitAgain is how often it is asked whether the caller of a stream may still call;
	// 0: every minute.
	AdmitAgain time.Duration
	// Version of the implementation, for people.
	Version string
	Now     func() time.Time
	Log     logr.Logger
	// Options come before our own: what times and traces calls sees refused ones, too.
	Options []grpc.ServerOption
}

// Server serves both services, health and reflection.
type Server struct {
	cfg    Config
	grpc   *grpc.Server
	health *health.Server
}

// New returns a server that is ready to Serve.
func New(cfg Config) *Server {
	if cfg.AdmitAgain == 0 {
		cfg.AdmitAgain = admitAgain
	}
	g := guard{roles: cfg.Roles, plaintext: cfg.Certificates == nil, tokens: cfg.Tokens, again: cfg.AdmitAgain}
	opts := append(slices.Clone(cfg.Options),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxHeaderListSize(maxHeader),
		grpc.ChainUnaryInterceptor(logUnary(cfg.Log), g.unary),
		grpc.ChainStreamInterceptor(logStream(cfg.Log), g.stream),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	if cfg.Certificates != nil {
		opts = append(opts, grpc.Creds(newCreds(cfg.Certificates, cfg.Now)))
	}
	s := &Server{cfg: cfg, grpc: grpc.NewServer(opts...), health: health.NewServer()}
	arbiterv1.RegisterArbiterServiceServer(s.grpc, &arbiterService{groups: cfg.Groups, version: cfg.Version})
	arbiterv1.RegisterAttendanceServiceServer(s.grpc, &attendanceService{groups: cfg.Groups})
	healthv1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, healthv1.HealthCheckResponse_SERVING)
	}
	return s
}

// Serve answers on l until ctx is done, and closes it. Without certificates l must be a
// loopback address.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.cfg.Certificates == nil && !loopback(l.Addr()) {
		return errors.Join(fmt.Errorf("serve on %s without TLS: plaintext is allowed on a loopback address only", l.Addr()), l.Close())
	}
	failed := make(chan error, 1)
	go func() { failed <- s.grpc.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.health.Shutdown()
	s.stop()
	if err := <-failed; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
	return nil
}

// stop lets calls under way end, and after a while ends them.
func (s *Server) stop() {
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	t := time.NewTimer(stopWithin)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		s.grpc.Stop()
		<-done
	}
}

// loopback says whether only this machine can reach an address. An address that is not
// of the network, as in tests, is.
func loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}

// logUnary logs failures of the arbiter; refusals and bad requests are the client's affair.
func logUnary(log logr.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		fields := subject(req)
		annotate(ctx, fields)
		resp, err := next(ctx, req)
		logFailure(log.WithValues(fields...), info.FullMethod, err)
		return resp, err
	}
}

func logStream(log logr.Logger) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		err := next(srv, ss)
		if status.Code(err) == codes.Unavailable {
			// The group ends, with its Roster or this process: every conversation does then.
			log.Info("conversation ended", "method", info.FullMethod, "why", err.Error())
			return err
		}
		logFailure(log, info.FullMethod, err)
		return err
	}
}

func logFailure(log logr.Logger, method string, err error) {
	code := status.Code(err)
	refused := []codes.Code{codes.Unauthenticated, codes.PermissionDenied}
	failed := []codes.Code{codes.Unavailable, codes.Unknown, codes.Internal}
	switch {
	case slices.Contains(refused, code):
		log.Info("call refused", "method", method, "why", err.Error())
	case slices.Contains(failed, code):
		log.Error(err, "call failed", "method", method)
	default:
		log.V(1).Info("call", "method", method, "code", code.String())
	}
}
