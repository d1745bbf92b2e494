package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	appspub "github.com/openkruise/kruise-api/apps/pub"
	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"offduty.dev/api/v1alpha1"
)

// Stamp places a version of an object. One etcd holds all objects, so that versions of
// different kinds are in one order.
type Stamp struct {
	Version int64
	// At is when the watch told of it; the version itself is somewhat older.
	At time.Time
	// Gone: with this version the object was deleted.
	Gone bool
}

// Pod is one version of a pod.
type Pod struct {
	Stamp
	Name, UID   string
	Terminating bool
	// Hold, Grant, Working, State, Lease, Verified and Fenced are our labels and annotations.
	Hold, Grant              bool
	Working, Lease, Verified string
	Fenced                   string
	State                    string
	Revision                 string
	// Image is the spec's, Runs what the container runs.
	Image      string
	Containers []Container
	// Ready is the pod's condition, Gate that of offduty.dev/in-service ("" if it has none).
	Ready bool
	Gate  string
}

// Container is a container's state.
type Container struct {
	ID, ImageID string
	Restarts    int32
	Running     bool
	Waiting     string
}

// Set is one version of an Advanced StatefulSet.
type Set struct {
	Stamp
	Name                 string
	Generation, Observed int64
	Replicas             int
	// Ordinals that it should have; nil: from 0 on.
	Ordinals                        []int
	Partition                       int32
	UpdateRevision, CurrentRevision string
	// Armed is the annotation offduty.dev/armed.
	Armed string
	// Template in JSON, to see whether it changed.
	Template string
}

// Plan is one version of an UpgradePlan.
type Plan struct {
	Stamp
	Name       string
	UID        string
	Generation int64
	Deleting   bool
	// Targets are the names of its sets.
	Targets []string
	Status  v1alpha1.UpgradePlanStatus
}

// Roster is one version of a Roster.
type Roster struct {
	Stamp
	Name       string
	Generation int64
	Floor      int
	Spec       v1alpha1.RosterSpec
	Status     v1alpha1.RosterStatus
}

func stampOf(u *unstructured.Unstructured, at time.Time, gone bool) (Stamp, error) {
	v, err := strconv.ParseInt(u.GetResourceVersion(), 10, 64)
	if err != nil {
		return Stamp{}, fmt.Errorf("the version of %s %s is no number: %w", u.GetKind(), u.GetName(), err)
	}
	return Stamp{Version: v, At: at, Gone: gone}, nil
}

func decode[T any](u *unstructured.Unstructured) (*T, error) {
	out := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out); err != nil {
		return nil, fmt.Errorf("decode %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return out, nil
}

func podOf(u *unstructured.Unstructured, s Stamp) (Pod, error) {
	p, err := decode[corev1.Pod](u)
	if err != nil {
		return Pod{}, err
	}
	out := Pod{
		Stamp: s, Name: p.Name, UID: string(p.UID), Terminating: p.DeletionTimestamp != nil,
		Hold: p.Labels[v1alpha1.HoldLabel] == "true", Grant: p.Labels[v1alpha1.GrantLabel] == "true",
		Working: p.Labels[v1alpha1.DefaultWorkingLabel], Lease: p.Annotations[v1alpha1.LeaseAnnotation],
		Verified: p.Annotations[v1alpha1.VerifiedAnnotation], State: p.Labels[appspub.LifecycleStateKey],
		Revision: p.Labels["controller-revision-hash"], Fenced: p.Annotations[v1alpha1.FencedAnnotation],
	}
	var images []string
	for i := range p.Spec.Containers {
		images = append(images, p.Spec.Containers[i].Image)
	}
	out.Image = strings.Join(images, ",")
	for i := range p.Status.ContainerStatuses {
		c := &p.Status.ContainerStatuses[i]
		k := Container{ID: c.ContainerID, ImageID: c.ImageID, Restarts: c.RestartCount, Running: c.State.Running != nil}
		if c.State.Waiting != nil {
			k.Waiting = c.State.Waiting.Reason
		}
		out.Containers = append(out.Containers, k)
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.Ready = c.Status == corev1.ConditionTrue
		}
		if c.Type == v1alpha1.InServiceGate {
			out.Gate = string(c.Status)
		}
	}
	return out, nil
}

func setOf(u *unstructured.Unstructured, s Stamp) (Set, error) {
	k, err := decode[kruisev1beta1.StatefulSet](u)
	if err != nil {
		return Set{}, err
	}
	template, err := json.Marshal(k.Spec.Template)
	if err != nil {
		return Set{}, err
	}
	out := Set{
		Stamp: s, Name: k.Name, Generation: k.Generation, Observed: k.Status.ObservedGeneration,
		UpdateRevision: k.Status.UpdateRevision, CurrentRevision: k.Status.CurrentRevision,
		Armed: k.Annotations[v1alpha1.ArmedAnnotation], Template: string(template), Replicas: 1,
	}
	if k.Spec.Replicas != nil {
		out.Replicas = int(*k.Spec.Replicas)
	}
	if ru := k.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.Partition != nil {
		out.Partition = *ru.Partition
	}
	out.Ordinals, err = ordinalsOf(k.Spec.ReserveOrdinals, out.Replicas)
	return out, err
}

// ordinalsOf are the first n ordinals that are not reserved, one by one or by ranges.
func ordinalsOf(reserved []intstr.IntOrString, n int) ([]int, error) {
	taken := map[int]bool{}
	for _, r := range reserved {
		first, last := r.IntValue(), r.IntValue()
		if a, b, ok := strings.Cut(r.StrVal, "-"); ok {
			var errA, errB error
			first, errA = strconv.Atoi(a)
			last, errB = strconv.Atoi(b)
			if err := errors.Join(errA, errB); err != nil {
				return nil, fmt.Errorf("read the reserved ordinals %s: %w", r.StrVal, err)
			}
		}
		for o := first; o <= last; o++ {
			taken[o] = true
		}
	}
	out := make([]int, 0, n)
	for o := 0; len(out) < n; o++ {
		if !taken[o] {
			out = append(out, o)
		}
	}
	return out, nil
}

// names are those of the pods that the set should have.
func (s Set) names() []string {
	var out []string
	for i := range s.Replicas {
		o := i
		if s.Ordinals != nil {
			o = s.Ordinals[i]
		}
		out = append(out, fmt.Sprintf("%s-%d", s.Name, o))
	}
	return out
}

func planOf(u *unstructured.Unstructured, s Stamp) (Plan, error) {
	p, err := decode[v1alpha1.UpgradePlan](u)
	if err != nil {
		return Plan{}, err
	}
	out := Plan{
		Stamp: s, Name: p.Name, UID: string(p.UID), Generation: p.Generation,
		Deleting: p.DeletionTimestamp != nil, Status: p.Status,
	}
	for i := range p.Spec.Targets {
		out.Targets = append(out.Targets, p.Spec.Targets[i].Name)
	}
	return out, nil
}

func rosterOf(u *unstructured.Unstructured, s Stamp) (Roster, error) {
	r, err := decode[v1alpha1.Roster](u)
	if err != nil {
		return Roster{}, err
	}
	out := Roster{Stamp: s, Name: r.Name, Generation: r.Generation, Spec: r.Spec, Status: r.Status}
	switch f := r.Spec.Floor; {
	case f.MinServing != nil:
		out.Floor = int(*f.MinServing)
	case f.Voters != nil:
		out.Floor = int(*f.Voters)/2 + 1
	case f.Percent != nil:
		out.Floor = int(math.Ceil(float64(*f.Percent) / 100 * float64(len(r.Status.Members))))
	}
	return out, nil
}

// Condition returns a condition of the plan; the zero value when it has none of that type.
func (p Plan) Condition(t string) metav1.Condition {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c
		}
	}
	return metav1.Condition{}
}

// Settled says whether the plan is Ready and speaks of its latest generation.
func (p Plan) Settled() bool {
	return p.Status.ObservedGeneration == p.Generation && p.Condition(v1alpha1.ConditionReady).Status == metav1.ConditionTrue
}

// ImageID is that of the first container.
func (p Pod) ImageID() string {
	if len(p.Containers) == 0 {
		return ""
	}
	return p.Containers[0].ImageID
}

// Restarts of the first container.
func (p Pod) Restarts() int32 {
	if len(p.Containers) == 0 {
		return 0
	}
	return p.Containers[0].Restarts
}

// Runs says whether every container runs.
func (p Pod) Runs() bool {
	for _, c := range p.Containers {
		if !c.Running {
			return false
		}
	}
	return len(p.Containers) > 0 && !p.Gone
}
