package client

import (
	"fmt"
	"time"
)

// maxUnanswered is how many requests may be without an answer when another one is due.
// More, and nobody is there or the answers come from too long ago: with a request every
// quarter of a lifetime, a new conversation still begins before the lifetime has passed.
const maxUnanswered = 2

// ledger knows for each request of one conversation when it was sent, since an answer
// lasts from when the request was sent that it names.
type ledger struct {
	// sent holds the requests that an answer may still name, by sequence: from answered to
	// last. Those before answered have been forgotten: answers never go back.
	sent map[int64]time.Time
	// last is the sequence of the last request, answered the one that was named last; 0: none.
	last, answered int64
}

// add enters a request that is about to be sent and returns its sequence.
func (l *ledger) add(now time.Time) int64 {
	if l.sent == nil {
		l.sent = map[int64]time.Time{}
	}
	l.last++
	l.sent[l.last] = now
	return l.last
}

// from returns when the request was sent that an answer names. An error means that the
// answer breaks the protocol.
func (l *ledger) from(sequence int64) (time.Time, error) {
	sent, ok := l.sent[sequence]
	if !ok {
		return time.Time{}, fmt.Errorf("it names request %d, but only those from %d to %d can be answered",
			sequence, max(l.answered, 1), l.last)
	}
	for ; l.answered < sequence; l.answered++ {
		delete(l.sent, l.answered)
	}
	return sent, nil
}

// due is when the next request is, if one is wanted every interval.
func (l *ledger) due(interval time.Duration) time.Time { return l.sent[l.last].Add(interval) }

// behind: so many requests are without an answer that a new conversation is due.
func (l *ledger) behind() bool { return l.last-l.answered >= maxUnanswered }
