package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// A target that is taken out of its plan is given back as by a plan that is deleted, while
// the plan goes on with the others.
func TestTakingATargetOutOfAPlan(t *testing.T) {
	const strategy = "{handover: Request, maxUnavailable: 2}"
	s := newStage(t)
	// Not through kubectl: what is done at a step holds up the watch that has shown it.
	k, err := s.Cluster.Client(t.Context(), controlplane.Admin(), nil)
	s.must(err)
	s.beginMany(harness.RosterWith(harness.Slots(1), 3, 7), 1, map[string]int{"a": 2, "b": 3})
	for i, c := range []struct {
		name string
		at   func(p harness.Pod, image string) bool
	}{
		{"while one of its replicas is selected", func(p harness.Pod, _ string) bool { return p.Grant && p.Hold && p.State == "PreparingUpdate" }},
		{"while one is past the point of no return", func(p harness.Pod, image string) bool { return p.Grant && !p.Hold && p.Image != image }},
		{"while one is updated and not yet verified", func(p harness.Pod, image string) bool { return p.Grant && p.Image == image }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, image := s.on(t), fmt.Sprintf("alpine:3.25.%d", i)
			both := harness.PlanOf(strategy, harness.Target("a", image), harness.Target("b", image))
			one := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"targets":[{"name":"a","images":{"main":%q}}]}}`, image))
			var dropped error
			done := s.History.When(anyOf("b-", image, c.at), func() { dropped = k.Patch(t.Context(), s.planObject(), one) })
			s.apply(both)
			s.wait("a replica is at that step", done)
			s.must(dropped)
			s.await("it is given back, and the other one is upgraded", func(n harness.Now) error {
				if err := settled(n); err != nil {
					return err
				}
				return onlyIn(n, "b", image)
			})
		})
	}
	t.Run("and can be taken in again while its holds go: it is given back to the end, and armed anew", func(t *testing.T) {
		s.on(t).takenInAgain(k, strategy)
	})
	t.Run("and can be taken in again", func(t *testing.T) {
		s, image := s.on(t), "alpine:3.26.0"
		s.apply(harness.PlanOf(strategy, harness.Target("a", image), harness.Target("b", image)))
		s.await("both are upgraded", both(image))
	})
}

// takenInAgain takes the set b out of the plan, and in again when the first of its holds has gone.
func (s *stage) takenInAgain(k client.Client, strategy string) {
	s.t.Helper()
	const image = "alpine:3.25.9"
	targets := func(names ...string) client.Patch {
		var list []string
		for _, name := range names {
			list = append(list, fmt.Sprintf(`{"name":%q,"images":{"main":%q}}`, name, image))
		}
		return client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"targets":[%s]}}`, strings.Join(list, ",")))
	}
	s.apply(harness.PlanOf(strategy, harness.Target("a", image), harness.Target("b", image)))
	s.await("both are upgraded", both(image))
	var again error
	done := s.History.When(func(n harness.Now) bool {
		held := func(p harness.Pod) bool { return !strings.HasPrefix(p.Name, "b-") || p.Hold }
		return returning(n.Sets["b"]) && !every(n, held)
	}, func() { again = k.Patch(s.t.Context(), s.planObject(), targets("a", "b")) })
	s.must(k.Patch(s.t.Context(), s.planObject(), targets("a")))
	s.wait("holds go", done)
	s.must(again)
	s.await("it is armed anew", func(n harness.Now) error {
		if b := n.Sets["b"]; b.Armed == "" || returning(b) {
			return fmt.Errorf("the set b says %q of who has it", b.Armed)
		}
		return both(image)(n)
	})
	s.neverArmedWhileReturning("b")
}

// neverArmedWhileReturning checks that a set that is given back is disarmed before it is armed again.
func (s *stage) neverArmedWhileReturning(set string) {
	s.t.Helper()
	_, sets, _, _, err := s.History.Record()
	s.must(err)
	var last harness.Set
	for _, b := range sets {
		if b.Name != set {
			continue
		}
		if returning(last) && b.Armed != "" && !returning(b) {
			s.t.Errorf("version %d of the set %s is armed again, and the one before was being given back", b.Version, set)
		}
		last = b
	}
}

// both wants every replica of both sets to be upgraded.
func both(image string) func(harness.Now) error {
	return func(n harness.Now) error {
		if err := settled(n); err != nil {
			return err
		}
		if fresh := withImage(n, image); fresh != 5 {
			return fmt.Errorf("%d replicas have %s", fresh, image)
		}
		return nil
	}
}

// returning says whether a set says that it is given back.
func returning(s harness.Set) bool { return strings.Contains(s.Armed, `"returning":true`) }

func every(n harness.Now, is func(harness.Pod) bool) bool {
	for _, p := range n.Pods {
		if !is(p) {
			return false
		}
	}
	return true
}

// anyOf is whether a pod with a prefix is at a step of the rollout to image.
func anyOf(prefix, image string, at func(p harness.Pod, image string) bool) func(harness.Now) bool {
	return func(n harness.Now) bool {
		for _, p := range n.Pods {
			if strings.HasPrefix(p.Name, prefix) && at(p, image) {
				return true
			}
		}
		return false
	}
}

// onlyIn wants nothing of ours on a set and its pods, a partition that protects those that
// are old, and no lease.
func onlyIn(n harness.Now, set, image string) error {
	k := n.Sets[set]
	if k.Armed != "" || k.Observed != k.Generation {
		return fmt.Errorf("the set %s is armed (%q), and Kruise has seen %d of %d", set, k.Armed, k.Observed, k.Generation)
	}
	old := int32(0)
	for _, p := range n.Pods {
		if !strings.HasPrefix(p.Name, set+"-") {
			continue
		}
		if p.Hold || p.Grant || p.Lease != "" || p.Verified != "" || !p.Ready {
			return fmt.Errorf("a trace is left: %s", harness.Describe(p))
		}
		if p.Image != image {
			old++
		}
	}
	if k.Partition < old {
		return fmt.Errorf("the partition is %d, and %d replicas are old", k.Partition, old)
	}
	if l := n.Rosters[harness.Group].Status.Leases; len(l) > 0 {
		return errors.New("leases are left")
	}
	return nil
}
