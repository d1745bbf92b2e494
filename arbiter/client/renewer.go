package client

import (
	"context"
	"sync"
	"time"
)

const (
	// Leases of one call: the limit of the wire.
	maxRenewals = 1000
	// The shortest time between two calls, also when a TTL is 1 s and calls fail.
	minRenewal = 100 * time.Millisecond
)

// RenewerConfig says what is renewed where.
type RenewerConfig struct {
	// Arbiter renews; a Client.
	Arbiter interface {
		Renew(ctx context.Context, group string, refs []LeaseRef) ([]RenewResult, error)
	}
	Group string
	// Now is the clock, time.Now outside tests. It must be monotonic.
	Now func() time.Time
	// OnLost is told of each lease that the arbiter did not renew; it is not tracked any
	// more then. It is called from the renewing goroutine and must not block.
	OnLost func(Lease, Refusal)
	// OnChange, if not nil, is called when a lease has become surely valid, and when one
	// has stopped to be. As OnLost it must not block.
	OnChange func()
}

// Renewer renews the leases of one group in the background and knows until when each is
// surely valid. Pins are valid without renewal.
type Renewer struct {
	cfg  RenewerConfig
	wake chan struct{}

	mu     sync.Mutex
	leases map[string]*tracked // by lease id
}

// tracked is one lease with its times, by our own clock.
type tracked struct {
	lease Lease
	// next is when it is to be renewed; zero: at once.
	next time.Time
	// until is when it may have ended: the TTL counted from before the last renewal that
	// succeeded was sent. Zero: no renewal has succeeded yet.
	until time.Time
	// told is the validity that OnChange was last called for.
	told bool
}

func (t *tracked) valid(now time.Time) bool {
	return t.lease.Phase == PhasePinned || now.Before(t.until)
}

// NewRenewer returns a Renewer; Run makes it work.
func NewRenewer(cfg RenewerConfig) *Renewer {
	if cfg.OnChange == nil {
		cfg.OnChange = func() {}
	}
	if cfg.OnLost == nil {
		cfg.OnLost = func(Lease, Refusal) {}
	}
	return &Renewer{cfg: cfg, wake: make(chan struct{}, 1), leases: map[string]*tracked{}}
}

// Track begins to renew l, or takes over its new token and phase.
//
// A lease becomes valid with its first renewal, which is sent at once, and not with the
// answer that granted it: that answer may repeat a grant made a while ago.
func (r *Renewer) Track(l Lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, known := r.leases[l.ID]
	if !known {
		t = &tracked{}
		r.leases[l.ID] = t
	}
	if t.lease == l {
		return
	}
	if t.lease.Token != l.Token {
		t.next = time.Time{}
	}
	t.lease = l
	if t.lease.Phase == PhasePinned {
		t.told = true
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Forget stops renewing the lease, e.g. because it is being released.
func (r *Renewer) Forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.leases, id)
}

// Valid tells whether the lease is surely in force at this moment.
func (r *Renewer) Valid(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.leases[id]
	return ok && t.valid(r.cfg.Now())
}

// Run renews until ctx ends, and returns nil then.
func (r *Renewer) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
		timer.Reset(r.Step(ctx))
	}
}

// Step is one round of Run: it renews what is due, and returns after how long to call it
// again at the latest. It is for those whose time does not pass by itself.
func (r *Renewer) Step(ctx context.Context) time.Duration {
	for _, due := range r.due() {
		r.renew(ctx, due)
	}
	if r.tell() {
		r.cfg.OnChange()
	}
	return r.untilNext()
}

// due returns what is to be renewed now, in portions for one call each. As soon as one
// is due all are renewed, so that they keep to one call.
func (r *Renewer) due() [][]Lease {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, any := r.cfg.Now(), false
	var all []Lease
	for _, t := range r.leases {
		if t.lease.Phase == PhasePinned {
			continue
		}
		any = any || !now.Before(t.next)
		all = append(all, t.lease)
	}
	var portions [][]Lease
	for any && len(all) > 0 {
		n := min(len(all), maxRenewals)
		portions, all = append(portions, all[:n]), all[n:]
	}
	return portions
}

// renew renews one portion and enters the results.
func (r *Renewer) renew(ctx context.Context, leases []Lease) {
	refs := make([]LeaseRef, 0, len(leases))
	for _, l := range leases {
		refs = append(refs, l.Ref())
	}
	asked := r.cfg.Now()
	results, err := r.cfg.Arbiter.Renew(ctx, r.cfg.Group, refs)
	if err != nil {
		// Valid ends by itself; until then, and after, we try again.
		r.enter(leases, nil, asked)
		return
	}
	for _, lost := range r.enter(leases, results, asked) {
		r.cfg.OnLost(lost.lease, lost.refusal)
	}
}

type lostLease struct {
	lease   Lease
	refusal Refusal
}

// enter notes what came of a renewal of leases that was sent at asked. Without results it
// failed.
func (r *Renewer) enter(leases []Lease, results []RenewResult, asked time.Time) []lostLease {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lost []lostLease
	now := r.cfg.Now()
	for i, sent := range leases {
		t, ok := r.leases[sent.ID]
		if !ok || t.lease.Token != sent.Token {
			continue // released or adopted anew meanwhile: this answer is about the past
		}
		switch {
		case results == nil:
			t.next = now.Add(max(sent.TTL/10, minRenewal))
		case results[i].Refusal != nil:
			delete(r.leases, sent.ID)
			lost = append(lost, lostLease{lease: t.lease, refusal: *results[i].Refusal})
		default:
			t.until = asked.Add(sent.TTL)
			t.next = now.Add(max(sent.TTL/3, minRenewal))
		}
	}
	return lost
}

// tell tells whether any validity has changed since the last call.
func (r *Renewer) tell() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed, now := false, r.cfg.Now()
	for _, t := range r.leases {
		if valid := t.valid(now); valid != t.told {
			t.told, changed = valid, true
		}
	}
	return changed
}

// untilNext is how long nothing needs to be done: until a renewal is due or a validity ends.
func (r *Renewer) untilNext() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, next := r.cfg.Now(), time.Hour
	for _, t := range r.leases {
		if t.lease.Phase == PhasePinned {
			continue
		}
		next = min(next, t.next.Sub(now))
		if t.told {
			next = min(next, t.until.Sub(now))
		}
	}
	return max(0, next)
}
