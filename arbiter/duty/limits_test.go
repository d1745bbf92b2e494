package duty_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

// Whoever watches is told when a window opens and when it closes, without a change of anything.
func TestAFreezeWindowThatOpensAndClosesIsANewView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, store.NewMemory(), 0, nil)
		defer w.stop()
		w.settings.Windows = window("0 2 * * *")
		w.configure().known()
		for _, step := range []struct {
			pass time.Duration
			open bool
		}{{2*time.Hour - 10*time.Second, true}, {time.Hour, false}} {
			before := w.View()
			pass(step.pass)
			v := w.View()
			if v == before || (v.Rules.Freeze.Window != "") != step.open {
				t.Fatalf("at %s the view is new: %t, and its freeze is %+v", time.Now().UTC(), v != before, v.Rules.Freeze)
			}
			if c := v.Record.Summary.Conditions[0]; strings.Contains(c.Message, "2000-01-01T03:00:00Z") != step.open || c.Reason != duty.ReasonOnDuty {
				t.Errorf("at %s the roster says %+v", time.Now().UTC(), c)
			}
		}
	})
}

func TestDutyIsNotMovedDuringAFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &lessee{world: begin(t, store.NewMemory(), 1, nil), holder: "h"}
		defer h.stop()
		h.configure().known()
		h.adopt(1)
		move := func() lease.Reason {
			t.Helper()
			_, no, err := h.Handover(h.ctx, "h", h.token, "web-0", []string{"web-1"})
			must(t, err)
			return reason(no)
		}
		h.settings.Windows = window("0 0 * * *")
		h.configure()
		if got := move(); got != lease.FreezeWindow {
			t.Errorf("during the freeze: refused for reason %d", got)
		}
		h.settings.Windows = nil
		h.configure()
		if got := move(); got == lease.FreezeWindow {
			t.Error("after it duty does not move for the same reason")
		}
	})
}

func TestAFloorInPercentFollowsTheMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, store.NewMemory(), 0, nil)
		defer w.stop()
		w.settings.Floor, w.settings.FloorPercent = 0, 60
		w.configure()
		if got := w.View().Rules.Floor; got != 2 {
			t.Errorf("60%% of three members are %d", got)
		}
		for i, name := range []string{"web-3", "web-4", "web-5"} {
			w.pods[name] = roster.Pod{Instance: name, Ready: true}
			w.configure()
			if got, want := w.View().Rules.Floor, []int{3, 3, 4}[i]; got != want || w.View().Record.Summary.Floor != want {
				t.Errorf("with %s the floor is %d, in the status %d; want %d", name, got, w.View().Record.Summary.Floor, want)
			}
		}
		// One that is lost is a member still: the floor does not fall with those who serve.
		delete(w.pods, "web-5")
		w.configure()
		if got := w.View().Rules.Floor; got != 4 {
			t.Errorf("after the loss of one it is %d", got)
		}
	})
}
