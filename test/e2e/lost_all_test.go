package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// A set all pods of which are lost after its template was written: Kruise makes them of that
// and forgets what there was before, so that the set looks as if it had never had another
// image. Nobody has looked at the new one, and the arbiter has not heard of it.
func TestASetThatLostAllItsPodsIsNotUpgraded(t *testing.T) {
	const broken = "alpine:broken-1"
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("of %d", n), func(t *testing.T) {
			s := newStage(t)
			s.beginMany(harness.RosterWith(harness.Slots(1), 1, 1), 1, map[string]int{harness.Group: n})
			t.Run("its pods are verified under leases, and may have duty then", func(t *testing.T) {
				s := s.on(t)
				s.loseAll(n, harness.NewImage)
				s.must(s.Restart(t.Context(), harness.UpgraderA))
				s.await("the plan is ready", settled)
				s.verifiedUnderALease(s.ordinals(n)...)
				s.awaitWorking(1)
				if q := s.now().Rosters[harness.Group].Status.Quarantined; q != "" {
					t.Errorf("the arbiter has not heard of %s", q)
				}
			})
			t.Run("an image that never starts is not called complete, and the plan says why", func(t *testing.T) {
				s := s.on(t)
				s.loseAll(n, broken)
				since := s.version()
				s.must(s.Restart(t.Context(), harness.UpgraderA))
				s.await("the plan says so", saysAnywhere("the image cannot be pulled", broken))
				s.neverReady(since)
			})
		})
	}
}

// settling is how long a replica that does not attend counts as working after its duty was taken:
// settleSeconds of the roster, which cannot be less.
const settling = 2 * time.Minute

// The only worker is lost, and comes back with an image that never starts. It does not attend,
// so that the arbiter has nobody's word for it that it is idle: the way out takes settleSeconds.
func TestABrokenImageIsTakenBackFromTheOnlyWorker(t *testing.T) {
	const broken = "alpine:broken-1"
	s := newStage(t)
	s.beginMany(harness.RosterWith(harness.Slots(1), 1, 1), 1, map[string]int{harness.Group: 1})
	s.loseAll(1, broken)
	s.must(s.Restart(t.Context(), harness.UpgraderA))
	s.await("the plan says so", saysAnywhere("the image cannot be pulled", broken))
	s.apply(harness.PlanManifest(harness.NewImage, crashStrategy))
	s.await("the plan says for whom it waits, and the roster why", func(n harness.Now) error {
		m := n.Rosters[harness.Group].Status.Members
		if len(m) != 1 || !strings.Contains(m[0].Message, "settleSeconds are running") {
			return fmt.Errorf("the members are %+v", m)
		}
		return told("Ready", "False", "WaitingForDuty", "sample-0")(n)
	})
	ctx, cancel := context.WithTimeout(t.Context(), settling+patience)
	defer cancel()
	s.must(s.History.Await(ctx, "the plan is ready", settled))
	s.allRun(harness.NewImage)
	s.awaitWorking(1)
}

// loseAll kills the upgrader when it has written image into the set, and sees to it that Kruise
// makes all pods of that.
func (s *stage) loseAll(n int, image string) {
	s.t.Helper()
	var killed error
	done := s.History.When(func(now harness.Now) bool {
		return strings.Contains(now.Sets[harness.Group].Template, image)
	}, func() { killed = s.Kill(harness.UpgraderA) })
	s.apply(harness.PlanManifest(image, crashStrategy))
	s.wait("the template has "+image, done)
	s.must(killed)
	if n > 1 { // several are not lost in the same moment: Kruise makes the first anew meanwhile
		s.must(s.Patch(s.t.Context(), "asts", harness.Group, `{"spec":{"replicas":0}}`))
		s.await("Kruise has forgotten the revision before", func(now harness.Now) error {
			if set := now.Sets[harness.Group]; len(now.Pods) > 0 || set.CurrentRevision != set.UpdateRevision {
				return fmt.Errorf("%d pods, %+v", len(now.Pods), set.CurrentRevision)
			}
			return nil
		})
		s.must(s.Patch(s.t.Context(), "asts", harness.Group, fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)))
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, "all pods have "+image, func(ctx context.Context) error {
		now := s.History.Now()
		var err error
		for _, name := range s.ordinals(n) {
			if p, ok := now.Pods[name]; !ok || p.Terminating {
				err = errors.Join(err, fmt.Errorf("%s is not there", name))
			} else if p.Image != image {
				_, failed := s.Kubectl(ctx, "", "delete", "pod", name, "--namespace", s.Namespace, "--wait=false", "--ignore-not-found")
				err = errors.Join(err, fmt.Errorf("%s has %s", name, p.Image), failed)
			}
		}
		return err
	}))
}

func (s *stage) ordinals(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("%s-%d", harness.Group, i))
	}
	return out
}

// saysAnywhere wants a condition of the plan to have all words in its message.
func saysAnywhere(words ...string) func(harness.Now) error {
	return func(n harness.Now) error {
		p, err := plan(n)
		if err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(c.Message, w) }) {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %+v", p.Status.Conditions)
	}
}

// neverReady wants no version of the plan after since to have been Ready.
func (s *stage) neverReady(since int64) {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	for _, p := range e.Plans {
		if c := p.Condition("Ready"); p.Version > since && c.Status == "True" {
			s.t.Errorf("the plan was Ready at version %d: %s", p.Version, c.Message)
		}
	}
}
