package client

import "time"

// ledger finds out for each answer of an attendance which request it may be counted from.
//
// The arbiter answers each request and, besides, speaks up when the duty changes; the
// answers do not say which is which. An answer with another generation than the one before
// may be such a change, sent before our last request arrived. It is counted from the last
// request that is surely answered: too early is safe, too late would let two replicas work.
type ledger struct {
	// pending holds when the requests were sent that are not surely answered, oldest first.
	pending []time.Time
	// answered is when the last request was sent that is surely answered.
	answered   time.Time
	begun      bool
	generation int64
}

func (l *ledger) add(sent time.Time) { l.pending = append(l.pending, sent) }

// attribute returns when the request was sent from which this answer counts.
func (l *ledger) attribute(generation int64) time.Time {
	// Before the first request the arbiter does not know who we are: the first answer is one.
	if (!l.begun || generation == l.generation) && len(l.pending) > 0 {
		l.answered, l.pending = l.pending[0], l.pending[1:]
	}
	l.begun, l.generation = true, generation
	return l.answered
}

// behind: so many requests are not surely answered that permissions count from too long
// ago, or nobody is there. A new stream starts the count anew.
func (l *ledger) behind() bool { return len(l.pending) >= 2 }
