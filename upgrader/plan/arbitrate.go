package plan

import (
	"cmp"
	"slices"
)

// arbitrate asks the arbiter for what the plan needs next.
func (n *next) arbitrate() {
	a := &n.w.Arbiter
	switch {
	case a.Blocked != nil:
		n.sayBlocked(a.Blocked)
		n.ask()
		return
	case !n.adopted:
		n.adopt(AcquiringLeases, "taking over the leases of this plan")
		return
	}
	for _, l := range a.Orphans {
		n.act(ReleaseLease{Lease: l})
	}
	n.condemned()
	if a.Futile != nil && !n.w.Policy.Paused {
		n.sayBlocked(a.Futile)
	}
	busy := n.busiest()
	switch {
	case n.w.Policy.Paused:
		n.say(rankWaiting, Paused, "the plan is paused: %d of %d replicas are upgraded", n.upgraded, n.total)
	case a.Frozen:
		if n.unentered() {
			n.act(Adopt{}) // it tells the arbiter of the leases that are noted on the pods
		}
		n.say(rankBlocked, ArbiterFrozen, "the arbiter lost its record and grants nothing until all leases are entered again")
	case len(n.candidates) > 0:
		n.acquire()
	case busy.unlisted != "" && !n.unsettled():
		n.say(rankBlocked, UnknownReplica, "the arbiter's group does not list %s: make the Roster's selector match the pods of every target", busy.unlisted)
	case n.leases > n.idling || n.unsettled():
		// What is under way comes first.
	case n.budget() <= 0 && n.open():
		n.say(rankWaiting, WaitingForLease, "as many replicas as may be unavailable (%d) have failed or cannot go on: nothing else is begun", n.leases)
	case busy.busy > 0:
		n.handover(busy)
	}
}

// adopt makes this upgrader the only actor, or shows that another is.
func (n *next) adopt(reason Reason, what string) {
	n.act(Adopt{})
	if n.doubt != "" {
		n.say(rankDoing, reason, "%s that this upgrader was not given: asking the arbiter whether another has taken over", n.doubt)
		return
	}
	n.say(rankDoing, reason, "%s", what)
}

// ask asks an arbiter again that could not serve the plan, when it is time. What is said
// stays as it is until the answer is another.
func (n *next) ask() {
	switch a := &n.w.Arbiter; {
	case a.Again.IsZero():
	case n.now.Before(a.Again):
		n.at(a.Again)
	default:
		n.act(Adopt{})
	}
}

// unentered says whether any pod names a lease that the arbiter does not know.
func (n *next) unentered() bool {
	for i := range n.w.Targets {
		for j := range n.w.Targets[i].Pods {
			r := &n.w.Targets[i].Pods[j]
			if r.Exists && r.Note.ID != "" && (r.Lease == nil || r.Lease.ID != r.Note.ID) {
				return true
			}
		}
	}
	return false
}

// condemned names the replicas that are leased and on which nothing more is decided.
func (n *next) condemned() {
	for _, l := range n.w.Arbiter.Condemned {
		n.say(rankWaiting, WaitingForPod, "%s is being removed; its lease ends when its pod is gone", l.Replica)
	}
}

// busiest adds up the replicas that are neither upgraded nor idle of those sets that can
// go on. The first named are those of the set that is nearest to its end.
func (n *next) busiest() tally {
	var all, nearest tally
	for i := range n.sets {
		of := &n.sets[i]
		if of.busy == 0 || n.heldUp(i) {
			continue
		}
		all.busy += of.busy
		if all.unlisted == "" {
			all.unlisted = of.unlisted
		}
		if all.waitsFor == "" || of.left < nearest.left {
			all.waitsFor, nearest.left = of.waitsFor, of.left
		}
		if of.worker != nil && (all.worker == nil || of.left < all.left) {
			all.worker, all.left = of.worker, of.left
		}
	}
	return all
}

// unsettled says whether any set that can go on still has to be prepared.
func (n *next) unsettled() bool {
	for i := range n.w.Targets {
		t := &n.w.Targets[i]
		if !t.Leaving && !t.stuck() && (!t.Armed || t.TemplatePending || !t.Observed || t.awaits() != nil) {
			return true
		}
	}
	return false
}

// open says whether any set that can go on has replicas left.
func (n *next) open() bool {
	for i := range n.sets {
		if n.sets[i].left > 0 && !n.heldUp(i) {
			return true
		}
	}
	return false
}

// budget is how many more replicas may be leased.
func (n *next) budget() int {
	m := n.w.Policy.MaxUnavailable
	if n.w.Policy.Percent {
		m = m * n.total / 100
	}
	return max(m, 1) - n.leases
}

func (n *next) acquire() {
	b := n.budget()
	slices.Reverse(n.candidates) // within a set the highest ordinal first, as Kruise does
	slices.SortStableFunc(n.candidates, n.byNeed)
	a := &n.w.Arbiter
	if n.now.Before(a.Patience) {
		n.at(a.Patience)
		return // it was said why
	}
	if a.Refused != nil && (a.RetryAt.IsZero() || n.now.Before(a.RetryAt)) && n.asked(a.RefusedFor) {
		n.say(rankWaiting, a.Refused.Reason, "%s", a.Refused.Message)
		n.at(a.RetryAt)
		return
	}
	c := make([]Candidate, 0, len(n.candidates))
	for _, r := range n.candidates {
		c = append(c, Candidate{Replica: r.Name, UID: r.UID})
	}
	n.act(Acquire{Candidates: c, Max: b})
	n.say(rankDoing, AcquiringLeases, "asking for %d of %d idle replicas", min(b, len(c)), len(c))
}

// asked says whether the same candidates were asked for before.
func (n *next) asked(before []Candidate) bool {
	return slices.EqualFunc(n.candidates, before, func(r *Replica, c Candidate) bool {
		return r.Name == c.Replica && r.UID == c.UID
	})
}

// byNeed orders candidates over all targets:
//
//  1. those that are new already and only to be verified: they may have no duty until then;
//  2. those that are not fit: they serve nobody, so that taking them costs nothing;
//  3. those furthest behind: what is two revisions old is what a new one understands least;
//  4. those of the set with the fewest left: a set that is begun is finished before the
//     next, so that few sets are at two revisions, and a bad image meets few of them;
//  5. those of the set that the plan names first.
func (n *next) byNeed(x, y *Replica) int {
	return cmp.Or(n.class(x)-n.class(y), y.Behind-x.Behind, n.sets[x.Target].left-n.sets[y.Target].left, x.Target-y.Target)
}

func (n *next) class(r *Replica) int {
	switch {
	case n.w.Targets[r.Target].isNew(r):
		return 0
	case !r.Fit:
		return 1
	}
	return 2
}

// handover is for when every replica that is left works.
func (n *next) handover(busy tally) {
	a := &n.w.Arbiter
	switch {
	case !n.w.Policy.RequestHandover || busy.worker == nil:
		n.say(rankWaiting, WaitingForDuty, "%d of %d replicas are upgraded; %s off duty%s", n.upgraded, n.total, busy.waiting(), n.outside())
	case a.HandoverFrom != "":
		n.at(a.HandoverAgain)
		n.say(rankWaiting, WaitingForHandover, "the arbiter is moving duty away from %s", a.HandoverFrom)
	case n.standby == 0:
		n.say(rankWaiting, WaitingForDuty, "no upgraded replica is idle and fit to take over from %s%s", busy.worker.Name, n.outside())
	default:
		h := Handover{From: busy.worker.Name, To: n.successors()}
		if no := a.HandoverRefused; no != nil && h.From == a.HandoverRefusedFor.From && slices.Equal(h.To, a.HandoverRefusedFor.To) {
			n.at(a.HandoverAgain)
			n.say(rankWaiting, no.Reason, "%s", no.Message)
			return
		}
		n.act(h)
		n.say(rankDoing, WaitingForHandover, "asking the arbiter to move duty away from %s", busy.worker.Name)
	}
}

// outside is for a plan over a part of its group. It moves duty to replicas that it has
// upgraded; to move it to others is not its business.
func (n *next) outside() string {
	if o := n.w.Arbiter.Outside; o != "" {
		return "; " + o + " of the same group is idle, and no target of this plan: name it in the Roster (spec.assigned.working), or make its set a target"
	}
	return ""
}

func (of *tally) waiting() string {
	if of.busy == 1 {
		return "waiting for " + of.waitsFor + " to go"
	}
	return "waiting for " + of.waitsFor + " or another of the rest to go"
}

func (n *next) successors() []string {
	var to []string
	for i := range n.w.Targets {
		t := &n.w.Targets[i]
		if t.Blocked != nil || t.Leaving {
			continue
		}
		for j := range t.Pods {
			r := &t.Pods[j]
			if r.idle() && r.Fit && !r.Unhealthy && StepOf(n.w, t, r, n.now) == StepUpgraded {
				to = append(to, r.Name)
			}
		}
	}
	return to
}
