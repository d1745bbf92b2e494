package policy_test

import (
	"strings"
	"testing"
	"time"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/policy"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	out, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWindows(t *testing.T) {
	type window struct {
		schedule string
		length   time.Duration
		zone     string
	}
	office := window{"0 8 * * 1-5", 10 * time.Hour, "Europe/Berlin"}
	tests := map[string]struct {
		windows []window
		now     string
		// until is empty when none is open, change when nothing ever changes.
		until, change string
	}{
		"without windows nothing is ever closed":          {now: "2026-11-20T10:00:00Z"},
		"it opens at its time":                            {[]window{office}, "2026-11-20T07:00:00Z", "2026-11-20T17:00:00Z", "2026-11-20T17:00:00Z"},
		"and not before":                                  {[]window{office}, "2026-11-20T06:59:59Z", "", "2026-11-20T07:00:00Z"},
		"it is open until its end":                        {[]window{office}, "2026-11-20T16:59:59Z", "2026-11-20T17:00:00Z", "2026-11-20T17:00:00Z"},
		"and not longer; the next one is on Monday":       {[]window{office}, "2026-11-20T17:00:00Z", "", "2026-11-23T07:00:00Z"},
		"in summer the zone's clock is an hour ahead":     {[]window{office}, "2026-07-20T06:30:00Z", "2026-07-20T16:00:00Z", "2026-07-20T16:00:00Z"},
		"an empty zone is UTC":                            {[]window{{"0 8 * * *", time.Hour, ""}}, "2026-11-20T08:30:00Z", "2026-11-20T09:00:00Z", "2026-11-20T09:00:00Z"},
		"it may be open over midnight":                    {[]window{{"0 22 * * *", 8 * time.Hour, ""}}, "2026-11-20T03:00:00Z", "2026-11-20T06:00:00Z", "2026-11-20T06:00:00Z"},
		"over the night on which the clock is put back":   {[]window{{"0 22 * * *", 8 * time.Hour, "Europe/Berlin"}}, "2026-10-25T03:30:00Z", "2026-10-25T04:00:00Z", "2026-10-25T04:00:00Z"},
		"a time that the clock leaves out opens nothing":  {[]window{{"30 2 * * *", time.Hour, "Europe/Berlin"}}, "2026-03-29T01:15:00Z", "", "2026-03-30T00:30:00Z"},
		"one that opens again before it closes goes on":   {[]window{{"* * * * *", time.Hour, ""}}, "2026-11-20T08:30:30Z", "2026-11-20T09:30:00Z", "2026-11-20T08:31:00Z"},
		"every minute of a week":                          {[]window{{"* * * * *", 7 * 24 * time.Hour, ""}}, "2026-11-20T08:30:30Z", "2026-11-27T08:30:00Z", "2026-11-20T08:31:00Z"},
		"of several that are open the one that ends last": {[]window{{"0 8 * * *", time.Hour, ""}, {"0 7 * * *", 3 * time.Hour, ""}}, "2026-11-20T08:30:00Z", "2026-11-20T10:00:00Z", "2026-11-20T10:00:00Z"},
		"another one may open before the end":             {[]window{{"0 8 * * *", time.Hour, ""}, {"45 8 * * *", 3 * time.Hour, ""}}, "2026-11-20T08:30:00Z", "2026-11-20T09:00:00Z", "2026-11-20T08:45:00Z"},
		"a day that never comes":                          {[]window{{"0 8 30 2 *", time.Hour, ""}}, "2026-11-20T08:30:00Z", "", ""},
		"a whole week that is always frozen by name":      {[]window{{"@daily", 24 * time.Hour, ""}}, "2026-11-20T08:30:00Z", "2026-11-21T00:00:00Z", "2026-11-21T00:00:00Z"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var ws policy.Windows
			for _, w := range tt.windows {
				made, err := policy.NewWindow(w.schedule, w.length, w.zone)
				if err != nil {
					t.Fatal(err)
				}
				ws = append(ws, made)
			}
			in, change := ws.At(at(t, tt.now))
			if text(in.Until) != tt.until || (in.Window == "") != (tt.until == "") || text(change) != tt.change {
				t.Errorf("open %q until %q, change at %q; want %q and %q", in.Window, text(in.Until), text(change), tt.until, tt.change)
			}
		})
	}
}

// text is a time; "" never comes.
func text(x time.Time) string {
	if x.IsZero() {
		return ""
	}
	return x.UTC().Format(time.RFC3339)
}

func TestAWindowThatCannotBeRead(t *testing.T) {
	for name, tt := range map[string]struct{ schedule, zone, want string }{
		"a field too few":           {"0 8 * *", "", `schedule: "0 8 * *"`},
		"a day that does not exist": {"0 8 32 * *", "", "schedule"},
		"a zone in the schedule":    {"CRON_TZ=Europe/Berlin 0 8 * * *", "", "timeZone"},
		"how often and not when":    {"@every 1h", "", "how often"},
		"an unknown zone":           {"0 8 * * *", "Europe/Nowhere", "timeZone"},
		"the machine's zone":        {"0 8 * * *", "Local", "depends on the machine"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := policy.NewWindow(tt.schedule, time.Hour, tt.zone); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the error is %v, and does not say %q", err, tt.want)
			}
		})
	}
}

// FuzzWindows: whatever can be read gives a freeze that holds at that time, and a change after it.
func FuzzWindows(f *testing.F) {
	f.Add("0 8 * * 1-5", uint16(600), "Europe/Berlin", int64(1_795_000_000))
	f.Add("*/7 * * * *", uint16(3), "", int64(1_795_000_001))
	f.Add("@monthly", uint16(10080), "America/New_York", int64(1_762_000_000))
	f.Fuzz(func(t *testing.T, schedule string, minutes uint16, zone string, seconds int64) {
		w, err := policy.NewWindow(schedule, time.Duration(1+minutes%10080)*time.Minute, zone)
		if err != nil {
			return
		}
		now := time.Unix(seconds%(1<<32), 0)
		in, change := policy.Windows{w}.At(now)
		if in.Window != "" && !in.Until.After(now) {
			t.Errorf("at %s it is open until %s", now, in.Until)
		}
		if !change.IsZero() && !change.After(now) {
			t.Errorf("at %s it changes at %s", now, change)
		}
		if before := change.Add(-time.Second); !change.IsZero() && before.After(now) {
			if then, _ := (policy.Windows{w}).At(before); then != in {
				t.Errorf("from %+v at %s to %+v at %s, before it changes", in, now, then, before)
			}
		}
	})
}

func TestAFreeze(t *testing.T) {
	frozen := policy.Freeze{Window: "w", Until: at(t, "2026-11-20T17:00:00Z")}
	quarantined := policy.Replica{Instance: "u0", Idle: true, Ready: true, Quarantined: true}
	for name, tt := range map[string]struct {
		unclear string
		change  func(map[string]policy.Replica)
		// grant, pin and move are the answers.
		grant, pin, move lease.Reason
	}{
		"stops leases, pins and moves of duty":             {grant: lease.FreezeWindow, pin: lease.FreezeWindow, move: lease.FreezeWindow},
		"lets an upgrade that has begun come to its end":   {change: set("web-0", quarantined), move: lease.FreezeWindow},
		"one that cannot be read lets a pin through alone": {unclear: "spec.freezeWindows[0]", grant: lease.FreezeWindow, move: lease.FreezeWindow, pin: lease.FreezeWindow},
	} {
		t.Run(name, func(t *testing.T) {
			r, table := group(1, 1, nil, tt.change)
			r.Freeze, r.Unclear = frozen, tt.unclear
			refusal := r.MayGrant(table)
			if refusal == nil {
				_, refusal = r.MayLease(table, "web-0", "u0")
			}
			if got := reason(refusal); got != tt.grant {
				t.Errorf("the grant: %+v", refusal)
			}
			if no := r.MayPin(table, lease.Lease{Replica: "web-0"}, "u0"); reason(no) != tt.pin {
				t.Errorf("the pin: %+v", no)
			}
			if no := r.MayMove("web-1"); reason(no) != tt.move {
				t.Errorf("the move: %+v", no)
			} else if tt.unclear == "" && !strings.Contains(no.Rule, "2026-11-20T17:00:00Z") {
				t.Errorf("it does not say until when: %+v", no)
			}
		})
	}
}

func TestSpread(t *testing.T) {
	in := func(domains ...string) func(map[string]policy.Replica) {
		return func(m map[string]policy.Replica) {
			for name, d := range map[string]string{"web-0": domains[0], "web-1": domains[1], "web-2": domains[2]} {
				r := m[name]
				r.Domain = d
				m[name] = r
			}
		}
	}
	for name, tt := range map[string]struct {
		leased []string
		change func(map[string]policy.Replica)
		want   lease.Reason
		says   string
	}{
		"the first may be anywhere":                       {nil, in("a", "b", "c"), 0, ""},
		"the next one in the same domain":                 {[]string{"web-1"}, in("a", "a", "b"), 0, ""},
		"and in no other":                                 {[]string{"web-1"}, in("a", "b", "b"), lease.Spread, "web-0 is in a, and web-1, which is leased, in b"},
		"one whose domain is not known is not leased":     {nil, in("", "b", "b"), lease.Spread, "the domain of web-0 is not known"},
		"nor another beside a lease in an unknown domain": {[]string{"web-1"}, in("a", "", "b"), lease.Spread, "in one that is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			r, table := group(0, 3, tt.leased, tt.change)
			r.Spread = "zone"
			_, no := r.MayLease(table, "web-0", "u0")
			if reason(no) != tt.want || no != nil && !strings.Contains(no.Rule, tt.says) {
				t.Errorf("%+v, want reason %d saying %q", no, tt.want, tt.says)
			}
		})
	}
}

func TestShare(t *testing.T) {
	for _, tt := range []struct{ percent, members, want int }{
		{0, 5, 0}, {100, 5, 5}, {60, 5, 3}, {50, 5, 3}, {1, 5, 1}, {60, 0, 0}, {34, 3, 2}, {33, 3, 1},
	} {
		if got := policy.Share(tt.percent, tt.members); got != tt.want {
			t.Errorf("%d%% of %d is %d, want %d", tt.percent, tt.members, got, tt.want)
		}
	}
}
