package protocol

import (
	"os"
	"strings"
	"testing"
)

// limit is how many states an exploration may have: some 6 GiB.
const limit = 20_000_000

// size says where an exploration is worth its time.
type size int

const (
	tiny   size = iota // with the race detector, too
	medium             // always else
	large              // when asked for
)

func alone(r *Rules) { r.Leaders, r.Expiries = 1, 0 }

func TestProtocolKeepsItsPromises(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rules Rules
		size  size
	}{
		{"one leader that crashes anywhere", Protocol.with(func(r *Rules) { alone(r); r.Gate = false }), tiny},
		{"one leader that crashes anywhere, two leases expire", Protocol.with(func(r *Rules) { r.Leaders, r.Expiries = 1, 2 }), medium},
		{"one leader, two leases at a time, one expires", Protocol.with(func(r *Rules) { r.Leaders, r.MaxLeased, r.Gate = 1, 2, false }), medium},
		{"one leader that crashes anywhere, a pod is lost", Protocol.with(func(r *Rules) { alone(r); r.Losses = 1 }), medium},
		{"two leaders, the first wakes up at any time", Protocol.with(func(r *Rules) { r.Expiries = 0 }), medium},
		{"one leader, a lease expires, a pod is lost", Protocol.with(func(r *Rules) { alone(r); r.Expiries, r.Losses, r.Gate = 1, 1, false }), large},
		{"two leaders, a lease expires", Protocol, large},
	} {
		t.Run(tt.name, func(t *testing.T) {
			switch {
			case tt.size == large && os.Getenv("PROTOCOL_ALL") == "":
				t.Skip("takes minutes and gigabytes: set PROTOCOL_ALL=1")
			case tt.size > tiny && raceDetector:
				t.Skip("one goroutine, millions of states: run without -race")
			}
			res := Explore(tt.rules, limit)
			t.Logf("%d states, depth %d, complete in %d, stuck in %d", res.States, res.Depth, res.Done, res.Stuck)
			if res.Bad != "" || res.Stuck > 0 || res.Done == 0 || !res.Full {
				t.Errorf("got %q, all states visited %t; want no broken promise, and completion within reach of all\n%s",
					res.Bad, res.Full, strings.Join(res.Trace, "\n"))
			}
		})
	}
}

func TestEachMechanismIsNeeded(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rules Rules
		want  string
	}{
		{"no pin: the hold is released under a lease that can expire", Protocol.with(func(r *Rules) { alone(r); r.Expiries, r.Pin = 1, false }), "P1"},
		{"no token check", Protocol.with(func(r *Rules) { r.Token = false }), "P4"},
		{"no hold: Kruise is not told of it", Protocol.with(func(r *Rules) { alone(r); r.Hold = false }), "P1"},
		{"no resourceVersion precondition", Protocol.with(func(r *Rules) { alone(r); r.Expiries, r.Precondition = 1, false }), "P1"},
		{"no term of a new leader on the set", Protocol.with(func(r *Rules) { r.Expiries, r.SetFence = 0, false }), "P4"},
		{"no handshake: Kruise need not have confirmed the holds", Protocol.with(func(r *Rules) { alone(r); r.Handshake = false }), "P1"},
		{"the lease is released before the pod is taken back", Protocol.with(func(r *Rules) { r.Expiries, r.UndoFirst = 0, false }), "P1"},
		{"no fence on the pod of an expired lease", Protocol.with(func(r *Rules) { alone(r); r.Expiries, r.PodFence = 1, false }), "P1"},

		{"a fence that is only a touch, one leader, a lease expires", Protocol.with(func(r *Rules) { alone(r); r.Expiries, r.FenceToken = 1, false }), "P1"},
		{"a fence that is only a touch, two leaders, no expiry", Protocol.with(func(r *Rules) { r.Expiries, r.FenceToken = 0, false }), "P5"},
		{"duty for a pod born without a hold", Protocol.with(func(r *Rules) { alone(r); r.Expiries, r.Losses, r.Gate, r.NewbornBan = 1, 1, false, false }), "P1"},
		{"a cache without the upgrader's own writes", Protocol.with(func(r *Rules) { alone(r); r.OwnWrites = false }), "P4"},
		{"a late leader puts its older term back on the set", Protocol.with(func(r *Rules) { r.Expiries, r.TermOrder = 0, false }), "P4"},
		{"an undo without a write, because the pod bears no marks", Protocol.with(func(r *Rules) { r.Expiries, r.UndoWrites = 0, false }), "P5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := Explore(tt.rules, limit)
			if !strings.HasPrefix(res.Bad, tt.want) {
				t.Fatalf("after %d states: got %q, want %s broken", res.States, res.Bad, tt.want)
			}
			t.Logf("%d states until, in %d steps,\n%s", res.States, res.Depth, strings.Join(res.Trace, "\n"))
		})
	}
}

// What DESIGN.md said before docs/decisions/0001: kept, so that nobody goes back to it.
func TestDesignBeforeItsMendsIsFound(t *testing.T) {
	res := Explore(Design, limit)
	if !strings.HasPrefix(res.Bad, "P1") {
		t.Fatalf("got %q, want P1 broken", res.Bad)
	}
}
