package e2e

import (
	"fmt"
	"testing"

	"offduty.dev/api/v1alpha1"
	arbiterclient "offduty.dev/arbiter/client"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// Races that others had, and what we do instead. docs/develop.md says which of them are in
// other tests.

// kube-hetzner #1182: the lock of a node that was being rebooted had a time to live. It ran out
// while the node had still not come back, and the next one went, and the next. kured #822 is
// the other side: a lock without one stayed with a node that was gone.
//
// Here a lease has a time to live only as long as everything can be undone. Then it is pinned,
// and whoever leads next finds it and finishes.
func TestATimeThatRunsOutLetsNobodyElseGo(t *testing.T) {
	s := newStage(t)
	s.begin(harness.Slots(3), 3, v1alpha1.InServiceGate)
	s.apply(harness.PlanManifest(harness.OldImage, oneByOne))
	s.await("the set is taken over", settled)
	t.Run("past the point of no return a lease outlives one that was taken later and ran out, and counts", func(t *testing.T) {
		s := s.on(t)
		goOn := s.holdUpdates() // so that it is not verified before the upgrader stands
		pod := s.frozenAt(harness.StepOf("released"), harness.NewImage)
		if granted, refused := s.acquire("early"); granted != 1 {
			t.Fatalf("somebody else got %d leases, not the one that is left: %v", granted, refused)
		}
		s.await("theirs is noted", func(n harness.Now) error { return leased(n, 2) })
		s.await("theirs has run out", func(n harness.Now) error { return leasedAlone(n, pod) })
		s.patchRoster(`{"maxLeased":1}`)
		if granted, _ := s.acquire("late"); granted != 0 {
			t.Errorf("somebody else got %d leases beside the one of %s", granted, pod)
		}
		goOn()
		s.wakeUpgrader(harness.NewImage)
	})
	t.Run("before it the lease runs out, and the leader that wakes up too late releases nothing under it", func(t *testing.T) {
		s := s.on(t)
		// While the kubelet stands, too, nobody is drained, and nothing is pinned.
		s.must(s.Freeze(controlplane.Kwok))
		s.frozenAt(harness.StepOf("leased and draining"), "alpine:3.19.0")
		s.must(s.Thaw(controlplane.Kwok))
		s.await("the lease has run out", harness.Now.NoLeases)
		s.wakeUpgrader("alpine:3.19.0")
	})
	s.guarded()
}

const oneByOne = "{handover: Request, maxUnavailable: 1}"

// frozenAt begins an upgrade and freezes the upgrader at a step of the first replica.
func (s *stage) frozenAt(at harness.Step, image string) (pod string) {
	s.t.Helper()
	var frozen error
	done := s.History.When(func(n harness.Now) (ok bool) {
		pod, ok = at.Seen(n, image)
		return ok
	}, func() { frozen = s.Freeze(harness.UpgraderA) })
	s.apply(harness.PlanManifest(image, oneByOne))
	s.wait("the step "+at.Name+" comes", done)
	s.must(frozen)
	s.t.Cleanup(func() {
		for _, name := range []string{harness.UpgraderA, controlplane.Kwok} {
			if p, err := s.Cluster.Process(name); s.t.Failed() && err == nil && p.Running() {
				s.must(p.Thaw())
			}
		}
	})
	return pod
}

// wakeUpgrader wakes the upgrader, which ends when it finds that it leads no more and is
// started again, and waits until the upgrade is complete.
func (s *stage) wakeUpgrader(image string) {
	s.t.Helper()
	s.must(s.Thaw(harness.UpgraderA))
	s.await("the upgrade is complete", func(n harness.Now) error { return n.Complete(image) })
}

// leased wants so many leases, whoever has them.
func leased(n harness.Now, want int) error {
	if l := n.Rosters[harness.Group].Status.Leases; len(l) != want {
		return fmt.Errorf("there are %+v", l)
	}
	return nil
}

// leasedAlone wants one lease, pinned, on a pod.
func leasedAlone(n harness.Now, pod string) error {
	l := n.Rosters[harness.Group].Status.Leases
	if len(l) != 1 || l[0].Replica != pod || l[0].Phase != "Pinned" {
		return fmt.Errorf("there are %+v", l)
	}
	return nil
}

// acquire asks as another holder for a lease on any replica, and says how many it got and why
// no others.
func (s *stage) acquire(request string) (granted int, refused map[string]arbiterclient.Refusal) {
	s.t.Helper()
	k, err := s.Arbiter("upgrader")
	s.must(err)
	defer k.Close()
	r := arbiterclient.AcquireRequest{
		Group: s.Namespace + "/" + harness.Group, Holder: "somebody-else", RequestID: request, Max: 1, TTL: harness.LeaseTTL,
	}
	for name, p := range s.now().Pods {
		r.Candidates = append(r.Candidates, arbiterclient.Candidate{Replica: s.Namespace + "/" + name, Instance: p.UID})
	}
	adopted, no, err := k.Adopt(s.t.Context(), r.Group, r.Holder, 1, "e2e", nil)
	s.must(err)
	if no != nil {
		s.t.Fatal(no)
	}
	r.Token = adopted.Token
	got, no, err := k.Acquire(s.t.Context(), r)
	s.must(err)
	if no != nil {
		s.t.Fatal(no)
	}
	return len(got.Leases), got.Refusals
}

// kruise #1183: one pod was being prepared for its update and had left service when another
// one was lost. That one came back new, the partition was satisfied by it, and the first stayed
// out of service for good.
//
// Here the partition is exact: the one that was lost counts, and so does the one selected.
func TestALostPodThatComesBackNewStrandsNobody(t *testing.T) {
	s := newStage(t)
	s.begin(harness.Named(0, 2, 4), 3)
	other := map[string]string{"sample-1": "sample-3", "sample-3": "sample-1"}
	var selected string
	var lost error
	done := s.History.When(func(n harness.Now) (ok bool) {
		selected, ok = harness.StepOf("selected").Seen(n, harness.NewImage)
		return ok
	}, func() { lost = s.remove("pod/" + other[selected]) })
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 1}"))
	s.wait("a replica is selected", done)
	s.must(lost)
	s.await("both are upgraded, and nothing is under way", func(n harness.Now) error {
		if err := waiting("2/5", "WaitingForDuty")(n); err != nil {
			return err
		}
		return quiet(n)
	})
	s.checkImages(3, "3.18.2", "3.18.0", "3.18.2", "3.18.0", "3.18.2")
	s.assign(harness.Named(1, 3))
	s.await("the plan is ready", settled)
	s.guarded()
}

// KubeBlocks #10186: the labels that tell the roles were lost, and with them the order of
// updates and the knowledge of who may be touched.
//
// Here labels only order and inform. Duty is the arbiter's.
func TestLostRoleLabelsCostNoWorkerAnything(t *testing.T) {
	s := newStage(t)
	before := s.begin(harness.Named(0, 2, 4), 3)
	var lost error
	done := s.History.When(func(n harness.Now) bool {
		_, ok := harness.StepOf("selected").Seen(n, harness.NewImage)
		return ok
	}, func() {
		_, lost = s.Kubectl(t.Context(), "", "label", "pods", "--all", "--namespace", s.Namespace, "working-")
	})
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
	s.wait("a replica is selected", done)
	s.must(lost)
	s.await("those off duty are upgraded", waiting("2/5", "WaitingForDuty"))
	s.check(before, upgraded(1, 3), 3)
	_, err := s.Kubectl(t.Context(), "", "label", "pods", "--all", "--namespace", s.Namespace, "--overwrite", "working=false")
	s.must(err)
	s.assign(harness.Named(0, 2, 1))
	s.await("the one that is off duty now is upgraded", waiting("3/5", "WaitingForDuty"))
	s.check(before, upgraded(1, 3, 4), 2)
	s.assign(harness.Named(1, 3, 4))
	s.await("the plan is ready", settled)
	s.check(before, upgraded(0, 1, 2, 3, 4), harness.Parked)
	s.guarded()
}

// The Lease of the leader election is not ours to keep: whoever deletes it makes a new
// leader with a younger Lease, and a plan that is half-way goes on.
func TestTheElectionsLeaseIsDeletedHalfWay(t *testing.T) {
	s := newStage(t)
	before := s.begin(harness.Named(0, 2, 4), 3)
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
	s.await("two are upgraded", waiting("2/5", "WaitingForDuty"))
	term := s.now().Term()
	s.must(s.Kill(harness.UpgraderA))
	_, err := s.Kubectl(t.Context(), "", "delete", "lease", "offduty-upgrader", "--namespace", harness.SystemNamespace)
	s.must(err)
	s.must(s.Restart(t.Context(), harness.UpgraderA))
	s.assign(harness.Named(1, 3))
	s.await("the plan is ready", settled)
	s.check(before, upgraded(0, 1, 2, 3, 4), harness.Parked)
	if now := s.now().Term(); now <= term {
		t.Errorf("the term on the set is %d after the Lease was made anew; it was %d", now, term)
	}
	s.guarded()
}

// guarded wants everything that was done so far to have been done under leases and pins.
func (s *stage) guarded() {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	for _, v := range e.ProveGuards() {
		s.t.Error(v)
	}
}
