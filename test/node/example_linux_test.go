package node

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/e2e/harness"
)

//go:embed testdata/sample.yaml
var sample string

const (
	application = "application"
	oldImage    = "offduty.test/replica:v1"
	newImage    = "offduty.test/replica:v2"
	// crashes is an image whose program ends at once.
	crashes = "offduty.test/replica:crashes"
)

// stage is the application under observation.
type stage struct {
	*system
	history *harness.History
}

func newStage(s *system) *stage {
	s.t.Helper()
	s.namespace(application)
	h, err := harness.Record(s.t.Context(), s.Cluster, application)
	s.must(err)
	return &stage{system: s, history: h}
}

func (s *stage) on(t *testing.T) *stage {
	t.Helper()
	inner := *s.system
	inner.t = t
	return &stage{system: &inner, history: s.history}
}

func (s *stage) apply(manifest string) {
	s.t.Helper()
	s.kubectl(manifest, "apply", "--namespace", application, "--filename", "-")
}

func (s *stage) assign(ordinals ...int) {
	s.t.Helper()
	s.kubectl("", "patch", "roster", harness.Group, "--namespace", application, "--type", "merge",
		"--patch", fmt.Sprintf(`{"spec": {"assigned": %s}}`, harness.Named(ordinals...)))
}

func (s *stage) await(what string, check func(harness.Now) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(s.history.Await(ctx, what, check))
}

// awaitProgress waits until so many replicas are upgraded and the plan says reason.
func (s *stage) awaitProgress(progress, reason string) {
	s.t.Helper()
	s.await("the plan is at "+progress+" and says "+reason, func(n harness.Now) error {
		p := n.Plans[harness.Group]
		c := p.Condition("Ready")
		if p.Status.ObservedGeneration != p.Generation || p.Status.Progress != progress || c.Reason != reason {
			return fmt.Errorf("it is at %s and says %s: %s", p.Status.Progress, c.Reason, c.Message)
		}
		return nil
	})
}

func (s *stage) awaitWorking(ordinals ...int) {
	s.t.Helper()
	var want []string
	for _, o := range ordinals {
		want = append(want, fmt.Sprintf("sample-%d", o))
	}
	s.until(fmt.Sprintf("%v work", want), func(context.Context) error {
		got, err := working(application)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%v do", got)
		}
		return err
	})
}

// container is what a real restart in place may or may not change.
type container struct {
	ID, ImageID string
	Restarts    int32
}

type replica struct {
	UID, IP       string
	Main, Sidecar container
}

// replicas are the pods as the kubelet reports them.
func (s *stage) replicas() map[string]replica {
	s.t.Helper()
	var pods corev1.PodList
	s.must(s.admin.List(s.t.Context(), &pods, client.InNamespace(application)))
	out := map[string]replica{}
	for _, p := range pods.Items {
		r := replica{UID: string(p.UID), IP: p.Status.PodIP}
		for _, c := range p.Status.ContainerStatuses {
			state := container{c.ContainerID, c.ImageID, c.RestartCount}
			switch c.Name {
			case "main":
				r.Main = state
			case "sidecar":
				r.Sidecar = state
			}
		}
		out[p.Name] = r
	}
	return out
}

// fate says what became of a replica.
type fate struct {
	SamePod, SameIP, SameSidecar bool
	NewContainer, NewImage       bool
	Restarts                     int32
}

// awaitStalled waits until the plan says that it cannot go on, with these words.
func (s *stage) awaitStalled(words ...string) {
	s.t.Helper()
	s.await(fmt.Sprintf("the plan has stalled and says %v", words), func(n harness.Now) error {
		c := n.Plans[harness.Group].Condition("Stalled")
		for _, word := range words {
			if c.Status != metav1.ConditionTrue || !strings.Contains(c.Message, word) {
				return fmt.Errorf("it says %s: %s", c.Reason, c.Message)
			}
		}
		return nil
	})
	s.t.Logf("the plan says: %s", s.history.Now().Plans[harness.Group].Condition("Stalled").Message)
}

// checkUntouched wants the containers of these ordinals to be those of before.
func (s *stage) checkUntouched(before map[string]replica, ordinals ...int) {
	s.t.Helper()
	now := s.replicas()
	for _, o := range ordinals {
		name := fmt.Sprintf("sample-%d", o)
		if diff := cmp.Diff(before[name], now[name]); diff != "" {
			s.t.Errorf("%s is on duty, and was touched (-before +now):\n%s", name, diff)
		}
	}
	s.t.Logf("before and after:\n%s", table(before, now))
}

// check wants exactly these ordinals to have been restarted in place, once each.
func (s *stage) check(before map[string]replica, ordinals ...int) {
	s.t.Helper()
	now := s.replicas()
	got, want := map[string]fate{}, map[string]fate{}
	for name, b := range before {
		n := now[name]
		got[name] = fate{
			SamePod: n.UID == b.UID, SameIP: n.IP == b.IP, SameSidecar: n.Sidecar == b.Sidecar,
			NewContainer: n.Main.ID != b.Main.ID, NewImage: n.Main.ImageID != b.Main.ImageID, Restarts: n.Main.Restarts,
		}
		want[name] = fate{SamePod: true, SameIP: true, SameSidecar: true}
	}
	for _, o := range ordinals {
		want[fmt.Sprintf("sample-%d", o)] = fate{SamePod: true, SameIP: true, SameSidecar: true, NewContainer: true, NewImage: true, Restarts: 1}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("the containers (-want +got):\n%s", diff)
	}
	s.t.Logf("before and after:\n%s", table(before, now))
}

// table shows what changed. A buffer in memory takes whatever is written.
func table(before, now map[string]replica) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POD\tUID\tIP\tMAIN CONTAINER\tMAIN IMAGE\tRESTARTS\tSIDECAR CONTAINER")
	for i := range len(before) {
		name := fmt.Sprintf("sample-%d", i)
		b, n := before[name], now[name]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", name, change(b.UID, n.UID), change(b.IP, n.IP),
			change(b.Main.ID, n.Main.ID), change(b.Main.ImageID, n.Main.ImageID), n.Main.Restarts, change(b.Sidecar.ID, n.Sidecar.ID))
	}
	_ = w.Flush()
	return text.String()
}

// change shows two identifiers, shortened, or one if they are the same.
func change(before, now string) string {
	if before == now {
		return short(now)
	}
	return short(before) + "→" + short(now)
}

func short(id string) string {
	id = strings.TrimPrefix(strings.TrimPrefix(id, "containerd://"), "sha256:")
	return id[:min(len(id), 13)]
}

func TestTheWorkedExampleWithRealContainers(t *testing.T) {
	s := newStage(install(t))
	s.apply(harness.RosterManifest(harness.Named(0, 2, 4)))
	s.apply(sample)
	s.awaitWorking(0, 2, 4)
	s.apply(harness.PlanManifest(oldImage, "{handover: Wait, maxUnavailable: 2}"))
	s.awaitProgress("5/5", "Complete")
	s.await("all are in service", func(n harness.Now) error {
		for _, p := range n.Pods {
			if !p.Ready || p.Gate != "True" {
				return fmt.Errorf("%s is not: %s", p.Name, harness.Describe(p))
			}
		}
		return nil
	})
	before := s.replicas()
	t.Run("while 0, 2 and 4 work, exactly 1 and 3 are restarted in place", func(t *testing.T) {
		s := s.on(t)
		began := time.Now()
		s.apply(harness.PlanManifest(newImage, "{handover: Wait, maxUnavailable: 2}"))
		s.awaitProgress("2/5", "WaitingForDuty")
		t.Logf("two replicas upgraded after %.1f s", time.Since(began).Seconds())
		s.check(before, 1, 3)
	})
	t.Run("when duty is with 0, 1 and 2, replica 4 is, although the leading upgrader's pod is deleted half-way", func(t *testing.T) {
		s := s.on(t)
		ended := s.atRelease("sample-4", func(leader corev1.Pod) error {
			return s.admin.Delete(context.Background(), &leader)
		})
		s.assign(0, 1, 2)
		s.awaitProgress("3/5", "WaitingForDuty")
		s.must(<-ended)
		s.check(before, 1, 3, 4)
	})
	t.Run("when duty moves on, all are, although the leading upgrader is killed half-way", func(t *testing.T) {
		s := s.on(t)
		ended := s.atRelease("sample-0", func(leader corev1.Pod) error {
			return s.KillContainer(context.Background(), leader.Status.ContainerStatuses[0].ContainerID)
		})
		s.assign(1, 3, 4)
		s.awaitProgress("5/5", "Complete")
		s.must(<-ended)
		s.check(before, 0, 1, 2, 3, 4)
	})
	before = s.replicas()
	t.Run("an image that crashes costs nobody on duty, and the plan says what the kubelet says", func(t *testing.T) {
		s := s.on(t)
		s.apply(harness.PlanManifest(crashes, "{handover: Wait, maxUnavailable: 2, verify: {timeoutSeconds: 10}}"))
		s.awaitStalled(crashes, "CrashLoopBackOff")
		s.checkUntouched(before, 1, 3, 4)
	})
	t.Run("and one that runs mends what crashed", func(t *testing.T) {
		s := s.on(t)
		s.apply(harness.PlanManifest(oldImage, "{handover: Wait, maxUnavailable: 2}"))
		s.awaitProgress("2/5", "WaitingForDuty")
		s.checkUntouched(before, 1, 3, 4)
	})
	t.Run("no promise was broken", func(t *testing.T) {
		s.on(t).prove()
	})
	t.Log(s.kubectl("", "get", "upgradeplans,rosters,statefulsets.apps.kruise.io,pods", "--namespace", application, "--output", "wide"))
}

// atRelease does something to the leading upgrader at the very moment when the hold of a
// pod is gone, and says then how that went.
func (s *stage) atRelease(pod string, do func(leader corev1.Pod) error) <-chan error {
	ended := make(chan error, 1)
	held := false
	s.history.When(func(n harness.Now) bool {
		p := n.Pods[pod]
		released := held && !p.Hold
		held = p.Hold
		return released
	}, func() {
		leader, err := s.leader(context.Background())
		if err == nil {
			err = do(leader)
		}
		s.t.Logf("at the release of %s: %s is ended", pod, leader.Name)
		ended <- err
	})
	return ended
}

// prove holds all that happened against the promises of the design.
func (s *stage) prove() {
	s.t.Helper()
	observed := &harness.Stage{
		System: &harness.System{Cluster: s.Cluster}, Namespace: application, History: s.history, Attendants: &harness.Attendants{},
	}
	e, err := observed.Evidence(s.t.Context())
	s.must(err)
	e.Shifts, err = shifts(application)
	s.must(err)
	workers := map[string]bool{}
	for _, shift := range e.Shifts {
		workers[shift.Pod] = true
	}
	if len(workers) != 5 {
		s.t.Errorf("each of the five had duty at some time, but there are shifts of %v only: the evidence is not complete", workers)
	}
	for _, v := range e.Prove() {
		s.t.Error(v)
	}
	s.t.Logf("seen: %d versions of pods, %d shifts of the application, %d writes to pods and sets", len(e.Pods), len(e.Shifts), len(e.Writes))
}
