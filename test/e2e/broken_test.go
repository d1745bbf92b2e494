package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/test/e2e/harness"
)

func TestABrokenImage(t *testing.T) {
	const broken = "alpine:broken-1"
	strategy := "{handover: Wait, maxUnavailable: 2, verify: {timeoutSeconds: 2}}"
	s := newStage(t)
	s.begin(harness.Named(0), 1)
	var lost []string
	t.Run("costs at most maxUnavailable replicas, and the plan stalls with the reason and the remedy", func(t *testing.T) {
		s := s.on(t)
		s.apply(harness.PlanManifest(broken, strategy))
		s.await("the plan stalls", stalled("ReplicaFailed", broken, "ImagePullBackOff", "stays out of duty", "set an image that works"))
		for name, p := range s.now().Pods {
			if p.Image == broken {
				lost = append(lost, name)
			}
		}
		if len(lost) == 0 || len(lost) > 2 {
			t.Errorf("%v were lost to the broken image, not one or two", lost)
		}
		slices.Sort(lost)
	})
	t.Run("a fixed image gets it going again, from the broken replicas on", func(t *testing.T) {
		s := s.on(t)
		s.apply(harness.PlanManifest(harness.NewImage, strategy))
		s.await("all but the worker are upgraded", waiting("4/5", "WaitingForDuty"))
		if diff := cmp.Diff(lost, s.firstWith(harness.NewImage, len(lost))); diff != "" {
			t.Errorf("the first to get the fixed image (-want +got):\n%s", diff)
		}
	})
	t.Run("and when duty moves, the last one follows", func(t *testing.T) {
		s := s.on(t)
		s.assign(harness.Named(1))
		s.await("the plan is ready", settled)
	})
}

// stalled wants the plan to be Stalled with reason and a message that has all words.
func stalled(reason string, words ...string) func(harness.Now) error {
	return func(n harness.Now) error {
		p, err := plan(n)
		if err != nil {
			return err
		}
		c := p.Condition("Stalled")
		if c.Reason != reason {
			return fmt.Errorf("its conditions are %+v", p.Status.Conditions)
		}
		for _, w := range words {
			if !strings.Contains(c.Message, w) {
				return fmt.Errorf("the message lacks %q: %s", w, c.Message)
			}
		}
		return nil
	}
}

// firstWith returns the names of the first n pods that got an image, sorted.
func (s *stage) firstWith(image string, n int) []string {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	var names []string
	for _, p := range e.Pods {
		if p.Image == image && !slices.Contains(names, p.Name) && len(names) < n {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names
}
