package duty_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a group of web-0..web-2 over a store, in a bubble with a clock of its own.
type world struct {
	*duty.Group
	t        *testing.T
	ctx      context.Context //nolint:containedctx // of the test
	settings duty.Settings
	pods     map[string]roster.Pod
	// seen is the instance that somebody believes a replica to run as.
	seen string
	stop func()
}

// begin runs a group with n slots, as a new process would.
func begin(t *testing.T, s store.Store, n int, leading func() bool) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &world{t: t, ctx: ctx, pods: map[string]roster.Pod{}}
	w.settings = duty.Settings{
		Generation: 1, Floor: 1, MaxLeased: 2, PinOverdue: time.Minute,
		Roster: roster.Config{Slots: n, Settle: 120 * time.Second, Failover: 10 * time.Second, Lifetime: 10 * time.Second},
	}
	for i := range 3 {
		w.pods[fmt.Sprintf("web-%d", i)] = roster.Pod{Instance: fmt.Sprintf("u%d", i), Ready: true}
	}
	w.Group = duty.New(duty.Config{
		Key: "ns/web", Prefix: "ns/", Store: s, Now: time.Now, NewEpoch: func() string { return "e" },
		FirstToken: func() int64 { return 0 }, Leading: leading, Log: logr.Discard(),
	})
	done := make(chan struct{})
	go func() { w.Run(ctx); close(done) }()
	w.stop = func() { cancel(); <-done }
	return w
}

func (w *world) configure() *world {
	w.t.Helper()
	must(w.t, w.Configure(w.ctx, w.settings, w.pods))
	return w
}

// known lets the time pass in which the members of a new group may still have duty from
// one of the same name before it.
func (w *world) known() *world {
	w.t.Helper()
	pass(w.settings.Roster.Lifetime)
	return w
}

func (w *world) slots(n int) { w.settings.Roster.Slots = n; w.configure() }

func (w *world) duty(name string) roster.Duty { return w.View().Record.Roster.Members[name].Duty }

// attend has a member attend, healthy and idle, and put its first answer into effect.
func (w *world) attend(name, instance string) *duty.Session {
	w.t.Helper()
	s, err := w.Attend(w.ctx, name, instance)
	must(w.t, err)
	answer, err := s.Report(w.ctx, duty.Report{Duty: roster.Idle, Health: roster.Healthy})
	must(w.t, err)
	if answer.Working {
		must(w.t, s.Sent(w.ctx))
		_, err = s.Report(w.ctx, duty.Report{Acked: answer.Generation, Duty: roster.Working, Health: roster.Healthy})
		must(w.t, err)
		must(w.t, s.Sent(w.ctx))
	}
	return s
}

// pass lets time pass in the bubble.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) acquire(holder, replica, instance string) (lease.Acquired, error) {
	w.t.Helper()
	token, _, _, err := w.Adopt(w.ctx, lease.AdoptRequest{Holder: holder, Term: 1, Identity: "i"})
	if err != nil {
		return lease.Acquired{}, err
	}
	return w.Acquire(w.ctx, lease.AcquireRequest{
		Holder: holder, Token: token, RequestID: "r", Max: 1, TTL: time.Hour,
		Candidates: []lease.Candidate{{Replica: replica, Instance: instance}},
	})
}

func TestAWorkerThatIsCutOffIsIdleWhenItsLastAnswerHasRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, store.NewMemory(), 1, nil).configure().known()
		defer w.stop()
		s := w.attend("web-0", "u0")
		pass(3 * time.Second)
		must(t, s.Close(w.ctx))
		w.slots(0)
		pass(6 * time.Second)
		if got := w.duty("web-0"); got != roster.Working {
			t.Errorf("before its answer has run out: %s", got)
		}
		pass(2 * time.Second)
		if got := w.duty("web-0"); got != roster.Idle {
			t.Errorf("after it: %s", got)
		}
	})
}

func TestARosterThatIsMadeAnewLeavesTheWorkersOfTheFormerOneTheirLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, store.NewMemory(), 1, nil).configure().known()
		w.attend("web-0", "u0")
		w.stop()
		// The record has gone with the roster.
		w = begin(t, store.NewMemory(), 1, nil).configure()
		defer w.stop()
		pass(9 * time.Second)
		if got, err := w.acquire("h", "web-0", "u0"); err != nil || len(got.Leases) != 0 {
			t.Errorf("a lease on who may still work: %+v, %v", got, err)
		}
		for i := range 3 {
			if m := w.View().Record.Roster.Members[fmt.Sprintf("web-%d", i)]; m.Duty != roster.Unknown || m.Assigned {
				t.Errorf("within the lifetime: %+v", m)
			}
		}
		pass(time.Second)
		if got := w.duty("web-1"); got != roster.Idle {
			t.Errorf("after it: %s", got)
		}
	})
}

func TestWhoSaysThatItIsIdleIsBelievedAtOnceByANewRoster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, store.NewMemory(), 0, nil).configure()
		defer w.stop()
		s := w.attend("web-0", "u0")
		answer, err := s.Report(w.ctx, duty.Report{Acked: 1, Duty: roster.Idle, Health: roster.Healthy})
		must(t, err)
		if got := w.duty("web-0"); answer.Working || got != roster.Idle {
			t.Errorf("it is %s", got)
		}
	})
}

func TestAfterARestartAWorkerMayGoOnForOneLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.NewMemory()
		w := begin(t, s, 1, nil).configure().known()
		w.attend("web-0", "u0")
		w.stop()
		w = begin(t, s, 0, nil).configure()
		defer w.stop()
		pass(9 * time.Second)
		if got := w.duty("web-0"); got != roster.Working {
			t.Errorf("within the lifetime: %s", got)
		}
		pass(2 * time.Second)
		if got := w.duty("web-0"); got != roster.Idle {
			t.Errorf("after it: %s", got)
		}
	})
}

func TestAfterARestartTheSameWorkerIsIdleAsSoonAsItSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.NewMemory()
		w := begin(t, s, 1, nil).configure().known()
		w.attend("web-0", "u0")
		w.stop()
		w = begin(t, s, 0, nil).configure()
		defer w.stop()
		x, err := w.Attend(w.ctx, "web-0", "u0")
		must(t, err)
		answer, err := x.Report(w.ctx, duty.Report{Duty: roster.Idle, Health: roster.Healthy})
		must(t, err)
		_, err = x.Report(w.ctx, duty.Report{Acked: answer.Generation, Duty: roster.Idle, Health: roster.Healthy})
		must(t, err)
		if got := w.duty("web-0"); got != roster.Idle {
			t.Errorf("after it said that it is idle: %s", got)
		}
	})
}

func TestAnAnswerUnderWayCountsUntilItWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, store.NewMemory(), 1, nil).configure().known()
		defer w.stop()
		s := w.attend("web-0", "u0")
		_, err := s.Answer(w.ctx) // says working; not handed to the transport yet
		must(t, err)
		w.slots(0)
		pass(time.Hour)
		if got := w.duty("web-0"); got != roster.Working {
			t.Errorf("while it is being sent: %s", got)
		}
		must(t, s.Close(w.ctx))
		pass(11 * time.Second)
		if got := w.duty("web-0"); got != roster.Idle {
			t.Errorf("after it has run out: %s", got)
		}
	})
}

func TestALateWriterLosesAndSeesWhatTheOtherDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.NewMemory()
		one := begin(t, s, 0, nil).configure().known()
		two := begin(t, s, 0, nil).configure()
		defer one.stop()
		defer two.stop()
		got, err := one.acquire("a", "web-1", "u1")
		must(t, err)
		if len(got.Leases) != 1 {
			t.Fatal(got)
		}
		got, err = two.acquire("b", "web-1", "u1")
		must(t, err)
		if len(got.Refused) != 1 || got.Refused[0].Refusal.Reason != lease.LeasedByOther {
			t.Errorf("the second process: %+v", got)
		}
	})
}

// The settings of a Roster come with a new version of it: the first save of the arbiter that
// goes by them is refused, and the second must say so all the same.
func TestNewSettingsAreNotedAlsoWhenTheRecordHasChangedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.NewMemory()
		w := begin(t, s, 1, nil).configure()
		defer w.stop()
		record, version, err := s.Load(t.Context())
		must(t, err)
		_, err = s.Save(t.Context(), record, version)
		must(t, err)
		w.settings.Generation, w.settings.MaxLeased = 2, 1
		w.configure()
		record, _, err = s.Load(t.Context())
		must(t, err)
		if got := record.Summary.ObservedGeneration; got != 2 {
			t.Errorf("the record says that generation %d is in effect; it is 2", got)
		}
	})
}

func TestNothingIsAnsweredByAProcessThatMayNotLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leading := true
		w := begin(t, store.NewMemory(), 1, func() bool { return leading }).configure().known()
		defer w.stop()
		s := w.attend("web-0", "u0")
		leading = false
		if _, err := s.Answer(w.ctx); !errors.Is(err, duty.ErrUncertain) {
			t.Errorf("duty: %v", err)
		}
		if _, err := w.acquire("h", "web-1", "u1"); !errors.Is(err, duty.ErrUncertain) {
			t.Errorf("a lease: %v", err)
		}
	})
}

func TestAGroupAnswersOnlyWhenItKnowsItsMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, store.NewMemory(), 1, nil)
		defer w.stop()
		if _, err := w.acquire("h", "web-1", "u1"); !errors.Is(err, duty.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		w.configure()
		if _, err := w.acquire("h", "web-1", "u1"); err != nil {
			t.Error(err)
		}
	})
}

func TestWhoIsRefusedASuccessorThatIsNotHeldYetHearsWhenItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, store.NewMemory(), 1, nil)
		defer w.stop()
		for name, p := range w.pods {
			p.Revision, p.Held = "web-a", name != "web-1"
			w.pods[name] = p
		}
		w.configure().known()
		token, _, _, err := w.Adopt(w.ctx, lease.AdoptRequest{Holder: "h", Term: 1, Identity: "i"})
		must(t, err)
		ask := func() (successor string, refusal *lease.Refusal) {
			t.Helper()
			successor, refusal, err := w.Handover(w.ctx, "h", token, "web-0", []string{"web-1"})
			must(t, err)
			return successor, refusal
		}
		if _, refusal := ask(); refusal == nil {
			t.Fatal("duty moves to a replica that is not held")
		}
		before := w.View().Revision
		pods := maps.Clone(w.pods)
		p := pods["web-1"]
		p.Held = true
		pods["web-1"], w.pods = p, pods
		w.configure()
		if w.View().Revision == before {
			t.Error("nobody is told that web-1 is held now")
		}
		if successor, refusal := ask(); successor != "web-1" {
			t.Errorf("successor %q: %v", successor, refusal)
		}
	})
}

func TestAnOverduePinStopsFurtherGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, store.NewMemory(), 0, nil).configure().known()
		defer w.stop()
		got, err := w.acquire("h", "web-1", "u1")
		must(t, err)
		_, refusal, err := w.Pin(w.ctx, lease.Ref{ID: got.Leases[0].ID, Token: got.Leases[0].Token}, "u1")
		must(t, err)
		if refusal != nil {
			t.Fatal(refusal)
		}
		pass(61 * time.Second)
		if c := w.View().Record.Summary.Conditions[0]; c.Reason != duty.ReasonOverduePin || !w.View().Overdue[got.Leases[0].ID] {
			t.Errorf("condition %+v", c)
		}
		got, err = w.acquire("g", "web-2", "u2")
		must(t, err)
		if got.Refusal == nil || got.Refusal.Reason != lease.OverduePin {
			t.Errorf("got %+v", got)
		}
		was, err := w.ForceRelease(w.ctx, "web-1", "admin", "stuck")
		must(t, err)
		must(t, w.Fenced(w.ctx, was.ID))
		if v := w.View(); v.Record.Summary.Conditions[0].Reason == duty.ReasonOverduePin || v.Record.ForceReleases[0].By != "admin" {
			t.Errorf("after the release by force: %+v", v.Record.Summary)
		}
	})
}
