// Package controller wires the upgrader into controller-runtime.
package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/apply"
	"offduty.dev/upgrader/observe"
	"offduty.dev/upgrader/plan"
	"offduty.dev/upgrader/session"
	"offduty.dev/upgrader/status"
)

// Reconciler moves UpgradePlans.
type Reconciler struct {
	client.Client
	// Secrets reads secrets from the API server; they are not cached.
	Secrets  client.Reader
	Sessions *session.Sessions
	Applier  *apply.Applier
	Leader   *Leader
	// Arbiters says which arbiters plans may name, and to which the upgrader shows who it is.
	Arbiters Arbiters
	Now      func() time.Time
	// Decided, if not nil, is told of each decision before it is carried out.
	Decided func(*observe.Scene, *plan.Decision)

	secrets secrets
	pace    pace
	told    told
}

var tracer = otel.Tracer("offduty.dev/upgrader/controller")

// Reconcile moves one UpgradePlan by at most one decision. It reads the cache; every
// write happens in Apply and writeStatus.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	ctx, span := tracer.Start(ctx, "reconcile")
	defer span.End()
	if span.IsRecording() {
		span.SetAttributes(attribute.String("offduty.plan", req.String()))
	}
	result, err := r.reconcile(ctx, req)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return result, err
}

func (r *Reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	up := &v1alpha1.UpgradePlan{}
	if err := r.Get(ctx, req.NamespacedName, up); err != nil {
		if apierrors.IsNotFound(err) {
			r.Sessions.Forget(req.NamespacedName)
			r.secrets.forget(req.NamespacedName)
			r.pace.forget(req.NamespacedName)
			r.told.forget(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if up.DeletionTimestamp != nil && len(up.Finalizers) == 0 {
		return ctrl.Result{}, nil
	}
	logger := log.FromContext(ctx).WithValues("group", group(up))
	ctx = log.IntoContext(ctx, logger)
	term, _, err := r.Leader.Term(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	ses, view, look := r.converse(ctx, up)
	scene, err := observe.World(ctx, r.Client, r.Applier.Writes, up, term, view)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe %s: %w", req, err)
	}
	if scene.Stale {
		return ctrl.Result{}, nil // the event that makes the cache catch up brings us back
	}
	now := r.Now()
	decision := decide(ctx, &scene.World, now)
	if r.Decided != nil {
		r.Decided(scene, &decision)
	}
	logger.V(1).Info("decided", "reason", decision.Reason, "message", decision.Message, "actions", fmt.Sprintf("%+v", decision.Actions))
	if decision.Succeeded() {
		// The successor's status is the right one. This process learns in a moment that it
		// does not lead any more, and ends.
		logger.Info("another upgrader has acted on the plan in a later term; if this one goes on leading, a restore has set its term back: delete the leader-election Lease", "term", term)
		return ctrl.Result{RequeueAfter: retrySucceeded}, nil
	}
	applyErr := r.Applier.Apply(ctx, scene, ses, decision)
	again := apply.IsAgain(applyErr)
	if again {
		applyErr = nil
	}
	later, statusErr := r.tell(ctx, up, status.Of(&up.Status, up.Generation, &scene.World, decision, applyErr, now), now)
	if err := errors.Join(applyErr, statusErr); err != nil {
		return ctrl.Result{}, err // tried again soon, and then ever later
	}
	next := decision.Recheck
	if again {
		next = retryConflict
	}
	return ctrl.Result{RequeueAfter: soonest(next, later, look)}, nil
}

// soonest returns the shortest of some times; 0 is never.
func soonest(times ...time.Duration) (first time.Duration) {
	for _, t := range times {
		if t > 0 && (first == 0 || t < first) {
			first = t
		}
	}
	return first
}

// decide is plan.Next in a span of its own.
func decide(ctx context.Context, w *plan.World, now time.Time) plan.Decision {
	_, span := tracer.Start(ctx, "decide")
	defer span.End()
	d := plan.Next(w, now)
	if span.IsRecording() {
		span.SetAttributes(attribute.String("offduty.reason", string(d.Reason)), attribute.String("offduty.message", d.Message),
			attribute.Int("offduty.actions", len(d.Actions)), attribute.Bool("offduty.stalled", d.Stalled))
	}
	return d
}

// tell writes the status, or says for how long it can wait for more news.
func (r *Reconciler) tell(ctx context.Context, up *v1alpha1.UpgradePlan, next *v1alpha1.UpgradePlanStatus, now time.Time) (later time.Duration, err error) {
	if later := r.pace.left(client.ObjectKeyFromObject(up), &up.Status, next, now); later > 0 {
		return later, nil
	}
	return 0, r.writeStatus(ctx, up, next)
}

// retryConflict is how soon a conflict is looked at again, should no event come.
const retryConflict = 200 * time.Millisecond

// retrySucceeded is how soon a process looks again that does not lead any more.
const retrySucceeded = 5 * time.Second

// converse returns the plan's conversation with its arbiter and what it knows, and when to
// look again at what no event will tell; 0: never.
func (r *Reconciler) converse(ctx context.Context, up *v1alpha1.UpgradePlan) (*session.Session, session.View, time.Duration) {
	blocked := func(err error, look time.Duration) (*session.Session, session.View, time.Duration) {
		r.Sessions.Forget(client.ObjectKeyFromObject(up))
		return nil, session.View{Arbiter: plan.Arbiter{Blocked: &plan.Blocker{Reason: plan.ArbiterConfigInvalid, Message: err.Error()}}}, look
	}
	cfg, err := r.Arbiters.For(up)
	if err != nil {
		return blocked(err, 0)
	}
	cfg.Timeout = time.Duration(up.Spec.Arbiter.TimeoutSeconds) * time.Second
	digest := "own"
	if up.Spec.Arbiter.TLS != nil {
		if cfg.TLS, digest, err = r.secrets.tls(ctx, r.Secrets, up); err != nil {
			return blocked(err, lookForSecret)
		}
	}
	//nolint:contextcheck // the conversation outlives this call
	ses, err := r.Sessions.For(session.Key{
		Plan: client.ObjectKeyFromObject(up), Holder: string(up.UID),
		Address: cfg.Address, TLSDigest: digest, Timeout: cfg.Timeout, Group: group(up),
	}, cfg)
	if err != nil {
		return blocked(err, 0)
	}
	return ses, ses.View(), 0
}

// group is the key of the plan's group: a bare name is a Roster of the plan's namespace.
func group(up *v1alpha1.UpgradePlan) string {
	if strings.Contains(up.Spec.Arbiter.Group, "/") {
		return up.Spec.Arbiter.Group
	}
	return up.Namespace + "/" + up.Spec.Arbiter.Group
}

// writeStatus writes the status if it says anything new, and if nobody else wrote the plan
// meanwhile: a leader that was frozen must not overwrite what its successor says. Who comes
// too late is called again by the event of that other write.
func (r *Reconciler) writeStatus(ctx context.Context, up *v1alpha1.UpgradePlan, next *v1alpha1.UpgradePlanStatus) error {
	if apiequality.Semantic.DeepEqual(&up.Status, next) {
		return nil
	}
	was := up.DeepCopy()
	up.Status = *next
	lock := client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})
	err := r.Status().Patch(ctx, up, lock, client.FieldOwner(observe.FieldManager))
	r.Applier.Metrics.Wrote("upgradeplan/status", readyReason(next), err)
	switch {
	case err == nil:
		r.narrate(ctx, up, &was.Status, next)
		return nil
	case apierrors.IsConflict(err):
		return nil
	}
	if err := client.IgnoreNotFound(err); err != nil {
		return fmt.Errorf("write the status of plan %s/%s: %w", up.Namespace, up.Name, err)
	}
	return nil
}
