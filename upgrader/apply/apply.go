// Package apply carries out decisions: at most one batch of writes, each with the
// preconditions under which it was decided.
package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	appspub "github.com/openkruise/kruise-api/apps/pub"
	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"offduty.dev/api/v1alpha1"
	arbiter "offduty.dev/arbiter/client"
	"offduty.dev/upgrader/kruise"
	"offduty.dev/upgrader/metrics"
	"offduty.dev/upgrader/observe"
	"offduty.dev/upgrader/plan"
	"offduty.dev/upgrader/session"
)

// Applier carries out decisions. It is safe for use by several goroutines, for different
// plans.
type Applier struct {
	Client client.Client
	// Live reads from the API server itself. It must not be nil.
	Live     client.Reader
	Recorder Recorder
	Writes   *Writes
	Metrics  *metrics.Metrics
	Now      func() time.Time
}

// run is the application of one decision.
type run struct {
	*Applier
	scene *observe.Scene
	ses   *session.Session
	story story
	// returning are the sets of which the API server said that they are being given back.
	returning map[string]bool
}

// Apply carries out the actions of d in their order. One that fails does not keep the
// others from being tried, but nothing comes after a failed pin. A conflict is no error:
// the world has changed and will be looked at again. Errors are joined.
func (a *Applier) Apply(ctx context.Context, scene *observe.Scene, ses *session.Session, d plan.Decision) error {
	r := &run{Applier: a, scene: scene, ses: ses, returning: map[string]bool{}}
	defer r.tell()
	if err := r.catchUp(ctx, d); err != nil {
		return err
	}
	var errs []error
	for _, action := range d.Actions {
		err := r.traced(ctx, action)
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || isTestFailure(err) {
			err = errAgain
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// errAgain says that the world had changed: it is looked at again soon.
var errAgain = errors.New("the object has changed meanwhile")

// IsAgain says whether err is nothing but changes of the world.
func IsAgain(err error) bool {
	var all interface{ Unwrap() []error }
	if errors.As(err, &all) {
		for _, e := range all.Unwrap() {
			if !errors.Is(e, errAgain) {
				return false
			}
		}
		return true
	}
	return errors.Is(err, errAgain)
}

// isTestFailure says whether the test operation of a JSON patch failed: the API server
// answers 422 with this cause.
func isTestFailure(err error) bool {
	var s apierrors.APIStatus
	return errors.As(err, &s) && s.Status().Reason == metav1.StatusReasonInvalid && s.Status().Details != nil && len(s.Status().Details.Causes) == 0
}

// isRefused says whether the write was understood and refused for what it says, by
// validation or by a webhook: it is no use to send the same again.
func isRefused(err error) bool {
	return (apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err)) && !isTestFailure(err)
}

func (r *run) do(ctx context.Context, action plan.Action) error {
	switch a := action.(type) {
	case plan.Adopt:
		return r.adopt(ctx)
	case plan.Acquire:
		return r.acquire(ctx, a)
	case plan.Handover:
		return r.handover(ctx, a)
	case plan.ReleaseLease:
		return r.release(ctx, a)
	case plan.ApplySet:
		return r.applySet(ctx, a)
	case plan.WriteTemplate:
		return r.writeTemplate(ctx, a)
	case plan.SetCurrentRevision:
		return r.setCurrentRevision(ctx, a)
	case plan.Disarm:
		return r.disarm(ctx, a)
	case plan.PatchPod:
		if a.Returns != "" {
			if err := r.stillReturning(ctx, a.Returns); err != nil {
				return err
			}
		}
		return r.patchPod(ctx, a)
	case plan.Commit:
		return r.commit(ctx, a)
	case plan.Pin:
		return r.pin(ctx, a.Pod, a.Lease)
	case plan.Bar:
		return r.letGo(ctx, a)
	case plan.Leave:
		return r.leave(ctx, a)
	}
	return fmt.Errorf("unknown action %T", action)
}

func (r *run) full(pod string) string { return observe.ReplicaName(r.scene.Plan.Namespace, pod) }

// adopt also puts the finalizer on, before anything is written that it must clean up, and
// not for an arbiter that cannot serve the plan: nothing will have to be cleaned up then.
func (r *run) adopt(ctx context.Context) error {
	up := r.scene.Plan
	if err := r.ses.Check(ctx); err != nil {
		return err
	}
	if up.DeletionTimestamp == nil && !controllerutil.ContainsFinalizer(up, v1alpha1.PlanFinalizer) {
		old := up.DeepCopy()
		controllerutil.AddFinalizer(up, v1alpha1.PlanFinalizer)
		err := r.Client.Patch(ctx, up, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{}), client.FieldOwner(observe.FieldManager))
		r.wrote(ctx, wrotePlan, plan.Arming, err)
		if err != nil {
			return fmt.Errorf("put the finalizer on plan %s/%s: %w", up.Namespace, up.Name, err)
		}
		r.Writes.Note(up.UID, up.ResourceVersion)
	}
	return r.ses.Adopt(ctx, r.scene.Known())
}

// short is the pod's name in "<namespace>/<pod name>", whatever an arbiter may have made of it.
func short(replica string) string { return replica[strings.LastIndexByte(replica, '/')+1:] }

func (r *run) acquire(ctx context.Context, a plan.Acquire) error {
	c := make([]arbiter.Candidate, 0, len(a.Candidates))
	for _, x := range a.Candidates {
		c = append(c, arbiter.Candidate{Replica: r.full(x.Replica), Instance: x.UID})
	}
	granted, err := r.ses.Acquire(ctx, c, a.Max)
	for _, g := range granted {
		r.replica(short(g), leased)
	}
	return err
}

func (r *run) handover(ctx context.Context, a plan.Handover) error {
	to := make([]string, 0, len(a.To))
	for _, x := range a.To {
		to = append(to, r.full(x))
	}
	successor, err := r.ses.Handover(ctx, r.full(a.From), to)
	if err == nil && successor != "" {
		r.event(r.pod(a.From), "HandoverRequested", "the arbiter moves duty from %s to %s", r.full(a.From), successor)
	}
	return err
}

func (r *run) release(ctx context.Context, a plan.ReleaseLease) error {
	outcome := arbiter.Undone
	if a.Upgraded {
		outcome = arbiter.Upgraded
	}
	if err := r.ses.Release(ctx, a.Lease, outcome, a.Revision, a.Unused); err != nil {
		return err
	}
	r.Metrics.GaveBack(a.Upgraded)
	if a.Upgraded {
		r.replica(short(a.Lease.Replica), upgraded)
	} else {
		r.replica(short(a.Lease.Replica), undone)
	}
	return nil
}

func (r *run) applySet(ctx context.Context, a plan.ApplySet) error {
	set := r.scene.Sets[a.Target]
	armed := r.scene.Armed[a.Target]
	if armed == nil {
		if !observe.Listed(r.scene.Plan, a.Target) {
			return errAgain
		}
		if err := r.stillWanted(ctx, a.Target); err != nil {
			return err
		}
		if left, err := kruise.ParseArmed(set); err == nil && left != nil {
			armed = left // of a plan that is gone: its originals are the right ones
			armed.Plan, armed.ImagesGeneration = string(r.scene.Plan.UID), 0
		} else {
			armed = kruise.NewArmed(set, string(r.scene.Plan.UID), r.scene.World.Term)
		}
	}
	next := *armed
	if !kruise.Applied(set, observe.Settings(r.scene.Plan)) {
		next.Generation = set.Generation // the hook may have been lost meanwhile
	}
	next.Term = r.scene.World.Term
	if a.Proven != "" {
		next.Proven = a.Proven
	}
	next.Returning = next.Returning || a.Return
	cfg, err := kruise.ApplyConfiguration(set.Namespace, set.Name, a.ResourceVersion, &next, a.Partition, observe.Settings(r.scene.Plan))
	if err != nil {
		return err
	}
	err = r.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(cfg), client.FieldOwner(observe.FieldManager), client.ForceOwnership)
	r.wrote(ctx, wroteSet, a.Why, err, "target", a.Target, "partition", a.Partition)
	if err != nil {
		return fmt.Errorf("apply partition %d to StatefulSet %s (%s): %w", a.Partition, a.Target, a.Why, err)
	}
	r.Writes.Note(set.UID, cfg.GetResourceVersion())
	r.applied(a)
	return nil
}

// stillWanted asks the API server itself, and not the cache, whether the plan is there and
// names the target. Together with Bar it keeps a leader that was frozen from taking over a
// set that nobody would ever give back: its look at the set is older than this question,
// and whoever lets go of the set touches it after the plan's change.
func (r *run) stillWanted(ctx context.Context, target string) error {
	up, live := r.scene.Plan, &v1alpha1.UpgradePlan{}
	if err := r.Live.Get(ctx, client.ObjectKeyFromObject(up), live); err != nil {
		return fmt.Errorf("look for plan %s/%s before StatefulSet %s is taken over: %w", up.Namespace, up.Name, target, err)
	}
	switch {
	case live.UID != up.UID, live.DeletionTimestamp != nil && up.DeletionTimestamp == nil, observe.Wants(up, target) && !observe.Wants(live, target):
		return errAgain
	}
	return nil
}

// stillReturning asks the API server itself, and not the cache, whether the set is being given
// back by this leader, and Kruise has seen that. The pods were read before, and a set that is returning is not armed anew
// before all its pods were written: so whatever comes between this question and the patch of a
// pod, the pod is protected without its hold, or the patch is a conflict.
func (r *run) stillReturning(ctx context.Context, target string) error {
	if r.returning[target] {
		return nil
	}
	live := &kruisev1beta1.StatefulSet{}
	if err := r.Live.Get(ctx, client.ObjectKey{Namespace: r.scene.Plan.Namespace, Name: target}, live); err != nil {
		return fmt.Errorf("look at StatefulSet %s before its pods are given back: %w", target, err)
	}
	armed, err := kruise.ParseArmed(live)
	if err != nil {
		return err
	}
	if armed == nil || !armed.Returning || armed.Plan != string(r.scene.Plan.UID) || armed.Term != r.scene.World.Term || live.Status.ObservedGeneration != live.Generation {
		return errAgain
	}
	r.returning[target] = true
	return nil
}

// letGo bars a set that the plan names no more.
func (r *run) letGo(ctx context.Context, a plan.Bar) error {
	if err := r.bar(ctx, a); err != nil {
		return err
	}
	for i := range r.scene.World.Targets {
		if t := &r.scene.World.Targets[i]; t.Name == a.Target {
			t.Barred = true
		}
	}
	return nil
}

// bar makes every write of the set that was decided before a conflict, and leaves nothing
// behind: an annotation comes and goes.
func (r *run) bar(ctx context.Context, a plan.Bar) error {
	for _, step := range []struct {
		version string
		value   any
	}{{a.ResourceVersion, string(r.scene.Plan.UID)}, {"", nil}} {
		meta := map[string]any{"annotations": map[string]any{v1alpha1.LeftAnnotation: step.value}}
		if step.version != "" {
			meta["resourceVersion"] = step.version
		}
		patch, err := json.Marshal(map[string]any{"metadata": meta})
		if err != nil {
			return fmt.Errorf("encode a patch: %w", err)
		}
		if err := r.patchSet(ctx, a.Target, "bar", plan.Leaving, types.MergePatchType, patch, false); err != nil {
			return err
		}
	}
	return nil
}

// patchSet sends a patch and notes the version that it made.
func (r *run) patchSet(ctx context.Context, name, what string, why plan.Reason, t types.PatchType, patch []byte, sub bool) error {
	set := &kruisev1beta1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: r.scene.Plan.Namespace, Name: name}}
	var err error
	if sub {
		err = r.Client.Status().Patch(ctx, set, client.RawPatch(t, patch), client.FieldOwner(observe.FieldManager))
	} else {
		err = r.Client.Patch(ctx, set, client.RawPatch(t, patch), client.FieldOwner(observe.FieldManager))
	}
	r.wrote(ctx, wroteSet, why, err, "target", name)
	if err != nil {
		return fmt.Errorf("%s StatefulSet %s: %w", what, name, err)
	}
	r.Writes.Note(set.UID, set.ResourceVersion)
	return nil
}

func (r *run) writeTemplate(ctx context.Context, a plan.WriteTemplate) error {
	set, armed := r.scene.Sets[a.Target], *r.scene.Armed[a.Target]
	armed.ImagesGeneration = r.scene.Plan.Generation
	patch, err := kruise.TemplatePatch(set, a.ResourceVersion, r.images(a.Target), a.Partition, &armed)
	if err != nil {
		return err
	}
	err = r.patchSet(ctx, a.Target, "write the images to", plan.WritingTemplate, types.JSONPatchType, patch, false)
	if isRefused(err) {
		return r.Writes.refuse(r.scene.Plan, set, err)
	}
	if err != nil {
		return err
	}
	r.event(set, "ImagesWritten", "StatefulSet %s has the new images; none of its %d replicas is updated before it is off duty", a.Target, a.Partition)
	return nil
}

func (r *run) images(target string) map[string]string {
	for i := range r.scene.Plan.Spec.Targets {
		if t := &r.scene.Plan.Spec.Targets[i]; t.Name == target {
			return t.Images
		}
	}
	return nil
}

func (r *run) setCurrentRevision(ctx context.Context, a plan.SetCurrentRevision) error {
	patch, err := kruise.CurrentRevisionPatch(a.ResourceVersion, a.Revision)
	if err != nil {
		return err
	}
	return r.patchSet(ctx, a.Target, "set status.currentRevision of", plan.Finishing, types.JSONPatchType, patch, true)
}

func (r *run) disarm(ctx context.Context, a plan.Disarm) error {
	patch, err := kruise.DisarmPatch(r.scene.Sets[a.Target], a.ResourceVersion, r.scene.Armed[a.Target])
	if err != nil {
		return err
	}
	return r.patchSet(ctx, a.Target, "give back", plan.Leaving, types.MergePatchType, patch, false)
}

// commit is the point of no return. The patch names the pod version that was seen to be
// ready for it: whatever has happened to the pod since makes it a conflict. What was
// verified on the pod counts no more: it may come back to that revision by another update.
func (r *run) commit(ctx context.Context, a plan.Commit) error {
	if !a.Lease.Pinned {
		if err := r.pin(ctx, a.Pod, a.Lease); err != nil {
			return err
		}
	}
	off, none := false, ""
	if err := r.patchPod(ctx, plan.PatchPod{Pod: a.Pod, UID: a.UID, ResourceVersion: a.ResourceVersion, Hold: &off, Verified: &none, Why: plan.Releasing}); err != nil {
		return err
	}
	r.Metrics.Committed(a.UID)
	r.replica(a.Pod, released)
	return nil
}

func (r *run) pin(ctx context.Context, pod string, l plan.Lease) error {
	ok, why, err := r.ses.Pin(ctx, l)
	if err != nil {
		return fmt.Errorf("pin the lease on %s: %w", pod, err)
	}
	if !ok {
		r.Recorder.Plan(r.scene.Plan, r.pod(pod), true, "PinRefused", fmt.Sprintf("%s is not upgraded now: %s", pod, why))
		return errAgain
	}
	return nil
}

func (r *run) patchPod(ctx context.Context, a plan.PatchPod) error {
	labels, annotations := map[string]any{}, map[string]any{}
	flag(labels, v1alpha1.HoldLabel, a.Hold)
	flag(labels, v1alpha1.GrantLabel, a.Grant)
	if a.Working != nil {
		labels[r.scene.Plan.Spec.WorkingLabel] = orNull(*a.Working)
	}
	if a.State != nil {
		labels[appspub.LifecycleStateKey] = string(*a.State)
	}
	if a.Note != nil {
		annotations[v1alpha1.LeaseAnnotation] = orNull(kruise.FormatNote(*a.Note))
	}
	if a.Verified != nil {
		annotations[v1alpha1.VerifiedAnnotation] = orNull(*a.Verified)
	}
	if a.Fence != nil {
		annotations[v1alpha1.FencedAnnotation] = strconv.FormatInt(*a.Fence, 10)
	}
	meta := map[string]any{"uid": a.UID, "resourceVersion": a.ResourceVersion}
	if len(labels) > 0 {
		meta["labels"] = labels
	}
	if len(annotations) > 0 {
		meta["annotations"] = annotations
	}
	body := map[string]any{"metadata": meta}
	if a.Gate != nil {
		body["status"] = map[string]any{"conditions": []any{r.gate(a)}}
	}
	patch, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return r.sendPod(ctx, a, patch)
}

func (r *run) sendPod(ctx context.Context, a plan.PatchPod, patch []byte) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: r.scene.Plan.Namespace, Name: a.Pod}}
	var err error
	if a.Gate != nil {
		err = r.Client.Status().Patch(ctx, pod, client.RawPatch(types.StrategicMergePatchType, patch), client.FieldOwner(observe.FieldManager))
	} else {
		err = r.Client.Patch(ctx, pod, client.RawPatch(types.StrategicMergePatchType, patch), client.FieldOwner(observe.FieldManager))
	}
	r.wrotePod(ctx, a, err)
	if err != nil {
		return fmt.Errorf("patch pod %s (%s): %w", a.Pod, a.Why, err)
	}
	r.Writes.Note(pod.UID, pod.ResourceVersion)
	return nil
}

// gate is the condition; strategic merge joins it to the others by its type.
func (r *run) gate(a plan.PatchPod) map[string]any {
	name := r.scene.Plan.Spec.Strategy.Drain.Gate
	status, reason, message := corev1.ConditionTrue, "InService", "the replica is in service"
	if !*a.Gate {
		status, reason, message = corev1.ConditionFalse, "Upgrade", "the replica is out of service for its upgrade"
	}
	c := map[string]any{"type": name, "status": string(status), "reason": reason, "message": message}
	now := metav1.NewTime(r.Now())
	c["lastTransitionTime"] = now.UTC().Format(time.RFC3339)
	return c
}

func flag(m map[string]any, key string, v *bool) {
	switch {
	case v == nil:
	case *v:
		m[key] = "true"
	default:
		m[key] = nil
	}
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (r *run) leave(ctx context.Context, a plan.Leave) error {
	up := r.scene.Plan
	for _, b := range a.Bars {
		if err := r.bar(ctx, b); err != nil {
			return err
		}
	}
	if a.Untold {
		r.Recorder.Plan(up, nil, true, "LeftUntold", "the plan goes without having told its arbiter: if that still shows leases or a holder "+
			string(up.UID)+", end them there by force")
	} else if r.ses != nil {
		if err := r.ses.Retire(ctx); err != nil {
			return err
		}
	}
	old := up.DeepCopy()
	if !controllerutil.RemoveFinalizer(up, v1alpha1.PlanFinalizer) {
		return nil
	}
	err := r.Client.Patch(ctx, up, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{}))
	r.wrote(ctx, wrotePlan, plan.Leaving, err)
	if err != nil {
		return fmt.Errorf("take the finalizer off plan %s/%s: %w", up.Namespace, up.Name, err)
	}
	r.Writes.Note(up.UID, up.ResourceVersion) // nothing is decided on the plan as it was before
	return nil
}
