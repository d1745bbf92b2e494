package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/store"
)

// Values of the duty label.
const (
	dutyWorking = "working"
	dutyIdle    = "idle"
)

// needsPods says whether pods have to be written because of a change from a to b.
func (r *Reconciler) needsPods(a, b *duty.View) bool {
	if a.Record.Frozen != b.Record.Frozen || b.Record.Frozen && a.Record.Leases.Void() != b.Record.Leases.Void() {
		return true
	}
	for name, m := range b.Record.Roster.Members {
		if a.Record.Roster.Members[name].Assigned != m.Assigned {
			return true
		}
	}
	for name, l := range b.Record.Leases.Leases {
		if l.Phase == lease.Expired && a.Record.Leases.Leases[name] != l {
			return true
		}
	}
	return false
}

// label writes the duty label where it differs, and where the arbiter gives duty. Duty never waits for it: the label tells
// the application, the record decides; but a member that is told by the label alone does
// not begin to settle before the label is seen to have changed.
func (r *Reconciler) label(ctx context.Context, ro *v1alpha1.Roster, v *duty.View, pods map[string]*corev1.Pod) error {
	if v == nil || v.Record.Frozen || ro.Spec.Observed != nil {
		return nil
	}
	var errs []error
	for _, name := range v.Names() {
		p := pods[name]
		if p == nil || p.DeletionTimestamp != nil {
			continue
		}
		want := dutyIdle
		if v.Record.Roster.Members[name].Assigned {
			want = dutyWorking
		}
		if p.Labels[v1alpha1.DutyLabel] == want {
			continue
		}
		err := r.patch(ctx, p, map[string]any{"labels": map[string]string{v1alpha1.DutyLabel: want}})
		if err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("write label %s=%s of pod %s/%s: %w", v1alpha1.DutyLabel, want, p.Namespace, name, err))
		}
	}
	return errors.Join(errs...)
}

// patch merges metadata into the very pod that was seen, identified by its UID.
func (r *Reconciler) patch(ctx context.Context, p *corev1.Pod, metadata map[string]any) error {
	data, err := mergeMetadata(p.UID, metadata)
	if err != nil {
		return err
	}
	return r.Client.Patch(ctx, bare(p), client.RawPatch(types.MergePatchType, data))
}

func mergeMetadata(uid types.UID, metadata map[string]any) ([]byte, error) {
	metadata["uid"] = uid
	data, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return nil, fmt.Errorf("encode a patch: %w", err)
	}
	return data, nil
}

func bare(p *corev1.Pod) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}}
}

// gone says whether the pod of that UID is no more.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

// fence voids everything that the holder of an expired lease may still have under way:
// writes that were decided conflict, and none is decided on the fenced pod any more. Only
// then the lease ends. It goes through pods/status, which works while Kruise's webhook for
// pods does not answer.
func (r *Reconciler) fence(ctx context.Context, ro *v1alpha1.Roster, g *duty.Group, v *duty.View) error {
	if v == nil {
		return nil
	}
	var errs []error
	for name, l := range v.Record.Leases.Leases {
		if l.Phase != lease.Expired {
			continue
		}
		if err := r.touch(ctx, types.NamespacedName{Namespace: ro.Namespace, Name: name}, l.Token); err != nil {
			errs = append(errs, fmt.Errorf("fence %s of the expired lease %s: %w", name, l.ID, err))
			continue
		}
		if err := g.Fenced(ctx, l.ID); err != nil {
			errs = append(errs, fmt.Errorf("end the expired lease %s on %s: %w", l.ID, name, err))
		}
	}
	return errors.Join(errs...)
}

// fenceAll voids, while the record is lost, all leases that it does not know and that no pod
// names either: a holder that was frozen before it noted its lease would act on it when it wakes.
// The freeze lasts until every pod was seen fenced. The pods were read from the API server.
func (r *Reconciler) fenceAll(ctx context.Context, v *duty.View, pods map[string]*corev1.Pod) error {
	if v == nil || !v.Record.Frozen {
		return nil
	}
	void := v.Record.Leases.Void()
	var errs []error
	for name, p := range pods {
		if err := r.mark(ctx, p, void); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("fence %s, as the record was lost: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// touch writes the token of an ended lease on the pod, unless a later one stands there. A
// pod that does not exist needs no fence: all writes name the UID of the pod they are for.
func (r *Reconciler) touch(ctx context.Context, key types.NamespacedName, token int64) error {
	var p corev1.Pod
	if err := r.Live.Get(ctx, key, &p); err != nil {
		return client.IgnoreNotFound(err)
	}
	return client.IgnoreNotFound(r.mark(ctx, &p, token))
}

// mark writes a fence on the very version of the pod that was seen.
func (r *Reconciler) mark(ctx context.Context, p *corev1.Pod, token int64) error {
	if fencedOf(p) >= token {
		return nil
	}
	data, err := mergeMetadata(p.UID, map[string]any{
		"resourceVersion": p.ResourceVersion,
		"annotations":     map[string]string{v1alpha1.FencedAnnotation: strconv.FormatInt(token, 10)},
	})
	if err != nil {
		return err
	}
	return r.Client.Status().Patch(ctx, bare(p), client.RawPatch(types.MergePatchType, data))
}

// fencedOf is the token up to which leases on the pod are void. The upgrader reads it in the
// same way (kruise.Fenced): one that nobody can have given is none.
func fencedOf(p *corev1.Pod) int64 {
	token, err := strconv.ParseInt(p.Annotations[v1alpha1.FencedAnnotation], 10, 64)
	if err != nil || token < 0 || token > lease.MaxToken {
		return 0
	}
	return token
}

// announce tells people by events what has changed.
func (r *Reconciler) announce(ctx context.Context, before, after *duty.View) {
	if before == nil {
		return
	}
	key, ok := parseKey(after.Key)
	if !ok {
		return
	}
	var ro v1alpha1.Roster
	if err := r.Client.Get(ctx, key, &ro); err != nil {
		return // an event about an object that is gone helps nobody
	}
	if b, a := before.Record.Summary.Working, after.Record.Summary.Working; a != b {
		r.Recorder.Eventf(&ro, nil, corev1.EventTypeNormal, "DutyMoved", "AssignDuty", "on duty: %s (before: %s)", orNobody(a), orNobody(b))
	}
	if b, a := before.Record.Summary.Conditions[0], after.Record.Summary.Conditions[0]; a.Reason != b.Reason && stalled(a) {
		r.Recorder.Eventf(&ro, nil, corev1.EventTypeWarning, a.Reason, "AssignDuty", "%s", a.Message)
	}
	if len(after.Record.ForceReleases) > 0 && (len(before.Record.ForceReleases) == 0 || before.Record.ForceReleases[0] != after.Record.ForceReleases[0]) {
		f := after.Record.ForceReleases[0]
		r.Recorder.Eventf(&ro, nil, corev1.EventTypeWarning, "ForceReleased", "ForceRelease", "lease %s on %s was released by %s: %s", f.LeaseID, f.Replica, f.By, f.Reason)
	}
	for name, l := range after.Record.Leases.Leases {
		if l.Phase == lease.Expired && before.Record.Leases.Leases[name].Phase == lease.Leased {
			r.Recorder.Eventf(&ro, nil, corev1.EventTypeWarning, "LeaseExpired", "Fence", "lease %s on %s was not renewed for %s", l.ID, name, l.TTL)
		}
	}
}

func stalled(c store.Condition) bool {
	return c.Reason == duty.ReasonFrozen || c.Reason == duty.ReasonOverduePin
}

func orNobody(names string) string {
	if names == "" {
		return "nobody"
	}
	return names
}
