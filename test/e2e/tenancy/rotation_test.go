package tenancy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	arbiter "offduty.dev/arbiter/client"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// rotate asks for a new authority and has both teams upgrade meanwhile, slowly enough that
// every certificate is replaced under way: team-a's upgrader reads files, team-b's a Secret.
func rotate(t *testing.T, s *harness.System, stages map[string]*harness.Stage) {
	t.Helper()
	admin, err := s.Cluster.Client(t.Context(), controlplane.Admin(), nil)
	must(t, err)
	secret := func(ctx context.Context, name string) (*corev1.Secret, error) {
		o := &corev1.Secret{}
		return o, admin.Get(ctx, client.ObjectKey{Namespace: harness.SystemNamespace, Name: name}, o)
	}
	authority, err := secret(t.Context(), "offduty-arbiter-ca")
	must(t, err)
	old, err := secret(t.Context(), "offduty-upgrader-tls")
	must(t, err)
	processes := s.Cluster.PIDs()

	_, err = s.Kubectl(t.Context(), "", "annotate", "secret", "offduty-arbiter-ca", "--namespace", harness.SystemNamespace, "offduty.dev/rotate=now")
	must(t, err)
	const slowly = `{"spec": {"targets": [{"name": "sample", "images": {"main": "alpine:3.19.0"}}], "strategy": {"verify": {"minReadySeconds": 12}}}}`
	for _, namespace := range teams {
		must(t, stages[namespace].Patch(t.Context(), "upgradeplan", harness.Group, slowly))
	}
	for _, namespace := range teams {
		await(t, stages[namespace], "the plan is ready again", func(n harness.Now) error {
			return errors.Join(settled(n), allRun(n, "alpine:3.19.0"))
		})
		keptItsLeases(t, stages[namespace])
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var now *corev1.Secret
	must(t, controlplane.Until(ctx, "nobody knows the old authority", func(ctx context.Context) error {
		if now, err = secret(ctx, "offduty-upgrader-tls"); err != nil {
			return err
		}
		if bytes.Contains(now.Data["ca.crt"], authority.Data["tls.crt"]) {
			return errors.New("it is in the bundle")
		}
		return nil
	}))
	if diff := cmp.Diff(processes, s.Cluster.PIDs()); diff != "" {
		t.Errorf("processes were started again (-before +after):\n%s", diff)
	}
	k, err := arbiter.Dial(arbiter.Config{Address: s.ArbiterAddress, TLS: &arbiter.TLS{
		CA: arbiter.PEM{Bytes: now.Data["ca.crt"]}, Cert: arbiter.PEM{Bytes: old.Data["tls.crt"]}, Key: arbiter.PEM{Bytes: old.Data["tls.key"]},
	}})
	must(t, err)
	defer func() { must(t, k.Close()) }()
	if _, err := k.List(t.Context(), "team-a/sample"); !errors.Is(err, arbiter.ErrDenied) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("with the certificate from before: %v", err)
	}
}

// allRun wants every pod to have an image.
func allRun(n harness.Now, image string) error {
	for _, p := range n.Pods {
		if p.Image != image {
			return fmt.Errorf("%s has %s", p.Name, p.Image)
		}
	}
	return nil
}

// keptItsLeases wants that nothing was undone for a lost lease, ever.
func keptItsLeases(t *testing.T, st *harness.Stage) {
	t.Helper()
	e, err := st.Evidence(t.Context())
	must(t, err)
	for _, p := range e.Plans {
		for _, r := range p.Status.ReplicaStatuses {
			if r.Reason == "LeaseLost" {
				t.Errorf("%s: %s lost its lease", st.Namespace, r.Name)
			}
		}
	}
}
