package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"offduty.dev/arbiter/server"
	"offduty.dev/arbiter/store"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// book is a server.Tokens that knows some tokens until they are revoked.
type book struct {
	revoked, down atomic.Bool
}

func (b *book) Review(_ context.Context, token string) (server.Account, error) {
	if b.down.Load() {
		return server.Account{}, errors.New("the API server is down")
	}
	known := map[string]server.Account{
		"upgrader": {Name: "system:serviceaccount:sys:up", Pod: "up-0", PodUID: "x"},
		"pod":      {Name: "system:serviceaccount:ns:app", Pod: "web-1", PodUID: "u1"},
		"loose":    {Name: "system:serviceaccount:ns:app"},
		"nobody":   {Name: "system:serviceaccount:other:app"},
	}
	a, ok := known[token]
	if !ok || b.revoked.Load() {
		return server.Account{}, &server.TokenRefused{Why: "it is not known"}
	}
	return a, nil
}

// serveTokens runs a server with TLS that accepts the tokens of b.
func serveTokens(t *testing.T, a *arbiter, ca *authority, b server.Tokens, dir string, now func() time.Time) string {
	t.Helper()
	ca.write(t, dir, ca.issue(t, "arbiter", -time.Hour, time.Hour))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := server.New(server.Config{
		Groups: registry{a.group}, Now: now, Log: logr.Discard(), Tokens: b, AdmitAgain: 5 * time.Millisecond,
		Certificates: &server.Files{
			Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), ClientCA: filepath.Join(dir, "ca.crt"),
		},
		Roles: server.Roles{
			Upgraders:  []string{"up", "system:serviceaccount:sys:up"},
			Attendants: []string{"att", "system:serviceaccount:ns:*", "no*"},
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	return listener.Addr().String()
}

// connect returns a connection with the certificates given.
func connect(t *testing.T, address string, ca *authority, certs ...tls.Certificate) *grpc.ClientConn {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: pool, Certificates: certs, ServerName: "arbiter", MinVersion: tls.VersionTLS13,
	})))
	must(t, err)
	t.Cleanup(func() { must(t, conn.Close()) })
	return conn
}

// with sends a token along.
func with(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// attend sends one request of an attending replica, and returns with what the answer comes.
func attend(replica, instance string) func(context.Context, *grpc.ClientConn) error {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := arbiterv1.NewAttendanceServiceClient(conn).Attend(ctx)
		if err != nil {
			return err
		}
		err = s.Send(&arbiterv1.AttendRequest{Group: group, Replica: replica, Instance: instance, Duty: arbiterv1.Duty_DUTY_IDLE, Sequence: 1})
		// A stream that the server has ended already says io.EOF here, and why at the next Recv.
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, err = s.Recv()
		return err
	}
}

func TestWhoMayCallWithAToken(t *testing.T) {
	a, _ := start(t, store.NewMemory())
	ca, b := newAuthority(t), &book{}
	address := serveTokens(t, a, ca, b, t.TempDir(), time.Now)
	list := func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := arbiterv1.NewArbiterServiceClient(conn).ListReplicas(ctx, &arbiterv1.ListReplicasRequest{Group: group})
		return err
	}
	listWithMuch := func(ctx context.Context, conn *grpc.ClientConn) error {
		return list(metadata.AppendToOutgoingContext(ctx, "much", strings.Repeat("x", 64<<10)), conn)
	}
	up := []tls.Certificate{ca.issue(t, "up", -time.Hour, time.Hour)}
	expired := []tls.Certificate{ca.issue(t, "up", -time.Hour, -time.Minute)}
	tests := map[string]struct {
		certs []tls.Certificate
		token string
		down  bool
		call  func(context.Context, *grpc.ClientConn) error
		want  codes.Code
		says  string
	}{
		"an account with the role may list":           {token: "upgrader", call: list},
		"an account without the role may not":         {token: "nobody", call: list, want: codes.PermissionDenied, says: "system:serviceaccount:other:app"},
		"a wildcard is for accounts alone":            {token: "nobody", call: attend("ns/web-1", "u1"), want: codes.PermissionDenied, says: "needs the role attendant"},
		"a token that is not known is refused":        {token: "forged", call: list, want: codes.Unauthenticated, says: "the token is refused: it is not known"},
		"neither certificate nor token":               {call: list, want: codes.Unauthenticated, says: "no client certificate"},
		"a certificate suffices beside a bad token":   {certs: up, token: "forged", call: list},
		"a certificate needs no API server":           {certs: up, token: "upgrader", down: true, call: list},
		"a token does, and may come again":            {token: "upgrader", down: true, call: list, want: codes.Unavailable, says: "the API server is down"},
		"a token helps where a certificate expired":   {certs: expired, token: "upgrader", call: list},
		"much beside a token is not read":             {token: "upgrader", call: listWithMuch, want: codes.Internal, says: "header list size"},
		"a pod attends as itself":                     {token: "pod", call: attend("ns/web-1", "u1")},
		"and as no other pod":                         {token: "pod", call: attend("ns/web-2", "u2"), want: codes.PermissionDenied, says: "attends as itself only"},
		"and not as its predecessor":                  {token: "pod", call: attend("ns/web-1", "u0"), want: codes.PermissionDenied, says: "attends as itself only"},
		"a token without a pod attends as nobody":     {token: "loose", call: attend("ns/web-1", "u1"), want: codes.PermissionDenied, says: "attends as itself only"},
		"an attending pod has no other role":          {token: "pod", call: list, want: codes.PermissionDenied, says: "upgrader or admin"},
		"a certificate is no service account":         {certs: []tls.Certificate{ca.issue(t, "system:serviceaccount:sys:up", -time.Hour, time.Hour)}, call: list, want: codes.PermissionDenied, says: "upgrader or admin"},
		"nor does it match the pattern of accounts":   {certs: []tls.Certificate{ca.issue(t, "system:serviceaccount:ns:*", -time.Hour, time.Hour)}, call: attend("ns/web-1", "u1"), want: codes.PermissionDenied, says: "needs the role attendant"},
		"the name of a certificate attends as anyone": {certs: []tls.Certificate{ca.issue(t, "att", -time.Hour, time.Hour)}, call: attend("ns/web-2", "u2")},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b.down.Store(tt.down)
			ctx := t.Context()
			if tt.token != "" {
				ctx = with(ctx, tt.token)
			}
			err := tt.call(ctx, connect(t, address, ca, tt.certs...))
			if status.Code(err) != tt.want || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %s with %q", err, tt.want, tt.says)
			}
			if err != nil && tt.token == "forged" && strings.Contains(err.Error(), "forged") {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}

func watch(t *testing.T, ctx context.Context, conn *grpc.ClientConn) grpc.ServerStreamingClient[arbiterv1.WatchReplicasResponse] {
	t.Helper()
	s, err := arbiterv1.NewArbiterServiceClient(conn).WatchReplicas(ctx, &arbiterv1.WatchReplicasRequest{Group: group})
	must(t, err)
	_, err = s.Recv()
	must(t, err)
	return s
}

// ended reads a stream to its end.
func ended(s grpc.ServerStreamingClient[arbiterv1.WatchReplicasResponse]) error {
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
}

func TestAStreamEndsWhenItsTokenIsRevoked(t *testing.T) {
	a, _ := start(t, store.NewMemory())
	ca, b := newAuthority(t), &book{}
	address := serveTokens(t, a, ca, b, t.TempDir(), time.Now)
	s := watch(t, with(t.Context(), "upgrader"), connect(t, address, ca))
	b.revoked.Store(true)
	if err := ended(s); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "call again with the present one") {
		t.Errorf("it ended with %v", err)
	}
	if _, err := arbiterv1.NewArbiterServiceClient(connect(t, address, ca)).ListReplicas(with(t.Context(), "upgrader"), &arbiterv1.ListReplicasRequest{Group: group}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a call with the revoked token: %v", err)
	}
}

// A connection outlives the certificate it began with. Then it is closed, so that the
// client comes back with what it has by now.
func TestAConnectionEndsWithTheTrustInItsCertificate(t *testing.T) {
	var late atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	tests := map[string]func(t *testing.T, dir string){
		"its certificate expires": func(*testing.T, string) { late.Store(int64(30 * time.Minute)) },
		"its authority is taken away": func(t *testing.T, dir string) {
			t.Helper()
			other := newAuthority(t)
			other.write(t, dir, other.issue(t, "arbiter", -time.Hour, time.Hour))
		},
	}
	for name, happens := range tests {
		t.Run(name, func(t *testing.T) {
			late.Store(0)
			a, _ := start(t, store.NewMemory())
			ca, dir := newAuthority(t), t.TempDir()
			address := serveTokens(t, a, ca, nil, dir, now)
			conn := connect(t, address, ca, ca.issue(t, "up", -time.Hour, 10*time.Minute))
			s := watch(t, t.Context(), conn)
			happens(t, dir)
			if err := ended(s); status.Code(err) != codes.Unavailable {
				t.Errorf("the stream ended with %v", err)
			}
			// It connects again, and is refused with a reason.
			_, err := arbiterv1.NewArbiterServiceClient(conn).ListReplicas(t.Context(), &arbiterv1.ListReplicasRequest{Group: group}, grpc.WaitForReady(name == "its certificate expires"))
			if err == nil {
				t.Error("it may still call")
			}
		})
	}
}
