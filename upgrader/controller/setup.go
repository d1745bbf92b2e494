package controller

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/observe"
)

// Workers is how many plans are reconciled at the same time.
const Workers = 8

const (
	firstRetry = 5 * time.Millisecond
	// lastRetry is short enough for a plan that fails all the time to be noticed by the alert
	// OffdutyReconcileFails, and for one to go on soon when what failed is well again.
	lastRetry = 30 * time.Second
)

// retries says when a plan is looked at again after an error.
func retries() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry)
}

// CacheOptions keep the cache small: of pods only what decisions need. Without namespaces
// it holds those of all.
func CacheOptions(namespaces []string) cache.Options {
	in := make(map[string]cache.Config, len(namespaces))
	for _, ns := range namespaces {
		in[ns] = cache.Config{}
	}
	return cache.Options{
		DefaultNamespaces: in,
		DefaultTransform:  cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:                {Transform: slimPod},
			&kruisev1beta1.StatefulSet{}: {Transform: func(o any) (any, error) { return o, nil }}, // managedFields tell who wrote the template
		},
	}
}

// slimPod drops what no decision looks at.
func slimPod(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	pod.ManagedFields = nil
	containers := make([]corev1.Container, 0, len(pod.Spec.Containers))
	for i := range pod.Spec.Containers {
		containers = append(containers, corev1.Container{Name: pod.Spec.Containers[i].Name, Image: pod.Spec.Containers[i].Image})
	}
	pod.Spec = corev1.PodSpec{Containers: containers, ReadinessGates: pod.Spec.ReadinessGates, NodeName: pod.Spec.NodeName}
	pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses = nil, nil
	return pod, nil
}

// SetupWithManager registers indexes, watches and the reconciler. notices puts plans
// whose arbiter had news into the queue.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager, notices *Notices) error {
	idx := mgr.GetFieldIndexer()
	for _, obj := range []client.Object{&corev1.Pod{}, &appsv1.ControllerRevision{}} {
		if err := idx.IndexField(ctx, obj, observe.OwnerIndex, observe.ControllerUID); err != nil {
			return fmt.Errorf("index %T by owner: %w", obj, err)
		}
	}
	if err := idx.IndexField(ctx, &v1alpha1.UpgradePlan{}, observe.TargetIndex, observe.TargetNames); err != nil {
		return fmt.Errorf("index plans by target: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("upgradeplan").
		// Every change of a plan, also of its status: whatever somebody else wrote there is
		// put right. Our own writes find nothing to do and cost no request.
		For(&v1alpha1.UpgradePlan{}).
		Watches(&v1alpha1.UpgradePlan{}, handler.EnqueueRequestsFromMapFunc(r.rivals), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&kruisev1beta1.StatefulSet{}, handler.EnqueueRequestsFromMapFunc(r.plansOfSet)).
		Watches(&corev1.Pod{}, &podHandler{r}).
		WatchesRawSource(source.Func(notices.Start)).
		WithOptions(controller.Options{MaxConcurrentReconciles: Workers, RateLimiter: retries()}).
		WithLogConstructor(func(req *reconcile.Request) logr.Logger {
			if req == nil {
				return mgr.GetLogger().WithName("upgradeplan")
			}
			return mgr.GetLogger().WithName("upgradeplan").WithValues("plan", req.String())
		}).
		Complete(r)
}

// plansOfSet finds the plans that name a set as their target.
func (r *Reconciler) plansOfSet(ctx context.Context, set client.Object) []reconcile.Request {
	return r.plansOf(ctx, set.GetNamespace(), set.GetName())
}

func (r *Reconciler) plansOf(ctx context.Context, namespace, target string) []reconcile.Request {
	var list v1alpha1.UpgradePlanList
	if err := r.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{observe.TargetIndex: target}); err != nil {
		return nil // the cache is not running: it will tell of everything when it is
	}
	out := make([]reconcile.Request, 0, len(list.Items))
	for i := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}

// rivals finds the other plans that name one of a plan's targets.
func (r *Reconciler) rivals(ctx context.Context, o client.Object) []reconcile.Request {
	var out []reconcile.Request
	for _, t := range observe.TargetNames(o) {
		for _, q := range r.plansOf(ctx, o.GetNamespace(), t) {
			if q.Name != o.GetName() {
				out = append(out, q)
			}
		}
	}
	return out
}

// plansOfPod finds the plans of the set that a pod belongs to.
func (r *Reconciler) plansOfPod(ctx context.Context, pod client.Object) []reconcile.Request {
	for _, o := range pod.GetOwnerReferences() {
		if o.Controller != nil && *o.Controller && o.Kind == "StatefulSet" {
			return r.plansOf(ctx, pod.GetNamespace(), o.Name)
		}
	}
	return nil
}

// Notices are plans whose arbiter had news. They go straight into the controller's queue,
// which joins equal ones and never blocks.
type Notices struct{ queue atomic.Pointer[queue] }

// Start is called by the controller with its queue.
func (n *Notices) Start(_ context.Context, q queue) error {
	n.queue.Store(&q)
	return nil
}

// Notify adds a plan. Before the controller runs there is nothing to add it to: then the
// controller looks at every plan anyway.
func (n *Notices) Notify(p types.NamespacedName) {
	if q := n.queue.Load(); q != nil {
		(*q).Add(reconcile.Request{NamespacedName: p})
	}
}
