package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// The deletion matrix: a plan is deleted when its first replica is at each step of its
// way. It goes, restores what it took over or leaves a partition that protects, and starts
// nothing by leaving.

// deletion is what becomes of the plan at a step.
type deletion struct {
	name string
	at   harness.Step
	// strike replaces the deletion at the step; nil: the plan is deleted.
	strike func(c *leaver, ctx context.Context) error
	// after is called then, and has to see to it that the plan is deleted.
	after func(c *leaver)
	// groupless: the roster is deleted, so that nobody has duty when the plan has left.
	groupless bool
}

func deletions() []deletion {
	var all []deletion
	for _, at := range slices.Concat([]harness.Step{harness.Arming, harness.Holding}, harness.Steps, []harness.Step{harness.Pinned}) {
		all = append(all, deletion{name: at.Name, at: at})
	}
	all = append(all, deletion{
		name: "paused", at: harness.StepOf("released"),
		strike: func(c *leaver, ctx context.Context) error {
			return c.client.Patch(ctx, c.planObject(), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"paused":true}}`)))
		},
		after: func(c *leaver) {
			c.await("it is paused", told("Ready", "False", "Paused"))
			c.must(c.delete(c.t.Context(), "upgradeplan"))
		},
	}, deletion{
		name: "selected, and the arbiter is down", at: harness.StepOf("selected"),
		strike: func(c *leaver, ctx context.Context) error {
			return errors.Join(c.Kill(harness.ArbiterProcess), c.delete(ctx, "upgradeplan"))
		},
		after: func(c *leaver) {
			c.await("the plan says for whom it waits", told("Ready", "False", "ArbiterUnreachable", "leases cannot be released"))
			c.must(c.Restart(c.t.Context(), harness.ArbiterProcess))
		},
	})
	for _, at := range []string{"leased and draining", "selected", "released", "updated", "readmitting"} {
		all = append(all, deletion{
			name: at + ", and the roster is deleted first", at: harness.StepOf(at), groupless: true,
			strike: func(c *leaver, ctx context.Context) error {
				return errors.Join(c.delete(ctx, "roster"), c.delete(ctx, "upgradeplan"))
			},
		})
	}
	return all
}

// leaver is the stage on which the plan is deleted again and again.
type leaver struct {
	*stage
	rollouts int
	client   client.Client
}

func TestDeletingAPlanAtEveryStep(t *testing.T) {
	c := &leaver{stage: newStage(t)}
	var err error
	c.client, err = c.Cluster.Client(t.Context(), controlplane.Admin(), nil)
	c.must(err)
	c.begin(harness.Slots(3), 3, v1alpha1.InServiceGate)
	for _, d := range deletions() {
		c.rollouts++
		t.Run(d.name, func(t *testing.T) {
			in := *c
			in.stage = c.on(t)
			in.cell(d)
		})
	}
}

func (c *leaver) image() string { return fmt.Sprintf("alpine:3.21.%d", c.rollouts) }

// planObject is the stage's plan, by name alone.
func (s *stage) planObject() *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("UpgradePlan"))
	u.SetNamespace(s.Namespace)
	u.SetName(harness.Group)
	return u
}

// delete does not go through kubectl: it is to happen at the very step.
func (c *leaver) delete(ctx context.Context, kind string) error {
	u, err := controlplane.Decode([]byte(map[string]string{
		"upgradeplan": harness.PlanManifest(harness.NewImage, "{}"), "roster": harness.RosterManifest(harness.Slots(3)),
	}[kind]))
	if err != nil {
		return err
	}
	u[0].SetNamespace(c.Namespace)
	return c.client.Delete(ctx, u[0])
}

func (c *leaver) cell(d deletion) {
	c.t.Helper()
	c.apply(harness.RosterManifest(harness.Slots(3)))
	c.awaitWorking(3)
	before, was := c.spec(), c.now().Sets[harness.Group]

	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	var struck error
	image := c.image()
	done := c.History.When(func(n harness.Now) bool {
		_, ok := d.at.Seen(n, image)
		return ok
	}, func() {
		if d.strike == nil {
			struck = c.delete(ctx, "upgradeplan")
			return
		}
		struck = d.strike(c, ctx)
	})
	c.apply(harness.PlanManifest(image, crashStrategy))
	select {
	case <-done:
	case <-ctx.Done():
		p, _ := plan(c.History.Now())
		c.t.Fatalf("the step %q never came; the plan says %+v", d.at.Name, p.Condition("Ready"))
	}
	c.must(struck)
	if d.after != nil {
		d.after(c)
	}
	c.await("the plan has left, Kruise has seen it, and the kubelet that all pods are in service", func(n harness.Now) error {
		if k := n.Sets[harness.Group]; k.Observed != k.Generation {
			return fmt.Errorf("it has seen generation %d of %d", k.Observed, k.Generation)
		}
		return errors.Join(left(n), inService(n))
	})
	c.restored(before, was)
	c.startedNothing(image)
	if !d.groupless {
		c.awaitWorking(3)
	}
}

// restored wants the set to be as it was, with a partition that is no lower and protects.
func (c *leaver) restored(before map[string]any, was harness.Set) {
	c.t.Helper()
	after, n := c.spec(), c.now()
	for _, spec := range []map[string]any{before, after} {
		delete(spec["updateStrategy"].(map[string]any)["rollingUpdate"].(map[string]any), "partition")
	}
	if diff := cmp.Diff(before, after); diff != "" {
		c.t.Errorf("the set (-before +after):\n%s", diff)
	}
	is, old := n.Sets[harness.Group], int32(0)
	for _, p := range n.Pods {
		if p.Revision != is.UpdateRevision {
			old++
		}
	}
	if want := max(was.Partition, old); is.Partition != want {
		c.t.Errorf("the partition is %d; it was %d, and %d replicas are old", is.Partition, was.Partition, old)
	}
}

// startedNothing wants no replica to have the new image that was not chosen for it already
// when the plan was deleted.
func (c *leaver) startedNothing(image string) {
	c.t.Helper()
	pods, _, plans, _, err := c.History.Record()
	c.must(err)
	i := slices.IndexFunc(plans, func(p harness.Plan) bool { return p.Deleting && p.UID == plans[len(plans)-1].UID })
	chosen := map[string]bool{}
	for _, p := range pods {
		if p.Version < plans[i].Version {
			chosen[p.Name] = p.Grant || p.Image == image
		}
	}
	now := c.now().Pods
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if p := now[name]; p.Image == image && !chosen[name] {
			c.t.Errorf("%s was upgraded although the plan was already leaving: %s", name, harness.Describe(p))
		}
	}
}

func TestDeletingAPlanThatStalls(t *testing.T) {
	const broken = "alpine:broken-1"
	strategy := "{handover: Wait, maxUnavailable: 2, verify: {timeoutSeconds: 2}}"
	s := newStage(t)
	s.begin(harness.Named(0), 1)
	s.apply(harness.PlanManifest(broken, strategy))
	s.await("the plan stalls", stalled("ReplicaFailed", broken))
	s.deletePlan()
	n := s.now()
	lost := withImage(n, broken)
	if lost < 1 || lost > 2 || withImage(n, harness.OldImage) != 5-lost {
		t.Errorf("%d replicas have the broken image, not one or two", lost)
	}
	if p := int(n.Sets[harness.Group].Partition); p != 5-lost {
		t.Errorf("the partition is %d, and %d replicas have the old image", p, 5-lost)
	}
	s.apply(harness.PlanManifest(harness.NewImage, strategy))
	s.await("a plan with an image that works goes on from there", waiting("4/5", "WaitingForDuty"))
	s.deletePlan()
}
