package client_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/arbiter/client"
)

// renewals is an arbiter that only renews.
type renewals struct {
	mu     sync.Mutex
	times  []time.Duration // when it was asked, since begun
	begun  time.Time
	delay  time.Duration
	err    error
	refuse map[string]client.RefusalReason
}

func (r *renewals) Renew(_ context.Context, _ string, refs []client.LeaseRef) ([]client.RenewResult, error) {
	r.mu.Lock()
	r.times = append(r.times, time.Since(r.begun))
	delay := r.delay
	r.mu.Unlock()
	time.Sleep(delay)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	var results []client.RenewResult
	for _, ref := range refs {
		result := client.RenewResult{ID: ref.ID}
		if reason, ok := r.refuse[ref.ID]; ok {
			result.Refusal = &client.Refusal{Reason: reason}
		}
		results = append(results, result)
	}
	return results, nil
}

func (r *renewals) set(change func(*renewals)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

// bench is a Renewer at work.
type bench struct {
	*client.Renewer
	t       *testing.T
	arbiter *renewals
	lost    []string
	changes int
}

func renewing(t *testing.T, test func(*bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, arbiter: &renewals{begun: time.Now(), refuse: map[string]client.RefusalReason{}}}
		b.Renewer = client.NewRenewer(client.RenewerConfig{
			Arbiter: b.arbiter, Group: "ns/g", Now: time.Now,
			OnLost:   func(l client.Lease, r client.Refusal) { b.lost = append(b.lost, l.ID+" "+r.Reason.String()) },
			OnChange: func() { b.changes++ },
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		test(b)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func leased(id string) client.Lease {
	return client.Lease{ID: id, Token: 1, Phase: client.PhaseLeased, TTL: 30 * time.Second}
}

func (b *bench) expectValid(what string, want map[string]bool) {
	b.t.Helper()
	synctest.Wait()
	got := map[string]bool{}
	for id := range want {
		got[id] = b.Valid(id)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		b.t.Errorf("%s: valid (-want +got):\n%s", what, diff)
	}
}

func TestLeasesAreRenewedThreeTimesWithinTheirTTL(t *testing.T) {
	renewing(t, func(b *bench) {
		b.expectValid("before it is tracked", map[string]bool{"a": false})
		b.Track(leased("a"))
		b.expectValid("at once", map[string]bool{"a": true})
		time.Sleep(25 * time.Second)
		b.expectValid("later", map[string]bool{"a": true})
		if diff := cmp.Diff([]time.Duration{0, 10 * time.Second, 20 * time.Second}, b.arbiter.times); diff != "" {
			b.t.Errorf("renewals (-want +got):\n%s", diff)
		}
		if b.changes != 1 {
			b.t.Errorf("%d changes, want 1", b.changes)
		}
	})
}

func TestALeaseIsValidFromWhenItsRenewalWasSentAndNotFromTheAnswer(t *testing.T) {
	renewing(t, func(b *bench) {
		b.arbiter.set(func(r *renewals) { r.delay = 9 * time.Second })
		b.Track(leased("a"))
		time.Sleep(9 * time.Second)
		synctest.Wait()
		b.arbiter.set(func(r *renewals) { r.delay, r.err = 0, errors.New("gone") })
		time.Sleep(21*time.Second - time.Nanosecond)
		b.expectValid("just before 30 s have passed", map[string]bool{"a": true})
		time.Sleep(time.Nanosecond)
		b.expectValid("30 s after it was sent", map[string]bool{"a": false})
		if b.changes != 2 {
			b.t.Errorf("%d changes, want 2: valid, and not any more", b.changes)
		}
		b.arbiter.set(func(r *renewals) { r.err = nil })
		time.Sleep(3 * time.Second)
		b.expectValid("the arbiter is back and still had it", map[string]bool{"a": true})
	})
}

func TestALeaseThatTheArbiterDoesNotRenewIsLost(t *testing.T) {
	renewing(t, func(b *bench) {
		b.Track(leased("a"))
		b.Track(leased("b"))
		b.Track(leased("c"))
		synctest.Wait()
		b.arbiter.set(func(r *renewals) {
			r.refuse["a"], r.refuse["c"] = client.ReasonLeaseLost, client.ReasonStaleToken
		})
		b.Forget("c")
		time.Sleep(11 * time.Second)
		b.expectValid("after the refusal", map[string]bool{"a": false, "b": true, "c": false})
		if diff := cmp.Diff([]string{"a LeaseLost"}, b.lost); diff != "" {
			b.t.Errorf("lost (-want +got):\n%s", diff)
		}
	})
}

func TestAnAnswerToAnOldTokenIsAboutThePast(t *testing.T) {
	renewing(t, func(b *bench) {
		b.arbiter.set(func(r *renewals) { r.delay, r.refuse["a"] = time.Second, client.ReasonStaleToken })
		b.Track(leased("a"))
		synctest.Wait() // the renewal with token 1 is under way
		adopted := leased("a")
		adopted.Token = 2
		b.Track(adopted)
		time.Sleep(time.Second)
		synctest.Wait()
		b.arbiter.set(func(r *renewals) { delete(r.refuse, "a") })
		time.Sleep(time.Second)
		b.expectValid("renewed with the new token", map[string]bool{"a": true})
		if len(b.lost) > 0 {
			b.t.Errorf("lost %v", b.lost)
		}
	})
}

func TestAPinIsValidForEverAndNeverRenewed(t *testing.T) {
	renewing(t, func(b *bench) {
		pin := leased("a")
		pin.Phase = client.PhasePinned
		b.arbiter.set(func(r *renewals) { r.err = errors.New("gone") })
		b.Track(pin)
		time.Sleep(24 * time.Hour)
		b.expectValid("a day later", map[string]bool{"a": true})
		if len(b.arbiter.times) > 0 {
			b.t.Errorf("%d renewals", len(b.arbiter.times))
		}
	})
}
