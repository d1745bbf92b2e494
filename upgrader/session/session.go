// Package session keeps the upgrader's conversations with arbiters: one for each plan,
// over shared connections. It remembers nothing that the arbiter could not tell again.
package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"offduty.dev/arbiter/client"
	"offduty.dev/upgrader/metrics"
	"offduty.dev/upgrader/plan"
)

// Key says which conversation a plan needs. A plan whose key changes gets another one.
type Key struct {
	Plan types.NamespacedName
	// Holder is the plan's UID.
	Holder string
	// Address, TLS and Timeout of the arbiter. TLSDigest tells one TLS from another.
	Address   string
	TLSDigest string
	Timeout   time.Duration
	// Group as the arbiter knows it.
	Group string
}

// Config is what all conversations share.
type Config struct {
	// Leader tells the leadership term and identity of this upgrader.
	Leader func(ctx context.Context) (term int64, identity string, err error)
	// TTL of leases; whole seconds.
	TTL time.Duration
	// Now is a monotonic clock.
	Now func() time.Time
	// Notify is called when something about a plan's arbiter has changed. It must not block.
	Notify func(plan types.NamespacedName)
	// Metrics counts what arbiters answer; nil: nobody counts.
	Metrics *metrics.Metrics
	// Dial opens a connection; Dial outside the simulation.
	Dial func(client.Config) (Arbiter, error)
	// Drive, if not nil, is given the renewer of each conversation and calls its Step from
	// then on: the time of the simulation does not pass by itself. nil: a goroutine renews.
	Drive func(*client.Renewer)
}

// Sessions holds the conversations of one upgrader.
type Sessions struct {
	cfg Config
	ctx context.Context //nolint:containedctx // the life of the background goroutines, not of a call

	mu    sync.Mutex
	plans map[types.NamespacedName]*Session
	conns map[connKey]*conn
}

type connKey struct {
	address, tls string
	timeout      time.Duration
}

// conn is a connection that several plans share.
type conn struct {
	Arbiter
	users int
}

// New returns an empty set of conversations, whose background work ends with ctx.
func New(ctx context.Context, cfg Config) *Sessions {
	return &Sessions{cfg: cfg, ctx: ctx, plans: map[types.NamespacedName]*Session{}, conns: map[connKey]*conn{}}
}

// For returns the conversation of a plan, and begins it when there is none or when the
// plan's settings changed. Errors: client.ErrInvalid.
func (s *Sessions) For(k Key, dial client.Config) (*Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.plans[k.Plan]; old != nil {
		if old.key == k {
			return old, nil
		}
		s.end(old)
	}
	ck := connKey{k.Address, k.TLSDigest, k.Timeout}
	c := s.conns[ck]
	if c == nil {
		cl, err := s.cfg.Dial(dial)
		if err != nil {
			return nil, err
		}
		c = &conn{Arbiter: cl}
		s.conns[ck] = c
	}
	c.users++
	ctx, cancel := context.WithCancel(s.ctx)
	ses := &Session{key: k, cfg: s.cfg, conn: c, connKey: ck, cancel: cancel, leases: map[string]*held{}}
	notify := func() { s.cfg.Notify(k.Plan) }
	ses.renewer = client.NewRenewer(client.RenewerConfig{
		Arbiter: c, Group: k.Group, Now: s.cfg.Now, OnChange: notify,
		OnLost: func(l client.Lease, _ client.Refusal) { ses.lost(l); notify() },
	})
	if s.cfg.Drive != nil {
		s.cfg.Drive(ses.renewer)
	} else {
		ses.done.Go(func() { _ = ses.renewer.Run(ctx) })
	}
	ses.watcher = c.Watch(ctx, k.Group, notify)
	s.plans[k.Plan] = ses
	return ses, nil
}

// Forget ends the conversation of a plan. Its leases are not released.
func (s *Sessions) Forget(p types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ses := s.plans[p]; ses != nil {
		s.end(ses)
	}
}

func (s *Sessions) end(ses *Session) {
	delete(s.plans, ses.key.Plan)
	ses.cancel()
	ses.watcher.Stop()
	ses.done.Wait()
	ses.conn.users--
	if ses.conn.users == 0 {
		delete(s.conns, ses.connKey)
		_ = ses.conn.Close()
	}
}

// Leases tells what a plan holds.
func (s *Sessions) Leases(p types.NamespacedName) metrics.Leases {
	s.mu.Lock()
	ses := s.plans[p]
	s.mu.Unlock()
	if ses == nil {
		return metrics.Leases{}
	}
	return ses.counted()
}

// held is a lease that we hold.
type held struct {
	client.Lease
	// sure: it was valid once, so that not being valid means that it is lost.
	sure bool
	// shown: the watch has shown it, so that its absence there means that it ended.
	shown bool
	gone  bool
	// since is when this process first heard of it, asked when it asked for it; zero: another
	// leader did, or nobody knows which request got it.
	since, asked time.Time
}

// Session is the conversation for one plan. Its methods may be called at the same time.
type Session struct {
	key     Key
	cfg     Config
	conn    *conn
	connKey connKey
	watcher Watcher
	renewer *client.Renewer
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu      sync.Mutex
	adopted bool
	token   int64
	leases  map[string]*held // by replica
	// highest is the highest token that the arbiter gave to this process, or showed to it when
	// it adopted; vouched are the notes that it knew then: no later leader's.
	highest int64
	vouched map[plan.Note]bool
	// epoch of the group's record, as it was known when it was adopted.
	epoch string
	// request is the id of a wish whose outcome is not known.
	request string
	// viewed is the group as View last told it: what is refused was decided on that.
	viewed   client.GroupState
	refused  *refused
	handover struct {
		from    string
		since   time.Time
		refused *refused
	}
	// futile counts the leases that were of no use one after the other; nothing is asked for
	// before patience.
	futile struct {
		count int
		// Of the last: the reason, and what the arbiter said or how late it was.
		reason plan.Reason
		why    string
	}
	patience time.Time

	supported bool // the arbiter makes pins
	// useless says why the arbiter cannot serve the plan, until it can; it is asked again at
	// askAgain.
	useless  *plan.Blocker
	askAgain time.Time
}

// refused is a "no" that holds until the group's state changes, or until retry.
type refused struct {
	plan.Blocker
	epoch    string
	revision int64
	retry    time.Time
	// What was asked, in the names of the planner.
	candidates []plan.Candidate
	handover   plan.Handover
}

// View is what the planner needs to know of the arbiter.
type View struct {
	Arbiter plan.Arbiter
	// State of the group; every duty in it is unknown while it is not live.
	State client.GroupState
	// Leases of this plan by replica.
	Leases map[string]plan.Lease

	highest int64
	vouched map[plan.Note]bool
}

// Doubted says whether the note on a pod may be that of a later leader: it has a higher token
// than any that this process was given, and was not there when it last adopted.
func (v *View) Doubted(n plan.Note) bool {
	return v.Arbiter.Adopted && n.ID != "" && n.Token > v.highest && !v.vouched[n]
}

// handoverPatience is how long an accepted handover is awaited before it is asked for again.
const handoverPatience = time.Minute

// View returns what is known now, without asking anybody.
func (s *Session) View() View {
	state, live, err := s.watcher.State()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.viewed = state
	v := View{State: state, Leases: map[string]plan.Lease{}}
	if live && s.epoch != "" && state.Epoch != s.epoch {
		s.adopted = false // the record was begun anew, and knows nobody
	}
	v.Arbiter.Adopted, v.highest, v.vouched = s.adopted, s.highest, s.vouched
	v.Arbiter.Doubted = s.adopted && live && s.shown(state) > s.highest
	v.Arbiter.Frozen = state.Frozen
	switch {
	case !live:
		v.Arbiter.Blocked = s.blocker(err)
	case s.useless != nil:
		v.Arbiter.Blocked, v.Arbiter.Again = s.useless, s.askAgain
	}
	gone := errors.Is(err, client.ErrNotFound)
	if gone {
		s.forget()
	}
	s.reconcile(state, live)
	if !s.adopted && !gone { // the last state of a group that is gone still shows its leases
		s.foreign(state, v.Leases)
	}
	for r, h := range s.leases {
		v.Leases[r] = s.lease(h)
	}
	if r := s.current(s.refused, state); r != nil {
		v.Arbiter.Refused, v.Arbiter.RefusedFor, v.Arbiter.RetryAt = &r.Blocker, r.candidates, r.retry
	}
	s.viewHandover(&v, state)
	v.Arbiter.Futile, v.Arbiter.Patience = s.futility(), s.patience
	return v
}

// fewFutile is how many leases may be of no use one after the other before the plan stalls: what
// stands in the way of one may be a replica that needs a lease more.
const fewFutile = 5

// futility says that leases are of no use.
func (s *Session) futility() *plan.Blocker {
	f := &s.futile
	if f.count == 0 {
		return nil
	}
	b := &plan.Blocker{Reason: f.reason, Retry: f.count < fewFutile}
	if f.reason == plan.LeaseOutdated {
		b.Message = fmt.Sprintf("the arbiter at %s answers too late for anything to be begun under its leases, so that each is given back again (%d times now): %s",
			s.key.Address, f.count, f.why)
		return b
	}
	b.Message = fmt.Sprintf("the arbiter grants leases and refuses to pin them, so that every replica is given back again (%d times now): %s", f.count, f.why)
	return b
}

// vain notes a lease that was of no use.
func (s *Session) vain(reason plan.Reason, why string) {
	s.futile.count++
	s.futile.reason, s.futile.why = reason, why
	s.patience = s.cfg.Now().Add(min(time.Second<<min(s.futile.count-1, 10), longestPatience))
}

// longestPatience is the longest wait after a lease that was of no use; the first is a second.
const longestPatience = 2 * time.Minute

func (s *Session) viewHandover(v *View, state client.GroupState) {
	if r := s.current(s.handover.refused, state); r != nil {
		v.Arbiter.HandoverRefused, v.Arbiter.HandoverRefusedFor, v.Arbiter.HandoverAgain = &r.Blocker, r.handover, r.retry
	}
	if s.handover.from == "" {
		return
	}
	r, ok := state.Replica(s.handover.from)
	switch {
	case !ok || r.Duty == client.DutyIdle:
		s.cfg.Metrics.Handover(metrics.HandoverDone)
		s.handover.from = ""
		return
	case s.cfg.Now().Sub(s.handover.since) >= handoverPatience:
		s.cfg.Metrics.Handover(metrics.HandoverExpired)
		s.handover.from = ""
		return
	}
	v.Arbiter.HandoverFrom, v.Arbiter.HandoverAgain = short(s.handover.from), s.handover.since.Add(handoverPatience)
}

// current returns r while asking again is useless.
func (s *Session) current(r *refused, state client.GroupState) *refused {
	if r == nil || r.epoch != state.Epoch || r.revision != state.Revision {
		return nil
	}
	if !r.retry.IsZero() && !s.cfg.Now().Before(r.retry) {
		return nil
	}
	return r
}

// reconcile notes which of our leases the watch shows. One that it has shown and shows no
// more has ended (an administrator's release).
func (s *Session) reconcile(state client.GroupState, live bool) {
	if !live {
		return
	}
	for name, h := range s.leases {
		r, _ := state.Replica(name)
		switch {
		case r.Lease != nil && r.Lease.ID == h.ID:
			h.shown = true
			if r.Lease.Phase == client.PhaseExpired {
				h.gone = true
			}
		case h.shown:
			s.renewer.Forget(h.ID)
			delete(s.leases, name)
		}
	}
}

// shown is the highest token of the plan's leases in a state of the group; 0: it has none.
func (s *Session) shown(state client.GroupState) (highest int64) {
	for i := range state.Replicas {
		if l := state.Replicas[i].Lease; l != nil && l.Holder == s.key.Holder {
			highest = max(highest, l.Token)
		}
	}
	return highest
}

// foreign shows leases that an earlier leader left, so that they are adopted.
func (s *Session) foreign(state client.GroupState, leases map[string]plan.Lease) {
	for _, r := range state.Replicas {
		if r.Lease != nil && r.Lease.Holder == s.key.Holder {
			leases[r.Name] = plan.Lease{ID: r.Lease.ID, Replica: r.Name, Token: r.Lease.Token, Instance: r.Lease.Instance, Pinned: r.Lease.Phase == client.PhasePinned}
		}
	}
}

func (s *Session) lease(h *held) plan.Lease {
	pinned := h.Phase == client.PhasePinned
	valid := pinned || (!h.gone && s.renewer.Valid(h.ID))
	h.sure = h.sure || valid
	return plan.Lease{
		ID: h.ID, Replica: h.Replica, Token: h.Token, Instance: h.Instance, Pinned: pinned,
		Valid: valid, Lost: h.gone || h.sure && !valid, Outdated: s.outdated(h),
	}
}

// outdated says whether it is too late to begin anything under a lease.
func (s *Session) outdated(h *held) bool {
	return h.asked.IsZero() || s.cfg.Now().Sub(h.asked) >= s.cfg.TTL/2
}

// forget drops all leases: their group is gone, and nobody could be called to duty any
// more. Should it come back, adopting tells what it knows.
func (s *Session) forget() {
	for _, h := range s.leases {
		s.renewer.Forget(h.ID)
	}
	clear(s.leases)
	s.adopted = false
}

func (s *Session) lost(l client.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.leases[l.Replica]; h != nil && h.ID == l.ID {
		h.gone = true
	}
}

// blocker says why the arbiter cannot be asked.
func (s *Session) blocker(err error) *plan.Blocker {
	switch {
	case err == nil:
		return &plan.Blocker{Reason: plan.Connecting, Retry: true, Message: "connecting to the arbiter at " + s.key.Address}
	case errors.Is(err, client.ErrNotFound):
		return &plan.Blocker{Reason: plan.GroupNotFound, Message: fmt.Sprintf("the arbiter at %s has no group %s: create the Roster, or correct spec.arbiter.group", s.key.Address, s.key.Group)}
	case errors.Is(err, client.ErrDenied):
		return &plan.Blocker{Reason: plan.ArbiterDenied, Message: err.Error()}
	case errors.Is(err, client.ErrInvalid):
		return &plan.Blocker{Reason: plan.ArbiterConfigInvalid, Message: err.Error()}
	case errors.Is(err, client.ErrUnimplemented):
		return &plan.Blocker{Reason: plan.ArbiterNotSupported, Message: err.Error()}
	default:
		return &plan.Blocker{Reason: plan.ArbiterUnreachable, Message: err.Error()}
	}
}

// short is the pod's name in "<namespace>/<pod name>".
func short(replica string) string { return replica[strings.LastIndexByte(replica, '/')+1:] }

func newRequestID() string { return string(uuid.NewUUID()) }

// counted tells how many leases there are, and how old.
func (s *Session) counted() metrics.Leases {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n metrics.Leases
	for _, h := range s.leases {
		if h.Phase == client.PhasePinned {
			n.Pinned++
		} else {
			n.Leased++
		}
		if n.Oldest.IsZero() || h.since.Before(n.Oldest) {
			n.Oldest = h.since
		}
	}
	return n
}
