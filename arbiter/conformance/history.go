package conformance

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// The concurrent case: several upgraders, each with two leaders that do not know of each other.
const (
	upgraders      = 3
	callsPerLeader = 40
	decideWithin   = 30 * time.Second
)

// asked and said are one call of a history. Which fields are set is told by what.
type asked struct {
	what                 string // adopt, acquire, pin, release, list
	holder, leader       string
	term, token          int64
	replica, id, request string
}

type said struct {
	reason arbiterv1.RefusalReason
	token  int64
	id     string
	// leases by replica: id, token and phase, of a list.
	leases map[string]held
}

// held is a lease as far as histories are concerned.
type held struct {
	holder, id string
	token      int64
	pinned     bool
}

// fence is a holder.
type fence struct {
	term   int64
	leader string
	token  int64
}

// world is the state of the sequential arbiter that a history is held against.
type world struct {
	last    int64
	holders map[string]fence
	leases  map[string]held
}

func sameWorld(a, b any) bool {
	x, y := a.(world), b.(world) //nolint:forcetypeassert // the model has no other state
	return x.last == y.last && maps.Equal(x.holders, y.holders) && maps.Equal(x.leases, y.leases)
}

// limits are the group's, which do not change while a history is made.
type limits struct {
	serving, floor, maximum int
}

// model is the specification as a sequential machine.
func (l limits) model() porcupine.Model {
	return porcupine.Model{
		Init:  func() any { return world{holders: map[string]fence{}, leases: map[string]held{}} },
		Equal: sameWorld,
		Step: func(state, input, output any) (bool, any) {
			w, q, a := state.(world), input.(asked), output.(said) //nolint:forcetypeassert // the history has no other
			return l.step(w, q, a)
		},
		DescribeOperation: func(input, output any) string {
			q, a := input.(asked), output.(said) //nolint:forcetypeassert // the history has no other
			return describe(q, a)
		},
	}
}

func describe(q asked, a said) string {
	answer := "done"
	switch {
	case a.reason != 0:
		answer = reason(a.reason)
	case a.token != 0:
		answer = fmt.Sprintf("%s token %d", a.id, a.token)
	case q.what == "list":
		answer = fmt.Sprint(a.leases)
	}
	return fmt.Sprintf("%s %s%s%s term %d token %d: %s", q.what, q.holder, q.replica, q.id, q.term, q.token, answer)
}

func (l limits) step(w world, q asked, a said) (bool, world) {
	switch q.what {
	case "adopt":
		return stepAdopt(w, q, a)
	case "acquire":
		return l.stepAcquire(w, q, a)
	case "list":
		return maps.Equal(w.leases, a.leases), w
	}
	return stepLease(w, q, a)
}

func stepAdopt(w world, q asked, a said) (bool, world) {
	h, known := w.holders[q.holder]
	switch {
	case known && q.term < h.term:
		return a.reason == staleToken, w
	case known && q.term == h.term && q.leader == h.leader:
		return a.reason == 0 && a.token == h.token, w
	case a.reason != 0 || a.token <= w.last:
		return false, w
	}
	next := world{last: a.token, holders: maps.Clone(w.holders), leases: maps.Clone(w.leases)}
	next.holders[q.holder] = fence{q.term, q.leader, a.token}
	for name, x := range next.leases {
		if x.holder == q.holder {
			x.token = a.token
			next.leases[name] = x
		}
	}
	return true, next
}

func (l limits) stepAcquire(w world, q asked, a said) (bool, world) {
	if h, known := w.holders[q.holder]; !known || h.token != q.token {
		return a.reason == staleToken, w
	}
	if x, taken := w.leases[q.replica]; taken {
		if x.holder != q.holder {
			return a.reason == leasedByOther, w
		}
		return a.reason == 0 && a.id == x.id && a.token == x.token, w
	}
	if a.reason == notIdle {
		return true, w // duty may move, and is no part of this model
	}
	full, low := len(w.leases) >= l.maximum, l.serving-len(w.leases)-1 < l.floor
	if full || low {
		return full && a.reason == maxLeased || low && a.reason == belowFloor, w
	}
	if a.reason != 0 || a.token <= w.last {
		return false, w
	}
	next := world{last: a.token, holders: w.holders, leases: maps.Clone(w.leases)}
	next.leases[q.replica] = held{holder: q.holder, id: a.id, token: a.token}
	return true, next
}

// stepLease is a pin or a release of a lease that the caller knows.
func stepLease(w world, q asked, a said) (bool, world) {
	name, x := "", held{}
	for n, l := range w.leases {
		if l.id == q.id {
			name, x = n, l
		}
	}
	switch {
	case name == "" && q.what == "release":
		return a.reason == 0 || a.reason == staleToken, w
	case name == "":
		return a.reason == leaseLost || a.reason == staleToken, w
	case x.token != q.token:
		return a.reason == staleToken, w
	case a.reason != 0:
		return false, w
	}
	next := world{last: w.last, holders: w.holders, leases: maps.Clone(w.leases)}
	if q.what == "release" {
		delete(next.leases, name)
	} else {
		x.pinned = true
		next.leases[name] = x
	}
	return true, next
}

// recorder makes a history. Time in it is a counter: the order is all that matters.
type recorder struct {
	c     *check
	clock atomic.Int64
	// serving is how many serve while nobody is leased; moved: another number did at some time.
	serving int
	moved   atomic.Bool

	mu      sync.Mutex
	history []porcupine.Operation
	problem error
}

// leader is one client that acts for a holder.
type leader struct {
	*recorder
	n        int
	rand     *rand.Rand
	holder   string
	term     *atomic.Int64 // shared by the leaders of the holder
	token    int64
	mine     []*arbiterv1.Lease
	replicas []*arbiterv1.Replica
}

// does makes one call until it is answered, and records it from its first try on: a call may
// be repeated, because every call is idempotent.
func (l *leader) does(q asked, do func(context.Context) (said, error)) (said, bool) {
	began := l.clock.Add(1)
	var last error
	for waited := time.Duration(0); waited < l.c.target.Settle; waited += again {
		ctx, cancel := context.WithTimeout(l.c.ctx, l.c.target.Timeout)
		a, err := do(ctx)
		cancel()
		if err == nil {
			ended := l.clock.Add(1)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.history = append(l.history, porcupine.Operation{ClientId: l.n, Input: q, Output: a, Call: began, Return: ended})
			return a, true
		}
		if last = err; status.Code(err) != codes.Unavailable || !pause(l.c.ctx, again) {
			break // whether it was done is not known, and the history says nothing any more
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problem = fmt.Errorf("%s is well formed and failed: %w", q.what, last)
	return said{}, false
}

func (l *leader) adopt() bool {
	q := asked{what: "adopt", holder: l.holder, leader: fmt.Sprint("leader-", l.n), term: l.term.Add(1)}
	a, ok := l.does(q, func(ctx context.Context) (said, error) {
		r, err := l.c.api.AdoptLeases(ctx, &arbiterv1.AdoptLeasesRequest{Group: l.c.target.Group, Holder: q.holder, Term: q.term, Identity: q.leader})
		return said{reason: r.GetRefusal().GetReason(), token: r.GetToken()}, err
	})
	if a.token > 0 {
		l.token = a.token
	}
	return ok
}

func (l *leader) acquire(i int) bool {
	r := l.replicas[l.rand.IntN(len(l.replicas))]
	q := asked{what: "acquire", holder: l.holder, token: l.token, replica: r.GetName(), request: fmt.Sprintf("%s-%d-%d", l.holder, l.n, i)}
	_, ok := l.does(q, func(ctx context.Context) (said, error) {
		got, err := l.c.api.AcquireLeases(ctx, &arbiterv1.AcquireLeasesRequest{
			Group: l.c.target.Group, Holder: q.holder, Token: q.token, RequestId: q.request, Max: 1, Ttl: seconds(long),
			Candidates: []*arbiterv1.Candidate{{Replica: r.GetName(), Instance: r.GetInstance()}},
		})
		switch {
		case got.GetRefusal() != nil:
			return said{reason: got.GetRefusal().GetReason()}, err
		case len(got.GetRefusals()) == 1:
			return said{reason: got.GetRefusals()[0].GetRefusal().GetReason()}, err
		case len(got.GetLeases()) == 1:
			x := got.GetLeases()[0]
			l.mine = append(l.mine, x)
			return said{id: x.GetId(), token: x.GetToken()}, err
		}
		return said{}, err
	})
	return ok
}

// act pins or releases one of the leases that this leader was given.
func (l *leader) act(pin bool) bool {
	if len(l.mine) == 0 {
		return true
	}
	x := l.mine[l.rand.IntN(len(l.mine))]
	q := asked{what: "release", id: x.GetId(), token: x.GetToken()}
	if pin {
		q.what = "pin"
	}
	_, ok := l.does(q, func(ctx context.Context) (said, error) {
		if pin {
			r, err := l.c.api.PinLease(ctx, &arbiterv1.PinLeaseRequest{Group: l.c.target.Group, Lease: ref(x), Instance: x.GetInstance()})
			return said{reason: r.GetRefusal().GetReason()}, err
		}
		r, err := l.c.api.ReleaseLease(ctx, &arbiterv1.ReleaseLeaseRequest{Group: l.c.target.Group, Lease: ref(x), Outcome: undone})
		return said{reason: r.GetRefusal().GetReason()}, err
	})
	return ok
}

func (l *leader) list() bool {
	_, ok := l.does(asked{what: "list"}, func(ctx context.Context) (said, error) {
		r, err := l.c.api.ListReplicas(ctx, &arbiterv1.ListReplicasRequest{Group: l.c.target.Group})
		s := r.GetState()
		l.moved.CompareAndSwap(false, err == nil && int(s.GetServing())+leases(s) != l.serving)
		out := said{leases: map[string]held{}}
		for _, x := range s.GetReplicas() {
			if y := x.GetLease(); y != nil {
				out.leases[x.GetName()] = held{y.GetHolder(), y.GetId(), y.GetToken(), y.GetPhase() == pinned}
			}
		}
		return out, err
	})
	return ok
}

// run is the life of a leader. It ends early when a call was not answered.
func (l *leader) run() {
	pins := l.c.caps.GetLeases() == arbiterv1.LeaseSupport_LEASE_SUPPORT_PINNED
	ok := l.adopt()
	for i := 0; ok && i < callsPerLeader; i++ {
		switch n := l.rand.IntN(10); {
		case n == 0:
			ok = l.adopt()
		case n < 5:
			ok = l.acquire(i)
		case n < 7:
			ok = l.act(false)
		case n < 8 && pins:
			ok = l.act(true)
		default:
			ok = l.list()
		}
	}
}

func tryConcurrent(c *check) {
	free := c.idlers(1)
	lim := limits{int(c.last.GetServing()), int(c.last.GetFloor()), int(c.last.GetMaxLeased())}
	rec := &recorder{c: c, serving: lim.serving}
	var all sync.WaitGroup
	for u := range upgraders {
		// Its leaders adopt for themselves; the case ends what they leave.
		h := &holder{check: c, id: fmt.Sprintf("%s-h%d", c.name, u), identity: "nobody"}
		c.holders = append(c.holders, h)
		term := &atomic.Int64{}
		for i := range 2 {
			n := 2*u + i
			seed := rand.NewPCG(1, uint64(n))
			l := &leader{recorder: rec, n: n, rand: rand.New(seed), holder: h.id, term: term, replicas: free} //nolint:gosec // the same calls in each run
			all.Go(l.run)
		}
	}
	all.Wait()
	if rec.problem != nil {
		c.fails("ERR-1", "among %d leaders at once, %s", 2*upgraders, rec.problem)
	}
	if id := twice(rec.history); id != "" {
		c.fails("GRANT-7", "the id %s was given to two grants", id)
	}
	model := lim.model()
	result, info := porcupine.CheckOperationsVerbose(model, rec.history, decideWithin)
	switch result {
	case porcupine.Ok:
	case porcupine.Unknown:
		c.skip("whether %d calls of %d leaders are linearizable could not be decided within %s", len(rec.history), 2*upgraders, decideWithin)
	case porcupine.Illegal:
		if rec.moved.Load() {
			c.skip("others than %d replicas served for a while, leased ones included: the history cannot be judged", lim.serving)
		}
		c.fails("LIN-1", "%d calls of %d leaders have no order that explains the answers; %s%s",
			len(rec.history), 2*upgraders, stuckAt(rec.history, info), c.draw(model, info))
	}
}

// twice returns an id that was granted on two replicas.
func twice(history []porcupine.Operation) string {
	on := map[string]string{}
	for _, op := range history {
		q, a := op.Input.(asked), op.Output.(said) //nolint:forcetypeassert // the history has no other
		if q.what != "acquire" || a.id == "" {
			continue
		}
		if other, ok := on[a.id]; ok && other != q.replica {
			return a.id
		}
		on[a.id] = q.replica
	}
	return ""
}

// stuckAt tells the first call that the longest order found does not explain.
func stuckAt(history []porcupine.Operation, info porcupine.LinearizationInfo) string {
	var longest []int
	for _, part := range info.PartialLinearizations() {
		for _, order := range part {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	done := map[int]bool{}
	for _, i := range longest {
		done[i] = true
	}
	first := -1
	for i, op := range history {
		if !done[i] && (first < 0 || op.Return < history[first].Return) {
			first = i
		}
	}
	if first < 0 {
		return "which one is at odds is not known"
	}
	q, a := history[first].Input.(asked), history[first].Output.(said) //nolint:forcetypeassert // the history has no other
	return fmt.Sprintf("%d of them have; then comes this one: %s", len(longest), describe(q, a))
}

// draw writes a picture of the history, if there is a place for it.
func (c *check) draw(model porcupine.Model, info porcupine.LinearizationInfo) string {
	if c.target.Dir == "" {
		return ""
	}
	path := filepath.Join(c.target.Dir, "history.html")
	if err := porcupine.VisualizePath(model, info, path); err != nil {
		return fmt.Sprintf(" (it could not be drawn: %s)", err)
	}
	return " (drawn in " + path + ")"
}
