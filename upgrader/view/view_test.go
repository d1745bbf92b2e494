package view

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"offduty.dev/api/v1alpha1"
)

var update = flag.Bool("update", false, "write what the tests see as what they want")

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// golden compares got with a file, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", path, diff)
	}
}

// scene reads an UpgradePlan and, behind a line of dashes, its Roster.
func scene(t *testing.T, path string) (*v1alpha1.UpgradePlan, *v1alpha1.Roster) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, second, both := strings.Cut(string(data), "\n---\n")
	up := &v1alpha1.UpgradePlan{}
	if err := yaml.UnmarshalStrict([]byte(first), up); err != nil {
		t.Fatal(err)
	}
	if !both {
		return up, nil
	}
	ro := &v1alpha1.Roster{}
	if err := yaml.UnmarshalStrict([]byte(second), ro); err != nil {
		t.Fatal(err)
	}
	return up, ro
}

// TestViews shows what people see of the plans in testdata: a line, the tree, and why.
func TestViews(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenes", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(strings.ReplaceAll(name, "-", " "), func(t *testing.T) {
			up, ro := scene(t, file)
			p := Of(up)
			var b bytes.Buffer
			fmt.Fprintf(&b, "%s\nexit code %d\n\n", p.Line(), p.ExitCode)
			if err := p.Tree(&b, now); err != nil {
				t.Fatal(err)
			}
			b.WriteString("\n")
			a := Why(up, ro, "there is no Roster default/sample", []v1alpha1.UpgradePlan{*up}, now)
			if err := a.Print(&b); err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", b.String())
		})
	}
}

func TestList(t *testing.T) {
	var plans []v1alpha1.UpgradePlan
	for _, name := range []string{"complete", "waiting-for-duty", "failed"} {
		up, _ := scene(t, "testdata/"+name+".yaml")
		plans = append(plans, *up)
	}
	var b bytes.Buffer
	for _, namespaces := range []bool{false, true} {
		if err := List(&b, plans, namespaces, now); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "testdata/list.golden", b.String())
}

func TestTheVerdict(t *testing.T) {
	condition := func(kind, status, reason string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: metav1.ConditionStatus(status), Reason: reason}
	}
	ready, unready := condition("Ready", "True", "Complete"), condition("Ready", "False", "WaitingForDuty")
	stalled := condition("Stalled", "True", "ReplicaFailed")
	for name, c := range map[string]struct {
		generation, observed int64
		paused, deleting     bool
		conditions           []metav1.Condition
		steps                []string
		want                 State
	}{
		"a plan that the upgrader has not seen is under way": {generation: 1, want: UnderWay},
		"ready is complete": {generation: 2, observed: 2, conditions: []metav1.Condition{ready}, want: Complete},
		"ready of an earlier generation is not believed":                        {generation: 3, observed: 2, conditions: []metav1.Condition{ready}, want: UnderWay},
		"stalled of an earlier generation is not believed":                      {generation: 3, observed: 2, conditions: []metav1.Condition{unready, stalled}, want: UnderWay},
		"waiting is under way":                                                  {generation: 1, observed: 1, conditions: []metav1.Condition{unready}, want: UnderWay},
		"stalled needs somebody":                                                {generation: 1, observed: 1, conditions: []metav1.Condition{unready, stalled}, want: Stalled},
		"paused, once nothing moves any more":                                   {generation: 1, observed: 1, paused: true, conditions: []metav1.Condition{unready}, steps: []string{"Protected", "Upgraded"}, want: Paused},
		"paused is under way while a replica past the point of no return moves": {generation: 1, observed: 1, paused: true, conditions: []metav1.Condition{unready}, steps: []string{"Protected", "Released"}, want: UnderWay},
		"a failed replica in a paused plan is stalled":                          {generation: 1, observed: 1, paused: true, conditions: []metav1.Condition{unready, stalled}, steps: []string{"Failed"}, want: Stalled},
		"complete and paused is complete":                                       {generation: 1, observed: 1, paused: true, conditions: []metav1.Condition{ready}, want: Complete},
		"a plan that is being deleted is under way":                             {generation: 1, observed: 1, deleting: true, conditions: []metav1.Condition{ready}, want: UnderWay},
	} {
		t.Run(name, func(t *testing.T) {
			up := &v1alpha1.UpgradePlan{}
			up.Generation, up.Status.ObservedGeneration, up.Spec.Paused, up.Status.Conditions = c.generation, c.observed, c.paused, c.conditions
			if c.deleting {
				up.DeletionTimestamp = &metav1.Time{Time: now}
			}
			for _, s := range c.steps {
				up.Status.ReplicaStatuses = append(up.Status.ReplicaStatuses, v1alpha1.ReplicaStatus{Step: s})
			}
			if p := Of(up); p.State != c.want || p.ExitCode != c.want.ExitCode() {
				t.Errorf("it is %s with exit code %d, not %s", p.State, p.ExitCode, c.want)
			}
		})
	}
}

func TestEveryStateHasItsOwnExitCode(t *testing.T) {
	seen := map[int]State{}
	for _, s := range []State{Complete, UnderWay, Stalled, Paused} {
		if other, taken := seen[s.ExitCode()]; taken || s.ExitCode() == 1 || s.ExitCode() == ExitNotFound {
			t.Errorf("%s has exit code %d, as %s has", s, s.ExitCode(), other)
		}
		seen[s.ExitCode()] = s
	}
}

func TestACompletePlanThatFollowsIsDoubted(t *testing.T) {
	for name, c := range map[string]struct {
		observed int64
		revision string
		want     State
	}{
		"while Kruise has not seen the set":           {1, "sample-b", UnderWay},
		"while the status speaks of another revision": {2, "sample-c", UnderWay},
		"not when both know the set as the plan does": {2, "sample-b", Complete},
	} {
		t.Run(name, func(t *testing.T) {
			up, _ := scene(t, "testdata/complete.yaml")
			up.Spec.Targets[0].Images = nil
			if diff := cmp.Diff([]string{"sample"}, Followed(up)); diff != "" {
				t.Errorf("followed (-want +got):\n%s", diff)
			}
			set := &kruisev1beta1.StatefulSet{}
			set.Name, set.Generation, set.Status.ObservedGeneration, set.Status.UpdateRevision = "sample", 2, c.observed, c.revision
			p := Of(up)
			p.Doubt(set)
			if p.State != c.want || p.ExitCode != c.want.ExitCode() || p.Doubted() != (c.want == UnderWay) {
				t.Errorf("it is %s (%d), not %s", p.State, p.ExitCode, c.want)
			}
		})
	}
}
