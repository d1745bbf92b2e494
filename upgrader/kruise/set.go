package kruise

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	appspub "github.com/openkruise/kruise-api/apps/pub"
	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// Settings is what a plan wants of the sets that it takes over, beside the partition.
type Settings struct {
	WorkingLabel       string
	GracePeriodSeconds int32
}

// The weights order Kruise's updates: a grant, then an idle replica, then the rest.
const (
	grantWeight = 100
	idleWeight  = 50
)

// Unsupported says why a set cannot be served, before anything is written to it; nil: it can.
func Unsupported(set *kruisev1beta1.StatefulSet) *plan.Blocker {
	no := func(format string, args ...any) *plan.Blocker {
		return &plan.Blocker{Reason: plan.TargetNotSupported, Message: fmt.Sprintf("StatefulSet %s ", set.Name) + fmt.Sprintf(format, args...)}
	}
	ru := set.Spec.UpdateStrategy.RollingUpdate
	switch {
	case set.DeletionTimestamp != nil:
		return no("is being deleted")
	case set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement:
		return no("has podManagementPolicy OrderedReady: a replica that is out of service would block the update of all others; create it anew with Parallel")
	case set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType:
		return no("has update strategy OnDelete: set spec.updateStrategy.type to RollingUpdate")
	case !slices.ContainsFunc(set.Spec.Template.Spec.ReadinessGates, func(g corev1.PodReadinessGate) bool {
		return g.ConditionType == appspub.InPlaceUpdateReady
	}):
		return no("lacks the readiness gate %s, without which Kruise updates nothing in place: add it to spec.template.spec.readinessGates", appspub.InPlaceUpdateReady)
	case ru != nil && ru.Paused:
		return no("is paused: set spec.updateStrategy.rollingUpdate.paused to false; pause the UpgradePlan instead")
	case ru != nil && ru.UnorderedUpdate != nil && ru.UnorderedUpdate.PriorityStrategy != nil && len(ru.UnorderedUpdate.PriorityStrategy.OrderPriority) > 0:
		return no("orders its updates by orderPriority, which puts pods without the label first: remove it from spec.updateStrategy.rollingUpdate.unorderedUpdate")
	case set.Labels["rollouts.kruise.io/workload-type"] != "" || set.Annotations["rollouts.kruise.io/in-progressing"] != "":
		return no("is managed by Kruise Rollouts, which sets its partition: remove it from the Rollout")
	}
	return nil
}

// MissingContainer names a container of images that the template does not have; "" if none.
func MissingContainer(set *kruisev1beta1.StatefulSet, images map[string]string) string {
	for _, name := range sortedKeys(images) {
		if containerIndex(set, name) < 0 {
			return name
		}
	}
	return ""
}

// BadImage returns an image with white space in it; "" if there is none. Kruise takes such a
// template, and then the API server refuses every pod of it.
func BadImage(images map[string]string) string {
	for _, name := range sortedKeys(images) {
		if strings.ContainsFunc(images[name], unicode.IsSpace) {
			return images[name]
		}
	}
	return ""
}

// ImagesDiffer says whether the template lacks any of images.
func ImagesDiffer(set *kruisev1beta1.StatefulSet, images map[string]string) bool {
	for name, image := range images {
		if i := containerIndex(set, name); i >= 0 && set.Spec.Template.Spec.Containers[i].Image != image {
			return true
		}
	}
	return false
}

func containerIndex(set *kruisev1beta1.StatefulSet, name string) int {
	return slices.IndexFunc(set.Spec.Template.Spec.Containers, func(c corev1.Container) bool { return c.Name == name })
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Applied says whether a set is as ApplyConfiguration would make it, partition aside.
func Applied(set *kruisev1beta1.StatefulSet, s Settings) bool {
	ru := set.Spec.UpdateStrategy.RollingUpdate
	l := set.Spec.Lifecycle
	if ru == nil || ru.Partition == nil || l == nil || l.InPlaceUpdate == nil {
		return false
	}
	return l.InPlaceUpdate.LabelsHandler[v1alpha1.HoldLabel] == "true" &&
		ru.PodUpdatePolicy == kruisev1beta1.InPlaceOnlyPodUpdateStrategyType &&
		ru.MaxUnavailable != nil && ru.MaxUnavailable.String() == "100%" &&
		ru.UnorderedUpdate != nil && reflect.DeepEqual(ru.UnorderedUpdate.PriorityStrategy, priority(s)) &&
		graceOf(ru) == s.GracePeriodSeconds
}

func graceOf(ru *kruisev1beta1.RollingUpdateStatefulSetStrategy) int32 {
	if ru.InPlaceUpdateStrategy == nil {
		return 0
	}
	return ru.InPlaceUpdateStrategy.GracePeriodSeconds
}

func priority(s Settings) *appspub.UpdatePriorityStrategy {
	var p appspub.UpdatePriorityStrategy
	for _, w := range []struct {
		weight int32
		label  string
		value  string
	}{{grantWeight, v1alpha1.GrantLabel, "true"}, {idleWeight, s.WorkingLabel, "false"}} {
		var t appspub.UpdatePriorityWeightTerm
		t.Weight = w.weight
		t.MatchSelector.MatchLabels = map[string]string{w.label: w.value}
		p.WeightPriority = append(p.WeightPriority, t)
	}
	return &p
}

// ApplyConfiguration is what server-side apply is given to take a set over and to change
// its partition: the hold's hook, priorities, InPlaceOnly, maxUnavailable and partition.
// resourceVersion is its precondition: a stale one is a conflict.
func ApplyConfiguration(namespace, name, resourceVersion string, a *Armed, partition int32, s Settings) (*unstructured.Unstructured, error) {
	weights, err := toMap(priority(s))
	if err != nil {
		return nil, err
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": kruisev1beta1.GroupVersion.String(),
		"kind":       "StatefulSet",
		"metadata": map[string]any{
			"namespace": namespace, "name": name, "resourceVersion": resourceVersion,
			"annotations": map[string]any{v1alpha1.ArmedAnnotation: a.String()},
		},
		"spec": map[string]any{
			"lifecycle": map[string]any{"inPlaceUpdate": map[string]any{"labelsHandler": map[string]any{v1alpha1.HoldLabel: "true"}}},
			"updateStrategy": map[string]any{"rollingUpdate": map[string]any{
				"partition":             int64(partition),
				"podUpdatePolicy":       string(kruisev1beta1.InPlaceOnlyPodUpdateStrategyType),
				"maxUnavailable":        "100%",
				"unorderedUpdate":       map[string]any{"priorityStrategy": weights},
				"inPlaceUpdateStrategy": map[string]any{"gracePeriodSeconds": int64(s.GracePeriodSeconds)},
			}},
		},
	}}, nil
}

func toMap(v any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	m := map[string]any{}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("decode %T: %w", v, err)
	}
	for _, w := range m["weightPriority"].([]any) {
		t := w.(map[string]any)
		t["weight"] = int64(t["weight"].(float64))
	}
	return m, nil
}

type jsonOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// TemplatePatch is a JSON patch that writes images and partition in one request, under
// the condition that the set is the one that was seen. The template has no schema in
// Kruise's CRD: under server-side apply its lists are atomic, and applying an image
// would erase the rest of the container.
func TemplatePatch(set *kruisev1beta1.StatefulSet, resourceVersion string, images map[string]string, partition int32, a *Armed) ([]byte, error) {
	ops := []jsonOp{{"test", "/metadata/resourceVersion", resourceVersion}}
	for _, name := range sortedKeys(images) {
		i := containerIndex(set, name)
		if i < 0 {
			return nil, fmt.Errorf("set the image of container %s: StatefulSet %s/%s has no such container", name, set.Namespace, set.Name)
		}
		path := fmt.Sprintf("/spec/template/spec/containers/%d", i)
		ops = append(ops, jsonOp{"test", path + "/name", name}, jsonOp{"replace", path + "/image", images[name]})
	}
	ops = append(ops,
		jsonOp{"replace", "/spec/updateStrategy/rollingUpdate/partition", partition},
		jsonOp{"replace", "/metadata/annotations/" + strings.ReplaceAll(v1alpha1.ArmedAnnotation, "/", "~1"), a.String()})
	return json.Marshal(ops)
}

// DisarmPatch is a JSON merge patch that restores what arming replaced and removes our
// annotation, all but the partition: that was settled before, and giving it up by
// omission would make it 0.
func DisarmPatch(set *kruisev1beta1.StatefulSet, resourceVersion string, a *Armed) ([]byte, error) {
	var handler any = map[string]any{"labelsHandler": map[string]any{v1alpha1.HoldLabel: nil}}
	if l := set.Spec.Lifecycle; l != nil && l.InPlaceUpdate != nil && len(l.InPlaceUpdate.LabelsHandler) == 1 && len(l.InPlaceUpdate.FinalizersHandler) == 0 {
		handler = nil
	}
	o := a.Original
	spec := map[string]any{
		"updateStrategy": map[string]any{"rollingUpdate": map[string]any{
			"podUpdatePolicy":       orNil(o.PodUpdatePolicy == "", o.PodUpdatePolicy),
			"maxUnavailable":        orNil(o.MaxUnavailable == nil, o.MaxUnavailable),
			"unorderedUpdate":       orNil(o.UnorderedUpdate == nil, o.UnorderedUpdate),
			"inPlaceUpdateStrategy": orNil(o.InPlaceUpdateStrategy == nil, o.InPlaceUpdateStrategy),
		}},
	}
	if set.Spec.Lifecycle != nil {
		spec["lifecycle"] = map[string]any{"inPlaceUpdate": handler}
		if handler == nil && set.Spec.Lifecycle.PreDelete == nil && set.Spec.Lifecycle.PreNormal == nil {
			spec["lifecycle"] = nil
		}
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": resourceVersion, "annotations": map[string]any{v1alpha1.ArmedAnnotation: nil}},
		"spec":     spec,
	})
}

func orNil(none bool, v any) any {
	if none {
		return nil
	}
	return v
}

// CurrentRevisionPatch is a JSON patch of the status subresource.
func CurrentRevisionPatch(resourceVersion, revision string) ([]byte, error) {
	return json.Marshal([]jsonOp{
		{"test", "/metadata/resourceVersion", resourceVersion},
		{"replace", "/status/currentRevision", revision},
	})
}

// revisionData is how Kruise keeps a template in a ControllerRevision (getPatch in
// stateful_set_utils.go).
type revisionData struct {
	Spec struct {
		Template corev1.PodTemplateSpec `json:"template"`
	} `json:"spec"`
}

func templateOf(rev *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var d revisionData
	if err := json.Unmarshal(rev.Data.Raw, &d); err != nil {
		return nil, fmt.Errorf("read ControllerRevision %s/%s: %w", rev.Namespace, rev.Name, err)
	}
	return &d.Spec.Template, nil
}

// IsTemplate says whether rev keeps the present template of set: if rev is the update
// revision, Kruise has seen that template. The generation alone would not tell, as every
// change of the partition raises it.
func IsTemplate(set *kruisev1beta1.StatefulSet, rev *appsv1.ControllerRevision) bool {
	t, err := templateOf(rev)
	if err != nil {
		return false
	}
	a, errA := json.Marshal(t)
	b, errB := json.Marshal(set.Spec.Template)
	return errA == nil && errB == nil && string(a) == string(b)
}

// NotInPlace says what makes the change from one revision to another impossible in
// place; "" if it is possible. Only images and metadata can be changed in place
// (inplace_update_defaults.go, DefaultCalculateInPlaceUpdateSpec).
func NotInPlace(from, to *appsv1.ControllerRevision) string {
	a, errA := templateOf(from)
	b, errB := templateOf(to)
	if errA != nil || errB != nil {
		return "a revision that cannot be read"
	}
	if len(a.Spec.Containers) != len(b.Spec.Containers) {
		return "the number of containers"
	}
	for i := range a.Spec.Containers {
		x, y := &a.Spec.Containers[i], &b.Spec.Containers[i]
		x.Image = y.Image
		if !reflect.DeepEqual(x, y) {
			return fmt.Sprintf("more than the image of container %s", y.Name)
		}
	}
	a.Spec.Containers, b.Spec.Containers = nil, nil
	if !reflect.DeepEqual(a.Spec, b.Spec) {
		return "the pod's spec beside its containers"
	}
	return ""
}

// Changes lists the images that the rollout of a set brings: those of its template, as far as
// the revision before does not have them; all, if that is not known. Images that a plan wants and has not
// written yet are not among them: whatever fails in the set does not fail because of these.
func Changes(set *kruisev1beta1.StatefulSet, before *appsv1.ControllerRevision) []string {
	old := map[string]bool{}
	if before != nil {
		if t, err := templateOf(before); err == nil {
			for i := range t.Spec.Containers {
				old[t.Spec.Containers[i].Image] = true
			}
		}
	}
	var out []string
	for i := range set.Spec.Template.Spec.Containers {
		if image := set.Spec.Template.Spec.Containers[i].Image; !old[image] {
			old[image] = true
			out = append(out, image)
		}
	}
	return out
}

// TemplateWriter names the field manager that owns the template, other than ours.
func TemplateWriter(set *kruisev1beta1.StatefulSet, ours string) string {
	name, last := "", int64(0)
	for _, f := range set.ManagedFields {
		if f.Manager == ours || f.Subresource != "" || f.FieldsV1 == nil || !strings.Contains(string(f.FieldsV1.GetRawBytes()), `"f:template"`) {
			continue
		}
		if at := f.Time; name == "" || at != nil && at.Unix() >= last {
			name = f.Manager
			if at != nil {
				last = at.Unix()
			}
		}
	}
	return name
}

// Partition of a set; 0 when it has none.
func Partition(set *kruisev1beta1.StatefulSet) int32 {
	if ru := set.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.Partition != nil {
		return *ru.Partition
	}
	return 0
}

// Ordinals lists the ordinals that a set should have, ascending: spec.replicas of them
// from spec.ordinals.start on, leaving out reserveOrdinals.
func Ordinals(set *kruisev1beta1.StatefulSet) []int {
	n := 1
	if set.Spec.Replicas != nil {
		n = int(*set.Spec.Replicas)
	}
	start := 0
	if set.Spec.Ordinals != nil {
		start = int(set.Spec.Ordinals.Start)
	}
	reserved := reservedOf(set.Spec.ReserveOrdinals)
	out := make([]int, 0, n)
	for o := start; len(out) < n; o++ {
		i := slices.IndexFunc(reserved, func(r ordinals) bool { return r.first <= o && o <= r.last })
		if i >= 0 {
			o = reserved[i].last
			continue
		}
		out = append(out, o)
	}
	return out
}

// ordinals is a range, both ends included.
type ordinals struct{ first, last int }

// reservedOf reads numbers and ranges like "3-5". One that cannot be read makes Kruise
// reserve nothing at all (pkg/util/api/asts.go, GetReserveOrdinalIntSet).
func reservedOf(reserve []intstr.IntOrString) []ordinals {
	out := make([]ordinals, 0, len(reserve))
	for _, r := range reserve {
		if r.Type == intstr.Int {
			out = append(out, ordinals{int(r.IntVal), int(r.IntVal)})
			continue
		}
		first, last, ok := strings.Cut(r.StrVal, "-")
		a, errA := strconv.Atoi(first)
		b, errB := strconv.Atoi(last)
		if !ok || errA != nil || errB != nil || a > b {
			return nil
		}
		out = append(out, ordinals{a, b})
	}
	return out
}
