package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/metrics"
	"offduty.dev/arbiter/policy"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Reconciler keeps one group per Roster.
type Reconciler struct {
	// Client reads from the cache.
	Client client.Client
	// Live reads from the API server itself.
	Live     client.Reader
	Registry *Registry
	Recorder events.EventRecorder
	Now      func() time.Time
	Metrics  *metrics.Metrics
	// Leading says whether this process may answer; nil: always.
	Leading func() bool
	// LoopbackMembers lets members that are asked have a loopback address; for tests.
	LoopbackMembers bool
	// Base is the context that the groups' loops run in.
	Base context.Context //nolint:containedctx // groups outlive the reconcile that starts them

	sources sources
	nodes   nodes
	// changed carries the Rosters whose group has a new view.
	changed chan event.GenericEvent
	// looked is when the pods of a frozen group were last read from the API server.
	looked sync.Map // of time.Time by types.NamespacedName
}

// lookAgain is how often at most that is done: each pod that changes asks for it.
const lookAgain = time.Second

// Setup registers the reconciler with a manager.
func (r *Reconciler) Setup(mgr ctrl.Manager) error {
	r.changed = make(chan event.GenericEvent)
	err := ctrl.NewControllerManagedBy(mgr).
		Named("roster").
		WithOptions(controller.Options{
			// Kruise's webhook refuses label writes while Kruise is down: try again soon after.
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
		}).
		For(&v1alpha1.Roster{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, statusLost()))).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.rostersOf), builder.WithPredicates(podChanged())).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.observedRostersOf), builder.WithPredicates(predicate.ResourceVersionChangedPredicate{})).
		WatchesRawSource(source.Channel(r.changed, &handler.EnqueueRequestForObject{})).
		WithLogConstructor(func(req *reconcile.Request) logr.Logger {
			if req == nil {
				return mgr.GetLogger().WithName("roster")
			}
			return mgr.GetLogger().WithName("roster").WithValues("group", req.String())
		}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up the roster controller: %w", err)
	}
	return nil
}

// statusLost lets a Roster through whose record was taken away under us.
func statusLost() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok1 := e.ObjectOld.(*v1alpha1.Roster)
			after, ok2 := e.ObjectNew.(*v1alpha1.Roster)
			return ok1 && ok2 && before.Status.Epoch != "" && after.Status.Epoch != before.Status.Epoch
		},
		CreateFunc:  func(event.CreateEvent) bool { return false },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// podChanged lets a pod through when something has changed that a group looks at.
func podChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok1 := e.ObjectOld.(*corev1.Pod)
		after, ok2 := e.ObjectNew.(*corev1.Pod)
		return !ok1 || !ok2 || toPod(before) != toPod(after) ||
			labels.Set(before.Labels).String() != labels.Set(after.Labels).String()
	}}
}

// observedRostersOf finds the Rosters in whose source anything of a pod may count.
func (r *Reconciler) observedRostersOf(ctx context.Context, obj client.Object) []reconcile.Request {
	return r.requests(ctx, obj, func(ro *v1alpha1.Roster) bool { return ro.Spec.Observed != nil })
}

// rostersOf finds the Rosters that have a pod as a member. A pod that has just lost the
// labels of a selector is found by its name in the record.
func (r *Reconciler) rostersOf(ctx context.Context, obj client.Object) []reconcile.Request {
	return r.requests(ctx, obj, func(*v1alpha1.Roster) bool { return true })
}

func (r *Reconciler) requests(ctx context.Context, obj client.Object, wanted func(*v1alpha1.Roster) bool) []reconcile.Request {
	var list v1alpha1.RosterList
	if err := r.Client.List(ctx, &list, client.InNamespace(obj.GetNamespace())); err != nil {
		log.FromContext(ctx).Error(err, "cannot list rosters", "namespace", obj.GetNamespace())
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		ro := &list.Items[i]
		if !wanted(ro) {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(&ro.Spec.Members.Selector)
		if err == nil && (selector.Matches(labels.Set(obj.GetLabels())) || recorded(ro, obj.GetName())) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(ro)})
		}
	}
	return out
}

func recorded(ro *v1alpha1.Roster, pod string) bool {
	for i := range ro.Status.Members {
		if ro.Status.Members[i].Name == pod {
			return true
		}
	}
	return false
}

// Reconcile brings the group of one Roster up to date, and its pods after it: read,
// configure, label, fence.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var ro v1alpha1.Roster
	if err := r.Client.Get(ctx, req.NamespacedName, &ro); err != nil {
		if client.IgnoreNotFound(err) == nil {
			r.Registry.remove(req.NamespacedName)
			r.sources.forget(req.NamespacedName)
			r.looked.Delete(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	group := r.ensure(&ro)
	lost, err := r.noticeLoss(ctx, &ro, group)
	if err != nil {
		return ctrl.Result{}, err
	}
	settings := SettingsOf(ro.Generation, &ro.Spec)
	live, wait := r.look(req.NamespacedName, lost, group.View())
	if wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	settings.Live = live
	pods, err := r.configure(ctx, &ro, group, settings)
	if errors.Is(err, store.ErrNotFound) {
		return ctrl.Result{}, nil // deleted meanwhile; its event will come
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	if r.Leading != nil && !r.Leading() {
		return ctrl.Result{}, fmt.Errorf("group %s: this arbiter may not be the leader any more", req)
	}
	view := group.View()
	return ctrl.Result{RequeueAfter: pollingOf(&ro, view)}, errors.Join(r.label(ctx, &ro, view, pods), r.fence(ctx, &ro, group, view), r.fenceAll(ctx, view, pods))
}

// look says whether the pods are to be read from the API server itself, as when the group begins
// or is frozen, and for how long to wait before a frozen one reads them again.
func (r *Reconciler) look(key types.NamespacedName, lost bool, v *duty.View) (live bool, wait time.Duration) {
	begins := lost || v == nil
	if !begins && !v.Record.Frozen {
		return false, 0
	}
	now := r.Now()
	if last, ok := r.looked.Load(key); ok && !begins {
		if wait := lookAgain - now.Sub(last.(time.Time)); wait > 0 {
			return true, wait
		}
	}
	r.looked.Store(key, now)
	return true, 0
}

// configure tells the group what its Roster and pods are, and returns the pods.
func (r *Reconciler) configure(ctx context.Context, ro *v1alpha1.Roster, group *duty.Group, settings duty.Settings) (map[string]*corev1.Pod, error) {
	reader := client.Reader(r.Client)
	if settings.Live {
		reader = r.Live
	}
	pods, err := members(ctx, reader, ro)
	if err != nil {
		return nil, err
	}
	if err := r.nodes.place(ctx, r.Live, pods, &settings, r.Now()); err != nil {
		return nil, fmt.Errorf("group %s: %w", group.Key(), err)
	}
	see := r.observe(ro, &settings) //nolint:contextcheck // whoever asks members outlives this reconcile
	if err := group.Configure(ctx, settings, see(ctx, pods)); err != nil {
		return nil, fmt.Errorf("configure group %s: %w", group.Key(), err)
	}
	return pods, nil
}

// noticeLoss makes the group read its record again when the Roster shows another one. The
// cache may only be late, so the API server has the last word.
func (r *Reconciler) noticeLoss(ctx context.Context, ro *v1alpha1.Roster, g *duty.Group) (bool, error) {
	v := g.View()
	if v == nil || v.Epoch == ro.Status.Epoch {
		return false, nil
	}
	var live v1alpha1.Roster
	if err := r.Live.Get(ctx, client.ObjectKeyFromObject(ro), &live); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	if v := g.View(); v.Epoch == live.Status.Epoch {
		return false, nil
	}
	if err := g.Reload(ctx); err != nil {
		return false, fmt.Errorf("reload the record of %s/%s: %w", ro.Namespace, ro.Name, err)
	}
	return true, nil
}

// members lists the pods that the Roster selects, by name.
func members(ctx context.Context, r client.Reader, ro *v1alpha1.Roster) (map[string]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(&ro.Spec.Members.Selector)
	if err != nil {
		return nil, reconcile.TerminalError(fmt.Errorf("roster %s/%s: members.selector: %w", ro.Namespace, ro.Name, err))
	}
	var list corev1.PodList
	if err := r.List(ctx, &list, client.InNamespace(ro.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, fmt.Errorf("list the members of roster %s/%s: %w", ro.Namespace, ro.Name, err)
	}
	pods := make(map[string]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		pods[list.Items[i].Name] = &list.Items[i]
	}
	return pods, nil
}

func (r *Reconciler) ensure(ro *v1alpha1.Roster) *duty.Group {
	key := client.ObjectKeyFromObject(ro)
	logger := log.FromContext(r.Base).WithName("group")
	create := func() *duty.Group {
		return duty.New(duty.Config{
			Key: key.String(), Prefix: key.Namespace + "/",
			Store: r.Metrics.Store(store.NewKubernetes(r.Live, r.Client, key)),
			Now:   r.Now, NewEpoch: NewEpoch, Leading: r.Leading, Log: logger, Changed: r.Metrics.Changed,
			// Above anything that an earlier record can have given: one that was lost, or that
			// of a Roster of the same name which was deleted. Pods are fenced by these tokens.
			FirstToken: func() int64 { return r.Now().UnixMilli() },
		})
	}
	return r.Registry.ensure(r.Base, key, ro.UID, create, func(ctx context.Context, g *duty.Group) { r.watch(ctx, key, g) })
}

// Wait returns when nobody is asked any more, after Base is done.
func (r *Reconciler) Wait() { r.sources.wg.Wait() }

// NewEpoch returns a short random name.
func NewEpoch() string { return strings.ToLower(rand.Text()[:10]) }

// watch asks for a reconcile whenever the group has a new view.
func (r *Reconciler) watch(ctx context.Context, key types.NamespacedName, g *duty.Group) {
	select {
	case <-g.Ready():
	case <-ctx.Done():
		return
	}
	var last *duty.View
	for {
		v := g.View()
		if last == nil || r.needsPods(last, v) {
			if r.wake(ctx, key); ctx.Err() != nil {
				return
			}
		}
		r.announce(ctx, last, v)
		last = v
		select {
		case <-v.Superseded():
		case <-g.Stopped():
			return
		case <-ctx.Done():
			return
		}
	}
}

// SettingsOf reads a Roster's spec; the defaults are in the schema.
func SettingsOf(generation int64, spec *v1alpha1.RosterSpec) duty.Settings {
	s := duty.Settings{
		Generation: generation,
		Roster:     rosterConfig(spec),
		MaxLeased:  int(spec.MaxLeased),
		PinOverdue: time.Duration(spec.PinOverdueSeconds) * time.Second,
	}
	switch {
	case spec.Floor.Type == v1alpha1.FloorQuorum && spec.Floor.Voters != nil:
		s.Floor = policy.Quorum(int(*spec.Floor.Voters))
	case spec.Floor.Type == v1alpha1.FloorPercent && spec.Floor.Percent != nil:
		s.FloorPercent = int(*spec.Floor.Percent)
	case spec.Floor.MinServing != nil:
		s.Floor = int(*spec.Floor.MinServing)
	}
	if spec.Spread != nil {
		s.Spread = spec.Spread.TopologyKey
	}
	var err error
	if s.Windows, err = windowsOf(spec.FreezeWindows); err != nil {
		s.Unclear = err.Error()
	}
	return s
}

func windowsOf(spec []v1alpha1.FreezeWindow) (policy.Windows, error) {
	var out policy.Windows
	for i, w := range spec {
		window, err := policy.NewWindow(w.Schedule, time.Duration(w.DurationMinutes)*time.Minute, w.TimeZone)
		if err != nil {
			return nil, fmt.Errorf("spec.freezeWindows[%d].%w", i, err)
		}
		out = append(out, window)
	}
	return out, nil
}

func rosterConfig(spec *v1alpha1.RosterSpec) roster.Config {
	if a := spec.Assigned; a != nil {
		c := roster.Config{
			Named: a.Workers == nil, Names: a.Working,
			Settle:   time.Duration(a.SettleSeconds) * time.Second,
			Failover: time.Duration(a.FailoverSeconds) * time.Second,
			Lifetime: time.Duration(a.LifetimeSeconds) * time.Second,
		}
		if a.Workers != nil {
			c.Slots = int(*a.Workers)
		}
		return c
	}
	c := roster.Config{Observed: &roster.Observed{}}
	if o := spec.Observed; o != nil && o.Workers != nil {
		c.Observed.Workers = int(*o.Workers)
	}
	return c
}

// toPod keeps what a group looks at.
func toPod(p *corev1.Pod) roster.Pod {
	out := roster.Pod{
		Instance: string(p.UID), Revision: p.Labels[revisionLabel], Node: p.Spec.NodeName,
		Terminating: p.DeletionTimestamp != nil, OnDuty: p.Labels[v1alpha1.DutyLabel] == dutyWorking,
		Down: !slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.State.Running != nil }),
		Held: p.Labels[v1alpha1.HoldLabel] == "true" && confirmed(p.Labels[stateLabel]),
	}
	note := p.Annotations[v1alpha1.LeaseAnnotation]
	out.LeaseID, _, _ = strings.Cut(note, "/")
	out.Verified = p.Annotations[v1alpha1.VerifiedAnnotation]
	for _, s := range []string{note[strings.LastIndexByte(note, '/')+1:], p.Annotations[v1alpha1.FencedAnnotation]} {
		// One that nobody can have given must not hide the other.
		if token, err := strconv.ParseInt(s, 10, 64); err == nil && token <= lease.MaxToken {
			out.Token = max(out.Token, token)
		}
	}
	out.Fenced = fencedOf(p)
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.Ready = c.Status == corev1.ConditionTrue
		}
	}
	return out
}

// stateLabel is Kruise's lifecycle state of a pod.
const stateLabel = "lifecycle.apps.kruise.io/state"

// confirmed says whether Kruise has shown that it knows of a pod's hold: the upgrader puts
// the hold on together with the state Updated, of which Kruise then makes Normal. While it is
// updating a pod it does not look at the hold.
func confirmed(state string) bool { return state == "Normal" || state == "PreparingUpdate" }

// revisionLabel is where Kubernetes and Kruise note a pod's controller revision.
const revisionLabel = "controller-revision-hash"
