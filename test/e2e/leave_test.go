package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/json"

	"offduty.dev/test/e2e/harness"
)

func TestPauseAndResume(t *testing.T) {
	const strategy = "{handover: Wait, maxUnavailable: 2}"
	s := newStage(t)
	s.begin(harness.Slots(0), 0)
	t.Run("a plan that is paused at the point of no return finishes those beyond it and takes no more", func(t *testing.T) {
		s := s.on(t)
		goOn := s.holdUpdates()
		var paused error
		done := s.History.When(released, func() {
			paused = s.Patch(t.Context(), "upgradeplan", harness.Group, `{"spec":{"paused":true}}`)
		})
		s.apply(harness.PlanManifest(harness.NewImage, strategy))
		s.wait("a replica is released", done)
		s.must(paused)
		s.await("the plan says that it is paused", told("Ready", "False", "Paused"))
		goOn()
		s.await("it is paused, and nothing is under way", func(n harness.Now) error {
			if err := told("Ready", "False", "Paused", "paused")(n); err != nil {
				return err
			}
			return quiet(n)
		})
		if n := withImage(s.now(), harness.NewImage); n < 1 || n > 2 {
			t.Errorf("%d replicas were upgraded, not one or two", n)
		}
	})
	t.Run("one that is resumed goes on to its end", func(t *testing.T) {
		s := s.on(t)
		s.must(s.Patch(t.Context(), "upgradeplan", harness.Group, `{"spec":{"paused":false}}`))
		s.await("the plan is ready", settled)
		if n := withImage(s.now(), harness.NewImage); n != 5 {
			t.Errorf("%d replicas were upgraded", n)
		}
	})
	t.Run("one that is paused before it begins writes no template", func(t *testing.T) {
		s := s.on(t)
		s.must(s.Patch(t.Context(), "upgradeplan", harness.Group, `{"spec":{"paused":true}}`))
		s.must(s.Patch(t.Context(), "upgradeplan", harness.Group, `{"spec":{"targets":[{"name":"sample","images":{"main":"alpine:3.19.0"}}]}}`))
		s.await("it is paused", told("Ready", "False", "Paused"))
		if n := s.now(); strings.Contains(n.Sets[harness.Group].Template, "3.19.0") || withImage(n, harness.NewImage) != 5 {
			t.Error("a paused plan changed its target")
		}
	})
}

// released says whether any pod is past the point of no return.
func released(n harness.Now) bool {
	for _, p := range n.Pods {
		if p.Grant && !p.Hold && p.Lease != "" {
			return true
		}
	}
	return false
}

// quiet wants no replica to be on its way.
func quiet(n harness.Now) error {
	for _, p := range n.Pods {
		if !p.Hold || p.Grant || p.Lease != "" || p.State != "Normal" || !p.Ready || p.Terminating {
			return fmt.Errorf("%s is on its way: %s", p.Name, harness.Describe(p))
		}
	}
	if l := n.Rosters[harness.Group].Status.Leases; len(l) > 0 {
		return fmt.Errorf("there are leases: %+v", l)
	}
	return nil
}

func withImage(n harness.Now, image string) int {
	count := 0
	for _, p := range n.Pods {
		if p.Image == image {
			count++
		}
	}
	return count
}

// spec reads what a plan may take over, as the user would.
func (s *stage) spec() map[string]any {
	s.t.Helper()
	out, err := s.Kubectl(s.t.Context(), "", "get", "asts", harness.Group, "--namespace", s.Namespace, "--output", "json")
	s.must(err)
	var set struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
		Spec map[string]any `json:"spec"`
	}
	s.must(json.Unmarshal([]byte(out), &set))
	delete(set.Metadata.Annotations, "kubectl.kubernetes.io/last-applied-configuration")
	if set.Spec["updateStrategy"] == nil {
		s.t.Fatalf("a set without an update strategy: %s", out)
	}
	return map[string]any{
		"annotations": len(set.Metadata.Annotations), "lifecycle": set.Spec["lifecycle"], "updateStrategy": set.Spec["updateStrategy"],
	}
}

// left wants the plan and every trace of it to be gone.
func left(n harness.Now) error {
	if _, ok := n.Plans[harness.Group]; ok {
		return errors.New("the plan is still there")
	}
	if n.Sets[harness.Group].Armed != "" {
		return errors.New("the set is still armed")
	}
	for _, p := range n.Pods {
		if p.Hold || p.Grant || p.Lease != "" || p.Verified != "" || p.Working != "false" {
			return fmt.Errorf("a trace is left: %s", harness.Describe(p))
		}
	}
	if r := n.Rosters[harness.Group].Status; len(r.Leases)+len(r.Holders) > 0 {
		return fmt.Errorf("the arbiter still knows of %+v, %+v", r.Leases, r.Holders)
	}
	return nil
}

func (s *stage) deletePlan() {
	s.t.Helper()
	_, err := s.Kubectl(s.t.Context(), "", "delete", "upgradeplan", harness.Group, "--namespace", s.Namespace, "--wait=false")
	s.must(err)
	s.await("the plan has left", left)
}

func TestDeletingAPlan(t *testing.T) {
	const strategy = "{handover: Wait, maxUnavailable: 2}"
	t.Run("after its end restores everything that it took over", func(t *testing.T) {
		s := newStage(t)
		before := s.begin(harness.Slots(0), 0)
		spec := s.spec()
		s.apply(harness.PlanManifest(harness.NewImage, strategy))
		s.await("the plan is ready", settled)
		s.deletePlan()
		if diff := cmp.Diff(spec, s.spec()); diff != "" {
			t.Errorf("the set (-before +after):\n%s", diff)
		}
		s.check(before, upgraded(0, 1, 2, 3, 4), 3)
	})
	t.Run("half-way leaves a partition that protects those that work", func(t *testing.T) {
		s := newStage(t)
		open := strings.Replace(harness.SetManifest(), "partition: 3", "partition: 0", 1)
		before := s.beginWith(open, harness.Named(0, 2, 4), 3)
		s.apply(harness.PlanManifest(harness.NewImage, strategy))
		s.await("two are upgraded", waiting("2/5", "WaitingForDuty"))
		s.deletePlan()
		s.await("Kruise has seen the set as it was left", func(n harness.Now) error {
			if k := n.Sets[harness.Group]; k.Observed != k.Generation {
				return fmt.Errorf("it has seen generation %d of %d", k.Observed, k.Generation)
			}
			return nil
		})
		s.check(before, upgraded(1, 3), 3)
	})
	t.Run("in the middle of a batch finishes what is past the point of no return, and takes the rest back", func(t *testing.T) {
		s := newStage(t)
		before := s.begin(harness.Slots(0), 0)
		goOn := s.holdUpdates()
		var deleted error
		done := s.History.When(released, func() {
			_, deleted = s.Kubectl(t.Context(), "", "delete", "upgradeplan", harness.Group, "--namespace", s.Namespace, "--wait=false")
		})
		s.apply(harness.PlanManifest(harness.NewImage, strategy))
		s.wait("a replica is released", done)
		s.must(deleted)
		goOn()
		s.await("the plan has left", left)
		n := s.now()
		fresh := withImage(n, harness.NewImage)
		if fresh < 1 || fresh > 2 || withImage(n, harness.OldImage) != 5-fresh {
			t.Errorf("%d replicas were upgraded, not one or two: %+v", fresh, fates(before, n))
		}
		if p := int(n.Sets[harness.Group].Partition); p != 5-fresh {
			t.Errorf("the partition is %d, and %d replicas have the old image", p, 5-fresh)
		}
	})
}
