// Package clustertest gives the tests of one test binary one control plane.
//
//	func TestMain(m *testing.M) { clustertest.Main(m, controlplane.Options{}) }
//
//	func TestSomething(t *testing.T) {
//		c := clustertest.Shared(t)
//		namespace := clustertest.Namespace(t)
//		...
//	}
//
// It is started by the first test that asks for it. No more than two test binaries have
// one at a time: more would make each other slow. What they do is wait, for the most part.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"offduty.dev/test/cluster/binaries"
	"offduty.dev/test/cluster/controlplane"
)

// shared is the state of this test binary.
var shared struct {
	options controlplane.Options
	start   sync.Once
	cluster *controlplane.Cluster
	err     error
	unlock  func()
	tests   sync.Map // names of the tests that asked for the cluster
}

// Main runs the tests, stops the control plane if one was started, and exits.
// It silences controller-runtime's global logger; a test that wants it sets it
// before calling Main.
// When a test failed the logs stay, and Main prints where.
func Main(m *testing.M, options controlplane.Options) {
	shared.options = options
	if options.Log == nil {
		shared.options.Log = os.Stderr
	}
	// Without a logger controller-runtime prints a stack trace after 30 s.
	log.SetLogger(logr.Discard())
	code := m.Run()
	if err := stop(code != 0); err != nil {
		fmt.Fprintln(os.Stderr, "stop the control plane:", err)
		code = 1
	}
	os.Exit(code)
}

func stop(failed bool) error {
	c := shared.cluster
	if c == nil {
		return nil
	}
	defer shared.unlock()
	if failed {
		c.KeepLogs()
		fmt.Fprintln(os.Stderr, "tests failed; the logs of the control plane are in", c.LogDir())
	}
	return c.Stop()
}

// Shared is the control plane of this test binary. It skips the test under
// -short, and fails it if the control plane cannot be started. After a failed
// test the objects of the cluster are written beside the logs.
func Shared(tb testing.TB) *controlplane.Cluster {
	tb.Helper()
	if testing.Short() {
		tb.Skip("needs a control plane, which -short leaves out")
	}
	shared.start.Do(start)
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	if _, again := shared.tests.LoadOrStore(tb.Name(), true); !again {
		tb.Cleanup(func() {
			if tb.Failed() {
				dump(tb, shared.cluster)
			}
		})
	}
	return shared.cluster
}

func start() {
	cache, err := binaries.CacheDir()
	if err != nil {
		shared.err = err
		return
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		shared.err = fmt.Errorf("make the cache folder: %w", err)
		return
	}
	waiting := func() { fmt.Fprintln(os.Stderr, "other test binaries have control planes up, waiting for one to end") }
	places := []string{filepath.Join(cache, "tests-1.lock"), filepath.Join(cache, "tests-2.lock")}
	shared.unlock, shared.err = binaries.LockAny(context.Background(), places, waiting)
	if shared.err != nil {
		return
	}
	if shared.options.Log == nil {
		shared.err = errors.New("no TestMain calls clustertest.Main, so nobody would stop the control plane")
		return
	}
	shared.cluster, shared.err = controlplane.Start(context.Background(), shared.options)
}

// serviceAccountPatience is how long the controllers may take to notice a new namespace.
const serviceAccountPatience = 2 * time.Minute

// Namespace makes a namespace for one test and deletes it when the test ends, if it has not
// done so itself, without waiting until it is gone.
func Namespace(tb testing.TB) string {
	tb.Helper()
	c := Shared(tb)
	admin, err := c.Client(tb.Context(), controlplane.Admin(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	if err := admin.Create(tb.Context(), namespace); err != nil {
		tb.Fatalf("make a namespace for the test: %v", err)
	}
	// There are no pods before it, and Kruise asks ever more seldom: after a restart of the API
	// server the controller that makes it can be half a minute late.
	ctx, cancel := context.WithTimeout(tb.Context(), serviceAccountPatience)
	defer cancel()
	if err := controlplane.Until(ctx, "the namespace of the test has its default service account", func(ctx context.Context) error {
		return admin.Get(ctx, client.ObjectKey{Namespace: namespace.Name, Name: "default"}, &corev1.ServiceAccount{})
	}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			return // its objects are still to be looked at
		}
		if err := client.IgnoreNotFound(admin.Delete(context.Background(), namespace)); err != nil {
			tb.Errorf("delete the namespace of the test: %v", err)
		}
	})
	return namespace.Name
}

// dump writes what a person would look at first.
func dump(tb testing.TB, c *controlplane.Cluster) {
	tb.Helper()
	name := strings.NewReplacer("/", "_", " ", "_").Replace(tb.Name()) + ".yaml"
	path := filepath.Join(c.LogDir(), name)
	if err := c.Dump(context.Background(), path); err != nil {
		tb.Logf("write the objects of the cluster: %v", err)
		return
	}
	tb.Logf("the objects of the cluster as they were when the test ended: %s", path)
}
