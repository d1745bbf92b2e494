package protocol

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A trace is what was seen of a real run: the versions of pods and sets in the one order
// that etcd gave them, and the arbiter's record among them. What nobody can see, the caches
// and what an upgrader has under way, is searched for: a trace is a behaviour of the model
// if there is at least one way to fill that in.

// Limits of a trace.
const (
	MaxReplicas = maxReplicas
	MaxSets     = maxTargets
	// Parked is the partition of a set that is not being rolled out.
	Parked = parked
)

// Phases of a lease.
const (
	NoLease = none
	Leased  = leased
	Pinned  = pinned
	Expired = expired
)

// States of a pod; an absent one is Normal.
const (
	Normal    = normal
	Preparing = preparing
	Updating  = updating
	Updated   = updated
)

// Replica is what can be seen of one replica.
type Replica struct {
	Rev         uint8 // number of the pod's revision, from 1; 0: no pod
	Hold, Grant bool
	State       uint8
	GateClosed  bool
	Verified    uint8  // number of a revision
	Note, Fence uint16 // tokens
	Phase       uint8  // of the lease
	Token       uint16 // of the lease; 0 without one
	Working     bool   // not known to be idle
}

// Set is what can be seen of a set.
type Set struct {
	Armed               bool
	Template, Partition uint8 // number of the revision; Parked
	Current             uint8
	Term                uint8 // the number of the leader whose term is on it
}

// Sight is everything that can be seen at one moment.
type Sight struct {
	Replicas [maxReplicas]Replica
	Sets     [maxTargets]Set
	Lead     uint8 // the number of the leader that adopted last
	Deleted  bool  // the plan is being deleted
	Left     bool  // its holder was retired
}

// latest is the number of the latest leader of whom v tells.
func (v *Sight) latest() uint8 {
	n := v.Lead
	for j := range v.Sets {
		n = max(n, v.Sets[j].Term)
	}
	return n
}

// Author is who made a version.
type Author uint8

// The authors.
const (
	System   Author = iota // Kruise, the arbiter, the application, a node
	Upgrader               // any of its leaders
	Foreign                // somebody else: what it does is taken as it is
	Unknown                // the audit log does not say: System or Upgrader, which was killed meanwhile
)

// Event is one version of one object.
type Event struct {
	Sight      // after it
	By         Author
	Pod, Set   int    // what it is a version of, by its place; -1: neither
	Text, When string // for people
}

// Trace is a run of one plan.
type Trace struct {
	Sets     []int // how many replicas each has, in their order
	Gate     bool  // the pods declare our gate
	Original [maxTargets]uint8
	Finished [maxTargets]uint8 // the revision at which each set was last at rest; 0: not known
	Start    Sight
	Earlier  []Sight // what Kruise may still believe at the start, beside that
	Events   []Event
}

// Rejection says where a trace left the model.
type Rejection struct {
	Event  int
	Text   string
	Before []string // what was seen before, the last of it
	States []string // what the model was in, a few of them
	Could  []string // what it could have done next that could have been seen
}

func (r *Rejection) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "event %d is not a behaviour of the protocol: %s\n  before that:\n", r.Event, r.Text)
	for _, l := range r.Before {
		b.WriteString("    " + l + "\n")
	}
	b.WriteString("  the model was in one of these states, among others:\n")
	for _, l := range r.States {
		b.WriteString("    " + l + "\n")
	}
	b.WriteString("  and could have done one of these:\n")
	for _, l := range r.Could {
		b.WriteString("    " + l + "\n")
	}
	return b.String()
}

// ErrTooMany says that a trace allows too many ways to fill in what was not seen.
var ErrTooMany = errors.New("too many states are compatible with what was seen")

// mostStates bounds a search; a run with one leader needs some hundreds.
const mostStates = 200_000

// Summary of a trace that was accepted.
type Summary struct {
	Events  int // that changed what can be seen
	Touches int // that changed nothing of it
	Most    int // states that were compatible at once
	Skipped int // that were not judged, as nobody knows what was under way
}

func (s Summary) String() string {
	line := fmt.Sprintf("%d events and %d others, at most %d states compatible at once", s.Events, s.Touches, s.Most)
	if s.Skipped > 0 {
		line += fmt.Sprintf("; %d not judged after a cut", s.Skipped)
	}
	return line
}

// Accepts checks that t is a behaviour of the protocol. Errors: *Rejection; ErrTooMany.
//
// Not judged: what the plan asks for, how many leases it may have, and whether duty goes
// where the roster wants it.
func (p Rules) Accepts(t Trace) (Summary, error) {
	c := checker{trace: &t}
	p.Targets, p.Gate, p.Batch, p.Follow, p.Slots, p.Wishes = t.Sets, t.Gate, true, false, 0, []uint8{1}
	p.MaxLeased, p.Losses, p.Expiries, p.Leaders, p.Delete = maxReplicas, 255, 255, 1, false
	p.before, p.trace, p.Keeps = t.Original, true, true
	c.w = next{Rules: &p}
	c.now = c.start(&p)
	for c.at = range t.Events {
		if err := c.event(&t.Events[c.at]); err != nil {
			return c.sum, err
		}
		if t.Events[c.at].Left {
			break
		}
	}
	return c.sum, nil
}

// checker is the set of states that are compatible with what was seen so far.
type checker struct {
	trace *Trace
	at    int
	w     next
	now   map[state]struct{}
	sum   Summary
}

// start are the states at the beginning: what was there has been seen by everybody, or Kruise
// is late.
func (c *checker) start(p *Rules) map[state]struct{} {
	s := c.startState(p)
	all := map[state]struct{}{s: {}}
	for k := range c.trace.Earlier {
		v := &c.trace.Earlier[k]
		late := s
		for i := range late.n {
			var r replica
			r.see(&v.Replicas[i])
			late.r[i].seen = r.pod
		}
		all[late] = struct{}{}
		for j := range late.m {
			var t target
			t.see(&v.Sets[j])
			late.t[j].seen = t.set
		}
		all[late] = struct{}{}
	}
	return all
}

func (c *checker) startState(p *Rules) state {
	s := p.blank()
	v := &c.trace.Start
	s.trusted = 0
	for i := range s.n {
		r := &s.r[i]
		r.see(&v.Replicas[i])
		r.seen = r.pod
		r.sameUID = r.phase != none
		r.committed = r.released()
		s.trusted |= 1 << r.rev
	}
	for j := range s.m {
		t := &s.t[j]
		t.see(&v.Sets[j])
		t.seen, t.finished = t.set, c.trace.Finished[j]
		for l := range s.minds {
			s.minds[l].view[j] = t.template
		}
	}
	s.lead, s.reign, s.deleted = v.latest(), v.Lead, v.Deleted
	s.look()
	return s
}

// see makes of r what was seen of it.
func (r *replica) see(v *Replica) {
	r.pod = pod{rev: v.Rev, hold: v.Hold, grant: v.Grant, state: v.State, restarting: r.restarting && v.Rev == r.rev}
	r.gateClosed, r.verified, r.note, r.fence = v.GateClosed, v.Verified, v.Note, v.Fence
	r.phase, r.token, r.working = v.Phase, v.Token, v.Working
}

func (t *target) see(v *Set) {
	t.set = set{hook: v.Armed, template: v.Template, partition: v.Partition}
	t.current, t.term = v.Current, v.Term
}

// sight is what can be seen of s.
func (s *state) sight() (v Sight) {
	for i := range s.n {
		r := &s.r[i]
		v.Replicas[i] = Replica{
			Rev: r.rev, Hold: r.hold, Grant: r.grant, State: r.state, GateClosed: r.gateClosed, Verified: r.verified,
			Note: r.note, Fence: r.fence, Phase: r.phase, Token: r.token, Working: r.working,
		}
		if r.phase == none {
			v.Replicas[i].Token = 0
		}
	}
	for j := range s.m {
		t := &s.t[j]
		v.Sets[j] = Set{Armed: t.hook, Template: t.template, Partition: t.partition, Current: t.current, Term: t.term}
	}
	v.Lead, v.Deleted, v.Left = s.reign, s.deleted, s.left
	return v
}

// event moves every compatible state over one event.
func (c *checker) event(e *Event) error {
	before := c.trace.Start
	if c.at > 0 {
		before = c.trace.Events[c.at-1].Sight
	}
	if before == e.Sight {
		c.sum.Touches++
		c.replace(func(s *state) { touched(s, e) })
		return nil
	}
	c.sum.Events++
	if e.By == Foreign || e.Deleted != before.Deleted {
		c.replace(func(s *state) { c.force(s, e) })
		return nil
	}
	c.w.want = &e.Sight
	all, err := c.closure()
	if err != nil {
		return err
	}
	after := map[state]struct{}{}
	for s := range all {
		c.match(&s, e, after, 6)
	}
	c.sum.Most = max(c.sum.Most, len(all))
	if len(after) == 0 {
		return c.reject(e, all)
	}
	c.now = after
	return nil
}

func (c *checker) replace(change func(*state)) {
	after := make(map[state]struct{}, len(c.now))
	for s := range c.now {
		change(&s)
		s.settle()
		s.idle()
		s.look()
		after[s] = struct{}{}
	}
	c.now = after
}

// touched is a version of an object of which nothing changed that the model knows: whoever
// has an older version will get a conflict.
func touched(s *state, e *Event) {
	if e.Pod >= 0 {
		s.r[e.Pod].touch()
	}
	if e.Set >= 0 {
		s.touchSet(uint8(e.Set)) //nolint:gosec // small
	}
}

// force makes s what was seen: somebody else did it.
func (c *checker) force(s *state, e *Event) {
	for i := range s.n {
		s.r[i].see(&e.Replicas[i])
	}
	for j := range s.m {
		s.t[j].see(&e.Sets[j])
	}
	s.deleted = e.Deleted
	touched(s, e)
}

// closure adds what may have happened unseen before the next event.
func (c *checker) closure() (map[state]struct{}, error) {
	all := make(map[state]struct{}, 4*len(c.now))
	var todo []state
	add := func(s state) {
		if _, ok := all[s]; !ok {
			all[s] = struct{}{}
			todo = append(todo, s)
		}
	}
	for s := range c.now {
		add(s)
	}
	for len(todo) > 0 && len(all) < mostStates {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		v := s.sight()
		c.w.emit = func(st *step) {
			if st.bad == "" && c.leads(st) && st.to.sight() == v {
				add(st.to)
			}
		}
		c.w.all(&s)
	}
	if len(all) >= mostStates {
		return nil, fmt.Errorf("%w: %d at event %d, %s", ErrTooMany, len(all), c.at, c.trace.Events[c.at].Text)
	}
	return all, nil
}

// leads says whether a step is worth to be considered: what an upgrader decides and never
// writes leaves nothing that could be seen, so that only what is written next counts.
func (c *checker) leads(st *step) bool {
	switch {
	case strings.Contains(st.what, "loses (conflict") && st.replica >= 0:
		for l := range c.w.s.r[st.replica].hands {
			if h := &c.w.s.r[st.replica].hands[l]; h.op == opHoldOff && st.to.r[st.replica].hands[l].op == opNone {
				return true
			}
		}
		return false
	case strings.Contains(st.what, "loses (conflict"):
		return false
	case st.replica >= 0:
		return c.leadsPod(st)
	case st.target >= 0:
		for l := range st.to.minds {
			o := &st.to.minds[l].ops[st.target]
			if o.op != setNone && c.w.s.minds[l].ops[st.target].op == setNone && !c.nextSet(st.target, o.partition) {
				return false
			}
		}
	}
	return true
}

func (c *checker) leadsPod(st *step) bool {
	r := st.to.r[st.replica]
	for l := range r.hands {
		op := r.hands[l].op
		if op == opNone || c.w.s.r[st.replica].hands[l].op == op {
			continue
		}
		switch op {
		case opPin, opPinOnly:
			return c.nextPhase(st.replica, r.phase) == pinned || op == opPin && r.phase == pinned
		case opRelease:
			return c.nextPhase(st.replica, r.phase) == none
		case opHoldOff: // follows on a pin
			return true
		}
		done := r
		c.w.write(&st.to, &done, l)
		return c.nextPod(st.replica, &done)
	}
	return true
}

// nextPod says whether the next version of pod i is the upgrader's, and is r.
func (c *checker) nextPod(i int, r *replica) bool {
	for _, e := range c.trace.Events[c.at:] {
		if e.Pod != i {
			continue
		}
		v := &e.Replicas[i]
		return (e.By == Upgrader || e.By == Unknown) && v.Hold == r.hold && v.Grant == r.grant && v.Note == r.note && v.Fence == r.fence &&
			v.Verified == r.verified && v.GateClosed == r.gateClosed && v.State == r.state
	}
	return false
}

// nextPhase is the next phase of the lease on replica i that is not now.
func (c *checker) nextPhase(i int, now uint8) uint8 {
	for _, e := range c.trace.Events[c.at:] {
		if p := e.Replicas[i].Phase; p != now {
			return p
		}
	}
	return now
}

// nextSet says whether the next partition of set j is that.
func (c *checker) nextSet(j int, partition uint8) bool {
	for _, e := range c.trace.Events[c.at:] {
		if e.Set == j {
			return (e.By == Upgrader || e.By == Unknown) && e.Sets[j].Partition == partition
		}
	}
	return false
}

// match takes s to what was seen after e, in one step, or in several of which each changes
// something to what it is then (the arbiter writes its record once for several answers).
func (c *checker) match(s *state, e *Event, after map[state]struct{}, depth int) {
	from := s.sight()
	var via []state
	c.w.emit = func(st *step) {
		if st.bad != "" || c.w.invariant(&st.to) != "" || e.By != Unknown && strings.HasPrefix(st.who, "leader") != (e.By == Upgrader) && !asked(st) {
			return
		}
		v := st.to.sight()
		switch {
		case v == e.Sight:
			after[st.to] = struct{}{}
		case depth > 0 && v != from && nearer(&from, &v, &e.Sight):
			via = append(via, st.to)
		}
	}
	c.w.all(s)
	for i := range via {
		c.match(&via[i], e, after, depth-1)
	}
}

// asked says whether a step of the upgrader is a call that the arbiter answers: that it is
// the arbiter who writes its record.
func asked(st *step) bool {
	return slices.ContainsFunc([]string{"adopts", "acquires", "calls", "retires"}, func(what string) bool {
		return strings.HasPrefix(st.what, what)
	})
}

// nearer says whether everything in which v differs from before is as it is in goal.
func nearer(before, v, goal *Sight) bool {
	for i := range v.Replicas {
		b, x, g := before.Replicas[i], v.Replicas[i], goal.Replicas[i]
		if !x.leaseNearer(&b, &g) || x.Working != b.Working && x.Working != g.Working {
			return false
		}
		x.Phase, x.Token, x.Working = b.Phase, b.Token, b.Working
		if x != b {
			return false
		}
	}
	return v.Sets == before.Sets && (v.Lead == before.Lead || v.Lead == goal.Lead)
}

// leaseNearer says whether the lease of x is that of before, that of goal, or on its way there.
func (x *Replica) leaseNearer(before, goal *Replica) bool {
	switch {
	case x.Phase == before.Phase && x.Token == before.Token:
		return true
	case x.Phase == goal.Phase:
		return x.Token == goal.Token
	}
	return x.Phase == leased && goal.Phase == pinned
}

// reject says what was not a behaviour, and what would have been.
func (c *checker) reject(e *Event, all map[state]struct{}) error {
	r := &Rejection{Event: c.at, Text: e.When + " " + e.Text}
	for _, b := range c.trace.Events[max(0, c.at-12):c.at] {
		r.Before = append(r.Before, b.When+" "+b.Text)
	}
	states, could := map[string]bool{}, map[string]bool{}
	for s := range all {
		states[s.String()] = true
		v := s.sight()
		c.w.emit = func(st *step) {
			if st.to.sight() == v && c.w.invariant(&st.to) == "" && st.bad == "" {
				return
			}
			text := st.String()
			if bad := st.bad + c.w.invariant(&st.to); bad != "" {
				text += " (which would break " + bad + ")"
			}
			could[text] = true
		}
		c.w.all(&s)
	}
	r.States, r.Could = some(states, 6), some(could, 24)
	return r
}

func some(m map[string]bool, n int) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out[:min(n, len(out))]
}
