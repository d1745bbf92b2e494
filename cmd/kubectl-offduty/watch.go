package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/view"
)

// redraw is the shortest time between two drawings on a terminal.
const redraw = 200 * time.Millisecond

// follow shows a plan until it is complete, or needs somebody, or the time is up.
func (o *statusOptions) follow(ctx context.Context, k client.WithWatch, namespace, name string) error {
	up, err := plan(ctx, k, namespace, name)
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	if o.timeout > 0 {
		var end context.CancelFunc
		watching, end = context.WithTimeout(watching, o.timeout)
		defer end()
	}
	plans, ended := watchPlan(watching, k, namespace, name)
	s := newScreen(o)
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	p := o.view(watching, k, up)
	for {
		s.show(&p)
		if o.over(&p) {
			return errors.Join(s.finish(), verdictOn(&p, o.complaint(&p)))
		}
		select {
		case up = <-plans:
			p = o.view(watching, k, up)
		case <-tick.C:
			if s.tick(); p.Doubted() {
				p = o.view(watching, k, up)
			}
		case err = <-ended:
			return errors.Join(s.finish(), o.interrupted(ctx, watching, &p, err))
		}
	}
}

// over says whether there is nothing to wait for any more.
func (o *statusOptions) over(p *view.Plan) bool {
	switch p.State {
	case view.Complete:
		return true
	case view.Stalled, view.Paused:
		return !o.keepWaiting
	case view.UnderWay:
	}
	return false
}

// complaint is what is said on standard error of a plan that needs somebody.
func (o *statusOptions) complaint(p *view.Plan) string {
	if p.State == view.Complete {
		return ""
	}
	return p.Line()
}

// interrupted says why a watch ended early.
func (o *statusOptions) interrupted(ctx, watching context.Context, p *view.Plan, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(watching.Err(), context.DeadlineExceeded):
		return verdictOn(p, fmt.Sprintf("timed out after %s: %s", o.timeout, p.Line()))
	}
	return err
}

// watchPlan tells every version of a plan, and at the end why it ends. It gets over lost
// connections by itself.
func watchPlan(ctx context.Context, k client.WithWatch, namespace, name string) (<-chan *v1alpha1.UpgradePlan, <-chan error) {
	plans, ended := make(chan *v1alpha1.UpgradePlan), make(chan error, 1)
	there := func(store cache.Store) (bool, error) {
		if len(store.List()) == 0 {
			return false, notFound(namespace, name)
		}
		return false, nil
	}
	each := func(e watch.Event) (bool, error) {
		if e.Type == watch.Deleted {
			return false, &verdict{view.ExitNotFound, fmt.Sprintf("upgradeplan %s was deleted", name)}
		}
		up, ok := e.Object.(*v1alpha1.UpgradePlan)
		if !ok {
			return false, fmt.Errorf("watch upgradeplan %s: unexpected %T", name, e.Object)
		}
		select {
		case plans <- up:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	go func() {
		_, err := watchtools.UntilWithSync(ctx, listWatch(k, namespace, name), &v1alpha1.UpgradePlan{}, there, each)
		if err == nil {
			err = ctx.Err()
		}
		ended <- err
	}()
	return plans, ended
}

// listWatch asks for one object by its name.
func listWatch(k client.WithWatch, namespace, name string) cache.ListerWatcher {
	options := func(raw metav1.ListOptions) *client.ListOptions {
		return &client.ListOptions{Namespace: namespace, FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name), Raw: &raw}
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, raw metav1.ListOptions) (runtime.Object, error) {
			list := &v1alpha1.UpgradePlanList{}
			return list, k.List(ctx, list, options(raw))
		},
		WatchFuncWithContext: func(ctx context.Context, raw metav1.ListOptions) (watch.Interface, error) {
			return k.Watch(ctx, &v1alpha1.UpgradePlanList{}, options(raw))
		},
	}
}

func setOf(ctx context.Context, k client.Client, namespace, name string) (*kruisev1beta1.StatefulSet, error) {
	set := &kruisev1beta1.StatefulSet{}
	return set, k.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, set)
}
