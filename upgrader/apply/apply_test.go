package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/kruise"
	"offduty.dev/upgrader/observe"
	"offduty.dev/upgrader/plan"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Answers of the API server.
var (
	sets       = schema.GroupResource{Group: "apps.kruise.io", Resource: "statefulsets"}
	conflict   = apierrors.NewConflict(sets, "web", errors.New("changed"))
	gone       = apierrors.NewNotFound(sets, "web")
	testFailed = apierrors.NewGenericServerResponse(422, "patch", sets, "web", "test failed", 0, false)
	invalid    = apierrors.NewInvalid(schema.GroupKind{Kind: "StatefulSet"}, "web", field.ErrorList{field.Required(field.NewPath("image"), "")})
	// webhook is how a refusal of an admission webhook arrives.
	webhook   = &apierrors.StatusError{ErrStatus: metav1.Status{Code: 422, Message: "admission webhook denied the request: bad image"}}
	forbidden = apierrors.NewForbidden(sets, "web", errors.New("by a policy"))
	down      = apierrors.NewServiceUnavailable("restarting")
)

func TestAConflictIsNoError(t *testing.T) {
	for _, c := range []struct {
		name  string
		err   error
		again bool
	}{
		{"nothing but changes of the world", errors.Join(errAgain, fmt.Errorf("pod: %w", errAgain)), true},
		{"a change of the world", errAgain, true},
		{"another error beside one", errors.Join(errAgain, down), false},
		{"another error", down, false},
		{"no error", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := IsAgain(c.err); got != c.again {
				t.Errorf("got %t", got)
			}
		})
	}
}

// server answers each patch with err, or notes it.
type server struct {
	err     error
	patches []string
	applied []string // sets
	// live makes the plan of the API server another than that of the cache.
	live func(*v1alpha1.UpgradePlan)
	// set is what the API server has of the set; nil: none.
	set *kruisev1beta1.StatefulSet
}

func (s *server) note(sub string, obj client.Object, p client.Patch) error {
	if s.err != nil {
		return s.err
	}
	data, err := p.Data(obj)
	if err != nil {
		return err
	}
	s.patches = append(s.patches, strings.TrimPrefix(sub+" "+string(data), " "))
	obj.SetUID("u")
	obj.SetResourceVersion("12")
	return nil
}

type silent struct{ told []string }

func (s *silent) Plan(_ *v1alpha1.UpgradePlan, _ client.Object, _ bool, reason, _ string) {
	s.told = append(s.told, reason)
}

func (s *silent) Pod(*v1alpha1.UpgradePlan, *corev1.Pod, string, string) {}

// stage is an applier that talks to server, about a plan whose one target is the set web.
func stage(t *testing.T, s *server) (*Applier, *observe.Scene, *silent) {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, kruisev1beta1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	b := fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(interceptor.Funcs{
		Patch: func(_ context.Context, _ client.WithWatch, obj client.Object, p client.Patch, _ ...client.PatchOption) error {
			return s.note("", obj, p)
		},
		Apply: func(_ context.Context, _ client.WithWatch, obj runtime.ApplyConfiguration, _ ...client.ApplyOption) error {
			s.applied = append(s.applied, fmt.Sprint(obj))
			return s.err
		},
		SubResourcePatch: func(_ context.Context, _ client.Client, sub string, obj client.Object, p client.Patch, _ ...client.SubResourcePatchOption) error {
			return s.note(sub, obj, p)
		},
	})
	up := &v1alpha1.UpgradePlan{}
	up.Namespace, up.Name, up.UID, up.Generation = "ns", "p", "plan-uid", 3
	up.Spec.WorkingLabel, up.Spec.Strategy.Drain.Gate = "working", "offduty.dev/in-service"
	up.Spec.Targets = []v1alpha1.Target{{Name: "web", Images: map[string]string{"main": "app:2"}}}
	set := &kruisev1beta1.StatefulSet{}
	set.Namespace, set.Name, set.UID, set.Generation = "ns", "web", "set-uid", 5
	set.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main", Image: "app:1"}}
	told := &silent{}
	live := up.DeepCopy()
	if s.live != nil {
		s.live(live)
	}
	b = b.WithObjects(live)
	if s.set != nil {
		b = b.WithObjects(s.set)
	}
	k := b.Build()
	a := &Applier{Client: k, Live: k, Recorder: told, Writes: NewWrites(func() time.Time { return now }), Now: func() time.Time { return now }}
	return a, &observe.Scene{
		Plan: up, Sets: map[string]*kruisev1beta1.StatefulSet{"web": set}, Pods: map[string]*corev1.Pod{},
		Armed: map[string]*kruise.Armed{"web": kruise.NewArmed(set, "plan-uid", 1)},
	}, told
}

func TestAPodIsPatchedInOneRequestWithItsPreconditions(t *testing.T) {
	state := plan.StateUpdated
	for _, c := range []struct {
		name  string
		patch plan.PatchPod
		want  string
	}{
		{
			name:  "labels and annotations go through the pod, what is taken away as null",
			patch: plan.PatchPod{Hold: new(true), Grant: new(false), Working: new("false"), State: &state, Note: &plan.Note{}, Verified: new("web-2"), Fence: new(int64(7))},
			want: `{"metadata":{"annotations":{"offduty.dev/fenced":"7","offduty.dev/lease":null,"offduty.dev/verified":"web-2"},` +
				`"labels":{"lifecycle.apps.kruise.io/state":"Updated","offduty.dev/grant":null,"offduty.dev/hold":"true","working":"false"},"resourceVersion":"9","uid":"u0"}}`,
		},
		{
			name:  "the gate goes through the status, together with note and label",
			patch: plan.PatchPod{Gate: new(false), Working: new("false"), Note: &plan.Note{ID: "L1", Token: 7}},
			want: `status {"metadata":{"annotations":{"offduty.dev/lease":"L1/7"},"labels":{"working":"false"},"resourceVersion":"9","uid":"u0"},` +
				`"status":{"conditions":[{"lastTransitionTime":"2026-01-02T03:04:05Z","message":"the replica is out of service for its upgrade","reason":"Upgrade","status":"False","type":"offduty.dev/in-service"}]}}`,
		},
		{
			name:  "what is not to be changed is not mentioned",
			patch: plan.PatchPod{Hold: new(false)},
			want:  `{"metadata":{"labels":{"offduty.dev/hold":null},"resourceVersion":"9","uid":"u0"}}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &server{}
			a, scene, _ := stage(t, s)
			c.patch.Pod, c.patch.UID, c.patch.ResourceVersion = "web-0", "u0", "9"
			if err := a.Apply(t.Context(), scene, nil, plan.Decision{Actions: []plan.Action{c.patch}}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{c.want}, s.patches); diff != "" {
				t.Errorf("the patches (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAPinnedReplicaIsReleasedUnderTheVersionThatWasSeen(t *testing.T) {
	s := &server{}
	a, scene, told := stage(t, s)
	commit := plan.Commit{Pod: "web-0", UID: "u0", ResourceVersion: "9", Lease: plan.Lease{ID: "L1", Pinned: true}}
	if err := a.Apply(t.Context(), scene, nil, plan.Decision{Actions: []plan.Action{commit}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`{"metadata":{"annotations":{"offduty.dev/verified":null},"labels":{"offduty.dev/hold":null},"resourceVersion":"9","uid":"u0"}}`}, s.patches); diff != "" {
		t.Errorf("the patches (-want +got):\n%s", diff)
	}
	s.err = conflict
	if err := a.Apply(t.Context(), scene, nil, plan.Decision{Actions: []plan.Action{commit}}); !IsAgain(err) {
		t.Errorf("a pod that has changed meanwhile: %v", err)
	}
	if diff := cmp.Diff([]string{"Released"}, told.told); diff != "" {
		t.Errorf("what people were told (-want +got):\n%s", diff)
	}
}

func TestAnActionThatFailsDoesNotKeepTheOthersFromBeingTried(t *testing.T) {
	s := &server{}
	a, scene, _ := stage(t, s)
	hold := plan.PatchPod{Pod: "web-0", UID: "u0", ResourceVersion: "9", Hold: new(true)}
	err := a.Apply(t.Context(), scene, nil, plan.Decision{Actions: []plan.Action{nil, hold}})
	if err == nil || IsAgain(err) || len(s.patches) != 1 {
		t.Errorf("%v; patches %q", err, s.patches)
	}
}

func TestATemplateIsWrittenUnderItsConditions(t *testing.T) {
	s := &server{}
	a, scene, _ := stage(t, s)
	write := plan.WriteTemplate{Target: "web", ResourceVersion: "9", Partition: 5}
	if err := a.Apply(t.Context(), scene, nil, plan.Decision{Actions: []plan.Action{write}}); err != nil {
		t.Fatal(err)
	}
	var ops []struct{ Op, Path string }
	if len(s.patches) != 1 || json.Unmarshal([]byte(s.patches[0]), &ops) != nil {
		t.Fatalf("the patches are %q", s.patches)
	}
	want := []struct{ Op, Path string }{
		{"test", "/metadata/resourceVersion"},
		{"test", "/spec/template/spec/containers/0/name"},
		{"replace", "/spec/template/spec/containers/0/image"},
		{"replace", "/spec/updateStrategy/rollingUpdate/partition"},
		{"replace", "/metadata/annotations/offduty.dev~1armed"},
	}
	if diff := cmp.Diff(want, ops); diff != "" {
		t.Errorf("the operations (-want +got):\n%s", diff)
	}
}

func TestATemplateThatIsRefusedIsNotSentAgainAtOnce(t *testing.T) {
	for _, c := range []struct {
		name           string
		err            error
		refused, again bool
	}{
		{name: "by validation", err: invalid, refused: true},
		{name: "by a webhook", err: webhook, refused: true},
		{name: "by a policy", err: forbidden, refused: true},
		{name: "a conflict is none", err: conflict, again: true},
		{name: "a set that is gone is none", err: gone, again: true},
		{name: "a failed test is none", err: testFailed, again: true},
		{name: "an API server that is down is none", err: down},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, scene, _ := stage(t, &server{err: c.err})
			err := a.Apply(t.Context(), scene, nil, plan.Decision{Actions: []plan.Action{plan.WriteTemplate{Target: "web", ResourceVersion: "9", Partition: 5}}})
			var stuck *plan.Stuck
			if errors.As(err, &stuck) != c.refused || IsAgain(err) != c.again {
				t.Errorf("got %v", err)
			}
			why, until := a.Writes.Template(scene.Plan, scene.Sets["web"])
			if (why != nil) != c.refused {
				t.Fatalf("remembered %+v", why)
			}
			if c.refused && (why.Reason != plan.TemplateRefused || !until.Equal(now.Add(time.Minute))) {
				t.Errorf("remembered %+v until %s", why, until)
			}
		})
	}
}

func TestARefusalCountsUntilSomethingChanges(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*v1alpha1.UpgradePlan, *kruisev1beta1.StatefulSet, *time.Time)
		still  bool
	}{
		{"nothing changes", func(*v1alpha1.UpgradePlan, *kruisev1beta1.StatefulSet, *time.Time) {}, true},
		{"the plan changes", func(up *v1alpha1.UpgradePlan, _ *kruisev1beta1.StatefulSet, _ *time.Time) { up.Generation++ }, false},
		{"it is another plan's", func(up *v1alpha1.UpgradePlan, _ *kruisev1beta1.StatefulSet, _ *time.Time) { up.UID = "other" }, false},
		{"the set changes", func(_ *v1alpha1.UpgradePlan, set *kruisev1beta1.StatefulSet, _ *time.Time) { set.Generation++ }, false},
		{"it is another set", func(_ *v1alpha1.UpgradePlan, set *kruisev1beta1.StatefulSet, _ *time.Time) { set.UID = "other" }, false},
		{"a minute passes", func(_ *v1alpha1.UpgradePlan, _ *kruisev1beta1.StatefulSet, now *time.Time) {
			*now = now.Add(time.Minute)
		}, true}, // it is tried again, and still said
	} {
		t.Run(c.name, func(t *testing.T) {
			at := now
			w := NewWrites(func() time.Time { return at })
			_, scene, _ := stage(t, &server{})
			if err := w.refuse(scene.Plan, scene.Sets["web"], webhook); !strings.Contains(err.Error(), "bad image") {
				t.Errorf("the error does not say why: %v", err)
			}
			c.change(scene.Plan, scene.Sets["web"], &at)
			if why, _ := w.Template(scene.Plan, scene.Sets["web"]); (why != nil) != c.still {
				t.Errorf("got %+v", why)
			}
		})
	}
}

func TestWhatWasWrittenMustBeSeen(t *testing.T) {
	w := NewWrites(func() time.Time { return now })
	pod := func(uid types.UID, version string) *corev1.Pod {
		p := &corev1.Pod{}
		p.UID, p.ResourceVersion = uid, version
		return p
	}
	w.Note("u", "12")
	w.Note("u", "11") // an answer that came late
	w.Note("v", "no number")
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"one that was never written is as it is", pod("w", "1"), true},
		{"one whose version nobody can compare is believed", pod("v", "1"), true},
		{"one that is older than our write is stale", pod("u", "11"), false},
		{"and stays so", pod("u", "11"), false},
		{"one that has it is fresh", pod("u", "12"), true},
		{"and then everything is", pod("u", "11"), true},
	} {
		if got := w.Seen(c.pod); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
	w.Note("u", "20")
	w.Forget("u")
	if !w.Seen(pod("u", "1")) {
		t.Error("what is gone is still remembered")
	}
}

func TestASetIsTakenOverOnlyWhenTheStatusShowsIt(t *testing.T) {
	s := &server{}
	a, scene, _ := stage(t, s)
	scene.Armed = nil
	arm := plan.Decision{Actions: []plan.Action{plan.ApplySet{Target: "web", ResourceVersion: "9", Partition: plan.Parked, Why: plan.Arming}}}
	if err := a.Apply(t.Context(), scene, nil, arm); !IsAgain(err) || len(s.applied) > 0 {
		t.Errorf("before: %v; applied %q", err, s.applied)
	}
	scene.Plan.Status.Targets = []v1alpha1.TargetStatus{{Name: "web", Partition: new(int32)}}
	if err := a.Apply(t.Context(), scene, nil, arm); err != nil || len(s.applied) != 1 {
		t.Errorf("then: %v; applied %q", err, s.applied)
	}
}

func TestASetIsTakenOverOnlyForAPlanThatIsStillThere(t *testing.T) {
	for _, c := range []struct {
		name string
		live func(*v1alpha1.UpgradePlan)
	}{
		{"it has gone, and another has its name", func(up *v1alpha1.UpgradePlan) { up.UID = "other" }},
		{"it is being deleted", func(up *v1alpha1.UpgradePlan) {
			up.Finalizers, up.DeletionTimestamp = []string{v1alpha1.PlanFinalizer}, &metav1.Time{Time: now}
		}},
		{"it has gone", func(up *v1alpha1.UpgradePlan) { up.Name = "other" }},
		{"it names the set no more", func(up *v1alpha1.UpgradePlan) { up.Spec.Targets[0].Name = "other" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &server{live: c.live}
			a, scene, _ := stage(t, s)
			scene.Armed = nil
			scene.Plan.Status.Targets = []v1alpha1.TargetStatus{{Name: "web", Partition: new(int32)}}
			arm := plan.Decision{Actions: []plan.Action{plan.ApplySet{Target: "web", ResourceVersion: "9", Partition: plan.Parked, Why: plan.Arming}}}
			if err := a.Apply(t.Context(), scene, nil, arm); !IsAgain(err) || len(s.applied) > 0 {
				t.Errorf("%v; applied %q", err, s.applied)
			}
		})
	}
}

// TestAHoldGoesOnlyWhenTheAPIServerSaysThatTheSetIsGivenBack: the cache of a leader that was
// frozen may show a set of long ago, and pods as they are.
func TestAHoldGoesOnlyWhenTheAPIServerSaysThatTheSetIsGivenBack(t *testing.T) {
	const says = `{"version":4,"plan":%q,"term":%d,"generation":1,"returning":%t,"original":{}}`
	off := plan.PatchPod{Pod: "web-0", UID: "u", ResourceVersion: "9", Hold: new(false), Returns: "web", Why: plan.Leaving}
	for _, c := range []struct {
		name, armed string
		observed    int64
		goes        bool
	}{
		{"it is given back by us", fmt.Sprintf(says, "plan-uid", 2, true), 5, true},
		{"it is armed anew", fmt.Sprintf(says, "plan-uid", 2, false), 5, false},
		{"another plan gives it back", fmt.Sprintf(says, "other", 2, true), 5, false},
		{"a later leader gives it back", fmt.Sprintf(says, "plan-uid", 3, true), 5, false},
		{"Kruise has not seen its partition", fmt.Sprintf(says, "plan-uid", 2, true), 4, false},
		{"it is disarmed", "", 5, false},
		{"there is none", "-", 5, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &server{set: &kruisev1beta1.StatefulSet{}}
			s.set.Namespace, s.set.Name, s.set.Generation, s.set.Status.ObservedGeneration = "ns", "web", 5, c.observed
			switch c.armed {
			case "":
			case "-":
				s.set = nil
			default:
				s.set.Annotations = map[string]string{v1alpha1.ArmedAnnotation: c.armed}
			}
			a, scene, _ := stage(t, s)
			scene.World.Term = 2
			err := a.Apply(t.Context(), scene, nil, plan.Decision{Actions: []plan.Action{off, off}})
			if c.goes && (err != nil || len(s.patches) != 2) || !c.goes && (!IsAgain(err) || len(s.patches) > 0) {
				t.Errorf("got %v; patches %q", err, s.patches)
			}
		})
	}
}

func TestASetIsBarredBeforeThePlanGoes(t *testing.T) {
	s := &server{}
	a, scene, _ := stage(t, s)
	scene.Plan.Finalizers, scene.Plan.ResourceVersion = []string{v1alpha1.PlanFinalizer}, "3"
	leave := plan.Decision{Actions: []plan.Action{plan.Leave{Bars: []plan.Bar{{Target: "web", ResourceVersion: "9"}}}}}
	if err := a.Apply(t.Context(), scene, nil, leave); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{"metadata":{"annotations":{"offduty.dev/left":"plan-uid"},"resourceVersion":"9"}}`,
		`{"metadata":{"annotations":{"offduty.dev/left":null}}}`,
	}
	if diff := cmp.Diff(want, s.patches[:2]); diff != "" || len(s.patches) != 3 {
		t.Errorf("the patches (-want +got):\n%s\nof %q", diff, s.patches)
	}
	s.err, s.patches = conflict, nil
	scene.Plan.Finalizers = []string{v1alpha1.PlanFinalizer}
	if err := a.Apply(t.Context(), scene, nil, leave); !IsAgain(err) || len(scene.Plan.Finalizers) != 1 {
		t.Errorf("with a conflict: %v; the plan goes: %t", err, len(scene.Plan.Finalizers) == 0)
	}
}

func TestAnOddNameOfAReplicaIsNoPanic(t *testing.T) {
	for name, want := range map[string]string{"ns/web-0": "web-0", "a/b": "b", "web-0": "web-0", "": ""} {
		if got := short(name); got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
}
