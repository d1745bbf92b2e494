package harness

import (
	"slices"
	"testing"

	"offduty.dev/api/v1alpha1"
)

// record is a version of the roster with the lease of sample-1 in a phase, "" for none.
func record(version int64, phase, instance string) Roster {
	r := Roster{Stamp: stamp(version), Name: "sample", Floor: 2}
	if phase != "" {
		r.Status.Leases = []v1alpha1.LeaseRecord{{Replica: "sample-1", ID: "1", Phase: phase, Instance: instance}}
	}
	return r
}

func TestProveGuards(t *testing.T) {
	for _, c := range []struct {
		name    string
		rosters []Roster
		gaps    []Gap
		want    int
	}{
		{
			name:    "a release under a pin that ends when the pod is back is as it should be",
			rosters: []Roster{record(1, "", ""), record(1015, "Leased", ""), record(1045, "Pinned", "uid-1"), record(1105, "", "")},
		},
		{name: "a release without a lease breaks the first promise", rosters: []Roster{record(1, "", "")}, want: 1},
		{name: "one under a lease that is not pinned does", rosters: []Roster{record(1015, "Leased", "")}, want: 1},
		{name: "one under a pin of another pod does", rosters: []Roster{record(1045, "Pinned", "uid-9")}, want: 1},
		{name: "one before its pin was recorded does", rosters: []Roster{record(1055, "Pinned", "uid-1")}, want: 1},
		{
			name:    "a pin that ends while the pod is being updated breaks it",
			rosters: []Roster{record(1045, "Pinned", "uid-1"), record(1075, "", "")}, want: 1,
		},
		{
			name:    "where versions are missing, nobody knows",
			rosters: []Roster{record(1055, "Pinned", "uid-1"), record(1075, "", "")}, gaps: []Gap{{After: 1042, To: 1080}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := upgrade()
			e.Rosters, e.Gaps = c.rosters, c.gaps
			got := e.ProveGuards()
			if len(got) != c.want || slices.ContainsFunc(got, func(v Violation) bool { return v.Promise != 1 }) {
				t.Errorf("%d violations, not %d: %v", len(got), c.want, got)
			}
		})
	}
}
