// Package duty runs the groups: one serialised loop per group, in which every change is
// decided by the pure packages, saved by compare-and-swap, and only then answered.
package duty

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/policy"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

var (
	// ErrUnavailable: nothing was recorded; ask again soon.
	ErrUnavailable = errors.New("the group is not available now")
	// ErrUncertain: whether it was recorded is not known; repeat the same request.
	ErrUncertain = errors.New("the outcome is unknown: repeat the same request")
	// ErrUnknownReplica: the group has no such member.
	ErrUnknownReplica = errors.New("the group has no such replica")
	// ErrInstance: the name runs as another instance now.
	ErrInstance = errors.New("the replica runs as another instance")
	// ErrObserved: the application decides who works, and has nothing to learn here.
	ErrObserved = errors.New("the roster is observed: the application decides who works, and nobody attends")
	// ErrSuperseded: a newer conversation of the same replica has taken over.
	ErrSuperseded = errors.New("a newer conversation of this replica has taken over")
)

// Config is what a group needs.
type Config struct {
	// Key is "<namespace>/<roster>".
	Key string
	// Prefix goes before a member's name on the wire: "<namespace>/".
	Prefix string
	Store  store.Store
	// Now is the clock, with a monotonic reading.
	Now func() time.Time
	// NewEpoch returns a name that was never used before.
	NewEpoch func() string
	// FirstToken is where the tokens of a new record begin: above any that an earlier
	// record, which was lost or deleted, can have given.
	FirstToken func() int64
	// Leading says whether this process may answer. Nil: always.
	Leading func() bool
	Log     logr.Logger
	// Changed, if not nil, is told of each change that was saved. It must not block.
	Changed func(Change)
}

// Settings are what the group's administrator has decided.
type Settings struct {
	// Generation of the object that carries them.
	Generation int64
	Roster     roster.Config
	// Floor is how many must serve; FloorPercent, if not 0, which share of the members.
	Floor        int
	FloorPercent int
	MaxLeased    int
	// Spread, if not empty, is the topology key by which leased replicas share one domain.
	Spread string
	// Domains are those of the nodes by that key.
	Domains map[string]string
	Windows policy.Windows
	// Unclear says why a rule cannot be applied; empty: each can.
	Unclear    string
	PinOverdue time.Duration
	// Live: the pods were read from the API server itself, when the group was begun or had shown
	// that it is frozen. What a cache shows may be older than the leases that the record lacks.
	Live bool
	// Broken says why the source of an observed roster cannot be used; empty: it can.
	Broken string
	// Look looks anew at the pods of an observed roster, with their sights. What it returns
	// was so after it was called. Nil: a pin is decided on what was seen last.
	Look Look
	// HandOver asks the application of an observed roster to move duty. Nil: it cannot be asked.
	HandOver HandOver
	// Attended: there are no pods to look at; the members are these names, and one is
	// present while it attends.
	Attended []string
}

// Look looks at pods, by name.
type Look func(ctx context.Context) (map[string]roster.Pod, error)

// HandOver asks an application to move duty from one member to another. Errors are those of
// application.Handover.
type HandOver func(ctx context.Context, from, to string) error

// Group is the loop of one group. All fields below ops belong to the loop.
type Group struct {
	cfg  Config
	ops  chan *op
	stop chan struct{}
	once sync.Once
	view atomic.Pointer[View]
	// look is that of the settings, for those outside the loop.
	look atomic.Pointer[Look]
	// handsOver says whether duty moves when it is asked to.
	handsOver atomic.Bool
	// ready is closed when the group has been configured for the first time.
	ready chan struct{}

	settings   Settings
	configured bool
	pods       map[string]roster.Pod
	att        map[string]*attendance
	// inherited is until when a member may rely on an answer of a former process, or of a
	// roster of the same name.
	inherited time.Time
	// former are the instances to which that answer was given. The same instance can take
	// it back at once, by saying that it is idle; another one cannot speak for it.
	former map[string]string

	loaded  bool
	record  store.Record
	version store.Version
	// saved is the summary that the store has: refresh changes the one of the record.
	saved  store.Summary
	ages   lease.Ages
	memory *roster.Memory
	notes  roster.Notes
	rules  policy.Rules
	shown  policy.Freeze // that the last view had
	health map[string]roster.Health
	held   map[string]bool
	seq    int64
	// stepAt, leaseAt and windowAt are when time alone changes duty, a lease or whether a freeze
	// window is open; zero: never.
	stepAt, leaseAt, windowAt time.Time
}

// op is one thing to do in the loop.
type op struct {
	run func(*txn)
	// look, if not nil, is what the pods look like now: run decides on that.
	look map[string]roster.Pod
	// kind of effect on duty: pure lease changes need no look at the roster.
	step bool
	done chan error
}

// txn is one attempt at an op: a copy of the record that becomes the record when saved.
type txn struct {
	now    time.Time
	leases lease.Table
	forced []store.ForceRelease
	roster roster.Record
	frozen bool
	// dirty: leases, forced or roster have changed.
	dirty bool
	// renewed are the leases to be made young once the record is saved.
	renewed []lease.Lease
	// err is the answer when nothing is to be saved.
	err error
}

// New returns a group; Run makes it work.
func New(cfg Config) *Group {
	return &Group{
		cfg: cfg, ops: make(chan *op), stop: make(chan struct{}), ready: make(chan struct{}),
		att: map[string]*attendance{}, memory: roster.NewMemory(),
	}
}

// Key returns "<namespace>/<roster>".
func (g *Group) Key() string { return g.cfg.Key }

// Prefix goes before a member's name on the wire.
func (g *Group) Prefix() string { return g.cfg.Prefix }

// Run is the loop. It returns when ctx is done; the group then answers ErrUnavailable.
func (g *Group) Run(ctx context.Context) {
	defer g.once.Do(func() { close(g.stop) })
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-g.ops:
			o.done <- g.attempt(ctx, o)
		case <-timer.C:
			o := &op{run: func(*txn) {}, step: true}
			if err := g.attempt(ctx, o); err != nil {
				g.cfg.Log.Error(err, "cannot bring the group up to date; trying again", "group", g.cfg.Key)
				timer.Reset(time.Second)
				continue
			}
		}
		g.setTimer(timer)
	}
}

func (g *Group) setTimer(timer *time.Timer) {
	d, now := time.Hour, g.cfg.Now()
	for _, at := range []time.Time{g.stepAt, g.leaseAt, g.windowAt} {
		if !at.IsZero() {
			d = min(d, max(at.Sub(now), time.Millisecond))
		}
	}
	timer.Reset(d)
}

// do runs fn in the loop and waits for its end. fn may run several times: it must set,
// not add to, what it hands out.
func (g *Group) do(ctx context.Context, step bool, fn func(*txn)) error {
	return g.send(ctx, &op{run: fn, step: step})
}

func (g *Group) send(ctx context.Context, o *op) error {
	o.done = make(chan error, 1)
	select {
	case g.ops <- o:
	case <-g.stop:
		return fmt.Errorf("group %s: %w: it is being stopped", g.cfg.Key, ErrUnavailable)
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-o.done:
		return err
	case <-g.stop:
		return fmt.Errorf("group %s is being stopped: %w", g.cfg.Key, ErrUncertain)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempts bounds how often one op is tried against a record that others change.
const attempts = 5

func (g *Group) attempt(ctx context.Context, o *op) error {
	var err error
	for range attempts {
		if err = g.load(ctx); err != nil {
			return fmt.Errorf("group %s: %w: %w", g.cfg.Key, ErrUnavailable, err)
		}
		if err = g.try(ctx, o); !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("group %s: %w: %w", g.cfg.Key, ErrUnavailable, err)
	}
	if err == nil && g.cfg.Leading != nil && !g.cfg.Leading() {
		return fmt.Errorf("group %s: this arbiter may not be the leader any more: %w", g.cfg.Key, ErrUncertain)
	}
	return err
}

// load reads the record if this process does not hold the current one, and begins a new
// one where there is none.
func (g *Group) load(ctx context.Context) error {
	if g.loaded {
		return nil
	}
	record, version, err := g.cfg.Store.Load(ctx)
	if err != nil {
		return err
	}
	if had := g.record.Leases.LastToken; record.Leases.LastToken < had {
		// Tokens only grow: this is an earlier record, put back by a restore.
		record = store.Record{Lost: true}
		record.Leases.LastToken = had
	}
	if record.Leases.Epoch == "" {
		record.Leases.Epoch = g.cfg.NewEpoch()
		record.Frozen = record.Lost
		record.Leases.LastToken = max(record.Leases.LastToken, g.cfg.FirstToken())
		if record.Lost {
			g.settings.Live = false
			g.cfg.Log.Info("the record was lost: duty and grants are frozen", "group", g.cfg.Key, "epoch", record.Leases.Epoch)
		}
		if version, err = g.cfg.Store.Save(ctx, record, version); err != nil {
			return fmt.Errorf("begin a record: %w", err)
		}
		record.Lost = false
	}
	g.record, g.version, g.saved, g.loaded = record, version, record.Summary, true
	now := g.cfg.Now()
	g.ages.Observe(&g.record.Leases, now)
	g.stepAt = now
	if g.configured {
		g.refresh(now, true)
		g.publish()
	}
	return nil
}

// try runs an op once on a copy of the record and saves what has changed.
func (g *Group) try(ctx context.Context, o *op) error {
	now := g.cfg.Now()
	t := &txn{
		now: now, leases: g.record.Leases.Clone(), forced: g.record.ForceReleases,
		roster: g.record.Roster, frozen: g.record.Frozen,
	}
	if len(t.leases.Expire(&g.ages, now)) > 0 {
		t.dirty = true
	}
	if o.look != nil && g.configured {
		g.pods = o.look
		g.step(t)
		g.rules.Replicas = g.policyReplicas(t.now, &t.roster, t.frozen, len(t.leases.Holders) > 0)
	}
	// A window may have opened that the timer was late for.
	g.limits(now)
	o.run(t)
	if t.err != nil {
		return t.err
	}
	stepped := o.step || o.look != nil || t.leasesShrunk(&g.record.Leases)
	var notes roster.Notes
	var wake time.Time
	if stepped && g.configured {
		notes, wake = g.step(t)
	}
	next := store.Record{
		Frozen: t.frozen, Leases: t.leases, Roster: t.roster, ForceReleases: t.forced, Summary: g.record.Summary,
		Promised: g.record.Promised,
	}
	if stepped && g.configured {
		g.notes, g.stepAt = notes, wake
	}
	if g.configured && next.Promised != g.lifetime() {
		t.dirty = g.promise(&next, now) || t.dirty
	}
	return g.commit(ctx, t, next, stepped)
}

// leasesShrunk says whether duty is possible again for somebody.
func (t *txn) leasesShrunk(before *lease.Table) bool {
	return len(t.leases.Leases) < len(before.Leases)
}

// step lets the roster decide on the copy.
func (g *Group) step(t *txn) (roster.Notes, time.Time) {
	before := t.roster
	t.roster = t.roster.Clone()
	in := g.input(t)
	if g.heard(t, in) {
		in = g.input(t)
	}
	if t.frozen {
		g.thaw(t, in)
		in.Frozen = t.frozen
	}
	notes, wake := roster.Step(&t.roster, g.memory, in)
	if maps.Equal(before.Members, t.roster.Members) && slices.Equal(before.Trusted, t.roster.Trusted) {
		t.roster = before
	} else {
		t.dirty = true
	}
	return notes, wake
}

func (g *Group) input(t *txn) roster.Input {
	att := make(map[string]roster.Attendance, len(g.pods))
	for name := range t.roster.Members {
		att[name] = g.attendanceOf(name)
	}
	pods := g.pods
	if g.settings.Attended != nil {
		pods = g.attendedPods(t.now)
	}
	for name := range pods {
		att[name] = g.attendanceOf(name)
	}
	return roster.Input{
		Config: g.settings.Roster, Pods: pods, Attendance: att,
		Leased:  func(name string) bool { _, ok := t.leases.Leases[name]; return ok },
		Holders: len(t.leases.Holders) > 0, Frozen: t.frozen, Now: t.now,
	}
}

// heard compares the record with the tokens that stand on the pods. No token stands there
// that was not recorded before. A higher one tells that the record is an earlier one, put
// back by a restore: what it says of leases and of duty may not be so any more, and it is
// lost like one that was wiped. It says whether that is so. Tokens go on above those heard of.
// One that is frozen is begun anew all the same: whoever has adopted is not known in it.
// What is beyond lease.MaxToken was never given out: more people may write a pod than the record.
func (g *Group) heard(t *txn, in roster.Input) bool {
	most, on := int64(0), ""
	for name, p := range in.Pods {
		if p.Token > most && p.Token <= lease.MaxToken {
			most, on = p.Token, name
		}
	}
	if most <= t.leases.LastToken {
		return false
	}
	g.cfg.Log.Info("the record is older than what stands on a pod: it was set back, and duty and grants are frozen",
		"group", g.cfg.Key, "pod", on, "token", most, "lastToken", t.leases.LastToken)
	t.leases = lease.Table{Epoch: g.cfg.NewEpoch(), LastToken: max(most, g.cfg.FirstToken())}
	t.leases, t.roster = t.leases.Clone(), roster.Record{}.Clone()
	t.frozen, t.dirty, g.settings.Live = true, true, false
	return true
}

// thaw ends the freeze once every lease that is noted on a pod has been entered again, and
// somebody has adopted if an upgrader was at work. A lease may be on a pod that does not name it
// yet, which nobody enters: until every pod is fenced against those, the freeze lasts.
func (g *Group) thaw(t *txn, in roster.Input) {
	if !g.settings.Live && g.settings.Attended == nil {
		return
	}
	for name, p := range in.Pods {
		if p.Fenced < t.leases.Void() && g.settings.Attended == nil {
			return
		}
		if l, ok := t.leases.Leases[name]; p.LeaseID != "" && (!ok || l.ID != p.LeaseID) {
			return
		}
		if p.Marked() && len(t.leases.Holders) == 0 {
			return
		}
	}
	t.frozen, t.dirty = false, true
	g.cfg.Log.Info("every lease that is noted on a pod is known again, and all others are fenced: no longer frozen", "group", g.cfg.Key)
}

// commit saves next if it differs, and makes it the record.
func (g *Group) commit(ctx context.Context, t *txn, next store.Record, stepped bool) error {
	old := g.record
	g.record = next
	seen := g.refresh(t.now, stepped)
	if t.dirty || g.record.Summary != g.saved {
		version, err := g.cfg.Store.Save(ctx, g.record, g.version)
		if err != nil {
			g.record, g.loaded, g.stepAt = old, false, t.now.Add(time.Second)
			if errors.Is(err, store.ErrConflict) {
				return err
			}
			return fmt.Errorf("group %s: %w: %w", g.cfg.Key, ErrUncertain, err)
		}
		g.version, g.saved, seen = version, g.record.Summary, true
		g.tell(&old, &g.record)
		g.ages.Observe(&g.record.Leases, t.now)
	}
	for _, l := range t.renewed {
		g.ages.Renew(l, t.now)
	}
	g.leaseAt = g.ages.Next(&g.record.Leases, g.settings.PinOverdue, t.now)
	if seen {
		g.publish()
	}
	return nil
}

// refresh computes the rules and the summary of the record, and says whether the members
// look different from before.
func (g *Group) refresh(now time.Time, members bool) bool {
	if !g.configured {
		return false
	}
	before, changed := g.rules, false
	if members || g.rules.Replicas == nil {
		g.rules.Replicas = g.policyReplicas(now, &g.record.Roster, g.record.Frozen, len(g.record.Leases.Holders) > 0)
		health, held := g.healths(), g.holds()
		changed = !maps.Equal(before.Replicas, g.rules.Replicas) || !maps.Equal(g.health, health) || !maps.Equal(g.held, held)
		g.health, g.held = health, held
	}
	g.rules.MaxLeased, g.rules.Frozen = g.settings.MaxLeased, g.record.Frozen
	g.limits(now)
	g.rules.Overdue = ""
	for _, l := range g.record.Leases.Leases {
		if g.ages.Overdue(l, g.settings.PinOverdue, now) {
			g.rules.Overdue = g.cfg.Prefix + l.Replica
		}
	}
	g.record.Summary = g.summary()
	changed = changed || before.Overdue != g.rules.Overdue || g.shown != g.rules.Freeze
	g.shown = g.rules.Freeze
	return changed
}

// limits computes those of the rules that depend on the time or on how many members there are.
func (g *Group) limits(now time.Time) {
	g.rules.Floor, g.rules.Spread, g.rules.Unclear = g.settings.Floor, g.settings.Spread, g.settings.Unclear
	if p := g.settings.FloorPercent; p > 0 {
		g.rules.Floor = policy.Share(p, len(g.rules.Replicas))
	}
	g.rules.Freeze, g.windowAt = g.settings.Windows.At(now)
}

// healths returns what the attending members say of themselves.
func (g *Group) healths() map[string]roster.Health {
	out := make(map[string]roster.Health, len(g.att))
	for name, a := range g.att {
		if a.Connected {
			out[name] = a.Health
		}
	}
	return out
}

// holds returns who is held. Somebody who is not may be refused as a successor, and whoever
// was told so asks again when the members look different.
func (g *Group) holds() map[string]bool {
	out := map[string]bool{}
	for name, p := range g.pods {
		if p.Held {
			out[name] = true
		}
	}
	return out
}

func (g *Group) policyReplicas(now time.Time, r *roster.Record, frozen, holders bool) map[string]policy.Replica {
	pods := g.pods
	if g.settings.Attended != nil {
		pods = g.attendedPods(now)
	}
	out := make(map[string]policy.Replica, len(r.Members))
	for name, m := range r.Members {
		p, exists := pods[name]
		rule := policy.Replica{
			Instance: p.Instance, Idle: m.Duty == roster.Idle && !frozen, Why: m.Message,
			Ready:       exists && p.Ready && !p.Terminating && !g.unhealthy(name, p),
			Quarantined: roster.Quarantined(*r, p, holders),
			Domain:      g.settings.Domains[p.Node],
		}
		if h := g.memory.Handover; h != nil && h.To == name {
			rule.Idle, rule.Why = false, "it is about to take over from "+h.From
		}
		out[name] = rule
	}
	return out
}

// unhealthy says whether a member says of itself that it cannot serve.
func (g *Group) unhealthy(name string, p roster.Pod) bool {
	a := g.att[name]
	return a != nil && a.Connected && a.Instance == p.Instance && a.Health == roster.Unhealthy
}
