package duty_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

// lifetime is an edit of the roster.
func (w *world) lifetime(d time.Duration) *world {
	w.settings.Roster.Lifetime = d
	w.settings.Generation++
	return w
}

// TestAfterARestartAWorkerHasTheLifetimeThatItWasPromised has web-0 told at second 0, by a
// process that then ends, that it works for some time; the next process is asked at once to
// take the duty away.
func TestAfterARestartAWorkerHasTheLifetimeThatItWasPromised(t *testing.T) {
	const s = time.Second
	tests := []struct {
		name string
		promise
		want time.Duration
	}{
		{"nothing was edited", promise{told: 10 * s, next: 10 * s}, 10 * s},
		{"shortened while no arbiter was there", promise{told: 20 * s, next: 5 * s}, 20 * s},
		{"made longer while no arbiter was there", promise{told: 20 * s, next: 200 * s}, 20 * s},
		{"shortened just before the restart", promise{told: 20 * s, edited: 5 * s, observed: s, next: 5 * s}, 20 * s},
		{"shortened long before the restart", promise{told: 20 * s, edited: 5 * s, observed: 60 * s, next: 5 * s}, 5 * s},
		{"shortened, and again while no arbiter was there", promise{told: 20 * s, edited: 5 * s, observed: 60 * s, next: 2 * s}, 5 * s},
		{"made longer just before the restart", promise{told: 5 * s, edited: 20 * s, observed: s, next: 20 * s}, 20 * s},
		{"an old record, edited while no arbiter was there", promise{told: 20 * s, next: 5 * s, forget: true}, 300 * s},
		{"an old record, not edited", promise{told: 20 * s, next: 20 * s, forget: true}, 20 * s},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := restarted(t, tt.promise)
				defer w.stop()
				pass(tt.want - s)
				if got := w.duty("web-0"); got != roster.Working {
					t.Errorf("a second before the promise ends it is %s", got)
				}
				pass(2 * s)
				if got, p := w.duty("web-0"), w.View().Record.Promised; got != roster.Idle || p != tt.next {
					t.Errorf("a second after it, it is %s, and %s are recorded, want %s", got, p, tt.next)
				}
			})
		})
	}
}

// promise is what a worker was told before a restart.
type promise struct {
	// told is the lifetime of the answer, edited that in a change which the first process
	// observes for some time, next the lifetime at the restart.
	told, edited, observed, next time.Duration
	// forget makes the record one of a version that did not tell what was promised.
	forget bool
}

// restarted has a process give web-0 duty, and returns the next one, which takes it away.
func restarted(t *testing.T, p promise) *world {
	t.Helper()
	memory := store.NewMemory()
	w := begin(t, memory, 1, nil)
	w.settings.Roster.Lifetime = p.told
	w.configure().known()
	x := w.attend("web-0", "u0")
	if p.edited > 0 {
		w.lifetime(p.edited).configure()
		_, err := x.Report(w.ctx, duty.Report{Acked: 1, Duty: roster.Working, Health: roster.Healthy})
		must(t, err)
		must(t, x.Sent(w.ctx))
		pass(p.observed)
	}
	settings := w.settings
	w.stop()
	if p.forget {
		change(t, memory, func(r *store.Record) { r.Promised = 0 })
	}
	w = begin(t, memory, 0, nil)
	settings.Roster.Slots = 0
	w.settings = settings
	if p.next != settings.Roster.Lifetime {
		w.lifetime(p.next)
	}
	return w.configure()
}

func TestAnArbiterThatIsRestartedTwiceKeepsTheOldPromise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := store.NewMemory()
		w := begin(t, memory, 1, nil).configure().known() // 10 s
		w.attend("web-0", "u0")
		w.stop()
		for range 2 { // at second 0 and at second 1
			w = begin(t, memory, 0, nil).lifetime(2 * time.Second).configure()
			pass(time.Second)
			w.stop()
		}
		w = begin(t, memory, 0, nil).lifetime(2 * time.Second).configure()
		defer w.stop()
		pass(7 * time.Second)
		if got := w.duty("web-0"); got != roster.Working {
			t.Errorf("within the promise of the first it is %s", got)
		}
		pass(4 * time.Second)
		if got, p := w.duty("web-0"), w.View().Record.Promised; got != roster.Idle || p != 2*time.Second {
			t.Errorf("after it, it is %s, and %s are recorded", got, p)
		}
	})
}

// refusing fails to save while it says so.
type refusing struct {
	store.Store
	no bool
}

func (r *refusing) Save(ctx context.Context, record store.Record, v store.Version) (store.Version, error) {
	if r.no {
		return "", errors.New("no")
	}
	return r.Store.Save(ctx, record, v)
}

func TestNobodyIsPromisedMoreThanIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := &refusing{Store: store.NewMemory()}
		w := begin(t, memory, 1, nil).configure().known()
		defer w.stop()
		x := w.attend("web-0", "u0")
		memory.no = true
		if err := w.Configure(w.ctx, w.lifetime(time.Minute).settings, w.pods); err == nil {
			t.Fatal("the group takes a longer lifetime that it cannot record")
		}
		if answer, err := x.Answer(w.ctx); err == nil {
			t.Errorf("it is promised %s", answer.Lifetime)
		}
		memory.no = false
		answer, err := x.Answer(w.ctx)
		must(t, err)
		record, _, err := memory.Load(w.ctx)
		must(t, err)
		if answer.Lifetime != time.Minute || record.Promised != time.Minute {
			t.Errorf("it is promised %s, and %s are recorded", answer.Lifetime, record.Promised)
		}
	})
}

// change rewrites the record.
func change(t *testing.T, s store.Store, edit func(*store.Record)) {
	t.Helper()
	r, v, err := s.Load(t.Context())
	must(t, err)
	edit(&r)
	_, err = s.Save(t.Context(), r, v)
	must(t, err)
}
