package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/test/e2e/harness"
)

// gitOps is the manifest that a GitOps tool keeps: it leaves out what is the upgrader's.
func gitOps(image string) string {
	m := harness.AnotherSet(harness.Group, 5, image)
	return strings.NewReplacer("\n      set: sample", "", "\n        set: sample", "").Replace(m)
}

// wait waits for what History.When does.
func (s *stage) wait(what string, done <-chan struct{}) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
		s.t.Fatalf("wait until %s: %v", what, context.Cause(ctx))
	}
}

// images are those of the pods, by ordinal.
func images(n harness.Now) []string {
	out := make([]string, len(n.Pods))
	for i := range out {
		out[i] = strings.TrimPrefix(n.Pods[fmt.Sprintf("sample-%d", i)].Image, "alpine:")
	}
	return out
}

func (s *stage) checkImages(partition int32, want ...string) {
	s.t.Helper()
	s.checkImagesBetween(partition, partition, want...)
}

// checkImagesBetween is for where the partition may be higher than it needs to be.
func (s *stage) checkImagesBetween(least, most int32, want ...string) {
	s.t.Helper()
	now := s.now()
	if diff := cmp.Diff(want, images(now)); diff != "" {
		s.t.Errorf("the images of the pods (-want +got):\n%s", diff)
	}
	if got := now.Sets[harness.Group].Partition; got < least || got > most {
		s.t.Errorf("the partition is %d, not %d to %d", got, least, most)
	}
}

// sameUIDs wants every pod to be the one that it was.
func (s *stage) sameUIDs(before map[string]harness.Pod) {
	s.t.Helper()
	for name, p := range s.now().Pods {
		if p.UID != before[name].UID {
			s.t.Errorf("%s was recreated", name)
		}
	}
}

func TestTheTemplateChangesAgainAndAgain(t *testing.T) {
	const v1, v2, v3 = harness.OldImage, harness.NewImage, "alpine:3.19.0"
	for _, c := range []struct {
		name string
		// begin is applied once, change for each image.
		begin  string
		change func(image string) string
	}{
		{
			name:  "by GitOps, which the plan follows",
			begin: harness.PlanOf("{handover: Wait, maxUnavailable: 2}", harness.Target("sample", "")), change: gitOps,
		},
		{
			name:   "by the plan itself",
			begin:  harness.PlanManifest(v1, "{handover: Wait, maxUnavailable: 2}"),
			change: func(image string) string { return harness.PlanManifest(image, "{handover: Wait, maxUnavailable: 2}") },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			before := s.beginWith(gitOps(v1), harness.Named(0, 2, 4), 3)
			s.apply(c.begin)
			s.await("the set is taken over", settled)
			t.Run("a first image gets to those that are off duty", func(t *testing.T) {
				s := s.on(t)
				s.apply(c.change(v2))
				s.await("two are upgraded", waiting("2/5", "WaitingForDuty"))
				s.checkImages(3, "3.18.2", "3.18.0", "3.18.2", "3.18.0", "3.18.2")
			})
			t.Run("a second one that comes while replicas are released gets to those that are off duty then, and three revisions are there", func(t *testing.T) {
				s := s.on(t)
				var changed error
				done := s.History.When(released, func() { changed = s.Apply(t.Context(), c.change(v3)) })
				s.assign(harness.Named(0, 1, 3))
				s.wait("a replica is released", done)
				s.must(changed)
				s.await("two are upgraded", waiting("2/5", "WaitingForDuty"))
				// Kruise may bring the released ones to the new template before the partition is
				// raised for that. Then it need not be lowered again for anybody.
				s.checkImagesBetween(3, 5, "3.18.2", "3.18.0", "3.19.0", "3.18.0", "3.19.0")
			})
			t.Run("an undo half-way counts those that were never upgraded from there, and takes back the others", func(t *testing.T) {
				s := s.on(t)
				s.apply(c.change(v2))
				s.await("all but the first are at the earlier image", waiting("4/5", "WaitingForDuty"))
				s.checkImages(1, "3.18.2", "3.18.0", "3.18.0", "3.18.0", "3.18.0")
			})
			t.Run("it completes when duty moves", func(t *testing.T) {
				s := s.on(t)
				s.assign(harness.Named(1, 2, 3))
				s.await("the plan is ready", settled)
				s.checkImages(parked, "3.18.0", "3.18.0", "3.18.0", "3.18.0", "3.18.0")
			})
			t.Run("an undo after the end takes back those that are off duty, and then the rest", func(t *testing.T) {
				s := s.on(t)
				s.apply(c.change(v1))
				s.await("two are back", waiting("2/5", "WaitingForDuty"))
				s.checkImages(3, "3.18.2", "3.18.0", "3.18.0", "3.18.0", "3.18.2")
				s.assign(harness.Named(0, 4))
				s.await("the plan is ready", settled)
				s.checkImages(parked, "3.18.2", "3.18.2", "3.18.2", "3.18.2", "3.18.2")
				s.sameUIDs(before)
			})
		})
	}
}

func TestARolloutUnderWayIsTakenOver(t *testing.T) {
	s := newStage(t)
	// Nobody works while Kruise alone updates: nothing would protect a worker from it.
	before := s.begin(harness.Slots(0), 0)
	s.rollBy(harness.NewImage, 3)
	s.await("two are at the second revision", atImage(harness.NewImage, 2))
	s.rollBy("alpine:3.19.0", 4)
	s.await("one is at the third", atImage("alpine:3.19.0", 1))
	s.checkImages(4, "3.18.2", "3.18.2", "3.18.2", "3.18.0", "3.19.0")
	s.assign(harness.Named(0, 4))
	s.awaitWorking(2)
	t.Run("it goes on from where it stands, those furthest behind first, and workers are left alone", func(t *testing.T) {
		s := s.on(t)
		s.apply(harness.PlanOf("{handover: Wait, maxUnavailable: 1}", harness.Target("sample", "")))
		s.await("all that are off duty are upgraded", func(n harness.Now) error {
			if err := waiting("3/5", "WaitingForDuty")(n); err != nil {
				return err
			}
			return quiet(n)
		})
		s.checkImages(1, "3.18.2", "3.19.0", "3.19.0", "3.19.0", "3.19.0")
		e, err := s.Evidence(t.Context())
		s.must(err)
		if diff := cmp.Diff([]string{"sample-4", "sample-2", "sample-1", "sample-3"}, e.Firsts("alpine:3.19.0")); diff != "" {
			t.Errorf("the order (-want +got):\n%s", diff)
		}
	})
	t.Run("and completes when duty moves; the one that Kruise alone had updated is verified", func(t *testing.T) {
		s := s.on(t)
		s.assign(harness.Named(1))
		s.await("the plan is ready", settled)
		s.checkImages(parked, "3.19.0", "3.19.0", "3.19.0", "3.19.0", "3.19.0")
		s.sameUIDs(before)
	})
}

// rollBy gives the set an image and a partition, as somebody does who has no plan.
func (s *stage) rollBy(image string, partition int) {
	s.t.Helper()
	m := strings.NewReplacer("partition: 3", fmt.Sprintf("partition: %d", partition), harness.OldImage, image)
	s.apply(m.Replace(harness.SetManifest()))
}

// atImage wants n pods to have an image and to be well, and Kruise to have seen everything.
func atImage(image string, n int) func(harness.Now) error {
	return func(now harness.Now) error {
		if k := now.Sets[harness.Group]; k.Observed != k.Generation {
			return errors.New("Kruise has not seen the set")
		}
		for _, p := range now.Pods {
			if !p.Ready || !p.Runs() {
				return fmt.Errorf("%s is not well", p.Name)
			}
		}
		if got := withImage(now, image); got != n {
			return fmt.Errorf("%d have it", got)
		}
		return nil
	}
}
