package plan

import (
	"fmt"
	"time"
)

// Next decides the next step of w at now. It is pure: equal inputs give equal
// decisions, and a decision to do nothing carries the Reason and whom it waits for.
//
// Invariants (FuzzNext, test/sim): a hold is released only under a pin of the very
// pod UID; a partition never falls below the number of replicas that are neither
// selected nor at the update revision; while Kruise has not seen the latest generation
// of a set its partition is not lowered.
func Next(w *World, now time.Time) Decision {
	n := next{w: w, now: now, best: remark{rank: rankNone}}
	n.d.Targets = make([]Remark, len(w.Targets))
	n.survey()

	// 0. What a newer upgrader has begun, only a newer one understands.
	if n.newer() {
		return n.conclude()
	}
	// 1. What touches one set alone, set by set.
	settled := true
	for i := range w.Targets {
		if !n.target(i) {
			settled = false
		}
	}
	// 2. What concerns the plan as a whole.
	switch {
	case w.Policy.Deleting:
		n.leave(settled)
	case n.work > 0 || len(w.Arbiter.Orphans) > 0:
		n.arbitrate()
	}
	return n.conclude()
}

// newer says whether a newer upgrader is at work on any of the sets. A plan follows one
// protocol: none of its other sets is touched either, nor its leases.
func (n *next) newer() bool {
	for i := range n.w.Targets {
		if t := &n.w.Targets[i]; t.Newer {
			n.blocked(i, t)
			return true
		}
	}
	return false
}

// next is one run of the planner.
type next struct {
	w    *World
	now  time.Time
	d    Decision
	best remark

	total    int // replicas of all targets
	upgraded int // of these upgraded and verified
	work     int // not upgraded, or with anything left to do
	leases   int // leases of this plan
	trouble  *Replica
	busy     int      // neither upgraded nor idle
	worker   *Replica // the first of these that works
	waitsFor string   // the first of these
	unlisted string   // the first of these that the arbiter does not know at all
	standby  int      // upgraded, idle and fit to take over duty
	recheck  time.Duration

	candidates []*Replica // on which a lease may be asked for now
}

// survey counts what decisions about the whole plan need.
func (n *next) survey() {
	n.leases = len(n.w.Arbiter.Orphans)
	for i := range n.w.Targets {
		t := &n.w.Targets[i]
		if t.Blocked != nil {
			n.surveyLeases(t)
			continue
		}
		n.total += len(t.Pods)
		if t.active() {
			n.work++
		}
		for j := range t.Pods {
			n.surveyReplica(t, &t.Pods[j])
		}
	}
}

func (n *next) surveyLeases(t *Target) {
	for j := range t.Pods {
		if t.Pods[j].Lease != nil {
			n.leases++
		}
	}
}

func (n *next) surveyReplica(t *Target, r *Replica) {
	s := StepOf(n.w, t, r, n.now)
	if r.Lease != nil {
		n.leases++
	}
	if s == StepFailed || r.Trouble != nil && (t.isNew(r) && s != StepUpgraded || r.released()) {
		n.trouble = r
	}
	if s == StepUpgraded {
		n.upgraded++
		if r.Duty == Idle && r.Fit && !r.Unhealthy {
			n.standby++
		}
		return
	}
	n.work++
	if (s == StepProtected || s == StepVerifying || s == StepMissing) && r.Lease == nil && !r.idle() {
		n.surveyBusy(r)
	}
}

// surveyBusy notes a replica that is neither upgraded nor idle.
func (n *next) surveyBusy(r *Replica) {
	n.busy++
	if n.waitsFor == "" {
		n.waitsFor = r.Name
	}
	if n.unlisted == "" && r.Unlisted {
		n.unlisted = r.Name
	}
	if n.worker == nil && r.Duty == Working {
		n.worker = r
	}
}

// active says whether the set has a rollout to do, apart from its replicas.
func (t *Target) active() bool {
	return t.TemplatePending || !t.Armed || !t.Settings || t.CurrentRevision != t.UpdateRevision || t.Partition != Parked
}

// act adds an action.
func (n *next) act(a Action) { n.d.Actions = append(n.d.Actions, a) }

// after asks for another look when d has passed.
func (n *next) after(d time.Duration) {
	if d > 0 && (n.recheck == 0 || d < n.recheck) {
		n.recheck = d
	}
}

// conclude fills in what stands in the plan's status.
func (n *next) conclude() Decision {
	d := &n.d
	switch {
	case n.best.rank != rankNone:
		d.Reason, d.Message, d.Stalled = n.best.reason, n.best.message, n.best.rank == rankStalled
	case len(d.Actions) == 0 && n.work == 0:
		d.Reason, d.Done = Complete, true
		d.Message = fmt.Sprintf("all %d replicas are upgraded", n.total)
	default:
		d.Reason, d.Message = Finishing, "the rollout is being concluded"
	}
	n.deadline()
	d.Recheck = n.recheck
	return *d
}

// deadline makes a plan that has not moved for too long a stalled one.
func (n *next) deadline() {
	p := n.w.Policy
	if n.d.Done || n.d.Stalled || p.Paused || n.w.LastProgress.IsZero() || p.ProgressDeadline <= 0 {
		return
	}
	left := p.ProgressDeadline - n.now.Sub(n.w.LastProgress)
	if left > 0 {
		n.after(left)
		return
	}
	n.d.Stalled = true
	n.d.Message = fmt.Sprintf("no progress for %s: %s", p.ProgressDeadline, n.d.Message)
}

// rank orders remarks: the one that a human must hear of wins.
type rank int

const (
	rankNone rank = iota
	rankDoing
	rankWaiting
	rankBlocked
	rankStalled
)

type remark struct {
	rank    rank
	reason  Reason
	message string
}

// say offers a reason for the plan's status; the gravest one stays, of equals the first.
func (n *next) say(k rank, reason Reason, format string, args ...any) {
	if k > n.best.rank {
		n.best = remark{rank: k, reason: reason, message: fmt.Sprintf(format, args...)}
	}
}

// sayOf also writes the remark down at target i.
func (n *next) sayOf(i int, k rank, reason Reason, format string, args ...any) {
	n.say(k, reason, format, args...)
	if n.d.Targets[i].Reason == "" {
		n.d.Targets[i] = Remark{Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
}

func (n *next) sayBlocked(b *Blocker) {
	if b.Retry {
		n.say(rankBlocked, b.Reason, "%s", b.Message)
		return
	}
	n.say(rankStalled, b.Reason, "%s", b.Message)
}
