package sim

import (
	"context"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	kubeclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/client"
	"offduty.dev/upgrader/apply"
	"offduty.dev/upgrader/controller"
	"offduty.dev/upgrader/observe"
	"offduty.dev/upgrader/plan"
	sessions "offduty.dev/upgrader/session"
)

// stack is the real upgrader in the process: controller.Reconciler with observe, session,
// apply and status, over a client of the model of the API server and a line to the model of
// the arbiter.
type stack struct {
	u          *upgrader
	ctx        context.Context //nolint:containedctx // the life of a process that has no main
	reconciler controller.Reconciler
	// renewer of the present conversation.
	renewer *client.Renewer
	pause   func()
}

func newStack(u *upgrader) *stack {
	now := u.now
	r := &stack{u: u, ctx: log.IntoContext(context.Background(), logr.Discard())}
	leader := &controller.Leader{Fixed: u.term, Identity: u.name}
	kube := newKube(u)
	r.reconciler = controller.Reconciler{
		Client: kube, Leader: leader, Now: now, Decided: r.decided,
		Sessions: sessions.New(r.ctx, sessions.Config{
			Leader: leader.Term, TTL: u.s.cfg.TTL, Now: now, Notify: func(types.NamespacedName) {},
			Dial: func(client.Config) (sessions.Arbiter, error) {
				return &line{u: u, requests: map[string]string{}}, nil
			},
			Drive: func(renewer *client.Renewer) { r.renewer = renewer },
		}),
		Applier:  &apply.Applier{Client: kube, Live: live{u}, Recorder: recorder{u}, Writes: apply.NewWrites(now), Now: now},
		Arbiters: controller.Arbiters{Own: client.Config{Address: "arbiter:7443"}},
	}
	return r
}

// reconcile is one call of the real one.
func (r *stack) reconcile(pause func()) {
	u := r.u
	r.pause, u.doing = pause, u.plan
	u.holder = u.plan.uid
	if u.plan.uid == "" {
		r.renewer = nil
	}
	_, err := r.reconciler.Reconcile(r.ctx, ctrl.Request{NamespacedName: kubeclient.ObjectKey{Namespace: namespace, Name: planName}})
	if err != nil {
		u.s.tell(u.name, "fails: %v", err)
	}
}

// decided is told of each decision before it is carried out.
func (r *stack) decided(scene *observe.Scene, d *plan.Decision) {
	r.u.last = *d
	if r.u.s.cfg.Compare {
		r.compare(scene)
	}
	r.u.s.decided(r.u, &scene.World, d)
}

// holds says whether the conversation has leases.
func (r *stack) holds() bool {
	n := r.reconciler.Sessions.Leases(types.NamespacedName{Namespace: namespace, Name: planName})
	return n.Leased+n.Pinned > 0
}

// renew is a round of the renewer.
func (r *stack) renew() {
	if r.renewer != nil {
		r.renewer.Step(r.ctx)
	}
}

// pause is called before each request of the process. about says what it is for, in the
// words of scenarios.
func (u *upgrader) pause(about string) {
	u.about = about
	u.real.pause()
}

// why says for what reason the last decision writes a pod or a set, and in the words of
// scenarios what it does to it.
func (u *upgrader) why(name string) (why plan.Reason, about string) {
	for _, a := range u.last.Actions {
		on := ""
		switch a := a.(type) {
		case plan.PatchPod:
			on, why = a.Pod, a.Why
		case plan.Commit:
			if a.Pod == name {
				return plan.Releasing, "releases " + name
			}
		case plan.ApplySet:
			on, why = a.Target, a.Why
		case plan.WriteTemplate:
			on, why = a.Target, plan.WritingTemplate
		case plan.SetCurrentRevision:
			on, why = a.Target, plan.Finishing
		case plan.Disarm:
			on, why = a.Target, plan.Leaving
		case plan.Bar:
			on, why = a.Target, plan.Leaving
		}
		if on == name {
			return why, request(a)
		}
	}
	return "", ""
}

// recorder tells the upgrader's events as parts of the story.
type recorder struct{ u *upgrader }

// Plan is apply.Recorder.
func (r recorder) Plan(_ *v1alpha1.UpgradePlan, _ kubeclient.Object, _ bool, reason, message string) {
	r.u.s.tell(r.u.name, "event %s: %s", reason, message)
}

// Pod is apply.Recorder: the plan's events tell the same.
func (r recorder) Pod(*v1alpha1.UpgradePlan, *corev1.Pod, string, string) {}
