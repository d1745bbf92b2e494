package sim

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/upgrader/plan"
)

// upgrader is one process: what upgrader/observe, session and apply do around the real
// planner. Everything in it is lost in a crash.
type upgrader struct {
	s     *Sim
	name  string
	term  int64
	skew  time.Duration // of its host's clock
	cache *Cache
	proc  *proc
	// writes are the versions that its own writes made (apply.Writes).
	writes map[string]int
	// current are the plans for which its cache has caught up (apply.catchUp).
	current map[string]bool

	// plan is the UpgradePlan as its cache shows it, doing the one that it decided on.
	plan, doing planObject
	barred      map[string]bool // targets, in the reconciliation that is under way
	returning   map[string]bool // those of which the API server said so
	watch       int             // index of the snapshot that it has been told
	session
	last plan.Decision
	// about is the request that it is about to make, in the words of scenarios.
	about string
	// real is the real upgrader; nil: the mirror below is used.
	real *stack
	// left is how many more decisions it makes when it does not lead any more.
	left int
}

// session is the conversation for one plan. It ends with the plan.
type session struct {
	holder   string
	viewed   int // revision of the snapshot on which it decided last
	adopted  bool
	retired  bool // the arbiter has let go of the plan
	token    int64
	highest  int64 // token that it was given, or shown when it adopted
	vouched  map[plan.Note]bool
	noted    map[plan.Note]bool // on the pods on which it decided last
	leases   map[string]*held
	request  int
	refused  *refusal
	handover struct {
		from    string
		since   time.Time
		refused *refusal
	}
}

// held is a lease as session keeps it.
type held struct {
	lease.Lease
	until             time.Time // surely valid until
	asked             time.Time
	sure, shown, gone bool
}

type refusal struct {
	plan.Blocker
	revision   int
	retry      time.Time
	candidates []plan.Candidate
	handover   plan.Handover
}

// current says whether asking again is useless.
func (r *refusal) current(revision int, now time.Time) bool {
	return r.revision == revision && (r.retry.IsZero() || now.Before(r.retry))
}

func newUpgrader(s *Sim, term int64) *upgrader {
	u := &upgrader{
		s: s, name: "upgrader" + strconv.FormatInt(term, 10), term: term, skew: s.wrong(), cache: newCache(s.api),
		writes: map[string]int{}, current: map[string]bool{}, watch: len(s.arb.shown) - 1, plan: s.plan,
	}
	if s.chaos && s.cfg.Unreliable > 0 {
		u.cache.begin(s.api)
	}
	if s.cfg.Real {
		u.real = newStack(u)
	}
	return u
}

// now is what the clock of its host shows.
func (u *upgrader) now() time.Time { return u.s.read(u.skew) }

// step goes on with the reconciliation that is under way, or begins one.
func (u *upgrader) step() {
	if u.proc == nil {
		u.proc = start(u.reconcile)
	}
	if !u.proc.run() {
		u.proc = nil
	}
}

// reconcile is Reconciler.reconcile.
func (u *upgrader) reconcile(pause func()) {
	if u.real != nil {
		u.real.reconcile(pause)
		return
	}
	p := u.plan
	if p.uid == "" || p.deleting && !p.finalizer {
		u.session = session{} // Sessions.Forget
		return
	}
	if u.holder != p.uid {
		u.session = session{holder: p.uid, leases: map[string]*held{}}
	}
	u.doing, u.barred, u.returning = p, map[string]bool{}, map[string]bool{}
	w, stale := u.world()
	if stale {
		return
	}
	now := u.now()
	d := plan.Next(w, now)
	u.last = d
	u.s.decided(u, w, &d)
	if d.Succeeded() {
		return
	}
	if u.catchUp(pause, &d) {
		for _, a := range u.s.cfg.Without.from(d.Actions) {
			u.about = request(a)
			u.do(pause, a)
		}
	}
	u.about = "writes the status"
	pause()
	u.s.writeStatus(u, w, now)
}

// catchUp is apply.catchUp: the first decision that is more than to adopt is not carried out
// on a cache that is older than what an earlier leader wrote.
func (u *upgrader) catchUp(pause func(), d *plan.Decision) bool {
	if u.s.cfg.Unreliable == 0 || u.current[u.doing.uid] || !slices.ContainsFunc(d.Actions, func(a plan.Action) bool {
		_, adopts := a.(plan.Adopt)
		return !adopts
	}) {
		return true
	}
	u.about = ""
	pause()
	behind := false
	late := func(of string, read, cached int) {
		u.writes[of] = max(u.writes[of], read)
		behind = behind || cached < read
	}
	of := map[string]bool{}
	for _, t := range u.doing.targets {
		of[t.name] = true
	}
	for _, name := range u.doing.dropped() {
		of[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(of)) {
		late("set "+name, u.s.api.sets[name].RV, u.cache.sets[name].RV)
	}
	for _, name := range names(u.s.api.pods) {
		if p, c := u.s.api.pods[name], u.cache.pods[name]; of[p.Set] {
			late(p.UID, p.RV, c.RV)
			behind = behind || c.UID != p.UID
		}
	}
	u.current[u.doing.uid] = !behind
	return !behind
}

// view is session.View.
func (u *upgrader) view() (snapshot, plan.Arbiter, map[string]plan.Lease) {
	state := u.told()
	u.viewed = state.revision
	live := !u.s.now.Before(u.s.cut)
	a := plan.Arbiter{Adopted: u.adopted, Doubted: u.adopted && live && state.highest(u.holder) > u.highest}
	if !live {
		a.Blocked = &plan.Blocker{Reason: plan.ArbiterUnreachable, Retry: true, Message: "the arbiter cannot be reached"}
	}
	leases := map[string]plan.Lease{}
	if live {
		a.Blocked = u.gone()
		u.reconcileLeases(state)
	}
	if !u.adopted {
		u.foreign(state, leases)
	}
	for name, h := range u.leases {
		leases[name] = u.lease(h)
	}
	if u.refused != nil && u.refused.revision == state.revision {
		a.Refused, a.RefusedFor = &u.refused.Blocker, u.refused.candidates
	}
	if r := u.handover.refused; r != nil && r.current(state.revision, u.now()) {
		a.HandoverRefused, a.HandoverRefusedFor = &r.Blocker, r.handover
	}
	if r, ok := state.replicas[u.handover.from]; !ok || r.Duty == roster.Idle || u.now().Sub(u.handover.since) > time.Minute {
		u.handover.from = ""
	}
	a.HandoverFrom = u.handover.from
	return state, a, leases
}

// foreign is session.foreign: leases that an earlier leader left.
func (u *upgrader) foreign(state snapshot, leases map[string]plan.Lease) {
	for name, r := range state.replicas {
		if l := r.Lease; l.Holder == u.holder {
			leases[name] = plan.Lease{ID: l.ID, Replica: name, Token: l.Token, Instance: l.Instance, Pinned: l.Phase == lease.Pinned}
		}
	}
}

// highest is session.shown: the highest token of a holder's leases.
func (s *snapshot) highest(holder string) (highest int64) {
	for _, r := range s.replicas {
		if r.Lease.Holder == holder {
			highest = max(highest, r.Lease.Token)
		}
	}
	return highest
}

// doubts is session.View.Doubted.
func (u *upgrader) doubts(n plan.Note) bool {
	if n.ID != "" {
		u.noted[n] = true
	}
	return u.adopted && n.ID != "" && n.Token > u.highest && !u.vouched[n] && u.s.cfg.Without != Heeding
}

// gone says whether the arbiter has let go of the plan.
func (u *upgrader) gone() *plan.Blocker {
	if !u.retired {
		return nil
	}
	return &plan.Blocker{Reason: plan.HolderRetired, Message: "the arbiter has let go of this plan"}
}

// reconcileLeases is session.reconcile: what was shown and is shown no more has ended.
func (u *upgrader) reconcileLeases(state snapshot) {
	for name, h := range u.leases {
		shown := state.replicas[name].Lease
		switch {
		case shown.ID == h.ID:
			h.shown = true
			h.gone = h.gone || shown.Phase == lease.Expired
		case h.shown:
			delete(u.leases, name)
		}
	}
}

func (u *upgrader) lease(h *held) plan.Lease {
	pinned := h.Phase == lease.Pinned
	valid := pinned || !h.gone && u.now().Before(h.until)
	h.sure = h.sure || valid
	return plan.Lease{
		ID: h.ID, Replica: h.Replica, Token: h.Token, Instance: h.Instance, Pinned: pinned,
		Valid: valid, Lost: h.gone || h.sure && !valid,
		Outdated: (h.asked.IsZero() || u.now().Sub(h.asked) >= u.s.cfg.TTL/2) && u.s.cfg.Without != Looking,
	}
}

// world is observe.World of what the conversation knows.
func (u *upgrader) world() (w *plan.World, stale bool) {
	u.noted = map[plan.Note]bool{}
	state, arb, leases := u.view()
	return u.observe(state, arb, leases, u.doubts)
}

// observe is observe.World.
func (u *upgrader) observe(state snapshot, arb plan.Arbiter, leases map[string]plan.Lease, doubts func(plan.Note) bool) (w *plan.World, stale bool) {
	p := &u.doing
	w = &plan.World{Policy: p.policy, Arbiter: arb, Term: u.term}
	w.Policy.Paused, w.Policy.Deleting = p.paused, p.deleting
	known := map[string]bool{}
	read := map[string]bool{}
	add := func(t target, leaving bool) {
		next, late := u.target(t, len(w.Targets), state, arb.Blocked != nil, leases)
		if next.Leaving = leaving || next.Returning; u.s.cfg.Without == Announcing {
			next.Leaving, next.Returning = leaving, next.Armed
		}
		stale = stale || late
		read[t.name] = true
		for j := range next.Pods {
			r := &next.Pods[j]
			known[r.Name], r.Doubted = true, r.Exists && doubts(r.Note)
		}
		w.Targets = append(w.Targets, next)
	}
	for _, t := range p.targets {
		add(t, false)
	}
	for _, name := range p.dropped() {
		if set := u.cache.sets[name]; set.Plan != p.uid && set.Plan != "" {
			stale = stale || u.behind("set "+name, set.RV)
			w.Targets = append(w.Targets, plan.Target{Name: name, ResourceVersion: strconv.Itoa(set.RV), Listed: true, Leaving: true})
			continue
		}
		add(target{name: name}, true)
	}
	u.strays(w, leases, known, read)
	if arb.Blocked == nil {
		w.Arbiter.Outside = state.outside(known)
	}
	return w, stale
}

// strays sorts out the leases on replicas that no target has.
func (u *upgrader) strays(w *plan.World, leases map[string]plan.Lease, known, read map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(leases)) {
		pod, exists := u.cache.pods[name]
		switch {
		case known[name]:
		case exists && read[pod.Set]:
			w.Arbiter.Condemned = append(w.Arbiter.Condemned, leases[name])
		default:
			w.Arbiter.Orphans = append(w.Arbiter.Orphans, leases[name])
		}
	}
}

// outside is an idle replica that nobody has leased and that is no target's; "" for none.
func (s *snapshot) outside(known map[string]bool) string {
	for _, name := range slices.Sorted(maps.Keys(s.replicas)) {
		if r := s.replicas[name]; !known[name] && r.Duty == roster.Idle && r.Lease.ID == "" {
			return namespace + "/" + name
		}
	}
	return ""
}

// target is the part of observe.World that reads one set.
func (u *upgrader) target(of target, i int, state snapshot, blocked bool, leases map[string]plan.Lease) (t plan.Target, stale bool) {
	set, p := u.cache.sets[of.name], &u.doing
	t = plan.Target{
		Name: of.name, ResourceVersion: strconv.Itoa(set.RV), Observed: set.Observed == set.Generation, Replicas: set.Replicas,
		CurrentRevision: set.CurrentRevision, UpdateRevision: set.UpdateRevision, Partition: set.Partition,
		Proven: set.Proven, TemplatePending: of.image != "" && set.Image != of.image, Changes: changes(&set),
	}
	_, t.Listed = p.shown[of.name]
	t.TemplateSeen = t.Observed || set.revision() == set.UpdateRevision
	if set.Plan == p.uid {
		t.Armed, t.ArmedTerm, t.OriginalPartition, t.Settings, t.Returning = true, set.Term, set.Original, set.Armed && set.applied(), set.Returning
		t.HookSeen = set.Observed > set.ArmedGeneration
	}
	t.TemplateWritten = of.image != "" && set.Plan != "" && set.ImagesGeneration == p.generation
	if t.TemplatePending && t.TemplateWritten {
		t.Changes = append(t.Changes, of.image)
	}
	stale = u.behind("set "+of.name, set.RV)
	for j := range set.Replicas {
		r, late := u.replica(set.member(j), i, state, blocked, leases)
		stale = stale || late
		if l, ok := p.steps[r.Name]; ok && p.shown[of.name] == t.UpdateRevision {
			r.LastStep, r.LastSince = l.step, l.since
		}
		t.Pods = append(t.Pods, r)
	}
	u.behindOf(&t)
	return t, stale
}

// replica is what is seen of one of them.
func (u *upgrader) replica(name string, target int, state snapshot, blocked bool, leases map[string]plan.Lease) (r plan.Replica, stale bool) {
	pod, exists := u.cache.pods[name]
	r = plan.Replica{Name: name, Target: target, Duty: u.duty(state, name, pod.UID)}
	if l, ok := leases[name]; ok {
		r.Lease = &l
	}
	l, listed := state.replicas[name]
	if exists && (l.Rules.Instance == "" || l.Rules.Instance == pod.UID) {
		r.Unverified = l.Rules.Quarantined && (r.Lease != nil || l.Lease.ID == "") && u.s.cfg.Without != Proof
	}
	if r.Unlisted = !listed && !blocked; r.Lease == nil && l.Lease.Holder != u.doing.uid {
		r.LeasedBy = l.Lease.Holder
	}
	if exists {
		stale = u.behind(pod.UID, pod.RV)
		u.fill(&r, &pod)
	}
	return r, stale
}

// changes is kruise.Changes of what observe.before says.
func changes(set *Set) []string {
	before := set.CurrentRevision
	if set.Proven != "" || set.Plan != "" && set.CurrentRevision == set.UpdateRevision {
		before = set.Proven
	}
	if before != "" && set.Image == imageOf(before) {
		return nil
	}
	return []string{set.Image}
}

// behindOf counts for each replica the later revisions in its set (observe, behind).
func (u *upgrader) behindOf(t *plan.Target) {
	number := u.s.api.numbers
	later := []int{number[t.UpdateRevision]}
	for j := range t.Pods {
		later = append(later, number[t.Pods[j].Revision])
	}
	slices.Sort(later)
	later = slices.Compact(later)
	for j := range t.Pods {
		if r := &t.Pods[j]; r.Exists && r.Revision != t.UpdateRevision {
			at, _ := slices.BinarySearch(later, number[r.Revision])
			r.Behind = len(later) - 1 - at
		}
	}
}

func (u *upgrader) duty(state snapshot, name, uid string) plan.Duty {
	if u.s.cfg.Without == Evidence && u.handover.from == name {
		return plan.Idle
	}
	return dutyOf(state, name, uid)
}

// dutyOf is what the arbiter says of the pod that the upgrader sees; "" for none.
func dutyOf(state snapshot, name, uid string) plan.Duty {
	m := state.replicas[name]
	switch {
	case uid != "" && m.Rules.Instance != "" && m.Rules.Instance != uid:
		return plan.Unknown // it speaks of another pod
	case m.Duty == roster.Working:
		return plan.Working
	case m.Duty == roster.Idle:
		return plan.Idle
	}
	return plan.Unknown
}

// behind says whether the cache does not show a write of ours yet.
func (u *upgrader) behind(of string, rv int) bool {
	made, ok := u.writes[of]
	if ok && rv < made {
		return true
	}
	delete(u.writes, of)
	return false
}

func (u *upgrader) fill(r *plan.Replica, p *Pod) {
	r.Exists, r.Terminating, r.UID, r.ResourceVersion = true, p.Terminating, p.UID, strconv.Itoa(p.RV)
	r.Revision, r.State, r.Hold, r.Grant = p.Revision, p.State, p.Hold, p.Grant
	r.Working, r.WorkingDefault, r.Note, r.Verified, r.Fenced = p.Working, "false", p.Note, p.Verified, p.Fenced
	r.Gated, r.GateOpen, r.GateClosed, r.GateSince = p.Gated, p.Gate == "True", p.Gate == "False", p.GateSince
	r.Ready, r.Fit, r.UpdateDone = p.Ready, p.fit(), p.updateDone()
	if r.Fit {
		r.FitSince = p.fitSince()
	}
	switch {
	case r.Fit && r.UpdateDone:
	case p.waiting() != "":
		r.Trouble = &plan.Blocker{Reason: plan.Reason(p.waiting()), Message: "image " + p.Image}
	case p.sameDigest():
		r.Trouble = &plan.Blocker{Reason: plan.SameDigest, Message: "it runs what it ran before"}
	}
}

// do is apply: one action, with its preconditions. A conflict is looked at again later.
func (u *upgrader) do(pause func(), action plan.Action) {
	pause()
	switch a := action.(type) {
	case plan.Adopt:
		u.adopt(pause)
	case plan.Acquire:
		u.acquire(a)
	case plan.Handover:
		u.askHandover(a)
	case plan.ReleaseLease:
		u.release(a)
	case plan.ApplySet:
		u.applySet(pause, a)
	case plan.WriteTemplate:
		image, generation := u.doing.image(a.Target), u.doing.generation
		u.patchSet(a.Target, "writes the image "+image, a.ResourceVersion, func(s *Set) {
			s.Image, s.Partition, s.ImagesGeneration, s.Foreign = image, a.Partition, generation, false
		})
	case plan.SetCurrentRevision:
		u.patchSet(a.Target, "sets currentRevision "+a.Revision, a.ResourceVersion, func(s *Set) { s.CurrentRevision = a.Revision })
	case plan.Disarm:
		u.patchSet(a.Target, "is disarmed", a.ResourceVersion, func(s *Set) {
			s.Settings, s.Originals = s.Originals, Settings{}
			s.Armed, s.Plan, s.Term, s.ArmedGeneration, s.ImagesGeneration, s.Original, s.Proven, s.Returning = false, "", 0, 0, 0, 0, "", false
		})
	case plan.PatchPod:
		if a.Returns == "" || u.stillReturning(pause, a.Returns) {
			u.patchPod(a)
		}
	case plan.Commit:
		u.commit(pause, a)
	case plan.Pin:
		u.pin(a.Pod, a.Lease)
	case plan.Bar:
		if u.bar(pause, a) {
			u.barred[a.Target] = true
		}
	case plan.Leave:
		u.leave(pause, a)
	}
}

// applySet is apply.applySet.
func (u *upgrader) applySet(pause func(), a plan.ApplySet) {
	if u.cache.sets[a.Target].Plan != u.doing.uid {
		if !u.stillWanted(a.Target) {
			return
		}
		pause()
	}
	uid := u.doing.uid
	u.patchSet(a.Target, fmt.Sprintf("applies partition %d (%s)", a.Partition, a.Why), a.ResourceVersion, func(s *Set) {
		if s.Plan == "" {
			s.Original, s.Originals = s.Partition, s.Settings
		}
		if s.Plan != uid {
			s.Plan, s.ImagesGeneration = uid, 0
		}
		if !s.Armed {
			s.ArmedGeneration = s.Generation
		}
		if a.Proven != "" {
			s.Proven = a.Proven
		}
		s.Returning = s.Returning || a.Return
		s.Armed, s.Settings = true, taken
		s.Term, s.Partition, s.Foreign, s.Unhooked = u.term, a.Partition, false, false
		u.s.tookOver(u, a.Target, uid)
	})
}

// stillWanted is apply.stillWanted: it asks the API server itself.
func (u *upgrader) stillWanted(name string) bool {
	live := &u.s.plan
	return live.uid == u.doing.uid && (!live.deleting || u.doing.deleting) && (!u.doing.named(name) || live.named(name))
}

// stillReturning is apply.stillReturning: it asks the API server itself, once for each decision.
func (u *upgrader) stillReturning(pause func(), name string) bool {
	if !u.returning[name] && u.s.cfg.Without != Announcing {
		live := u.s.api.sets[name]
		if !live.Returning || live.Plan != u.doing.uid || live.Term != u.term || live.Observed != live.Generation {
			return false
		}
		u.returning[name] = true
		pause()
	}
	return true
}

// bar is apply.bar: the set is as before, at another version.
func (u *upgrader) bar(pause func(), a plan.Bar) bool {
	uid := u.doing.uid
	if !u.patchSet(a.Target, "is barred", a.ResourceVersion, func(s *Set) { s.Left = uid }) {
		return false
	}
	pause()
	return u.patchSet(a.Target, "is as before", "0", func(s *Set) { s.Left = "" })
}

// leave retires the holder and takes the finalizer off.
func (u *upgrader) leave(pause func(), a plan.Leave) {
	for _, b := range a.Bars {
		if !u.bar(pause, b) {
			return
		}
		pause()
	}
	if u.adopted && !a.Untold {
		var no *lease.Refusal
		holder, token := u.holder, u.token
		if !u.call(func(time.Time) { no = u.s.arb.table.Retire(holder, token) }) {
			return
		}
		if no != nil {
			u.adopted = u.adopted && no.Reason != lease.StaleToken
			return
		}
		pause()
	}
	u.s.writePlan(u, func(p *planObject) { p.finalizer = false })
}

// call runs a call to the arbiter. ok is false when there is no answer, done or not. fn is a
// message: it may be called later, and more than once.
func (u *upgrader) call(fn func(now time.Time)) (ok bool) {
	return !u.s.now.Before(u.s.cut) && u.s.ask(u.name, fn) == nil
}

// caller is who asks the arbiter for something.
type caller struct {
	name, holder string
	term         int64
}

func (u *upgrader) caller() caller { return caller{u.name, u.holder, u.term} }

func (u *upgrader) adopt(pause func()) {
	if !u.doing.deleting && !u.doing.finalizer {
		if !u.s.writePlan(u, func(p *planObject) { p.finalizer = true }) {
			return
		}
		pause()
	}
	var leases []lease.Lease
	var no *lease.Refusal
	var token int64
	by := u.caller()
	ok := u.call(func(now time.Time) {
		token, leases, no = u.s.arb.table.Adopt(lease.AdoptRequest{Holder: by.holder, Term: by.term, Identity: by.name}, false)
		for _, l := range leases {
			u.s.arb.ages.Renew(l, now)
			u.s.arb.renewed[l.ID] = u.s.now
		}
		if no == nil {
			u.s.arb.adopts(by)
		}
	})
	if ok && no != nil && no.Reason == lease.HolderRetired {
		u.retired = true
		u.s.Kinds["a retired holder refused"]++
	}
	if !ok || no != nil {
		return
	}
	if u.holder != u.s.plan.uid {
		u.s.fail("7: %s adopts for %s, which has gone", u.name, u.holder)
	}
	u.adopts(token, leases)
	u.s.tell(u.name, "adopts with token %d", token)
}

// adopts is what session.Adopt does with the answer.
func (u *upgrader) adopts(token int64, leases []lease.Lease) {
	old, state := u.leases, u.s.arb.shown[u.viewed]
	u.adopted, u.token, u.leases, u.request = true, token, map[string]*held{}, 0
	u.highest, u.vouched = max(token, state.highest(u.holder)), u.noted
	for _, l := range leases {
		asked := time.Time{}
		if h := old[l.Replica]; h != nil && h.ID == l.ID {
			asked = h.asked
		}
		u.track(l, asked)
	}
}

// track notes a lease; it is not sure before it was renewed.
func (u *upgrader) track(l lease.Lease, asked time.Time) {
	u.highest = max(u.highest, l.Token)
	h := u.leases[l.Replica]
	if h == nil || h.ID != l.ID {
		h = &held{asked: asked}
		u.leases[l.Replica] = h
	}
	h.Lease, h.gone = l, l.Phase == lease.Expired
}

func (u *upgrader) acquire(a plan.Acquire) {
	if u.request == 0 {
		u.s.requests++
		u.request = u.s.requests
	}
	r := lease.AcquireRequest{Holder: u.holder, Token: u.token, RequestID: strconv.Itoa(u.request), Max: a.Max, TTL: u.s.cfg.TTL}
	for _, c := range a.Candidates {
		r.Candidates = append(r.Candidates, lease.Candidate{Replica: c.Replica, Instance: c.UID})
	}
	var got lease.Acquired
	by, asked := u.caller(), u.now()
	if !u.call(func(now time.Time) {
		before, leases := u.s.arb.serving(), maps.Clone(u.s.arb.table.Leases)
		got = u.s.arb.acquire(r, now)
		u.s.arb.granted(by, r, got, before, leases)
		for _, l := range got.Leases {
			u.s.arb.ages.Renew(l, now)
			u.s.arb.renewed[l.ID] = u.s.now
		}
	}) {
		u.adopted = false
		return
	}
	u.request, u.refused = 0, nil
	no := got.Refusal
	if no == nil && len(got.Refused) > 0 && len(got.Leases) < a.Max {
		no = got.Refused[0].Refusal
	}
	for _, l := range got.Leases {
		u.track(l, asked)
		u.s.tell(u.name, "has the lease %s on %s", l.ID, l.Replica)
	}
	if u.refuse(&u.refused, no); u.refused != nil {
		u.refused.candidates = a.Candidates
		u.s.tell(u.name, "is refused a lease: %s", no.Message)
	}
}

func (u *upgrader) refuse(to **refusal, no *lease.Refusal) {
	switch {
	case no == nil:
	case no.Reason == lease.StaleToken:
		u.adopted = false
	default:
		*to = &refusal{Blocker: plan.Blocker{Reason: plan.WaitingForLease, Message: no.Message, Retry: true}, revision: u.viewed}
		if no.RetryAfter > 0 {
			(*to).retry = u.now().Add(no.RetryAfter)
		}
	}
}

func (u *upgrader) askHandover(a plan.Handover) {
	var no *lease.Refusal
	successor, holder, token := "", u.holder, u.token
	if !u.call(func(time.Time) {
		if no = u.s.arb.table.CheckHolder(holder, token); no == nil {
			successor, no = u.s.arb.handover(a.From, a.To)
		}
	}) {
		return
	}
	u.handover.refused = nil
	if no != nil {
		if u.refuse(&u.handover.refused, no); u.handover.refused != nil {
			u.handover.refused.Reason, u.handover.refused.handover = plan.HandoverRefused, a
		}
		return
	}
	u.s.tell(u.name, "asks to move duty from %s to %s", a.From, successor)
	u.handover.from, u.handover.since = a.From, u.now()
}

func (u *upgrader) release(a plan.ReleaseLease) {
	var no *lease.Refusal
	by := u.caller()
	ok := u.call(func(time.Time) {
		var ended *lease.Lease
		ended, no = u.s.arb.table.Release(lease.Ref{ID: a.Lease.ID, Token: a.Lease.Token})
		if ended == nil || no != nil {
			return
		}
		u.s.tell(by.name, "releases %s on %s, upgraded: %t", a.Lease.ID, a.Lease.Replica, a.Upgraded)
		u.s.arb.obeys(by)
		u.s.ended(by.name, a)
		if a.Upgraded {
			u.s.arb.record.Trust(a.Revision)
			u.s.arb.proven[a.Revision] = true
		}
	})
	switch {
	case !ok:
	case no != nil:
		u.adopted = u.adopted && no.Reason != lease.StaleToken
	default:
		if h := u.leases[a.Lease.Replica]; h != nil && h.ID == a.Lease.ID {
			delete(u.leases, a.Lease.Replica)
		}
		u.refused = nil
	}
}

// holds says whether it has leases.
func (u *upgrader) holds() bool {
	if u.real != nil {
		return u.real.holds()
	}
	return len(u.leases) > 0
}

// renew keeps the leases alive, in the background of the process.
func (u *upgrader) renew() {
	if u.real != nil {
		u.real.renew()
		return
	}
	for _, name := range slices.Sorted(maps.Keys(u.leases)) {
		h := u.leases[name]
		if h.Phase != lease.Leased || h.gone {
			continue
		}
		asked := u.now()
		var no *lease.Refusal
		ref, by := lease.Ref{ID: h.ID, Token: h.Token}, u.caller()
		if !u.call(func(now time.Time) {
			var l *lease.Lease
			if l, no = u.s.arb.table.Renew(ref, &u.s.arb.ages, now); no == nil {
				u.s.arb.ages.Renew(*l, now)
				u.s.arb.renewed[l.ID] = u.s.now
				u.s.arb.obeys(by)
			}
		}) {
			continue
		}
		if no != nil {
			h.gone = true
			continue
		}
		h.until = asked.Add(u.s.cfg.TTL)
	}
}

func (u *upgrader) patchSet(name, what, rv string, fn func(*Set)) (ok bool) {
	n, _ := strconv.Atoi(rv)
	var s Set
	if err := u.s.send(message{u.name, func() (err error) {
		if s, err = u.s.api.patchSet(name, n, fn); err == nil {
			u.s.tell(u.name, "%s: %s", name, what)
		}
		return err
	}}); err != nil {
		u.s.tell(u.name, "%s: %s: %v", name, what, err)
		return false
	}
	u.writes["set "+name] = max(u.writes["set "+name], s.RV)
	return true
}

// commit pins and then takes the hold off the very version that was seen.
func (u *upgrader) commit(pause func(), a plan.Commit) {
	if !a.Lease.Pinned && u.s.cfg.Without != PinCheck {
		if !u.pin(a.Pod, a.Lease) {
			return
		}
		u.about = "releases " + a.Pod
		pause()
	}
	off, none := false, ""
	u.patchPod(plan.PatchPod{Pod: a.Pod, UID: a.UID, ResourceVersion: a.ResourceVersion, Hold: &off, Verified: &none, Why: plan.Releasing})
	if u.s.cfg.Without == Keeping {
		u.release(plan.ReleaseLease{Lease: a.Lease})
	}
}

func (u *upgrader) pin(pod string, l plan.Lease) bool {
	var no *lease.Refusal
	var pinned *lease.Lease
	by := u.caller()
	if !u.call(func(now time.Time) {
		before := u.s.arb.phase(l.ID)
		if pinned, no = u.s.arb.table.Pin(lease.Ref{ID: l.ID, Token: l.Token}, l.Instance, u.s.arb.rules(), &u.s.arb.ages, now); pinned != nil {
			u.s.arb.pinned(by, *pinned, l.Instance, before)
		}
	}) {
		return false
	}
	if no == nil {
		u.track(*pinned, time.Time{})
		u.s.tell(u.name, "pins %s on %s", l.ID, pod)
		return true
	}
	u.s.tell(u.name, "is refused the pin of %s: %s", pod, no.Message)
	if no.Reason == lease.StaleToken {
		u.adopted = false
	} else if h := u.leases[l.Replica]; h != nil && h.ID == l.ID {
		h.gone = true
	}
	return false
}

func (u *upgrader) patchPod(a plan.PatchPod) {
	rv, _ := strconv.Atoi(a.ResourceVersion)
	if u.s.cfg.Without == Precondition {
		a.UID, rv = "", 0
	}
	var p Pod
	now := u.now()
	if err := u.s.send(message{u.name, func() (err error) {
		was := u.s.api.pods[a.Pod]
		if p, err = u.s.api.patchPod(a.Pod, a.UID, rv, func(q *Pod) { change1(q, a, now) }); err == nil {
			u.s.wrote(u, was, p, a)
		}
		return err
	}}); err != nil {
		u.s.tell(u.name, "patches %s (%s): %v", a.Pod, a.Why, err)
		return
	}
	u.writes[p.UID] = max(u.writes[p.UID], p.RV)
}

func change1(q *Pod, a plan.PatchPod, now time.Time) {
	if a.Hold != nil {
		q.Hold = *a.Hold
	}
	if a.Grant != nil {
		q.Grant = *a.Grant
	}
	if a.Working != nil {
		q.Working = *a.Working
	}
	if a.State != nil {
		q.State = *a.State
	}
	if a.Note != nil {
		q.Note = *a.Note
	}
	if a.Verified != nil {
		q.Verified = *a.Verified
	}
	if a.Fence != nil {
		q.Fenced = *a.Fence
	}
	if a.Gate != nil {
		if gate := map[bool]string{true: "True", false: "False"}[*a.Gate]; q.Gate != gate {
			q.Gate, q.GateSince = gate, now.Truncate(time.Second)
		}
	}
}

func diffPod(was, is Pod) string {
	var s strings.Builder
	for _, f := range []struct{ name, was, is string }{
		{"hold", fmt.Sprint(was.Hold), fmt.Sprint(is.Hold)},
		{"grant", fmt.Sprint(was.Grant), fmt.Sprint(is.Grant)},
		{"working", was.Working, is.Working},
		{"state", string(was.State), string(is.State)},
		{"note", was.Note.ID, is.Note.ID},
		{"token", fmt.Sprint(was.Note.Token), fmt.Sprint(is.Note.Token)},
		{"verified", was.Verified, is.Verified},
		{"gate", was.Gate, is.Gate},
		{"fenced", fmt.Sprint(was.Fenced), fmt.Sprint(is.Fenced)},
	} {
		if f.was != f.is {
			s.WriteString(" " + f.name + "=" + f.is)
		}
	}
	return s.String()
}
