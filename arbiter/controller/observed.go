package controller

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/source"
)

// see makes of pods what a group looks at.
type see func(map[string]*corev1.Pod) map[string]roster.Pod

// observe completes the settings of a roster whose application decides who works, and
// returns how its pods are seen.
func (r *Reconciler) observe(ro *v1alpha1.Roster, settings *duty.Settings) see {
	if ro.Spec.Observed == nil {
		return seeing(nil)
	}
	pods, err := r.sources.of(ro)
	if err != nil {
		settings.Broken = err.Error()
	}
	look := seeing(pods)
	ro = ro.DeepCopy()
	settings.Look = func(ctx context.Context) (map[string]roster.Pod, error) {
		live, err := members(ctx, r.Live, ro)
		if err != nil {
			return nil, err
		}
		return look(live), nil
	}
	return look
}

// seeing sees pods through a source; nil: there is none, and nothing is said of duty.
func seeing(s *source.Pods) see {
	return func(pods map[string]*corev1.Pod) map[string]roster.Pod {
		seen := make(map[string]roster.Pod, len(pods))
		for name, p := range pods {
			pod := toPod(p)
			if s != nil {
				pod.Sight = s.See(p)
			}
			seen[name] = pod
		}
		return seen
	}
}

// sources keeps the compiled expressions of the rosters.
type sources struct {
	mu    sync.Mutex
	known map[types.NamespacedName]compiled
}

type compiled struct {
	expression string
	pods       *source.Pods
	err        error
}

// of returns the source of an observed roster.
func (s *sources) of(ro *v1alpha1.Roster) (*source.Pods, error) {
	if ro.Spec.Observed.Pods == nil {
		return nil, fmt.Errorf("spec.observed: there is no source that this arbiter knows")
	}
	key, expression := client.ObjectKeyFromObject(ro), ro.Spec.Observed.Pods.Working
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.known[key]; ok && c.expression == expression {
		return c.pods, c.err
	}
	c := compiled{expression: expression}
	if c.pods, c.err = source.NewPods(expression); c.err != nil {
		c.err = fmt.Errorf("spec.observed.pods.working: %w", c.err)
	}
	if s.known == nil {
		s.known = map[types.NamespacedName]compiled{}
	}
	s.known[key] = c
	return c.pods, c.err
}

// forget drops what is kept for a roster that is gone.
func (s *sources) forget(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, key)
}
