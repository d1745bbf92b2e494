package duty_test

import (
	"testing"
	"testing/synctest"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

// mark is a pod as an upgrader that has adopted leaves it: verified, and noted with a lease if
// there is one.
func mark(w *world, name, id string, token int64) {
	p := w.pods[name]
	p.Revision, p.Verified, p.LeaseID, p.Token = "web-1", "web-1", id, token
	w.pods[name] = p
}

// fence is what the arbiter does with each pod when the record was lost.
func fence(w *world, name string, token int64) {
	p := w.pods[name]
	p.Fenced = token
	w.pods[name] = p
}

func adopts(w *world, known []lease.Lease) {
	w.t.Helper()
	if _, _, no, err := w.Adopt(w.ctx, lease.AdoptRequest{Holder: "h", Term: 1, Known: known}); err != nil || no != nil {
		w.t.Fatal(no, err)
	}
}

func TestARecordThatIsOlderThanAPodIsLost(t *testing.T) {
	for _, c := range []struct {
		name   string
		token  int64
		frozen bool
	}{
		{"a token that was recorded", 0, false},
		{"a token that was not", 50, true},
		{"one that nobody can have given out", 1 << 61, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := begin(t, store.NewMemory(), 1, nil).configure()
				defer w.stop()
				mark(w, "web-1", "", c.token)
				if w.configure(); w.View().Record.Frozen != c.frozen {
					t.Errorf("frozen: %t", !c.frozen)
				}
				if token, _, _, _ := w.Adopt(w.ctx, lease.AdoptRequest{Holder: "h", Term: 1}); c.frozen && token <= c.token {
					t.Errorf("tokens go on at %d", token)
				}
			})
		})
	}
}

func TestAFreezeEndsWhenWhoeverWasAtWorkHasAdopted(t *testing.T) {
	known := []lease.Lease{{ID: "x-9", Replica: "web-1", Token: 9, Instance: "u1"}}
	for _, c := range []struct {
		name   string
		pods   func(*world)
		live   bool
		adopt  bool
		known  []lease.Lease
		frozen bool
	}{
		{"nobody was at work", func(*world) {}, true, false, nil, false},
		{"the pods may be older than the leases", func(*world) {}, false, false, nil, true},
		{"somebody was at work, and has not come back", func(w *world) { mark(w, "web-1", "", 9) }, true, false, nil, true},
		{"somebody was at work, and has come back", func(w *world) { mark(w, "web-1", "", 9) }, true, true, nil, false},
		{"who came back did not tell of a lease", func(w *world) { mark(w, "web-1", "x-9", 9) }, true, true, nil, true},
		{"who came back told of all leases", func(w *world) { mark(w, "web-1", "x-9", 9) }, true, true, known, false},
		{"a pod may have a lease that it does not name", func(w *world) { fence(w, "web-2", 49) }, true, false, nil, true},
		{"who came back does not know of that lease either", func(w *world) { mark(w, "web-1", "", 9); fence(w, "web-2", 0) }, true, true, nil, true},
		{"it is fenced further than needs be", func(w *world) { fence(w, "web-2", 50); mark(w, "web-1", "", 9) }, true, true, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := begin(t, store.NewMemory(), 1, nil).configure()
				defer w.stop()
				mark(w, "web-0", "", 50) // of a record that is lost
				w.configure()
				p := w.pods["web-0"]
				w.pods["web-0"] = roster.Pod{Instance: p.Instance, Ready: true, Token: p.Token}
				for name := range w.pods {
					fence(w, name, 50)
				}
				c.pods(w)
				if w.settings.Live = c.live; c.adopt {
					adopts(w, c.known)
				}
				if w.configure(); w.View().Record.Frozen != c.frozen {
					t.Errorf("frozen: %t", !c.frozen)
				}
			})
		})
	}
}
