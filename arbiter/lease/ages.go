package lease

import "time"

// Ages keeps since when this process has known each lease in its phase, or when it was
// last renewed. It is never stored: after a restart every lease is young again, which
// errs on the side of the ban, and no two wall clocks are ever compared.
type Ages struct {
	since map[age]time.Time
}

type age struct {
	id    string
	phase Phase
}

// Observe starts the age of every lease that is new in its phase, and forgets the rest.
func (a *Ages) Observe(t *Table, now time.Time) {
	since := make(map[age]time.Time, len(t.Leases))
	for _, l := range t.Leases {
		k := age{l.ID, l.Phase}
		since[k] = now
		if seen, ok := a.since[k]; ok {
			since[k] = seen
		}
	}
	a.since = since
}

// Renew makes a lease young again. A pin has no use for it: its age tells when it is overdue.
func (a *Ages) Renew(l Lease, now time.Time) {
	if l.Phase == Leased && a.since != nil {
		a.since[age{l.ID, Leased}] = now
	}
}

// Overran says whether a lease's TTL has passed. Only the phase Leased has one.
func (a *Ages) Overran(l Lease, now time.Time) bool {
	since, seen := a.since[age{l.ID, l.Phase}]
	return l.Phase == Leased && seen && now.Sub(since) >= l.TTL
}

// Overdue says whether l is a pin that this process has known for limit or longer.
func (a *Ages) Overdue(l Lease, limit time.Duration, now time.Time) bool {
	since, seen := a.since[age{l.ID, l.Phase}]
	return l.Phase == Pinned && seen && now.Sub(since) >= limit
}

// Next returns the first moment after now at which a lease overruns or a pin becomes
// overdue; the zero time when there is none.
func (a *Ages) Next(t *Table, overdue time.Duration, now time.Time) time.Time {
	var next time.Time
	for _, l := range t.Leases {
		since, seen := a.since[age{l.ID, l.Phase}]
		if !seen || l.Phase == Expired {
			continue
		}
		at := since.Add(l.TTL)
		if l.Phase == Pinned {
			at = since.Add(overdue)
		}
		if at.After(now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}
