// Package uninstall guides the removal of Offduty: which plans there are and what deleting
// them would do, whether they have left, and what would be lost with the manifests. A plan
// can leave only while an upgrader runs; whoever deletes the operator first has plans that
// hang at their finalizer, and sets that nobody gives back.
package uninstall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
)

// ErrUnsafe says that the manifests must not be deleted yet. What to do was printed.
var ErrUnsafe = errors.New("it is not safe to delete the manifests yet")

// guide is where the remedies are told at length.
const guide = "docs/uninstall.md"

// Options say how far to go.
type Options struct {
	// DeletePlans deletes every plan and waits until it has left.
	DeletePlans bool
	// IgnoreRosters says that the duty which rosters give may end.
	IgnoreRosters bool
	// Timeout of waiting for plans to leave.
	Timeout time.Duration
	// Election is the upgraders' leader-election Lease.
	Election client.ObjectKey
	// Poll is how often the API server is asked while waiting; 0: once a second.
	Poll time.Duration
}

// Run prints what stands in the way of deleting the manifests, and removes it as far as o
// says. nil: nothing stands in the way. ErrUnsafe: something does, and was named; any other
// error: it is not known.
func Run(ctx context.Context, k client.Client, out io.Writer, o Options) error {
	if o.Poll == 0 {
		o.Poll = time.Second
	}
	u := &uninstaller{k: k, out: out, o: o}
	plans, err := u.plans(ctx)
	if err != nil {
		return err
	}
	if len(plans) > 0 {
		if err := u.leave(ctx, plans); err != nil {
			return err
		}
	}
	left, err := u.leftovers(ctx)
	if err != nil {
		return err
	}
	duty, err := u.duty(ctx)
	if err != nil {
		return err
	}
	if left || duty {
		return ErrUnsafe
	}
	u.say("No plan is left, and no set is armed. It is safe to delete the manifests, with what you installed them:")
	u.say("  kubectl delete -k config/default    or    helm uninstall offduty --namespace %s", u.o.Election.Namespace)
	return nil
}

type uninstaller struct {
	k   client.Client
	out io.Writer
	o   Options
}

func (u *uninstaller) say(format string, args ...any) { fmt.Fprintf(u.out, format+"\n", args...) }

// plans lists all plans; none when their CRD is not there.
func (u *uninstaller) plans(ctx context.Context) ([]v1alpha1.UpgradePlan, error) {
	var list v1alpha1.UpgradePlanList
	if err := u.k.List(ctx, &list); ignoreNoKind(err) != nil {
		return nil, fmt.Errorf("list the plans: %w", err)
	}
	return list.Items, nil
}

// leave tells what deleting the plans would do, and does it if it is wanted.
func (u *uninstaller) leave(ctx context.Context, plans []v1alpha1.UpgradePlan) error {
	for i := range plans {
		effects, err := u.effects(ctx, &plans[i])
		if err != nil {
			return err
		}
		u.say("%s", headline(&plans[i]))
		for _, e := range effects {
			u.say("    %s", e)
		}
	}
	alive, err := u.alive(ctx)
	switch {
	case err != nil:
		return err
	case !alive:
		u.say("\nNo upgrader leads (Lease %s is not renewed): a plan that is deleted now hangs at its finalizer.", u.o.Election)
		u.say("Start the upgrader again, then come back; if you cannot, see %q in %s.", "When the upgrader is gone already", guide)
		return ErrUnsafe
	case !u.o.DeletePlans:
		u.say("\nDelete the plans first, and wait until they have left: run this again with --delete-plans.")
		return ErrUnsafe
	}
	u.say("")
	for i := range plans {
		uid := plans[i].UID
		err := u.k.Delete(ctx, &plans[i], client.Preconditions{UID: &uid})
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete UpgradePlan %s: %w", client.ObjectKeyFromObject(&plans[i]), err)
		}
	}
	return u.await(ctx)
}

// await waits until no plan is left, and says whenever one waits for something else.
func (u *uninstaller) await(ctx context.Context) error {
	said := map[string]string{}
	var plans []v1alpha1.UpgradePlan
	err := wait.PollUntilContextTimeout(ctx, u.o.Poll, u.o.Timeout, true, func(ctx context.Context) (bool, error) {
		now, err := u.plans(ctx)
		if err != nil {
			return false, err
		}
		plans = now
		there := map[string]bool{}
		for i := range plans {
			key := client.ObjectKeyFromObject(&plans[i]).String()
			there[key] = true
			if why := why(&plans[i]); said[key] != why {
				said[key] = why
				u.say("UpgradePlan %s: %s", key, why)
			}
		}
		for key := range said {
			if !there[key] {
				u.say("UpgradePlan %s has left.", key)
				delete(said, key)
			}
		}
		return len(plans) == 0, nil
	})
	switch {
	case err == nil:
		u.say("")
		return nil
	case ctx.Err() != nil || !wait.Interrupted(err):
		return fmt.Errorf("wait until the plans have left: %w", err)
	}
	u.say("\nAfter %s there are still:", u.o.Timeout)
	for i := range plans {
		u.say("    UpgradePlan %s: %s", client.ObjectKeyFromObject(&plans[i]), why(&plans[i]))
	}
	u.say("They go on by themselves as soon as they can: run this again, or see %q in %s.", "What may hold a plan", guide)
	return ErrUnsafe
}

// alive says whether an upgrader leads: its Lease is renewed while we look. Clocks are not
// compared.
func (u *uninstaller) alive(ctx context.Context) (bool, error) {
	var first coordinationv1.Lease
	if err := u.k.Get(ctx, u.o.Election, &first); err != nil {
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return false, fmt.Errorf("read the leader-election Lease %s: %w", u.o.Election, err)
	}
	patience := 30 * time.Second
	if s := first.Spec.LeaseDurationSeconds; s != nil {
		patience = 2 * time.Duration(*s) * time.Second // one may be about to take over
	}
	err := wait.PollUntilContextTimeout(ctx, min(u.o.Poll, patience/4), patience, false, func(ctx context.Context) (bool, error) {
		var now coordinationv1.Lease
		if err := u.k.Get(ctx, u.o.Election, &now); err != nil {
			return false, client.IgnoreNotFound(err)
		}
		held := now.Spec.HolderIdentity != nil && *now.Spec.HolderIdentity != ""
		return held && !now.Spec.RenewTime.Equal(first.Spec.RenewTime), nil
	})
	if err != nil && ctx.Err() == nil && wait.Interrupted(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("watch the leader-election Lease %s: %w", u.o.Election, err)
	}
	return true, nil
}
