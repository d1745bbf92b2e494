// Package tenancy installs Offduty as config/namespaced does, for some namespaces only, and
// checks what it may do, what it does, and that nothing is left over between the two.
package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

func TestMain(m *testing.M) { clustertest.Main(m, controlplane.Options{}) }

// root is the module's folder.
const root = "../../.."

// patience is how long a step may take on a loaded machine.
const patience = 90 * time.Second

// teams are the namespaces that config/namespaced names; outside is one that it does not.
var teams = []string{"team-a", "team-b"}

const outside = "team-c"

var installed struct {
	once   sync.Once
	system *harness.System
	err    error
}

// install returns Offduty for the teams on the control plane of this test binary.
func install(t *testing.T) *harness.System {
	t.Helper()
	c := clustertest.Shared(t)
	installed.once.Do(func() {
		ctx := context.Background()
		admin, err := c.Client(ctx, controlplane.Admin(), nil)
		for _, name := range append(slices.Clone(teams), outside) {
			if err == nil {
				err = admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
			}
		}
		if err != nil {
			installed.err = err
			return
		}
		only := []string{"--namespaces", strings.Join(teams, ",")}
		installed.system, installed.err = harness.InstallWith(ctx, c, root,
			harness.Options{Config: "namespaced", Arbiter: only, Upgrader: only}, harness.UpgraderA)
	})
	if installed.err != nil {
		t.Fatal(installed.err)
	}
	return installed.system
}

// stage observes a namespace until the test ends, and then holds what happened in it
// against the promises.
func stage(t *testing.T, s *harness.System, namespace string) *harness.Stage {
	t.Helper()
	st, err := s.NewStage(t.Context(), namespace, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e, err := st.Evidence(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, v := range e.Prove() {
			t.Error(v)
		}
		if t.Failed() {
			t.Logf("what happened last in %s:\n%s", namespace, e.Story("", time.Now()))
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, s *harness.Stage, what string, check func(harness.Now) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.History.Await(ctx, what+" in "+s.Namespace, check); err != nil {
		t.Fatal(err)
	}
}

// running wants five pods that run, and as many replicas at work as the roster says.
func running(n harness.Now) error {
	runs := 0
	for _, p := range n.Pods {
		if p.Runs() {
			runs++
		}
	}
	if runs != 5 {
		return fmt.Errorf("%d pods run", runs)
	}
	return nil
}

func settled(n harness.Now) error {
	p, ok := n.Plans[harness.Group]
	if !ok {
		return errors.New("there is no plan")
	}
	if !p.Settled() {
		return fmt.Errorf("the plan says %+v", p.Condition("Ready"))
	}
	return nil
}

// secretOf copies the certificates of a client of the arbiter into a namespace.
func secretOf(t *testing.T, s *harness.System, who, namespace, name string) {
	t.Helper()
	admin, err := s.Cluster.Client(t.Context(), controlplane.Admin(), nil)
	must(t, err)
	from := &corev1.Secret{}
	must(t, admin.Get(t.Context(), client.ObjectKey{Namespace: harness.SystemNamespace, Name: "offduty-" + who + "-tls"}, from))
	must(t, admin.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: from.Data}))
}
