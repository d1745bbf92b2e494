package plan

import "slices"

// arbitrate asks the arbiter for what the plan needs next.
func (n *next) arbitrate() {
	a := &n.w.Arbiter
	switch {
	case a.Blocked != nil:
		n.sayBlocked(a.Blocked)
		return
	case !a.Adopted:
		n.act(Adopt{})
		n.say(rankDoing, AcquiringLeases, "taking over the leases of this plan")
		return
	}
	for _, l := range a.Orphans {
		n.act(ReleaseLease{Lease: l})
	}
	switch {
	case n.w.Policy.Paused:
		n.say(rankWaiting, Paused, "the plan is paused: %d of %d replicas are upgraded", n.upgraded, n.total)
	case a.Frozen:
		n.say(rankBlocked, ArbiterFrozen, "the arbiter lost its record and grants nothing until all leases are entered again")
	case n.trouble != nil:
		// No further replica is risked while one is unwell.
	case len(n.candidates) > 0:
		n.acquire()
	case n.unlisted != "" && !n.unsettled():
		n.say(rankBlocked, UnknownReplica, "the arbiter's group does not list %s: make the Roster's selector match the pods of every target", n.unlisted)
	case n.busy > 0 && n.leases == 0 && !n.unsettled():
		n.handover()
	}
}

// unsettled says whether any set still has to be prepared.
func (n *next) unsettled() bool {
	for i := range n.w.Targets {
		t := &n.w.Targets[i]
		if t.Blocked == nil && (!t.Armed || t.TemplatePending || !t.Observed || t.awaits() != nil) {
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
	if b <= 0 {
		return
	}
	// Those that are only to be verified go first, then those that serve nobody; then the
	// highest ordinal, as Kruise does.
	slices.Reverse(n.candidates)
	slices.SortStableFunc(n.candidates, func(x, y *Replica) int { return n.order(x) - n.order(y) })
	a := &n.w.Arbiter
	if a.Refused != nil && (a.RetryAt.IsZero() || n.now.Before(a.RetryAt)) && n.asked(a.RefusedFor) {
		n.say(rankWaiting, a.Refused.Reason, "%s", a.Refused.Message)
		if !a.RetryAt.IsZero() {
			n.after(a.RetryAt.Sub(n.now))
		}
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

func (n *next) order(r *Replica) int {
	switch {
	case n.w.Targets[r.Target].isNew(r):
		return 0
	case !r.Fit:
		return 1
	}
	return 2
}

// handover is for when every replica that is left works.
func (n *next) handover() {
	a := &n.w.Arbiter
	switch {
	case !n.w.Policy.RequestHandover || n.worker == nil:
		n.say(rankWaiting, WaitingForDuty, "%d of %d replicas are upgraded; %s off duty", n.upgraded, n.total, n.waiting())
	case a.HandoverFrom != "":
		n.say(rankWaiting, WaitingForHandover, "the arbiter is moving duty away from %s", a.HandoverFrom)
	case n.standby == 0:
		n.say(rankWaiting, WaitingForDuty, "no upgraded replica is idle and fit to take over from %s", n.worker.Name)
	default:
		h := Handover{From: n.worker.Name, To: n.successors()}
		if no := a.HandoverRefused; no != nil && h.From == a.HandoverRefusedFor.From && slices.Equal(h.To, a.HandoverRefusedFor.To) {
			n.say(rankWaiting, no.Reason, "%s", no.Message)
			return
		}
		n.act(h)
		n.say(rankDoing, WaitingForHandover, "asking the arbiter to move duty away from %s", n.worker.Name)
	}
}

func (n *next) waiting() string {
	if n.busy == 1 {
		return "waiting for " + n.waitsFor + " to go"
	}
	return "waiting for " + n.waitsFor + " or another of the rest to go"
}

func (n *next) successors() []string {
	var to []string
	for i := range n.w.Targets {
		t := &n.w.Targets[i]
		if t.Blocked != nil {
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
