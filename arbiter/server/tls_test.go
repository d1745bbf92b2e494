package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"offduty.dev/arbiter/server"
	"offduty.dev/arbiter/store"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{cert: cert, key: key}
}

// issue makes a certificate for a name, valid from now+from to now+until.
func (a *authority) issue(t *testing.T, name string, from, until time.Duration) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// write puts a certificate, its key and the authority into files, as the server reads them.
func (a *authority) write(t *testing.T, dir string, c tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	must(t, err)
	for name, block := range map[string]*pem.Block{
		"tls.crt": {Type: "CERTIFICATE", Bytes: c.Certificate[0]},
		"tls.key": {Type: "PRIVATE KEY", Bytes: key},
		"ca.crt":  {Type: "CERTIFICATE", Bytes: a.cert.Raw},
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
}

// call lists the replicas as a client with the certificates given.
func call(t *testing.T, address string, roots *authority, certs ...tls.Certificate) error {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(roots.cert)
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: pool, Certificates: certs, ServerName: "arbiter", MinVersion: tls.VersionTLS13,
	})))
	must(t, err)
	defer func() { must(t, conn.Close()) }()
	_, err = arbiterv1.NewArbiterServiceClient(conn).ListReplicas(t.Context(), &arbiterv1.ListReplicasRequest{Group: group})
	return err
}

// serveTLS runs a server with the certificates in dir over the group of a.
func serveTLS(t *testing.T, a *arbiter, dir string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := server.New(server.Config{
		Groups: registry{a.group}, Now: time.Now, Log: logr.Discard(),
		Certificates: &server.Files{
			Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), ClientCA: filepath.Join(dir, "ca.crt"),
		},
		Roles: server.Roles{Upgraders: []string{"up"}, Attendants: []string{"att"}, Admins: []string{"adm"}},
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

func TestWhoMayCall(t *testing.T) {
	a, _ := start(t, store.NewMemory())
	ca, stranger, dir := newAuthority(t), newAuthority(t), t.TempDir()
	ca.write(t, dir, ca.issue(t, "arbiter", -time.Hour, time.Hour))
	address := serveTLS(t, a, dir)
	tests := map[string]struct {
		certs []tls.Certificate
		want  codes.Code
		says  string
	}{
		"an upgrader may list":                     {[]tls.Certificate{ca.issue(t, "up", -time.Hour, time.Hour)}, codes.OK, ""},
		"an administrator may list":                {[]tls.Certificate{ca.issue(t, "adm", -time.Hour, time.Hour)}, codes.OK, ""},
		"an attendant may not":                     {[]tls.Certificate{ca.issue(t, "att", -time.Hour, time.Hour)}, codes.PermissionDenied, "att"},
		"a name without a role may not":            {[]tls.Certificate{ca.issue(t, "x", -time.Hour, time.Hour)}, codes.PermissionDenied, "--upgrader-names"},
		"nobody may without a certificate":         {nil, codes.Unauthenticated, "no client certificate"},
		"an expired certificate is named as such":  {[]tls.Certificate{ca.issue(t, "up", -time.Hour, -time.Minute)}, codes.Unauthenticated, "expired at"},
		"a certificate of the future is named too": {[]tls.Certificate{ca.issue(t, "up", time.Minute, time.Hour)}, codes.Unauthenticated, "valid only from"},
		"a certificate of another authority is refused": {
			[]tls.Certificate{stranger.issue(t, "up", -time.Hour, time.Hour)}, codes.Unauthenticated, "client CA",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := call(t, address, ca, tt.certs...)
			if status.Code(err) != tt.want || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %s with %q", err, tt.want, tt.says)
			}
		})
	}
}

func TestCertificatesAreReadAgainWhenTheyChange(t *testing.T) {
	a, _ := start(t, store.NewMemory())
	dir, before, after := t.TempDir(), newAuthority(t), newAuthority(t)
	before.write(t, dir, before.issue(t, "arbiter", -time.Hour, time.Hour))
	address := serveTLS(t, a, dir)
	must(t, call(t, address, before, before.issue(t, "up", -time.Hour, time.Hour)))

	must(t, os.WriteFile(filepath.Join(dir, "tls.crt"), []byte("half written"), 0o600))
	must(t, call(t, address, before, before.issue(t, "up", -time.Hour, time.Hour)))

	after.write(t, dir, after.issue(t, "arbiter", -time.Hour, time.Hour))
	must(t, call(t, address, after, after.issue(t, "up", -time.Hour, time.Hour)))
	if err := call(t, address, after, before.issue(t, "up", -time.Hour, time.Hour)); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a client of the old authority: %v", err)
	}
}
