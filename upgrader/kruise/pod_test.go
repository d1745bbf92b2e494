package kruise

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appspub "github.com/openkruise/kruise-api/apps/pub"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

var start = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))

func annotated(key, value string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-0", Annotations: map[string]string{key: value}}}
}

func TestNote(t *testing.T) {
	for _, tt := range []struct {
		name, value string
		want        plan.Note
	}{
		{"no annotation is no note", "", plan.Note{}},
		{"a lease and its token", "e-7/12", plan.Note{ID: "e-7", Token: 12}},
		{"an id may have slashes", "a/b/3", plan.Note{ID: "a/b", Token: 3}},
		{"what has no token is a note of an unknown lease", "e-7", plan.Note{ID: "e-7", Token: -1}},
		{"what has no id is, too", "/3", plan.Note{ID: "/3", Token: -1}},
		{"a negative token is none", "e-7/-1", plan.Note{ID: "e-7/-1", Token: -1}},
		{"nor is one that does not fit", "e-7/99999999999999999999", plan.Note{ID: "e-7/99999999999999999999", Token: -1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Note(annotated(v1alpha1.LeaseAnnotation, tt.value))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzNote: anything can stand in an annotation; what we wrote ourselves is read back.
func FuzzNote(f *testing.F) {
	for _, s := range []string{"", "e-1/2", "/", "a/b/c", "e-1/-2", "e-1/", "\x00/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := Note(annotated(v1alpha1.LeaseAnnotation, s))
		if (n.ID == "") != (s == "") {
			t.Errorf("%q is read as %+v: a pod that bears a note must not seem clean", s, n)
		}
		if n.ID == "" || n.Token < 0 {
			return
		}
		if again := Note(annotated(v1alpha1.LeaseAnnotation, FormatNote(n))); again != n {
			t.Errorf("%+v is read back as %+v", n, again)
		}
	})
}

func TestFenced(t *testing.T) {
	for value, want := range map[string]int64{"": 0, "7": 7, "-7": 0, "e-7": 0, "99999999999999999999": 0} {
		if got := Fenced(annotated(v1alpha1.FencedAnnotation, value)); got != want {
			t.Errorf("%q: %d, want %d", value, got, want)
		}
	}
}

// running is a pod whose container c runs image with the given ID.
func running(image, id string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-0", Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning,
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "c", Image: image, ImageID: id,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(start.Add(time.Minute))}},
			}},
		},
	}
}

func with(p *corev1.Pod, key, value string) *corev1.Pod {
	p.Annotations[key] = value
	return p
}

// named gives the container's status the name that its runtime has for the image.
func named(image string, p *corev1.Pod) *corev1.Pod {
	p.Status.ContainerStatuses[0].Image = image
	return p
}

// begun is a pod whose container runs since before the update.
func begun(p *corev1.Pod) *corev1.Pod {
	p.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(start.Add(-time.Minute))
	return p
}

func in(state string, p *corev1.Pod) *corev1.Pod {
	p.Labels = map[string]string{appspub.LifecycleStateKey: state}
	return p
}

// updated is Kruise's record of an update from the image with the ID "old".
const updated = `{"revision":"web-2","updateTimestamp":"2026-01-02T03:04:05Z","lastContainerStatuses":{"c":{"imageID":"old"}}}`

func TestUpdateDone(t *testing.T) {
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"a pod that was never updated in place has nothing unfinished", running("web:1", "old"), true},
		{"another image ID is an update", with(running("web:2", "new"), appspub.InPlaceUpdateStateKey, updated), true},
		{"the image's name proves nothing", with(running("web:2", "old"), appspub.InPlaceUpdateStateKey, updated), false},
		{"an image that never ran was taken back, and Kruise has concluded", in("Updated", with(running("web:2", "old"), appspub.InPlaceUpdateStateKey, updated)), true},
		{"and has not yet", in("Updating", with(running("web:2", "old"), appspub.InPlaceUpdateStateKey, updated)), false},
		{"and the container does not run yet", in("Updated", with(waiting("ImagePullBackOff"), appspub.InPlaceUpdateStateKey, updated)), false},
		{"a container that has no image yet is not updated", with(running("web:2", ""), appspub.InPlaceUpdateStateKey, updated), false},
		{"within the grace period nothing has begun", with(with(running("web:1", "new"), appspub.InPlaceUpdateStateKey, updated), appspub.InPlaceUpdateGraceKey, "{}"), false},
		{"containers of a later batch are still to come", with(running("web:2", "new"), appspub.InPlaceUpdateStateKey, `{"nextContainerImages":{"d":"d:2"}}`), false},
		{"a container without a status is not updated", with(running("web:2", "new"), appspub.InPlaceUpdateStateKey, `{"lastContainerStatuses":{"gone":{"imageID":"x"}}}`), false},
		{"a record that cannot be read is not done", with(running("web:2", "new"), appspub.InPlaceUpdateStateKey, `{`), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := UpdateDone(tt.pod); got != tt.want {
				t.Errorf("done: %t", got)
			}
		})
	}
}

// FuzzUpdateDone: Kruise's annotations are read without a panic, whatever stands in them.
func FuzzUpdateDone(f *testing.F) {
	f.Add(updated, "")
	f.Add("{", "{}")
	f.Fuzz(func(_ *testing.T, state, grace string) {
		p := with(with(running("web:2", "old"), appspub.InPlaceUpdateStateKey, state), appspub.InPlaceUpdateGraceKey, grace)
		UpdateDone(p)
		Trouble(p)
	})
}

func waiting(reason string) *corev1.Pod {
	p := running("web:2", "old")
	p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "said the kubelet"}}
	return p
}

func TestTrouble(t *testing.T) {
	unschedulable := running("web:2", "old")
	unschedulable.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes"}}
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		want plan.Reason
	}{
		{"a pod that runs has none", running("web:2", "new"), ""},
		{"a container that is being created has none yet", waiting("ContainerCreating"), ""},
		{"an image that cannot be pulled", waiting("ImagePullBackOff"), "ImagePullBackOff"},
		{"a container that crashes again and again", waiting("CrashLoopBackOff"), "CrashLoopBackOff"},
		{"no node takes it", unschedulable, plan.Unschedulable},
		{"a record of Kruise that cannot be read", with(running("web:2", "new"), appspub.InPlaceUpdateStateKey, "{"), plan.NotReady},
		{"a new tag with the old content, as long as Kruise does not conclude", with(running("web:2", "old"), appspub.InPlaceUpdateStateKey, updated), plan.SameDigest},
		{"the same where the runtime names it by its first tag: Kruise never concludes", named("web:1", in("Updating", with(running("web:2", "old"), appspub.InPlaceUpdateStateKey, updated))), plan.SameDigest},
		{"the same where the runtime writes short names in full", named("docker.io/library/web:2", in("Updating", with(running("web:2", "old"), appspub.InPlaceUpdateStateKey, updated))), plan.SameDigest},
		{"one that ended and was started again within the grace period has none", with(with(running("web:1", "old"), appspub.InPlaceUpdateStateKey, updated), appspub.InPlaceUpdateGraceKey, "{}"), ""},
		{"a container that is still to be restarted has none", named("web:1", begun(with(running("web:2", "old"), appspub.InPlaceUpdateStateKey, updated))), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Trouble(tt.pod)
			if (got == nil) != (tt.want == "") || got != nil && got.Reason != tt.want {
				t.Errorf("trouble: %+v, want %q", got, tt.want)
			}
			if got != nil && got.Message == "" {
				t.Error("it says nothing")
			}
		})
	}
}

func TestFit(t *testing.T) {
	const gate = "offduty.dev/in-service"
	pod := func(conditions ...corev1.PodCondition) *corev1.Pod {
		p := running("web:1", "x")
		p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: appspub.InPlaceUpdateReady}, {ConditionType: gate}}
		p.Status.Conditions = conditions
		return p
	}
	is := func(t corev1.PodConditionType, s corev1.ConditionStatus, after time.Duration) corev1.PodCondition {
		return corev1.PodCondition{Type: t, Status: s, LastTransitionTime: metav1.NewTime(start.Add(after))}
	}
	for _, tt := range []struct {
		name  string
		pod   *corev1.Pod
		want  bool
		since time.Duration
	}{
		{"our own gate does not count", pod(is(corev1.ContainersReady, "True", 0), is(appspub.InPlaceUpdateReady, "True", time.Second), is(gate, "False", time.Hour)), true, time.Second},
		{"every other gate does", pod(is(corev1.ContainersReady, "True", 0), is(appspub.InPlaceUpdateReady, "False", 0)), false, 0},
		{"a condition that is missing counts as false", pod(is(corev1.ContainersReady, "True", 0)), false, 0},
		{"containers must be ready", pod(is(corev1.ContainersReady, "False", 0), is(appspub.InPlaceUpdateReady, "True", 0)), false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, since := Fit(tt.pod, gate)
			if got != tt.want || got && !since.Equal(start.Add(tt.since)) {
				t.Errorf("fit %t since %s", got, since)
			}
		})
	}
}

// FuzzPod: whatever stands in the labels, annotations and status of a pod, its readers agree
// with each other and end.
func FuzzPod(f *testing.F) {
	for _, p := range []*corev1.Pod{{}, running("web:2", "old"), waiting("CrashLoopBackOff"), with(running("web:2", "old"), appspub.InPlaceUpdateStateKey, updated)} {
		data, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "offduty.dev/in-service")
	}
	f.Fuzz(func(t *testing.T, data []byte, gate string) {
		p := &corev1.Pod{}
		if json.Unmarshal(data, p) != nil {
			return
		}
		readPod(t, p, gate)
	})
}

func readPod(t *testing.T, p *corev1.Pod, gate string) {
	t.Helper()
	n, done, trouble := Note(p), UpdateDone(p), Trouble(p)
	if fenced := Fenced(p); fenced < 0 || fenced > MaxToken || n.Token > MaxToken {
		t.Errorf("tokens %d and %d can never be outgrown", fenced, n.Token)
	}
	if fit, since := Fit(p, gate); fit && p.Status.Phase != corev1.PodRunning || !fit && !since.IsZero() {
		t.Errorf("fit %t since %s in phase %s", fit, since, p.Status.Phase)
	}
	if trouble != nil && (trouble.Reason == "" || trouble.Message == "") {
		t.Errorf("trouble without a reason: %+v", trouble)
	}
	if _, err := inPlaceState(p); err != nil && done {
		t.Errorf("an update is done whose record cannot be read: %v", err)
	}
}
