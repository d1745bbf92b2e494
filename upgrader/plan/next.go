package plan

import (
	"fmt"
	"slices"
	"strings"
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
	n := next{w: w, now: now, sets: make([]tally, len(w.Targets))}
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
	case n.work > 0 || n.doubt != "" || len(w.Arbiter.Orphans)+len(w.Arbiter.Condemned) > 0 || w.Arbiter.Frozen:
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
	// Of the remarks, the gravest about what goes on all the same, and the gravest about
	// no target in particular.
	going, general remark

	total    int // replicas of all targets
	upgraded int // of these upgraded and verified
	work     int // not upgraded, or with anything left to do
	leases   int // leases of this plan
	idling   int // of these on replicas that cannot go on by themselves
	standby  int // upgraded, idle and fit to take over duty
	// adopted: the leases were adopted in this term, and nothing shows that somebody else may
	// have since. doubt says what does; "": nothing.
	adopted bool
	doubt   string
	recheck time.Duration

	sets       []tally
	lost       []string   // the replicas that failed
	candidates []*Replica // on which a lease may be asked for now
}

// tally is what was counted of one target.
type tally struct {
	remark remark
	left   int // replicas that are not upgraded
	// troubled: a replica that was released, or came back new, does not become well.
	troubled bool

	busy     int      // neither upgraded nor idle
	worker   *Replica // the first of these that works
	waitsFor string   // the first of these
	unlisted string   // the first of these that the arbiter does not know at all
}

// survey counts what decisions about the whole plan need.
func (n *next) survey() {
	n.doubts()
	n.leases = len(n.w.Arbiter.Orphans) + len(n.w.Arbiter.Condemned)
	for i := range n.w.Targets {
		t := &n.w.Targets[i]
		if t.Leaving && !t.Untouched() {
			n.work++ // it counts no more, but is still to be given back
		}
		if t.Blocked != nil || t.Leaving {
			n.surveyLeases(t)
			continue
		}
		n.total += len(t.Pods)
		if t.active() {
			n.work++
		}
		for j := range t.Pods {
			n.surveyReplica(t, &t.Pods[j], &n.sets[i])
		}
	}
}

// doubts looks for what a later leader has written. This one may have been frozen, and what it
// sees of pods may be newer than what it sees of their set: it must not take back what its
// successor does. Anybody may have written a note, so that the arbiter is asked by adopting: it
// refuses whoever was succeeded.
func (n *next) doubts() {
	if n.adopted = n.w.Arbiter.Adopted; !n.adopted {
		return
	}
	if n.w.Arbiter.Doubted {
		n.doubt = "the arbiter shows a lease"
	}
	for i := range n.w.Targets {
		t := &n.w.Targets[i]
		for j := range t.Pods {
			if t.Pods[j].Doubted {
				n.doubt = t.Pods[j].Name + " bears the note of a lease"
			}
		}
	}
	n.adopted = n.doubt == ""
}

func (n *next) surveyLeases(t *Target) {
	for j := range t.Pods {
		if t.Pods[j].Lease != nil {
			n.leases++
			if t.Blocked != nil {
				n.idling++
			}
		}
	}
}

func (n *next) surveyReplica(t *Target, r *Replica, of *tally) {
	s := StepOf(n.w, t, r, n.now)
	if r.Lease != nil {
		n.leases++
	}
	of.troubled = of.troubled || t.troubledBy(r, s)
	if s == StepFailed && r.Lease != nil {
		n.idling++
	}
	if s == StepUpgraded {
		n.upgraded++
		if r.idle() && r.Fit && !r.Unhealthy {
			n.standby++
		}
		return
	}
	n.work++
	of.left++
	if (s == StepProtected || s == StepVerifying || s == StepMissing) && r.Lease == nil && !r.idle() {
		of.surveyBusy(r)
	}
}

// troubledBy says whether a replica speaks against the images that the set gets: no other is to
// be taken out of service for them.
func (t *Target) troubledBy(r *Replica, s Step) bool {
	switch {
	case s == StepFailed:
		return true
	case t.contested() && r.Exists && !r.Fit && !t.isNew(r):
		return true // it was lost to them before somebody took them back
	case r.Trouble == nil:
		return false
	}
	// One that was well once and is to be replaced (StepProtected) says nothing of the new images.
	return t.isNew(r) && s != StepUpgraded && s != StepProtected || r.released()
}

// surveyBusy notes a replica that is neither upgraded nor idle.
func (of *tally) surveyBusy(r *Replica) {
	of.busy++
	if of.waitsFor == "" {
		of.waitsFor = r.Name
	}
	if of.unlisted == "" && r.Unlisted {
		of.unlisted = r.Name
	}
	if of.worker == nil && r.Duty == Working {
		of.worker = r
	}
}

// heldUp says whether no further replica of set i is to be taken out of service now: the
// set cannot go on, or it has a replica that does not become well, or another set that
// gets one of the same images has.
func (n *next) heldUp(i int) bool {
	t := &n.w.Targets[i]
	if t.stuck() || n.sets[i].troubled {
		return true
	}
	for k := range n.sets {
		if n.sets[k].troubled && n.w.Targets[k].shares(t) {
			return true
		}
	}
	return false
}

// stuck says whether the set cannot get the plan's images unless somebody does something.
func (t *Target) stuck() bool {
	return t.Blocked != nil || t.TemplatePending && (t.TemplateBlocked != nil || t.TemplateWritten)
}

// contested says whether somebody has taken back the images that the plan wrote.
func (t *Target) contested() bool { return t.TemplatePending && t.TemplateWritten }

// shares says whether both sets get the same image.
func (t *Target) shares(u *Target) bool {
	return slices.ContainsFunc(t.Changes, func(image string) bool { return slices.Contains(u.Changes, image) })
}

// active says whether the set has a rollout to do, apart from its replicas.
func (t *Target) active() bool {
	return t.TemplatePending || !t.Armed || !t.Settings || t.CurrentRevision != t.UpdateRevision || t.Partition != Parked || t.unproven()
}

// act adds an action.
func (n *next) act(a Action) { n.d.Actions = append(n.d.Actions, a) }

// at asks for another look at t; zero: not because of time.
func (n *next) at(t time.Time) {
	if !t.IsZero() {
		n.after(t.Sub(n.now))
	}
}

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
		d.Going = Remark{n.going.reason, n.going.message}
		if d.Reason == ReplicaFailed && len(n.lost) > 1 {
			d.Message += "; failed: " + strings.Join(n.lost, ", ")
		}
		if d.Stalled && d.Going.Reason != "" {
			d.Message += "; meanwhile: " + d.Going.Message
		}
	case len(d.Actions) == 0 && n.work == 0 && !n.w.Policy.Deleting:
		d.Reason, d.Done = Complete, true
		d.Message = fmt.Sprintf("all %d replicas are upgraded", n.total)
	default:
		d.Reason, d.Message = Finishing, "the rollout is being concluded"
	}
	n.deadline()
	d.Targets = make([]Remark, len(n.sets))
	for i := range n.sets {
		d.Targets[i] = n.remarkOf(i)
	}
	d.Recheck = n.recheck
	return *d
}

// remarkOf is set i's own remark; without one it is done, or waits for what the plan waits
// for, be it another set.
func (n *next) remarkOf(i int) Remark {
	t, of := &n.w.Targets[i], &n.sets[i]
	r := of.remark
	switch {
	case r.rank != rankNone:
	case t.Blocked == nil && !t.Leaving && of.left == 0 && !t.active():
		return Remark{Complete, fmt.Sprintf("all %d replicas are upgraded", len(t.Pods))}
	case n.general.rank != rankNone:
		r = n.general
	case n.going.rank != rankNone:
		r = n.going
	case n.best.rank != rankNone:
		r = n.best
	default:
		return Remark{n.d.Reason, n.d.Message}
	}
	return Remark{r.reason, r.message}
}

// deadline makes a plan that has not moved for too long a stalled one.
func (n *next) deadline() {
	p := n.w.Policy
	if n.d.Done || n.d.Stalled && n.d.Going.Reason == "" || p.Paused || n.w.LastProgress.IsZero() || p.ProgressDeadline <= 0 {
		return
	}
	left := p.ProgressDeadline - n.now.Sub(n.w.LastProgress)
	if left > 0 {
		n.after(left)
		return
	}
	n.d.Stalled, n.d.Going = true, Remark{}
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

// say offers a reason for the plan's status that concerns no target in particular.
func (n *next) say(k rank, reason Reason, format string, args ...any) {
	n.offerRemark(&n.general, k, reason, format, args)
}

// sayOf offers a reason for the plan's status and for that of target i.
func (n *next) sayOf(i int, k rank, reason Reason, format string, args ...any) {
	n.offerRemark(&n.sets[i].remark, k, reason, format, args)
}

// offerRemark lets the gravest remark stay in each place, of equals the first.
func (n *next) offerRemark(own *remark, k rank, reason Reason, format string, args []any) {
	places := [...]*remark{own, &n.best, &n.going}
	if k == rankStalled {
		places[2] = own // what is stalled does not go on
	}
	message := ""
	for _, p := range places {
		if k <= p.rank {
			continue
		}
		if message == "" {
			message = fmt.Sprintf(format, args...)
		}
		*p = remark{rank: k, reason: reason, message: message}
	}
}

func (n *next) sayBlocked(b *Blocker) {
	if b.Retry {
		n.say(rankBlocked, b.Reason, "%s", b.Message)
		return
	}
	n.say(rankStalled, b.Reason, "%s", b.Message)
}
