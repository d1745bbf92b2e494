package controller

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

// DefaultLife is how long a certificate is valid. It is renewed when two thirds of that
// have passed.
const DefaultLife = 90 * 24 * time.Hour

// life is how long certificates are valid; everything else follows from it.
type life time.Duration

// authority is the life of an authority: about ten years by default.
func (l life) authority() time.Duration { return 40 * time.Duration(l) }

// overlap is how long a new authority is known to everybody before it signs: a week by
// default, in which everybody reads the bundle of authorities anew.
func (l life) overlap() time.Duration { return time.Duration(l) / 12 }

// skew allows for clocks that are late.
func (l life) skew() time.Duration { return min(5*time.Minute, time.Duration(l)/10) }

// look is how long a change of the Secrets by others goes unnoticed.
func (l life) look() time.Duration {
	return max(time.Second, min(10*time.Minute, time.Duration(l)/200))
}

// keyPair is a certificate and its key, as PEM.
type keyPair struct {
	Cert, Key []byte
}

// newAuthority makes a certificate authority.
func newAuthority(name string, now time.Time, l life) (keyPair, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-l.skew()), NotAfter: now.Add(l.authority()),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return signCert(template, nil)
}

// newServer makes a server certificate for names: DNS names and IP addresses.
func newServer(ca keyPair, names []string, now time.Time, l life) (keyPair, error) {
	if len(names) == 0 {
		return keyPair{}, errors.New("make a server certificate: no name is given")
	}
	t := leafTemplate(names[0], now, l, x509.ExtKeyUsageServerAuth)
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
			continue
		}
		t.DNSNames = append(t.DNSNames, n)
	}
	return signCert(t, &ca)
}

// newClient makes a client certificate for a name.
func newClient(ca keyPair, name string, now time.Time, l life) (keyPair, error) {
	t := leafTemplate(name, now, l, x509.ExtKeyUsageClientAuth)
	t.DNSNames = []string{name}
	return signCert(t, &ca)
}

func leafTemplate(name string, now time.Time, l life, usage x509.ExtKeyUsage) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-l.skew()), NotAfter: now.Add(time.Duration(l)),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
}

// sign signs a certificate with ca, or with its own key when ca is nil.
func signCert(template *x509.Certificate, ca *keyPair) (keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, fmt.Errorf("make a key: %w", err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return keyPair{}, fmt.Errorf("make a serial number: %w", err)
	}
	parent, signer := template, key
	if ca != nil {
		if parent, signer, err = openPair(*ca); err != nil {
			return keyPair{}, fmt.Errorf("open the certificate authority: %w", err)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return keyPair{}, fmt.Errorf("sign the certificate of %s: %w", template.Subject.CommonName, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return keyPair{}, fmt.Errorf("encode the key of %s: %w", template.Subject.CommonName, err)
	}
	return keyPair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}, nil
}

func openPair(p keyPair) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	cert, err := parseCert(p.Cert)
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(p.Key)
	if block == nil {
		return nil, nil, errors.New("the key is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("parse the key: %w", err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, errors.New("the key does not belong to the certificate")
	}
	return cert, ec, nil
}

func parseCert(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("the certificate is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse the certificate: %w", err)
	}
	return cert, nil
}

// renewAt returns when a certificate of ca should be renewed; the zero time when it
// should be now: it is broken, not of ca, or not for all of names.
func renewAt(p, ca keyPair, names []string, now time.Time, l life) time.Time {
	cert, _, err := openPair(p)
	if err != nil {
		return time.Time{}
	}
	authority, err := parseCert(ca.Cert)
	if err != nil || cert.CheckSignatureFrom(authority) != nil {
		return time.Time{}
	}
	for _, n := range names {
		if !slices.Contains(cert.DNSNames, n) && cert.VerifyHostname(n) != nil {
			return time.Time{}
		}
	}
	at := cert.NotAfter.Add(-time.Duration(l) / 3)
	if !now.Before(at) {
		return time.Time{}
	}
	return at
}
