package controller

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/source"
)

// credentialsAge is for how long what was read of a Secret or ConfigMap is used.
const credentialsAge = time.Minute

// keys are what Secret and ConfigMap of a roster hold.
type keys struct {
	authority, cert, key []byte
}

func (k keys) equal(o keys) bool {
	return bytes.Equal(k.authority, o.authority) && bytes.Equal(k.cert, o.cert) && bytes.Equal(k.key, o.key)
}

// credentials returns how the members of a roster are recognised. It reads the Secret and the
// ConfigMap again each minute, and gives another configuration only when they have changed.
func (r *Reconciler) credentials(namespace string, spec *v1alpha1.MemberTLS) source.Credentials {
	if spec == nil {
		return nil
	}
	var mu sync.Mutex
	var last keys
	var config *tls.Config
	var read time.Time
	return func(ctx context.Context) (*tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		now := r.Now()
		if config != nil && now.Sub(read) < credentialsAge {
			return config, nil
		}
		found, err := r.readKeys(ctx, namespace, spec)
		if err != nil {
			return nil, err
		}
		if config == nil || !found.equal(last) {
			if config, err = configOf(found, spec.ServerName); err != nil {
				return nil, err
			}
			last = found
		}
		read = now
		return config, nil
	}
}

func (r *Reconciler) readKeys(ctx context.Context, namespace string, spec *v1alpha1.MemberTLS) (keys, error) {
	var out keys
	if spec.SecretName != "" {
		var s corev1.Secret
		if err := r.Live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: spec.SecretName}, &s); err != nil {
			return out, fmt.Errorf("read the secret of tls.secretName: %w", err)
		}
		out = keys{authority: s.Data[bundleKey], cert: s.Data[corev1.TLSCertKey], key: s.Data[corev1.TLSPrivateKeyKey]}
	}
	if spec.ConfigMapName != "" {
		var c corev1.ConfigMap
		if err := r.Live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: spec.ConfigMapName}, &c); err != nil {
			return out, fmt.Errorf("read the config map of tls.configMapName: %w", err)
		}
		out.authority = []byte(c.Data[bundleKey])
		if len(out.authority) == 0 {
			return out, fmt.Errorf("config map %s has no %s", spec.ConfigMapName, bundleKey)
		}
	}
	return out, nil
}

func configOf(k keys, serverName string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName}
	if len(k.authority) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(k.authority) {
			return nil, fmt.Errorf("%s of the roster's tls has no certificate", bundleKey)
		}
	}
	if len(k.cert) > 0 || len(k.key) > 0 {
		pair, err := tls.X509KeyPair(k.cert, k.key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s of the roster's tls: %w", corev1.TLSCertKey, corev1.TLSPrivateKeyKey, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
