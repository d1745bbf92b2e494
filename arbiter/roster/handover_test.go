package roster_test

import (
	"testing"
	"time"

	"offduty.dev/arbiter/roster"
)

func TestWhomAnApplicationIsAskedToHandDutyTo(t *testing.T) {
	from := func(name string) roster.Asked { return roster.Asked{Holder: "plan", From: name} }
	sick := func(p *roster.Pod) { p.Sight.Unfit = "it lags" }
	unready := func(p *roster.Pod) { p.Ready = false }
	for name, tt := range map[string]struct {
		do   func(b *bench)
		from string
		want string
		no   roster.Refused
	}{
		"the first candidate that is idle":         {nil, "web-0", "web-3", roster.Accepted},
		"not one that lags":                        {func(b *bench) { b.pod("web-3", sick) }, "web-0", "web-4", roster.Accepted},
		"not one that is not ready":                {func(b *bench) { b.pod("web-3", unready) }, "web-0", "web-4", roster.Accepted},
		"not one that is leased":                   {func(b *bench) { b.leased["web-3"] = true }, "web-0", "web-4", roster.Accepted},
		"not one that is not known to be idle":     {func(b *bench) { b.sight("web-3", roster.Unknown) }, "web-0", "web-4", roster.Accepted},
		"nobody can take over":                     {func(b *bench) { b.pod("web-3", sick).pod("web-4", sick) }, "web-0", "", roster.RefusedNoSuccessor},
		"one that has no duty hands nothing over":  {nil, "web-2", "", roster.Accepted},
		"whether it works is not certain":          {func(b *bench) { b.sight("web-0", roster.Unknown) }, "web-0", "", roster.RefusedUncertain},
		"it is no member":                          {nil, "web-9", "", roster.RefusedUnknown},
		"the application cannot be asked":          {func(b *bench) { b.config.Observed.HandsOver = false }, "web-0", "", roster.RefusedObserved},
		"it was asked for the same before":         {func(b *bench) { b.record.Asked = []roster.Asked{from("web-0")} }, "web-0", "", roster.RefusedAgain},
		"it was asked for another plan":            {func(b *bench) { b.record.Asked = []roster.Asked{{Holder: "x", From: "web-0"}} }, "web-0", "web-3", roster.Accepted},
		"the same is under way":                    {func(b *bench) { b.ask("web-0") }, "web-0", "web-3", roster.Accepted},
		"another is under way":                     {func(b *bench) { b.ask("web-1") }, "web-0", "", roster.RefusedBusy},
		"another is seen to be done":               {func(b *bench) { b.ask("web-1"); b.sight("web-1", roster.Idle).sight("web-3", roster.Working) }, "web-0", "web-4", roster.Accepted},
		"another has not moved for half a minute":  {func(b *bench) { b.ask("web-1"); b.step(30 * time.Second) }, "web-0", "web-3", roster.Accepted},
		"another may yet move, a little before it": {func(b *bench) { b.ask("web-1"); b.step(29 * time.Second) }, "web-0", "", roster.RefusedBusy},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 3).observe(2)
			b.config.Observed.HandsOver = true
			b.step(0)
			if tt.do != nil {
				tt.do(b)
				b.step(0)
			}
			if got, no := roster.AskHandover(&b.record, b.memory, b.input(), from(tt.from), []string{"web-3", "web-4"}); got != tt.want || no != tt.no {
				t.Errorf("successor %q, answer %d; want %q, %d", got, no, tt.want, tt.no)
			}
		})
	}
}

// ask asks to move duty away from a member.
func (b *bench) ask(from string) {
	b.t.Helper()
	if _, no := roster.AskHandover(&b.record, b.memory, b.input(), roster.Asked{Holder: "other", From: from}, []string{"web-3"}); no != roster.Accepted {
		b.t.Fatalf("refused: %d", no)
	}
}
