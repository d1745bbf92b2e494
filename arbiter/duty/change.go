package duty

import (
	"slices"
	"strings"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/store"
)

// ChangeKind is what a saved record has changed. The set is closed.
type ChangeKind string

// The kinds of changes.
const (
	LeaseGranted  ChangeKind = "LeaseGranted"
	LeasePinned   ChangeKind = "LeasePinned"
	LeaseReleased ChangeKind = "LeaseReleased"
	LeaseExpired  ChangeKind = "LeaseExpired"
	LeaseForced   ChangeKind = "LeaseForced"
	DutyGiven     ChangeKind = "DutyGiven"
	DutyTaken     ChangeKind = "DutyTaken"
)

// Changes lists the kinds.
func Changes() []ChangeKind {
	return []ChangeKind{LeaseGranted, LeasePinned, LeaseReleased, LeaseExpired, LeaseForced, DutyGiven, DutyTaken}
}

// Change is one difference between a record and the one that was saved before.
type Change struct {
	Kind ChangeKind
	// Replica is a member's name.
	Replica string
	// Lease that has changed; the zero lease for changes of duty.
	Lease lease.Lease
}

// tell logs what a save has changed, once it is certain, and counts it.
func (g *Group) tell(before, after *store.Record) {
	if g.cfg.Changed == nil && !g.cfg.Log.Enabled() {
		return
	}
	for _, c := range changes(before, after) {
		fields := []any{"change", c.Kind, "group", g.cfg.Key, "replica", g.cfg.Prefix + c.Replica}
		if c.Lease.ID != "" {
			fields = append(fields, "lease", c.Lease.ID, "token", c.Lease.Token, "holder", c.Lease.Holder)
		}
		g.cfg.Log.Info("record saved", fields...)
		if g.cfg.Changed != nil {
			g.cfg.Changed(c)
		}
	}
}

// changes compares two records; by replica, so that a log reads the same each time.
func changes(before, after *store.Record) []Change {
	var out []Change
	old, now := before.Leases.Leases, after.Leases.Leases
	for name, was := range old {
		if now[name].ID == was.ID {
			continue
		}
		kind := LeaseReleased
		if forced(before, after, was.ID) {
			kind = LeaseForced
		}
		out = append(out, Change{Kind: kind, Replica: name, Lease: was})
	}
	for name, l := range now {
		switch was := old[name]; {
		case was.ID != l.ID:
			out = append(out, Change{Kind: LeaseGranted, Replica: name, Lease: l})
		case was.Phase == l.Phase:
		case l.Phase == lease.Pinned:
			out = append(out, Change{Kind: LeasePinned, Replica: name, Lease: l})
		case l.Phase == lease.Expired:
			out = append(out, Change{Kind: LeaseExpired, Replica: name, Lease: l})
		}
	}
	out = append(out, dutyChanges(before, after)...)
	slices.SortStableFunc(out, func(a, b Change) int { return strings.Compare(a.Replica, b.Replica) })
	return out
}

func dutyChanges(before, after *store.Record) []Change {
	var out []Change
	for name, m := range after.Roster.Members {
		switch was := before.Roster.Members[name].Assigned; {
		case m.Assigned && !was:
			out = append(out, Change{Kind: DutyGiven, Replica: name})
		case was && !m.Assigned:
			out = append(out, Change{Kind: DutyTaken, Replica: name})
		}
	}
	for name, m := range before.Roster.Members {
		if _, still := after.Roster.Members[name]; !still && m.Assigned {
			out = append(out, Change{Kind: DutyTaken, Replica: name})
		}
	}
	return out
}

// forced says whether an administrator ended the lease between the two records.
func forced(before, after *store.Record, id string) bool {
	named := func(f store.ForceRelease) bool { return f.LeaseID == id }
	return slices.ContainsFunc(after.ForceReleases, named) && !slices.ContainsFunc(before.ForceReleases, named)
}
