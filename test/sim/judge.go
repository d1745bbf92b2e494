package sim

import (
	"slices"

	"offduty.dev/arbiter/lease"
	"offduty.dev/upgrader/plan"
)

// This file judges what was decided, by the upgrader and by the arbiter, on what whoever
// decided could know. What came of it is judged in promises.go.

// judge is called with each decision of an upgrader.
func (s *Sim) judge(u *upgrader, w *plan.World, d *plan.Decision) {
	for _, a := range d.Actions {
		switch a := a.(type) {
		case plan.Commit:
			s.judgeCommit(u, w, a)
		case plan.Handover:
			s.judgeHandover(u, w, a)
		case plan.PatchPod:
			if a.UID == "" {
				s.fail("5: %s patches %s and does not name the pod: another one may get it", u.name, a.Pod)
			}
		default:
		}
	}
	if !d.Done {
		return
	}
	for i := range w.Targets {
		if t := &w.Targets[i]; !atRest(t) {
			s.fail("6: %s calls the plan complete, and %s is not at rest: %+v", u.name, t.Name, *t)
		}
	}
}

// atRest says whether a rollout has ended: every replica is updated, verified and held, a
// lost one would come back like the others, and Kruise updates nothing.
func atRest(t *plan.Target) bool {
	return t.CurrentRevision == t.UpdateRevision && t.Partition == plan.Parked && !t.TemplatePending &&
		!slices.ContainsFunc(t.Pods, func(r plan.Replica) bool {
			return !upgraded(t, &r) || r.Lease != nil || r.Grant || r.Note.ID != "" || !r.Hold
		})
}

func upgraded(t *plan.Target, r *plan.Replica) bool {
	return r.Exists && r.Revision == t.UpdateRevision && r.Verified == t.UpdateRevision
}

func replicaOf(w *plan.World, name string) (*plan.Target, *plan.Replica) {
	for i := range w.Targets {
		t := &w.Targets[i]
		for j := range t.Pods {
			if t.Pods[j].Name == name {
				return t, &t.Pods[j]
			}
		}
	}
	return nil, nil
}

// judgeCommit judges the point of no return: whatever is known to speak against it then
// must have led to an undo.
func (s *Sim) judgeCommit(u *upgrader, w *plan.World, a plan.Commit) {
	t, r := replicaOf(w, a.Pod)
	switch {
	case r.Duty == plan.Working:
		s.fail("1: %s releases the hold of %s, of which the arbiter says that it works", u.name, a.Pod)
	case r.Lease == nil || r.Lease.Lost || r.Lease.Instance != r.UID || r.Fenced >= r.Lease.Token:
		s.fail("1: %s releases the hold of %s, and has no lease on it any more: %+v", u.name, a.Pod, r.Lease)
	case r.Gated && (!r.GateClosed || r.Ready && s.now.Sub(r.GateSince) < w.Policy.DrainTimeout):
		s.fail("1: %s releases the hold of %s, which is not drained", u.name, a.Pod)
	case w.Policy.Paused, w.Policy.Deleting, t.Leaving, t.TemplatePending:
		s.fail("3: %s releases the hold of %s, which should be taken back", u.name, a.Pod)
	case r.State != plan.StatePreparingUpdate:
		s.fail("3: %s releases the hold of %s before Kruise has shown its choice", u.name, a.Pod)
	}
}

// judgeHandover judges who is asked to take over duty.
func (s *Sim) judgeHandover(u *upgrader, w *plan.World, a plan.Handover) {
	for _, to := range a.To {
		if t, r := replicaOf(w, to); !upgraded(t, r) || !r.Fit {
			s.fail("6: %s asks %s to take over duty, which is not upgraded or not fit for it", u.name, to)
		}
	}
}

// serving are the replicas that serve as far as the arbiter can see.
func (a *arbiter) serving() map[string]bool {
	out := map[string]bool{}
	for name, p := range a.cache.pods {
		if _, leased := a.table.Leases[name]; !leased && p.Ready && !p.Terminating && (a.proven[p.Revision] || len(a.table.Holders) == 0) {
			out[name] = true
		}
	}
	return out
}

// granted is called when the arbiter has granted leases; before are those who served until then.
func (a *arbiter) granted(before map[string]bool, leases []lease.Lease) {
	left := len(a.serving())
	for _, l := range leases {
		switch p := a.cache.pods[l.Replica]; {
		case p.UID != l.Instance:
			a.s.fail("1: a lease on %s is granted for the pod %s, which is not there", l.Replica, l.Instance)
		case before[l.Replica] && left < a.s.cfg.Floor:
			a.s.fail("2: %s is leased, and %d serve without it, the floor is %d", l.Replica, left, a.s.cfg.Floor)
		}
	}
	if n := len(a.table.Leases); len(leases) > 0 && n > a.s.cfg.MaxLeased {
		a.s.fail("2: %d replicas are leased, maxLeased is %d", n, a.s.cfg.MaxLeased)
	}
}

// pinned is called when the arbiter has pinned a lease.
func (a *arbiter) pinned(l lease.Lease, instance string) {
	p := a.cache.pods[l.Replica]
	n := len(a.serving())
	switch {
	case p.UID != instance:
		a.s.fail("1: the lease on %s is pinned for the pod %s, which is not there", l.Replica, instance)
	case !l.NotServing && n < a.s.cfg.Floor && a.proven[p.Revision]:
		a.s.fail("2: the lease on %s is pinned, and %d serve, the floor is %d", l.Replica, n, a.s.cfg.Floor)
	}
}

// prove notes what may have duty: what is there while nobody upgrades anything.
func (a *arbiter) prove() {
	if len(a.table.Holders) > 0 {
		return
	}
	for _, p := range a.cache.pods {
		a.proven[p.Revision] = true
	}
}

// assigned is called when the arbiter has given duty to a member.
func (a *arbiter) assigned(name string) {
	if p, ok := a.cache.pods[name]; ok && len(a.table.Holders) > 0 && !a.proven[p.Revision] {
		a.s.fail("3: %s gets duty at %s, which nobody has verified", name, p.Revision)
	}
}
