package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/test/cluster/pki"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func authority(t *testing.T) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority("test", now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func parse(t *testing.T, pair pki.Pair) *x509.Certificate {
	t.Helper()
	if _, err := tls.X509KeyPair(pair.Certificate, pair.Key); err != nil {
		t.Fatalf("certificate and key do not belong together: %v", err)
	}
	block, _ := pem.Decode(pair.Certificate)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func TestWhatACertificateIsGoodFor(t *testing.T) {
	a := authority(t)
	client, err := a.Client("alice", "developers", "testers")
	if err != nil {
		t.Fatal(err)
	}
	server, err := a.Server("server", "127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	ours, others := x509.NewCertPool(), x509.NewCertPool()
	ours.AppendCertsFromPEM(a.Certificate)
	others.AppendCertsFromPEM(authority(t).Certificate)
	for _, test := range []struct {
		name  string
		pair  pki.Pair
		roots *x509.CertPool
		host  string
		usage x509.ExtKeyUsage
		at    time.Time
		valid bool
	}{
		{"a client certificate is one", client, ours, "", x509.ExtKeyUsageClientAuth, now, true},
		{"a client certificate serves nobody", client, ours, "", x509.ExtKeyUsageServerAuth, now, false},
		{"another authority does not know it", client, others, "", x509.ExtKeyUsageClientAuth, now, false},
		{"a clock half an hour behind takes it", client, ours, "", x509.ExtKeyUsageClientAuth, now.Add(-30 * time.Minute), true},
		{"it runs out after ten years", client, ours, "", x509.ExtKeyUsageClientAuth, now.AddDate(10, 1, 0), false},
		{"a server certificate is for its address", server, ours, "127.0.0.1", x509.ExtKeyUsageServerAuth, now, true},
		{"and for its name", server, ours, "localhost", x509.ExtKeyUsageServerAuth, now, true},
		{"but for no other", server, ours, "example.com", x509.ExtKeyUsageServerAuth, now, false},
		{"it is also a client's, as etcd wants it", server, ours, "", x509.ExtKeyUsageClientAuth, now, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(t, test.pair).Verify(x509.VerifyOptions{
				Roots: test.roots, DNSName: test.host, KeyUsages: []x509.ExtKeyUsage{test.usage}, CurrentTime: test.at,
			})
			if (err == nil) != test.valid {
				t.Errorf("verification says %v", err)
			}
		})
	}
	subject := parse(t, client).Subject
	slices.Sort(subject.Organization) // a set: the encoding orders it in its own way
	if subject.CommonName != "alice" || cmp.Diff([]string{"developers", "testers"}, subject.Organization) != "" {
		t.Errorf("the client is %v", subject)
	}
}

func TestKeysAreReadableByTheOwnerOnly(t *testing.T) {
	_, key, err := authority(t).Write(t.TempDir(), "ca")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(key)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode of a key is %v (%v)", info.Mode(), err)
	}
}
