package duty

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

func TestChangesOfARecord(t *testing.T) {
	record := func(leases map[string]lease.Lease, working ...string) *store.Record {
		r := &store.Record{Leases: lease.Table{Leases: leases}, Roster: roster.Record{Members: map[string]roster.Member{"a": {}, "b": {}}}}
		for _, name := range working {
			r.Roster.Members[name] = roster.Member{Assigned: true}
		}
		return r
	}
	on := func(id string, p lease.Phase) map[string]lease.Lease {
		return map[string]lease.Lease{"a": {ID: id, Phase: p}}
	}
	forced := record(nil)
	forced.ForceReleases = []store.ForceRelease{{LeaseID: "1"}}
	gone := record(nil)
	gone.Roster.Members = map[string]roster.Member{"a": {}}
	for _, c := range []struct {
		name          string
		before, after *store.Record
		want          []ChangeKind
	}{
		{"nothing", record(on("1", lease.Leased), "b"), record(on("1", lease.Leased), "b"), nil},
		{"a grant", record(nil), record(on("1", lease.Leased)), []ChangeKind{LeaseGranted}},
		{"a pin", record(on("1", lease.Leased)), record(on("1", lease.Pinned)), []ChangeKind{LeasePinned}},
		{"a lease that ran out", record(on("1", lease.Leased)), record(on("1", lease.Expired)), []ChangeKind{LeaseExpired}},
		{"a release", record(on("1", lease.Pinned)), record(nil), []ChangeKind{LeaseReleased}},
		{"a release by force", record(on("1", lease.Pinned)), forced, []ChangeKind{LeaseForced}},
		{"another lease on the same replica", record(on("1", lease.Leased)), record(on("2", lease.Leased)), []ChangeKind{LeaseReleased, LeaseGranted}},
		{"duty that moves", record(nil, "a"), record(nil, "b"), []ChangeKind{DutyTaken, DutyGiven}},
		{"a worker that is no member any more", record(nil, "b"), gone, []ChangeKind{DutyTaken}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []ChangeKind
			for _, x := range changes(c.before, c.after) {
				got = append(got, x.Kind)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
