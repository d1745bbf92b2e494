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

// tool is something that applies a manifest again and again.
type tool struct {
	manager string
	args    []string
}

func (x tool) apply(ctx context.Context, s *stage, manifest string) error {
	args := append([]string{"apply", "--namespace", s.Namespace, "--filename", "-"}, x.args...)
	_, err := s.Kubectl(ctx, manifest, args...)
	return err
}

// revert applies manifest whenever the set has another image than image, until stop.
func (s *stage) revert(x tool, manifest, image string) (stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() {
		for {
			err := s.History.Await(ctx, "somebody else has changed the image", func(n harness.Now) error {
				if strings.Contains(n.Sets[harness.Group].Template, image) {
					return errors.New("nobody has")
				}
				return nil
			})
			if err != nil {
				done <- nil // told to stop
				return
			}
			// Not with ctx: a request that is cut off may have been carried out.
			if err := x.apply(context.WithoutCancel(ctx), s, manifest); err != nil {
				done <- err
				return
			}
		}
	}()
	return func() {
		s.t.Helper()
		cancel()
		s.must(<-done)
	}
}

// setWrites counts the upgrader's writes of the set, and those of them that changed the template.
func (s *stage) setWrites() (all, templates int) {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	for _, w := range e.Writes {
		if !w.Ours() || w.Kind != "statefulsets" {
			continue
		}
		all++
		if strings.Contains(w.Body, "/spec/template/") {
			templates++
		}
	}
	return all, templates
}

func TestAToolThatRevertsTheImage(t *testing.T) {
	for _, c := range []struct {
		name string
		tool tool
		// end ends the contest in favour of the new image.
		end func(*stage, tool)
	}{
		{
			name: "by server-side apply, until it applies the new image itself",
			tool: tool{"gitops", []string{"--server-side", "--force-conflicts", "--field-manager", "gitops"}},
			end:  func(s *stage, x tool) { s.must(x.apply(s.t.Context(), s, gitOps(harness.NewImage))) },
		},
		{
			name: "by client-side apply, until it gives up and the plan is paused and resumed",
			tool: tool{manager: "kubectl-client-side-apply"},
			end: func(s *stage, _ tool) {
				s.must(s.Patch(s.t.Context(), "upgradeplan", harness.Group, `{"spec":{"paused":true}}`))
				s.must(s.Patch(s.t.Context(), "upgradeplan", harness.Group, `{"spec":{"paused":false}}`))
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			before := s.beginWith(gitOps(harness.OldImage), harness.Named(0, 2, 4), 3)
			stop := s.revert(c.tool, gitOps(harness.OldImage), harness.OldImage)
			s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
			s.await("the plan stalls and names the tool", stalled("TemplateContested", c.tool.manager, "pause and resume the plan"))
			s.await("nothing is under way", quiet)
			all, templates := s.setWrites()
			for range 5 {
				s.must(c.tool.apply(t.Context(), s, gitOps(harness.OldImage)))
			}
			again, _ := s.setWrites()
			if templates != 1 || again != all {
				t.Errorf("the upgrader wrote the template %d times, and the set %d times more while it was contested", templates, again-all)
			}
			stop()
			c.end(s, c.tool)
			s.await("the plan goes on", waiting("2/5", "WaitingForDuty"))
			if diff := cmp.Diff([]string{"3.18.2", "3.18.0", "3.18.2", "3.18.0", "3.18.2"}, images(s.now())); diff != "" {
				t.Errorf("the images of the pods (-want +got):\n%s", diff)
			}
			s.sameUIDs(before)
		})
	}
}

// setPartition writes the partition as one who may do so while a plan has the set.
func (s *stage) setPartition(partition int64) error {
	_, err := s.Kubectl(s.t.Context(), "", "patch", "asts", harness.Group, "--namespace", s.Namespace, "--type", "merge",
		"--patch", partitionPatch(partition), "--as="+fireman, "--as-group=offduty:break-glass")
	return err
}

func partitionPatch(partition int64) string {
	return fmt.Sprintf(`{"spec":{"updateStrategy":{"rollingUpdate":{"partition":%d}}}}`, partition)
}

func TestAForeignPartition(t *testing.T) {
	s := newStage(t)
	before := s.begin(harness.Named(0, 2, 4), 3)
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
	s.await("two are upgraded", waiting("2/5", "WaitingForDuty"))
	t.Run("is refused to who has no business with it", func(t *testing.T) {
		if err := s.Patch(t.Context(), "asts", harness.Group, partitionPatch(0)); err == nil || !strings.Contains(err.Error(), "is the upgrader's") {
			t.Errorf("the administrator's patch: %v", err)
		}
	})
	t.Run("that is too low is raised before anything else, and meanwhile the holds keep everybody", func(t *testing.T) {
		s := s.on(t)
		s.must(s.setPartition(0))
		s.await("the partition is exact again, and no pod bears Kruise's mark", func(n harness.Now) error {
			if k := n.Sets[harness.Group]; k.Partition != 3 || k.Observed != k.Generation {
				return fmt.Errorf("it is %d", k.Partition)
			}
			return quiet(n)
		})
		s.check(before, upgraded(1, 3), 3)
		s.raisedFirst(3)
	})
	t.Run("that comes while replicas are selected does not cost a worker anything, and they are upgraded in the end", func(t *testing.T) {
		s := s.on(t)
		var lowered error
		done := s.History.When(func(n harness.Now) bool {
			for _, p := range n.Pods {
				if p.Grant && p.Hold {
					return true
				}
			}
			return false
		}, func() { lowered = s.setPartition(0) })
		s.assign(harness.Named(0, 1, 3))
		s.wait("a replica is selected", done)
		s.must(lowered)
		s.await("all but the first are upgraded", waiting("4/5", "WaitingForDuty"))
		s.check(before, upgraded(1, 2, 3, 4), 1)
	})
	t.Run("that is too high is lowered when it is needed", func(t *testing.T) {
		s := s.on(t)
		s.must(s.setPartition(parked))
		s.assign(harness.Named(1, 2, 3))
		s.await("the plan is ready", settled)
		s.check(before, upgraded(0, 1, 2, 3, 4), parked)
	})
}

// raisedFirst wants the upgrader's next write after a foreign partition of 0 to be that of
// a partition.
func (s *stage) raisedFirst(partition int32) {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	foreign := false
	for _, w := range e.Writes {
		switch {
		case !w.Ours():
			foreign = foreign || w.Kind == "statefulsets" && w.Partition != nil && *w.Partition == 0
		case foreign && (w.Kind == "pods" || w.Kind == "statefulsets"):
			if w.Partition == nil || *w.Partition != partition {
				s.t.Errorf("the next write was %s", w.Body)
			}
			return
		}
	}
	s.t.Errorf("no write came after the foreign one (seen: %t)", foreign)
}
