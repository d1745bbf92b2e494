package controller

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/duty"
)

// nodeReader counts the nodes that are read through it, and may refuse to.
type nodeReader struct {
	client.Reader
	reads     int
	forbidden bool
}

func (r *nodeReader) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	if _, ok := obj.(*metav1.PartialObjectMetadata); ok {
		r.reads++
		if r.forbidden {
			return apierrors.NewForbidden(corev1.Resource("nodes"), key.Name, nil)
		}
	}
	return r.Reader.Get(ctx, key, obj, opts...)
}

// domains are those by which the group tells its members apart.
func (c *cluster) domains(ctx context.Context) map[string]string {
	c.t.Helper()
	out := map[string]string{}
	g, err := c.Registry.Group(ctx, c.key.String())
	must(c.t, err)
	for name, r := range g.View().Rules.Replicas {
		out[name] = r.Domain
	}
	return out
}

// onNodes puts the pods on nodes, of which n3 is gone, gives the roster spread by zone, and counts
// the nodes that are read.
func (c *cluster) onNodes(ctx context.Context) *nodeReader {
	c.t.Helper()
	reader := &nodeReader{Reader: c.Live}
	c.Live = reader
	for name, zone := range map[string]string{"n1": "a", "n2": "b"} {
		must(c.t, c.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": zone}}}))
	}
	for pod, node := range map[string]string{"web-0": "n1", "web-1": "n2", "web-2": "n3"} {
		p := c.pod(ctx, pod)
		p.Spec.NodeName = node
		must(c.t, c.Update(ctx, p))
	}
	c.spread(ctx, "zone")
	return reader
}

func (c *cluster) spread(ctx context.Context, key string) {
	c.t.Helper()
	ro := c.roster(ctx)
	ro.Spec.Spread = &v1alpha1.Spread{TopologyKey: key}
	must(c.t, c.Update(ctx, ro))
	c.reconcile(ctx)
}

func TestSpreadFindsTheDomainsOfNodes(t *testing.T) {
	inBubble(t, func(ctx context.Context, c *cluster) {
		reader := c.onNodes(ctx)
		if diff := cmp.Diff(map[string]string{"web-0": "a", "web-1": "b", "web-2": ""}, c.domains(ctx)); diff != "" {
			c.t.Errorf("the domains: %s", diff)
		}
		c.reconcile(ctx)
		if reader.reads != 3 {
			c.t.Errorf("%d nodes were read, and not each of 3 once", reader.reads)
		}
	})
}

func TestSpreadWithoutTheRightToReadNodes(t *testing.T) {
	inBubble(t, func(ctx context.Context, c *cluster) {
		reader := c.onNodes(ctx)
		time.Sleep(nodesFor) // the bubble's clock
		reader.forbidden = true
		c.reconcile(ctx)
		if cond := c.ready(ctx); cond.Reason != duty.ReasonInvalidRule || !strings.Contains(cond.Message, "offduty-arbiter-nodes") {
			c.t.Errorf("the roster says %+v", cond)
		}
		reader.reads = 0
		c.spread(ctx, corev1.LabelHostname)
		if diff := cmp.Diff(map[string]string{"web-0": "n1", "web-1": "n2", "web-2": "n3"}, c.domains(ctx)); diff != "" || reader.reads != 0 {
			c.t.Errorf("by host name, after %d reads, the domains: %s", reader.reads, diff)
		}
		if cond := c.ready(ctx); cond.Reason == duty.ReasonInvalidRule {
			c.t.Errorf("by host name the roster says %+v", cond)
		}
	})
}

func TestAFreezeWindowThatCannotBeReadIsTold(t *testing.T) {
	inBubble(t, func(ctx context.Context, c *cluster) {
		ro := c.roster(ctx)
		ro.Spec.FreezeWindows = []v1alpha1.FreezeWindow{
			{Schedule: "0 8 * * *", DurationMinutes: 60, TimeZone: "Europe/Berlin"},
			{Schedule: "0 8 * * *", DurationMinutes: 60, TimeZone: "Europe/Nowhere"},
		}
		must(c.t, c.Update(ctx, ro))
		c.reconcile(ctx)
		if cond := c.ready(ctx); cond.Reason != duty.ReasonInvalidRule || !strings.Contains(cond.Message, "spec.freezeWindows[1].timeZone") {
			c.t.Errorf("the roster says %+v", cond)
		}
	})
}

// ready is the roster's condition Ready.
func (c *cluster) ready(ctx context.Context) metav1.Condition {
	c.t.Helper()
	for _, cond := range c.roster(ctx).Status.Conditions {
		if cond.Type == duty.ConditionReady {
			return cond
		}
	}
	c.t.Fatal("the roster has no condition Ready")
	return metav1.Condition{}
}
