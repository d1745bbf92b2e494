// Package status says, from a world and a decision, how far a plan is and why not further.
package status

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// maxReplicas is how many replicas a plan's status lists; those that are on their way
// come first. An object must stay below the 1.5 MiB that etcd takes.
const maxReplicas = 1000

// Of returns the status of a plan whose present status is old. failed is the error of
// applying d, if any. Equal inputs give equal statuses: nothing changes, nothing is
// written.
func Of(old *v1alpha1.UpgradePlanStatus, generation int64, w *plan.World, d plan.Decision, failed error, now time.Time) *v1alpha1.UpgradePlanStatus {
	s := &v1alpha1.UpgradePlanStatus{
		ObservedGeneration: generation,
		Conditions:         slices.Clone(old.Conditions),
		LastProgressTime:   old.LastProgressTime,
	}
	forward, began := false, generation != old.ObservedGeneration || wasReady(old) && !d.Done
	before := make(map[string]*v1alpha1.ReplicaStatus, len(old.ReplicaStatuses))
	for i := range old.ReplicaStatuses {
		before[old.ReplicaStatuses[i].Name] = &old.ReplicaStatuses[i]
	}
	for i := range w.Targets {
		t := &w.Targets[i]
		if t.Barred || t.Leaving && t.Untouched() {
			continue // nothing is left to be given back
		}
		ts := target(t, d.Targets[i])
		moved := revisionMoved(old, t)
		began = began || moved
		for j := range t.Pods {
			step := plan.StepOf(w, t, &t.Pods[j], now)
			rs, ahead := replica(&t.Pods[j], step, before[t.Pods[j].Name], moved, now)
			forward = forward || ahead
			count(s, &ts, &t.Pods[j], step)
			s.ReplicaStatuses = append(s.ReplicaStatuses, rs)
		}
		s.Targets = append(s.Targets, ts)
	}
	s.ReplicaStatuses = limit(s.ReplicaStatuses)
	s.Progress = fmt.Sprintf("%d/%d", s.UpgradedReplicas, s.Replicas)
	if forward || began || s.LastProgressTime == nil {
		s.LastProgressTime = &metav1.Time{Time: now.Truncate(time.Second)}
	}
	conditions(s, w, d, failed, generation, now)
	return s
}

func wasReady(old *v1alpha1.UpgradePlanStatus) bool {
	return meta.IsStatusConditionTrue(old.Conditions, v1alpha1.ConditionReady)
}

func revisionMoved(old *v1alpha1.UpgradePlanStatus, t *plan.Target) bool {
	for i := range old.Targets {
		if old.Targets[i].Name == t.Name {
			return old.Targets[i].UpdateRevision != t.UpdateRevision
		}
	}
	return true
}

func target(t *plan.Target, remark plan.Remark) v1alpha1.TargetStatus {
	ts := v1alpha1.TargetStatus{
		Name: t.Name, CurrentRevision: t.CurrentRevision, UpdateRevision: t.UpdateRevision,
		Replicas: int32(len(t.Pods)), //nolint:gosec // a set has fewer replicas than 2^31
		Reason:   string(remark.Reason), Message: remark.Message,
	}
	if !t.Gone && !t.Untouched() {
		ts.Partition = &t.Partition
	}
	return ts
}

// replica also says whether it has come a step forward.
func replica(r *plan.Replica, step plan.Step, before *v1alpha1.ReplicaStatus, moved bool, now time.Time) (v1alpha1.ReplicaStatus, bool) {
	rs := v1alpha1.ReplicaStatus{Name: r.Name, Duty: r.Duty.String(), Step: step.String(), Revision: r.Revision}
	if r.Lease != nil {
		rs.Lease = r.Lease.ID
	}
	if r.Trouble != nil && step != plan.StepUpgraded {
		rs.Reason, rs.Message = string(r.Trouble.Reason), r.Trouble.Message
	}
	rs.Since = &metav1.Time{Time: now.Truncate(time.Second)}
	if before == nil || moved {
		return rs, false
	}
	last := plan.ParseStep(before.Step)
	if before.Since != nil && (last == step || step == plan.StepFailed) {
		rs.Since = before.Since
	}
	return rs, step > last && step != plan.StepFailed
}

func count(s *v1alpha1.UpgradePlanStatus, ts *v1alpha1.TargetStatus, r *plan.Replica, step plan.Step) {
	s.Replicas++
	if step == plan.StepUpgraded {
		s.UpgradedReplicas++
		ts.UpgradedReplicas++
	}
	if r.Lease != nil {
		s.LeasedReplicas++
	}
	if r.Duty != plan.Idle {
		s.WorkingReplicas++
	}
}

func limit(all []v1alpha1.ReplicaStatus) []v1alpha1.ReplicaStatus {
	if len(all) <= maxReplicas {
		return all
	}
	settled := func(r v1alpha1.ReplicaStatus) int {
		if r.Step == plan.StepProtected.String() || r.Step == plan.StepUpgraded.String() {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(all, func(a, b v1alpha1.ReplicaStatus) int { return settled(a) - settled(b) })
	return all[:maxReplicas]
}

// conditions follows kstatus: Ready says it all; Reconciling and Stalled are there only
// while they are true. A plan with one target that needs somebody is Stalled, so that who
// waits for it learns at once; Progressing says whether the others go on.
func conditions(s *v1alpha1.UpgradePlanStatus, w *plan.World, d plan.Decision, failed error, generation int64, now time.Time) {
	reason, message := string(d.Reason), d.Message
	var stuck *plan.Stuck
	switch {
	case errors.As(failed, &stuck) && d.Stalled && d.Reason == stuck.Reason:
		failed = nil // it was tried again, and nothing has changed
	case errors.As(failed, &stuck):
		reason, message, d.Stalled, d.Going = string(stuck.Reason), stuck.Message, true, plan.Remark{}
	case failed != nil:
		reason, message = "WriteFailed", failed.Error()
	}
	message = clip(message)
	set := func(t string, is bool, reason, message string) {
		c := metav1.Condition{
			Type: t, Status: metav1.ConditionFalse, Reason: reason, Message: message,
			ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
		}
		if is {
			c.Status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&s.Conditions, c)
	}
	only := func(t string, is bool) {
		if is {
			set(t, true, reason, message)
			return
		}
		meta.RemoveStatusCondition(&s.Conditions, t)
	}
	done := d.Done && failed == nil
	set(v1alpha1.ConditionReady, done, reason, message)
	only(v1alpha1.ConditionReconciling, !done && !d.Stalled)
	only(v1alpha1.ConditionStalled, d.Stalled)
	going := !d.Stalled || d.Going.Reason != ""
	if d.Stalled && going && failed == nil {
		reason, message = string(d.Going.Reason), clip(d.Going.Message)
	}
	paused := d.Reason == plan.Paused || d.Going.Reason == plan.Paused
	set(v1alpha1.ConditionProgressing, !done && going && !paused, reason, message)
	if b := w.Arbiter.Blocked; b != nil {
		set(v1alpha1.ConditionArbiterReachable, false, string(b.Reason), clip(b.Message))
		return
	}
	set(v1alpha1.ConditionArbiterReachable, true, "Connected", "the arbiter answers")
}

// clip keeps a message within what a condition may hold.
func clip(s string) string {
	const most = 4096
	if len(s) <= most {
		return s
	}
	// Half a rune would come back from the server as something else, and be written again.
	return strings.ToValidUTF8(s[:most], "") + "…"
}
