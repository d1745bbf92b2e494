package controller

import (
	"context"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// podHandler looks at the plans of a pod, and forgets what was noted of pods that are gone.
type podHandler struct{ r *Reconciler }

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

func (h *podHandler) add(ctx context.Context, pod client.Object, q queue) {
	for _, req := range h.r.plansOfPod(ctx, pod) {
		q.Add(req)
	}
}

// Create is called for a pod that has appeared.
func (h *podHandler) Create(ctx context.Context, e event.CreateEvent, q queue) {
	h.add(ctx, e.Object, q)
}

// Update is called for a pod that has changed.
func (h *podHandler) Update(ctx context.Context, e event.UpdateEvent, q queue) {
	h.add(ctx, e.ObjectNew, q)
}

// Delete is called for a pod that has gone.
func (h *podHandler) Delete(ctx context.Context, e event.DeleteEvent, q queue) {
	h.r.Applier.Writes.Forget(e.Object.GetUID())
	h.r.Applier.Metrics.Forget(string(e.Object.GetUID()))
	h.add(ctx, e.Object, q)
}

// Generic is never called: nothing sends such events.
func (h *podHandler) Generic(context.Context, event.GenericEvent, queue) {}
