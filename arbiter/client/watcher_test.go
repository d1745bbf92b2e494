package client_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"offduty.dev/arbiter/client"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// station sends each state to one of those who watch.
type station struct {
	states chan *arbiterv1.GroupState
}

func (s *station) watch(stream grpc.ServerStreamingServer[arbiterv1.WatchReplicasResponse]) error {
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case state := <-s.states:
			if err := stream.Send(&arbiterv1.WatchReplicasResponse{State: state}); err != nil {
				return err
			}
		}
	}
}

func idle(revision int64) *arbiterv1.GroupState {
	return &arbiterv1.GroupState{
		Group: "ns/g", Revision: revision,
		Replicas: []*arbiterv1.Replica{{Name: "ns/a-0", Duty: arbiterv1.Duty_DUTY_IDLE}},
	}
}

// seen is what a watcher shows of the one replica.
type seen struct {
	Revision int64
	Duty     client.Duty
	Live     bool
	Failed   bool
}

func see(w *client.Watcher) seen {
	state, live, err := w.State()
	r, _ := state.Replica("ns/a-0")
	return seen{Revision: state.Revision, Duty: r.Duty, Live: live, Failed: err != nil}
}

func TestAWatcherNeverShowsDutyFromABrokenStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &station{states: make(chan *arbiterv1.GroupState, 1)}
		n := listen(t, &double{watch: s.watch})
		c := n.dial()
		var news atomic.Int32
		w := c.Watch(t.Context(), "ns/g", func() { news.Add(1) })
		expect := func(what string, want seen, wantNews int32) {
			t.Helper()
			synctest.Wait()
			if got := see(w); got != want || news.Load() != wantNews {
				t.Errorf("%s: got %+v after %d notices, want %+v after %d", what, got, news.Load(), want, wantNews)
			}
		}
		expect("before the first state", seen{}, 0)
		s.states <- idle(1)
		expect("with the first state", seen{Revision: 1, Duty: client.DutyIdle, Live: true}, 1)
		s.states <- idle(2)
		expect("after a change", seen{Revision: 2, Duty: client.DutyIdle, Live: true}, 2)
		n.cut()
		expect("right after the stream broke", seen{Revision: 2, Failed: true}, 3)
		before := news.Load()
		time.Sleep(time.Minute)
		synctest.Wait()
		if more := news.Load() - before; more > 2 {
			t.Errorf("%d notices of the same loss", more)
		}
		n.mend()
		s.states <- idle(3)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if got, want := see(w), (seen{Revision: 3, Duty: client.DutyIdle, Live: true}); got != want {
			t.Errorf("after the arbiter came back: got %+v, want %+v", got, want)
		}
	})
}

func TestAnArbiterThatConnectsButSaysNothingIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &station{states: make(chan *arbiterv1.GroupState)}
		w := listen(t, &double{watch: s.watch}).dial().Watch(t.Context(), "ns/g", nil)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if _, live, err := w.State(); live || !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("got live %t, %v", live, err)
		}
	})
}

func TestAStateThatBreaksTheProtocolIsNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &station{states: make(chan *arbiterv1.GroupState, 2)}
		w := listen(t, &double{watch: s.watch}).dial().Watch(t.Context(), "ns/g", nil)
		s.states <- idle(1)
		s.states <- &arbiterv1.GroupState{Group: "ns/other", Revision: 9}
		synctest.Wait()
		if _, _, err := w.State(); !errors.Is(err, client.ErrProtocol) {
			t.Errorf("got %v", err)
		}
		if got, want := see(w), (seen{Revision: 1, Failed: true}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestWatchersOfAGroupShareOneStreamThatEndsWithTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open atomic.Int32
		s := &station{states: make(chan *arbiterv1.GroupState, 1)}
		c := listen(t, &double{watch: func(stream grpc.ServerStreamingServer[arbiterv1.WatchReplicasResponse]) error {
			open.Add(1)
			defer open.Add(-1)
			return s.watch(stream)
		}}).dial()
		expect := func(what string, want int32) {
			t.Helper()
			synctest.Wait()
			if got := open.Load(); got != want {
				t.Errorf("%s: %d streams, want %d", what, got, want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		first := c.Watch(ctx, "ns/g", nil)
		second := c.Watch(t.Context(), "ns/g", nil)
		expect("two watchers of a group", 1)
		other := c.Watch(t.Context(), "ns/h", nil)
		expect("and one of another", 2)
		cancel()
		expect("the first one's context ended", 2)
		s.states <- idle(1)
		synctest.Wait()
		first.Stop()
		second.Stop()
		second.Stop()
		expect("nobody watches the group", 1)
		third := c.Watch(t.Context(), "ns/g", nil)
		expect("somebody watches again", 2)
		other.Stop()
		expect("the other group is left", 1)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		expect("the client is closed", 0)
		if _, live, err := third.State(); live || err == nil {
			t.Errorf("after Close: live %t, error %v", live, err)
		}
	})
}
