package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/test/e2e/harness"
	protocol "offduty.dev/upgrader/kruise"
)

// The upgrader is replaced by one that speaks another version of the protocol while a plan
// is half-way (docs/decisions/0004-protocol-versions.md).

const fireman = "fireman"

// breakGlass is kubectl as a member of the break-glass group, as docs/uninstall.md has it.
func (s *stage) breakGlass(args ...string) {
	s.t.Helper()
	_, err := s.Kubectl(s.t.Context(), "", append([]string{"--as=" + fireman, "--as-group=offduty:break-glass", "--namespace", s.Namespace}, args...)...)
	s.must(err)
}

// rearm writes the annotation of the set.
func (s *stage) rearm(value string) {
	s.t.Helper()
	s.breakGlass("annotate", "asts", harness.Group, "--overwrite", v1alpha1.ArmedAnnotation+"="+value)
}

// annotation reads that of the set.
func (s *stage) annotation() map[string]any {
	s.t.Helper()
	a := map[string]any{}
	s.must(json.Unmarshal([]byte(s.now().Sets[harness.Group].Armed), &a))
	return a
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// stopAt applies a plan and kills the upgrader at a step of its first replica.
func (s *stage) stopAt(at harness.Step, image string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var killed error
	done := s.History.When(func(n harness.Now) bool { _, ok := at.Seen(n, image); return ok }, func() { killed = s.Kill(harness.UpgraderA) })
	s.apply(harness.PlanManifest(image, crashStrategy))
	select {
	case <-done:
		s.must(killed)
	case <-ctx.Done():
		s.must(fmt.Errorf("the step %q never came: %w", at.Name, ctx.Err()))
	}
}

func TestANewerUpgraderGoesOnWhereAnOlderOneStopped(t *testing.T) {
	s := newStage(t)
	s.begin(harness.Slots(3), 3, v1alpha1.InServiceGate)
	spec := s.spec()
	for i, at := range []harness.Step{harness.Holding, harness.StepOf("leased and draining"), harness.StepOf("selected"), harness.StepOf("released"), harness.StepOf("updated"), harness.StepOf("parking")} {
		t.Run(at.Name, func(t *testing.T) { s.on(t).migrate(at, fmt.Sprintf("alpine:3.22.%d", i)) })
	}
	t.Run("and gives back what the older one took over", func(t *testing.T) {
		s := s.on(t)
		s.deletePlan()
		if diff := cmp.Diff(spec, s.spec()); diff != "" {
			t.Errorf("the set (-before +after):\n%s", diff)
		}
	})
}

// migrate stops the upgrader at a step, makes what it left look as version 1 left it, and
// wants the upgrader to go on from there.
func (s *stage) migrate(at harness.Step, image string) {
	s.t.Helper()
	s.stopAt(at, image)
	// Version 1 did not tell when the hook was written and what was proven, and its fences were ids.
	old := s.annotation()
	old["version"] = 1
	delete(old, "generation")
	delete(old, "proven")
	s.rearm(marshal(s.t, old))
	for name := range s.now().Pods {
		s.breakGlass("annotate", "pod", name, "--overwrite", v1alpha1.FencedAnnotation+"=asmxj3n6ju-0")
	}
	s.must(s.Restart(s.t.Context(), harness.UpgraderA))
	s.await("the plan is ready", func(n harness.Now) error {
		if err := settled(n); err != nil {
			return err
		}
		if fresh := withImage(n, image); fresh != 5 {
			return fmt.Errorf("%d replicas have %s", fresh, image)
		}
		return quiet(n)
	})
	now := s.annotation()
	if now["version"] != float64(protocol.ProtocolVersion) || now["generation"] == nil {
		s.t.Errorf("the annotation was not migrated: %v", now)
	}
	if diff := cmp.Diff(old["original"], now["original"]); diff != "" {
		s.t.Errorf("the originals (-before +after):\n%s", diff)
	}
}

func TestAnOlderUpgraderLeavesAloneWhatANewerOneHasBegun(t *testing.T) {
	s := newStage(t)
	s.begin(harness.Slots(3), 3, v1alpha1.InServiceGate)
	s.stopAt(harness.StepOf("selected"), harness.NewImage)
	mine := s.now().Sets[harness.Group].Armed
	s.rearm(marshal(t, map[string]any{
		"version": protocol.ProtocolVersion + 1, "plan": s.annotation()["plan"], "term": "of another kind", "original": []string{"moved elsewhere"},
	}))
	since, before := time.Now(), s.now()
	s.must(s.Restart(t.Context(), harness.UpgraderA))
	words := []string{"protocol version 5", "knows 1 to 4", "run the newer upgrader again"}
	t.Run("the plan says what to do", func(t *testing.T) {
		s.on(t).await("it stalls", stalled("TargetNotSupported", words...))
	})
	t.Run("deleting the plan changes nothing either", func(t *testing.T) {
		s := s.on(t)
		_, err := s.Kubectl(t.Context(), "", "delete", "upgradeplan", harness.Group, "--namespace", s.Namespace, "--wait=false")
		s.must(err)
		s.await("it stays, and says why", func(n harness.Now) error {
			if p := n.Plans[harness.Group]; !p.Deleting {
				return fmt.Errorf("it is not deleted yet")
			}
			return stalled("TargetNotSupported", words...)(n)
		})
		s.unwritten(since)
		if diff := cmp.Diff(before.Rosters[harness.Group].Status.Holders, s.now().Rosters[harness.Group].Status.Holders); diff != "" {
			t.Errorf("who holds the leases (-before +after):\n%s", diff)
		}
	})
	t.Run("the newer upgrader comes back, and the plan leaves", func(t *testing.T) {
		s := s.on(t)
		s.rearm(mine)
		s.await("the plan has left", left)
		s.awaitWorking(3)
	})
}

// unwritten wants the upgrader to have written to no pod and no set since then.
func (s *stage) unwritten(since time.Time) {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	for _, w := range e.Writes {
		if w.Ours() && w.At.After(since) && (w.Kind == "pods" || w.Kind == "statefulsets") {
			s.t.Errorf("the upgrader wrote to %s %s: %s", w.Kind, w.Name, w.Body)
		}
	}
}
