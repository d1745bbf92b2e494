package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/source"
)

// leasePeriod is how often a Lease is looked at. It must be seen renewed within its duration,
// which is 15 seconds by the custom of Kubernetes.
const leasePeriod = time.Second

// pollingOf is when a roster is to be looked at although nothing has happened; 0: never.
func pollingOf(ro *v1alpha1.Roster, v *duty.View) time.Duration {
	switch {
	case ro.Spec.Observed != nil && ro.Spec.Observed.Lease != nil:
		return leasePeriod
	case ro.Spec.Spread != nil && v != nil && unplaced(v):
		return nodesFor // whether nodes may be read, or have their label, by then
	}
	return 0
}

// unplaced says whether the topology domain of a member is not known.
func unplaced(v *duty.View) bool {
	for _, r := range v.Rules.Replicas {
		if r.Domain == "" {
			return true
		}
	}
	return false
}

// see makes of pods what a group looks at.
type see func(context.Context, map[string]*corev1.Pod) map[string]roster.Pod

// observe completes the settings of a roster whose application decides who works, and
// returns how its pods are seen.
func (r *Reconciler) observe(ro *v1alpha1.Roster, settings *duty.Settings) see {
	if ro.Spec.Observed == nil {
		return seeing(nil)
	}
	ro = ro.DeepCopy()
	look, err := r.source(ro)
	if err != nil {
		settings.Broken = err.Error()
	}
	settings.Look = func(ctx context.Context) (map[string]roster.Pod, error) {
		live, err := members(ctx, r.Live, ro)
		if err != nil {
			return nil, err
		}
		return look(ctx, live), nil
	}
	return look
}

// source returns how the pods of an observed roster are seen; if that cannot be, without
// anything that is said of their duty.
func (r *Reconciler) source(ro *v1alpha1.Roster) (see, error) {
	switch o := ro.Spec.Observed; {
	case o.Pods != nil:
		pods, err := r.sources.expression(client.ObjectKeyFromObject(ro), o.Pods.Working)
		if err != nil {
			return seeing(nil), fmt.Errorf("spec.observed.pods.working: %w", err)
		}
		return seeing(func(_ context.Context, all map[string]*corev1.Pod) map[string]roster.Sight {
			sights := make(map[string]roster.Sight, len(all))
			for name, p := range all {
				sights[name] = pods.See(p)
			}
			return sights
		}), nil
	case o.Lease != nil:
		key := types.NamespacedName{Namespace: ro.Namespace, Name: o.Lease.Name}
		held := r.sources.lease(client.ObjectKeyFromObject(ro), o.Lease.Name)
		return seeing(func(ctx context.Context, all map[string]*corev1.Pod) map[string]roster.Sight {
			return r.byLease(ctx, key, held, all)
		}), nil
	}
	return seeing(nil), errors.New("spec.observed: it has no source that this arbiter knows")
}

// byLease reads a Lease from the API server: a cache would have to follow those of all nodes.
func (r *Reconciler) byLease(ctx context.Context, key types.NamespacedName, held *source.Lease, pods map[string]*corev1.Pod) map[string]roster.Sight {
	var l coordinationv1.Lease
	// What is read was so after this moment, and counts from it.
	now := r.Now()
	err := r.Live.Get(ctx, key, &l)
	if err == nil {
		return held.See(&l, pods, now)
	}
	sights := make(map[string]roster.Sight, len(pods))
	for name, p := range pods {
		sights[name] = roster.Sight{Instance: string(p.UID), Duty: roster.Unknown, Why: fmt.Sprintf("read lease %s: %v", key, err)}
	}
	return sights
}

// seeing sees pods, with what a source says of them; nil: nothing.
func seeing(sights func(context.Context, map[string]*corev1.Pod) map[string]roster.Sight) see {
	return func(ctx context.Context, pods map[string]*corev1.Pod) map[string]roster.Pod {
		var said map[string]roster.Sight
		if sights != nil {
			said = sights(ctx, pods)
		}
		seen := make(map[string]roster.Pod, len(pods))
		for name, p := range pods {
			pod := toPod(p)
			pod.Sight = said[name]
			seen[name] = pod
		}
		return seen
	}
}

// sources keeps what the sources of the rosters know: compiled expressions, and when Leases
// were seen to be renewed.
type sources struct {
	mu     sync.Mutex
	pods   map[types.NamespacedName]compiled
	leases map[types.NamespacedName]followed
}

type compiled struct {
	expression string
	pods       *source.Pods
	err        error
}

type followed struct {
	name  string
	lease *source.Lease
}

// expression returns the compiled expression of a roster.
func (s *sources) expression(key types.NamespacedName, expression string) (*source.Pods, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.pods[key]
	if !ok || c.expression != expression {
		c = compiled{expression: expression}
		c.pods, c.err = source.NewPods(expression)
		if s.pods == nil {
			s.pods = map[types.NamespacedName]compiled{}
		}
		s.pods[key] = c
	}
	return c.pods, c.err
}

// lease returns what is known of the Lease of a roster.
func (s *sources) lease(key types.NamespacedName, name string) *source.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.leases[key]
	if !ok || f.name != name {
		f = followed{name: name, lease: &source.Lease{}}
		if s.leases == nil {
			s.leases = map[types.NamespacedName]followed{}
		}
		s.leases[key] = f
	}
	return f.lease
}

// forget drops what is kept for a roster that is gone.
func (s *sources) forget(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, key)
	delete(s.leases, key)
}
