package controller

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// Recorder writes events on plans and pods; an apply.Recorder.
type Recorder struct{ events.EventRecorder }

const action = "Upgrade"

// Plan is as apply.Recorder says.
func (r Recorder) Plan(up *v1alpha1.UpgradePlan, about client.Object, warning bool, reason, message string) {
	t := corev1.EventTypeNormal
	if warning {
		t = corev1.EventTypeWarning
	}
	if about == nil {
		r.Eventf(up, nil, t, reason, action, "%s", message)
		return
	}
	r.Eventf(up, about, t, reason, action, "%s", message)
}

// Pod is as apply.Recorder says.
func (r Recorder) Pod(up *v1alpha1.UpgradePlan, pod *corev1.Pod, reason, message string) {
	r.Eventf(pod, up, corev1.EventTypeNormal, reason, action, "%s", message)
}

// narrate logs and records what a new status means for people: the plan is done, stalls,
// has lost its arbiter, or waits. What replicas come to is told where it is done.
func (r *Reconciler) narrate(ctx context.Context, up *v1alpha1.UpgradePlan, old, next *v1alpha1.UpgradePlanStatus) {
	reason := readyReason(next)
	if before := readyReason(old); reason == before && isTrue(old, v1alpha1.ConditionStalled) == isTrue(next, v1alpha1.ConditionStalled) {
		return
	}
	message := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionReady).Message
	log.FromContext(ctx).Info("plan moved", "reason", reason, "message", message, "progress", next.Progress,
		"stalled", isTrue(next, v1alpha1.ConditionStalled))
	warning := isTrue(next, v1alpha1.ConditionStalled) || blocking(reason) || troubled(next, reason)
	// While a batch is on its way, that something else waits is no news.
	if !warning && (underWay(reason) || next.LeasedReplicas > 0) {
		return
	}
	if r.told.again(client.ObjectKeyFromObject(up), reason, next, r.Now()) {
		return
	}
	r.Applier.Recorder.Plan(up, nil, warning, string(reason), next.Progress+": "+message)
}

func readyReason(s *v1alpha1.UpgradePlanStatus) plan.Reason {
	if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady); c != nil {
		return plan.Reason(c.Reason)
	}
	return ""
}

func isTrue(s *v1alpha1.UpgradePlanStatus, condition string) bool {
	return meta.IsStatusConditionTrue(s.Conditions, condition)
}

// underWay says whether a reason tells of work that goes on, or that an event tells of
// in another way.
func underWay(r plan.Reason) bool {
	switch r { //nolint:exhaustive // all others are worth an event
	case plan.Arming, plan.Holding, plan.WritingTemplate, plan.WaitingForKruise, plan.AcquiringLeases, plan.WaitingForHandover,
		plan.Draining, plan.Selecting, plan.Releasing, plan.Updating, plan.Verifying, plan.Readmitting, plan.Undoing,
		plan.Finishing, plan.Leaving, plan.Connecting, plan.Succeeded:
		return true
	}
	return false
}

// blocking says whether a reason is a warning also while the plan does not stall.
func blocking(r plan.Reason) bool {
	switch r { //nolint:exhaustive // all others are no failure, or stall the plan
	case plan.ArbiterUnreachable, plan.ArbiterDenied, plan.ArbiterFrozen, "WriteFailed":
		return true
	}
	return false
}

// troubled says whether a reason is a pod's own, such as ImagePullBackOff.
func troubled(s *v1alpha1.UpgradePlanStatus, reason plan.Reason) bool {
	return slices.ContainsFunc(s.ReplicaStatuses, func(r v1alpha1.ReplicaStatus) bool { return r.Reason == string(reason) })
}

// repeatAfter is how long the same reason at the same progress is not told again: a plan
// may wait and try for hours.
const repeatAfter = time.Hour

// told keeps what was told of each plan at its present generation and progress.
type told struct {
	mu    sync.Mutex
	plans map[types.NamespacedName]*tale
}

type tale struct {
	generation int64
	progress   string
	last       map[plan.Reason]time.Time
}

// again says whether reason was told before, and notes it.
func (t *told) again(key types.NamespacedName, reason plan.Reason, s *v1alpha1.UpgradePlanStatus, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.plans == nil {
		t.plans = map[types.NamespacedName]*tale{}
	}
	p := t.plans[key]
	if p == nil || p.generation != s.ObservedGeneration || p.progress != s.Progress {
		p = &tale{generation: s.ObservedGeneration, progress: s.Progress, last: map[plan.Reason]time.Time{}}
		t.plans[key] = p
	}
	if last, ok := p.last[reason]; ok && now.Sub(last) < repeatAfter {
		return true
	}
	p.last[reason] = now
	return false
}

func (t *told) forget(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.plans, key)
}
