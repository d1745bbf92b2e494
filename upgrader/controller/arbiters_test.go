package controller

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	arbiter "offduty.dev/arbiter/client"
)

// shown is what an arbiter gets to see.
type shown struct {
	token, certificate bool
	server             string
	// anywhere: it may be wherever its name leads.
	anywhere bool
}

func shownBy(cfg arbiter.Config) shown {
	s := shown{token: cfg.TokenFile != "", certificate: cfg.TLS != nil, anywhere: cfg.Permit == nil}
	if cfg.TLS != nil {
		s.server = cfg.TLS.ServerName
	}
	return s
}

func TestToWhomTheUpgraderShowsWhoItIs(t *testing.T) {
	allowed, err := ParseAllowed([]string{"*"})
	if err != nil {
		t.Fatal(err)
	}
	own := arbiter.TLS{ServerName: "arbiter"}
	own.Cert.File = "cert"
	a := Arbiters{
		Own:     arbiter.Config{Address: "arbiter.sys.svc:9443", TokenFile: "token", TLS: &own},
		Trusted: []string{"second.sys.svc:9443"}, Allowed: allowed,
	}
	tests := []struct {
		name    string
		arbiter v1alpha1.Arbiter
		token   bool
		server  string // the name expected in its certificate; "": that of the address
		refused string
	}{
		{"the arbiter of the configuration", v1alpha1.Arbiter{Group: "g"}, true, "arbiter", ""},
		{"the same, named by the plan", v1alpha1.Arbiter{Group: "g", Address: "arbiter.sys.svc:9443"}, true, "arbiter", ""},
		{"another that is trusted", v1alpha1.Arbiter{Group: "g", Address: "second.sys.svc:9443"}, true, "", ""},
		{"one that may lead to the same", v1alpha1.Arbiter{Group: "g", Address: "arbiter.sys.svc.cluster.local:9443"}, false, "", "set spec.arbiter.tls"},
		{"the same in other letters", v1alpha1.Arbiter{Group: "g", Address: "ARBITER.sys.svc:9443"}, false, "", "set spec.arbiter.tls"},
		{"the same with a dot", v1alpha1.Arbiter{Group: "g", Address: "arbiter.sys.svc.:9443"}, false, "", "set spec.arbiter.tls"},
		{"another port", v1alpha1.Arbiter{Group: "g", Address: "arbiter.sys.svc:9444"}, false, "", "set spec.arbiter.tls"},
		{"another with a secret", v1alpha1.Arbiter{Group: "g", Address: "a.b:1", TLS: &v1alpha1.ArbiterTLS{SecretName: "s"}}, false, "", ""},
		{"ours with a secret of the plan's", v1alpha1.Arbiter{Group: "g", Address: "arbiter.sys.svc:9443", TLS: &v1alpha1.ArbiterTLS{SecretName: "s"}}, false, "", ""},
		{"one that no plan may name", v1alpha1.Arbiter{Group: "g", Address: "127.0.0.1:1", TLS: &v1alpha1.ArbiterTLS{SecretName: "s"}}, false, "", "may not name the arbiter at 127.0.0.1:1"},
		{"a group of the plan's namespace", v1alpha1.Arbiter{Group: "ns/g"}, true, "arbiter", ""},
		{"a group of another namespace", v1alpha1.Arbiter{Group: "other/g"}, false, "", "group other/g is not of namespace ns"},
		{"such a group under a name of its own", v1alpha1.Arbiter{Group: "other/g", TLS: &v1alpha1.ArbiterTLS{SecretName: "s"}}, false, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			up := &v1alpha1.UpgradePlan{Spec: v1alpha1.UpgradePlanSpec{Arbiter: tt.arbiter}}
			up.Namespace = "ns"
			cfg, err := a.For(up)
			if tt.refused != "" && err != nil && strings.Contains(err.Error(), tt.refused) {
				return
			}
			if err != nil || tt.refused != "" {
				t.Fatalf("got %v, want a refusal with %q", err, tt.refused)
			}
			want := shown{token: tt.token, certificate: tt.token, server: tt.server, anywhere: strings.HasSuffix(cfg.Address, ".sys.svc:9443")}
			if got := shownBy(cfg); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	t.Run("groups of other namespaces, where the operator allows that", func(t *testing.T) {
		a.ForeignGroups = true
		up := &v1alpha1.UpgradePlan{Spec: v1alpha1.UpgradePlanSpec{Arbiter: v1alpha1.Arbiter{Group: "other/g"}}}
		if _, err := a.For(up); err != nil {
			t.Error(err)
		}
	})
}

// drawer is an API server with at most one Secret.
type drawer struct {
	client.Reader

	secret map[string][]byte
	asked  int
}

func (d *drawer) Get(_ context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	d.asked++
	if d.secret == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, key.Name)
	}
	o.(*corev1.Secret).Data = d.secret
	return nil
}

func TestThePlansSecretIsReadForEachConnection(t *testing.T) {
	up := &v1alpha1.UpgradePlan{Spec: v1alpha1.UpgradePlanSpec{Arbiter: v1alpha1.Arbiter{TLS: &v1alpha1.ArbiterTLS{SecretName: "s"}}}}
	up.Namespace, up.Name = "ns", "p"
	var s secrets
	api := &drawer{}
	look := func(want string) *arbiter.TLS {
		t.Helper()
		tls, digest, err := s.tls(t.Context(), api, up)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Fatalf("got %v, want an error with %q", err, want)
		}
		if err == nil && digest != `ns/s ""` {
			t.Errorf("the digest is %q", digest)
		}
		return tls
	}
	look("read secret s")
	api.secret = map[string][]byte{"tls.crt": []byte("x")}
	look("has no ca.crt")
	api.secret = map[string][]byte{"ca.crt": []byte("x")}
	look("no PEM certificate")
	api.secret = map[string][]byte{"ca.crt": []byte(pemCA)}
	tls := look("")
	asked := api.asked
	look("")
	if api.asked != asked {
		t.Error("a plan that is idle asks again")
	}
	api.secret = map[string][]byte{"ca.crt": []byte("rotated"), "tls.crt": []byte("c"), "tls.key": []byte("k")}
	ca, cert, key, err := tls.Load(t.Context())
	if err := errors.Join(err, t.Context().Err()); err != nil || string(ca)+string(cert)+string(key) != "rotatedck" {
		t.Errorf("a new connection gets %s %s %s, %v", ca, cert, key, err)
	}
	api.secret = nil
	if _, _, _, err := tls.Load(t.Context()); err == nil {
		t.Error("a Secret that was deleted is used by a plan that stays")
	}
	up.DeletionTimestamp = new(metav1.Now())
	look("")
	if ca, _, _, err := tls.Load(t.Context()); err != nil || string(ca) != "rotated" {
		t.Errorf("a plan that is being deleted gets %s, %v", ca, err)
	}
	api.secret = map[string][]byte{"ca.crt": []byte("x")}
	s.forget(client.ObjectKeyFromObject(up))
	look("no PEM certificate")
}

const pemCA = `-----BEGIN CERTIFICATE-----
MIIBcDCCARegAwIBAgIULDC5Lclqy7I0s6hOEqr7OcGaOewwCgYIKoZIzj0EAwIw
DTELMAkGA1UEAwwCY2EwIBcNMjYxMTIxMTAxNzUyWhgPMjEyNjEwMjgxMDE3NTJa
MA0xCzAJBgNVBAMMAmNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEfS2kj0yH
6PryQRm4orL40OPBsa8TZ5CJkx8EIOqwH7H/9UaYsnHnlT/k2PLrII8Wpt7xbsoh
g2pn+o5/iG/FHqNTMFEwHQYDVR0OBBYEFPSVy5dYMxs0b3uY4MwmY9kAXNVLMB8G
A1UdIwQYMBaAFPSVy5dYMxs0b3uY4MwmY9kAXNVLMA8GA1UdEwEB/wQFMAMBAf8w
CgYIKoZIzj0EAwIDRwAwRAIgHxXR8AOikSj+TA1I26SVRn+aQLZuTq8F3Yrk0xJg
2CUCIDghUKF2D6oeFE7FIZmFCQmDx0NiMgibqTYMerSzEkhX
-----END CERTIFICATE-----
`
