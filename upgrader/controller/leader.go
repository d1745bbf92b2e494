package controller

import (
	"context"
	"fmt"
	"sync"

	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Leader tells the leadership term of this process: the number of changes of the
// leader-election Lease, which the API server keeps and which only grows, counted from when
// the Lease was made. One that is deleted and made anew, with the operator's namespace
// perhaps, counts its changes from 0 again, and sets and arbiters remember earlier terms.
type Leader struct {
	// Reader reads the API server, not a cache.
	Reader client.Reader
	// Lease of the election; empty when there is none, then Fixed is the term.
	Lease client.ObjectKey
	Fixed int64
	// Identity of this process in the election.
	Identity string

	mu   sync.Mutex
	term int64
	ok   bool
}

// Term returns the term in which this process leads, and its identity. It is read once:
// a process that loses the lead ends.
func (l *Leader) Term(ctx context.Context) (int64, string, error) {
	if l.Lease.Name == "" {
		return l.Fixed, l.Identity, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ok {
		return l.term, l.Identity, nil
	}
	var lease coordinationv1.Lease
	if err := l.Reader.Get(ctx, l.Lease, &lease); err != nil {
		return 0, "", fmt.Errorf("read the leader-election lease %s: %w", l.Lease, err)
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != l.Identity {
		return 0, "", fmt.Errorf("the leader-election lease %s is not held by this process (%s) any more", l.Lease, l.Identity)
	}
	l.term = lease.CreationTimestamp.Unix()
	if lease.Spec.LeaseTransitions != nil {
		l.term += int64(*lease.Spec.LeaseTransitions)
	}
	l.ok = true
	return l.term, l.Identity, nil
}
