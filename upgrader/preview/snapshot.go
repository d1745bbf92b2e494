package preview

import (
	"context"
	"fmt"
	"slices"
	"time"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/observe"
	"offduty.dev/upgrader/plan"
)

// Snapshot is what was read of one namespace. It is a client.Reader with the indexes that
// package observe asks for.
type Snapshot struct {
	Plans     []v1alpha1.UpgradePlan
	Sets      []kruisev1beta1.StatefulSet
	Revisions []appsv1.ControllerRevision
	Pods      []corev1.Pod
}

var _ client.Reader = (*Snapshot)(nil)

// Get finds a set by name.
func (s *Snapshot) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	set, ok := obj.(*kruisev1beta1.StatefulSet)
	if !ok {
		return fmt.Errorf("a snapshot has no %T by name", obj)
	}
	for i := range s.Sets {
		if s.Sets[i].Name == key.Name && s.Sets[i].Namespace == key.Namespace {
			s.Sets[i].DeepCopyInto(set)
			return nil
		}
	}
	return apierrors.NewNotFound(kruisev1beta1.GroupVersion.WithResource("statefulsets").GroupResource(), key.Name)
}

// List finds plans by target, pods and revisions by owner.
func (s *Snapshot) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(opts)
	if o.FieldSelector == nil || len(o.FieldSelector.Requirements()) != 1 {
		return fmt.Errorf("a snapshot lists %T by one index only", list)
	}
	want := o.FieldSelector.Requirements()[0].Value
	switch l := list.(type) {
	case *v1alpha1.UpgradePlanList:
		l.Items = indexed(s.Plans, want, func(p *v1alpha1.UpgradePlan) []string { return observe.TargetNames(p) })
	case *corev1.PodList:
		l.Items = indexed(s.Pods, want, func(p *corev1.Pod) []string { return observe.ControllerUID(p) })
	case *appsv1.ControllerRevisionList:
		l.Items = indexed(s.Revisions, want, func(r *appsv1.ControllerRevision) []string { return observe.ControllerUID(r) })
	default:
		return fmt.Errorf("a snapshot has no %T", list)
	}
	return nil
}

func indexed[T any](all []T, want string, index func(*T) []string) []T {
	var out []T
	for i := range all {
		if slices.Contains(index(&all[i]), want) {
			out = append(out, all[i])
		}
	}
	return out
}

// revisionsOf are the revisions of a set by name.
func (s *Snapshot) revisionsOf(set *kruisev1beta1.StatefulSet) map[string]*appsv1.ControllerRevision {
	m := map[string]*appsv1.ControllerRevision{}
	for i := range s.Revisions {
		if metav1.IsControlledBy(&s.Revisions[i], set) {
			m[s.Revisions[i].Name] = &s.Revisions[i]
		}
	}
	return m
}

// memory of somebody who has written nothing: what was read shows everything, and nothing
// was refused.
type memory struct{}

func (memory) Seen(client.Object) bool { return true }

func (memory) Template(*v1alpha1.UpgradePlan, *kruisev1beta1.StatefulSet) (*plan.Blocker, time.Time) {
	return nil, time.Time{}
}
