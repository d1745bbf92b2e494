package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/upgrader/plan"
)

// This file judges what was decided, by the upgrader and by the arbiter, on what whoever
// decided could know. What came of it is judged in promises.go.

// judge is called with each decision of an upgrader.
func (s *Sim) judge(u *upgrader, w *plan.World, d *plan.Decision) {
	for _, a := range d.Actions {
		switch a := a.(type) {
		case plan.Acquire:
			s.judgeAcquire(u, w, a)
		case plan.Commit:
			s.judgeCommit(u, w, a)
		case plan.Handover:
			s.judgeHandover(u, w, a)
		case plan.PatchPod:
			s.judgePatch(u, w, a)
		case plan.ReleaseLease:
			s.judgeRelease(u, w, a)
		case plan.ApplySet:
			s.judgeApply(u, w, a)
		case plan.WriteTemplate:
			s.judgeTemplate(u, w, a)
		default:
		}
	}
	for i := range w.Targets {
		t := &w.Targets[i]
		if set := u.cache.sets[t.Name]; s.cfg.Real && t.Armed && t.Settings && (set.Policy != "InPlaceOnly" || set.MaxUnavailable != "100%") {
			s.fail("1: %s takes %s for protected, which Kruise may update by removing pods, or not at all: %s, maxUnavailable %s", u.name, t.Name, set.Policy, set.MaxUnavailable)
		}
		if t.Armed && t.Partition < protected(t) && !raises(d, t.Name) && !d.Succeeded() {
			s.fail("4: %s leaves the partition of %s at %d, %d replicas are to be protected", u.name, t.Name, t.Partition, protected(t))
		}
		if d.Done && (!atRest(t) || !s.arb.proven[t.UpdateRevision]) {
			s.fail("6: %s calls the plan complete, and %s is not at rest, or the arbiter does not know %s: %s", u.name, t.Name, t.UpdateRevision, brief(t))
		}
	}
}

func raises(d *plan.Decision, target string) bool {
	return slices.ContainsFunc(d.Actions, func(a plan.Action) bool {
		set, ok := a.(plan.ApplySet)
		return ok && set.Target == target
	})
}

// atRest says whether a rollout has ended: every replica is updated, verified and held, a
// lost one would come back like the others, and Kruise updates nothing.
func atRest(t *plan.Target) bool {
	return t.CurrentRevision == t.UpdateRevision && t.Partition == plan.Parked && !t.TemplatePending &&
		!slices.ContainsFunc(t.Pods, func(r plan.Replica) bool {
			return !upgraded(t, &r) || r.Lease != nil || r.Grant || r.Note.ID != "" || !r.Hold
		})
}

// brief is what atRest looks at, without addresses: a run that is told again must say the same.
func brief(t *plan.Target) string {
	out := []string{fmt.Sprintf("current %s, partition %d", t.CurrentRevision, t.Partition)}
	for i := range t.Pods {
		r := &t.Pods[i]
		out = append(out, fmt.Sprintf("%s at %s, verified %q, hold %t, fit %t", r.Name, r.Revision, r.Verified, r.Hold, r.Fit))
	}
	return strings.Join(out, "; ")
}

func upgraded(t *plan.Target, r *plan.Replica) bool {
	return r.Exists && r.Revision == t.UpdateRevision && r.Verified == t.UpdateRevision
}

func targetOf(w *plan.World, name string) *plan.Target {
	for i := range w.Targets {
		if w.Targets[i].Name == name {
			return &w.Targets[i]
		}
	}
	return nil
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

// unconfirmed returns a pod without lease whose hold Kruise has not shown to know; "" if none.
func unconfirmed(t *plan.Target) string {
	for i := range t.Pods {
		r := &t.Pods[i]
		if r.Exists && !r.Terminating && r.Lease == nil && r.Hold && (r.State == plan.StateUpdated || r.State == plan.StateAbsent) {
			return r.Name
		}
	}
	return ""
}

// judgeAcquire judges whom leases are asked for, and how many.
func (s *Sim) judgeAcquire(u *upgrader, w *plan.World, a plan.Acquire) {
	total, leases := 0, len(w.Arbiter.Orphans)+len(w.Arbiter.Condemned)
	for i := range w.Targets {
		t := &w.Targets[i]
		for j := range t.Pods {
			if t.Pods[j].Lease != nil {
				leases++
			}
		}
		if t.Blocked == nil && !t.Leaving {
			total += len(t.Pods)
		}
	}
	if most := s.limit(total); leases+a.Max > most {
		s.fail("2: %s asks for %d leases and has %d, maxUnavailable is %d of %d replicas", u.name, a.Max, leases, most, total)
	}
	for _, c := range a.Candidates {
		switch t, r := replicaOf(w, c.Replica); {
		case unconfirmed(t) != "":
			s.fail("1: %s asks for a lease on %s before Kruise has confirmed the hold of %s", u.name, r.Name, unconfirmed(t))
		case w.Policy.Paused || w.Policy.Deleting || t.Leaving || t.TemplatePending:
			s.fail("3: %s asks for a lease on %s, and would have to take it back", u.name, r.Name)
		}
	}
}

// judgePatch judges a write of a pod.
func (s *Sim) judgePatch(u *upgrader, w *plan.World, a plan.PatchPod) {
	t, r := replicaOf(w, a.Pod)
	switch {
	case a.UID == "":
		s.fail("5: %s patches %s and does not name the pod: another one may get it", u.name, a.Pod)
	case t.ArmedTerm > w.Term, w.Arbiter.Adopted && r.Lease != nil && r.Note.ID == r.Lease.ID && r.Note.Token > r.Lease.Token:
		s.fail("5: %s patches %s, which a later leader has", u.name, a.Pod)
	case a.Why != plan.Holding && s.later(u, t) != "":
		s.fail("5: %s patches %s, and what %s bears is a later leader's", u.name, a.Pod, s.later(u, t))
	case a.Why == plan.Draining && r.Note.ID != r.Lease.ID && s.lookedAway(u, r.Lease) != "" && !r.GateClosed:
		s.fail("2: %s begins with %s, and %s", u.name, a.Pod, s.lookedAway(u, r.Lease))
	case a.Note != nil && !w.Arbiter.Adopted && !w.Policy.Deleting && !t.Leaving:
		s.fail("5: %s patches %s before it has adopted the leases", u.name, a.Pod)
	case a.Verified != nil && *a.Verified != "" && a.Why == plan.Readmitting && (r.Lease == nil && r.Note.ID == "" || r.Lease != nil && !r.Lease.Pinned):
		s.fail("3: %s calls %s verified without a pin, so that the arbiter may never hear of it", u.name, a.Pod)
	case a.Verified != nil && *a.Verified != "" && a.Why == plan.Readmitting && !s.longReady(u, w, r):
		s.fail("3: %s calls %s verified, which is not ready or has not been for long: since %s, it is %s", u.name, a.Pod, r.FitSince, u.now())
	}
}

// noteGrant notes a lease, if it is new.
func (a *arbiter) noteGrant(by caller, l lease.Lease) {
	if _, known := a.grants[l.ID]; !known {
		a.grants[l.ID], a.late[l.ID] = grant{by.name, by.term, a.s.now}, a.s.landing
	}
}

// grant is who got a lease, in which term, and when.
type grant struct {
	to   string
	term int64
	at   time.Time
}

// later returns a replica of a set that bears the note of a lease which was granted to a later
// leader of the same plan; "" if none does.
func (s *Sim) later(u *upgrader, t *plan.Target) string {
	for i := range t.Pods {
		if g, ok := s.arb.grants[t.Pods[i].Note.ID]; ok && g.term > u.term {
			return t.Pods[i].Name
		}
	}
	return ""
}

// lookedAway says why the arbiter's look at the floor, when it granted a lease, says nothing any
// more; "" while it does.
func (s *Sim) lookedAway(u *upgrader, l *plan.Lease) string {
	switch g := s.arb.grants[l.ID]; {
	case g.to != u.name:
		return "its lease was granted to " + g.to
	case s.now.Sub(g.at) >= s.cfg.TTL/2:
		return fmt.Sprintf("the arbiter has looked at the floor %s ago", s.now.Sub(g.at))
	}
	return ""
}

// longReady says whether a replica is well and has been for as long as the plan wants, by the
// clock of the upgrader.
func (s *Sim) longReady(u *upgrader, w *plan.World, r *plan.Replica) bool {
	return r.Fit && r.UpdateDone && (w.Policy.MinReady == 0 || u.now().Sub(r.FitSince) >= w.Policy.MinReady)
}

// judgeRelease judges when a replica is given back to duty.
func (s *Sim) judgeRelease(u *upgrader, w *plan.World, a plan.ReleaseLease) {
	t, r := replicaOf(w, a.Lease.Replica)
	switch {
	case r == nil && slices.Contains(w.Arbiter.Condemned, a.Lease):
		s.fail("1: %s gives %s back, whose pod is there and may still be updated", u.name, a.Lease.Replica)
	case r == nil || !r.Exists || r.Terminating:
	case a.Upgraded && upgraded(t, r) && (!r.Hold || r.State == plan.StateUpdated || r.State == plan.StateAbsent):
		s.fail("1: %s gives %s back to duty before Kruise has confirmed its hold", u.name, r.Name)
	case !a.Upgraded && r.Fenced < a.Lease.Token:
		s.fail("5: %s gives %s back, and its pod does not say so: a leader of old could go on", u.name, r.Name)
	}
}

// judgeApply judges when a set is taken over, and when its partition is lowered.
func (s *Sim) judgeApply(u *upgrader, w *plan.World, a plan.ApplySet) {
	t := targetOf(w, a.Target)
	switch {
	case !t.Armed && (w.Arbiter.Blocked != nil || !w.Arbiter.Adopted):
		s.fail("8: %s takes %s over before the arbiter has answered", u.name, a.Target)
	case !t.Armed && !t.Listed && !w.Policy.Deleting && !t.Leaving:
		s.fail("7: %s takes %s over before the status names it: nobody would know of it", u.name, a.Target)
	case t.Armed && t.ArmedTerm > w.Term:
		s.fail("5: %s writes %s, which a later leader has", u.name, a.Target)
	case a.Why != plan.Selecting:
	case t.ArmedTerm != w.Term:
		s.fail("5: %s lowers the partition of %s, which does not bear its term", u.name, a.Target)
	case unconfirmed(t) != "":
		s.fail("1: %s lowers the partition of %s before Kruise has confirmed the hold of %s", u.name, a.Target, unconfirmed(t))
	}
}

// judgeTemplate judges when the images are written.
func (s *Sim) judgeTemplate(u *upgrader, w *plan.World, a plan.WriteTemplate) {
	t := targetOf(w, a.Target)
	for i := range t.Pods {
		if r := &t.Pods[i]; r.Exists && !r.Terminating && r.Revision != t.UpdateRevision && r.Lease != nil && r.Hold {
			s.fail("3: %s writes the images to %s while %s can be taken back", u.name, a.Target, r.Name)
		}
	}
	if r := unconfirmed(t); r != "" {
		s.fail("1: %s writes the images to %s before Kruise has confirmed the hold of %s", u.name, a.Target, r)
	}
}

// judgeCommit judges the point of no return: whatever is known to speak against it then
// must have led to an undo.
func (s *Sim) judgeCommit(u *upgrader, w *plan.World, a plan.Commit) {
	t, r := replicaOf(w, a.Pod)
	switch {
	case r.Duty == plan.Working:
		s.fail("1: %s releases the hold of %s, of which the arbiter says that it works", u.name, a.Pod)
	case r.Lease == nil || r.Lease.Lost || r.Lease.Instance != r.UID || r.Fenced >= r.Lease.Token || r.Note != plan.Note{ID: r.Lease.ID, Token: r.Lease.Token}:
		s.fail("1: %s releases the hold of %s, and has no lease on it any more: %+v", u.name, a.Pod, r.Lease)
	case r.Gated && (!r.GateClosed || r.Ready && u.now().Sub(r.GateSince) < w.Policy.DrainTimeout):
		s.fail("1: %s releases the hold of %s, which is not drained", u.name, a.Pod)
	case w.Policy.Paused, w.Policy.Deleting, t.Leaving, t.TemplatePending:
		s.fail("3: %s releases the hold of %s, which should be taken back", u.name, a.Pod)
	case r.State != plan.StatePreparingUpdate:
		s.fail("3: %s releases the hold of %s before Kruise has shown its choice", u.name, a.Pod)
	case t.ArmedTerm != w.Term:
		s.fail("5: %s releases the hold of %s, whose set does not bear its term", u.name, a.Pod)
	case chosen(t) != "":
		s.fail("3: %s releases the hold of %s, and Kruise has chosen %s", u.name, a.Pod, chosen(t))
	}
}

// chosen returns a pod that Kruise may choose, and has, although it is not selected; "" if none.
func chosen(t *plan.Target) string {
	old := int32(0)
	for i := range t.Pods {
		if t.Pods[i].Revision != t.UpdateRevision {
			old++
		}
	}
	for i := range t.Pods {
		if r := &t.Pods[i]; r.State == plan.StatePreparingUpdate && r.Revision != t.UpdateRevision && r.Note.ID == "" && t.Partition < old {
			return r.Name
		}
	}
	return ""
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

// granted is called when the arbiter has answered a request; before are those who served
// until then, and leases those that there were.
func (a *arbiter) granted(by caller, r lease.AcquireRequest, got lease.Acquired, before map[string]bool, leases map[string]lease.Lease) {
	if got.Granted == 0 {
		return
	}
	a.obeys(by)
	left, same := len(a.serving()), 0
	for _, l := range got.Leases {
		was, had := leases[l.Replica]
		switch p := a.cache.pods[l.Replica]; {
		case had && was.ID == l.ID:
		case had:
			a.s.fail("1: a second lease on %s is granted", l.Replica)
		case p.UID != l.Instance:
			a.s.fail("1: a lease on %s is granted for the pod %s, which is not there", l.Replica, l.Instance)
		case before[l.Replica] && left < a.s.cfg.Floor:
			a.s.fail("2: %s is leased, and %d serve without it, the floor is %d", l.Replica, left, a.s.cfg.Floor)
		}
		a.renewed[l.ID] = a.s.now
		a.noteGrant(by, l)
	}
	for _, l := range a.table.Leases {
		if l.RequestID == r.RequestID {
			same++
		}
	}
	if same > r.Max {
		a.s.fail("2: one request got %d leases, and asked for %d", same, r.Max)
	}
	if n := len(a.table.Leases); n > a.s.cfg.MaxLeased {
		a.s.fail("2: %d replicas are leased, maxLeased is %d", n, a.s.cfg.MaxLeased)
	}
}

// pinned is called when the arbiter has pinned a lease, which was in phase before.
func (a *arbiter) pinned(by caller, l lease.Lease, instance string, before lease.Phase) {
	a.obeys(by)
	p := a.cache.pods[l.Replica]
	n := len(a.serving())
	switch {
	case before == lease.Expired:
		a.s.fail("1: the lease on %s is pinned, and had expired", l.Replica)
	case l.Instance != instance || before != lease.Pinned && p.UID != instance:
		a.s.fail("1: the lease on %s is pinned for the pod %s, and not for %s, which is there", l.Replica, l.Instance, p.UID)
	case before != lease.Pinned && a.record.Members[l.Replica].Duty != roster.Idle:
		a.s.fail("1: the lease on %s is pinned, and it is not idle", l.Replica)
	case before != lease.Pinned && !l.NotServing && n < a.s.cfg.Floor && a.proven[p.Revision]:
		a.s.fail("2: the lease on %s is pinned, and %d serve, the floor is %d", l.Replica, n, a.s.cfg.Floor)
	}
}

// phase of the lease with an id; "" when there is none.
func (a *arbiter) phase(id string) lease.Phase {
	for _, l := range a.table.Leases {
		if l.ID == id {
			return l.Phase
		}
	}
	return ""
}

// adopts is called when an upgrader has adopted, obeys when the arbiter has done what it asked
// for: that is for the last one to have adopted alone.
func (a *arbiter) adopts(by caller) {
	a.obeys(by)
	a.adopter[by.holder] = by.term
}

func (a *arbiter) obeys(by caller) {
	if by.term < a.adopter[by.holder] {
		a.s.fail("5: the arbiter does what %s asks for, and one in term %d has adopted", by.name, a.adopter[by.holder])
	}
}

// expired is called with the leases that were there before time was looked at.
func (a *arbiter) expired(before map[string]lease.Lease) {
	now := a.s.now
	for name, was := range before {
		switch l, ok := a.table.Leases[name]; {
		case !ok:
			a.s.fail("1: the lease on %s is gone before the pod was fenced", name)
		case l.Phase == was.Phase:
		case was.Phase == lease.Pinned:
			a.s.fail("1: the pin on %s has expired", name)
		case now.Sub(a.renewed[l.ID]) < l.TTL:
			a.s.fail("6: the lease on %s expires %s after it was renewed, its TTL is %s", name, now.Sub(a.renewed[l.ID]), l.TTL)
		}
	}
	for name, l := range a.table.Leases {
		since := a.renewed[l.ID]
		if since.Before(a.began) {
			since = a.began // no process knows how long another one has known a lease
		}
		if age := now.Sub(since); l.Phase == lease.Leased && age >= l.TTL && a.s.cfg.Without != Expiring {
			a.s.fail("6: the lease on %s goes on %s after it was renewed, its TTL is %s", name, age, l.TTL)
		}
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
	p, ok := a.cache.pods[name]
	if !ok || len(a.table.Holders) == 0 {
		return
	}
	held := func(p Pod) bool { return p.Hold && p.State != plan.StateAbsent && p.State != plan.StateUpdated }
	if !a.proven[p.Revision] {
		a.s.fail("3: %s gets duty at %s, which nobody has verified", name, p.Revision)
	}
	for _, q := range a.cache.pods {
		if q.Set == p.Set && held(q) && !held(p) {
			a.s.fail("1: %s gets duty before Kruise has confirmed its hold", name)
		}
	}
}
