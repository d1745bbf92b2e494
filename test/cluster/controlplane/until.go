package controlplane

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pollInterval is short beside anything that a control plane does.
const pollInterval = 50 * time.Millisecond

// Until calls check every 50 ms until it answers nil. It gives up when ctx ends
// or check answers a Permanent error; the error then says what was waited for
// and why it was not so the last time.
func Until(ctx context.Context, what string, check func(ctx context.Context) error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if permanent, ok := errors.AsType[*permanentError](err); ok {
			return fmt.Errorf("wait until %s: %w", what, permanent.err)
		}
		// What check says after the end of ctx is only that ctx ended.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w; last seen: %w", what, context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Permanent makes Until give up at once: it can never become true any more.
func Permanent(err error) error { return &permanentError{err: err} }
