package duty_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

// database is an observed group in which web-0 works, and whose application moves duty.
type database struct {
	*world
	token int64
	// calls are what the application was asked for; answer is what it says, after having done it
	// if it moves.
	calls  []string
	answer error
	moves  bool
}

func beginDatabase(t *testing.T, s store.Store) *database {
	t.Helper()
	d := &database{world: begin(t, s, 0, nil), moves: true}
	d.settings.Roster = roster.Config{Observed: &roster.Observed{Workers: 1, HandsOver: true}}
	d.settings.Look = func(context.Context) (map[string]roster.Pod, error) { return maps.Clone(d.pods), nil }
	d.settings.HandOver = func(_ context.Context, from, to string) error {
		d.calls = append(d.calls, from+">"+to)
		if d.moves {
			d.sees(to)
		}
		return d.answer
	}
	d.sees("web-0")
	d.configure()
	var err error
	d.token, _, _, err = d.Adopt(d.ctx, lease.AdoptRequest{Holder: "plan", Term: 1, Identity: "i"})
	must(t, err)
	return d
}

// sees lets the source see that one works and the others are idle.
func (d *database) sees(worker string) {
	for name, p := range d.pods {
		p.Sight = roster.Sight{Instance: p.Instance, Duty: roster.Idle}
		if name == worker {
			p.Sight.Duty = roster.Working
		}
		d.pods[name] = p
	}
}

// ask asks to move duty away, and says "to" or the rule by which that was refused.
func (d *database) ask(from string) string {
	d.t.Helper()
	to, no, err := d.Handover(d.ctx, "plan", d.token, from, []string{"web-1", "web-2"})
	must(d.t, err)
	if no != nil {
		return no.Rule
	}
	return to
}

func (d *database) wants(what string, got, want any) {
	d.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		d.t.Errorf("%s: %s", what, diff)
	}
}

const once = "once per working replica, revision and plan: the application was asked before"

func TestAnApplicationIsAskedToMoveDutyOnceForEachWorkingReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := store.NewMemory()
		d := beginDatabase(t, memory)
		d.moves, d.answer = false, errors.New("timed out")
		d.wants("an answer that says nothing", d.ask("web-0"), "web-1")
		d.wants("again, while it may yet move", d.ask("web-0"), "web-1")
		pass(31 * time.Second)
		d.wants("again, much later", d.ask("web-0"), once)
		d.stop()

		d = beginDatabase(t, memory)
		defer func() { d.stop() }()
		d.wants("again, after a restart", d.ask("web-0"), once)
		d.wants("calls of the new process", d.calls, []string(nil))
		p := d.pods["web-0"]
		p.Revision = "web-2"
		d.pods["web-0"] = p
		d.wants("at another revision", d.ask("web-0"), "web-1")
		d.wants("calls", d.calls, []string{"web-0>web-1"})
		d.configure()
		d.wants("who works", fmt.Sprint(d.duty("web-0"), d.duty("web-1")), "IdleWorking")
		d.wants("from one that has no duty any more", d.ask("web-0"), "")
	})
}

func TestAnApplicationThatRefusesToMoveDutyMayBeAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := beginDatabase(t, store.NewMemory())
		defer d.stop()
		d.moves, d.answer = false, fmt.Errorf("%w: it is not the leader", application.ErrRefused)
		d.wants("refused", d.ask("web-0"), "the application refuses")
		d.moves, d.answer = true, nil
		d.wants("again", d.ask("web-0"), "web-1")
		d.wants("calls", d.calls, []string{"web-0>web-1", "web-0>web-1"})
	})
}

func TestNoApplicationIsAskedToMoveDutyDuringAFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := beginDatabase(t, store.NewMemory())
		defer d.stop()
		d.settings.Windows = window("0 0 * * *") // the clock of the test begins at midnight
		d.configure()
		if got := d.ask("web-0"); !strings.HasPrefix(got, "freezeWindows: ") {
			t.Errorf("it is answered with %q", got)
		}
		d.wants("the application was asked", d.calls, []string(nil))
		pass(time.Hour)
		d.wants("the successor when the window has closed", d.ask("web-0"), "web-1")
	})
}

func TestWhoIsAboutToTakeOverIsNotLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := beginDatabase(t, store.NewMemory())
		defer d.stop()
		d.moves = false
		d.wants("asked", d.ask("web-0"), "web-1")
		acquire := func() string {
			got, err := d.acquire("other", "web-1", "u1")
			must(t, err)
			if len(got.Leases) == 1 {
				return "leased"
			}
			return got.Refused[0].Refusal.Message
		}
		d.wants("while duty may move", acquire(), "web-1 is not idle (it is about to take over from web-0): wait for its duty to change, or request handover")
		pass(31 * time.Second)
		d.wants("when it has not", acquire(), "leased")
	})
}
