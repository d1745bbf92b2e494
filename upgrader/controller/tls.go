package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	arbiter "offduty.dev/arbiter/client"
)

// rereadSecrets is how long a secret that was read is relied on: a rotated certificate is
// in use after that time, at the next event of the plan.
const rereadSecrets = time.Minute

// secrets keeps the TLS settings of plans that bring their own. Secrets are not cached by
// watching them: the upgrader may get a secret by name, and may not list them.
type secrets struct {
	mu    sync.Mutex
	plans map[types.NamespacedName]*planTLS
}

type planTLS struct {
	spec   v1alpha1.ArbiterTLS
	tls    *arbiter.TLS
	digest string
	read   time.Time
}

// get returns a plan's TLS settings and a digest that tells them from others.
func (s *secrets) get(ctx context.Context, r client.Reader, up *v1alpha1.UpgradePlan, now time.Time) (*planTLS, error) {
	key, spec := client.ObjectKeyFromObject(up), *up.Spec.Arbiter.TLS
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.plans[key]; p != nil && p.spec == spec && now.Sub(p.read) < rereadSecrets {
		return p, nil
	}
	secret := &corev1.Secret{}
	if err := r.Get(ctx, client.ObjectKey{Namespace: up.Namespace, Name: spec.SecretName}, secret); err != nil {
		if p := s.plans[key]; apierrors.IsNotFound(err) && up.DeletionTimestamp != nil && p != nil && p.spec == spec {
			return p, nil // deleted together with the plan, which still has leases to give back
		}
		return nil, fmt.Errorf("read secret %s of spec.arbiter.tls: %w", spec.SecretName, err)
	}
	p := &planTLS{spec: spec, tls: &arbiter.TLS{ServerName: spec.ServerName}, read: now}
	p.tls.CA.Bytes, p.tls.Cert.Bytes, p.tls.Key.Bytes = secret.Data["ca.crt"], secret.Data["tls.crt"], secret.Data["tls.key"]
	if len(p.tls.CA.Bytes) == 0 {
		return nil, fmt.Errorf("secret %s of spec.arbiter.tls has no ca.crt: add the CA that signed the arbiter's certificate", spec.SecretName)
	}
	p.digest = digestOf(spec.ServerName, p.tls.CA.Bytes, p.tls.Cert.Bytes, p.tls.Key.Bytes)
	if s.plans == nil {
		s.plans = map[types.NamespacedName]*planTLS{}
	}
	s.plans[key] = p
	return p, nil
}

func (s *secrets) forget(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.plans, key)
}

func digestOf(name string, parts ...[]byte) string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%q", name)
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%q", p)
	}
	return hex.EncodeToString(h.Sum(nil))
}
