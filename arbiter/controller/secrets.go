package controller

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/arbiter/server"
)

// Names of the Secrets that an arbiter keeps which signs its own certificates.
const (
	AuthoritySecret = "offduty-arbiter-ca"  //nolint:gosec // a name, not a secret
	ServerSecret    = "offduty-arbiter-tls" //nolint:gosec // a name, not a secret
)

// RotateAnnotation on the AuthoritySecret asks for a new authority, whatever its value. It
// is taken off when that has been made.
const RotateAnnotation = "offduty.dev/rotate"

// Keys in the AuthoritySecret, beside those of its type: the authority that will sign, and
// the one that has signed before.
const (
	nextCertKey     = "next.crt"
	nextKeyKey      = "next.key"
	previousCertKey = "previous.crt"
	bundleKey       = "ca.crt"
)

// Secrets keeps the certificates of the arbiter and its clients in Secrets of one
// namespace, and renews them.
type Secrets struct {
	Reader    client.Reader
	Writer    client.Client
	Namespace string
	// ServiceNames are the server's DNS names and IP addresses.
	ServiceNames []string
	// Clients are Secret name to certificate name.
	Clients map[string]string
	// Life of a certificate; 0: DefaultLife.
	Life time.Duration
	Held *server.Held
	Now  func() time.Time
	Log  logr.Logger
}

// NeedLeaderElection makes the leader alone keep the Secrets.
func (s *Secrets) NeedLeaderElection() bool { return true }

// Start keeps the Secrets until ctx is done.
func (s *Secrets) Start(ctx context.Context) error {
	for {
		wait, err := s.Keep(ctx)
		if err != nil {
			s.Log.Error(err, "cannot keep the certificates; trying again")
			wait = lastRetry
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// Keep makes and renews what has to be, gives the server's to Held, and says when to look
// again.
func (s *Secrets) Keep(ctx context.Context) (time.Duration, error) {
	now, l := s.Now(), life(s.Life)
	if l == 0 {
		l = life(DefaultLife)
	}
	ca, err := s.authorities(ctx, now, l)
	if err != nil {
		return 0, err
	}
	next := now.Add(l.look())
	leaf := func(name string, names []string, fresh func() (keyPair, error)) (keyPair, error) {
		return s.leaf(ctx, name, ca, func(p keyPair) (keyPair, error) {
			if at := renewAt(p, ca.signing, names, now, l); !at.IsZero() {
				if at.Before(next) {
					next = at
				}
				return p, nil
			}
			return fresh()
		})
	}
	own, err := leaf(ServerSecret, s.ServiceNames, func() (keyPair, error) { return newServer(ca.signing, s.ServiceNames, now, l) })
	if err != nil {
		return 0, err
	}
	var errs []error
	for secret, name := range s.Clients {
		_, err := leaf(secret, []string{name}, func() (keyPair, error) { return newClient(ca.signing, name, now, l) })
		errs = append(errs, err)
	}
	if err := errors.Join(append(errs, s.hold(own, ca.bundle()))...); err != nil {
		return 0, err
	}
	return max(next.Sub(now), time.Second), nil
}

// authorities reads the AuthoritySecret and does what is due.
func (s *Secrets) authorities(ctx context.Context, now time.Time, l life) (authorities, error) {
	obj, err := s.read(ctx, AuthoritySecret)
	if err != nil {
		return authorities{}, err
	}
	_, asked := obj.Annotations[RotateAnnotation]
	ca, changed, err := authorities{
		signing:  pairIn(obj),
		next:     keyPair{Cert: obj.Data[nextCertKey], Key: obj.Data[nextKeyKey]},
		previous: obj.Data[previousCertKey],
	}.step(now, l, asked)
	if err != nil {
		return ca, fmt.Errorf("make the authority for secret %s/%s: %w", s.Namespace, AuthoritySecret, err)
	}
	if !changed && !asked && bytes.Equal(obj.Data[bundleKey], ca.bundle()) {
		return ca, nil
	}
	delete(obj.Annotations, RotateAnnotation)
	data := map[string][]byte{corev1.TLSCertKey: ca.signing.Cert, corev1.TLSPrivateKeyKey: ca.signing.Key, bundleKey: ca.bundle()}
	for key, value := range map[string][]byte{nextCertKey: ca.next.Cert, nextKeyKey: ca.next.Key, previousCertKey: ca.previous} {
		if value != nil {
			data[key] = value
		}
	}
	return ca, s.write(ctx, obj, data)
}

// leaf reads a Secret, lets renew look at its certificate, and writes what is new.
func (s *Secrets) leaf(ctx context.Context, name string, ca authorities, renew func(keyPair) (keyPair, error)) (keyPair, error) {
	obj, err := s.read(ctx, name)
	if err != nil {
		return keyPair{}, err
	}
	was := pairIn(obj)
	pair, err := renew(was)
	if err != nil {
		return keyPair{}, fmt.Errorf("make the certificate for secret %s/%s: %w", s.Namespace, name, err)
	}
	if bytes.Equal(was.Cert, pair.Cert) && bytes.Equal(obj.Data[bundleKey], ca.bundle()) {
		return pair, nil
	}
	return pair, s.write(ctx, obj, map[string][]byte{corev1.TLSCertKey: pair.Cert, corev1.TLSPrivateKeyKey: pair.Key, bundleKey: ca.bundle()})
}

func pairIn(obj *corev1.Secret) keyPair {
	return keyPair{Cert: obj.Data[corev1.TLSCertKey], Key: obj.Data[corev1.TLSPrivateKeyKey]}
}

// read returns a Secret, or one that is yet to be created.
func (s *Secrets) read(ctx context.Context, name string) (*corev1.Secret, error) {
	obj := &corev1.Secret{}
	err := s.Reader.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: name}, obj)
	if apierrors.IsNotFound(err) {
		obj.ObjectMeta = metav1.ObjectMeta{Namespace: s.Namespace, Name: name, Labels: map[string]string{"app.kubernetes.io/part-of": "offduty"}}
		obj.Type = corev1.SecretTypeTLS
		return obj, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read secret %s/%s: %w", s.Namespace, name, err)
	}
	return obj, nil
}

func (s *Secrets) write(ctx context.Context, obj *corev1.Secret, data map[string][]byte) error {
	obj.Data = data
	var err error
	if obj.ResourceVersion == "" {
		err = s.Writer.Create(ctx, obj)
	} else {
		err = s.Writer.Update(ctx, obj)
	}
	if err != nil {
		return fmt.Errorf("write secret %s/%s: %w", s.Namespace, obj.Name, err)
	}
	s.Log.Info("wrote a certificate", "secret", s.Namespace+"/"+obj.Name)
	return nil
}

func (s *Secrets) hold(own keyPair, bundle []byte) error {
	cert, err := tls.X509KeyPair(own.Cert, own.Key)
	if err != nil {
		return fmt.Errorf("use the server certificate of secret %s/%s: %w", s.Namespace, ServerSecret, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return fmt.Errorf("use the authority of secret %s/%s: it has no certificate", s.Namespace, AuthoritySecret)
	}
	s.Held.Set(&cert, pool)
	return nil
}
