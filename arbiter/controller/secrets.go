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

// lookAgain bounds how long a change of the Secrets by others goes unnoticed.
const lookAgain = time.Hour

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
	Held    *server.Held
	Now     func() time.Time
	Log     logr.Logger
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
	now := s.Now()
	ca, err := s.keep(ctx, AuthoritySecret, keyPair{}, func(p keyPair) (keyPair, bool, error) {
		if authorityUsable(p, now) {
			return p, false, nil
		}
		p, err := newAuthority("offduty-arbiter", now)
		return p, true, err
	})
	if err != nil {
		return 0, err
	}
	next := now.Add(lookAgain)
	leaf := func(name string, names []string, fresh func() (keyPair, error)) (keyPair, error) {
		p, err := s.keep(ctx, name, ca, func(p keyPair) (keyPair, bool, error) {
			if at := renewAt(p, ca, names, now); !at.IsZero() {
				if at.Before(next) {
					next = at
				}
				return p, false, nil
			}
			p, err := fresh()
			return p, true, err
		})
		return p, err
	}
	own, err := leaf(ServerSecret, s.ServiceNames, func() (keyPair, error) { return newServer(ca, s.ServiceNames, now) })
	if err != nil {
		return 0, err
	}
	var errs []error
	for secret, name := range s.Clients {
		_, err := leaf(secret, []string{name}, func() (keyPair, error) { return newClient(ca, name, now) })
		errs = append(errs, err)
	}
	if err := errors.Join(append(errs, s.hold(own, ca))...); err != nil {
		return 0, err
	}
	return max(next.Sub(now), time.Second), nil
}

// keep reads a Secret, lets renew look at it, and writes it if that has changed it.
func (s *Secrets) keep(ctx context.Context, name string, ca keyPair, renew func(keyPair) (keyPair, bool, error)) (keyPair, error) {
	var obj corev1.Secret
	err := s.Reader.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: name}, &obj)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return keyPair{}, fmt.Errorf("read secret %s/%s: %w", s.Namespace, name, err)
	}
	pair, changed, err := renew(keyPair{Cert: obj.Data[corev1.TLSCertKey], Key: obj.Data[corev1.TLSPrivateKeyKey]})
	if err != nil {
		return keyPair{}, fmt.Errorf("make the certificate for secret %s/%s: %w", s.Namespace, name, err)
	}
	authority := ca.Cert
	if authority == nil {
		authority = pair.Cert
	}
	if !changed && bytes.Equal(obj.Data["ca.crt"], authority) {
		return pair, nil
	}
	obj.Data = map[string][]byte{corev1.TLSCertKey: pair.Cert, corev1.TLSPrivateKeyKey: pair.Key, "ca.crt": authority}
	if missing {
		obj.ObjectMeta = metav1.ObjectMeta{Namespace: s.Namespace, Name: name, Labels: map[string]string{"app.kubernetes.io/part-of": "offduty"}}
		obj.Type = corev1.SecretTypeTLS
		err = s.Writer.Create(ctx, &obj)
	} else {
		err = s.Writer.Update(ctx, &obj)
	}
	if err != nil {
		return keyPair{}, fmt.Errorf("write secret %s/%s: %w", s.Namespace, name, err)
	}
	s.Log.Info("wrote a certificate", "secret", s.Namespace+"/"+name)
	return pair, nil
}

func (s *Secrets) hold(own, ca keyPair) error {
	cert, err := tls.X509KeyPair(own.Cert, own.Key)
	if err != nil {
		return fmt.Errorf("use the server certificate of secret %s/%s: %w", s.Namespace, ServerSecret, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca.Cert) {
		return fmt.Errorf("use the authority of secret %s/%s: it has no certificate", s.Namespace, AuthoritySecret)
	}
	s.Held.Set(&cert, pool)
	return nil
}
