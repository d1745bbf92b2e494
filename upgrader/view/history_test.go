package view

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"offduty.dev/api/v1alpha1"
)

// revision of a set, as Kruise keeps it. env makes its template differ in more than images.
func revision(set string, number int64, name, image, env string) appsv1.ControllerRevision {
	r := appsv1.ControllerRevision{Revision: number}
	r.Name, r.CreationTimestamp = set+"-"+name, metav1.NewTime(now.Add(-10*time.Minute))
	r.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps.kruise.io/v1beta1", Kind: "StatefulSet", Name: set, Controller: new(true)}}
	r.Data.Raw = fmt.Appendf(nil, `{"spec": {"template": {"spec": {"containers": [
		{"name": "main", "image": %q, "env": [{"name": "A", "value": %q}]}, {"name": "side", "image": "side:1"}]}}}}`, image, env)
	return r
}

// asked is a plan that wants image in each of its targets; "" follows.
func asked(image string, targets ...string) *v1alpha1.UpgradePlan {
	up := &v1alpha1.UpgradePlan{}
	up.Name = "sample"
	for _, t := range targets {
		target := v1alpha1.Target{Name: t}
		if image != "" {
			target.Images = map[string]string{"main": image}
		}
		up.Spec.Targets = append(up.Spec.Targets, target)
		up.Status.Targets = append(up.Status.Targets, v1alpha1.TargetStatus{Name: t, CurrentRevision: t + "-a", UpdateRevision: t + "-b"})
	}
	return up
}

// first lets a plan be at its targets' first revisions.
func first(up *v1alpha1.UpgradePlan) *v1alpha1.UpgradePlan {
	for i := range up.Status.Targets {
		up.Status.Targets[i].UpdateRevision = up.Status.Targets[i].CurrentRevision
	}
	return up
}

var kept = []appsv1.ControllerRevision{
	revision("sample", 3, "b", "app:3", "x"), revision("sample", 1, "x", "app:1", "other"), revision("sample", 2, "a", "app:2", "x"),
	revision("other", 1, "a", "app:2", "x"), revision("other", 2, "b", "app:3", "x"), revision("foreign", 1, "a", "app:9", "x"),
}

func TestHistory(t *testing.T) {
	var pods []corev1.Pod
	for _, r := range []string{"sample-a", "sample-a", "sample-b", "foreign-a"} {
		p := corev1.Pod{}
		p.Labels = map[string]string{appsv1.ControllerRevisionHashLabelKey: r}
		pods = append(pods, p)
	}
	revisions, err := History(asked("app:3", "sample", "other"), kept, pods)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := PrintHistory(&b, revisions, now); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/history.golden", b.String())
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// imagesOf is what main becomes in each target.
func imagesOf(t *testing.T, up *v1alpha1.UpgradePlan, undone []Undone) map[string]string {
	t.Helper()
	var got map[string]string
	for _, u := range undone {
		if got == nil {
			got = map[string]string{}
		}
		got[u.Target] = u.Images["main"]
		if up.Spec.Targets[u.Index].Name != u.Target {
			t.Errorf("%s is not at index %d", u.Target, u.Index)
		}
	}
	return got
}

func TestUndo(t *testing.T) {
	for name, c := range map[string]struct {
		up       *v1alpha1.UpgradePlan
		target   string
		to       int64
		want     map[string]string // target: image of main
		complain string
	}{
		"goes back to the revision before":                                    {up: asked("app:3", "sample"), want: map[string]string{"sample": "app:2"}},
		"goes back to the present one when what was asked for is not written": {up: asked("app:4", "sample"), want: map[string]string{"sample": "app:3"}},
		"goes back in every target":                                           {up: asked("app:3", "sample", "other"), want: map[string]string{"sample": "app:2", "other": "app:2"}},
		"goes back in the one that is named":                                  {up: asked("app:3", "sample", "other"), target: "other", to: 1, want: map[string]string{"other": "app:2"}},
		"needs a target for a number":                                         {up: asked("app:3", "sample", "other"), to: 1, complain: "name one with --target"},
		"knows its targets":                                                   {up: asked("app:3", "sample"), target: "nope", complain: "has no target nope"},
		"names the revisions that there are":                                  {up: asked("app:3", "sample"), to: 9, complain: "has no revision 9: it has 1, 2, 3"},
		"refuses what cannot be done in place":                                {up: asked("app:3", "sample"), to: 1, complain: "differs in more than the image of container main"},
		"says what to do where the plan follows":                              {up: asked("", "sample"), complain: "put the earlier ones (main=app:2, side=side:1) back where"},
		"needs a revision to go back to":                                      {up: first(asked("app:9", "foreign")), complain: "target foreign has no revision before 1"},
	} {
		t.Run(name, func(t *testing.T) {
			revisions, err := History(c.up, kept, nil)
			if err != nil {
				t.Fatal(err)
			}
			undone, err := Undo(c.up, revisions, c.target, c.to)
			if said := fmt.Sprint(err); !strings.Contains(said, or(c.complain, "<nil>")) {
				t.Fatalf("it says %s, not %q", said, c.complain)
			}
			got := imagesOf(t, c.up, undone)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
		})
	}
}
