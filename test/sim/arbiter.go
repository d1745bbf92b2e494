package sim

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/policy"
	"offduty.dev/arbiter/roster"
	"offduty.dev/upgrader/plan"
)

// arbiter is the reference arbiter's pure core with the little that holds it together
// (arbiter/duty): the record survives, what the process has seen does not.
type arbiter struct {
	s *Sim
	// The record.
	table  lease.Table
	record roster.Record
	// The process.
	ages      lease.Ages
	memory    *roster.Memory
	att       map[string]*roster.Attendance
	inherited time.Time
	began     time.Time
	cache     *Cache
	// What is judged by (judge.go), and the arbiter does not know: revisions that may have
	// duty, the term of each holder's last adopter, and when leases were last renewed.
	proven  map[string]bool
	adopter map[string]int64
	renewed map[string]time.Time
	// late are the leases, by ID, that were granted when nobody waited for them any more.
	late map[string]bool
	// grants are all leases that were granted, by ID.
	grants map[string]grant
	// known are the pods as the roster sees them, at a position of the cache.
	known   map[string]roster.Pod
	knownAt int
	// shown are the states that watchers are told, one after the other.
	shown []snapshot
}

// snapshot is what a watcher of the group knows.
type snapshot struct {
	revision int
	replicas map[string]seen
}

// seen is one replica in a snapshot.
type seen struct {
	Instance string
	Duty     roster.Duty
	Lease    lease.Lease
	// Rules sees it like this; a change lets watchers ask again.
	Rules     policy.Replica
	Connected bool
	Held      bool
}

func newArbiter(s *Sim) *arbiter {
	a := &arbiter{s: s, record: roster.Record{}.Clone(), cache: newCache(s.api), proven: map[string]bool{}, adopter: map[string]int64{}, renewed: map[string]time.Time{}, late: map[string]bool{}, grants: map[string]grant{}}
	a.table = lease.Table{Epoch: "e"}
	a.table = a.table.Clone()
	a.restart()
	return a
}

// restart forgets everything that is not in the record. The process may come back on another
// host.
func (a *arbiter) restart() {
	a.began, a.s.clocks.arbiter = a.s.now, a.s.wrong()
	a.known = nil
	a.memory, a.att, a.ages = roster.NewMemory(), map[string]*roster.Attendance{}, lease.Ages{}
	a.ages.Observe(&a.table, a.now())
	if len(a.record.Members) > 0 {
		a.inherited = a.now().Add(a.s.cfg.Roster.Lifetime)
	}
	a.cache.list(a.s.api)
}

// pods is made anew when the cache has heard of something.
func (a *arbiter) pods() map[string]roster.Pod {
	if a.known == nil || a.knownAt != a.cache.podPos {
		a.known, a.knownAt = a.podsNow(), a.cache.podPos
	}
	return a.known
}

func (a *arbiter) podsNow() map[string]roster.Pod {
	out := make(map[string]roster.Pod, len(a.cache.pods))
	for n, p := range a.cache.pods {
		out[n] = roster.Pod{
			Instance: p.UID, Revision: p.Revision, Ready: p.Ready, Terminating: p.Terminating, LeaseID: p.Note.ID, Down: p.Running == "",
			Held: p.Hold && p.State != plan.StateAbsent && p.State != plan.StateUpdated,
		}
	}
	return out
}

func (a *arbiter) attendance(name string) roster.Attendance {
	if t := a.att[name]; t != nil {
		return *t
	}
	return roster.Attendance{ToldUntil: a.inherited}
}

func (a *arbiter) input() roster.Input {
	in := roster.Input{
		Config: a.s.cfg.Roster, Pods: a.pods(), Attendance: map[string]roster.Attendance{},
		Leased:  func(name string) bool { _, ok := a.table.Leases[name]; return ok && a.s.cfg.Without != Ban },
		Holders: len(a.table.Holders) > 0, Now: a.now(),
	}
	for name := range a.record.Members {
		in.Attendance[name] = a.attendance(name)
	}
	for name := range in.Pods {
		in.Attendance[name] = a.attendance(name)
	}
	return in
}

// rules is policy.Rules of the record (arbiter/duty, policyReplicas).
func (a *arbiter) rules() policy.Rules {
	r := policy.Rules{Floor: a.s.cfg.Floor, MaxLeased: a.s.cfg.MaxLeased, Replicas: map[string]policy.Replica{}}
	pods := a.pods()
	for name, m := range a.record.Members {
		p, exists := pods[name]
		m := policy.Replica{
			Instance: p.Instance, Idle: m.Duty == roster.Idle, Why: m.Message, Ready: exists && p.Ready && !p.Terminating,
			Quarantined: roster.Quarantined(a.record, p, len(a.table.Holders) > 0),
		}
		if h := a.memory.Handover; h != nil && h.To == name {
			m.Idle = false
		} else if h != nil && h.From == name && a.s.cfg.Without == Evidence {
			m.Idle = true
		}
		r.Replicas[name] = m
	}
	return r
}

// do runs one call of the group's loop: leases expire, fn decides, duty follows, watchers
// are told.
func (a *arbiter) do(fn func(now time.Time)) {
	now := a.now()
	a.loosen(now)
	leases := maps.Clone(a.table.Leases)
	for _, l := range a.table.Expire(&a.ages, now) {
		a.s.tell("arbiter", "the lease %s on %s has expired", l.ID, l.Replica)
	}
	a.expired(leases)
	fn(now)
	a.stored()
	a.ages.Observe(&a.table, now)
	a.prove()
	was := maps.Clone(a.record.Members)
	roster.Step(&a.record, a.memory, a.input())
	for _, name := range slices.Sorted(maps.Keys(a.record.Members)) {
		if m := a.record.Members[name]; m.Duty != was[name].Duty || m.Assigned != was[name].Assigned {
			a.s.tell("arbiter", "%s is %s (%s)", name, m.Duty, m.Message)
		}
		if m := a.record.Members[name]; m.Assigned && !was[name].Assigned {
			a.assigned(name)
		}
	}
	a.publish()
}

// now is what the arbiter's clock shows.
func (a *arbiter) now() time.Time {
	now := a.s.read(a.s.clocks.arbiter)
	if a.s.cfg.Without == Monotonic {
		return now.Round(0)
	}
	return now
}

// stored is what a record does to times: it has no monotonic reading.
func (a *arbiter) stored() {
	for name, l := range a.table.Leases {
		l.GrantedAt, l.PinnedAt = l.GrantedAt.Round(0), l.PinnedAt.Round(0)
		a.table.Leases[name] = l
	}
}

func (a *arbiter) publish() {
	next := snapshot{replicas: map[string]seen{}}
	rules, pods := a.rules().Replicas, a.pods()
	for name, m := range a.record.Members {
		next.replicas[name] = seen{Instance: m.Instance, Duty: m.Duty, Lease: a.table.Leases[name], Rules: rules[name], Connected: a.attendance(name).Connected, Held: pods[name].Held}
	}
	if n := len(a.shown); n > 0 {
		if maps.Equal(a.shown[n-1].replicas, next.replicas) {
			return
		}
		next.revision = n
	}
	a.shown = append(a.shown, next)
}

// fence touches the pod of each expired lease, so that whatever its holder has under way
// conflicts, and then ends the lease (arbiter/controller, fence).
func (a *arbiter) fence() {
	for _, name := range slices.Sorted(maps.Keys(a.table.Leases)) {
		l := a.table.Leases[name]
		if l.Phase != lease.Expired {
			continue
		}
		if p, ok := a.cache.pods[name]; ok {
			if a.s.send(message{"arbiter", func() error {
				_, err := a.s.api.patchPod(name, p.UID, 0, func(q *Pod) { q.Fenced = max(q.Fenced, l.Token) })
				return err
			}}) != nil {
				continue
			}
		}
		a.do(func(time.Time) { a.table.Fenced(l.ID) })
		a.s.tell("arbiter", "%s is fenced: the lease %s is gone", name, l.ID)
	}
}

// attend is one report of a member and the answer to it, which is still to be sent.
func (a *arbiter) attend(p *Pod, acked int64, duty roster.Duty) (working bool, generation int64, ok bool) {
	if q, known := a.cache.pods[p.Name]; !known || q.UID != p.UID {
		return false, 0, false
	}
	a.do(func(now time.Time) {
		t := a.att[p.Name]
		if t == nil {
			first := a.attendance(p.Name)
			t = &first
			a.att[p.Name] = t
		}
		if t.Instance != p.UID {
			a.sent(t)
			if t.ToldUntil.After(t.OldUntil) {
				t.OldUntil = t.ToldUntil
			}
			t.Instance = p.UID
		}
		t.Connected, t.Acked, t.AckedDuty, t.Health = true, acked, duty, roster.HealthUnknown
		if m := a.record.Members[p.Name]; duty == roster.Working && !m.Assigned && m.Duty != roster.Working {
			t.ToldUntil = now.Add(a.s.cfg.Roster.Lifetime)
		}
	})
	m := a.record.Members[p.Name]
	if m.Assigned {
		a.att[p.Name].Telling = true
	}
	return m.Assigned, m.Generation, true
}

// sent says that the answer is on its way.
func (a *arbiter) sent(t *roster.Attendance) {
	if until := a.now().Add(a.s.cfg.Roster.Lifetime); t.Telling && until.After(t.ToldUntil) {
		t.ToldUntil = until
	}
	t.Telling = false
}

func (a *arbiter) leave(name, uid string) {
	if t := a.att[name]; t != nil && t.Instance == uid {
		a.sent(t)
		t.Connected = false
	}
}

// app is the application in one pod. It works while it was told so and that has not run out.
type app struct {
	uid        string
	name       string
	generation int64
	working    bool
	until      time.Time
	// leaves is when it stops working although it is slow.
	leaves time.Time
	// answer is under way to it.
	answer *answer
}

type answer struct {
	working    bool
	generation int64
	asked      time.Time
}

func (p *app) works(now time.Time) bool { return p.working && now.Before(p.until) }

// stepApp lets the application of a pod report, or receive the answer.
func (s *Sim) stepApp(p Pod) {
	if p.Running == "" || s.lost(p) {
		return
	}
	w := s.apps[p.UID]
	if w == nil {
		w = &app{uid: p.UID, name: p.Name}
		s.apps[p.UID] = w
		if s.cfg.Without == Asking && s.onDisk[p.Name] {
			w.working, w.until = true, s.now.Add(s.cfg.Roster.Lifetime)
		}
	}
	if w.answer != nil {
		s.hears(w)
		return
	}
	duty := roster.Idle
	if w.works(s.now) {
		duty = roster.Working
	}
	if w.generation == 0 {
		duty = roster.Unknown
	}
	if working, generation, ok := s.arb.attend(&p, w.generation, duty); ok {
		w.answer = &answer{working, generation, s.now}
	}
}

// hears is an application that receives its answer.
func (s *Sim) hears(w *app) {
	if t := s.arb.att[w.name]; t != nil && t.Instance == w.uid {
		s.arb.sent(t)
	}
	if s.stays(w) {
		w.answer = nil // it has heard, and says next time that it still works
		return
	}
	was := w.working
	w.working, w.generation, w.until = w.answer.working, w.answer.generation, w.answer.asked.Add(s.cfg.Roster.Lifetime)
	w.answer = nil
	s.onDisk[w.name] = w.working
	if w.working != was {
		s.tell("app", "%s works: %t (generation %s)", w.name, w.working, strconv.FormatInt(w.generation, 10))
	}
}
