package kruise

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appspub "github.com/openkruise/kruise-api/apps/pub"
	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// set is a set that can be served.
func set(mut ...func(*kruisev1beta1.StatefulSet)) *kruisev1beta1.StatefulSet {
	s := &kruisev1beta1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", Generation: 4, Annotations: map[string]string{}}}
	s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	s.Spec.Replicas = new(int32(3))
	s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "a", Image: "a:1"}, {Name: "b", Image: "b:1"}}
	s.Spec.Template.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: appspub.InPlaceUpdateReady}}
	s.Spec.UpdateStrategy.RollingUpdate = &kruisev1beta1.RollingUpdateStatefulSetStrategy{Partition: new(int32(2))}
	for _, m := range mut {
		m(s)
	}
	return s
}

func TestUnsupported(t *testing.T) {
	for _, tt := range []struct {
		name string
		mut  func(*kruisev1beta1.StatefulSet)
		says string // "" when it can be served
	}{
		{"Parallel with the gate", func(*kruisev1beta1.StatefulSet) {}, ""},
		{"without a rollingUpdate", func(s *kruisev1beta1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate = nil }, ""},
		{"OrderedReady would deadlock", func(s *kruisev1beta1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.OrderedReadyPodManagement }, "OrderedReady"},
		{"OnDelete updates nothing", func(s *kruisev1beta1.StatefulSet) {
			s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
		}, "OnDelete"},
		{"without the gate nothing is updated in place", func(s *kruisev1beta1.StatefulSet) { s.Spec.Template.Spec.ReadinessGates = nil }, "InPlaceUpdateReady"},
		{"Kruise's own pause", func(s *kruisev1beta1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Paused = true }, "paused"},
		{"orderPriority", func(s *kruisev1beta1.StatefulSet) {
			s.Spec.UpdateStrategy.RollingUpdate.UnorderedUpdate = &kruisev1beta1.UnorderedUpdateStrategy{PriorityStrategy: &appspub.UpdatePriorityStrategy{
				OrderPriority: []appspub.UpdatePriorityOrderTerm{{OrderedKey: "k"}},
			}}
		}, "orderPriority"},
		{"a set on its way out", func(s *kruisev1beta1.StatefulSet) { s.DeletionTimestamp = &start }, "deleted"},
		{"Kruise Rollouts", func(s *kruisev1beta1.StatefulSet) { s.Annotations["rollouts.kruise.io/in-progressing"] = "{}" }, "Rollouts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := Unsupported(set(tt.mut))
			if (b == nil) != (tt.says == "") || b != nil && (b.Reason != plan.TargetNotSupported || !strings.Contains(b.Message, tt.says)) {
				t.Errorf("%+v", b)
			}
		})
	}
}

func TestOrdinals(t *testing.T) {
	for _, tt := range []struct {
		name string
		mut  func(*kruisev1beta1.StatefulSet)
		want []int
	}{
		{"from 0 on", func(*kruisev1beta1.StatefulSet) {}, []int{0, 1, 2}},
		{"one when replicas are not given", func(s *kruisev1beta1.StatefulSet) { s.Spec.Replicas = nil }, []int{0}},
		{"none for none", func(s *kruisev1beta1.StatefulSet) { s.Spec.Replicas = new(int32(0)) }, []int{}},
		{"from another start on", func(s *kruisev1beta1.StatefulSet) { s.Spec.Ordinals = &kruisev1beta1.StatefulSetOrdinals{Start: 5} }, []int{5, 6, 7}},
		{"reserved ordinals are left out", func(s *kruisev1beta1.StatefulSet) {
			s.Spec.ReserveOrdinals = []intstr.IntOrString{intstr.FromInt32(1), intstr.FromInt32(9)}
		}, []int{0, 2, 3}},
		{"a reserved range is left out", func(s *kruisev1beta1.StatefulSet) {
			s.Spec.ReserveOrdinals = []intstr.IntOrString{intstr.FromString("1-2")}
		}, []int{0, 3, 4}},
		{"a range that cannot be read reserves nothing, as in Kruise", func(s *kruisev1beta1.StatefulSet) {
			s.Spec.ReserveOrdinals = []intstr.IntOrString{intstr.FromInt32(0), intstr.FromString("2-1")}
		}, []int{0, 1, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Ordinals(set(tt.mut))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func rev(t *testing.T, mut func(*corev1.PodTemplateSpec)) *appsv1.ControllerRevision {
	t.Helper()
	s := set()
	mut(&s.Spec.Template)
	b, err := json.Marshal(map[string]any{"spec": map[string]any{"template": s.Spec.Template}})
	if err != nil {
		t.Fatal(err)
	}
	return &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "web-1"}, Data: runtime.RawExtension{Raw: b}}
}

func TestNotInPlace(t *testing.T) {
	same := func(*corev1.PodTemplateSpec) {}
	for _, tt := range []struct {
		name string
		to   func(*corev1.PodTemplateSpec)
		want string
	}{
		{"nothing", same, ""},
		{"images", func(p *corev1.PodTemplateSpec) { p.Spec.Containers[0].Image = "a:2" }, ""},
		{"metadata", func(p *corev1.PodTemplateSpec) { p.Labels = map[string]string{"x": "y"} }, ""},
		{"an env", func(p *corev1.PodTemplateSpec) { p.Spec.Containers[1].Env = []corev1.EnvVar{{Name: "X"}} }, "more than the image of container b"},
		{"another container", func(p *corev1.PodTemplateSpec) { p.Spec.Containers = p.Spec.Containers[:1] }, "the number of containers"},
		{"an init container", func(p *corev1.PodTemplateSpec) { p.Spec.InitContainers = []corev1.Container{{Name: "i"}} }, "the pod's spec beside its containers"},
		{"a readiness gate", func(p *corev1.PodTemplateSpec) { p.Spec.ReadinessGates = nil }, "the pod's spec beside its containers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := NotInPlace(rev(t, same), rev(t, tt.to)); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
	if got := NotInPlace(&appsv1.ControllerRevision{}, rev(t, same)); got == "" {
		t.Error("a revision that cannot be read is taken for one that can be updated in place")
	}
}

func TestIsTemplate(t *testing.T) {
	if !IsTemplate(set(), rev(t, func(*corev1.PodTemplateSpec) {})) {
		t.Error("a revision of the present template is not recognised")
	}
	if IsTemplate(set(), rev(t, func(p *corev1.PodTemplateSpec) { p.Spec.Containers[0].Image = "a:2" })) {
		t.Error("a revision of another template is taken for the present one")
	}
}

func TestTemplatePatch(t *testing.T) {
	a := &Armed{Version: 1, Plan: "p"}
	got, err := TemplatePatch(set(), "12", map[string]string{"b": "b:2"}, 3, a)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"op":"test","path":"/metadata/resourceVersion","value":"12"},` +
		`{"op":"test","path":"/spec/template/spec/containers/1/name","value":"b"},` +
		`{"op":"replace","path":"/spec/template/spec/containers/1/image","value":"b:2"},` +
		`{"op":"replace","path":"/spec/updateStrategy/rollingUpdate/partition","value":3},` +
		`{"op":"replace","path":"/metadata/annotations/offduty.dev~1armed","value":` + quote(t, a.String()) + `}]`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := TemplatePatch(set(), "12", map[string]string{"x": "y"}, 3, a); err == nil {
		t.Error("a container that does not exist is patched")
	}
	if b, _ := TemplatePatch(set(), "12", nil, 0, a); !strings.Contains(string(b), `partition","value":0}`) {
		t.Errorf("partition 0 is left out: %s", b)
	}
}

func quote(t *testing.T, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDisarmPatch(t *testing.T) {
	hook := func(labels map[string]string) func(*kruisev1beta1.StatefulSet) {
		return func(s *kruisev1beta1.StatefulSet) {
			s.Spec.Lifecycle = &appspub.Lifecycle{InPlaceUpdate: &appspub.LifecycleHook{LabelsHandler: labels}}
		}
	}
	ru := `"updateStrategy":{"rollingUpdate":{"inPlaceUpdateStrategy":null,"maxUnavailable":null,"podUpdatePolicy":null,"unorderedUpdate":null}}`
	for _, tt := range []struct {
		name string
		set  *kruisev1beta1.StatefulSet
		a    Armed
		want string
	}{
		{"a hook of ours alone goes", set(hook(map[string]string{v1alpha1.HoldLabel: "true"})), Armed{}, `{"lifecycle":null,` + ru + `}`},
		{
			"a user's own hook stays", set(hook(map[string]string{v1alpha1.HoldLabel: "true", "mine": "x"})),
			Armed{},
			`{"lifecycle":{"inPlaceUpdate":{"labelsHandler":{"offduty.dev/hold":null}}},` + ru + `}`,
		},
		{"no hook is left alone", set(), Armed{}, `{` + ru + `}`},
		{
			"the partition is never given up, the rest as it was", set(),
			Armed{Original: Original{Partition: new(int32(0)), MaxUnavailable: new(intstr.FromInt32(1)), PodUpdatePolicy: "InPlaceIfPossible"}},
			`{` + strings.NewReplacer(`"maxUnavailable":null`, `"maxUnavailable":1`, `"podUpdatePolicy":null`, `"podUpdatePolicy":"InPlaceIfPossible"`).Replace(ru) + `}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := DisarmPatch(tt.set, "12", &tt.a)
			if err != nil {
				t.Fatal(err)
			}
			want := `{"metadata":{"annotations":{"offduty.dev/armed":null},"resourceVersion":"12"},"spec":` + tt.want + `}`
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestArmed(t *testing.T) {
	a := NewArmed(set(), "plan-uid", 3)
	back, err := ParseArmed(set(func(s *kruisev1beta1.StatefulSet) { s.Annotations[v1alpha1.ArmedAnnotation] = a.String() }))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, back, cmp.AllowUnexported(Armed{})); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
	if a.Generation != 4 || *a.Original.Partition != 2 {
		t.Errorf("%+v", a)
	}
	if a, err := ParseArmed(set()); a != nil || err != nil {
		t.Errorf("no annotation: %+v, %v", a, err)
	}
}

func TestArmedOfAnOlderVersionIsReadAsTheOneOfToday(t *testing.T) {
	original := Original{Partition: new(int32(3)), PodUpdatePolicy: kruisev1beta1.InPlaceIfPossiblePodUpdateStrategyType}
	for _, tt := range []struct {
		name, annotation string
		want             Armed
	}{
		{
			"one that does not tell when the hook was written: Kruise knows it when it has observed the set as it is now",
			`{"version":1,"plan":"p","term":7,"imagesGeneration":2,"original":{"partition":3,"podUpdatePolicy":"InPlaceIfPossible"}}`,
			Armed{Version: ProtocolVersion, Plan: "p", Term: 7, Generation: 3, ImagesGeneration: 2, Original: original, unproven: true},
		},
		{
			"one that tells it",
			`{"version":1,"plan":"p","term":7,"generation":1,"original":{"partition":3,"podUpdatePolicy":"InPlaceIfPossible"}}`,
			Armed{Version: ProtocolVersion, Plan: "p", Term: 7, Generation: 1, Original: original, unproven: true},
		},
		{
			"one that does not tell at what the set was last at rest",
			`{"version":2,"plan":"p","term":7,"generation":0,"original":{"partition":3,"podUpdatePolicy":"InPlaceIfPossible"}}`,
			Armed{Version: ProtocolVersion, Plan: "p", Term: 7, Original: original, unproven: true},
		},
		{
			"one that does not tell whether the set is given back",
			`{"version":3,"plan":"p","term":7,"generation":0,"proven":"web-1","original":{"partition":3,"podUpdatePolicy":"InPlaceIfPossible"}}`,
			Armed{Version: ProtocolVersion, Plan: "p", Term: 7, Proven: "web-1", Original: original},
		},
		{
			"the one of today",
			`{"version":4,"plan":"p","term":7,"generation":0,"proven":"web-1","returning":true,"original":{"partition":3,"podUpdatePolicy":"InPlaceIfPossible"}}`,
			Armed{Version: ProtocolVersion, Plan: "p", Term: 7, Proven: "web-1", Returning: true, Original: original},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := ParseArmed(set(func(s *kruisev1beta1.StatefulSet) { s.Annotations[v1alpha1.ArmedAnnotation] = tt.annotation }))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tt.want, a, cmp.AllowUnexported(Armed{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatAnOlderVersionDidNotNoteIsReadFromItsPods(t *testing.T) {
	for _, tt := range []struct {
		name, annotation string
		verified         bool // web-1, the current revision, on any pod
		want             string
	}{
		{"a version that did not note it: what it called verified on any pod", `{"version":2,"plan":"p"}`, true, "web-1"},
		{"what it called verified on none is not proven", `{"version":2,"plan":"p"}`, false, ""},
		{"one that notes it is believed", `{"version":3,"plan":"p","proven":"web-0"}`, true, "web-0"},
		{"one that says that nothing was proven is, too", `{"version":3,"plan":"p"}`, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := ParseArmed(set(func(s *kruisev1beta1.StatefulSet) { s.Annotations[v1alpha1.ArmedAnnotation] = tt.annotation }))
			if err != nil {
				t.Fatal(err)
			}
			a.Prove("web-1", func(revision string) bool { return tt.verified && revision == "web-1" })
			if a.Proven != tt.want {
				t.Errorf("proven %q, want %q", a.Proven, tt.want)
			}
		})
	}
}

func TestArmedThatMustNotBeActedUpon(t *testing.T) {
	for _, tt := range []struct {
		name, annotation, says string
		newer, ours, others    bool // whether it concerns the plan "p", and another
	}{
		{"not JSON", "{", "restore it", false, true, true},
		{"no version", `{"plan":"p"}`, "restore it", false, true, true},
		{"no plan", `{"version":2}`, "restore it", false, true, true},
		{"a version that never was", `{"version":-1,"plan":"p"}`, "restore it", false, true, true},
		{"a newer version", `{"version":5,"plan":"p"}`, "version 5, and this upgrader knows 1 to 4", true, true, false},
		{"a newer version, all else of which has changed", `{"version":9,"plan":"p","term":"x","original":[]}`, "run the newer upgrader", true, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := ParseArmed(set(func(s *kruisev1beta1.StatefulSet) { s.Annotations[v1alpha1.ArmedAnnotation] = tt.annotation }))
			var u *UnreadableError
			if !errors.As(err, &u) {
				t.Fatalf("got %+v, %v", a, err)
			}
			if !strings.Contains(err.Error(), tt.says) || u.Newer != tt.newer || u.Concerns("p") != tt.ours || u.Concerns("q") != tt.others {
				t.Errorf("newer %t, of p %t, of q %t: %v", u.Newer, u.Concerns("p"), u.Concerns("q"), err)
			}
		})
	}
}

// FuzzParseArmed: what stands in the annotation is read as written, or refused.
func FuzzParseArmed(f *testing.F) {
	f.Add(NewArmed(set(), "p", 1).String())
	f.Add(`{"version":1,"plan":"p","original":{"partition":-1}}`)
	f.Add(`{"version":4,"plan":"p"}`)
	f.Fuzz(func(t *testing.T, s string) {
		of := func(v string) (*Armed, error) {
			return ParseArmed(set(func(s *kruisev1beta1.StatefulSet) { s.Annotations[v1alpha1.ArmedAnnotation] = v }))
		}
		a, err := of(s)
		if err != nil {
			return
		}
		again, err := of(a.String())
		if err != nil || again.String() != a.String() {
			t.Errorf("%s is read back as %+v, %v", a, again, err)
		}
	})
}

func TestApplied(t *testing.T) {
	settings := Settings{WorkingLabel: "working", GracePeriodSeconds: 5}
	cfg, err := ApplyConfiguration("ns", "web", "12", NewArmed(set(), "p", 1), 2, settings)
	if err != nil {
		t.Fatal(err)
	}
	applied := func() *kruisev1beta1.StatefulSet {
		s := set()
		b, err := json.Marshal(cfg.Object)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if !Applied(applied(), settings) {
		t.Error("what was just applied is not recognised: it would be applied again for ever")
	}
	if Applied(set(), settings) || Applied(applied(), Settings{WorkingLabel: "works", GracePeriodSeconds: 5}) || Applied(applied(), Settings{WorkingLabel: "working"}) {
		t.Error("a set that lacks something is taken for applied")
	}
	for name, mut := range map[string]func(*kruisev1beta1.StatefulSet){
		"hook":   func(s *kruisev1beta1.StatefulSet) { s.Spec.Lifecycle.InPlaceUpdate.LabelsHandler = nil },
		"policy": func(s *kruisev1beta1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.PodUpdatePolicy = "ReCreate" },
		"maxUnavailable": func(s *kruisev1beta1.StatefulSet) {
			s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = new(intstr.FromInt32(1))
		},
		"partition": func(s *kruisev1beta1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = nil },
	} {
		s := applied()
		if mut(s); Applied(s, settings) {
			t.Errorf("the loss of the %s is not seen", name)
		}
	}
}

func TestTemplateWriter(t *testing.T) {
	field := func(manager, sub, fields string, after int64) metav1.ManagedFieldsEntry {
		at := metav1.Unix(after, 0)
		return metav1.ManagedFieldsEntry{Manager: manager, Subresource: sub, Time: &at, FieldsV1: metav1.NewFieldsV1(fields)}
	}
	s := set(func(s *kruisev1beta1.StatefulSet) {
		s.ManagedFields = []metav1.ManagedFieldsEntry{
			field("argocd", "", `{"f:spec":{"f:template":{}}}`, 2), field("kubectl", "", `{"f:spec":{"f:template":{}}}`, 1),
			field("ours", "", `{"f:spec":{"f:template":{}}}`, 9), field("scaler", "", `{"f:spec":{"f:replicas":{}}}`, 8),
		}
	})
	if got := TemplateWriter(s, "ours"); got != "argocd" {
		t.Errorf("the template's writer is %q", got)
	}
	if got := TemplateWriter(set(), "ours"); got != "" {
		t.Errorf("nobody's template is %q's", got)
	}
}

func TestWhatARolloutBringsIsInItsTemplate(t *testing.T) {
	before := set(func(s *kruisev1beta1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "a:0" })
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"template": before.Spec.Template}})
	if err != nil {
		t.Fatal(err)
	}
	rev := &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: data}}
	if diff := cmp.Diff([]string{"a:1"}, Changes(set(), rev)); diff != "" {
		t.Errorf("after %s (-want +got):\n%s", "a:0", diff)
	}
	if diff := cmp.Diff([]string{"a:1", "b:1"}, Changes(set(), nil)); diff != "" {
		t.Errorf("after nobody knows what (-want +got):\n%s", diff)
	}
}
