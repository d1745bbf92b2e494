package node

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"offduty.dev/test/cluster/binaries"
	"offduty.dev/test/cluster/controlplane"
)

// TestThePluginReachesTheArbiterThroughTheAPIServer lets the plugin forward a port to the
// arbiter's pod, and show the certificate of its Secret. That the arbiter answers is the
// proof: it knows no such group.
func TestThePluginReachesTheArbiterThroughTheAPIServer(t *testing.T) {
	s := install(t)
	path := t.TempDir()
	s.must(binaries.Package(t.Context(), "./cmd/kubectl-offduty", filepath.Join(path, "kubectl-offduty")))
	config, err := s.Kubeconfig(t.Context(), controlplane.Admin())
	s.must(err)
	s.kubectl(`apiVersion: offduty.dev/v1alpha1
kind: UpgradePlan
metadata: {name: elsewhere, namespace: default}
spec:
  targets: [{name: nowhere}]
  arbiter: {group: nowhere}
`, "apply", "--filename", "-")

	cmd := exec.CommandContext(t.Context(), s.Kubectl(), "offduty", "release-pin", "elsewhere", "nowhere-0", "--namespace=default", "--reason=test", "--yes")
	cmd.Env = append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"), "KUBECONFIG="+config)
	said, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(said), "error: release the pin of nowhere-0: ") || !strings.Contains(string(said), "default/nowhere") {
		t.Errorf("it ends with %v and says:\n%s", err, said)
	}
	t.Logf("%s", said)
}
