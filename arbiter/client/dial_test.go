package client_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"offduty.dev/arbiter/client"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

func TestDialRefusesWhatCannotWork(t *testing.T) {
	good := newAuthority(t)
	cert, key := good.issue("client")
	tests := []struct {
		name string
		cfg  client.Config
		text string
	}{
		{"an address without a port", client.Config{Address: "arbiter", Insecure: true}, "host:port"},
		{"an address without a host", client.Config{Address: ":9443", Insecure: true}, "host is missing"},
		{"a port that is none", client.Config{Address: "arbiter:http", Insecure: true}, "not a port number"},
		{"neither TLS nor insecure", client.Config{Address: "arbiter:9443"}, "TLS is needed"},
		{"both TLS and insecure", client.Config{Address: "localhost:9443", Insecure: true, TLS: &client.TLS{}}, "not both"},
		{"insecure to another machine", client.Config{Address: "arbiter:9443", Insecure: true}, "on this machine"},
		{"a CA that is none", client.Config{Address: "a:1", TLS: &client.TLS{CA: client.PEM{Bytes: []byte("x")}}}, "no PEM certificate"},
		{"a CA file that is not there", client.Config{Address: "a:1", TLS: &client.TLS{CA: client.PEM{File: "no/such/ca"}}}, "read the arbiter's CA"},
		{"a certificate without its key", client.Config{Address: "a:1", TLS: &client.TLS{Cert: client.PEM{Bytes: cert}}}, "both certificate and key"},
		{"a certificate with another key", client.Config{Address: "a:1", TLS: &client.TLS{
			Cert: client.PEM{Bytes: cert}, Key: client.PEM{Bytes: otherKey(t, good, key)},
		}}, "use the client certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := client.Dial(tt.cfg)
			if !errors.Is(err, client.ErrInvalid) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want ErrInvalid with %q", err, tt.text)
			}
		})
	}
}

func otherKey(t *testing.T, a authority, not []byte) []byte {
	t.Helper()
	_, key := a.issue("other")
	if string(key) == string(not) {
		t.Fatal("two keys are the same")
	}
	return key
}

func TestAnArbiterThatCannotBeReachedIsReportedFast(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(client.Config{Address: address, Insecure: true, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	begun := time.Now()
	_, err = c.List(t.Context(), "ns/g")
	if !errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrHandshake) {
		t.Errorf("got %v, want ErrUnavailable alone", err)
	}
	for _, part := range []string{"arbiter " + address + " cannot be reached: ", "connection refused", "check spec.arbiter.address"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it took %s to say so", took)
	}
}

func TestTLSTellsBadCertificatesFromGoodOnes(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	address := serveTLS(t, ca)
	cert, key := ca.issue("upgrader")
	strangeCert, strangeKey := stranger.issue("upgrader")
	tests := []struct {
		name string
		tls  client.TLS
		want error
	}{
		{"everything fits", client.TLS{CA: client.PEM{Bytes: ca.pem}, Cert: client.PEM{Bytes: cert}, Key: client.PEM{Bytes: key}}, nil},
		{"the arbiter's CA is another", client.TLS{CA: client.PEM{Bytes: stranger.pem}, Cert: client.PEM{Bytes: cert}, Key: client.PEM{Bytes: key}}, client.ErrHandshake},
		{"the arbiter has another name", client.TLS{ServerName: "other", CA: client.PEM{Bytes: ca.pem}, Cert: client.PEM{Bytes: cert}, Key: client.PEM{Bytes: key}}, client.ErrHandshake},
		{"we show no certificate", client.TLS{CA: client.PEM{Bytes: ca.pem}}, client.ErrUnavailable},
		{"the arbiter does not know our CA", client.TLS{CA: client.PEM{Bytes: ca.pem}, Cert: client.PEM{Bytes: strangeCert}, Key: client.PEM{Bytes: strangeKey}}, client.ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := client.Dial(client.Config{Address: address, TLS: &tt.tls})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_, err = c.Retire(t.Context(), "ns/g", "plan", 1)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if tt.want != nil && !strings.Contains(err.Error(), "spec.arbiter.tls") {
				t.Errorf("%v does not say what to do", err)
			}
		})
	}
}

func TestRotatedFilesAreUsedByTheNextConnection(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	address := serveTLS(t, ca)
	file := filepath.Join(t.TempDir(), "ca.crt")
	write := func(pem []byte) {
		if err := os.WriteFile(file, pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(stranger.pem)
	cert, key := ca.issue("upgrader")
	c, err := client.Dial(client.Config{Address: address, TLS: &client.TLS{
		CA: client.PEM{File: file}, Cert: client.PEM{Bytes: cert}, Key: client.PEM{Bytes: key},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err = c.Retire(t.Context(), "ns/g", "plan", 1); !errors.Is(err, client.ErrHandshake) {
		t.Fatalf("with the wrong CA: %v", err)
	}
	write(ca.pem)
	for err != nil && t.Context().Err() == nil { // until grpc connects again
		_, err = c.Retire(t.Context(), "ns/g", "plan", 1)
	}
	if err != nil {
		t.Errorf("with the right CA: %v", err)
	}
}

// authority is a CA.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue returns a certificate and its key, for servers on this machine and for clients.
func (a authority) issue(name string) (cert, key []byte) {
	a.t.Helper()
	private := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, private.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

// serveTLS serves a double that demands client certificates of ca, and returns its address.
func serveTLS(t *testing.T, ca authority) string {
	t.Helper()
	cert, key := ca.issue("arbiter")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	})))
	arbiterv1.RegisterArbiterServiceServer(server, &double{answer: &arbiterv1.RetireHolderResponse{}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}
