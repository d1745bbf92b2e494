package preview

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/kruise"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// world is a set of five replicas at app:1 with a Roster, before any plan. Nothing is armed.
type world struct {
	set    kruisev1beta1.StatefulSet
	revs   []appsv1.ControllerRevision
	pods   []corev1.Pod
	roster v1alpha1.Roster
	plan   v1alpha1.UpgradePlan
}

// template is the set's, with an image and the value of an environment variable.
func template(image, env string) corev1.PodTemplateSpec {
	var t corev1.PodTemplateSpec
	t.Labels = map[string]string{"app": "sample"}
	t.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "InPlaceUpdateReady"}}
	t.Spec.Containers = []corev1.Container{{Name: "main", Image: image, Env: []corev1.EnvVar{{Name: "A", Value: env}}}}
	return t
}

func (w *world) revision(name, image, env string) {
	r := appsv1.ControllerRevision{Revision: int64(len(w.revs) + 1)}
	r.Namespace, r.Name = "prod", "sample-"+name
	r.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(&w.set, kruisev1beta1.SchemeGroupVersion.WithKind("StatefulSet"))}
	raw, err := yaml.Marshal(map[string]any{"spec": map[string]any{"template": template(image, env)}})
	if err != nil {
		panic(err)
	}
	if r.Data.Raw, err = yaml.YAMLToJSON(raw); err != nil {
		panic(err)
	}
	w.revs = append(w.revs, r)
}

// at makes pod i one of revision name.
func (w *world) at(i int, name string) {
	w.pods[i].Labels[appsv1.ControllerRevisionHashLabelKey] = "sample-" + name
}

// arm lets the plan have taken the set over already.
func (w *world) arm() {
	w.set.Annotations = map[string]string{v1alpha1.ArmedAnnotation: kruise.NewArmed(&w.set, "preview", 1).String()}
}

func five(working ...int) *world {
	w := &world{}
	w.set.Namespace, w.set.Name, w.set.UID, w.set.Generation = "prod", "sample", "s", 1
	w.set.Spec.Replicas, w.set.Spec.Template = new(int32(5)), template("app:1", "x")
	w.set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	w.set.Status.ObservedGeneration, w.set.Status.CurrentRevision, w.set.Status.UpdateRevision = 1, "sample-a", "sample-a"
	w.revision("a", "app:1", "x")
	w.roster.Namespace, w.roster.Name = "prod", "sample"
	w.roster.Spec.MaxLeased, w.roster.Spec.Assigned = 5, &v1alpha1.AssignedDuty{Workers: new(int32(3))}
	w.roster.Status.Floor = 2
	for i := range 5 {
		p := corev1.Pod{}
		p.Namespace, p.Name, p.UID = "prod", fmt.Sprintf("sample-%d", i), "u"
		p.Labels = map[string]string{}
		p.OwnerReferences = w.revs[0].OwnerReferences
		p.Status.Phase = corev1.PodRunning
		p.Spec.ReadinessGates, p.Spec.Containers = w.set.Spec.Template.Spec.ReadinessGates, w.set.Spec.Template.Spec.Containers
		for _, c := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady, "InPlaceUpdateReady"} {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue})
		}
		w.pods = append(w.pods, p)
		w.at(i, "a")
		w.roster.Status.Members = append(w.roster.Status.Members, v1alpha1.MemberRecord{Name: p.Name, Duty: "Idle", UID: "u"})
	}
	for _, i := range working {
		w.roster.Status.Members[i].Duty = "Working"
	}
	w.plan.Namespace, w.plan.Name = "prod", "plan"
	w.plan.Spec.Targets = []v1alpha1.Target{{Name: "sample", Images: map[string]string{"main": "app:2"}}}
	w.plan.Spec.Arbiter.Group = "sample"
	w.plan.Spec.Strategy.MaxUnavailable = new(intstr.FromInt32(2))
	return w
}

// tell previews the world and says what happens, one word per step, and how it ends.
func (w *world) tell(t *testing.T) string {
	t.Helper()
	r := w.result(t)
	var s []string
	for _, step := range r.Steps {
		word := fmt.Sprintf("%d:%s", step.Round, strings.TrimPrefix(step.Replica, "sample-"))
		switch {
		case step.Kind == Handover:
			word += ">" + strings.TrimPrefix(step.To, "sample-")
		case step.Kind == Verify:
			word += "?"
		case step.NotInPlace != "":
			word += "!"
		}
		s = append(s, word)
	}
	return strings.Join(append(s, r.Reason), " ")
}

func (w *world) result(t *testing.T) *Result {
	t.Helper()
	up := w.plan.DeepCopy()
	Default(up)
	in := Input{
		Plan: Merge(up, nil, now), Now: now, Roster: &w.roster,
		Snapshot: &Snapshot{Sets: []kruisev1beta1.StatefulSet{w.set}, Revisions: w.revs, Pods: w.pods},
	}
	if w.roster.Name == "" {
		in.Roster, in.Unseen = nil, "it is another's"
	}
	r, err := Of(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPreview(t *testing.T) {
	for name, c := range map[string]struct {
		world func() *world
		want  string
	}{
		"all idle: by two, the highest ordinals first": {
			func() *world { return five() }, "1:4 1:3 2:2 2:1 3:0 Complete",
		},
		"workers go off duty one after the other, each when an upgraded one can take over": {
			func() *world { return five(0, 1, 2) }, "1:4 1:3 2:0>3 3:0 4:1>0 5:1 6:2>1 7:2 Complete",
		},
		"with handover Wait the workers are left": {
			func() *world { w := five(0, 2, 4); w.plan.Spec.Strategy.Handover = v1alpha1.HandoverWait; return w }, "1:3 1:1 WaitingForDuty",
		},
		"duty that is named does not move": {
			func() *world {
				w := five(0)
				w.roster.Spec.Assigned.Workers, w.roster.Spec.Assigned.Working = nil, []string{"sample-0"}
				return w
			}, "1:4 1:3 2:2 2:1 HandoverRefused",
		},
		"duty that the application gives does not move": {
			func() *world {
				w := five(0)
				w.roster.Spec.Assigned, w.roster.Spec.Observed = nil, &v1alpha1.ObservedDuty{}
				return w
			}, "1:4 1:3 2:2 2:1 HandoverRefused",
		},
		"the arbiter's maxLeased counts as well as the plan's own limit": {
			func() *world { w := five(); w.roster.Spec.MaxLeased = 1; return w }, "1:4 2:3 3:2 4:1 5:0 Complete",
		},
		"at the floor no lease is granted": {
			func() *world { w := five(); w.roster.Status.Floor = 5; return w }, "WaitingForLease",
		},
		"what is already upgraded by somebody else is only verified": {
			func() *world {
				w := five()
				w.set.Spec.Template = template("app:2", "x")
				w.set.Status.UpdateRevision = "sample-b"
				w.revision("b", "app:2", "x")
				w.at(2, "b")
				return w
			}, "1:2? 1:4 2:3 3:1 4:0 Complete",
		},
		"at a pod whose revision differs in more than images Kruise stops": {
			func() *world {
				w := five()
				w.arm()
				w.revision("b", "app:0", "y")
				w.at(3, "b")
				return w
			}, "1:4 1:3! NotInPlace",
		},
		"a frozen arbiter grants nothing": {
			func() *world { w := five(); w.roster.Status.Frozen = true; return w }, "ArbiterFrozen",
		},
		"replicas that the Roster does not list": {
			func() *world { w := five(); w.roster.Status.Members = nil; return w }, "UnknownReplica",
		},
		"a paused plan, as if it were resumed": {
			func() *world { w := five(); w.plan.Spec.Paused = true; return w }, "1:4 1:3 2:2 2:1 3:0 Complete",
		},
		"gates are closed and opened on the way": {
			func() *world {
				w := five(0)
				for i := range w.pods {
					gate := corev1.PodConditionType(v1alpha1.InServiceGate)
					w.pods[i].Spec.ReadinessGates = append(w.pods[i].Spec.ReadinessGates, corev1.PodReadinessGate{ConditionType: gate})
					w.pods[i].Status.Conditions = append(w.pods[i].Status.Conditions, corev1.PodCondition{Type: gate, Status: corev1.ConditionTrue})
				}
				w.plan.Spec.Strategy.Verify.MinReadySeconds = 30
				return w
			}, "1:4 1:3 2:2 2:1 3:0>1 4:0 Complete",
		},
		"a set that cannot be served": {
			func() *world {
				w := five()
				w.set.Spec.PodManagementPolicy = appsv1.OrderedReadyPodManagement
				return w
			}, "TargetNotSupported",
		},
		"a container that is not there": {
			func() *world { w := five(); w.plan.Spec.Targets[0].Images = map[string]string{"nope": "x:1"}; return w }, "ContainerNotFound",
		},
		"a set that is not there": {
			func() *world { w := five(); w.plan.Spec.Targets[0].Name = "other"; return w }, "TargetNotFound",
		},
		"an arbiter that cannot be seen": {
			func() *world { w := five(); w.roster = v1alpha1.Roster{}; return w }, "Connecting",
		},
		"a plan that wants what runs changes nothing": {
			func() *world { w := five(); w.plan.Spec.Targets[0].Images["main"] = "app:1"; return w }, "Complete",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.world().tell(t); got != c.want {
				t.Errorf("it says %q, not %q", got, c.want)
			}
		})
	}
}

func TestGoingBackReusesTheEarlierRevision(t *testing.T) {
	w := five()
	w.set.Spec.Template = template("app:2", "x")
	w.set.Status.CurrentRevision, w.set.Status.UpdateRevision = "sample-b", "sample-b"
	w.revision("b", "app:2", "x")
	for i := range 4 {
		w.at(i, "b") // the last one was never upgraded
	}
	w.plan.Spec.Targets[0].Images["main"] = "app:1"
	want := []Target{{Name: "sample", FromRevision: "sample-b", ToRevision: "sample-a", Images: []ImageChange{{"main", "app:2", "app:1"}}}}
	if diff := cmp.Diff(want, w.result(t).Targets); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
	if got, want := w.tell(t), "1:4? 1:3 2:2 3:1 4:0 Complete"; got != want {
		t.Errorf("it says %q, not %q", got, want)
	}
}

func TestTheSamePreviewTwice(t *testing.T) {
	w := five(0, 1, 2)
	if diff := cmp.Diff(w.result(t), w.result(t)); diff != "" {
		t.Error(diff)
	}
}

func TestWaitingIsNoStallHere(t *testing.T) {
	w := five(0, 2, 4)
	w.plan.Spec.Strategy.Handover = v1alpha1.HandoverWait
	want := "2 of 5 replicas are upgraded; waiting for sample-0 or another of the rest to go off duty"
	if got := w.result(t).Message; got != want {
		t.Errorf("it says %q, not %q", got, want)
	}
}

func TestTheNotesTellOfLimitsThatAreNotPlayed(t *testing.T) {
	w := five()
	w.roster.Spec.Spread = &v1alpha1.Spread{TopologyKey: "zone"}
	w.roster.Spec.FreezeWindows = []v1alpha1.FreezeWindow{
		{Schedule: "0 11 * * *", DurationMinutes: 120}, // now is noon
		{Schedule: "0 13 * * *", DurationMinutes: 120},
		{Schedule: "13", DurationMinutes: 120},
	}
	notes := w.result(t).Notes
	for i, want := range []string{"is open until 2026-11-21T13:00:00Z", "spec.freezeWindows[2].schedule", "differ in zone"} {
		if len(notes) != 3 || !strings.Contains(notes[i], want) {
			t.Errorf("the notes %q do not say %q", notes, want)
		}
	}
}

func TestPrint(t *testing.T) {
	w := five(0, 1)
	w.arm()
	w.plan.Spec.Strategy.Handover = v1alpha1.HandoverWait
	w.revision("b", "app:0", "y")
	w.at(3, "b")
	var b strings.Builder
	if err := w.result(t).Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"upgradeplan/plan: 0 of 5 upgraded\n", "sample: revision sample-a → a new one\n", "sample: container main: app:1 → app:2\n",
		"1      Upgrade  sample-4  in place\n", "1      Upgrade  sample-3  REFUSED: its revision differs in more than the image of container main\n", "then it waits: ",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("it lacks %q:\n%s", want, b.String())
		}
	}
}

// fill does what the API server does with the defaults of a structural schema.
func fill(object, schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	for name, p := range properties {
		property := p.(map[string]any)
		if d, ok := property["default"]; ok && object[name] == nil {
			object[name] = runtime.DeepCopyJSONValue(d)
		}
		if inner, ok := object[name].(map[string]any); ok {
			fill(inner, property)
		}
	}
}

func TestTheDefaultsAreThoseOfTheSchema(t *testing.T) {
	data, err := os.ReadFile("../../config/crd/bases/offduty.dev_upgradeplans.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema map[string]any `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		t.Fatal(err)
	}
	plan := five().plan
	plan.Spec.Strategy.MaxUnavailable = nil
	object := map[string]any{"spec": map[string]any{
		"targets": []any{map[string]any{"name": "sample", "images": map[string]any{"main": "app:2"}}},
		"arbiter": map[string]any{"group": "sample"},
	}}
	fill(object, crd.Spec.Versions[0].Schema.OpenAPIV3Schema)
	encoded, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var want v1alpha1.UpgradePlan
	if err := yaml.UnmarshalStrict(encoded, &want); err != nil {
		t.Fatal(err)
	}
	Default(&plan)
	if diff := cmp.Diff(want.Spec, plan.Spec); diff != "" {
		t.Errorf("Default does not do what the API server does (-schema +Default):\n%s", diff)
	}
}
