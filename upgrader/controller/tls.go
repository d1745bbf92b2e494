package controller

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	arbiter "offduty.dev/arbiter/client"
)

// lookForSecret is how soon a Secret is looked for again that was not there or no good: no
// event tells of it.
const lookForSecret = 15 * time.Second

// secrets keeps the plans' Secrets that could be used. They are not watched: the upgrader
// may get one by name, and may not list them. Instead each connection reads its Secret
// when it is opened, so that it always uses the present one, and an idle plan asks nothing.
type secrets struct {
	mu    sync.Mutex
	plans map[types.NamespacedName]*planSecret
}

// planSecret is the Secret of one plan.
type planSecret struct {
	reader client.Reader
	key    client.ObjectKey
	spec   v1alpha1.ArbiterTLS
	// leaving: the plan is being deleted, perhaps together with its Secret.
	leaving atomic.Bool
	// last is what was read last.
	last atomic.Pointer[corev1.Secret]
}

// tls returns the TLS settings of a plan that brings its own, and a digest that tells them
// from others. Errors say what is wrong with the Secret, as long as it never was right.
func (s *secrets) tls(ctx context.Context, r client.Reader, up *v1alpha1.UpgradePlan) (*arbiter.TLS, string, error) {
	plan, spec := client.ObjectKeyFromObject(up), *up.Spec.Arbiter.TLS
	s.mu.Lock()
	p := s.plans[plan]
	s.mu.Unlock()
	usable := p != nil && p.spec == spec
	if !usable {
		p = &planSecret{reader: r, key: client.ObjectKey{Namespace: up.Namespace, Name: spec.SecretName}, spec: spec}
	}
	p.leaving.Store(up.DeletionTimestamp != nil)
	t, digest := &arbiter.TLS{ServerName: spec.ServerName, Load: p.load}, fmt.Sprintf("%s %q", p.key, spec.ServerName)
	if usable {
		return t, digest, nil
	}
	if err := t.Check(ctx); err != nil {
		return nil, "", fmt.Errorf("spec.arbiter.tls: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plans == nil {
		s.plans = map[types.NamespacedName]*planSecret{}
	}
	s.plans[plan] = p
	return t, digest, nil
}

func (p *planSecret) load(ctx context.Context) (ca, cert, key []byte, err error) {
	secret := &corev1.Secret{}
	if err := p.reader.Get(ctx, p.key, secret); err != nil {
		secret = p.last.Load()
		// Deleted together with the plan, which still has leases to give back.
		if !apierrors.IsNotFound(err) || !p.leaving.Load() || secret == nil {
			return nil, nil, nil, fmt.Errorf("read secret %s: %w", p.key.Name, err)
		}
	}
	ca = secret.Data["ca.crt"]
	if len(ca) == 0 {
		return nil, nil, nil, fmt.Errorf("secret %s has no ca.crt: add the CA that signed the arbiter's certificate", p.key.Name)
	}
	p.last.Store(secret)
	return ca, secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey], nil
}

func (s *secrets) forget(plan types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.plans, plan)
}
