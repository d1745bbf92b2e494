package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

const namespace = "demo"

// patience is how long an act may take on a loaded machine.
const patience = 3 * time.Minute

// act is one thing that the user does, and what is waited for then.
type act struct {
	title string
	// command is shown; do carries it out.
	command string
	do      func(context.Context, *harness.Stage) error
	what    string
	until   func(harness.Now) error
}

var acts = []act{
	{
		title:   "Five replicas of alpine:3.18.2, and a roster: 0, 2 and 4 work, at least 3 must serve at any time.",
		command: "kubectl apply -f roster.yaml -f sample.yaml",
		do: func(ctx context.Context, s *harness.Stage) error {
			return errors.Join(s.Apply(ctx, harness.RosterManifest(harness.Named(0, 2, 4))), s.Apply(ctx, slowly(harness.SetManifest())))
		},
		what:  "five replicas run",
		until: ready,
	},
	{
		title:   "A plan asks for alpine:3.18.0. Only those off duty may be upgraded: 1 and 3.",
		command: "kubectl apply -f plan.yaml     # images: {main: alpine:3.18.0}, handover: Wait, maxUnavailable: 2",
		do: func(ctx context.Context, s *harness.Stage) error {
			return s.Apply(ctx, harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
		},
		what:  "two replicas are upgraded",
		until: progress("2/5"),
	},
	{
		title:   "The administrator moves duty to 0, 1 and 2. Replica 4 is free, and follows.",
		command: `kubectl patch roster sample --type merge -p '{"spec":{"assigned":{"working":["sample-0","sample-1","sample-2"]}}}'`,
		do:      func(ctx context.Context, s *harness.Stage) error { return s.Assign(ctx, harness.Named(0, 1, 2)) },
		what:    "three replicas are upgraded",
		until:   progress("3/5"),
	},
	{
		title:   "Duty moves on to 1, 3 and 4. Replicas 0 and 2 follow, and the plan is ready.",
		command: `kubectl patch roster sample --type merge -p '{"spec":{"assigned":{"working":["sample-1","sample-3","sample-4"]}}}'`,
		do:      func(ctx context.Context, s *harness.Stage) error { return s.Assign(ctx, harness.Named(1, 3, 4)) },
		what:    "the plan is ready",
		until:   done,
	},
	{
		title:   "Now by itself: any three work, and the plan may ask for handovers. The next image is alpine:3.19.0.",
		command: "kubectl apply -f roster.yaml -f plan.yaml     # assigned: {workers: 3}; image alpine:3.19.0, handover: Request",
		do: func(ctx context.Context, s *harness.Stage) error {
			return errors.Join(
				s.Assign(ctx, harness.Slots(3)),
				s.Apply(ctx, harness.PlanManifest("alpine:3.19.0", "{handover: Request, maxUnavailable: 2}")))
		},
		what:  "the plan is ready",
		until: done,
	},
}

// slowly makes containers start as slowly as real ones, so that there is something to see.
func slowly(set string) string {
	return strings.Replace(set, "      labels:\n        app: sample\n        working:",
		"      annotations:\n        sim.offduty.dev/restart-delay: 1s\n      labels:\n        app: sample\n        working:", 1)
}

func ready(n harness.Now) error {
	running := 0
	for _, p := range n.Pods {
		if p.Ready {
			running++
		}
	}
	if running != 5 {
		return fmt.Errorf("%d do", running)
	}
	return nil
}

func progress(want string) func(harness.Now) error {
	return func(n harness.Now) error {
		p := n.Plans[harness.Group]
		if c := p.Condition(v1alpha1.ConditionReady); p.Status.Progress != want || c.Reason != "WaitingForDuty" {
			return fmt.Errorf("the plan is at %s: %s", p.Status.Progress, c.Message)
		}
		return nil
	}
}

func done(n harness.Now) error {
	p := n.Plans[harness.Group]
	if !p.Settled() {
		return fmt.Errorf("the plan is at %s: %s", p.Status.Progress, p.Condition(v1alpha1.ConditionReady).Message)
	}
	return nil
}

// tell plays the acts and gives the verdict.
func tell(ctx context.Context, s *harness.Stage, t *teller) error {
	for i, a := range acts {
		t.say("\n%d. %s\n   $ %s", i+1, a.title, a.command)
		if err := play(ctx, s, t, a); err != nil {
			return fmt.Errorf("act %d: %w", i+1, err)
		}
	}
	if err := t.table(s.History.Now(), s.Attendants.Working()); err != nil {
		return err
	}
	out, err := s.Kubectl(ctx, "", "get", "upgradeplans,rosters,statefulsets.apps.kruise.io", "--namespace", namespace)
	if err != nil {
		return err
	}
	t.say("\n   $ kubectl get upgradeplans,rosters,asts\n%s", indent(out))
	return verdict(ctx, s, t)
}

func play(ctx context.Context, s *harness.Stage, t *teller, a act) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := a.do(ctx, s); err != nil {
		return err
	}
	if err := s.History.Await(ctx, a.what, a.until); err != nil {
		return err
	}
	err := controlplane.Until(ctx, "three replicas work", func(context.Context) error {
		if w := s.Attendants.Working(); len(w) != 3 {
			return fmt.Errorf("%v do", w)
		}
		return nil
	})
	if err != nil {
		return err
	}
	n := s.History.Now()
	if p, ok := n.Plans[harness.Group]; ok {
		t.say("   plan: %s\n   partition: %s; on duty: %s", p.Condition(v1alpha1.ConditionReady).Message,
			partition(n.Sets[harness.Group].Partition), strings.Join(s.Attendants.Working(), ", "))
		return nil
	}
	t.say("   on duty: %s", strings.Join(s.Attendants.Working(), ", "))
	return nil
}

// verdict holds everything that happened against the promises.
func verdict(ctx context.Context, s *harness.Stage, t *teller) error {
	e, err := s.Evidence(ctx)
	if err != nil {
		return err
	}
	violations := e.Prove()
	for _, v := range violations {
		t.say("%s", v)
	}
	releases := 0
	for _, w := range e.Writes {
		if w.Ours() && w.Kind == "pods" && w.Hold != nil && !*w.Hold {
			releases++
		}
	}
	t.say("\nSeen from outside: %d versions of pods, %d shifts of the application, %d upgrades in place.", len(e.Pods), len(e.Shifts), releases)
	if len(violations) > 0 {
		return fmt.Errorf("%d promises were broken", len(violations))
	}
	t.say("No working replica was disturbed, the floor of 3 was kept, and no partition was ever too low.")
	return nil
}

func partition(p int32) string {
	if p == 2147483647 {
		return "parked"
	}
	return fmt.Sprint(p)
}

func indent(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return l == "" })
	return "   " + strings.Join(lines, "\n   ")
}
