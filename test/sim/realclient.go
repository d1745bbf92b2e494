package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/observe"
	"offduty.dev/upgrader/plan"
)

// kube is the client of an upgrader: it reads what the process's cache shows, and its
// writes are requests to the model of the API server. What the upgrader does not use is nil.
type kube struct {
	client.Client

	u *upgrader
	// The objects of the cache, as they were converted last.
	pods      map[string]*corev1.Pod
	sets      map[string]*kruisev1beta1.StatefulSet
	revisions map[string]*appsv1.ControllerRevision
}

func newKube(u *upgrader) *kube {
	return &kube{
		u: u, pods: map[string]*corev1.Pod{}, sets: map[string]*kruisev1beta1.StatefulSet{},
		revisions: map[string]*appsv1.ControllerRevision{},
	}
}

// Get is client.Reader.
func (k *kube) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	switch o := obj.(type) {
	case *v1alpha1.UpgradePlan:
		if k.u.plan.uid == "" {
			return absent("upgradeplans", key.Name)
		}
		*o = *k.u.s.cfg.typedPlan(&k.u.plan)
		return nil
	case *kruisev1beta1.StatefulSet:
		s, ok := k.u.cache.sets[key.Name]
		if !ok {
			return absent("statefulsets", key.Name)
		}
		*o = *k.set(&s)
		return nil
	}
	panic(fmt.Sprintf("Get of %T is not modelled", obj))
}

// live reads the API server itself: a request, like a write.
type live struct{ u *upgrader }

// Get is client.Reader.
func (l live) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	l.u.pause("")
	switch o := obj.(type) {
	case *v1alpha1.UpgradePlan:
		if l.u.s.plan.uid == "" {
			return absent("upgradeplans", key.Name)
		}
		*o = *l.u.s.cfg.typedPlan(&l.u.s.plan)
		return nil
	case *kruisev1beta1.StatefulSet:
		set, ok := l.u.s.api.sets[key.Name]
		if !ok {
			return absent("statefulsets", key.Name)
		}
		*o = *l.u.s.cfg.typedSet(&set)
		return nil
	}
	panic(fmt.Sprintf("Get of %T from the API server is not modelled", obj))
}

// List is client.Reader. It returns all pods: who asks looks at their owners.
func (l live) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	pods, ok := list.(*corev1.PodList)
	if !ok {
		panic(fmt.Sprintf("List of %T from the API server is not modelled", list))
	}
	l.u.pause("")
	for _, name := range names(l.u.s.api.pods) {
		p := l.u.s.api.pods[name]
		pods.Items = append(pods.Items, *typedPod(&p))
	}
	return nil
}

func absent(resource, name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: resource}, name)
}

// List is client.Reader, by the indexes that observe uses.
func (k *kube) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	switch l := list.(type) {
	case *v1alpha1.UpgradePlanList:
		set := field(opts, observe.TargetIndex)
		if o := k.u.s.cfg.typedPlan(&k.u.plan); k.u.plan.uid != "" && slices.Contains(observe.TargetNames(o), set) {
			l.Items = append(l.Items, *o)
		}
		return nil
	case *corev1.PodList:
		set := strings.TrimPrefix(field(opts, observe.OwnerIndex), "set-")
		for _, name := range names(k.u.cache.pods) {
			if p := k.u.cache.pods[name]; p.Set == set {
				l.Items = append(l.Items, *k.pod(&p))
			}
		}
		return nil
	case *appsv1.ControllerRevisionList:
		set := strings.TrimPrefix(field(opts, observe.OwnerIndex), "set-")
		for _, name := range slices.Sorted(maps.Keys(k.u.s.api.numbers)) {
			if strings.HasPrefix(name, set+"-") {
				l.Items = append(l.Items, *k.revision(set, name))
			}
		}
		return nil
	}
	panic(fmt.Sprintf("List of %T is not modelled", list))
}

// field is the value that an index is asked for.
func field(opts []client.ListOption, index string) string {
	for _, o := range opts {
		if m, ok := o.(client.MatchingFields); ok {
			return m[index]
		}
	}
	panic("a list without the index " + index + " is not modelled")
}

func (k *kube) pod(p *Pod) *corev1.Pod {
	o := k.pods[p.Name]
	if o == nil || o.ResourceVersion != strconv.Itoa(p.RV) {
		o = typedPod(p)
		k.pods[p.Name] = o
	}
	return o
}

func (k *kube) set(s *Set) *kruisev1beta1.StatefulSet {
	o := k.sets[s.Name]
	if o == nil || o.ResourceVersion != strconv.Itoa(s.RV) {
		o = k.u.s.cfg.typedSet(s)
		k.sets[s.Name] = o
	}
	return o
}

func (k *kube) revision(set, name string) *appsv1.ControllerRevision {
	n := k.u.s.api.numbers[name]
	o := k.revisions[name]
	if o == nil || o.Revision != int64(n) {
		o = k.u.s.cfg.typedRevision(set, name, n)
		k.revisions[name] = o
	}
	return o
}

// Patch is client.Writer.
func (k *kube) Patch(_ context.Context, obj client.Object, patch client.Patch, _ ...client.PatchOption) error {
	return k.send(obj, patch, false)
}

// Status is client.StatusClient.
func (k *kube) Status() client.SubResourceWriter { return statusWriter{k: k} }

type statusWriter struct {
	client.SubResourceWriter

	k *kube
}

// Patch is client.SubResourceWriter.
func (w statusWriter) Patch(_ context.Context, obj client.Object, patch client.Patch, _ ...client.SubResourcePatchOption) error {
	return w.k.send(obj, patch, true)
}

// send is one request.
func (k *kube) send(obj client.Object, patch client.Patch, status bool) error {
	body, err := patch.Data(obj)
	if err != nil {
		return err
	}
	_, about := k.u.why(obj.GetName())
	switch o := obj.(type) {
	case *v1alpha1.UpgradePlan:
		switch {
		case status:
			about = "writes the status"
		case o.DeletionTimestamp == nil:
			about = request(plan.Adopt{})
		default:
			about = request(plan.Leave{})
		}
		k.u.pause(about)
		return k.patchPlan(o, patch, body, status)
	case *kruisev1beta1.StatefulSet:
		k.u.pause(about)
		return k.patchSet(o, patch, body, status)
	case *corev1.Pod:
		k.u.pause(about)
		return k.patchPod(o, patch, body, status)
	}
	panic(fmt.Sprintf("Patch of %T is not modelled", obj))
}

// failed is an error of the model as the API server says it.
func failed(resource, name string, err error) error {
	switch {
	case errors.Is(err, errNotFound):
		return absent(resource, name)
	case errors.Is(err, errConflict):
		return conflict(resource, name, "the object has been modified")
	}
	return err
}

func (k *kube) patchPod(o *corev1.Pod, patch client.Patch, body []byte, status bool) error {
	s, name := k.u.s, o.Name
	why, _ := k.u.why(name)
	var is Pod
	if err := s.send(message{k.u.name, func() (err error) {
		is, err = k.storePod(name, why, patch.Type(), body, status)
		return err
	}}); err != nil {
		s.tell(k.u.name, "patches %s (%s): %v", name, why, err)
		return failed("pods", name, err)
	}
	*o = *typedPod(&is)
	return nil
}

// storePod stores a pod as it is patched.
func (k *kube) storePod(name string, why plan.Reason, kind types.PatchType, body []byte, status bool) (Pod, error) {
	s := k.u.s
	was, ok := s.api.pods[name]
	if !ok {
		return was, errNotFound
	}
	live := typedPod(&was)
	next, err := patched("pods", live, kind, body)
	if err != nil {
		return was, err
	}
	uid, rv := string(next.UID), versionOf(next.ResourceVersion)
	if s.cfg.Without == Precondition {
		uid, rv = was.UID, was.RV
	}
	next.UID = live.UID
	if status {
		next.Spec = live.Spec
	} else {
		next.Status = live.Status
	}
	is, err := s.api.patchPod(name, uid, rv, func(p *Pod) {
		p.read(next)
		if what := unknown(next, typedPod(p)); what != "" {
			s.fail("model: %s writes to pod %s what the model has no field for: %s", k.u.name, name, what)
		}
	})
	if err == nil {
		s.wrote(k.u, was, is, plan.PatchPod{Pod: name, Why: why})
	}
	return is, err
}

func (k *kube) patchSet(o *kruisev1beta1.StatefulSet, patch client.Patch, body []byte, status bool) error {
	s, name := k.u.s, o.Name
	var is Set
	err := s.send(message{k.u.name, func() error {
		was, ok := s.api.sets[name]
		if !ok {
			return absent("statefulsets", name)
		}
		next, err := patched("statefulsets", s.cfg.typedSet(&was), patch.Type(), body)
		if err != nil {
			return err
		}
		is, err = k.writeSet(was, next, was.Owned, status)
		return err
	}})
	s.tell(k.u.name, "%s: patch %s: %v", name, body, err)
	if err != nil {
		return err
	}
	*o = *s.cfg.typedSet(&is)
	return nil
}

// writeSet stores a set as it was patched.
func (k *kube) writeSet(was Set, next *kruisev1beta1.StatefulSet, owned string, status bool) (Set, error) {
	s := k.u.s
	live := s.cfg.typedSet(&was)
	if status {
		next.Spec, next.Annotations = live.Spec, live.Annotations
	} else {
		next.Status = live.Status
	}
	var bad error
	is, err := s.api.patchSet(was.Name, versionOf(next.ResourceVersion), func(t *Set) {
		if bad = t.read(next, status); bad != nil {
			return
		}
		t.Owned, t.Unhooked = owned, t.Unhooked && !t.Armed
		if t.Partition != was.Partition || t.Plan == "" && was.Plan != "" {
			t.Foreign = t.Foreign && t.Partition == was.Partition
		}
		if what := unknown(next, s.cfg.typedSet(t)); what != "" {
			s.fail("model: %s writes to StatefulSet %s what the model has no field for: %s", k.u.name, was.Name, what)
		}
	})
	if bad != nil {
		return is, apierrors.NewBadRequest(bad.Error())
	}
	if err != nil {
		return is, failed("statefulsets", was.Name, err)
	}
	return is, nil
}

// applied is what client.ApplyConfigurationFromUnstructured makes.
type applied interface {
	runtime.ApplyConfiguration
	GetName() string
	GetResourceVersion() string
	SetResourceVersion(v string)
	UnstructuredContent() map[string]any
}

// Apply is client.Writer: server-side apply by force, of a set.
func (k *kube) Apply(_ context.Context, obj runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
	o, ok := obj.(applied)
	if !ok {
		panic(fmt.Sprintf("Apply of %T is not modelled", obj))
	}
	if !slices.Contains(opts, client.ApplyOption(client.ForceOwnership)) {
		panic("Apply without force is not modelled")
	}
	name, rv, uid := o.GetName(), o.GetResourceVersion(), k.u.doing.uid
	why, about := k.u.why(name)
	k.u.pause(about)
	content := o.UnstructuredContent()
	var is Set
	err := k.u.s.send(message{k.u.name, func() (err error) {
		if is, err = k.applySet(name, rv, content); err == nil {
			k.u.s.tookOver(k.u, name, uid)
		}
		return err
	}})
	k.u.s.tell(k.u.name, "%s: applies partition %d (%s): %v", name, is.Partition, why, err)
	if err != nil {
		return err
	}
	o.SetResourceVersion(strconv.Itoa(is.RV))
	return nil
}

// applySet is server-side apply to the set as it is.
func (k *kube) applySet(name, rv string, content map[string]any) (Set, error) {
	was, ok := k.u.s.api.sets[name]
	if !ok {
		return was, apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, name, "", 0, false)
	}
	config, _ := tree(content).(map[string]any)
	live, _ := tree(k.u.s.cfg.typedSet(&was)).(map[string]any)
	identity, _ := config["metadata"].(map[string]any)
	delete(identity, "name")
	delete(identity, "namespace")
	delete(config, "apiVersion")
	delete(config, "kind")
	owned := serverSideApply(live, config, ownedFrom(was.Owned))
	b, err := json.Marshal(live)
	if err != nil {
		return was, err
	}
	next, err := decoded[kruisev1beta1.StatefulSet](b)
	if err != nil {
		return was, err
	}
	next.ResourceVersion = rv
	return k.writeSet(was, next, owned.String(), false)
}

func (k *kube) patchPlan(o *v1alpha1.UpgradePlan, patch client.Patch, body []byte, status bool) error {
	s, name := k.u.s, o.Name
	var is planObject
	if err := s.send(message{k.u.name, func() (err error) {
		is, err = k.storePlan(name, patch.Type(), body, status)
		return err
	}}); err != nil {
		s.tell(k.u.name, "writes the plan: %v", err)
		return err
	}
	*o = *s.cfg.typedPlan(&is)
	k.u.doing.rv, k.u.doing.finalizer = is.rv, is.finalizer
	return nil
}

// storePlan stores the plan as it is patched.
func (k *kube) storePlan(name string, kind types.PatchType, body []byte, status bool) (planObject, error) {
	s := k.u.s
	if s.plan.uid == "" {
		return s.plan, absent("upgradeplans", name)
	}
	live := s.cfg.typedPlan(&s.plan)
	next, err := patched("upgradeplans", live, kind, body)
	if err != nil {
		return s.plan, err
	}
	if next.ResourceVersion != live.ResourceVersion {
		return s.plan, conflict("upgradeplans", name, "the plan has been modified")
	}
	was := s.plan
	if status {
		s.plan.readStatus(&next.Status)
	} else {
		s.plan.finalizer = slices.Contains(next.Finalizers, v1alpha1.PlanFinalizer)
		next.Status = live.Status
	}
	if what := unknown(next, s.cfg.typedPlan(&s.plan)); what != "" {
		s.fail("model: %s writes to the plan what the model has no field for: %s", k.u.name, what)
	}
	s.plan.rv = was.rv + 1
	is := s.plan
	s.goes(k.u)
	return is, nil
}

// readStatus keeps a status, and what of it the simulation looks at.
func (p *planObject) readStatus(status *v1alpha1.UpgradePlanStatus) {
	p.status, p.steps, p.shown = status, map[string]lastStep{}, map[string]string{}
	for i := range status.Targets {
		p.shown[status.Targets[i].Name] = status.Targets[i].UpdateRevision
	}
	for i := range status.ReplicaStatuses {
		r := &status.ReplicaStatuses[i]
		p.steps[r.Name] = lastStep{plan.ParseStep(r.Step), r.Since.UTC()}
	}
}
