// Package install builds the images and installs the Helm chart as a user would, and
// checks what comes of it.
package install

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"offduty.dev/test/cluster/binaries"
	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
)

func TestMain(m *testing.M) { clustertest.Main(m, controlplane.Options{}) }

// root is the module's folder.
const root = "../.."

// chart is the Helm chart, seen from here.
var chart = filepath.Join(root, "config", "chart")

// systemNamespace is where config/default puts everything.
const systemNamespace = "offduty-system"

// helmProgram is the pinned Helm, which is built on first use.
func helmProgram(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "hack", "tool"), "--path", "helm")
	cmd.Stderr = os.Stderr // it takes minutes the first time, and says so
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build helm: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// helm is the pinned Helm with folders and a cluster of its own.
type helm struct {
	program, home, kubeconfig string
}

// newHelm is a Helm that knows no cluster.
func newHelm(t *testing.T) *helm {
	t.Helper()
	return &helm{program: helmProgram(t), home: t.TempDir(), kubeconfig: os.DevNull}
}

// run runs Helm and returns what it prints; the error quotes standard error.
func (h *helm) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, h.program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+h.kubeconfig,
		"HELM_CACHE_HOME="+h.home, "HELM_CONFIG_HOME="+h.home, "HELM_DATA_HOME="+h.home)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("helm %s: %w: %s%s", strings.Join(args, " "), err, problems.String(), out.String())
	}
	return out.String(), nil
}

// must is run where an error fails the test.
func (h *helm) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// rendered are the objects of the chart, by kind, namespace and name.
func (h *helm) rendered(t *testing.T, args ...string) map[string]*unstructured.Unstructured {
	t.Helper()
	args = append([]string{"template", "offduty", chart, "--kube-version", "1.34", "--namespace", systemNamespace}, args...)
	return byName(t, []byte(h.must(t, args...)))
}

// kustomized are the objects of a kustomization folder, by kind, namespace and name.
func kustomized(t *testing.T, dir string) map[string]*unstructured.Unstructured {
	t.Helper()
	programs, err := binaries.Ensure(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := binaries.Kustomize(t.Context(), programs, filepath.Join(root, dir))
	if err != nil {
		t.Fatal(err)
	}
	return byName(t, manifests)
}

func byName(t *testing.T, manifests []byte) map[string]*unstructured.Unstructured {
	t.Helper()
	objects, err := controlplane.Decode(manifests)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*unstructured.Unstructured{}
	for _, o := range objects {
		key := path.Join(o.GetKind(), o.GetNamespace(), o.GetName())
		if all[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		all[key] = o
	}
	return all
}
