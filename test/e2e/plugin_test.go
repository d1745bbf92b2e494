package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
	"offduty.dev/upgrader/preview"
	"offduty.dev/upgrader/view"
)

// plugin runs "kubectl offduty" in the namespace of a stage, as some identity.
type plugin struct {
	*stage

	kubectl string
	env     []string
}

// said is what a command printed, and its exit code.
type said struct {
	out, err string
	code     int
}

// plugin puts the plugin on the PATH, under both of its names.
func (s *stage) plugin(who controlplane.Identity) *plugin {
	s.t.Helper()
	binary, err := s.Cluster.Build(s.t.Context(), "./cmd/kubectl-offduty")
	s.must(err)
	kubeconfig, err := s.Cluster.Kubeconfig(s.t.Context(), who)
	s.must(err)
	path := s.t.TempDir()
	for _, name := range []string{"kubectl-offduty", "kubectl_complete-offduty"} {
		s.must(os.Symlink(binary, filepath.Join(path, name)))
	}
	return &plugin{stage: s, kubectl: s.Cluster.Kubectl(), env: append(os.Environ(),
		"PATH="+path+":"+os.Getenv("PATH"), "KUBECONFIG="+kubeconfig, "KUBECACHEDIR="+filepath.Join(s.Cluster.Dir(), "kubectl-cache"))}
}

// on returns the plugin for a subtest.
func (p *plugin) on(t *testing.T) *plugin {
	t.Helper()
	return &plugin{stage: p.stage.on(t), kubectl: p.kubectl, env: p.env}
}

// run is kubectl with any arguments.
func (p *plugin) run(stdin string, args ...string) said {
	p.t.Helper()
	return p.runTelling(func() {}, stdin, args...)
}

// runTelling is run that tells when the command has begun to print.
func (p *plugin) runTelling(begun func(), stdin string, args ...string) said {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.kubectl, args...)
	cmd.Env, cmd.Stdin = p.env, strings.NewReader(stdin)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, teller(sync.OnceFunc(begun))), &problems
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	p.t.Logf("$ kubectl %s  # exit code %d\n%s%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), out.String(), problems.String())
	return said{out.String(), problems.String(), cmd.ProcessState.ExitCode()}
}

// teller is a writer that says that it was written to.
type teller func()

func (t teller) Write(b []byte) (int, error) { t(); return len(b), nil }

// offduty runs the plugin and wants the exit code.
func (p *plugin) offduty(code int, args ...string) said {
	p.t.Helper()
	return p.offdutyWith(code, "", args...)
}

func (p *plugin) offdutyWith(code int, stdin string, args ...string) said {
	p.t.Helper()
	s := p.run(stdin, append([]string{"offduty", "-n", p.Namespace}, args...)...)
	if s.code != code {
		p.t.Errorf("kubectl offduty %s: exit code %d, not %d", strings.Join(args, " "), s.code, code)
	}
	return s
}

// watchToItsEnd watches the plan until it is complete.
func (p *plugin) watchToItsEnd(begun func()) said {
	p.t.Helper()
	s := p.runTelling(begun, "", "offduty", "-n", p.Namespace, "status", "sample", "--watch", "--timeout=170s")
	if s.code != 0 {
		p.t.Errorf("kubectl offduty status sample --watch: exit code %d", s.code)
	}
	return s
}

// has wants all words in a text.
func (p *plugin) has(text string, words ...string) {
	p.t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			p.t.Errorf("this lacks %q:\n%s", w, text)
		}
	}
}

// preview previews a manifest that is not applied.
func (p *plugin) preview(manifest string) preview.Result {
	p.t.Helper()
	var r preview.Result
	p.must(json.Unmarshal([]byte(p.offdutyWith(0, manifest, "preview", "-f", "-", "-o", "json").out), &r))
	return r
}

// viewer may read what the role view lets it read in the stage's namespace, and nothing else.
func (s *stage) viewer() controlplane.Identity {
	s.t.Helper()
	who := controlplane.User("viewer-" + s.Namespace)
	k, err := s.Cluster.Client(s.t.Context(), controlplane.Admin(), nil)
	s.must(err)
	s.must(k.Create(s.t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: "viewer"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: who.Username()}},
	}))
	return who
}

// order is how replicas were released, by name of the pod, since the first n writes.
func (s *stage) order(n int) []string {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	var names []string
	for _, w := range e.Writes[n:] {
		if w.Ours() && w.Kind == "pods" && w.Hold != nil && !*w.Hold {
			names = append(names, w.Name)
		}
	}
	return names
}

func (s *stage) writes() int {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	return len(e.Writes)
}

// rounds are the names of upgraded replicas by round, each round sorted.
func rounds(r preview.Result) [][]string {
	var out [][]string
	last := 0
	for _, s := range r.Steps {
		if s.Kind != preview.Upgrade {
			continue
		}
		if s.Round != last {
			out, last = append(out, nil), s.Round
		}
		out[len(out)-1] = append(out[len(out)-1], s.Replica)
	}
	for i := range out {
		slices.Sort(out[i])
	}
	return out
}

// inRounds cuts names into rounds as long as those of like.
func inRounds(names []string, like [][]string) [][]string {
	var out [][]string
	for _, r := range like {
		n := min(len(r), len(names))
		round := slices.Sorted(slices.Values(names[:n]))
		out, names = append(out, round), names[n:]
	}
	if len(names) > 0 {
		out = append(out, names)
	}
	return out
}

// previewed counts how often each replica would lose its duty.
func previewed(r preview.Result) map[string]int {
	out := map[string]int{}
	for _, s := range r.Steps {
		if s.Kind == preview.Handover {
			out[s.Replica]++
		}
	}
	return out
}

// failed is the replica that the plan gives up.
func (p *plugin) failed() string {
	for _, r := range p.now().Plans[harness.Group].Status.ReplicaStatuses {
		if r.Step == "Failed" {
			return r.Name
		}
	}
	return ""
}

// allRun wants every pod to run an image.
func (p *plugin) allRun(image string) {
	p.t.Helper()
	for name, pod := range p.now().Pods {
		if pod.Image != image {
			p.t.Errorf("%s runs %s", name, pod.Image)
		}
	}
}

func TestThePluginTellsAViewer(t *testing.T) {
	s := newStage(t)
	p := s.plugin(s.viewer())
	before := s.begin(harness.Named(0, 2, 4), 3)
	manifest := harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}")

	t.Run("that a plan is not there, with exit code 6", func(t *testing.T) {
		p := p.on(t)
		p.has(p.offduty(view.ExitNotFound, "status", "sample").err, `error: upgradeplans.offduty.dev "sample" not found`)
		p.has(p.offduty(0, "status").err, "No upgradeplans found")
		p.has(p.offduty(1, "status", "--nonsense").err, "error: unknown flag: --nonsense", "kubectl offduty status --help")
	})
	t.Run("before it is applied, exactly what then happens", func(t *testing.T) {
		p := p.on(t)
		r := p.preview(manifest)
		if diff := cmp.Diff([][]string{{"sample-1", "sample-3"}}, rounds(r)); diff != "" {
			t.Errorf("upgrades by round (-want +got):\n%s", diff)
		}
		left := []preview.Replica{{Name: "sample-0", Duty: "Working"}, {Name: "sample-2", Duty: "Working"}, {Name: "sample-4", Duty: "Working"}}
		if diff := cmp.Diff(left, r.Left); diff != "" || r.Reason != "WaitingForDuty" {
			t.Errorf("it ends with %s: %s; left (-want +got):\n%s", r.Reason, r.Message, diff)
		}
		p.has(p.offdutyWith(0, manifest, "preview", "-f", "-").out, "container main: alpine:3.18.2 → alpine:3.18.0", "in place", "then it waits: WaitingForDuty")
		p.apply(manifest)
		p.await("two are upgraded", waiting("2/5", r.Reason))
		p.check(before, upgraded(1, 3), 3)
	})
	t.Run("how far it is, and in exit code 3 that it is under way", func(t *testing.T) {
		p := p.on(t)
		p.has(p.offduty(view.ExitUnderWay, "status", "sample").out, "2/5 UnderWay", "WaitingForDuty", "├─ sample-0", "Working  Protected", "Idle     Upgraded")
		p.has(p.offduty(0, "status").out, "NAME", "2/5", "UnderWay")
		p.has(p.offduty(view.ExitUnderWay, "status", "sample", "-o", "name").out, "upgradeplan.offduty.dev/sample")
		var v view.Plan
		p.must(json.Unmarshal([]byte(p.offduty(view.ExitUnderWay, "status", "sample", "-o", "json").out), &v))
		if v.State != view.UnderWay || v.Upgraded != 2 || len(v.Targets) != 1 || len(v.Targets[0].Pods) != 5 {
			t.Errorf("the JSON says %+v", v)
		}
		timed := p.offduty(view.ExitUnderWay, "status", "sample", "--watch", "--timeout=5s")
		p.has(timed.err, "error: timed out after 5s: upgradeplan/sample: 2 of 5 upgraded: WaitingForDuty")
	})
	t.Run("why not further, who holds what, and what to do", func(t *testing.T) {
		p := p.on(t)
		p.has(p.offduty(0, "why").out, "plan sample: WaitingForDuty", "what to do: ", "replica sample-0: Protected", "it works: it is upgraded when it is off duty",
			"roster "+p.Namespace+"/sample: 5 serve, the floor is 3", "on duty: sample-0,sample-2,sample-4", "leased: nobody")
	})
	t.Run("the revisions, and how many pods are at each", func(t *testing.T) {
		p := p.on(t)
		var revisions []view.Revision
		p.must(json.Unmarshal([]byte(p.offduty(0, "history", "sample", "-o", "json").out), &revisions))
		type short struct {
			Image           string
			Number          int64
			Pods            int
			Current, Update bool
		}
		var got []short
		for _, r := range revisions {
			got = append(got, short{r.Images["main"], r.Number, r.Pods, r.Current, r.Update})
		}
		want := []short{{harness.OldImage, 1, 3, true, false}, {harness.NewImage, 2, 2, false, true}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the history (-want +got):\n%s", diff)
		}
		p.offduty(0, "history")
	})
	t.Run("nothing that it may not see, and lets it change nothing", func(t *testing.T) {
		p := p.on(t)
		p.has(p.offduty(1, "pause", "sample").err, "error: ", "forbidden")
		p.has(p.offduty(1, "status", "-A").err, "error: ", "forbidden")
	})
	t.Run("the names of plans while it types", func(t *testing.T) {
		p := p.on(t)
		if got := p.run("", "__complete", "offduty", "status", "-n", p.Namespace, "sa"); !strings.HasPrefix(got.out, "sample\n") {
			t.Errorf("completed: %q", got.out)
		}
	})
	t.Run("when it is done, with exit code 0, as soon as it is", func(t *testing.T) {
		p := p.on(t)
		begun, done := make(chan struct{}), make(chan said, 1)
		go func() {
			done <- p.watchToItsEnd(func() { close(begun) })
		}()
		p.wait("it says where the plan is", begun)
		p.assign(harness.Named(1, 3, 2))
		p.await("four are upgraded", waiting("4/5", "WaitingForDuty"))
		p.assign(harness.Named(1, 3, 4))
		got := <-done
		p.has(got.out, "upgradeplan/sample: 2 of 5 upgraded: WaitingForDuty", "upgradeplan/sample: 5 of 5 upgraded: Complete: all 5 replicas are upgraded\n")
		p.offduty(0, "status", "sample")
	})
}

func TestThePluginSteers(t *testing.T) {
	s := newStage(t)
	p := s.plugin(controlplane.Admin())
	s.begin(harness.Slots(3), 3)

	t.Run("a preview with handovers is what then happens, round by round", func(t *testing.T) {
		p := p.on(t)
		manifest := harness.PlanManifest(harness.NewImage, "{handover: Request, maxUnavailable: 2}")
		r := p.preview(manifest)
		if !r.Done || len(r.Left) > 0 {
			t.Errorf("it ends with %s: %s, and leaves %v", r.Reason, r.Message, r.Left)
		}
		p.offdutyWith(0, manifest, "preview", "-f", "-")
		begun, shifts := p.writes(), len(p.Attendants.Shifts())-3
		p.apply(manifest)
		p.has(p.offduty(0, "status", "sample", "-w", "--timeout=170s").out, "5 of 5 upgraded: Complete")
		if diff := cmp.Diff(rounds(r), inRounds(p.order(begun), rounds(r))); diff != "" {
			t.Errorf("upgrades by round (-previewed +happened):\n%s", diff)
		}
		if diff := cmp.Diff(previewed(r), handovers(p.Attendants.Shifts()[shifts:])); diff != "" {
			t.Errorf("how often each lost its duty (-previewed +happened):\n%s", diff)
		}
	})
	t.Run("undo goes back, paused it does not begin, resumed it does", func(t *testing.T) {
		p := p.on(t)
		p.has(p.offduty(0, "pause", "sample", "--dry-run=server").out, "upgradeplan.offduty.dev/sample paused (server dry run)")
		p.has(p.offduty(0, "pause", "sample").out, "upgradeplan.offduty.dev/sample paused\n")
		p.has(p.offduty(1, "pause", "sample").err, `error: upgradeplans.offduty.dev "sample" is already paused`)
		p.has(p.offduty(1, "undo", "sample", "--to-revision=7").err, "target sample has no revision 7: it has 1, 2")
		p.has(p.offduty(0, "undo", "sample").out, "upgradeplan.offduty.dev/sample: target sample goes back to revision 1 of ", "(main="+harness.OldImage+")")
		p.has(p.offduty(view.ExitPaused, "status", "sample", "--watch", "--timeout=60s").err, "error: upgradeplan/sample: ", " of 5 upgraded: Paused (paused)")
		p.has(p.offduty(0, "preview", "sample").out, "note: the plan is paused", "then it is complete")
		p.has(p.offduty(0, "resume", "sample").out, "upgradeplan.offduty.dev/sample resumed\n")
		p.offduty(0, "status", "sample", "--watch", "--timeout=170s")
		p.allRun(harness.OldImage)
	})
	t.Run("a failed replica ends the wait at once with exit code 4, and its pin can be released by force", func(t *testing.T) {
		p := p.on(t)
		p.apply(harness.PlanManifest("alpine:broken-1", "{handover: Wait, maxUnavailable: 1, verify: {timeoutSeconds: 2}}"))
		p.has(p.offduty(view.ExitStalled, "status", "sample", "--watch", "--timeout=170s").err, "(stalled)", "ReplicaFailed", "ImagePullBackOff")
		failed := p.failed()
		p.has(p.offduty(0, "why", "sample").out, "replica "+failed+": ImagePullBackOff", "what to do: correct the image", "Pinned", "upgradeplan/sample")
		p.has(p.offduty(1, "release-pin", "sample", failed, "--reason=test").err, "pinned, held by upgradeplan/sample", "confirm with --yes")
		p.has(p.offduty(1, "release-pin", "sample", "sample-9", "--reason=test", "--yes").err, "shows no lease on sample-9")
		p.has(p.offduty(1, "release-pin", "sample", failed, "--reason=test", "--yes").err, "give --a", "--address")
		p.has(p.offduty(0, "release-pin", "sample", failed, "--reason=it was mended by hand", "--yes", "--address="+p.ArbiterAddress).out, "released lease ", " on ")
		p.await("the roster tells of it", func(n harness.Now) error {
			r := n.Rosters[harness.Group].Status.ForceReleases
			if len(r) != 1 || r[0].By != "offduty-admin" || r[0].Reason != "it was mended by hand" {
				return fmt.Errorf("it says %+v", r)
			}
			return nil
		})
	})
	t.Run("and undo mends it", func(t *testing.T) {
		p := p.on(t)
		p.offduty(0, "undo", "sample")
		p.offduty(0, "status", "sample", "--watch", "--keep-waiting", "--timeout=170s")
		p.allRun(harness.OldImage)
	})
}

func TestThePluginAndAPlanThatFollows(t *testing.T) {
	s := newStage(t)
	p := s.plugin(controlplane.Admin())
	s.begin(harness.Named(0), 1)
	images := fmt.Sprintf("\n    images:\n      main: %s", harness.NewImage)
	s.apply(strings.Replace(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 5}"), images, "", 1))
	p.offduty(0, "status", "sample", "--watch", "--timeout=170s")

	t.Run("is not done while its status does not speak of the latest template", func(t *testing.T) {
		p := p.on(t)
		_, err := p.Kubectl(t.Context(), "", "patch", "-n", p.Namespace, "statefulsets.apps.kruise.io", "sample", "--type=json",
			"--patch", fmt.Sprintf(`[{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": %q}]`, harness.NewImage))
		p.must(err)
		p.has(p.offduty(view.ExitUnderWay, "status", "sample").out, "UnderWay")
		p.await("all but the worker are upgraded", waiting("4/5", "WaitingForDuty"))
		p.assign(harness.Named(1))
		p.offduty(0, "status", "sample", "--watch", "--timeout=170s")
		p.allRun(harness.NewImage)
	})
	t.Run("has nothing to undo, and is told where to", func(t *testing.T) {
		p := p.on(t)
		p.has(p.offduty(1, "undo", "sample").err, "error: target sample follows its set's template", "put the earlier ones (main="+harness.OldImage+") back where")
	})
}
