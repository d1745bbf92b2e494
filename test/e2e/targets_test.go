package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// beginMany makes a roster and sets by name and size, and waits until all pods are ready
// and the given number of replicas works.
func (s *stage) beginMany(roster string, workers int, sets map[string]int) {
	s.t.Helper()
	s.apply(roster)
	total := 0
	for name, n := range sets {
		s.apply(harness.AnotherSet(name, n, harness.OldImage))
		total += n
	}
	s.awaitRunning(total)
	s.awaitWorking(workers)
}

// awaitRunning waits until exactly n pods are there, and all run and are ready.
func (s *stage) awaitRunning(n int) {
	s.t.Helper()
	s.await(fmt.Sprintf("%d pods run", n), func(now harness.Now) error {
		running := 0
		for _, p := range now.Pods {
			if p.Runs() && p.Ready && !p.Terminating {
				running++
			}
		}
		if running != n || len(now.Pods) != n {
			return fmt.Errorf("%d of %d do", running, len(now.Pods))
		}
		return nil
	})
}

// version is the latest version of the plan, as a mark in the history.
func (s *stage) version() int64 {
	s.t.Helper()
	return s.now().Plans[harness.Group].Version
}

// mostOut wants at least one and at most n pods to have been leased at once since a version.
func (s *stage) mostOut(since int64, n int) {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	if got, who := e.MostOut(since); got < 1 || got > n {
		s.t.Errorf("%d pods were leased at once, not one to %d: %v", got, n, who)
	}
}

func TestSeveralTargetsShareOneGroup(t *testing.T) {
	s := newStage(t)
	s.beginMany(harness.RosterWith(harness.Workers("a-0", "b-0"), 4, 7), 2, map[string]int{"a": 4, "b": 3})
	strategy := "{handover: Wait, maxUnavailable: %s}"
	t.Run("a batch limit by count holds over all of them, and a set that is begun is finished before the next", func(t *testing.T) {
		s := s.on(t)
		s.apply(harness.PlanOf(fmt.Sprintf(strategy, "2"), harness.Target("a", harness.NewImage), harness.Target("b", harness.NewImage)))
		s.await("all that are off duty are upgraded", waiting("5/7", "WaitingForDuty"))
		s.mostOut(0, 2)
		s.oneByOne(0)
	})
	t.Run("each target says how far it is, and what it waits for", func(t *testing.T) {
		p, err := plan(s.now())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range p.Status.Targets {
			got = append(got, fmt.Sprintf("%s %d/%d %s", x.Name, x.UpgradedReplicas, x.Replicas, x.Reason))
		}
		if diff := cmp.Diff([]string{"a 3/4 WaitingForDuty", "b 2/3 WaitingForDuty"}, got); diff != "" {
			t.Errorf("the targets (-want +got):\n%s", diff)
		}
	})
	t.Run("when duty moves, the rest follows", func(t *testing.T) {
		s := s.on(t)
		s.assign(harness.Workers("a-1", "b-1"))
		s.await("the plan is ready", settled)
	})
	t.Run("the arbiter's floor holds over all of them, where it is tighter than a limit by percent", func(t *testing.T) {
		s := s.on(t)
		s.patchRoster(`{"floor":{"minServing":6}}`)
		since := s.version()
		s.apply(harness.PlanOf(fmt.Sprintf(strategy, `"60%"`), harness.Target("a", "alpine:3.19.0"), harness.Target("b", "alpine:3.19.0")))
		s.await("all that are off duty are upgraded", waiting("5/7", "WaitingForDuty"))
		s.mostOut(since, 1)
		s.oneByOne(since)
	})
	t.Run("a limit by percent counts all of them, and duty is handed over between sets", func(t *testing.T) {
		s := s.on(t)
		s.patchRoster(`{"floor":{"minServing":1}}`)
		s.assign(harness.Slots(2))
		since := s.version()
		// 43% of seven are three.
		s.apply(harness.PlanOf(`{handover: Request, maxUnavailable: "43%"}`, harness.Target("a", "alpine:3.20.0"), harness.Target("b", "alpine:3.20.0")))
		s.await("the plan is ready", settled)
		s.mostOut(since, 3)
	})
}

// oneByOne wants the replicas of each set to have been leased one after the other since a version,
// without one of another set in between; whose image Kruise then changes first is up to it. Which
// set is first depends on which Kruise sees first, and so the first replica may be alone: as soon
// as both sets can go on, the one that needs less does.
func (s *stage) oneByOne(since int64) {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	order := e.Granted(since)
	var sets []string
	for _, pod := range order {
		sets = append(sets, pod[:strings.LastIndexByte(pod, '-')])
	}
	if len(sets) < 2 {
		s.t.Fatalf("only %v were leased", order)
	}
	turns := func(sets []string) int { return len(slices.Compact(slices.Clone(sets))) }
	if turns(sets) != 2 && turns(sets[1:]) != 2 {
		s.t.Errorf("the sets took turns: %v", order)
	}
}

// refuseImages makes a policy for the sets of the namespace, as a company may have, and waits
// until it is enforced.
func (s *stage) refuseImages(image string) {
	s.t.Helper()
	name := "e2e-images-" + s.Namespace
	s.apply(fmt.Sprintf(`apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %[1]s}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[2]s}}
    resourceRules: [{apiGroups: [apps.kruise.io], apiVersions: [v1beta1], operations: [CREATE, UPDATE], resources: [statefulsets]}]
  validations: [{expression: "object.spec.template.spec.containers.all(c, c.image != '%[3]s')", message: "not in this house"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: %[1]s}
spec: {policyName: %[1]s, validationActions: [Deny]}
`, name, s.Namespace, image))
	s.t.Cleanup(func() {
		_, err := s.Kubectl(context.Background(), "", "delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", name)
		if err != nil {
			s.t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, "the policy is enforced", func(ctx context.Context) error {
		_, err := s.Kubectl(ctx, harness.AnotherSet("tried", 1, image), "create", "--dry-run=server", "--namespace", s.Namespace, "--filename", "-")
		if err == nil {
			return errors.New("the image is accepted")
		}
		return nil
	}))
}

// targets wants the reason of each target, by name.
func targets(want map[string]string) func(harness.Now) error {
	return func(n harness.Now) error {
		p, err := plan(n)
		if err != nil {
			return err
		}
		for _, t := range p.Status.Targets {
			if t.Reason != want[t.Name] || t.Message == "" {
				err = errors.Join(err, fmt.Errorf("%s says %s: %s", t.Name, t.Reason, t.Message))
			}
		}
		return err
	}
}

func TestABrokenTargetDoesNotStopTheOthers(t *testing.T) {
	const broken = "alpine:broken-2"
	strategy := "{handover: Request, maxUnavailable: 3, verify: {timeoutSeconds: 2}}"
	s := newStage(t)
	s.beginMany(harness.RosterWith(harness.Workers("good-0"), 1, 6), 1, map[string]int{"good": 3, "lame": 2, "odd": 1})
	t.Run("the plan names a broken one, each says what is wrong with it, and the good one is upgraded to its end", func(t *testing.T) {
		s := s.on(t)
		s.assign(harness.Slots(1))
		s.apply(harness.PlanOf(strategy,
			harness.Target("absent", harness.NewImage), harness.Target("good", harness.NewImage), harness.Target("lame", broken),
			strings.Replace(harness.Target("odd", harness.NewImage), "main:", "other:", 1)))
		s.await("the good one is complete", targets(map[string]string{
			"absent": "TargetNotFound", "good": "Complete", "lame": "ReplicaFailed", "odd": "ContainerNotFound",
		}))
		s.await("the plan stalls for want of the first", stalled("TargetNotFound", "absent", "create it"))
		for _, p := range s.now().Pods {
			if strings.HasPrefix(p.Name, "good-") && p.Image != harness.NewImage {
				t.Errorf("%s has %s", p.Name, p.Image)
			}
		}
	})
	t.Run("an image that no pod may have, or that somebody's policy refuses, stalls its target with a reason", func(t *testing.T) {
		s := s.on(t)
		s.apply(harness.PlanOf(strategy, harness.Target("good", harness.NewImage), harness.Target("lame", `"alpine:3.18.0 "`)))
		s.await("the target says so", targets(map[string]string{"good": "Complete", "lame": "TemplateRefused"}))
		s.await("the plan stalls", stalled("TemplateRefused", "has spaces in it"))
		s.refuseImages("alpine:edge")
		s.apply(harness.PlanOf(strategy, harness.Target("good", harness.NewImage), harness.Target("lame", "alpine:edge")))
		s.await("the plan stalls again", stalled("TemplateRefused", "not in this house", "correct spec.targets[].images"))
		s.await("the target says so", targets(map[string]string{"good": "Complete", "lame": "TemplateRefused"}))
	})
	t.Run("when all is mended, the plan completes", func(t *testing.T) {
		s := s.on(t)
		s.apply(harness.AnotherSet("absent", 1, harness.OldImage))
		s.apply(harness.PlanOf(strategy,
			harness.Target("absent", harness.NewImage), harness.Target("good", harness.NewImage), harness.Target("lame", "alpine:3.19.0"), harness.Target("odd", harness.NewImage)))
		s.await("the plan is ready", settled)
	})
}
