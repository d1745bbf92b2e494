package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
)

// Certificates gives the server's certificate and the authority that signs its clients,
// as they are now.
type Certificates interface {
	Current() (*tls.Certificate, *x509.CertPool, error)
}

// Files are certificates in PEM files that are read again when they change.
type Files struct {
	// Cert and Key are the server's; ClientCA signs the clients'.
	Cert, Key, ClientCA string

	mu    sync.Mutex
	stamp [3]time.Time
	cert  *tls.Certificate
	pool  *x509.CertPool
}

// Current implements Certificates. While new files cannot be read as a whole, the last
// ones that could are used: they may be half written.
func (f *Files) Current() (*tls.Certificate, *x509.CertPool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var stamp [3]time.Time
	for i, path := range []string{f.Cert, f.Key, f.ClientCA} {
		info, err := os.Stat(path)
		if err != nil {
			return f.lastOr(fmt.Errorf("look at certificate file: %w", err))
		}
		stamp[i] = info.ModTime()
	}
	if f.cert != nil && stamp == f.stamp {
		return f.cert, f.pool, nil
	}
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return f.lastOr(fmt.Errorf("read the server certificate %s and key %s: %w", f.Cert, f.Key, err))
	}
	ca, err := os.ReadFile(filepath.Clean(f.ClientCA))
	if err != nil {
		return f.lastOr(fmt.Errorf("read the client CA: %w", err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return f.lastOr(fmt.Errorf("read the client CA %s: no certificate in it", f.ClientCA))
	}
	f.stamp, f.cert, f.pool = stamp, &cert, pool
	return f.cert, f.pool, nil
}

func (f *Files) lastOr(err error) (*tls.Certificate, *x509.CertPool, error) {
	if f.cert != nil {
		return f.cert, f.pool, nil
	}
	return nil, nil, err
}

// Held are certificates that somebody sets.
type Held struct {
	mu   sync.Mutex
	cert *tls.Certificate
	pool *x509.CertPool
}

// Set replaces the certificates for connections to come. Clients on present ones are
// judged anew if the pool is another.
func (h *Held) Set(cert *tls.Certificate, pool *x509.CertPool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pool != nil && h.pool.Equal(pool) {
		pool = h.pool
	}
	h.cert, h.pool = cert, pool
}

// Current implements Certificates.
func (h *Held) Current() (*tls.Certificate, *x509.CertPool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cert == nil {
		return nil, nil, errors.New("the server has no certificate yet")
	}
	return h.cert, h.pool, nil
}

// verifyingCreds is TLS in which the client's certificate is verified after the handshake,
// so that a refused client gets a gRPC status that says why, and not a bare TLS alert.
// Nothing is answered to a client that was not verified: see guard.
type verifyingCreds struct {
	credentials.TransportCredentials
	source Certificates
	now    func() time.Time
}

// verifiedInfo is what is known of a client after the handshake.
type verifiedInfo struct {
	credentials.TLSInfo
	names   []string
	problem error
	creds   *verifyingCreds
	conn    net.Conn
	// pool is the authority for which the certificate was verified last.
	pool atomic.Pointer[x509.CertPool]
}

// current returns the names of the certificate, or what is wrong with it now: it may have
// expired, or its authority may have been taken away, since the connection began. Then
// the connection is closed: a client whose certificate was rotated comes back with that.
func (i *verifiedInfo) current() ([]string, error) {
	if i.problem != nil {
		return nil, i.problem
	}
	leaf := i.State.PeerCertificates[0]
	_, pool, err := i.creds.source.Current()
	if err != nil {
		return nil, err
	}
	if pool == i.pool.Load() && !i.creds.now().After(leaf.NotAfter) {
		return i.names, nil
	}
	if _, err := i.creds.verify(i.State.PeerCertificates, pool); err != nil {
		_ = i.conn.Close() // it is of no use any more, and may be closed already
		return nil, err
	}
	i.pool.Store(pool)
	return i.names, nil
}

func newCreds(source Certificates, now func() time.Time) credentials.TransportCredentials {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			cert, _, err := source.Current()
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
				Certificates: []tls.Certificate{*cert}, ClientAuth: tls.RequestClientCert,
				SessionTicketsDisabled: true,
			}, nil
		},
	}
	return &verifyingCreds{TransportCredentials: credentials.NewTLS(config), source: source, now: now}
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *verifyingCreds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secure, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		return nil, nil, fmt.Errorf("TLS with %s: %w", conn.RemoteAddr(), err)
	}
	tlsInfo, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, nil, errors.Join(fmt.Errorf("TLS with %s: no TLS information", conn.RemoteAddr()), secure.Close())
	}
	out := &verifiedInfo{TLSInfo: tlsInfo, creds: c, conn: secure}
	_, pool, err := c.source.Current()
	if err != nil {
		return nil, nil, errors.Join(err, secure.Close())
	}
	out.pool.Store(pool)
	out.names, out.problem = c.verify(tlsInfo.State.PeerCertificates, pool)
	return secure, out, nil
}

// Clone implements credentials.TransportCredentials.
func (c *verifyingCreds) Clone() credentials.TransportCredentials {
	return &verifyingCreds{TransportCredentials: c.TransportCredentials.Clone(), source: c.source, now: c.now}
}

// verify returns the names of a client certificate, or what is wrong with it.
func (c *verifyingCreds) verify(chain []*x509.Certificate, pool *x509.CertPool) ([]string, error) {
	if len(chain) == 0 {
		return nil, errors.New("no client certificate: this arbiter wants one, or a token that it accepts")
	}
	leaf, now := chain[0], c.now()
	switch {
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("the client certificate %q expired at %s: renew it", namesOf(leaf), leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("the client certificate %q is valid only from %s: check the clocks", namesOf(leaf), leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return nil, fmt.Errorf("the client certificate %q is refused: %w: use one that the arbiter's client CA has signed", namesOf(leaf), err)
	}
	return namesOf(leaf), nil
}
