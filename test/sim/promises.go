package sim

import (
	"cmp"

	"offduty.dev/arbiter/lease"
	"offduty.dev/upgrader/plan"
)

// check asserts what must hold at every moment.
func (s *Sim) check() {
	served := 0
	for name, l := range s.arb.table.Leases {
		if !l.NotServing {
			served++
		}
		for _, w := range s.apps {
			if w.name == name && w.works(s.now) {
				s.fail("1: %s works although it is leased (%s, %s)", name, l.ID, l.Phase)
			}
		}
	}
	if served > s.most-s.cfg.Floor {
		s.fail("2: %d of %d serving replicas are leased, the floor is %d", served, s.most, s.cfg.Floor)
	}
	if n := len(s.arb.table.Leases); n > s.limit(s.most) && s.begun() > s.limit(s.most) {
		s.fail("2: %d replicas are leased, maxUnavailable is %d", n, s.limit(s.most))
	}
}

// begun counts the leases but for those of which nobody has heard, as they were granted when
// nobody waited for them any more: nothing is begun on them, and they end by time.
func (s *Sim) begun() int {
	n := 0
	for name, l := range s.arb.table.Leases {
		if p := s.api.pods[name]; !s.arb.late[l.ID] || p.Note.ID == l.ID || p.Gate == "False" {
			n++
		}
	}
	return n
}

func (s *Sim) works(p Pod) bool {
	w := s.apps[p.UID]
	return w != nil && w.works(s.now)
}

// disturbed is called when Kruise takes a replica out of service or updates it.
func (s *Sim) disturbed(set Set, p Pod, how string) {
	s.Checks["Kruise takes a replica out of service, or updates it"]++
	l, leased := s.arb.table.Leases[p.Name]
	q, ok := s.api.pods[p.Name]
	switch {
	case !ok || q.UID != p.UID:
		return // the pod is gone
	case set.Foreign && (!p.Hold || set.Plan == "") && !leased, set.Unhooked:
		// Somebody lowered the partition, perhaps of a set that no plan has, or took the hook off while it was lowered for a replica
		// that was drained: Kruise updates as many as it was lowered for, and whom it knows first.
		if s.excused[p.UID] != p.RV {
			s.foreign++
		}
		s.excused[p.UID] = p.RV
	case !s.cfg.BornHeld && !p.Hold && p.Note.ID == "" && (s.unseen(p) || s.excused[p.UID] == p.RV) && !s.works(q):
		// It was born without a hold, and a replica for which the partition is lowered was
		// lost at the same time: only a hold in the user's template excludes that.
		if s.excused[p.UID] != p.RV {
			s.unheld++
		}
		s.excused[p.UID] = p.RV // Kruise goes on with what it saw, also if we hold it meanwhile
	case s.works(q):
		s.fail("1: %s: %s, and it works", p.Name, how)
	case !leased || l.Phase != lease.Pinned || l.Instance != p.UID:
		s.fail("1: %s: %s without a pin on this pod: %+v", p.Name, how, l)
	}
}

// unseen says whether Kruise decided on a pod that had never had our hold, whether or not it
// has one by now.
func (s *Sim) unseen(p Pod) bool {
	first, held := s.held[p.UID]
	return !held || p.RV < first
}

// interrupted is called when the kubelet restarts a container for a new image.
func (s *Sim) interrupted(p Pod) {
	if s.works(p) && (s.cfg.BornHeld || p.Note.ID != "") {
		s.fail("1: %s works while its container is restarted", p.Name)
	}
}

// wrote is called when an upgrader has written a pod.
func (s *Sim) wrote(u *upgrader, was, is Pod, a plan.PatchPod) {
	s.Checks["an upgrader writes a pod"]++
	if s.verbose {
		s.tell(u.name, "patches %s (%s):%s", a.Pod, a.Why, diffPod(was, is))
	}
	l, leased := s.arb.table.Leases[a.Pod]
	if is.Hold && !was.Hold {
		s.held[is.UID] = cmp.Or(s.held[is.UID], is.RV)
		if u.term < s.leader.term {
			s.late[is.UID] = true // its successor may have given the set back already
			s.Kinds["held by a late leader"]++
		}
	}
	s.vouches(was, is, a.Why)
	switch {
	case was.Hold && !is.Hold && a.Why == plan.Leaving:
		s.unprotected(u, is)
	case was.Gate != "False" && is.Gate == "False" && !leased:
		s.fail("1: the gate of %s is closed without a lease", a.Pod)
	case is.Gate == "False" && was.Gate != "False" && s.works(is):
		s.fail("1: the gate of %s is closed while it works", a.Pod)
	case was.Hold && !is.Hold && (l.Phase != lease.Pinned || l.Instance != is.UID):
		s.fail("1: the hold of %s is released without a pin on this pod: %+v", a.Pod, l)
	case was.Hold && !is.Hold && s.works(is):
		s.fail("1: the hold of %s is released while it works", a.Pod)
	case was.released() && !is.released() && is.Verified != is.Revision && a.Why != plan.Leaving: // one that failed is given up
		s.fail("3: %s is taken back after its release", a.Pod)
	}
}

// vouches notes at what an upgrader calls a replica verified.
func (s *Sim) vouches(was, is Pod, why plan.Reason) {
	if is.Verified != was.Verified || why == plan.Readmitting && is.Fenced > was.Fenced {
		s.verified[is.Name] = is.Verified
	}
}

// unprotected is called when a hold is taken off because a set is given back.
func (s *Sim) unprotected(u *upgrader, p Pod) {
	set, old := s.api.sets[p.Set], int32(0)
	for _, q := range s.api.pods {
		if q.Set == p.Set && q.Revision != set.revision() && ordinal(q.Name) < set.Replicas {
			old++
		}
	}
	if set.Partition < old && !set.Foreign {
		s.fail("7: %s takes the hold off %s, and the partition %d does not protect %d replicas", u.name, p.Name, set.Partition, old)
	}
}

// tookOver is called when an upgrader has taken a set over, or changed its partition: nobody
// would ever give it back for a plan that is gone, or that neither names nor shows it.
func (s *Sim) tookOver(u *upgrader, set, plan string) {
	_, shown := s.plan.shown[set]
	if s.plan.uid != plan || !shown && !s.plan.named(set) {
		s.fail("7: %s takes %s over for %s, which has gone or has let go of it", u.name, set, plan)
	}
}

// left is called when the plan goes.
func (s *Sim) left(u *upgrader) {
	s.Checks["a plan is let go"]++
	for _, name := range s.cfg.Sets {
		set := s.api.sets[name]
		if set.Plan != "" {
			s.fail("7: %s lets the plan go, and %s is armed", u.name, name)
		}
		if set.Partition < s.original[name] && !set.Foreign {
			s.fail("7: %s lets the plan go, and %s has partition %d, which was %d", u.name, name, set.Partition, s.original[name])
		}
	}
	for _, p := range s.api.pods {
		if !p.Terminating && (p.Grant || p.Note.ID != "" || p.Gate == "False" || p.Hold && !s.cfg.BornHeld && !s.late[p.UID]) {
			s.fail("7: %s lets the plan go, and %s bears its marks: %+v", u.name, p.Name, p)
		}
	}
	if n := len(s.arb.table.Leases); n > 0 {
		s.fail("7: %s lets the plan go, and %d replicas are leased", u.name, n)
	}
}

// ended is called when an upgrader's release of a lease is recorded.
func (s *Sim) ended(by string, a plan.ReleaseLease) {
	s.Checks["a lease is given back"]++
	p, ok := s.api.pods[a.Lease.Replica]
	switch {
	case !ok || p.Terminating:
	case a.Upgraded && s.verified[p.Name] != a.Revision:
		s.fail("3: %s tells the arbiter that %s was verified, and no upgrader has", by, p.Name)
	case a.Upgraded && p.UID == a.Lease.Instance && !p.updateDone():
		s.fail("3: %s gives %s back, whose update has not ended", by, p.Name)
	case p.released():
		s.fail("5: %s releases the lease on %s before the replica is finished", by, p.Name)
	case p.Note.ID == a.Lease.ID || p.Grant:
		s.fail("5: %s releases the lease on %s, whose pod still bears it", by, p.Name)
	case p.Gate == "False":
		s.fail("5: %s releases the lease on %s, whose gate is closed", by, p.Name)
	}
}

// decided is called with each decision, before it is carried out.
func (s *Sim) decided(u *upgrader, w *plan.World, d *plan.Decision) {
	s.Checks["an upgrader decides"]++
	protect := map[string]int32{}
	for i := range w.Targets {
		protect[w.Targets[i].Name] = protected(&w.Targets[i])
	}
	for _, a := range d.Actions {
		target, partition := "", plan.Parked
		switch a := a.(type) {
		case plan.ApplySet:
			target, partition = a.Target, a.Partition
		case plan.WriteTemplate:
			target, partition = a.Target, a.Partition
		default:
		}
		if partition < protect[target] {
			s.fail("4: %s sets partition %d of %s, %d replicas are to be protected", u.name, partition, target, protect[target])
		}
	}
	s.judge(u, w, d)
	if d.Reason == "" || d.Message == "" {
		s.fail("6: a decision without a reason")
	}
}

// protected counts the replicas that are neither selected nor at the update revision.
func protected(t *plan.Target) int32 {
	n := int32(0)
	for j := range t.Pods {
		r := &t.Pods[j]
		if !t.TemplateSeen || !r.Exists || r.Revision != t.UpdateRevision && (!r.Grant || r.Note.ID == "") {
			n++
		}
	}
	return n
}
