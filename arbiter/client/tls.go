package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
)

// PEM is where a certificate or key comes from: its bytes, or a file that is read anew
// for each connection, so that a rotated one is used without a restart.
type PEM struct {
	Bytes []byte
	File  string
}

func (p PEM) empty() bool { return len(p.Bytes) == 0 && p.File == "" }

func (p PEM) read() ([]byte, error) {
	if len(p.Bytes) > 0 {
		return p.Bytes, nil
	}
	return os.ReadFile(p.File)
}

// TLS says how the arbiter is recognised and how we identify ourselves.
type TLS struct {
	// Load, if not nil, is called for each connection and gives CA, Cert and Key; what is
	// set below is not used then. So a rotated secret is used without a restart.
	Load func(context.Context) (ca, cert, key []byte, err error)
	// CA that signed the arbiter's certificate; empty: those that the system trusts.
	CA PEM
	// Cert and Key are ours; both empty: we show none.
	Cert, Key PEM
	// ServerName in the arbiter's certificate; empty: the host of the address.
	ServerName string
}

// Check reads everything, and says what of it cannot be used.
func (t TLS) Check(ctx context.Context) error {
	_, err := t.config(ctx)
	return err
}

// config reads what there is to read, now.
func (t TLS) config(ctx context.Context) (*tls.Config, error) {
	if t.Load != nil {
		ca, cert, key, err := t.Load(ctx)
		if err != nil {
			return nil, err
		}
		t.CA, t.Cert, t.Key = PEM{Bytes: ca}, PEM{Bytes: cert}, PEM{Bytes: key}
	}
	return t.settings()
}

func (t TLS) settings() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if !t.CA.empty() {
		pem, err := t.CA.read()
		if err != nil {
			return nil, fmt.Errorf("read the arbiter's CA: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("the arbiter's CA holds no PEM certificate")
		}
	}
	if t.Cert.empty() != t.Key.empty() {
		return nil, errors.New("a client certificate needs both certificate and key")
	}
	if t.Cert.empty() {
		return cfg, nil
	}
	cert, err := t.Cert.read()
	if err != nil {
		return nil, fmt.Errorf("read the client certificate: %w", err)
	}
	key, err := t.Key.read()
	if err != nil {
		return nil, fmt.Errorf("read the client key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("use the client certificate: %w", err)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

// reloading is TLS whose files are read at each handshake.
type reloading struct {
	credentials.TransportCredentials // of the first reading: for Info

	tls TLS
}

func newReloading(t TLS) (credentials.TransportCredentials, error) {
	cfg, err := t.settings()
	if err != nil {
		return nil, err
	}
	return &reloading{TransportCredentials: credentials.NewTLS(cfg), tls: t}, nil
}

// ClientHandshake reads the files and shakes hands.
func (r *reloading) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg, err := r.tls.config(ctx)
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, conn)
}

// Clone returns a copy.
func (r *reloading) Clone() credentials.TransportCredentials {
	return &reloading{TransportCredentials: r.TransportCredentials.Clone(), tls: r.tls}
}
