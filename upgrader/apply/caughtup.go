package apply

import (
	"context"
	"fmt"
	"slices"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/upgrader/observe"
	"offduty.dev/upgrader/plan"
)

// catchUp makes sure that this process does not begin with a plan on a cache that is older
// than what an earlier leader wrote: its sets and pods are read once from the API server,
// and nothing is decided before the cache shows these versions. Preconditions keep a stale
// write from being made; but a set that was not armed yet, as far as a stale cache shows,
// is one that has not to be given back, and the plan would go without having done so
// (docs/decisions/0008-a-new-leader-catches-up.md).
//
// It comes after Adopt, which ends what the earlier leader can do at the arbiter.
func (r *run) catchUp(ctx context.Context, d plan.Decision) error {
	up := r.scene.Plan
	adopting := func(a plan.Action) bool { _, ok := a.(plan.Adopt); return ok }
	if r.Writes.caughtUp(up.UID) || !slices.ContainsFunc(d.Actions, func(a plan.Action) bool { return !adopting(a) }) {
		return nil
	}
	behind := false
	for _, name := range observe.TargetNames(up) {
		late, err := r.behind(ctx, name)
		if err != nil {
			return fmt.Errorf("make sure that StatefulSet %s is seen as it is: %w", name, err)
		}
		behind = behind || late
	}
	if behind {
		return errAgain
	}
	r.Writes.catchUp(up.UID)
	return nil
}

// behind says whether the cache shows an older version of a set, or of one of its pods, than
// the API server has. What it still has to show is noted.
func (r *run) behind(ctx context.Context, name string) (bool, error) {
	set := &kruisev1beta1.StatefulSet{}
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: r.scene.Plan.Namespace, Name: name}, set)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return false, nil //nolint:nilerr // Kruise finds no pods by it either
	}
	var pods corev1.PodList
	if err := r.Live.List(ctx, &pods, client.InNamespace(set.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return false, err
	}
	cached := r.scene.Sets[name]
	behind := cached == nil || r.late(set, cached)
	for i := range pods.Items {
		p := &pods.Items[i]
		if !slices.Contains(observe.ControllerUID(p), string(set.UID)) {
			continue
		}
		c := r.scene.Pods[p.Name]
		behind = c == nil || c.UID != p.UID || r.late(p, c) || behind
	}
	return behind, nil
}

// late notes the version that was read, and says whether the cached one is older.
func (r *run) late(read, cached client.Object) bool {
	r.Writes.Note(read.GetUID(), read.GetResourceVersion())
	return !r.Writes.Seen(cached)
}

func (w *Writes) caughtUp(up types.UID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current[up]
}

func (w *Writes) catchUp(up types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current[up] = true
}
