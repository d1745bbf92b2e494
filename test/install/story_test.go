package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// patience is how long a step of a story may take on a loaded machine.
const patience = 2 * time.Minute

// story is Helm on a real control plane, and one application there. The nodes are
// simulated: what the chart deploys becomes ready without running, and the upgrader and the
// arbiter run as processes under the service accounts of the chart.
type story struct {
	*helm
	t         *testing.T
	cluster   *controlplane.Cluster
	namespace string
	system    *harness.System
	stage     *harness.Stage
}

func TestHelm(t *testing.T) {
	s := &story{helm: newHelm(t), t: t, cluster: clustertest.Shared(t), namespace: clustertest.Namespace(t)}
	var err error
	s.kubeconfig, err = s.cluster.Kubeconfig(t.Context(), controlplane.Admin())
	s.noError(err)
	older := olderChart(t)

	s.step("an earlier version is installed", func() {
		s.release("install", "offduty", older, "--create-namespace", "--wait")
	})
	s.start()
	s.noError(s.wants("deployment", "offduty-upgrader", "{.status.readyReplicas}", "2"))
	s.step("the API server accepts every value", func() { s.acceptsEverything() })
	var before map[string]harness.Pod
	var armed string // names the term of the leader that armed it
	s.step("a plan comes half-way", func() {
		s.begin()
		s.await("idle replicas are upgraded, and it waits", at("2/5", "WaitingForDuty"))
		now := s.stage.History.Now()
		before, armed = now.Pods, now.Sets[harness.Group].Armed
	})
	s.step("a newer version is installed while it waits", func() {
		s.noError(s.lacks("poddisruptionbudget", "offduty-upgrader"))
		s.release("upgrade", "offduty", chart, "--wait", "--set", "upgrader.replicas=3")
		s.noError(s.wants("deployment", "offduty-upgrader", "{.status.readyReplicas}", "3"))
		s.noError(s.wants("poddisruptionbudget", "offduty-upgrader", "{.spec.maxUnavailable}", "1"))
		if crd := s.kubectl("get", "crd", "upgradeplans.offduty.dev", "-o", "yaml"); strings.Contains(crd, olderWords) {
			t.Error("the definition of UpgradePlan is still that of the earlier version")
		}
		s.noError(s.system.Restart(t.Context(), harness.UpgraderA))
		s.await("the new upgrader leads", func(n harness.Now) error {
			if led := n.Sets[harness.Group].Armed; led == armed {
				return fmt.Errorf("the set is armed as before: %s", led)
			}
			return at("2/5", "WaitingForDuty")(n)
		})
	})
	s.step("a bad value changes nothing", func() {
		if _, err := s.run(t.Context(), "upgrade", "offduty", chart, "--namespace", systemNamespace, "--set", "upgrader.replicas=0"); err == nil {
			t.Error("helm upgrade took 0 upgraders")
		}
		s.noError(s.wants("deployment", "offduty-upgrader", "{.spec.replicas}", "3"))
	})
	s.step("it is rolled back", func() {
		s.release("rollback", "offduty", "1", "--wait")
		s.noError(s.wants("deployment", "offduty-upgrader", "{.spec.replicas}", "2"))
		s.noError(s.lacks("poddisruptionbudget", "offduty-upgrader"))
	})
	s.step("uninstalled too early it leaves plans and their sets as they are", func() {
		if out, code := s.uninstallGuide(); code != 3 {
			t.Errorf("upgrader uninstall ends with %d, not 3:\n%s", code, out)
		}
		s.noError(s.system.Kill(harness.UpgraderA))
		s.noError(s.system.Kill(harness.ArbiterProcess))
		s.release("uninstall", "offduty", "--wait")
		s.noError(s.lacks("deployment", "offduty-upgrader"))
		s.noError(s.lacks("validatingadmissionpolicy", "offduty-armed-sets"))
		now := s.stage.History.Now()
		s.noError(at("2/5", "WaitingForDuty")(now))
		if now.Sets[harness.Group].Armed == "" {
			t.Error("the set is not armed any more")
		}
	})
	s.step("installed again it goes on where it was", func() {
		s.release("install", "offduty", chart, "--wait")
		s.noError(s.system.StartArbiter(t.Context()))
		s.noError(s.system.StartUpgrader(t.Context(), harness.UpgraderA))
		s.await("it waits as before", at("2/5", "WaitingForDuty"))
		same(t, before, s.stage.History.Now().Pods)
		s.noError(s.stage.Assign(t.Context(), harness.Named(0, 1, 3)))
		s.await("two more are upgraded", at("4/5", "WaitingForDuty"))
		s.noError(s.stage.Assign(t.Context(), harness.Named(1, 2, 3)))
		s.await("all are upgraded", at("5/5", "Complete"))
	})
	s.step("without plans it is uninstalled for good", func() {
		s.kubectl("delete", "upgradeplan", harness.Group, "--namespace", s.namespace)
		s.kubectl("delete", "roster", harness.Group, "--namespace", s.namespace)
		if out, code := s.uninstallGuide(); code != 0 {
			t.Errorf("upgrader uninstall ends with %d, not 0:\n%s", code, out)
		}
		s.noError(s.system.Kill(harness.UpgraderA))
		s.noError(s.system.Kill(harness.ArbiterProcess))
		s.release("uninstall", "offduty", "--wait")
		if armed := s.stage.History.Now().Sets[harness.Group].Armed; armed != "" {
			t.Errorf("the set is still armed: %s", armed)
		}
		s.noError(s.lacks("clusterrole", "offduty-upgrader"))
		s.kubectl("get", "crd", "upgradeplans.offduty.dev", "rosters.offduty.dev")
	})
	s.step("what kubectl installed is taken over", func() {
		s.kubectl("apply", "--server-side", "--force-conflicts", "--kustomize", filepath.Join(root, "config", "default"))
		s.release("install", "offduty", chart, "--wait", "--take-ownership", "--force-conflicts")
		s.release("uninstall", "offduty", "--wait")
		s.noError(s.lacks("deployment", "offduty-upgrader"))
	})
}

// step runs a part of the story; what comes after it needs it.
func (s *story) step(name string, do func()) {
	outer := s.t
	defer func() { s.t = outer }()
	if !outer.Run(name, func(t *testing.T) {
		s.t = t
		do()
	}) {
		outer.FailNow()
	}
}

func (s *story) noError(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// release runs Helm in the operator's namespace.
func (s *story) release(command string, args ...string) {
	s.t.Helper()
	s.must(s.t, append([]string{command, "--namespace", systemNamespace, "--timeout", patience.String()}, args...)...)
}

func (s *story) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.system.Kubectl(s.t.Context(), "", args...)
	s.noError(err)
	return out
}

// wants compares a field of an object of the operator's namespace.
func (s *story) wants(kind, name, field, want string) error {
	got, err := s.system.Kubectl(s.t.Context(), "", "get", kind, name, "--namespace", systemNamespace, "--output", "jsonpath="+field)
	if err == nil && got != want {
		err = fmt.Errorf("%s of %s %s is %q, not %q", field, kind, name, got, want)
	}
	return err
}

// lacks wants an object not to be there.
func (s *story) lacks(kind, name string) error {
	out, err := s.system.Kubectl(s.t.Context(), "", "get", kind, name, "--namespace", systemNamespace, "--ignore-not-found", "--output", "name")
	if err == nil && out != "" {
		err = fmt.Errorf("there is %s", out)
	}
	return err
}

// start starts the programs, and an application for them.
func (s *story) start() {
	s.t.Helper()
	var err error
	o := harness.Default
	o.KeepRunning = true
	s.system, err = harness.Run(s.t.Context(), s.cluster, o, harness.UpgraderA)
	s.noError(err)
	s.stage, err = s.system.NewStage(s.t.Context(), s.namespace, nil)
	s.noError(err)
	t := s.t
	t.Cleanup(func() {
		e, err := s.stage.Evidence(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, v := range e.Prove() {
			t.Error(v)
		}
		if t.Failed() {
			t.Logf("what happened last:\n%s", e.Story("", time.Now()))
		}
		if err := s.stage.Close(); err != nil {
			t.Error(err)
		}
	})
}

// begin makes five replicas, of which three work, and a plan that waits for duty.
func (s *story) begin() {
	s.t.Helper()
	s.noError(s.stage.Apply(s.t.Context(), harness.RosterManifest(harness.Named(0, 2, 4))))
	s.noError(s.stage.Apply(s.t.Context(), harness.SetManifest()))
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.noError(controlplane.Until(ctx, "three replicas work", func(context.Context) error {
		if w := s.stage.Attendants.Working(); len(w) != 3 {
			return fmt.Errorf("%v do", w)
		}
		return nil
	}))
	s.noError(s.stage.Apply(s.t.Context(), harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}")))
}

func (s *story) await(what string, check func(harness.Now) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.noError(s.stage.History.Await(ctx, what, check))
}

// at wants the plan to be as far as progress, for reason.
func at(progress, reason string) func(harness.Now) error {
	return func(n harness.Now) error {
		p, ok := n.Plans[harness.Group]
		if !ok {
			return fmt.Errorf("there is no plan")
		}
		if c := p.Condition("Ready"); p.Status.Progress != progress || c.Reason != reason || p.Status.ObservedGeneration != p.Generation {
			return fmt.Errorf("the plan is at %s and says %s: %s", p.Status.Progress, c.Reason, c.Message)
		}
		return nil
	}
}

// same wants the pods to be those of before, with the same containers.
func same(t *testing.T, before, after map[string]harness.Pod) {
	t.Helper()
	for name, b := range before {
		a := after[name]
		if a.UID != b.UID || a.Image != b.Image || cmp.Diff(b.Containers, a.Containers) != "" {
			t.Errorf("%s was %s, and is %s", name, harness.Describe(b), harness.Describe(a))
		}
	}
}

// acceptsEverything asks the API server about all values of the chart at once.
func (s *story) acceptsEverything() {
	s.t.Helper()
	s.kubectl("create", "namespace", "team-a")
	manifests := s.must(s.t, "template", "offduty", chart, "--namespace", systemNamespace, "--kube-version", "1.34", "--values", everything,
		// This cluster has no Prometheus operator.
		"--set", "monitoring.podMonitor.enabled=false,monitoring.rules.enabled=false")
	_, err := s.system.Kubectl(s.t.Context(), manifests, "apply", "--dry-run=server", "--server-side", "--force-conflicts", "--validate=strict", "--filename", "-")
	s.noError(err)
}

// uninstallGuide runs upgrader uninstall as administrator, and returns what it says and
// its exit code.
func (s *story) uninstallGuide() (string, int) {
	s.t.Helper()
	program, err := s.cluster.Build(s.t.Context(), "./cmd/upgrader")
	s.noError(err)
	cmd := exec.CommandContext(s.t.Context(), program, "uninstall")
	cmd.Env = append(os.Environ(), s.system.KubectlEnv()...)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

// olderWords are in the definitions of the earlier version only.
const olderWords = "An earlier version said it in other words."

// olderChart is the chart as an earlier version might have been: with other definitions,
// and without the disruption budget.
func olderChart(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "offduty")
	if err := os.CopyFS(dir, os.DirFS(chart)); err != nil {
		t.Fatal(err)
	}
	edit := func(name string, change func(string) string) {
		path := filepath.Join(dir, name)
		before := string(read(t, path))
		after := change(before)
		if after == before {
			t.Fatalf("%s has changed: the earlier chart is like the present one", name)
		}
		if err := os.WriteFile(path, []byte(after), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	edit("Chart.yaml", func(s string) string { return strings.Replace(s, "version: 0.0.0", "version: 0.0.0-earlier", 1) })
	edit("templates/crds.yaml", func(s string) string {
		return strings.Replace(s, "description: Replicas under a lease of this plan.", "description: "+olderWords, 1)
	})
	edit("templates/upgrader.yaml", func(s string) string {
		i := strings.Index(s, "---\napiVersion: policy/v1\nkind: PodDisruptionBudget")
		if i < 0 {
			return s
		}
		end := strings.Index(s[i+4:], "---\n")
		if end < 0 {
			return s[:i]
		}
		return s[:i] + s[i+4+end:]
	})
	return dir
}
