package client

import (
	"context"
	"errors"
	"sync"
	"time"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

const (
	firstRetry = 200 * time.Millisecond
	// The longest time between two attempts to watch.
	lastRetry = 5 * time.Second
)

var (
	errSilent = errors.New("the arbiter sent no state in time")
	errEnded  = errors.New("the arbiter ended the watch")
	errClosed = errors.New("the client is closed")
)

// Watcher follows one group. All watchers of a group share one stream, and all streams
// of a client one connection.
type Watcher struct {
	feed *feed
	stop func()
}

// Watch follows the group until ctx ends or Stop is called, reconnecting as needed.
//
// notify, if not nil, is called after each change of what State returns, from the goroutine
// that reads the stream: it must not block. It may be called once more after Stop, and
// never after Close.
func (c *Client) Watch(ctx context.Context, group string, notify func()) *Watcher {
	w := &Watcher{}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.feeds == nil {
		w.feed, w.stop = &feed{err: errClosed}, func() {}
		return w
	}
	f, ok := c.feeds[group]
	if !ok {
		// The stream belongs to all watchers of the group, not to the first one.
		shared, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &feed{group: group, cancel: cancel, watchers: map[*Watcher]func(){}}
		c.feeds[group] = f
		c.ending.Go(func() { f.run(shared, c) })
	}
	f.join(w, notify)
	leave := sync.OnceFunc(func() { c.leave(f, w) })
	unhook := context.AfterFunc(ctx, leave)
	w.feed, w.stop = f, func() { unhook(); leave() }
	return w
}

// leave ends the feed with its last watcher.
func (c *Client) leave(f *feed, w *Watcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !f.part(w) {
		return
	}
	f.cancel()
	if c.feeds[f.group] == f {
		delete(c.feeds, f.group)
	}
}

// Stop ends the watching, and the stream if no other watcher needs it. It does not wait.
func (w *Watcher) Stop() { w.stop() }

// State returns the latest state of the group.
//
// live says whether it is up to date as far as is known. If it is not, every duty in it
// is DutyUnknown and err says why: nil before the first attempt to watch has ended. The
// state is empty before the first one has come.
func (w *Watcher) State() (state GroupState, live bool, err error) { return w.feed.get() }

// feed is one stream with those who watch it.
type feed struct {
	group  string
	cancel context.CancelFunc

	mu       sync.Mutex
	watchers map[*Watcher]func()
	state    GroupState
	live     bool
	err      error // why it is not live
}

func (f *feed) join(w *Watcher, notify func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if notify == nil {
		notify = func() {}
	}
	f.watchers[w] = notify
}

// part tells whether w was the last one.
func (f *feed) part(w *Watcher) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, w)
	return len(f.watchers) == 0
}

func (f *feed) get() (GroupState, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state, f.live, f.err
}

func (f *feed) run(ctx context.Context, c *Client) {
	retry := firstRetry
	for {
		heard, err := f.follow(ctx, c)
		if ctx.Err() != nil {
			f.lose(errClosed)
			return
		}
		f.lose(err)
		if heard {
			retry = firstRetry
		}
		if !pause(ctx, max(retry, hint(err))) {
			f.lose(errClosed)
			return
		}
		retry = min(2*retry, lastRetry)
	}
}

// follow reads one stream to its end. heard: at least one state came.
func (f *feed) follow(ctx context.Context, c *Client) (heard bool, err error) {
	stream, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(c.timeout, func() { cancel(errSilent) })
	defer silence.Stop()
	s, err := c.arbiter.WatchReplicas(stream, &arbiterv1.WatchReplicasRequest{Group: f.group})
	for err == nil {
		var answer *arbiterv1.WatchReplicasResponse
		if answer, err = s.Recv(); err != nil {
			break
		}
		state, bad := stateOf(answer.GetState(), f.group)
		if bad != nil {
			return heard, c.broken("watch", f.group, bad)
		}
		silence.Stop()
		heard = true
		f.hear(state)
	}
	return heard, f.ended(ctx, stream, c, err)
}

// ended says why a stream ended.
func (f *feed) ended(ctx, stream context.Context, c *Client, err error) error {
	switch {
	case ctx.Err() == nil && errors.Is(context.Cause(stream), errSilent):
		_, text := c.unavailable(errSilent.Error())
		return &Error{Kinds: []error{ErrUnavailable}, cause: errSilent, text: text}
	case isEOF(err):
		_, text := c.unavailable(errEnded.Error())
		return &Error{Kinds: []error{ErrUnavailable}, cause: errEnded, text: text}
	}
	return c.failure(ctx, "watch", f.group, err)
}

func (f *feed) hear(state GroupState) {
	f.mu.Lock()
	f.state, f.live, f.err = state, true, nil
	f.mu.Unlock()
	f.notify()
}

// lose makes what is known unusable. The same loss again is no news.
func (f *feed) lose(err error) {
	f.mu.Lock()
	news := f.live || f.err == nil || f.err.Error() != err.Error()
	if f.live {
		f.state = f.state.dutyUnknown()
	}
	f.live, f.err = false, err
	f.mu.Unlock()
	if news {
		f.notify()
	}
}

func (f *feed) notify() {
	f.mu.Lock()
	calls := make([]func(), 0, len(f.watchers))
	for _, call := range f.watchers {
		calls = append(calls, call)
	}
	f.mu.Unlock()
	for _, call := range calls {
		call()
	}
}
