package harness

import (
	"slices"

	"offduty.dev/api/v1alpha1"
)

// ProveGuards holds the evidence against what promise 1 says of leases and pins, by the order
// of versions in etcd and without any clock:
//
//   - whatever the upgrader takes out of service is leased then, by the arbiter's own record,
//     and a hold comes off only under a pin for that very pod;
//   - a pin ends only when its pod is in service again, or has gone.
//
// It is for groups whose arbiter is ours, and which nobody deletes or releases by force.
func (e Evidence) ProveGuards() []Violation { return append(e.guarded(), e.kept()...) }

// leaseAt is the lease of a replica as the arbiter had it recorded before a version.
func (e Evidence) leaseAt(replica string, v int64) (v1alpha1.LeaseRecord, bool) {
	var leases []v1alpha1.LeaseRecord
	for i := range e.Rosters {
		if e.Rosters[i].Version < v {
			leases = e.Rosters[i].Status.Leases
		}
	}
	i := slices.IndexFunc(leases, func(l v1alpha1.LeaseRecord) bool { return l.Replica == replica })
	if i < 0 {
		return v1alpha1.LeaseRecord{}, false
	}
	return leases[i], true
}

// guarded wants a lease or a pin at each write that takes a replica out of service.
func (e Evidence) guarded() []Violation {
	var out []Violation
	for _, w := range e.Writes {
		v := e.result(w)
		if !e.takesOut(w) || e.missing(v) {
			continue
		}
		lease, ok := e.leaseAt(w.Name, v)
		releases := w.Hold != nil && !*w.Hold
		switch {
		case !ok:
			out = append(out, e.violation(1, w.Name, w.At, "the upgrader took %s out of service without a lease: %s", w.Name, w.Body))
		case releases && (lease.Phase != "Pinned" || lease.Instance != w.UID):
			out = append(out, e.violation(1, w.Name, w.At, "the upgrader released %s (%s) under the lease %+v", w.Name, w.UID, lease))
		}
	}
	return out
}

// kept wants each pin to be kept until its pod is in service again.
func (e Evidence) kept() []Violation {
	var out []Violation
	pins := map[string]v1alpha1.LeaseRecord{}
	for i := range e.Rosters {
		r := &e.Rosters[i]
		last := pins
		pins = map[string]v1alpha1.LeaseRecord{}
		for _, l := range r.Status.Leases {
			delete(last, l.ID)
			if l.Phase == "Pinned" {
				pins[l.ID] = l
			}
		}
		for _, l := range last {
			if p := e.at(r.Version)[l.Replica]; stillOut(p, l) && !e.missing(r.Version) {
				out = append(out, e.violation(1, l.Replica, r.At, "the pin of %s ended while it was still out of service: %s", l.Replica, Describe(p)))
			}
		}
	}
	return out
}

// stillOut says whether p is the pod that was pinned, is there, and is not in service again.
func stillOut(p Pod, pin v1alpha1.LeaseRecord) bool {
	back := p.Hold && p.Gate != "False" && p.Runs()
	return p.UID == pin.Instance && !p.Gone && !p.Terminating && !back
}
