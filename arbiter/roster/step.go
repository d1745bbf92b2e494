package roster

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// forgetAfter is how long a member without pod, duty and lease is remembered.
const forgetAfter = 10 * time.Minute

// maxRounds bounds how often duty is looked at again in one Step.
const maxRounds = 4

// Messages of members; a closed set, so that they change only with the state.
const (
	msgIdle        = "it has no duty"
	msgAcked       = "acknowledged idle"
	msgLapsed      = "its last answer has run out"
	msgSettled     = "best effort: it does not attend; settleSeconds have passed"
	msgNeverOnDuty = "best effort: it does not attend; it never had duty"
	msgNoPod       = "best effort: it has no pod"
	msgOnDuty      = "on duty"
	msgNotAttended = "best effort: on duty, and does not attend"
	msgOnDutyNoPod = "on duty, but it has no pod"
	msgDrainAsk    = "its duty was taken; it has not acknowledged idle yet"
	msgDrainTime   = "best effort: its duty was taken; it does not attend, settleSeconds are running"
	msgFrozen      = "the arbiter's record was lost"
	msgNews        = "seen for the first time; an earlier roster may have given it duty"
	msgInsists     = "it says that it works, though it has no duty"
)

// Step brings r up to date with in. It returns notes and the next moment at which time
// alone changes something (zero: none). r is changed in place, m only in what this
// process has seen.
//
// Invariants (FuzzStep): a leased or quarantined member is never given duty; a member
// becomes Idle only when it has acknowledged that at its current generation, when the
// last answer that could have said working has run out, or, when it does not attend,
// when settleSeconds have passed or its pod has gone; Slots are never exceeded by members
// that attend, those still draining included. Of an observed roster see observe.
func Step(r *Record, m *Memory, in Input) (Notes, time.Time) {
	s := &step{r: r, m: m, in: in}
	s.sight()
	if in.Frozen {
		s.recover()
		s.trustPresent()
		return s.notes(), s.next
	}
	r.trustSeen(in.Pods, in.Holders)
	if in.Config.Observed != nil {
		s.observe()
		return s.notes(), s.next
	}
	// Whoever becomes idle frees a slot, and whoever loses duty may be idle at once: twice
	// is enough for both, the rest is a bound.
	for s.moved = true; s.moved && s.rounds < maxRounds; s.rounds++ {
		s.moved = false
		s.settle()
		if in.Config.Named {
			s.assignNamed()
		} else {
			s.assignSlots()
		}
	}
	s.settle()
	s.describe()
	return s.notes(), s.next
}

// step carries one call of Step.
type step struct {
	r    *Record
	m    *Memory
	in   Input
	next time.Time
	// moved: duty has moved in this round.
	moved  bool
	rounds int
	// unsettled says why nobody of an observed roster is idle.
	unsettled string
	// armed are the sets of which any pod is held; nil: not looked up yet.
	armed map[string]bool
}

// at asks for another Step at t.
func (s *step) at(t time.Time) {
	if t.After(s.in.Now) && (s.next.IsZero() || t.Before(s.next)) {
		s.next = t
	}
}

// since returns when name entered a state that is kept in m, and starts it now if new.
func (s *step) since(m map[string]time.Time, name string) time.Time {
	if _, ok := m[name]; !ok {
		m[name] = s.in.Now
	}
	return m[name]
}

// sight records which members there are.
func (s *step) sight() {
	for name, p := range s.in.Pods {
		delete(s.m.missing, name)
		mem, known := s.r.Members[name]
		if !known {
			mem = s.firstSeen(name, p)
		}
		if mem.Instance != p.Instance {
			mem.Instance, mem.Attends = p.Instance, false
		}
		if a := s.in.Attendance[name]; a.Connected && a.Instance == p.Instance {
			mem.Attends = true
		}
		s.r.Members[name] = mem
	}
	s.forget()
}

// firstSeen is a member that is not recorded. Usually it never had duty here.
func (s *step) firstSeen(name string, p Pod) Member {
	mem := Member{Generation: 1, Duty: Idle, Message: msgNeverOnDuty}
	switch {
	case s.in.Frozen:
		mem.Duty = Unknown
	case p.OnDuty || s.in.Attendance[name].ToldUntil.After(s.in.Now):
		mem.Duty, mem.Message = Unknown, msgNews
	}
	return mem
}

// forget drops members that have been gone for long and owe nothing.
func (s *step) forget() {
	for name, mem := range s.r.Members {
		if _, ok := s.in.Pods[name]; ok {
			continue
		}
		gone := s.since(s.m.missing, name).Add(forgetAfter)
		if s.owes(mem) || s.in.Leased(name) {
			continue
		}
		if s.at(gone); !s.in.Now.Before(gone) {
			delete(s.r.Members, name)
			delete(s.m.missing, name)
		}
	}
}

// owes says whether a member may have duty that is to be taken from it first. In an observed
// roster nobody waits for that.
func (s *step) owes(mem Member) bool {
	return s.in.Config.Observed == nil && (mem.Assigned || mem.Duty != Idle)
}

// recover finds out, while the record is lost, who seems to work: by the label and by
// what attending members say. Nothing is Idle yet.
func (s *step) recover() {
	for name, mem := range s.r.Members {
		a, p := s.in.Attendance[name], s.in.Pods[name]
		works := p.OnDuty || a.Connected && a.AckedDuty == Working
		if works && !mem.Assigned && !s.in.Leased(name) && p.LeaseID == "" {
			mem.Assigned = true
			mem.Generation++
		}
		if a.Connected && a.Acked > mem.Generation {
			mem.Generation = a.Acked + 1
		}
		mem.Duty, mem.Message = Unknown, msgFrozen
		s.r.Members[name] = mem
	}
}

// trustPresent trusts, while the record is lost, every revision that is there, except those
// of pods which are being upgraded. In a set at which an upgrader was at work only what it
// verified is trusted, and what works.
func (s *step) trustPresent() {
	armed := map[string]bool{}
	for _, p := range s.in.Pods {
		if p.Verified != "" {
			armed[SetOf(p.Verified)] = true
		}
	}
	present := map[string]Pod{}
	for name, p := range s.in.Pods {
		proven := p.Verified == p.Revision || s.r.Members[name].Assigned || !armed[SetOf(p.Revision)]
		if proven && p.LeaseID == "" && !s.in.Leased(name) {
			present[name] = p
		}
	}
	s.r.trustSeen(present, false)
}

// settle finds the members without duty that have become idle.
func (s *step) settle() {
	for name, mem := range s.r.Members {
		if mem.Assigned {
			delete(s.m.revoked, name)
			continue
		}
		if a := s.in.Attendance[name]; mem.Duty == Idle && a.Connected && a.AckedDuty == Working {
			mem.Duty, mem.Message = Unknown, msgInsists
		}
		if mem.Duty != Idle {
			mem = s.settleOne(name, mem)
		}
		if mem.Duty == Idle {
			delete(s.m.revoked, name)
		}
		s.r.Members[name] = mem
	}
}

func (s *step) settleOne(name string, mem Member) Member {
	a := s.in.Attendance[name]
	revoked := s.since(s.m.revoked, name)
	p, exists := s.in.Pods[name]
	if p.OnDuty && !mem.Attends {
		// The label still says working: it cannot know better yet.
		revoked = s.in.Now
		s.m.revoked[name] = revoked
	}
	idle := func(why string) Member {
		mem.Duty, mem.Message = Idle, why
		return mem
	}
	if a.OldUntil.After(s.in.Now) {
		s.at(a.OldUntil)
		return mem
	}
	talks := mem.Attends && a.Connected && a.Instance == mem.Instance
	switch {
	case talks && a.Acked == mem.Generation && a.AckedDuty == Idle && !a.Telling:
		return idle(msgAcked)
	case talks && a.AckedDuty == Working:
		return mem // its own word counts for more than the time that has passed
	}
	if a.Telling || a.ToldUntil.After(s.in.Now) {
		s.at(a.ToldUntil)
		return mem
	}
	if mem.Attends {
		return idle(msgLapsed)
	}
	if !exists {
		return idle(msgNoPod)
	}
	if mem.Message == msgNews && !p.OnDuty {
		return idle(msgNeverOnDuty)
	}
	settled := revoked.Add(s.in.Config.Settle)
	if s.at(settled); !s.in.Now.Before(settled) {
		return idle(msgSettled)
	}
	return mem
}

// give assigns duty: from this moment on the member may be working.
func (s *step) give(name string) {
	mem := s.r.Members[name]
	a := s.in.Attendance[name]
	mem.Assigned, mem.Duty = true, Working
	mem.Generation++
	mem.Attends = a.Connected && a.Instance == mem.Instance
	s.r.Members[name] = mem
	s.moved = true
}

// take revokes duty: the member still counts as working until settle finds it idle.
func (s *step) take(name string) {
	mem := s.r.Members[name]
	mem.Assigned, mem.Duty = false, Working
	mem.Generation++
	s.r.Members[name] = mem
	delete(s.m.unfit, name)
	s.m.revoked[name] = s.in.Now
	s.moved = true
}

// forbidden says whether a member may have no duty at all.
func (s *step) forbidden(name string) bool {
	return s.in.Leased(name) || Quarantined(*s.r, s.in.Pods[name], s.in.Holders)
}

// unheld says whether a member may get no new duty because its pod was created anew in a
// set that the upgrader has armed, and is not held yet: Kruise could still update it, by a
// write of the partition that was decided before (docs/decisions/0001-fences-are-tokens.md).
func (s *step) unheld(name string) bool {
	p := s.in.Pods[name]
	if !s.in.Holders || p.Held || p.Revision == "" {
		return false
	}
	if s.armed == nil {
		s.armed = map[string]bool{}
		for _, o := range s.in.Pods {
			if o.Held {
				s.armed[SetOf(o.Revision)] = true
			}
		}
	}
	return s.armed[SetOf(p.Revision)]
}

// fit says whether a member could work now.
func (s *step) fit(name string) bool {
	p, ok := s.in.Pods[name]
	return ok && !p.Terminating && Fit(s.r.Members[name], p, s.in.Attendance[name])
}

// Fit says whether a member's own state lets it take over duty: ready, or attending and
// healthy. One that attends must be in conversation.
func Fit(mem Member, p Pod, a Attendance) bool {
	if a.Connected && a.Instance == p.Instance {
		return a.Health == Healthy || a.Health == HealthUnknown && p.Ready
	}
	return p.Ready && !mem.Attends
}

// assignNamed gives duty to exactly the named members that may have it.
func (s *step) assignNamed() {
	s.m.Handover = nil
	clear(s.m.unfit)
	for _, name := range sortedNames(s.r.Members) {
		_, exists := s.in.Pods[name]
		want := slices.Contains(s.in.Config.Names, name) && !s.forbidden(name)
		switch assigned := s.r.Members[name].Assigned; {
		case want && !assigned && exists && !s.unheld(name):
			s.give(name)
		case !want && assigned:
			s.take(name)
		}
	}
}

// assignSlots keeps Slots members on duty: sticky, with failover and handover.
func (s *step) assignSlots() {
	s.takeUnfit()
	s.takeSurplus()
	s.handover()
	for _, name := range s.candidates() {
		if s.open() <= 0 {
			return
		}
		if h := s.m.Handover; h != nil && (name == h.From || name == h.To) {
			continue // handover itself gives and takes these
		}
		s.give(name)
	}
}

// takeUnfit revokes duty that is forbidden at once, and duty of members that have been
// unfit for too long as far as others can take over. Nobody serves less when one that is
// down has no duty; but it can then be leased, and an upgrade may be what mends it.
func (s *step) takeUnfit() {
	spare := len(s.candidates())
	for _, name := range s.assigned() {
		switch {
		case s.forbidden(name):
			s.take(name)
		case s.fit(name):
			delete(s.m.unfit, name)
		default:
			grace := s.in.Config.Failover
			if a := s.in.Attendance[name]; s.r.Members[name].Attends && !a.Connected {
				// After a restart of the arbiter everybody has to come back first.
				grace = max(grace, s.in.Config.Lifetime)
			}
			until := s.since(s.m.unfit, name).Add(grace)
			if s.at(until); !s.in.Now.Before(until) && (spare > 0 || s.in.Holders && s.down(name)) {
				spare--
				s.take(name)
			}
		}
	}
}

// down says whether a member certainly does not work: none of its containers runs, or it
// attends, is in no conversation, and has outlived whatever it was told.
func (s *step) down(name string) bool {
	p, exists := s.in.Pods[name]
	a := s.in.Attendance[name]
	if !exists || a.Connected || a.Telling {
		return false
	}
	for _, until := range []time.Time{a.ToldUntil, a.OldUntil} {
		if until.After(s.in.Now) {
			s.at(until)
			return false
		}
	}
	return p.Down || s.r.Members[name].Attends
}

// takeSurplus revokes duty beyond Slots, from the least preferred members.
func (s *step) takeSurplus() {
	on := s.assigned()
	s.prefer(on)
	for len(on) > s.in.Config.Slots {
		s.take(on[len(on)-1])
		on = on[:len(on)-1]
	}
}

// handover moves duty as was asked: first taken, seen idle, then given. It is given up
// when the successor is lost and nobody can take its place.
func (s *step) handover() {
	h := s.m.Handover
	if h == nil {
		return
	}
	from, known := s.r.Members[h.From]
	if s.r.Members[h.To].Assigned && !from.Assigned {
		s.m.Handover = nil // done, and recorded
		return
	}
	candidates := s.candidates()
	if !slices.Contains(candidates, h.To) {
		i := slices.IndexFunc(candidates, func(n string) bool { return n != h.From })
		if i < 0 {
			s.m.Handover = nil
			return
		}
		h.To = candidates[i]
	}
	switch {
	case known && from.Assigned:
		s.take(h.From)
	case known && from.Duty != Idle:
	case s.open() > 0:
		s.give(h.To)
	default:
		s.m.Handover = nil
	}
}

// open counts the slots that may be given now. A member that attends and is draining
// still fills its slot: its successor must not work beside it.
func (s *step) open() int {
	open := s.in.Config.Slots
	for name, mem := range s.r.Members {
		handedOver := s.m.Handover != nil && s.m.Handover.From == name
		if mem.Assigned || mem.Duty != Idle && (mem.Attends || handedOver) {
			open--
		}
	}
	return open
}

// candidates are the members that could be given duty now, in order of preference.
func (s *step) candidates() []string {
	var out []string
	for name, mem := range s.r.Members {
		if !mem.Assigned && mem.Duty == Idle && s.fit(name) && !s.forbidden(name) && !s.unheld(name) {
			out = append(out, name)
		}
	}
	s.prefer(out)
	return out
}

func (s *step) assigned() []string {
	var out []string
	for name, mem := range s.r.Members {
		if mem.Assigned {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, compareNames)
	return out
}

// prefer sorts names: the most recently verified revision first, so that duty has to
// move as rarely as possible during an upgrade; then by ordinal.
func (s *step) prefer(names []string) {
	rank := func(n string) int { return slices.Index(s.r.Trusted, s.in.Pods[n].Revision) }
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(b), rank(a)), compareNames(a, b))
	})
}

// describe sets duty and message of members on duty or draining.
func (s *step) describe() {
	for name, mem := range s.r.Members {
		_, exists := s.in.Pods[name]
		switch {
		case mem.Assigned && !exists:
			mem.Duty, mem.Message = Unknown, msgOnDutyNoPod
		case mem.Assigned && mem.Attends:
			mem.Duty, mem.Message = Working, msgOnDuty
		case mem.Assigned:
			mem.Duty, mem.Message = Working, msgNotAttended
		case mem.Duty == Idle && mem.Attends && mem.Message != msgAcked && mem.Message != msgLapsed:
			mem.Message = msgIdle
		case mem.Duty == Idle || mem.Message == msgInsists || mem.Message == msgNews:
		case mem.Attends:
			mem.Message = msgDrainAsk
		default:
			mem.Message = msgDrainTime
		}
		s.r.Members[name] = mem
	}
}

func (s *step) notes() Notes {
	n := Notes{Wanted: s.in.Config.Slots}
	if s.in.Config.Observed != nil {
		s.noteObserved(&n)
		return n
	}
	if s.in.Config.Named {
		n.Wanted = len(s.in.Config.Names)
		n.Absent, n.Leased = s.named()
	}
	for _, name := range sortedNames(s.r.Members) {
		mem, p := s.r.Members[name], s.in.Pods[name]
		if mem.Assigned {
			n.Assigned++
			if !s.fit(name) {
				n.Unfit = append(n.Unfit, name)
			}
		}
		if !mem.Assigned && mem.Duty != Idle {
			n.Draining = append(n.Draining, name)
		}
		if mem.Duty != Idle && !mem.Attends {
			n.BestEffort = append(n.BestEffort, name)
		}
		s.noteBanned(&n, name, mem, p)
	}
	return n
}

// noteBanned notes a member that may have no duty because of an upgrade.
func (s *step) noteBanned(n *Notes, name string, mem Member, p Pod) {
	switch {
	case Quarantined(*s.r, p, s.in.Holders):
		n.Quarantined = append(n.Quarantined, name)
	case !mem.Assigned && s.fit(name) && !s.in.Leased(name) && s.unheld(name):
		n.Unheld = append(n.Unheld, name)
	}
}

// named returns the named workers that have no pod, and those that are leased.
func (s *step) named() (absent, leased []string) {
	for _, name := range s.in.Config.Names {
		if _, exists := s.in.Pods[name]; !exists {
			absent = append(absent, name)
		} else if s.in.Leased(name) {
			leased = append(leased, name)
		}
	}
	return absent, leased
}

// RequestHandover asks to move duty from one member to the first candidate that can take
// it. It returns the successor, empty when from has no duty and nothing is to be done.
// While one handover is under way another is refused: duty moves one at a time.
func RequestHandover(r *Record, m *Memory, in Input, from string, candidates []string) (string, Refused) {
	s := &step{r: r, m: m, in: in}
	mem, known := r.Members[from]
	h := m.Handover
	switch {
	case !known:
		return "", RefusedUnknown
	case in.Config.Observed != nil:
		return "", RefusedObserved
	case in.Config.Named:
		return "", RefusedNamed
	case h != nil && h.From == from:
		return h.To, Accepted
	case !mem.Assigned:
		return "", Accepted
	case h != nil:
		return "", RefusedBusy
	}
	able := s.candidates()
	for _, c := range candidates {
		if c != from && slices.Contains(able, c) {
			m.Handover = &Handover{From: from, To: c}
			return c, Accepted
		}
	}
	return "", RefusedNoSuccessor
}

// Refused says why a handover is not tried.
type Refused int

// The answers to a handover.
const (
	Accepted Refused = iota
	RefusedUnknown
	RefusedNamed
	RefusedObserved
	RefusedBusy
	RefusedNoSuccessor
	// RefusedUncertain: whether it works is not known.
	RefusedUncertain
	// RefusedAgain: the application was asked for the same before.
	RefusedAgain
)

// compareNames compares "web-2" before "web-10".
func compareNames(a, b string) int {
	pa, na := ordinal(a)
	pb, nb := ordinal(b)
	return cmp.Or(strings.Compare(pa, pb), cmp.Compare(na, nb), strings.Compare(a, b))
}

func ordinal(name string) (string, int) {
	i := strings.LastIndexByte(name, '-')
	n, err := strconv.Atoi(name[i+1:])
	if i < 0 || err != nil {
		return name, 0
	}
	return name[:i], n
}

func sortedNames[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for name := range m {
		out = append(out, name)
	}
	slices.SortFunc(out, compareNames)
	return out
}
