package controller

import (
	"sync"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"offduty.dev/api/v1alpha1"
)

// statusPace is how long a status may wait that says nothing but how replicas move on.
// Those of one batch take each step nearly together, and one write shall tell of all.
const statusPace = 200 * time.Millisecond

// pace keeps since when the status of each plan has been waiting to be written.
type pace struct {
	mu      sync.Mutex
	waiting map[types.NamespacedName]time.Time
}

// left says how long to wait before next is written over old; 0: now.
func (p *pace) left(key types.NamespacedName, old, next *v1alpha1.UpgradePlanStatus, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if apiequality.Semantic.DeepEqual(old, next) {
		delete(p.waiting, key)
		return 0
	}
	if p.waiting == nil {
		p.waiting = map[types.NamespacedName]time.Time{}
	}
	since, ok := p.waiting[key]
	if !ok {
		since = now
		p.waiting[key] = now
	}
	if left := statusPace - now.Sub(since); left > 0 && !urgent(old, next) {
		return left
	}
	delete(p.waiting, key)
	return 0
}

func (p *pace) forget(key types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, key)
}

// urgent says whether somebody may be waiting for these very news: the plan was read, is
// ready, stalls, or has lost its arbiter, or no longer so.
func urgent(old, next *v1alpha1.UpgradePlanStatus) bool {
	if old.ObservedGeneration != next.ObservedGeneration {
		return true
	}
	for _, t := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionStalled, v1alpha1.ConditionArbiterReachable} {
		if meta.IsStatusConditionTrue(old.Conditions, t) != meta.IsStatusConditionTrue(next.Conditions, t) {
			return true
		}
	}
	return false
}
