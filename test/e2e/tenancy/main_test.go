// Package tenancy installs Offduty as config/namespaced does, for some namespaces only, and
// checks what it may do, what it does, and that nothing is left over between the two.
package tenancy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
const patience = 3 * time.Minute

// life is how long the arbiter's certificates are valid here: several are used up by one
// upgrade.
const life = 24 * time.Second

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
		installed.system, installed.err = harness.InstallWith(ctx, c, root, harness.Options{
			Config: "namespaced", Arbiter: append(slices.Clone(only), "--self-signed-lifetime", life.String()),
			// Neither may lose its lead: that no process is started again is part of the test.
			Upgrader: slices.Concat(only, harness.Steady, []string{"--leader-election-lease-duration", "60s", "--leader-election-renew-deadline", "50s"}),
		}, harness.UpgraderA)
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

// mirror copies the certificates of the upgrader into a namespace and those of all clients
// into files, now and whenever they change, as a certificate manager and the kubelet would.
func mirror(t *testing.T, s *harness.System, namespace, name string) {
	t.Helper()
	admin, err := s.Cluster.Client(t.Context(), controlplane.Admin(), nil)
	must(t, err)
	once := func(ctx context.Context) error {
		for _, who := range harness.Clients {
			if err := s.SaveSecret(ctx, who); err != nil {
				return err
			}
		}
		return copySecret(ctx, admin, namespace, name)
	}
	must(t, once(t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		again := time.NewTicker(200 * time.Millisecond)
		defer again.Stop()
		for {
			select {
			case <-again.C:
			case <-ctx.Done():
				return
			}
			if err := once(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("copy the certificates: %v", err)
			}
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
}

// copySecret writes the upgrader's certificates into a Secret if they are others.
func copySecret(ctx context.Context, admin client.Client, namespace, name string) error {
	from, to := &corev1.Secret{}, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := admin.Get(ctx, client.ObjectKey{Namespace: harness.SystemNamespace, Name: "offduty-upgrader-tls"}, from); err != nil {
		return err
	}
	err := admin.Get(ctx, client.ObjectKeyFromObject(to), to)
	same := maps.EqualFunc(to.Data, from.Data, bytes.Equal)
	to.Data = from.Data
	switch {
	case apierrors.IsNotFound(err):
		return admin.Create(ctx, to)
	case err != nil || same:
		return err
	}
	return admin.Update(ctx, to)
}
