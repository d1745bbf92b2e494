package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// The crash matrix: at each step of a replica's way something dies or stands still. The
// plan completes all the same, nothing leaks, and no promise is broken (newStage holds
// everything that happened against them). Each cell is a subtest.

// mishap is what happens at a step. It returns when it is over and the world may go on.
type mishap struct {
	name string
	// strike is called at the very step and must be quick.
	strike func(m *matrix, pod string) error
	// after is called once strike has returned, to put things right.
	after func(m *matrix, ctx context.Context) error
	// only names the steps at which it happens; nil: all.
	only []string
	// stalls: Kruise may stand still after it, until it is restarted.
	stalls bool
}

// at says whether the mishap happens at a step.
func (h mishap) at(s harness.Step) bool { return h.only == nil || slices.Contains(h.only, s.Name) }

var mishaps = []mishap{
	{
		name:   "the upgrader is killed",
		strike: func(m *matrix, _ string) error { return m.Kill(m.leader) },
		after:  func(m *matrix, ctx context.Context) error { return m.Restart(ctx, m.leader) },
	},
	{
		name:   "the arbiter is killed",
		strike: func(m *matrix, _ string) error { return m.Kill(harness.ArbiterProcess) },
		after:  func(m *matrix, ctx context.Context) error { return m.Restart(ctx, harness.ArbiterProcess) },
	},
	{
		name:   "Kruise is frozen",
		strike: func(m *matrix, _ string) error { return m.Freeze(controlplane.Kruise) },
		after:  (*matrix).thawKruise,
	},
	{
		// Kruise takes up to half a minute to watch again, so that this costs one for each
		// step: it happens where its caches matter.
		name:   "the API server is restarted",
		strike: func(m *matrix, _ string) error { return m.Kill(controlplane.APIServer) },
		after:  (*matrix).restartAPIServer,
		only:   []string{"the template is written", "selected", "released"},
	},
	{
		name:   "the API server and Kruise are restarted",
		strike: func(m *matrix, _ string) error { return m.Kill(controlplane.APIServer) },
		after: func(m *matrix, ctx context.Context) error {
			return errors.Join(m.restartAPIServer(ctx), m.Cluster.Restart(ctx, controlplane.Kruise))
		},
	},
	{
		// Kruise waits for an update by the pod's name: where the pod goes before Kruise's cache
		// has seen it updated, nobody is updated any more.
		name:   "a pod is deleted",
		stalls: true,
		strike: func(*matrix, string) error { return nil },
		after: func(m *matrix, ctx context.Context) error {
			_, err := m.Kubectl(ctx, "", "delete", "pod", m.struck, "--namespace", m.Namespace, "--wait=false")
			return err
		},
	},
	{
		name:   "the upgrader is frozen, and woken when its successor has taken over",
		strike: func(m *matrix, _ string) error { return m.Freeze(m.leader) },
		after:  (*matrix).wakeAfterSuccession,
	},
}

// matrix is one row: a stage on which one kind of mishap happens at every step.
type matrix struct {
	*stage
	// leader runs; standby is started when its time comes.
	leader, standby string
	struck          string
	rollouts        int
	stalls          bool
}

// brief are arguments of an upgrader whose lead and leases end soon: cells wait for that.
var brief = []string{
	"--leader-election-lease-duration", "3s", "--leader-election-renew-deadline", "2s", "--lease-ttl", harness.LeaseTTL.String(),
}

// beBrief starts the first upgrader so for this test.
func beBrief(t *testing.T) {
	t.Helper()
	system := install(t)
	again := func(ctx context.Context, arguments ...string) {
		if err := errors.Join(system.Kill(harness.UpgraderA), system.StartUpgrader(ctx, harness.UpgraderA, arguments...)); err != nil {
			t.Fatal(err)
		}
	}
	again(t.Context(), brief...)
	t.Cleanup(func() { again(context.Background()) })
}

func TestCrashMatrix(t *testing.T) {
	beBrief(t)
	for _, mishap := range mishaps {
		t.Run(mishap.name, func(t *testing.T) {
			m := &matrix{stage: newStage(t), leader: harness.UpgraderA, standby: harness.UpgraderB, stalls: mishap.stalls}
			defer func() {
				// Later tests find what they expect: the first upgrader, alone.
				if m.leader != harness.UpgraderA {
					m.must(m.Kill(m.leader))
					m.must(m.Restart(t.Context(), harness.UpgraderA))
				}
			}()
			m.begin(harness.Slots(3), 3, "offduty.dev/in-service")
			m.plan(t, harness.Arming, mishap)
			for _, step := range harness.Steps {
				if mishap.at(step) {
					m.upgrade(t, step, mishap)
				}
			}
			if mishap.only == nil {
				m.leave(t, mishap)
				m.plan(t, harness.Holding, mishap)
			}
		})
	}
}

// waitsForUpdate is what Kruise logs of a set none of whose pods it looks at before one that it
// has updated shows it.
const waitsForUpdate = "Not satisfied update for statefulSet"

// lastOfKruise is the last that Kruise logged of the pods of the set.
func (m *matrix) lastOfKruise() string {
	p, err := m.Cluster.Process(controlplane.Kruise)
	m.must(err)
	log, err := os.ReadFile(p.Log())
	m.must(err)
	set := fmt.Sprintf("statefulSet=%q", m.Namespace+"/"+harness.Group)
	last := ""
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "stateful_set_control.go") && strings.Contains(line, set) {
			last = line
		}
	}
	return last
}

const crashStrategy = "{handover: Request, maxUnavailable: 2}"

func (m *matrix) image() string { return fmt.Sprintf("alpine:3.20.%d", m.rollouts) }

// plan is the cell in which the mishap strikes while a plan takes its target over.
func (m *matrix) plan(t *testing.T, at harness.Step, mishap mishap) {
	t.Helper()
	t.Run(at.Name, func(t *testing.T) {
		c := m.in(t)
		// Without its plan nothing opens the gate of a pod: wait for the end, not for ready pods.
		c.strike(at, mishap, func() { c.apply(harness.PlanManifest(c.image(), crashStrategy)) })
		c.settle()
	})
}

// upgrade is the cell in which the mishap strikes at a step of an upgrade.
func (m *matrix) upgrade(t *testing.T, at harness.Step, mishap mishap) {
	t.Helper()
	t.Run(at.Name, func(t *testing.T) {
		c := m.in(t)
		c.strike(at, mishap, func() { c.apply(harness.PlanManifest(c.image(), crashStrategy)) })
		c.settle()
	})
}

// leave is the cell in which the mishap strikes while a plan gives its target back.
func (m *matrix) leave(t *testing.T, mishap mishap) {
	t.Helper()
	t.Run(harness.Leaving.Name, func(t *testing.T) {
		c := m.in(t)
		c.strike(harness.Leaving, mishap, func() {
			_, err := c.Kubectl(t.Context(), "", "delete", "upgradeplan", harness.Group, "--namespace", c.Namespace, "--wait=false")
			c.must(err)
		})
		c.await("the plan has gone and left no trace", func(n harness.Now) error {
			if _, ok := n.Plans[harness.Group]; ok {
				return errors.New("the plan is still there")
			}
			if s := n.Sets[harness.Group]; s.Armed != "" || s.Partition != 3 {
				return fmt.Errorf("the set is armed (%q), its partition is %d", s.Armed, s.Partition)
			}
			for _, p := range n.Pods {
				if p.Hold || p.Grant || p.Lease != "" || p.Verified != "" {
					return fmt.Errorf("a trace is left: %s", harness.Describe(p))
				}
			}
			return n.NoLeases()
		})
	})
}

// in returns the matrix for one cell.
func (m *matrix) in(t *testing.T) *matrix {
	t.Helper()
	m.rollouts++
	c := *m
	c.stage = m.on(t)
	t.Cleanup(func() { m.leader, m.standby = c.leader, c.standby })
	return &c
}

// strike does begin, lets the mishap happen at the step, and puts things right.
func (m *matrix) strike(at harness.Step, mishap mishap, begin func()) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	var struck error
	image := m.image()
	done := m.History.When(func(n harness.Now) bool {
		pod, ok := at.Seen(n, image)
		if ok {
			m.struck = pod
		}
		return ok
	}, func() { struck = mishap.strike(m, m.struck) })
	begin()
	select {
	case <-done:
	case <-ctx.Done():
		p, _ := plan(m.History.Now())
		m.t.Fatalf("the step %q never came; the plan says %+v", at.Name, p.Condition("Ready"))
	}
	m.must(struck)
	m.must(mishap.after(m, ctx))
}

// settle waits until the plan is complete, and wants nothing to be left over. Where Kruise
// stands still it is restarted, once, which is the way out that docs/stuck.md names.
func (m *matrix) settle() {
	m.t.Helper()
	image := m.image()
	complete := func(n harness.Now) error { return n.Complete(image) }
	ctx, cancel := context.WithTimeout(m.t.Context(), patience/4)
	defer cancel()
	const what = "the plan is ready and nothing is left over"
	if err := m.History.Await(ctx, what, complete); err == nil {
		return
	}
	last := m.lastOfKruise()
	if !m.stalls || !strings.Contains(last, waitsForUpdate) {
		m.await(what, complete)
		return
	}
	m.t.Logf("Kruise stands still, and is restarted: it waits for the update of a pod that was deleted before its cache had it (it knows pods by name): %s", last)
	m.must(m.Cluster.Restart(m.t.Context(), controlplane.Kruise))
	m.await(what, complete)
}

// thawKruise lets Kruise go on as soon as it is proven that it stood still: no pod can be
// changed while its webhook does not answer.
func (m *matrix) thawKruise(ctx context.Context) error {
	err := controlplane.Until(ctx, "Kruise's webhook does not answer", func(ctx context.Context) error {
		_, err := m.Kubectl(ctx, "", "label", "pod", m.struck, "--namespace", m.Namespace, "--overwrite", "--dry-run=server", "--request-timeout=1s", "probe=frozen")
		if err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	return errors.Join(err, m.Thaw(controlplane.Kruise))
}

// restartAPIServer also restarts kwok: it gives up a write that ended with an error which it
// does not know, and a kubelet would not.
func (m *matrix) restartAPIServer(ctx context.Context) error {
	return errors.Join(m.Cluster.Restart(ctx, controlplane.APIServer), m.Cluster.Restart(ctx, controlplane.Kwok))
}

// wakeAfterSuccession starts a second upgrader, and wakes the old leader as soon as the set
// bears the new one's term: whatever the old one still had under way comes now. It must find
// out that it leads no more, and end. Only one runs between the cells: with two, a lead that
// is lost on a slow machine goes to the one that is not struck.
func (m *matrix) wakeAfterSuccession(ctx context.Context) error {
	old, err := m.Cluster.Process(m.leader)
	if err != nil {
		return err
	}
	if err := m.succession(ctx); err != nil {
		return errors.Join(err, m.Thaw(m.leader))
	}
	if err := m.Thaw(m.leader); err != nil {
		return err
	}
	select {
	case <-old.Done():
	case <-ctx.Done():
		return fmt.Errorf("%s did not end after it had lost the lead: %w", m.leader, ctx.Err())
	}
	m.leader, m.standby = m.standby, m.leader
	return m.Kill(m.standby)
}

// succession starts the successor, and waits until it has written its term on the set, or
// leads and found nothing to do.
func (m *matrix) succession(ctx context.Context) error {
	before, image := m.History.Now().Term(), m.image()
	held, err := m.Leader(ctx)
	if err != nil {
		return err
	}
	if err := m.StartUpgrader(ctx, m.standby, brief...); err != nil {
		return err
	}
	return controlplane.Until(ctx, "the successor has taken over", func(ctx context.Context) error {
		if m.History.Now().Term() != before {
			return nil
		}
		now, err := m.Leader(ctx)
		if err != nil {
			return err
		}
		if now == held {
			return fmt.Errorf("%s still has the lease", held)
		}
		if err := settled(m.History.Now()); err != nil || m.History.Now().Pods["sample-0"].Image != image {
			return fmt.Errorf("%s leads, and has not acted yet", now)
		}
		return nil
	})
}
