package apply

import (
	"testing"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"offduty.dev/upgrader/plan"
)

// TestANewLeaderDoesNotBeginOnAnOldCache: what an earlier leader wrote must be seen before
// anything is written, or a plan would go and leave a set armed that looks as if it were not.
func TestANewLeaderDoesNotBeginOnAnOldCache(t *testing.T) {
	labels := map[string]string{"app": "web"}
	set := func(version string) *kruisev1beta1.StatefulSet {
		s := &kruisev1beta1.StatefulSet{}
		s.Namespace, s.Name, s.UID, s.ResourceVersion = "ns", "web", "set-uid", version
		s.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
		return s
	}
	pod := func(uid, version string) *corev1.Pod {
		p := &corev1.Pod{}
		p.Namespace, p.Name, p.UID, p.ResourceVersion, p.Labels = "ns", "web-0", "u0", version, labels
		if uid != "" {
			p.UID = "u1"
		}
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps.kruise.io/v1beta1", Kind: "StatefulSet", Name: "web", UID: "set-uid", Controller: new(true)}}
		return p
	}
	hold := plan.PatchPod{Pod: "web-0", UID: "u0", ResourceVersion: "9", Hold: new(true)}
	for _, c := range []struct {
		name   string
		live   []client.Object
		set    *kruisev1beta1.StatefulSet
		pod    *corev1.Pod
		action plan.Action
		writes int
	}{
		{"what is cached is what there is", []client.Object{set("20"), pod("", "9")}, set("20"), pod("", "9"), hold, 1},
		{"the cache is newer than what was read", []client.Object{set("20"), pod("", "9")}, set("21"), pod("", "10"), hold, 1},
		{"the set is older", []client.Object{set("20"), pod("", "9")}, set("19"), pod("", "9"), hold, 0},
		{"the set is not there yet", []client.Object{set("20"), pod("", "9")}, nil, pod("", "9"), hold, 0},
		{"the pod is older", []client.Object{set("20"), pod("", "9")}, set("20"), pod("", "8"), hold, 0},
		{"the pod is one of before", []client.Object{set("20"), pod("new", "9")}, set("20"), pod("", "8"), hold, 0},
		{"the pod is not there yet", []client.Object{set("20"), pod("", "9")}, set("20"), nil, hold, 0},
		{"the set is gone", nil, set("20"), pod("", "9"), hold, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &server{}
			a, scene, _ := stage(t, s)
			a.Live = fake.NewClientBuilder().WithScheme(a.Client.Scheme()).WithObjects(c.live...).Build()
			scene.Sets["web"], scene.Pods = c.set, map[string]*corev1.Pod{}
			if c.pod != nil {
				scene.Pods["web-0"] = c.pod
			}
			err := a.Apply(t.Context(), scene, nil, plan.Decision{Actions: []plan.Action{c.action}})
			if len(s.patches) != c.writes || IsAgain(err) != (c.writes == 0) {
				t.Errorf("%d writes, %v", len(s.patches), err)
			}
		})
	}
}
