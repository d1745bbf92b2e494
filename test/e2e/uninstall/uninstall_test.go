// Package uninstall removes Offduty from a control plane, in the right order and in the wrong
// one. It has a control plane of its own, since nothing else works on one without Offduty.
package uninstall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

func TestMain(m *testing.M) { clustertest.Main(m, controlplane.Options{}) }

const (
	root      = "../../.."
	manifests = root + "/config/default"
	// patience is how long a step may take on a loaded machine.
	patience = 3 * time.Minute
)

// site is Offduty on the control plane, with a plan in a namespace.
type site struct {
	t      *testing.T
	system *harness.System
	stage  *harness.Stage
}

// kept are the usual options, with processes that are started again if they end by themselves.
func kept() harness.Options {
	o := harness.Default
	o.KeepRunning = true
	return o
}

// install installs everything, also a second time, and starts a plan that waits half-way.
func install(t *testing.T) *site {
	t.Helper()
	c := clustertest.Shared(t)
	system, err := harness.InstallWith(t.Context(), c, root, kept(), harness.UpgraderA)
	if err != nil {
		t.Fatal(err)
	}
	stage, err := system.NewStage(t.Context(), clustertest.Namespace(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stage.Close(); err != nil {
			t.Error(err)
		}
		for _, p := range []string{harness.UpgraderA, harness.ArbiterProcess} {
			if err := system.Kill(p); err != nil {
				t.Error(err)
			}
		}
	})
	s := &site{t, system, stage}
	s.apply(harness.RosterManifest(harness.Named(0, 2, 4)), harness.SetManifest(v1alpha1.InServiceGate))
	s.until("three replicas work", func(context.Context) error {
		if w := stage.Attendants.Working(); len(w) != 3 {
			return fmt.Errorf("%v do", w)
		}
		return nil
	})
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) apply(manifests ...string) {
	s.t.Helper()
	for _, m := range manifests {
		s.must(s.stage.Apply(s.t.Context(), m))
	}
}

func (s *site) until(what string, check func(context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, what, check))
}

func (s *site) await(what string, check func(harness.Now) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(s.stage.History.Await(ctx, what, check))
}

// halfway waits until the two replicas off duty are upgraded.
func (s *site) halfway() {
	s.t.Helper()
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
	s.await("two replicas are upgraded", func(n harness.Now) error {
		if p := n.Plans[harness.Group]; p.Status.Progress != "2/5" || p.Condition("Ready").Reason != "WaitingForDuty" {
			return fmt.Errorf("the plan is at %s: %+v", p.Status.Progress, p.Condition("Ready"))
		}
		return nil
	})
}

func (s *site) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.stage.Kubectl(s.t.Context(), "", args...)
	s.must(err)
	return out
}

// run is `upgrader uninstall` as an administrator. It wants an exit code and words.
func (s *site) run(code int, words []string, args ...string) {
	s.t.Helper()
	binary, err := s.system.Cluster.Build(s.t.Context(), "./cmd/upgrader")
	s.must(err)
	cmd := exec.CommandContext(s.t.Context(), binary, append([]string{"uninstall"}, args...)...)
	cmd.Env = append(os.Environ(), s.system.KubectlEnv()...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	s.t.Logf("$ upgrader uninstall %s\n%s", strings.Join(args, " "), out)
	if got := cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("it ended with %d, want %d", got, code)
	}
	for _, w := range words {
		if !strings.Contains(string(out), w) {
			s.t.Errorf("it does not say %q", w)
		}
	}
}

// unmoved waits until the replicas are as the plan left them: two upgraded, nothing of ours
// left, and all in service.
func (s *site) unmoved() {
	s.t.Helper()
	s.await("all is as the plan left it", func(n harness.Now) error {
		fresh := 0
		for _, p := range n.Pods {
			if p.Image == harness.NewImage {
				fresh++
			}
			if p.Hold || p.Grant || p.Lease != "" || p.Verified != "" || !p.Ready || p.Gate != "True" || p.Terminating {
				return fmt.Errorf("a trace is left: %s", harness.Describe(p))
			}
		}
		if k := n.Sets[harness.Group]; len(n.Pods) != 5 || fresh != 2 || k.Armed != "" || k.Partition < 3 {
			return fmt.Errorf("%d of %d replicas are upgraded, the partition is %d, the set is armed (%q)", fresh, len(n.Pods), k.Partition, k.Armed)
		}
		return nil
	})
}

func TestInOrder(t *testing.T) {
	s := install(t)
	s.halfway()
	s.run(3, []string{
		"/sample, 2/5 upgraded: WaitingForDuty: ", "StatefulSet sample is given back: partition", "becomes 3",
		"3 of 5 replicas are at an older revision and stay there", "--delete-plans",
	})
	s.must(s.system.Kill(harness.UpgraderA))
	s.run(3, []string{"No upgrader leads (Lease offduty-system/offduty-upgrader is not renewed)", "When the upgrader is gone already"}, "--delete-plans")
	now, err := s.stage.History.CatchUp(t.Context())
	s.must(err)
	if now.Plans[harness.Group].Deleting {
		t.Error("the plan was deleted although nobody can give its set back")
	}
	s.must(s.system.Restart(t.Context(), harness.UpgraderA))
	s.must(s.system.Kill(harness.ArbiterProcess))
	s.run(3, []string{"After 5s there are still:\n    UpgradePlan ", "ArbiterUnreachable: the plan's leases cannot be released"}, "--delete-plans", "--timeout", "5s")
	s.must(s.system.Restart(t.Context(), harness.ArbiterProcess))
	s.run(3, []string{"/sample has left.", "Roster " + s.stage.Namespace + "/sample goes with the manifests; on duty now: ", "--ignore-rosters"}, "--delete-plans")
	s.run(0, []string{"It is safe to delete the manifests"}, "--ignore-rosters")
	s.must(s.system.Kill(harness.UpgraderA))
	s.must(s.system.Kill(harness.ArbiterProcess))
	s.kubectl("delete", "--kustomize", manifests, "--timeout=60s")
	s.unmoved()
	if out := s.kubectl("get", "crds", "--output", "name"); strings.Contains(out, "offduty") {
		t.Errorf("there are still %s", out)
	}
	s.run(0, []string{"It is safe"})
}

func TestTheOperatorFirst(t *testing.T) {
	s := install(t)
	s.halfway()
	s.must(s.system.Kill(harness.UpgraderA))
	s.must(s.system.Kill(harness.ArbiterProcess))
	s.kubectl("delete", "--kustomize", manifests, "--wait=false")
	s.until("the plan hangs, and its kind with it", func(ctx context.Context) error {
		out, err := s.stage.Kubectl(ctx, "", "get", "crd", "upgradeplans.offduty.dev", "--output", "jsonpath={.metadata.deletionTimestamp}")
		if err == nil && out == "" {
			err = errors.New("it is not being deleted")
		}
		if err == nil && !s.stage.History.Now().Plans[harness.Group].Deleting {
			err = errors.New("the plan is not being deleted")
		}
		return err
	})
	s.until("the namespace of the operator is gone", func(ctx context.Context) error {
		if _, err := s.stage.Kubectl(ctx, "", "get", "namespace", harness.SystemNamespace); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	s.run(3, []string{"sample, 2/5 upgraded, is leaving", "No upgrader leads"}, "--delete-plans")
	// The remedy: the same manifests again.
	if _, err := harness.InstallWith(t.Context(), s.system.Cluster, root, kept(), harness.UpgraderA); err != nil {
		t.Fatal(err)
	}
	s.until("the kind has gone, and with it the plan", func(ctx context.Context) error {
		out, err := s.stage.Kubectl(ctx, "", "get", "crd", "upgradeplans.offduty.dev", "--ignore-not-found", "--output", "name")
		if err == nil && out != "" {
			err = errors.New("it is there")
		}
		return err
	})
	s.unmoved()
}

func TestByHand(t *testing.T) {
	s := install(t)
	s.selected()
	old := s.stage.History.Now()
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", byHand(t))
	cmd.Env = append(os.Environ(), append(s.system.KubectlEnv(), "PATH="+s.path()+":"+os.Getenv("PATH"), "USER=fireman",
		"NAMESPACE="+s.stage.Namespace, "PLAN="+harness.Group, "SET="+harness.Group, "SELECTOR=app=sample")...)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	s.must(err)
	s.await("the plan has gone", func(n harness.Now) error { return givenBack(old, n) })
	s.run(0, []string{"It is safe"}, "--ignore-rosters")
}

// selected kills the upgrader when Kruise has chosen a pod, and its hold is still on: the
// hardest state to be given back by hand.
func (s *site) selected() {
	s.t.Helper()
	var killed error
	done := s.stage.History.When(func(n harness.Now) bool {
		for _, p := range n.Pods {
			if p.Grant && p.Hold && p.State == "PreparingUpdate" {
				return true
			}
		}
		return false
	}, func() { killed = s.system.Kill(harness.UpgraderA) })
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
	<-done
	s.must(killed)
}

// givenBack wants no plan, nothing of ours on the set and the pods, and no pod changed.
func givenBack(old, n harness.Now) error {
	if len(n.Plans) > 0 {
		return errors.New("the plan is there")
	}
	if k := n.Sets[harness.Group]; k.Observed != k.Generation || k.Armed != "" {
		return fmt.Errorf("the set is armed (%q), and Kruise has seen %d of %d", k.Armed, k.Observed, k.Generation)
	}
	for _, p := range n.Pods {
		if p.Hold || p.Grant || p.Lease != "" || p.Verified != "" || !p.Ready || p.State != "Normal" {
			return fmt.Errorf("a trace is left: %s", harness.Describe(p))
		}
		if was := old.Pods[p.Name]; was.Image != p.Image || was.UID != p.UID {
			return fmt.Errorf("%s was updated: %s", p.Name, harness.Describe(p))
		}
	}
	return nil
}

// byHand is the script that docs/uninstall.md shows.
func byHand(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "uninstall.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, script, ok := strings.Cut(string(text), "```bash\n")
	script, _, end := strings.Cut(script, "```")
	if !ok || !end {
		t.Fatal("docs/uninstall.md has no script")
	}
	return script
}

// path is a folder with kubectl in it.
func (s *site) path() string {
	s.t.Helper()
	dir := s.t.TempDir()
	kubectl, err := filepath.Abs(s.system.Cluster.Kubectl())
	s.must(err)
	s.must(os.Symlink(kubectl, filepath.Join(dir, "kubectl")))
	return dir
}
