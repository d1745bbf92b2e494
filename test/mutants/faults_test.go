package mutants

import "slices"

const (
	replica   = "upgrader/plan/replica.go"
	step      = "upgrader/plan/step.go"
	target    = "upgrader/plan/target.go"
	arbitrate = "upgrader/plan/arbitrate.go"
	leaveGo   = "upgrader/plan/leave.go"
	nextGo    = "upgrader/plan/next.go"
	tableGo   = "arbiter/lease/table.go"
	ages      = "arbiter/lease/ages.go"
	rules     = "arbiter/policy/policy.go"
	rosterGo  = "arbiter/roster/step.go"
	trust     = "arbiter/roster/trust.go"
	applyGo   = "upgrader/apply/apply.go"
	setGo     = "upgrader/kruise/set.go"
	sessionGo = "upgrader/session/session.go"
)

// first is a seed at which it was seen.
func (f fault) first(seed uint64) fault {
	f.seed = seed
	return f
}

func one(name, file, old, new string, promises ...string) fault {
	return fault{name: name, promises: promises, edits: []edit{{file, old, new}}}
}

func (f fault) and(file, old, new string) fault {
	f.edits = append(slices.Clone(f.edits), edit{file, old, new})
	return f
}

// inReal is a fault in what the upgrader does around the planner.
func inReal(name, file, old, new string, promises ...string) fault {
	f := one(name, file, old, new, promises...)
	f.isReal = true
	return f
}

// faults are all mistakes, in the order of what they break into.
var faults = []fault{
	// One replica's way.
	one("pods are written without the resourceVersion", replica,
		`UID: r.UID, ResourceVersion: r.ResourceVersion, Why: why}`, `UID: r.UID, Why: why}`, "1", "3", "7").first(147),
	one("pods are written without uid and resourceVersion", replica,
		`UID: r.UID, ResourceVersion: r.ResourceVersion, Why: why}`, `Why: why}`, "5"),
	one("a hold is released without the resourceVersion", replica,
		`n.act(Commit{Pod: r.Name, UID: r.UID, ResourceVersion: r.ResourceVersion, Lease: *r.Lease})`,
		`n.act(Commit{Pod: r.Name, UID: r.UID, Lease: *r.Lease})`, "1").first(250),
	one("a hold is released without a pin", replica,
		`n.act(Commit{Pod: r.Name, UID: r.UID, ResourceVersion: r.ResourceVersion, Lease: *r.Lease})`,
		`l := *r.Lease; l.Pinned = true; n.act(Commit{Pod: r.Name, UID: r.UID, ResourceVersion: r.ResourceVersion, Lease: l})`, "1"),
	one("a hold is released before Kruise has shown its choice", replica,
		`case selected && r.Hold && r.State == StatePreparingUpdate && n.w`, `case r.Hold && n.w`, "3"),
	one("a lease is used for another pod of the same name", replica,
		`case r.Lease.Instance != r.UID:`, `case false:`, "1"),
	one("a fence on the pod is ignored", step,
		`return r.Lease != nil && r.Fenced >= r.Lease.Token`, `return false`, "1", "5", "6"),
	one("a new template does not take back what is not released", replica,
		`case t.TemplatePending:
		return WritingTemplate`, `case false:`, "1", "3", "6"),
	one("Kruise's choice of a foreign pod is ignored", replica,
		`if why == "" && wrong != nil {`, `if false {`, "1", "3").and(target, `if wrong == nil {`, `if true {`),
	one("the lease is released before the undo is written", replica,
		`		n.act(p)
		return
	}
	if r.Gated && !r.GateOpen {
		p := n.patch(r, why)`, `		n.release(r, false, ""); n.act(p)
		return
	}
	if r.Gated && !r.GateOpen {
		p := n.patch(r, why)`, "5"),
	one("an undo writes nothing where there is nothing to take back", replica,
		`if r.marked() || r.Lease != nil && !r.fenced() {`, `if r.marked() {`, "1", "5"),
	one("an undo leaves the gate closed", replica,
		`	if r.Gated && !r.GateOpen {
		p := n.patch(r, why)`, `	if false {
		p := n.patch(r, why)`, "5"),
	one("an undo leaves Kruise's choice behind", replica,
		`p.State = new(StateNormal) // Kruise`, `_ = p // Kruise`, "6"),
	one("an undo does not fence the pod", replica,
		`	if r.marked() || r.Lease != nil && !r.fenced() {
		p := n.patch(r, why)
		if r.marked() {
			p.Grant, p.Note = new(false), &Note{}
		}
		if r.Lease != nil {`, `	if r.marked() || r.Lease != nil && !r.fenced() {
		p := n.patch(r, why)
		if r.marked() {
			p.Grant, p.Note = new(false), &Note{}
		}
		if false {`, "1", "5", "6"),
	one("a failed replica is given back", replica,
		`	k := rankStalled
	if t.TemplatePending {`, `	n.release(r, false, "")
	k := rankStalled
	if t.TemplatePending {`, "1", "3", "5"),
	one("nothing is verified", replica,
		`if r.State == StateUpdating || !r.UpdateDone || !r.Fit || r.Unhealthy || r.State == StatePreparingUpdate {`, `if false {`, "3"),
	one("nobody needs to be ready for long", replica,
		`left > 0 && n.w.Policy.MinReady > 0 {`, `left > 0 && false {`, "3"),
	one("a replica that came back new is verified without a lease", replica,
		`if r.Lease == nil && !r.released() {
		k := rankWaiting`, `if false {
		k := rankWaiting`, "3", "6"),
	one("what is verified is not pinned", replica,
		`if l := r.Lease; l != nil && !l.Pinned {`, `if l := r.Lease; false {`, "3", "6"),
	one("the hold is not put on again", replica,
		`if !r.Hold {
		p.Hold = new(true)`, `if false {
		p.Hold = new(true)`, "1", "6").and(step, `(!r.Hold || r.State == StateAbsent ||`, `r.Verified != r.Revision && (!r.Hold || r.State == StateAbsent ||`),
	one("a replica gets duty before Kruise has seen its hold", replica,
		`	case r.unconfirmed():
		n.sayOf(i, rankWaiting, Readmitting`, `	case false:
		n.sayOf(i, rankWaiting, Readmitting`, "1").and(step, `(r.Lease != nil || r.unconfirmed()):`, `(r.Lease != nil):`),
	one("a replica gets duty before its gate is open", replica,
		`	case r.Gated && !r.GateOpen:
		p := n.patch(r, Readmitting)`, `	case false:
		p := n.patch(r, Readmitting)`, "5"),
	one("a note's token is not compared", step,
		`r.Note == Note{ID: r.Lease.ID, Token: r.Lease.Token} &&`, `r.Note.ID == r.Lease.ID &&`, "1"),
	one("a replica counts as upgraded without verification", step,
		`case t.isNew(r) && (r.Verified != t.UpdateRevision || !r.Hold || (r.Unverified || r.Lease != nil) && !r.fenced()):`, `case false:`, "3", "6"),
	one("what somebody writes on a released replica is believed, whomever the arbiter keeps from duty", step,
		` || !r.Hold || (r.Unverified || r.Lease != nil) && !r.fenced()`, ``, "3"),
	one("what somebody writes on a leased replica is believed, whomever the arbiter keeps from duty", step,
		`(r.Unverified || r.Lease != nil) && !r.fenced()`, `false`, "3").
		and(replica, `n.release(r, r.Lease != nil && r.Lease.Pinned, t.UpdateRevision)`, `n.release(r, true, t.UpdateRevision)`),
	one("a pod that Kruise is updating is not held anew", step,
		` || r.State == StateUpdating && !t.isNew(r))`, `)`, "1", "6").first(1095),
	one("whom the arbiter keeps from duty is not verified", step,
		`(r.Unverified || r.Lease != nil)`, `(r.Lease != nil)`, "6"),
	one("released holds are put on again", step,
		`r.Exists && !r.Terminating && !r.released() &&
`, `r.Exists && !r.Terminating &&
`, "3"),
	one("holds need no confirmation by Kruise", step,
		`r.Hold && (r.State == StateUpdated || r.State == StateAbsent)`, `r.Hold && false`, "1"),

	// A set.
	one("what was granted long ago, or to another leader, is begun", replica,
		`case r.outdated():`, `case false:`, "2"),
	one("what a later leader has noted is not heeded", nextGo,
		`n.adopted = n.doubt == ""`, `n.adopted, n.doubt = true, ""`, "5"),
	one("a leader acts on what a later one has armed", target, `if t.ArmedTerm > n.w.Term {`, `if false {`, "1", "5", "7"),
	one("a new leader does not put its term on the set", target,
		`if t.ArmedTerm != n.w.Term && (t.busy()`, `if false && (t.busy()`, "1", "5"),
	one("a new leader acts on a set before it has adopted", target,
		`if n.doubt != "" || !n.leaving(t) && !n.adopted && t.busy() {`, `if false {`, "1", "5"),
	one("a set is taken over before the status names it", target, `if !t.Listed {`, `if false {`, "7"),
	one("a set is taken over before the arbiter has answered", target,
		`if n.w.Arbiter.Blocked != nil || !n.adopted {
		return false`, `if false {
		return false`, "7", "8"),
	one("the partition is not raised", target,
		`if p := t.protected(sel); t.Partition < p {
		n.apply(t, p, WaitingForKruise)`, `if p := t.protected(sel); false {
		n.apply(t, p, WaitingForKruise)`, "1", "4"),
	one("observedGeneration is ignored", target,
		`if !t.Observed || !t.TemplateSeen {
		n.sayOf(i`, `if !t.TemplateSeen {
		n.sayOf(i`, "1", "3", "4"),
	one("what is about to be updated counts as protected no more", target,
		`p := len(t.Pods) - len(sel)`, `p := len(t.Pods) - len(sel) - 1`, "4"),
	one("holds are put on without the state that Kruise confirms", target,
		`p.Hold, p.State = new(true), new(StateUpdated)
		if r.Grant`, `p.Hold = new(true)
		if r.Grant`, "1", "6"),
	one("the template is written while replicas can be taken back", target,
		`case moving || t.awaits() != nil:`, `case false:`, "1", "3", "6"),
	one("the template is written with the partition that is there", target,
		`Partition: int32(len(t.Pods))})`, `Partition: min(t.Partition, int32(len(t.Pods))-1)})`, "4"),
	one("the partition is lowered before Kruise has confirmed the holds", target,
		`	if w := t.awaits(); w != nil {
		n.sayOf(i, rankWaiting, WaitingForKruise, "Kruise has not yet confirmed the hold of %s", w.Name)
		return false`, `	if w := t.awaits(); false {
		n.sayOf(i, rankWaiting, WaitingForKruise, "Kruise has not yet confirmed the hold of %s", w.Name)
		return false`, "1"),
	one("leases are taken before Kruise has confirmed the holds", target,
		`	if w := t.awaits(); w != nil {
		n.sayOf(i, rankWaiting, WaitingForKruise, "Kruise has not yet confirmed the hold of %s", w.Name)
		return
`, `	if w := t.awaits(); false {
		n.sayOf(i, rankWaiting, WaitingForKruise, "Kruise has not yet confirmed the hold of %s", w.Name)
		return
`, "1"),
	one("the partition is parked at the number of replicas", target,
		`if t.Partition != Parked || t.unproven() {
		n.act(ApplySet{Target: t.Name, ResourceVersion: t.ResourceVersion, Partition: Parked,`, `if t.Partition != int32(len(t.Pods)) || t.unproven() {
		n.act(ApplySet{Target: t.Name, ResourceVersion: t.ResourceVersion, Partition: int32(len(t.Pods)),`, "6").
		and(nextGo, `t.CurrentRevision != t.UpdateRevision || t.Partition != Parked`, `t.CurrentRevision != t.UpdateRevision || t.Partition != int32(len(t.Pods))`),
	one("a set that looks at rest is taken for that, whomever the arbiter keeps from duty", target,
		`t.uniform() && t.Proven == t.UpdateRevision`, `t.uniform()`, "6").
		and(target, `len(t.Pods) > 0 && t.Proven != t.UpdateRevision`, `false`).
		and(step, `(r.Unverified || r.Lease != nil)`, `r.Lease != nil`),
	one("at what a set is at rest is not noted", target,
		`Partition: Parked, Proven: t.UpdateRevision, Why: Finishing}`, `Partition: Parked, Why: Finishing}`, "6"),
	one("a lagging currentRevision is ignored", target,
		`	if t.CurrentRevision != t.UpdateRevision {
		if t.allReady() {`, `	if false {
		if t.allReady() {`, "6").
		and(nextGo, `|| t.CurrentRevision != t.UpdateRevision ||`, `||`),

	// The end.
	one("the partition is restored whatever it protects", leaveGo,
		`p := max(t.OriginalPartition, t.protected(nil)); t.`, `p := t.OriginalPartition; t.`, "4", "7"),
	one("holds go before the set says that it is given back", leaveGo,
		`t.Partition < p || !t.Returning {`, `t.Partition != p {`, "7").
		and(leaveGo, `Return: true,`, ``).
		and(leaveGo, `new(""), &r.WorkingDefault, t.Name`, `new(""), &r.WorkingDefault, ""`),
	one("holds stay when a set is given back", leaveGo,
		`	if n.unhold(i, t) {
		return false
	}
	n.act(Disarm`, `	n.act(Disarm`, "6", "7"),
	one("a plan goes before its sets are given back", leaveGo, `if settled && n.leases == 0 {`, `if n.leases == 0 {`, "7"),

	// The plan.
	one("a new leader does not adopt", arbitrate, `case !n.adopted:`, `case false:`, "6"),
	one("leases that are there do not count against maxUnavailable", arbitrate,
		`return max(m, 1) - n.leases`, `return max(m, 1)`, "2"),
	one("a percentage is rounded up", arbitrate, `m = m * n.total / 100`, `m = (m*n.total + 99) / 100`, "2"),
	one("duty is handed over to replicas that are not upgraded", arbitrate,
		`StepOf(n.w, t, r, n.now) == StepUpgraded {
				to`, `StepOf(n.w, t, r, n.now) != StepMissing {
				to`, "6"),

	// The lease table.
	one("adoption does not raise the tokens", tableGo,
		`if !known || r.Term != h.Term || r.Identity != h.Identity || entered {`, `if !known || entered {`, "1", "5"),
	one("adoption raises the token of the holder alone", tableGo,
		`			if l.Holder == r.Holder {
				l.Token = h.Token`, `			if false {
				l.Token = h.Token`, "1", "5"),
	one("an earlier term may adopt", tableGo, `if known && r.Term < h.Term {`, `if false {`, "1", "5"),
	one("old tokens acquire", tableGo,
		`	if token != h.Token {`, `	if false {`, "1", "2", "5"),
	one("old tokens renew, pin and release", tableGo, `if ref.Token != l.Token {`, `if false {`, "1", "5"),
	one("old tokens release", tableGo, `	l, refusal := t.find(ref)
	if l != nil {`, `	l, refusal := t.byID(ref.ID), (*Refusal)(nil)
	if l != nil {`, "1", "5").first(1630),
	one("old tokens pin", tableGo, `	l, refusal := t.find(ref)
	switch {
	case refusal != nil:
		return nil, refusal
	case l == nil:
		return nil, lost(ref.ID)
	case l.Phase == Expired || ages.Overran(*l, now):
		return nil, expired(*l)
	case l.Phase == Pinned`, `	l, refusal := t.byID(ref.ID), (*Refusal)(nil)
	switch {
	case refusal != nil:
		return nil, refusal
	case l == nil:
		return nil, lost(ref.ID)
	case l.Phase == Expired || ages.Overran(*l, now):
		return nil, expired(*l)
	case l.Phase == Pinned`, "1", "5"),
	one("what the holder has already does not count", tableGo,
		`l.Holder == r.Holder && l.RequestID != r.RequestID {`, `l.Holder == r.Holder && l.RequestID == "" {`, "2"),
	one("an expired lease is pinned", tableGo,
		`	case l.Phase == Expired || ages.Overran(*l, now):
		return nil, expired(*l)
	case l.Phase == Pinned`, `	case l.Phase == Pinned`, "1"),
	one("an expired lease is free at once", tableGo,
		`			t.Leases[replica] = l
			out = append(out, l)`, `			delete(t.Leases, replica)
			out = append(out, l)`, "1"),
	one("a pin expires", ages, `return l.Phase == Leased && seen && now.Sub(since) >= l.TTL`,
		`return l.Phase != Expired && seen && now.Sub(since) >= l.TTL`, "1"),
	one("TTLs are counted by the wall clock", ages, `return l.Phase == Leased && seen && now.Sub(since) >= l.TTL`,
		`since = l.GrantedAt; return l.Phase == Leased && seen && now.Sub(since) >= l.TTL`, "6"),

	one("ages are kept without the monotonic clock", ages, `since[k] = now
		if`, `since[k] = now.Round(0)
		if`, "6").and(ages, `a.since[age{l.ID, Leased}] = now`, `a.since[age{l.ID, Leased}] = now.Round(0)`),

	// Who may be leased.
	one("duty is not looked at", rules, `case !m.Idle:`, `case false:`, "1"),
	one("duty, floor and instance are not checked again at the pin", rules,
		`	if refusal := r.mayTouch(l.Replica, instance); refusal != nil {
		return refusal
	}
	if refusal := r.mayDisturb(l.Replica, "%s is not pinned"); refusal != nil {
		return refusal
	}
	if n := r.Serving(t); n < r.Floor`, `	if refusal := r.mayDisturb(l.Replica, "%s is not pinned"); refusal != nil {
		return refusal
	}
	if n := r.Serving(t); false && n < r.Floor`, "1", "2"),
	one("duty and instance are not checked again at the pin", rules,
		`	if refusal := r.mayTouch(l.Replica, instance); refusal != nil {
		return refusal
	}
	if refusal := r.mayDisturb(l`, `	if refusal := r.mayDisturb(l`, "1"),
	one("the instance is not looked at", rules, `case m.Instance != instance || instance == "":`, `case false:`, "1"),
	one("the floor is not looked at", rules, `if n := r.Serving(t); n-1 < r.Floor {`, `if n := r.Serving(t); n < 0 {`, "2"),
	one("the floor is not looked at again at the pin", rules, `n < r.Floor && !l.NotServing`, `false && !l.NotServing`, "2"),
	one("a replica that is not ready counts as serving", rules, `return known && m.Ready && !m.Quarantined`, `return known && !m.Quarantined`, "2"),
	one("a replica that is leased counts as serving", rules, `return !leased && r.couldServe(replica)`, `_ = leased; return r.couldServe(replica)`, "2"),
	one("a replica in quarantine counts as serving", rules, `return known && m.Ready && !m.Quarantined`, `return known && m.Ready`, "2"),
	one("maxLeased is not looked at", rules, `n >= r.MaxLeased {`, `n >= 99 {`, "2"),

	// Who should work.
	one("a leased replica gets duty", rosterGo, `return s.in.Leased(name) || Quarantined`, `return Quarantined`, "1"),
	one("a replica in quarantine gets duty", rosterGo,
		`return s.in.Leased(name) || Quarantined(*s.r, s.in.Pods[name], s.in.Holders)`, `return s.in.Leased(name)`, "3"),
	one("what nobody verified is trusted", trust, `|| holders && known[SetOf(rev)] {`, `{`, "2", "3"),
	one("a replica whose hold Kruise has not seen gets duty", rosterGo, `if !s.in.Holders || p.Held || p.Revision == "" {`, `if true {`, "1"),
	one("an old acknowledgement counts", rosterGo, `case talks && a.Acked == mem.Generation && a.AckedDuty`, `case talks && a.AckedDuty`, "1"),
	one("who lost duty is idle at once", rosterGo, `mem.Assigned, mem.Duty = false, Working`, `mem.Assigned, mem.Duty = false, Idle`, "1"),
	one("when an answer runs out is read from the wall clock", rosterGo, `if a.Telling || a.ToldUntil.After(s.in.Now) {`, `if a.Telling || a.ToldUntil.After(s.in.Now.Round(0)) {`, "1"),
	one("what an earlier pod was told is forgotten", rosterGo, `if a.OldUntil.After(s.in.Now) {`, `if false {`, "1"),
	one("who may have heard an earlier answer is idle", rosterGo, `if a.Telling || a.ToldUntil.After(s.in.Now) {`, `if a.Telling {`, "1"),

	// What is written.
	inReal("the hold is released before the pin", applyGo, `	if !a.Lease.Pinned {
		if err := r.pin(ctx, a.Pod, a.Lease); err != nil {
			return err
		}
	}`, `	if !a.Lease.Pinned {
		defer func() { _ = r.pin(ctx, a.Pod, a.Lease) }()
	}`, "1"),
	inReal("a lease for which another leader asked is as good as one of its own", sessionGo,
		`return h.asked.IsZero() || s`, `return !h.asked.IsZero() && s`, "2"),
	inReal("a pin that is not answered is believed", applyGo, `		if err := r.pin(ctx, a.Pod, a.Lease); err != nil {
			return err`, `		if err := r.pin(ctx, a.Pod, a.Lease); err != nil && !errors.Is(err, arbiter.ErrOutcomeUnknown) {
			return err`, "1"),
	inReal("pods are patched without uid and resourceVersion", applyGo,
		`meta := map[string]any{"uid": a.UID, "resourceVersion": a.ResourceVersion}`, `meta := map[string]any{}`, "1", "3", "5", "7"),
	inReal("a set is taken over without the hook", setGo,
		`"lifecycle": map[string]any{"inPlaceUpdate": map[string]any{"labelsHandler": map[string]any{v1alpha1.HoldLabel: "true"}}},`, ``, "1", "6").
		and(setGo, `return l.InPlaceUpdate.LabelsHandler[v1alpha1.HoldLabel] == "true" &&`, `_ = l; return true &&`).
		and(setGo, `ru == nil || ru.Partition == nil || l == nil || l.InPlaceUpdate == nil {`, `ru == nil || ru.Partition == nil {`),
	inReal("podUpdatePolicy is InPlaceIfPossible", setGo,
		`string(kruisev1beta1.InPlaceOnlyPodUpdateStrategyType),`, `string(kruisev1beta1.InPlaceIfPossiblePodUpdateStrategyType),`, "1").
		and(setGo, `ru.PodUpdatePolicy == kruisev1beta1.InPlaceOnlyPodUpdateStrategyType &&`, `ru.PodUpdatePolicy == kruisev1beta1.InPlaceIfPossiblePodUpdateStrategyType &&`),
	inReal("maxUnavailable is 1", setGo, `"maxUnavailable":        "100%",`, `"maxUnavailable": int64(1),`, "1", "6").
		and(setGo, `ru.MaxUnavailable.String() == "100%" &&`, `ru.MaxUnavailable.String() == "1" &&`),
	inReal("the partition is given up by omission", setGo, `"partition":             int64(partition),`, ``, "1", "4", "6", "7"),
	inReal("the partition is taken back with the rest when a set is given back", setGo,
		`"podUpdatePolicy":       orNil(o.PodUpdatePolicy == "", o.PodUpdatePolicy),`,
		`"partition": nil, "podUpdatePolicy": orNil(o.PodUpdatePolicy == "", o.PodUpdatePolicy),`, "1", "4", "6", "7"),
}
