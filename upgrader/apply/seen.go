package apply

import (
	"context"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"offduty.dev/upgrader/kruise"
	"offduty.dev/upgrader/plan"
)

// Kinds of objects that are written, as metrics and logs name them.
const (
	wrotePod  = "pod"
	wroteSet  = "statefulset"
	wrotePlan = "upgradeplan"
)

// wrote counts a write, and logs it if it was made. fields are further ones of the line.
func (r *run) wrote(ctx context.Context, object string, why plan.Reason, err error, fields ...any) {
	r.Metrics.Wrote(object, why, err)
	if err == nil {
		log.FromContext(ctx).Info(object+" written", append(fields, "reason", why)...)
	}
}

// wrotePod is wrote for a pod: the line names the lease under which it was written, and
// what was written.
func (r *run) wrotePod(ctx context.Context, a plan.PatchPod, err error) {
	fields := []any{"replica", r.full(a.Pod)}
	if n := r.lease(a.Pod); n.ID != "" {
		fields = append(fields, "lease", n.ID, "token", n.Token)
	}
	for _, f := range []struct {
		key   string
		value *bool
	}{{"hold", a.Hold}, {"grant", a.Grant}, {"gate", a.Gate}} {
		if f.value != nil {
			fields = append(fields, f.key, *f.value)
		}
	}
	if a.Working != nil {
		fields = append(fields, "working", *a.Working)
	}
	if a.Verified != nil && *a.Verified != "" {
		fields = append(fields, "verified", *a.Verified)
		if err == nil {
			r.Metrics.Verified(a.UID)
		}
	}
	r.wrote(ctx, wrotePod, a.Why, err, fields...)
}

// lease is the one that the plan holds on a pod, or the one that is noted on it.
func (r *run) lease(pod string) plan.Note {
	if l, ok := r.scene.View.Leases[r.full(pod)]; ok {
		return plan.Note{ID: l.ID, Token: l.Token}
	}
	if p := r.scene.Pods[pod]; p != nil {
		return kruise.Note(p)
	}
	return plan.Note{}
}

var tracer = otel.Tracer("offduty.dev/upgrader/apply")

// traced is do in a span of its own.
func (r *run) traced(ctx context.Context, action plan.Action) error {
	name := strings.TrimPrefix(fmt.Sprintf("%T", action), "plan.")
	ctx, span := tracer.Start(ctx, "apply "+name)
	defer span.End()
	if span.IsRecording() {
		span.SetAttributes(r.about(action)...)
	}
	err := r.do(ctx, action)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}

// about says what an action is about, with the keys of the log.
func (r *run) about(action plan.Action) []attribute.KeyValue {
	target := func(name string) []attribute.KeyValue {
		return []attribute.KeyValue{attribute.String("offduty.target", name)}
	}
	replica := func(pod string) []attribute.KeyValue {
		out := []attribute.KeyValue{attribute.String("offduty.replica", r.full(pod))}
		if n := r.lease(pod); n.ID != "" {
			out = append(out, attribute.String("offduty.lease", n.ID))
		}
		return out
	}
	switch a := action.(type) {
	case plan.ApplySet:
		return target(a.Target)
	case plan.WriteTemplate:
		return target(a.Target)
	case plan.SetCurrentRevision:
		return target(a.Target)
	case plan.Disarm:
		return target(a.Target)
	case plan.Bar:
		return target(a.Target)
	case plan.PatchPod:
		return replica(a.Pod)
	case plan.Commit:
		return replica(a.Pod)
	case plan.Pin:
		return replica(a.Pod)
	case plan.Handover:
		return replica(a.From)
	case plan.ReleaseLease:
		return []attribute.KeyValue{attribute.String("offduty.replica", a.Lease.Replica), attribute.String("offduty.lease", a.Lease.ID)}
	}
	return nil
}
