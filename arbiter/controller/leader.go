package controller

import (
	"context"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Term knows whether this process is still the leader for certain. Leader election alone
// does not tell: a process that was frozen goes on, when it wakes up, until the elector
// has noticed. A successor waits for a whole lease duration after our last renewal, so up
// to then, by our monotonic clock, there is none.
type Term struct {
	// Duration of the leader-election lease.
	Duration time.Duration
	Now      func() time.Time

	// renewed is the moment before the last successful renewal was sent.
	renewed atomic.Pointer[time.Time]
}

// Leading says whether nobody else can be the leader now.
func (t *Term) Leading() bool {
	at := t.renewed.Load()
	return at != nil && t.Now().Sub(*at) < t.Duration
}

// Watch returns a lock that tells t of its renewals.
func (t *Term) Watch(lock resourcelock.Interface) resourcelock.Interface {
	return &watchedLock{Interface: lock, term: t}
}

type watchedLock struct {
	resourcelock.Interface
	term *Term
}

// Create implements resourcelock.Interface.
func (l *watchedLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.noting(r, func() error { return l.Interface.Create(ctx, r) })
}

// Update implements resourcelock.Interface.
func (l *watchedLock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.noting(r, func() error { return l.Interface.Update(ctx, r) })
}

// noting keeps the time of a write that makes or keeps us the leader; giving up the lease
// is a write, too.
func (l *watchedLock) noting(r resourcelock.LeaderElectionRecord, write func() error) error {
	at := l.term.Now()
	ours := r.HolderIdentity == l.Identity()
	if !ours {
		l.term.renewed.Store(nil)
	}
	err := write()
	if err == nil && ours {
		l.term.renewed.Store(&at)
	}
	return err
}
