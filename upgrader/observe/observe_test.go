package observe

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
	"offduty.dev/upgrader/session"
)

// blank is the memory of a process that has written nothing.
type blank struct{}

func (blank) Seen(client.Object) bool { return true }

func (blank) Template(*v1alpha1.UpgradePlan, *kruisev1beta1.StatefulSet) (*plan.Blocker, time.Time) {
	return nil, time.Time{}
}

func reader(t *testing.T, objects ...client.Object) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, kruisev1beta1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithIndex(&corev1.Pod{}, OwnerIndex, ControllerUID).WithIndex(&appsv1.ControllerRevision{}, OwnerIndex, ControllerUID).
		WithIndex(&v1alpha1.UpgradePlan{}, TargetIndex, TargetNames).Build()
}

func TestASetThatIsTakenOutIsGivenBackAsLongAsItMayBeThePlans(t *testing.T) {
	for _, c := range []struct {
		name, armed string
		want, letGo bool
	}{
		{"it is not armed, and only to be barred", "", true, true},
		{"this plan has it", `{"version":2,"plan":"p"}`, true, false},
		{"another plan has it, as far as can be seen, and it is only to be barred", `{"version":2,"plan":"other"}`, true, true},
		{"a newer upgrader has it for this plan", `{"version":99,"plan":"p"}`, true, false},
		{"a newer upgrader has it for another plan", `{"version":99,"plan":"other"}`, true, true},
		{"nobody knows", `{`, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := &kruisev1beta1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db", UID: "s"}}
			if c.armed != "" {
				set.Annotations = map[string]string{v1alpha1.ArmedAnnotation: c.armed}
			}
			up := &v1alpha1.UpgradePlan{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p"}}
			up.Status.Targets = []v1alpha1.TargetStatus{{Name: "db", Partition: new(int32)}}
			s, err := World(t.Context(), reader(t, set), blank{}, up, 1, session.View{})
			if err != nil {
				t.Fatal(err)
			}
			if got := len(s.World.Targets) == 1 && s.World.Targets[0].Leaving; got != c.want || got && (s.World.Targets[0].Armed || s.World.Targets[0].Unread) == c.letGo {
				t.Errorf("the targets are %s", fmt.Sprintf("%+v", s.World.Targets))
			}
		})
	}
}

// FuzzPolicy: a plan that came past the schema, or from an older one, is a policy with sense.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"spec":{"strategy":{"maxUnavailable":"150%","drain":{"timeoutSeconds":-1}}}}`))
	f.Add([]byte(`{"spec":{"strategy":{"maxUnavailable":-2}},"status":{"targets":[{"name":"a"},{"name":"a"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		up := &v1alpha1.UpgradePlan{}
		if json.Unmarshal(data, up) != nil {
			return
		}
		w := plan.World{Policy: policy(up), Targets: []plan.Target{{Name: "web", Pods: make([]plan.Replica, 3)}}}
		if d := plan.Next(&w, time.Unix(0, 0)); d.Reason == "" {
			t.Errorf("a decision without a reason: %+v", d)
		}
		if n := TargetNames(up); len(n) > len(up.Spec.Targets)+len(up.Status.Targets) {
			t.Errorf("the targets are %v", n)
		}
	})
}

func TestWhatARolloutChangesIsWhatTheSetWasAtRestWith(t *testing.T) {
	for _, c := range []struct {
		name, proven, current string
		armed                 bool
		want                  string
	}{
		{"a set that is not taken over: Kruise's word", "", "v1", false, "v1"},
		{"one at rest that is not taken over brings nothing new", "", "v2", false, "v2"},
		{"one that was at rest", "v1", "v1", true, "v1"},
		{"one whose last old pod was lost, so that Kruise calls the new revision the current one", "v1", "v2", true, "v1"},
		{"one at rest at its update revision", "v2", "v2", true, "v2"},
		{"one that was never seen at rest", "", "v1", true, "v1"},
		{"nobody knows what one was that was never seen at rest, and has lost its last old pod", "", "v2", true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &plan.Target{Proven: c.proven, CurrentRevision: c.current, UpdateRevision: "v2"}
			if got := before(s, c.armed); got != c.want {
				t.Errorf("it is %q, want %q", got, c.want)
			}
		})
	}
}
