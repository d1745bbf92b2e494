package client

import (
	"context"
	"errors"
	"io"
	"time"
)

// pause waits; false: ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// hint is when the arbiter wants to be asked again, at most lastRetry: a wish, not more.
func hint(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok {
		return min(e.RetryAfter, lastRetry)
	}
	return 0
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }
