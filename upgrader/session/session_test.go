package session_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
	"k8s.io/apimachinery/pkg/types"

	"offduty.dev/arbiter/client"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
	"offduty.dev/upgrader/plan"
	"offduty.dev/upgrader/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const replica = "ns/web-0"

// arbiter is one that says what a test wants.
type arbiter struct {
	arbiterv1.UnimplementedArbiterServiceServer

	mu      sync.Mutex
	leases  arbiterv1.LeaseSupport
	asked   int      // for capabilities
	wishes  []string // request ids of Acquire
	fail    error    // of the next Acquire
	refuse  *arbiterv1.Refusal
	adopted []*arbiterv1.Lease
	states  chan *arbiterv1.GroupState
	mute    bool // no renewal is answered
}

func (a *arbiter) GetCapabilities(context.Context, *arbiterv1.GetCapabilitiesRequest) (*arbiterv1.GetCapabilitiesResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	return &arbiterv1.GetCapabilitiesResponse{Listing: true, Leases: a.leases, Implementation: "double 1"}, nil
}

func (a *arbiter) AdoptLeases(context.Context, *arbiterv1.AdoptLeasesRequest) (*arbiterv1.AdoptLeasesResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.refuse; r != nil && r.GetReason() == arbiterv1.RefusalReason_REFUSAL_REASON_HOLDER_RETIRED {
		return &arbiterv1.AdoptLeasesResponse{Refusal: r}, nil
	}
	return &arbiterv1.AdoptLeasesResponse{Token: 7, Leases: a.adopted}, nil
}

func (a *arbiter) AcquireLeases(_ context.Context, r *arbiterv1.AcquireLeasesRequest) (*arbiterv1.AcquireLeasesResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wishes = append(a.wishes, r.GetRequestId())
	switch {
	case a.fail != nil:
		err := a.fail
		a.fail = nil
		return nil, err
	case a.refuse != nil:
		return &arbiterv1.AcquireLeasesResponse{Refusals: []*arbiterv1.CandidateRefusal{{Replica: replica, Refusal: a.refuse}}}, nil
	}
	return &arbiterv1.AcquireLeasesResponse{Leases: []*arbiterv1.Lease{lease(7)}}, nil
}

func (a *arbiter) PinLease(context.Context, *arbiterv1.PinLeaseRequest) (*arbiterv1.PinLeaseResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refuse != nil {
		return &arbiterv1.PinLeaseResponse{Refusal: a.refuse}, nil
	}
	l := lease(7)
	l.Phase = arbiterv1.LeasePhase_LEASE_PHASE_PINNED
	return &arbiterv1.PinLeaseResponse{Lease: l}, nil
}

func (a *arbiter) RenewLeases(ctx context.Context, r *arbiterv1.RenewLeasesRequest) (*arbiterv1.RenewLeasesResponse, error) {
	if a.mute {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	out := &arbiterv1.RenewLeasesResponse{}
	for _, l := range r.GetLeases() {
		out.Results = append(out.Results, &arbiterv1.RenewResult{Id: l.GetId()})
	}
	return out, nil
}

func (a *arbiter) ReleaseLease(context.Context, *arbiterv1.ReleaseLeaseRequest) (*arbiterv1.ReleaseLeaseResponse, error) {
	return &arbiterv1.ReleaseLeaseResponse{}, nil
}

func (a *arbiter) RetireHolder(context.Context, *arbiterv1.RetireHolderRequest) (*arbiterv1.RetireHolderResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &arbiterv1.RetireHolderResponse{Refusal: a.refuse}, nil
}

func (a *arbiter) RequestHandover(context.Context, *arbiterv1.RequestHandoverRequest) (*arbiterv1.RequestHandoverResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refuse != nil {
		return &arbiterv1.RequestHandoverResponse{Refusal: a.refuse}, nil
	}
	return &arbiterv1.RequestHandoverResponse{Successor: "ns/web-1"}, nil
}

func (a *arbiter) WatchReplicas(_ *arbiterv1.WatchReplicasRequest, s grpc.ServerStreamingServer[arbiterv1.WatchReplicasResponse]) error {
	for {
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case state := <-a.states:
			if err := s.Send(&arbiterv1.WatchReplicasResponse{State: state}); err != nil {
				return err
			}
		}
	}
}

func lease(token int64) *arbiterv1.Lease {
	return &arbiterv1.Lease{
		Id: "L1", Replica: replica, Holder: "plan-uid", Token: token, Instance: "u0",
		Phase: arbiterv1.LeasePhase_LEASE_PHASE_LEASED, Ttl: durationpb.New(30 * time.Second),
	}
}

// group is a state of the group in which the one replica has a duty and, perhaps, a lease.
func group(revision int64, duty arbiterv1.Duty, l *arbiterv1.Lease) *arbiterv1.GroupState {
	return &arbiterv1.GroupState{Group: "ns/g", Epoch: "e", Revision: revision, Replicas: []*arbiterv1.Replica{
		{Name: replica, Duty: duty, Instance: "u0", Lease: l}, {Name: "ns/web-1", Duty: arbiterv1.Duty_DUTY_IDLE, Instance: "u1"},
	}}
}

// talker is a conversation, and the test that has it.
type talker struct {
	*session.Session
	t *testing.T
}

// talk runs a test in virtual time, with a conversation that has heard of the group once.
func talk(t *testing.T, a *arbiter, test func(*talker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a.states = make(chan *arbiterv1.GroupState, 4)
		if a.leases == arbiterv1.LeaseSupport_LEASE_SUPPORT_UNSPECIFIED {
			a.leases = arbiterv1.LeaseSupport_LEASE_SUPPORT_PINNED
		}
		listener, server := bufconn.Listen(1<<20), grpc.NewServer()
		arbiterv1.RegisterArbiterServiceServer(server, a)
		go func() { _ = server.Serve(listener) }()
		defer server.Stop()
		all := session.New(t.Context(), session.Config{
			Leader: func(context.Context) (int64, string, error) { return 1, "me", nil },
			TTL:    30 * time.Second, Now: time.Now, Notify: func(types.NamespacedName) {}, Dial: session.Dial,
		})
		name := types.NamespacedName{Namespace: "ns", Name: "p"}
		ses, err := all.For(session.Key{Plan: name, Holder: "plan-uid", Address: "127.0.0.1:9443", Group: "ns/g"}, client.Config{
			Address: "127.0.0.1:9443", Insecure: true,
			Dialer: func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer all.Forget(name)
		a.tell(group(1, arbiterv1.Duty_DUTY_IDLE, nil))
		test(&talker{ses, t})
	})
}

// tell makes the watchers know of a state.
func (a *arbiter) tell(state *arbiterv1.GroupState) {
	a.states <- state
	synctest.Wait()
}

func (a *arbiter) says(refuse *arbiterv1.Refusal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = refuse
}

func no(reason arbiterv1.RefusalReason) *arbiterv1.Refusal {
	return &arbiterv1.Refusal{Reason: reason, Rule: "rule", Message: "three must serve"}
}

var candidates = []client.Candidate{{Replica: replica, Instance: "u0"}}

func acquire(s *talker) []string {
	t := s.t
	t.Helper()
	if err := s.Adopt(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s.View()
	granted, err := s.Acquire(t.Context(), candidates, 1)
	if err != nil {
		t.Fatal(err)
	}
	return granted
}

func TestAnArbiterWithoutPinsIsNotUsed(t *testing.T) {
	a := &arbiter{leases: arbiterv1.LeaseSupport_LEASE_SUPPORT_TTL}
	talk(t, a, func(s *talker) {
		t := s.t
		var stuck *plan.Stuck
		if err := s.Adopt(t.Context(), nil); !errors.As(err, &stuck) || stuck.Reason != plan.ArbiterNotSupported || !strings.Contains(stuck.Message, "double 1") {
			t.Fatalf("got %v", err)
		}
		v := s.View().Arbiter
		if b := v.Blocked; b == nil || b.Reason != plan.ArbiterNotSupported || v.Adopted || time.Until(v.Again) != time.Minute {
			t.Errorf("the view says %+v", v)
		}
		time.Sleep(time.Minute)
		if v := s.View().Arbiter; v.Blocked == nil || time.Now().Before(v.Again) {
			t.Errorf("a minute later, when it is to be asked again, the view says %+v", v.Blocked)
		}
	})
}

func TestAnArbiterThatWasReplacedByOneWithPinsIsAskedOnce(t *testing.T) {
	a := &arbiter{leases: arbiterv1.LeaseSupport_LEASE_SUPPORT_TTL}
	talk(t, a, func(s *talker) {
		if err := s.Adopt(s.t.Context(), nil); err == nil {
			s.t.Error("one without is used")
		}
		a.mu.Lock()
		a.leases = arbiterv1.LeaseSupport_LEASE_SUPPORT_PINNED
		a.mu.Unlock()
		for range 2 {
			if err := s.Adopt(s.t.Context(), nil); err != nil {
				s.t.Error(err)
			}
		}
		if v := s.View().Arbiter; v.Blocked != nil {
			s.t.Errorf("the view says %+v", v.Blocked)
		}
		if a.asked != 2 {
			s.t.Errorf("it was asked %d times what it can do", a.asked)
		}
	})
}

func TestARefusalHoldsUntilTheGroupChanges(t *testing.T) {
	a := &arbiter{}
	talk(t, a, func(s *talker) {
		t := s.t
		a.says(no(arbiterv1.RefusalReason_REFUSAL_REASON_FLOOR))
		if granted := acquire(s); len(granted) != 0 {
			t.Errorf("granted %v", granted)
		}
		v := s.View().Arbiter
		if v.Refused == nil || v.Refused.Reason != plan.WaitingForLease || !strings.Contains(v.Refused.Message, "web-0") || !strings.Contains(v.Refused.Message, "three must serve") {
			t.Errorf("the view says %+v", v.Refused)
		}
		if diff := cmp.Diff([]plan.Candidate{{Replica: "web-0", UID: "u0"}}, v.RefusedFor); diff != "" {
			t.Errorf("refused for (-want +got):\n%s", diff)
		}
		a.tell(group(2, arbiterv1.Duty_DUTY_IDLE, nil))
		if v := s.View().Arbiter; v.Refused != nil {
			t.Errorf("after a change the view says %+v", v.Refused)
		}
	})
}

func TestAWishWhoseOutcomeIsUnknownIsAdoptedAndRepeatedAsTheSame(t *testing.T) {
	a := &arbiter{fail: status.Error(codes.Internal, "lost")}
	talk(t, a, func(s *talker) {
		t := s.t
		if err := s.Adopt(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Acquire(t.Context(), candidates, 1); err == nil {
			t.Fatal("no error")
		}
		if s.View().Arbiter.Adopted {
			t.Error("it does not want to know which leases were granted")
		}
		if _, err := s.Acquire(t.Context(), candidates, 1); err != nil {
			t.Fatal(err)
		}
		if len(a.wishes) != 2 || a.wishes[0] != a.wishes[1] || a.wishes[0] == "" {
			t.Errorf("the wishes were %q", a.wishes)
		}
	})
}

// pin asks for a pin and says whether it was refused, and with which words.
func (s *talker) pin() (refused bool, why string) {
	s.t.Helper()
	ok, why, err := s.Pin(s.t.Context(), plan.Lease{ID: "L1", Replica: replica, Token: 7, Instance: "u0"})
	if err != nil {
		s.t.Fatal(err)
	}
	return !ok, why
}

// checkLease wants the view to have this lease on the replica; nil: none.
func (s *talker) checkLease(want *plan.Lease) {
	s.t.Helper()
	var got *plan.Lease
	if l, ok := s.View().Leases[replica]; ok {
		got = &l
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("the lease (-want +got):\n%s", diff)
	}
}

func TestALease(t *testing.T) {
	granted := plan.Lease{ID: "L1", Replica: replica, Token: 7, Instance: "u0"}
	is := func(change func(*plan.Lease)) *plan.Lease { l := granted; change(&l); return &l }
	for name, c := range map[string]struct {
		then func(*arbiter, *talker)
		want *plan.Lease
	}{
		"is valid when it was confirmed": {
			func(*arbiter, *talker) { synctest.Wait() }, is(func(l *plan.Lease) { l.Valid = true }),
		},
		"is pinned when the arbiter says so": {
			func(_ *arbiter, s *talker) { s.pin() }, is(func(l *plan.Lease) { l.Valid, l.Pinned = true, true }),
		},
		"is outdated when half of its TTL has passed since it was asked for": {
			func(*arbiter, *talker) { time.Sleep(15 * time.Second); synctest.Wait() },
			is(func(l *plan.Lease) { l.Valid, l.Outdated = true, true }),
		},
		"is as young as it was when the same leader adopts again": {
			func(a *arbiter, s *talker) {
				a.adopted = []*arbiterv1.Lease{lease(7)}
				if err := s.Adopt(s.t.Context(), nil); err != nil {
					s.t.Error(err)
				}
				synctest.Wait()
			}, is(func(l *plan.Lease) { l.Valid = true }),
		},
		"is lost, to be given back, when its pin is refused": {
			func(a *arbiter, s *talker) {
				a.says(no(arbiterv1.RefusalReason_REFUSAL_REASON_FLOOR))
				if refused, why := s.pin(); !refused || !strings.Contains(why, "three must serve") {
					s.t.Errorf("refused %t: %s", refused, why)
				}
			}, is(func(l *plan.Lease) { l.Lost = true }),
		},
		"is gone when the watch has shown it and shows it no more": {
			func(a *arbiter, s *talker) {
				a.tell(group(2, arbiterv1.Duty_DUTY_IDLE, lease(7)))
				s.View()
				a.tell(group(3, arbiterv1.Duty_DUTY_IDLE, nil))
			}, nil,
		},
		"is gone when it was released": {
			func(_ *arbiter, s *talker) {
				if err := s.Release(s.t.Context(), granted, client.Undone, "", false); err != nil {
					s.t.Error(err)
				}
			}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := &arbiter{}
			talk(t, a, func(s *talker) {
				if diff := cmp.Diff([]string{replica}, acquire(s)); diff != "" {
					s.t.Fatalf("granted (-want +got):\n%s", diff)
				}
				c.then(a, s)
				s.checkLease(c.want)
			})
		})
	}
	t.Run("is neither valid nor lost while it was only granted", func(t *testing.T) {
		talk(t, &arbiter{mute: true}, func(s *talker) {
			acquire(s)
			s.checkLease(&granted)
		})
	})
}

func TestAStaleTokenMakesItAdoptAgain(t *testing.T) {
	a := &arbiter{}
	talk(t, a, func(s *talker) {
		t := s.t
		acquire(s)
		a.says(no(arbiterv1.RefusalReason_REFUSAL_REASON_STALE_TOKEN))
		if ok, _, err := s.Pin(t.Context(), plan.Lease{ID: "L1", Replica: replica, Token: 7}); ok || err != nil {
			t.Errorf("ok %t, %v", ok, err)
		}
		if s.View().Arbiter.Adopted {
			t.Error("it goes on with a token that is stale")
		}
	})
}

func TestAPlanThatALateLeaderAdoptedIsAdoptedAgainToRetire(t *testing.T) {
	a := &arbiter{}
	talk(t, a, func(s *talker) {
		t := s.t
		acquire(s)
		a.says(no(arbiterv1.RefusalReason_REFUSAL_REASON_STALE_TOKEN))
		if err := s.Retire(t.Context()); err == nil || s.View().Arbiter.Adopted {
			t.Errorf("error %v, adopted %t", err, s.View().Arbiter.Adopted)
		}
		a.says(nil)
		if err := s.Adopt(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Retire(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestAnArbiterThatHasLetGoOfThePlanSaysSo(t *testing.T) {
	a := &arbiter{}
	a.says(no(arbiterv1.RefusalReason_REFUSAL_REASON_HOLDER_RETIRED))
	talk(t, a, func(s *talker) {
		var stuck *plan.Stuck
		if err := s.Adopt(s.t.Context(), nil); !errors.As(err, &stuck) || stuck.Reason != plan.HolderRetired {
			s.t.Fatalf("got %v", err)
		}
		v := s.View().Arbiter
		if b := v.Blocked; b == nil || b.Reason != plan.HolderRetired || !strings.Contains(b.Message, "plan-uid") || v.Adopted {
			s.t.Errorf("the view says %+v", v)
		}
		if err := s.Retire(s.t.Context()); err != nil {
			s.t.Errorf("the plan cannot go: %v", err)
		}
	})
}

func TestAnArbiterThatNeverPinsIsAskedLessAndLess(t *testing.T) {
	a := &arbiter{}
	talk(t, a, func(s *talker) {
		t := s.t
		acquire(s)
		a.says(no(arbiterv1.RefusalReason_REFUSAL_REASON_NOT_IDLE))
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second} {
			s.pin()
			v := s.View().Arbiter
			if got := time.Until(v.Patience); got != want || v.Futile == nil || v.Futile.Retry != (i < 4) || !strings.Contains(v.Futile.Message, "three must serve") {
				t.Errorf("after %d: patience %s, want %s; %+v", i+1, got, want, v.Futile)
			}
		}
		for range 10 {
			s.pin()
		}
		if got := time.Until(s.View().Arbiter.Patience); got != 2*time.Minute {
			t.Errorf("in the end: patience %s", got)
		}
		a.says(nil)
		s.pin()
		if v := s.View().Arbiter; v.Futile != nil || !v.Patience.IsZero() {
			t.Errorf("after a pin: %+v", v)
		}
	})
}

func TestAdoptingForgetsWhatTheArbiterDoesNotKnow(t *testing.T) {
	a := &arbiter{}
	talk(t, a, func(s *talker) {
		t := s.t
		acquire(s)
		if err := s.Adopt(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if l := s.View().Leases; len(l) != 0 {
			t.Errorf("it still has %+v", l)
		}
	})
}

func TestAHandover(t *testing.T) {
	a := &arbiter{}
	talk(t, a, func(s *talker) {
		t := s.t
		a.tell(group(2, arbiterv1.Duty_DUTY_WORKING, nil))
		if err := s.Adopt(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		s.View()
		ask := func() {
			t.Helper()
			if _, err := s.Handover(t.Context(), replica, []string{"ns/web-1"}); err != nil {
				t.Fatal(err)
			}
		}
		a.says(no(arbiterv1.RefusalReason_REFUSAL_REASON_DUTY_IS_NAMED))
		ask()
		v := s.View().Arbiter
		if v.HandoverRefused == nil || v.HandoverRefused.Reason != plan.HandoverRefused || v.HandoverFrom != "" {
			t.Errorf("a refused one shows %+v", v)
		}
		if diff := cmp.Diff(plan.Handover{From: "web-0", To: []string{"web-1"}}, v.HandoverRefusedFor); diff != "" {
			t.Errorf("refused for (-want +got):\n%s", diff)
		}
		a.says(nil)
		ask()
		if v := s.View().Arbiter; v.HandoverFrom != "web-0" || v.HandoverRefused != nil {
			t.Errorf("an accepted one shows %+v", v)
		}
		a.tell(group(3, arbiterv1.Duty_DUTY_IDLE, nil))
		if v := s.View().Arbiter; v.HandoverFrom != "" {
			t.Errorf("one that is done shows %+v", v)
		}
	})
}

func TestAHandoverThatDoesNotComeIsAwaitedForATime(t *testing.T) {
	a := &arbiter{}
	talk(t, a, func(s *talker) {
		a.tell(group(2, arbiterv1.Duty_DUTY_WORKING, nil))
		s.View()
		if _, err := s.Handover(s.t.Context(), replica, []string{"ns/web-1"}); err != nil {
			s.t.Fatal(err)
		}
		again := s.View().Arbiter.HandoverAgain
		time.Sleep(time.Until(again))
		if v := s.View().Arbiter; v.HandoverFrom != "" {
			s.t.Errorf("at %s it is still awaited", again)
		}
	})
}

func TestALeaseForWhichAnotherLeaderAskedIsOutdated(t *testing.T) {
	a := &arbiter{adopted: []*arbiterv1.Lease{lease(7)}}
	talk(t, a, func(s *talker) {
		if err := s.Adopt(s.t.Context(), nil); err != nil {
			s.t.Fatal(err)
		}
		s.checkLease(&plan.Lease{ID: "L1", Replica: replica, Token: 7, Instance: "u0", Outdated: true})
	})
}

// giveBack gives the lease back, unused or not.
func (s *talker) giveBack(unused bool) {
	s.t.Helper()
	if err := s.Release(s.t.Context(), s.View().Leases[replica], client.Undone, "", unused); err != nil {
		s.t.Fatal(err)
	}
}

func TestLeasesThatAreOfNoUseAreAskedForEverMoreSeldom(t *testing.T) {
	a := &arbiter{}
	talk(t, a, func(s *talker) {
		t := s.t
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second} {
			acquire(s)
			time.Sleep(20 * time.Second)
			s.giveBack(true)
			v := s.View().Arbiter
			if got := time.Until(v.Patience); got != want || v.Futile == nil || v.Futile.Reason != plan.LeaseOutdated || v.Futile.Retry != (i < 4) {
				t.Errorf("after %d: patience %s, want %s; %+v", i+1, got, want, v.Futile)
			}
			if !strings.Contains(v.Futile.Message, "web-0: asked for 20s before it was given back, and half of the TTL is 15s") {
				t.Errorf("it says %q", v.Futile.Message)
			}
		}
		acquire(s)
		s.pin()
		if v := s.View().Arbiter; v.Futile != nil {
			t.Errorf("after a pin: %+v", v.Futile)
		}
	})
}

func TestWhatAnotherLeaderAskedForSaysNothingOfTheArbiter(t *testing.T) {
	a := &arbiter{adopted: []*arbiterv1.Lease{lease(7)}}
	talk(t, a, func(s *talker) {
		if err := s.Adopt(s.t.Context(), nil); err != nil {
			s.t.Fatal(err)
		}
		s.giveBack(true)
		if v := s.View().Arbiter; v.Futile != nil || !v.Patience.IsZero() {
			s.t.Errorf("it says %+v", v)
		}
	})
}

func TestWhatALaterLeaderMayHaveNotedIsDoubted(t *testing.T) {
	a := &arbiter{}
	talk(t, a, func(s *talker) {
		t := s.t
		doubts := func(what string, id string, token int64, want bool) {
			t.Helper()
			v := s.View()
			if got := v.Doubted(plan.Note{ID: id, Token: token}); got != want {
				t.Errorf("%s: %t, want %t", what, got, want)
			}
		}
		doubts("before it has adopted", "L9", 9, false)
		acquire(s)
		doubts("its own", "L1", 7, false)
		doubts("one of an earlier leader", "L0", 3, false)
		doubts("none", "", 0, false)
		doubts("one with a higher token", "L9", 9, true)
		if err := s.Adopt(t.Context(), []client.Lease{{ID: "L9", Replica: replica, Token: 9}}); err != nil {
			t.Fatal(err)
		}
		doubts("one that was there when the arbiter said that nobody else has adopted", "L9", 9, false)
		doubts("one that came later", "L10", 10, true)

		a.tell(group(2, arbiterv1.Duty_DUTY_IDLE, lease(12)))
		if !s.View().Arbiter.Doubted {
			t.Error("it does not doubt that it leads, and the arbiter shows a lease with a higher token")
		}
		doubts("one with a higher token than was ever heard of", "L11", 11, true)
		if err := s.Adopt(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if s.View().Arbiter.Doubted {
			t.Error("the arbiter has said that nobody else has adopted, and it doubts that it leads")
		}
	})
}
