package client_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"offduty.dev/arbiter/client"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

type attendStream = grpc.BidiStreamingServer[arbiterv1.AttendRequest, arbiterv1.AttendResponse]

// boss gives duty to one replica, as an arbiter does, and notes what it hears.
type boss struct {
	change chan struct{}

	mu         sync.Mutex
	duty       arbiterv1.Duty
	generation int64
	mute       bool
	streams    int
	heard      []told
	// shift is added to the sequences that its answers name: 0 is what the contract says.
	shift int64
}

// told is what is worth telling of an AttendRequest.
type told struct {
	Acknowledged int64
	Duty         string
}

func (b *boss) attend(s attendStream) error {
	b.mu.Lock()
	b.streams++
	b.mu.Unlock()
	requests := make(chan *arbiterv1.AttendRequest)
	go receive(s, requests)
	sequence := int64(0)
	for {
		select {
		case r, ok := <-requests:
			if !ok {
				return s.Context().Err()
			}
			if r.GetSequence() != sequence+1 {
				return status.Errorf(codes.InvalidArgument, "request %d came after %d", r.GetSequence(), sequence)
			}
			sequence++
			b.note(told{Acknowledged: r.GetAcknowledgedGeneration(), Duty: r.GetDuty().String()})
		case <-b.change:
		}
		answer := b.answer(sequence)
		if answer == nil || sequence == 0 {
			continue
		}
		if err := s.Send(answer); err != nil {
			return err
		}
	}
}

func receive(s attendStream, requests chan<- *arbiterv1.AttendRequest) {
	defer close(requests)
	for {
		r, err := s.Recv()
		if err != nil {
			return
		}
		select {
		case requests <- r:
		case <-s.Context().Done():
			return
		}
	}
}

// note keeps what is heard for the first time in a row.
func (b *boss) note(t told) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.heard); n == 0 || b.heard[n-1] != t {
		b.heard = append(b.heard, t)
	}
}

func (b *boss) answer(sequence int64) *arbiterv1.AttendResponse {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mute {
		return nil
	}
	return &arbiterv1.AttendResponse{
		Duty: b.duty, Generation: b.generation, Lifetime: durationpb.New(10 * time.Second), Sequence: sequence + b.shift,
	}
}

func (b *boss) order(d arbiterv1.Duty) {
	b.mu.Lock()
	b.duty, b.generation = d, b.generation+1
	b.mu.Unlock()
	b.change <- struct{}{}
}

func (b *boss) misname(shift int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shift = shift
}

func (b *boss) silence(mute bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mute = mute
}

func (b *boss) record() (heard []told, streams int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.heard, b.streams
}

// office is an Attendant at work under a boss.
type office struct {
	t *testing.T
	*client.Attendant
	*boss
	network *network
	// works is how many Works run now, calls how many were called ever.
	works, calls atomic.Int32
	// linger is how many seconds Work takes to stop.
	linger atomic.Int64
	// broken is how many conversations ended because the contract was broken, errs how
	// many ended with any error.
	broken, errs atomic.Int32
	cancel       context.CancelFunc
	done         chan error
}

func attending(t *testing.T, test func(*office)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := &office{t: t, boss: &boss{duty: arbiterv1.Duty_DUTY_IDLE, generation: 1, change: make(chan struct{})}}
		o.network = listen(t, &double{attend: o.attend})
		var err error
		o.Attendant, err = client.NewAttendant(client.AttendantConfig{
			Client: o.network.dial(), Group: "ns/g", Replica: "ns/a-0", Instance: "uid", Now: time.Now,
			Work: func(ctx context.Context) {
				o.works.Add(1)
				o.calls.Add(1)
				<-ctx.Done()
				time.Sleep(time.Duration(o.linger.Load()) * time.Second)
				o.works.Add(-1)
			},
			OnError: func(err error) {
				o.errs.Add(1)
				if errors.Is(err, client.ErrProtocol) {
					o.broken.Add(1)
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		var ctx context.Context
		ctx, o.cancel = context.WithCancel(t.Context())
		o.done = make(chan error, 1)
		go func() { o.done <- o.Run(ctx) }()
		test(o)
		o.cancel()
		if err := <-o.done; err != nil {
			t.Error(err)
		}
		if o.works.Load() != 0 || o.Working() {
			t.Errorf("after Run %d works run, Working is %t", o.works.Load(), o.Working())
		}
	})
}

func (o *office) expect(what string, working bool, works int32) {
	o.t.Helper()
	synctest.Wait()
	if o.Working() != working || o.works.Load() != works {
		o.t.Errorf("%s: Working %t with %d works, want %t with %d", what, o.Working(), o.works.Load(), working, works)
	}
}

func TestAnAttendantWorksWhenToldAndAcknowledgesWhatIsInEffect(t *testing.T) {
	attending(t, func(o *office) {
		o.linger.Store(2)
		o.expect("at first", false, 0)
		o.order(arbiterv1.Duty_DUTY_WORKING)
		o.expect("on duty", true, 1)
		time.Sleep(time.Minute)
		o.expect("a minute later", true, 1)
		o.order(arbiterv1.Duty_DUTY_IDLE)
		o.expect("off duty, but still stopping", false, 1)
		time.Sleep(3 * time.Second)
		o.expect("stopped", false, 0)
		heard, streams := o.record()
		want := []told{
			{0, "DUTY_IDLE"}, // nothing heard yet
			{1, "DUTY_IDLE"},
			{2, "DUTY_WORKING"},
			{3, "DUTY_IDLE"}, // only when it had stopped
		}
		if diff := cmp.Diff(want, heard); diff != "" {
			o.t.Errorf("acknowledgements (-want +got):\n%s", diff)
		}
		if streams != 1 {
			o.t.Errorf("%d streams, want 1", streams)
		}
	})
}

func TestAnAttendantStopsByItselfWhenTheArbiterIsSilent(t *testing.T) {
	attending(t, func(o *office) {
		o.order(arbiterv1.Duty_DUTY_WORKING)
		o.expect("on duty", true, 1)
		o.silence(true)
		time.Sleep(7 * time.Second)
		o.expect("while the lifetime lasts", true, 1)
		time.Sleep(3 * time.Second)
		o.expect("10 s after the last request that was answered", false, 0)
		o.silence(false)
		time.Sleep(time.Minute)
		o.expect("the arbiter is back", true, 1)
		if o.calls.Load() != 2 {
			o.t.Errorf("Work was called %d times, want 2", o.calls.Load())
		}
	})
}

func TestAnAttendantDoesNotUseAnswersToRequestsItNeverSent(t *testing.T) {
	attending(t, func(o *office) {
		o.order(arbiterv1.Duty_DUTY_WORKING)
		o.expect("on duty", true, 1)
		// Far ahead: the next request may be on its way before the answer to this one comes.
		o.misname(10)
		time.Sleep(7 * time.Second)
		o.expect("while the last good answer lasts", true, 1)
		time.Sleep(time.Minute)
		o.expect("after it has run out", false, 0)
		if broken, errs := o.broken.Load(), o.errs.Load(); broken == 0 || broken != errs {
			o.t.Errorf("%d of %d errors say that the contract is broken", broken, errs)
		}
		o.misname(0)
		time.Sleep(time.Minute)
		o.expect("when the arbiter has been mended", true, 1)
	})
}

func TestAnAttendantRenewsAlsoWhileTheArbiterKeepsSpeakingUnasked(t *testing.T) {
	attending(t, func(o *office) {
		o.order(arbiterv1.Duty_DUTY_WORKING)
		for range 60 {
			time.Sleep(time.Second)
			o.change <- struct{}{}
		}
		o.expect("a minute later", true, 1)
		if o.calls.Load() != 1 || o.errs.Load() != 0 {
			o.t.Errorf("Work was called %d times, with %d errors, want once without any", o.calls.Load(), o.errs.Load())
		}
	})
}

func TestAnAttendantStopsByItselfWhenTheNetworkIsCut(t *testing.T) {
	attending(t, func(o *office) {
		o.order(arbiterv1.Duty_DUTY_WORKING)
		o.expect("on duty", true, 1)
		o.network.cut()
		time.Sleep(5 * time.Second)
		o.expect("a short loss is no reason to stop", true, 1)
		time.Sleep(6 * time.Second)
		o.expect("a long one is", false, 0)
		o.network.mend()
		time.Sleep(15 * time.Second)
		o.expect("after the network was mended", true, 1)
	})
}

func TestAnAttendantThatIsStillStoppingWorksAgainOnlyWhenItHasStopped(t *testing.T) {
	attending(t, func(o *office) {
		o.linger.Store(5)
		o.order(arbiterv1.Duty_DUTY_WORKING)
		o.expect("on duty", true, 1)
		o.order(arbiterv1.Duty_DUTY_IDLE)
		synctest.Wait()
		o.order(arbiterv1.Duty_DUTY_WORKING)
		o.expect("told to work again", true, 1)
		if o.calls.Load() != 1 {
			o.t.Errorf("Work was called %d times before the first had stopped", o.calls.Load())
		}
		time.Sleep(6 * time.Second)
		o.expect("after it had stopped", true, 1)
		if o.calls.Load() != 2 {
			o.t.Errorf("Work was called %d times, want 2", o.calls.Load())
		}
		heard, _ := o.record()
		if last := heard[len(heard)-1]; last != (told{4, "DUTY_WORKING"}) {
			o.t.Errorf("acknowledged %+v", last)
		}
	})
}

func TestAnAttendantKeepsPaceWithAFlippingArbiter(t *testing.T) {
	attending(t, func(o *office) {
		for range 50 {
			o.order(arbiterv1.Duty_DUTY_WORKING)
			o.order(arbiterv1.Duty_DUTY_IDLE)
		}
		o.expect("after the last flip", false, 0)
		o.order(arbiterv1.Duty_DUTY_WORKING)
		o.expect("on duty", true, 1)
		time.Sleep(time.Minute)
		o.expect("a minute later", true, 1)
	})
}
