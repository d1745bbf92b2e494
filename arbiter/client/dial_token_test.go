package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"offduty.dev/arbiter/client"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// recorded is a server with TLS that notes which tokens it is shown.
type recorded struct {
	address string
	mu      sync.Mutex
	tokens  []string
}

func record(t *testing.T, ca authority) *recorded {
	t.Helper()
	cert, key := ca.issue("arbiter")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorded{}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}})),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.tokens = append(r.tokens, metadata.ValueFromIncomingContext(ctx, "authorization")...)
			return next(ctx, req)
		}))
	arbiterv1.RegisterArbiterServiceServer(server, &double{answer: &arbiterv1.RetireHolderResponse{}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	r.address = l.Addr().String()
	return r
}

func (r *recorded) got() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.tokens, " ")
}

func dial(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestATokenGoesWithEachCallAndIsReadAnew(t *testing.T) {
	ca := newAuthority(t)
	server := record(t, ca)
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := dial(t, client.Config{Address: server.address, TokenFile: file, TLS: &client.TLS{CA: client.PEM{Bytes: ca.pem}}})
	if _, err := c.Retire(t.Context(), "ns/g", "plan", 1); err == nil || !strings.Contains(err.Error(), "read the token") {
		t.Errorf("without the file: %v", err)
	}
	for _, text := range []string{"first\n", "second\n"} {
		write(text)
		if _, err := c.Retire(t.Context(), "ns/g", "plan", 1); err != nil {
			t.Fatal(err)
		}
	}
	if got := server.got(); got != "Bearer first Bearer second" {
		t.Errorf("the server was shown %q", got)
	}
	write("")
	if _, err := c.Retire(t.Context(), "ns/g", "plan", 1); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("with an empty file: %v", err)
	}
}

func TestATokenIsNotShownToWhoHasTheWrongCertificate(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	server := record(t, stranger)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := dial(t, client.Config{Address: server.address, TokenFile: file, TLS: &client.TLS{CA: client.PEM{Bytes: ca.pem}}})
	if _, err := c.Retire(t.Context(), "ns/g", "plan", 1); !errors.Is(err, client.ErrHandshake) {
		t.Errorf("got %v, want ErrHandshake", err)
	}
	if got := server.got(); got != "" {
		t.Errorf("the server was shown %q", got)
	}
	_, err := client.Dial(client.Config{Address: "localhost:1", Insecure: true, TokenFile: file})
	if !errors.Is(err, client.ErrInvalid) || !strings.Contains(err.Error(), "a token is sent with TLS only") {
		t.Errorf("without TLS: %v", err)
	}
}

func TestWhatATLSLoadsIsUsedByTheNextConnection(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	address := serveTLS(t, ca)
	cert, key := ca.issue("upgrader")
	roots := make(chan []byte, 1)
	roots <- stranger.pem
	load := func(context.Context) ([]byte, []byte, []byte, error) {
		root := <-roots
		roots <- root
		return root, cert, key, nil
	}
	c := dial(t, client.Config{Address: address, TLS: &client.TLS{Load: load}})
	_, err := c.Retire(t.Context(), "ns/g", "plan", 1)
	if !errors.Is(err, client.ErrHandshake) {
		t.Fatalf("with the wrong CA: %v", err)
	}
	<-roots
	roots <- ca.pem
	for err != nil && t.Context().Err() == nil { // until grpc connects again
		_, err = c.Retire(t.Context(), "ns/g", "plan", 1)
	}
	if err != nil {
		t.Errorf("with the right CA: %v", err)
	}
	gone := client.TLS{Load: func(context.Context) ([]byte, []byte, []byte, error) { return nil, nil, nil, errors.New("it is gone") }}
	if err := gone.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "it is gone") {
		t.Errorf("a secret that cannot be read: %v", err)
	}
	if err := (client.TLS{Load: load}).Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNoConnectionIsOpenedToAnAddressThatIsNotPermitted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	var asked []string
	var mu sync.Mutex
	permit := func(to netip.AddrPort) error {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, to.Addr().String())
		return errors.New("it is a loopback address")
	}
	// A name is permitted or not by where it leads.
	_, port, _ := net.SplitHostPort(l.Addr().String())
	c := dial(t, client.Config{Address: "localhost:" + port, Permit: permit, TLS: &client.TLS{CA: client.PEM{Bytes: newAuthority(t).pem}}})
	_, err = c.Retire(t.Context(), "ns/g", "plan", 1)
	if !errors.Is(err, client.ErrInvalid) || !strings.Contains(err.Error(), "no connection is opened to it: it is a loopback address") {
		t.Errorf("got %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) == 0 {
		t.Error("nobody was asked")
	}
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if conn, err := l.Accept(); err == nil {
		t.Errorf("there was a connection from %s", conn.RemoteAddr())
	}
}

func TestAnAddressThatIsPermittedAgainIsReached(t *testing.T) {
	ca := newAuthority(t)
	address := serveTLS(t, ca)
	cert, key := ca.issue("upgrader")
	closed := make(chan error, 1)
	closed <- errors.New("not yet")
	permit := func(netip.AddrPort) error {
		select {
		case err := <-closed: // the first time only
			return err
		default:
			return nil
		}
	}
	c := dial(t, client.Config{Address: address, Permit: permit, TLS: &client.TLS{
		CA: client.PEM{Bytes: ca.pem}, Cert: client.PEM{Bytes: cert}, Key: client.PEM{Bytes: key},
	}})
	_, err := c.Retire(t.Context(), "ns/g", "plan", 1)
	for err != nil && t.Context().Err() == nil {
		_, err = c.Retire(t.Context(), "ns/g", "plan", 1)
	}
	if err != nil {
		t.Error(err)
	}
}
