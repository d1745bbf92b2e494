package plan

import "slices"

// target decides about set i alone. It returns true when there is nothing left to do to
// the set before its replicas may be leased.
func (n *next) target(i int) bool {
	t := &n.w.Targets[i]
	if t.Blocked != nil {
		n.blocked(i, t)
		return t.Gone || !t.Armed && !t.Unread
	}
	if !t.Armed {
		return n.arm(i, t)
	}
	if n.succeeded(t) {
		n.sayOf(i, rankBlocked, Succeeded, "another upgrader has taken %s over: this one stops", t.Name)
		return false
	}
	sel, wrong := n.selection(t)
	// A hold waits for nothing but the hook: a pod that was lost is born without it, and
	// may have duty before anything else is settled.
	held := !n.leaving(t) && (t.Observed || t.HookSeen) && n.hold(i, t)
	if n.guard(i, t, sel) {
		return false
	}
	if n.leaving(t) {
		return n.leaveTarget(i, t, sel, wrong)
	}
	if held {
		return false
	}
	moving := n.replicas(i, t, sel, wrong)
	if n.template(i, t, sel, moving) {
		return false
	}
	if n.lower(i, t, sel) || n.finish(i, t, moving) {
		return false
	}
	n.offer(i, t)
	return true
}

// succeeded says whether a later leader has acted on the set or one of its pods. Then
// nothing that is seen there may be acted upon, were it ever so fresh.
func (n *next) succeeded(t *Target) bool {
	if t.ArmedTerm > n.w.Term {
		return true
	}
	for j := range t.Pods {
		if r := &t.Pods[j]; n.w.Arbiter.Adopted && r.Lease != nil && r.Note.ID == r.Lease.ID && r.Note.Token > r.Lease.Token {
			return true
		}
	}
	return false
}

func (n *next) blocked(i int, t *Target) {
	k := rankStalled
	if n.leaving(t) && (t.Gone || !t.Armed && !t.Unread) {
		if t.leased() {
			n.sayOf(i, k, t.Blocked.Reason, "%s; this plan still has leases on its replicas: end them at the arbiter by force", t.Blocked.Message)
		}
		return
	}
	if t.Blocked.Retry {
		k = rankBlocked
	}
	n.sayOf(i, k, t.Blocked.Reason, "%s", t.Blocked.Message)
}

// arm takes the set over. Nothing is written before the arbiter has answered: a plan
// whose arbiter cannot be reached leaves its targets alone. One that leaves takes a set over
// that it has lost with leases on its replicas: only then can it give them back in order.
func (n *next) arm(i int, t *Target) bool {
	if n.leaving(t) && !t.leased() {
		if !n.w.Policy.Deleting && !t.Untouched() {
			n.act(Bar{Target: t.Name, ResourceVersion: t.ResourceVersion})
			n.sayOf(i, rankDoing, Leaving, "%s is not taken over any more", t.Name)
		}
		return true
	}
	if n.w.Arbiter.Blocked != nil || !n.adopted {
		return false
	}
	if !t.Listed {
		n.sayOf(i, rankDoing, Arming, "noting %s in the status, to take it over", t.Name)
		return false
	}
	if t.UpdateRevision == "" && t.empty() && !n.leaving(t) {
		// There is nothing to protect yet, and nobody could say later what it began with.
		n.sayOf(i, rankWaiting, WaitingForKruise, "Kruise has not yet seen %s", t.Name)
		return false
	}
	partition := Parked
	if p := t.protected(nil); p > 0 && !t.uniform() {
		partition = max(p, t.Partition) // a rollout is under way: it stops where it stands
	}
	n.act(ApplySet{Target: t.Name, ResourceVersion: t.ResourceVersion, Partition: partition, Proven: t.present(), Why: Arming})
	n.sayOf(i, rankDoing, Arming, "taking over %s", t.Name)
	return false
}

// Untouched says whether no leader of the plan can be about to take the set over: the status
// never said that one may, and need not say so now.
func (t *Target) Untouched() bool {
	return !t.Listed && !t.Armed && !t.Unread && !t.leased() && (t.Blocked != nil || t.Leaving)
}

// uniform says whether no rollout is under way: every pod is at the one revision.
func (t *Target) uniform() bool { return t.TemplateSeen && t.alike() }

// alike says whether, as far as Kruise has seen the set, every pod is at the one revision.
// That says nothing of how it came there: when all pods of a set are lost, Kruise makes them
// of the new template and forgets that there ever was another (docs/decisions/0009).
func (t *Target) alike() bool {
	if t.CurrentRevision != t.UpdateRevision {
		return false
	}
	for j := range t.Pods {
		if r := &t.Pods[j]; r.Exists && !t.isNew(r) {
			return false
		}
	}
	return true
}

// present is the revision that needs no proof when the set is taken over: the one at which it
// runs already; "" while a rollout is under way, of which nobody knows how far it was verified.
func (t *Target) present() string {
	if t.Proven == "" && t.alike() {
		return t.UpdateRevision
	}
	return t.Proven
}

// unproven says whether it is still to be noted at what the set is at rest. One without
// replicas proves nothing: what it is scaled up to nobody has ever seen.
func (t *Target) unproven() bool { return len(t.Pods) > 0 && t.Proven != t.UpdateRevision }

func (t *Target) empty() bool {
	return !slices.ContainsFunc(t.Pods, func(r Replica) bool { return r.Exists })
}

// selection is the set of replicas that Kruise may update, by their index in Target.Pods;
// nil while there are none, so that nothing is allocated for those that do not move.
type selection map[int]bool

// selection returns which replicas are selected, and why the selected ones that are not
// yet released must all be taken back, if so: Kruise chose a pod that is not ours.
func (n *next) selection(t *Target) (selection, *Replica) {
	var sel selection
	for j := range t.Pods {
		if r := &t.Pods[j]; n.selected(t, r) {
			if sel == nil {
				sel = selection{}
			}
			sel[j] = true
		}
	}
	if t.Partition >= t.protected(nil) || !t.TemplateSeen || !t.Observed || !t.Settings {
		return sel, nil // Kruise can choose nobody yet, or by no rule of ours: what is marked is a leftover
	}
	wrong := t.chosenByMistake(sel)
	if wrong == nil {
		return sel, nil
	}
	for k := range sel {
		if !t.Pods[k].released() {
			delete(sel, k)
		}
	}
	return sel, wrong
}

// chosenByMistake returns a replica that Kruise has marked although it is not selected.
func (t *Target) chosenByMistake(sel selection) *Replica {
	for j := range t.Pods {
		if r := &t.Pods[j]; r.Exists && r.State == StatePreparingUpdate && !t.isNew(r) && !sel[j] {
			return r
		}
	}
	return nil
}

// selected says whether Kruise may update r: it is released, or it is leased, drained,
// granted, held in a way that Kruise heeds, and nothing speaks against it. While the hook is
// lost nothing but the partition keeps Kruise off those that are not released.
func (n *next) selected(t *Target, r *Replica) bool {
	if t.isNew(r) || !r.Exists || r.Terminating {
		return false
	}
	if r.released() {
		return !n.givenUp(t, r)
	}
	return t.Settings && r.Grant && r.noted() && r.heeded() && r.Lease.Valid && r.drained(n.w, n.now) && n.undoReason(t, r) == ""
}

// protected is the number of replicas that are neither selected nor at the update
// revision: no write of ours sets the partition below it. While Kruise has not seen the
// template it is all of them.
func (t *Target) protected(sel selection) int32 {
	if !t.TemplateSeen {
		return int32(len(t.Pods)) //nolint:gosec // a set has fewer replicas than 2^31
	}
	p := len(t.Pods) - len(sel)
	for j := range t.Pods {
		if t.isNew(&t.Pods[j]) {
			p--
		}
	}
	return int32(max(p, 0)) //nolint:gosec // see above
}

// guard does what comes before everything else: raise the partition, put the hook back if
// somebody took it off, wait for Kruise to have seen the set, and put a new leader's term on
// it. The first two wait for nothing: both only protect.
func (n *next) guard(i int, t *Target, sel selection) bool {
	if p := t.protected(sel); t.Partition < p {
		n.apply(t, p, WaitingForKruise)
		n.sayOf(i, rankDoing, Undoing, "raising the partition of %s from %d to %d", t.Name, t.Partition, p)
		return true
	}
	if !t.Settings {
		n.apply(t, t.Partition, Arming)
		n.sayOf(i, rankDoing, Arming, "putting the settings of %s right, which somebody changed", t.Name)
		return true
	}
	if !t.Observed || !t.TemplateSeen {
		n.sayOf(i, rankWaiting, WaitingForKruise, "Kruise has not yet seen the latest change of %s", t.Name)
		return true
	}
	if n.doubt != "" || !n.leaving(t) && !n.adopted && t.busy() {
		return true
	}
	if t.ArmedTerm != n.w.Term && (t.busy() || n.leaving(t)) {
		n.apply(t, t.Partition, Arming)
		n.sayOf(i, rankDoing, Arming, "taking over %s", t.Name)
		return true
	}
	return false
}

// busy says whether anything at all is to be done to the set or its pods.
func (t *Target) busy() bool {
	if t.active() {
		return true
	}
	for j := range t.Pods {
		r := &t.Pods[j]
		if r.Lease != nil || r.Exists && (!t.isNew(r) || r.Verified != t.UpdateRevision || r.Unverified || r.marked() || t.needsHold(r)) {
			return true
		}
	}
	return false
}

func (n *next) apply(t *Target, partition int32, why Reason) {
	n.act(ApplySet{Target: t.Name, ResourceVersion: t.ResourceVersion, Partition: partition, Why: why})
}

// hold puts the hold on every pod that lacks it, together with the state Updated: Kruise
// makes Normal of that only when it has seen the hold (refreshPodState), which proves
// that its cache of the pods knows it; observedGeneration proves the cache of sets alone.
// A pod at the revision at which the set was last at rest is verified by that. At any other it
// is not, however much at rest the set looks: it is verified under a pin.
func (n *next) hold(i int, t *Target) bool {
	proven := t.uniform() && t.Proven == t.UpdateRevision
	any := false
	for j := range t.Pods {
		r := &t.Pods[j]
		if !t.needsHold(r) {
			continue
		}
		p := n.patch(r, Holding)
		p.Hold, p.State = new(true), new(StateUpdated)
		if r.Grant {
			p.Grant = new(false)
		}
		if l := n.label(r); l != "" && l != r.Working {
			p.Working = &l
		}
		if proven {
			p.Verified = &t.UpdateRevision
		}
		n.act(p)
		n.sayOf(i, rankDoing, Holding, "putting the hold on %s", r.Name)
		any = true
	}
	return any
}

// template writes the images of the plan, once no replica is on its way that can still
// be taken back and every hold is confirmed.
func (n *next) template(i int, t *Target, sel selection, moving bool) bool {
	switch {
	case !t.TemplatePending:
		return false
	case t.stuck() || !n.mayWrite():
		n.sayStuck(i, t, moving)
		// Who is past the point of no return is finished all the same, with whatever
		// template there is: it would stay out of duty for as long as this lasts.
		n.lower(i, t, sel)
	case moving || t.awaits() != nil:
		n.sayOf(i, rankWaiting, WaitingForKruise, "the new template of %s is written when every hold is confirmed", t.Name)
	default:
		n.writeTemplate(t)
		n.sayOf(i, rankDoing, WritingTemplate, "writing the images to %s", t.Name)
	}
	return true
}

// mayWrite says whether the plan as a whole may bring new images to its sets now.
func (n *next) mayWrite() bool { return !n.w.Policy.Paused && n.w.Arbiter.Blocked == nil }

func (n *next) writeTemplate(t *Target) {
	n.act(WriteTemplate{Target: t.Name, ResourceVersion: t.ResourceVersion, Partition: int32(len(t.Pods))}) //nolint:gosec // a set has fewer replicas than 2^31
}

// sayStuck says why the images of the plan are not written to t, if somebody must do
// something. What was refused is tried again from time to time.
func (n *next) sayStuck(i int, t *Target, moving bool) {
	switch {
	case t.TemplateBlocked != nil:
		n.at(t.TemplateRetry)
		if r := t.TemplateRetry; !r.IsZero() && !n.now.Before(r) && !moving && t.awaits() == nil && n.mayWrite() {
			n.writeTemplate(t) // what is said stays until it is written
		}
		n.sayOf(i, rankStalled, t.TemplateBlocked.Reason, "%s", t.TemplateBlocked.Message)
	case t.TemplateWritten:
		n.sayOf(i, rankStalled, TemplateContested, "%s wrote other images to %s after this plan had set its own: "+
			"take the images out of the plan, or out of what %s applies and then pause and resume the plan", t.writer(), t.Name, t.writer())
	}
}

func (t *Target) writer() string {
	if t.TemplateWriter == "" {
		return "somebody"
	}
	return t.TemplateWriter
}

// awaits returns a replica whose hold Kruise has not confirmed, or that is being undone.
func (t *Target) awaits() *Replica {
	for j := range t.Pods {
		if r := &t.Pods[j]; r.unconfirmed() && r.Lease == nil {
			return r
		}
	}
	return nil
}

// lower lets Kruise have the selected replicas. It waits for those that are about to
// join them, so that one batch costs one patch.
func (n *next) lower(i int, t *Target, sel selection) bool {
	p := t.protected(sel)
	if len(sel) == 0 || t.Partition <= p {
		return false
	}
	for j := range t.Pods {
		if r := &t.Pods[j]; r.Lease != nil && !t.isNew(r) && !sel[j] && r.Exists && !r.Gated && !r.Terminating {
			return false
		}
	}
	if w := t.awaits(); w != nil {
		n.sayOf(i, rankWaiting, WaitingForKruise, "Kruise has not yet confirmed the hold of %s", w.Name)
		return false
	}
	n.apply(t, p, Selecting)
	n.sayOf(i, rankDoing, Selecting, "setting the partition of %s from %d to %d", t.Name, t.Partition, p)
	return true
}

// finish ends the rollout of the set: status.currentRevision must agree, or a lost pod
// would come back at the old revision; then the partition is parked.
func (n *next) finish(i int, t *Target, moving bool) bool {
	if moving || t.TemplatePending || !n.allUpgraded(t) {
		return false
	}
	if t.CurrentRevision != t.UpdateRevision {
		if t.allReady() {
			n.sayOf(i, rankWaiting, WaitingForKruise, "Kruise has not yet concluded the rollout of %s", t.Name)
			return true
		}
		n.act(SetCurrentRevision{Target: t.Name, ResourceVersion: t.ResourceVersion, Revision: t.UpdateRevision})
		n.sayOf(i, rankDoing, Finishing, "concluding the rollout of %s", t.Name)
		return true
	}
	if t.Partition != Parked || t.unproven() {
		n.act(ApplySet{Target: t.Name, ResourceVersion: t.ResourceVersion, Partition: Parked, Proven: t.UpdateRevision, Why: Finishing})
		n.sayOf(i, rankDoing, Finishing, "parking the partition of %s", t.Name)
		return true
	}
	return false
}

func (n *next) allUpgraded(t *Target) bool {
	for j := range t.Pods {
		if StepOf(n.w, t, &t.Pods[j], n.now) != StepUpgraded {
			return false
		}
	}
	return true
}

// allReady says whether Kruise concludes the rollout by itself (completeRollingUpdate
// wants every replica ready).
func (t *Target) allReady() bool {
	for j := range t.Pods {
		if r := &t.Pods[j]; !r.Exists || !r.Ready {
			return false
		}
	}
	return true
}

// offer names the replicas of t on which a lease may be asked for.
func (n *next) offer(i int, t *Target) {
	if t.TemplatePending {
		return
	}
	if w := t.awaits(); w != nil {
		n.sayOf(i, rankWaiting, WaitingForKruise, "Kruise has not yet confirmed the hold of %s", w.Name)
		return
	}
	if n.budget() <= 0 || n.heldUp(i) {
		return // nothing is collected that is not asked for
	}
	for j := range t.Pods {
		r := &t.Pods[j]
		if !r.Exists || r.Terminating || !r.idle() || (r.marked() && !t.isNew(r)) {
			continue
		}
		if s := StepOf(n.w, t, r, n.now); s == StepProtected || s == StepVerifying {
			n.candidates = append(n.candidates, r)
		}
	}
}
