package harness

import (
	"context"
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"offduty.dev/api/v1alpha1"
)

// agreed is a plan that has upgraded the one replica off duty, as everybody sees it.
func agreed() Now {
	partition := int32(1)
	return Now{
		Plans: map[string]Plan{Group: {Name: Group, UID: "plan", Generation: 2, Status: v1alpha1.UpgradePlanStatus{
			ObservedGeneration: 2, Progress: "1/2",
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue}},
			Targets:    []v1alpha1.TargetStatus{{Name: Group, UpdateRevision: "new", Partition: &partition}},
			ReplicaStatuses: []v1alpha1.ReplicaStatus{
				{Name: "sample-0", Duty: "Working", Revision: "old"}, {Name: "sample-1", Duty: "Idle", Revision: "new"},
			},
		}}},
		Sets: map[string]Set{Group: {Name: Group, Generation: 4, Observed: 4, Partition: 1, UpdateRevision: "new"}},
		Pods: map[string]Pod{"sample-0": {Name: "sample-0", Revision: "old"}, "sample-1": {Name: "sample-1", Revision: "new"}},
		Rosters: map[string]Roster{Group: {
			Name: Group, Generation: 3, Spec: v1alpha1.RosterSpec{Assigned: &v1alpha1.AssignedDuty{}},
			Status: v1alpha1.RosterStatus{ObservedGeneration: 3, Members: []v1alpha1.MemberRecord{
				{Name: "sample-0", Assigned: true, Duty: "Working"}, {Name: "sample-1", Duty: "Idle"},
			}},
		}},
	}
}

func TestWhatSomebodyHasNotNoticedYetIsNotAgreed(t *testing.T) {
	if err := errors.Join(agreed().Agreed(), agreed().Settled()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		// settled: it is no news for a plan that is Ready.
		settled bool
		change  func(p *Plan, s *Set, r *Roster, n Now)
		says    string
	}{
		{name: "the plan was changed", says: "generation 2, not 3", change: func(p *Plan, _ *Set, _ *Roster, _ Now) { p.Generation++ }},
		{name: "the set was changed", says: "set sample is at generation 5", change: func(_ *Plan, s *Set, _ *Roster, _ Now) { s.Generation++ }},
		{name: "Kruise has seen another template", says: "which is at newer", change: func(_ *Plan, s *Set, _ *Roster, _ Now) { s.UpdateRevision = "newer" }},
		{name: "the partition was changed", says: "partition 5", change: func(_ *Plan, s *Set, _ *Roster, _ Now) { s.Partition = 5 }},
		{name: "a pod was updated", says: "sample-0 at old", change: func(_ *Plan, _ *Set, _ *Roster, n Now) {
			n.Pods["sample-0"] = Pod{Name: "sample-0", Revision: "new"}
		}},
		{name: "the roster was changed", settled: true, says: "generation 3 of the roster, not 4", change: func(_ *Plan, _ *Set, r *Roster, _ Now) { r.Generation++ }},
		{name: "duty was taken and is still done", settled: true, says: "sample-0 has not stopped yet", change: func(_ *Plan, _ *Set, r *Roster, _ Now) {
			r.Status.Members[0].Assigned = false
		}},
		{name: "a worker has stopped", settled: true, says: "says Working of sample-0, the roster Idle", change: func(_ *Plan, _ *Set, r *Roster, _ Now) {
			r.Status.Members[0] = v1alpha1.MemberRecord{Name: "sample-0", Duty: "Idle"}
		}},
		{name: "a lease was given", settled: true, says: "0 leases, the roster 1", change: func(_ *Plan, _ *Set, r *Roster, _ Now) {
			r.Status.Leases = []v1alpha1.LeaseRecord{{Replica: "sample-1", Holder: "plan"}, {Replica: "sample-0", Holder: "another"}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := agreed()
			p, s, r := n.Plans[Group], n.Sets[Group], n.Rosters[Group]
			c.change(&p, &s, &r, n)
			n.Plans[Group], n.Sets[Group], n.Rosters[Group] = p, s, r
			if err := n.Agreed(); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("agreed: %v; want it to say %q", err, c.says)
			}
			if err := n.Settled(); (err == nil) != c.settled {
				t.Errorf("settled: %v", err)
			}
		})
	}
}

func TestAwaitLooksAtNothingOlderThanWhatIsDue(t *testing.T) {
	h := &History{
		changed: make(chan struct{}), objects: map[schema.GroupVersionResource]map[string]*unstructured.Unstructured{},
		told: map[schema.GroupVersionResource]int64{}, due: map[schema.GroupVersionResource]int64{},
		now: Now{Pods: map[string]Pod{}, Sets: map[string]Set{}, Plans: map[string]Plan{}, Rosters: map[string]Roster{}},
	}
	roster := func(version string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Roster"))
		u.SetName(Group)
		u.SetResourceVersion(version)
		return u
	}
	other := &unstructured.Unstructured{}
	other.SetKind("ConfigMap")
	other.SetResourceVersion("99")
	h.Due(other)
	h.note(rosterKind, roster("7"), false)
	h.Due(roster("8"))
	var seen []int64
	done := make(chan error, 1)
	go func() {
		done <- h.Await(t.Context(), "there is a roster", func(n Now) error {
			seen = append(seen, n.Rosters[Group].Version)
			return nil
		})
	}()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Await(ended, "there is a roster", func(Now) error { return nil }); err == nil || !strings.Contains(err.Error(), "version 8 of rosters") {
		t.Errorf("before version 8: %v", err)
	}
	h.note(rosterKind, roster("8"), false)
	if err := <-done; err != nil || len(seen) != 1 || seen[0] != 8 {
		t.Errorf("seen %v: %v", seen, err)
	}
}
