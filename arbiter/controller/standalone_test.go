package controller

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

const standalone = `apiVersion: offduty.dev/v1alpha1
kind: Roster
metadata: {namespace: prod, name: voters}
spec:
  members: {names: [a, b, c]}
  floor: {type: Quorum, voters: 3}
  assigned: {workers: 1}
`

func TestDecodeStandalone(t *testing.T) {
	tests := map[string]struct {
		change func(string) string
		want   string
	}{
		"the documented example is understood": {func(s string) string { return s }, ""},
		"an empty file has no roster":          {func(string) string { return "" }, "no Roster"},
		"another kind is refused":              {func(s string) string { return strings.Replace(s, "kind: Roster", "kind: Pod", 1) }, "kind Roster"},
		"an unknown field is refused":          {func(s string) string { return s + "  flor: 1\n" }, "flor"},
		"a roster needs names":                 {func(s string) string { return strings.Replace(s, "[a, b, c]", "[]", 1) }, "members.names"},
		"a floor is either of the two":         {func(s string) string { return strings.Replace(s, "voters: 3", "minServing: 3", 1) }, "spec.floor"},
		"a floor may be a share":               {func(s string) string { return strings.Replace(s, "Quorum, voters: 3", "Percent, percent: 60", 1) }, ""},
		"and not more than all":                {func(s string) string { return strings.Replace(s, "Quorum, voters: 3", "Percent, percent: 101", 1) }, "floor.percent"},
		"a floor is only one of the three":     {func(s string) string { return strings.Replace(s, "voters: 3", "voters: 3, percent: 60", 1) }, "spec.floor"},
		"it may have freeze windows":           {func(s string) string { return s + "  freezeWindows: [{schedule: '0 8 * * *', durationMinutes: 60}]\n" }, ""},
		"which must be readable":               {func(s string) string { return s + "  freezeWindows: [{schedule: '8', durationMinutes: 60}]\n" }, "spec.freezeWindows[0].schedule"},
		"and have a length":                    {func(s string) string { return s + "  freezeWindows: [{schedule: '0 8 * * *'}]\n" }, "durationMinutes"},
		"duty is by slots or by names":         {func(s string) string { return strings.Replace(s, "workers: 1", "workers: 1, working: [a]", 1) }, "spec.assigned"},
		"a named worker must be a member":      {func(s string) string { return strings.Replace(s, "workers: 1", "working: [d]", 1) }, "d is not among"},
		"a lifetime has a limit":               {func(s string) string { return strings.Replace(s, "workers: 1", "workers: 1, lifetimeSeconds: 999", 1) }, "lifetimeSeconds"},
		"a group is there once":                {func(s string) string { return s + "---\n" + s }, "twice"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeStandalone([]byte(tt.change(standalone)))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzDecodeStandalone(f *testing.F) {
	f.Add([]byte(standalone))
	f.Fuzz(func(t *testing.T, data []byte) {
		rosters, err := DecodeStandalone(data)
		if err != nil {
			return
		}
		for _, r := range rosters {
			if s := r.settings(); s.MaxLeased < 1 || s.Roster.Lifetime < time.Second || len(s.Attended) == 0 {
				t.Errorf("settings without sense: %+v", s)
			}
		}
	})
}

func TestStandaloneMembersAreThoseThatAttend(t *testing.T) {
	config, err := DecodeStandalone([]byte(standalone))
	must(t, err)
	state, err := store.OpenFile(filepath.Join(t.TempDir(), "state"))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	s := NewStandalone(config, state, time.Now, logr.Discard(), nil)
	defer func() {
		cancel()
		s.Wait()
		must(t, state.Close())
	}()
	must(t, s.Start(ctx))
	g, err := s.Group(ctx, "prod/voters")
	must(t, err)
	for _, name := range []string{"a", "b", "c"} {
		session, err := g.Attend(ctx, name, "pid-"+name)
		must(t, err)
		_, err = session.Report(ctx, duty.Report{Health: roster.Healthy, Duty: roster.Idle})
		must(t, err)
	}
	v := g.View()
	got := map[string]roster.Duty{}
	for _, name := range v.Names() {
		got[name] = v.Record.Roster.Members[name].Duty
	}
	if diff := cmp.Diff(map[string]roster.Duty{"a": roster.Working, "b": roster.Idle, "c": roster.Idle}, got); diff != "" {
		t.Error(diff)
	}
	if v.Serving() != 3 || v.Rules.Floor != 2 {
		t.Errorf("%d serve, floor %d", v.Serving(), v.Rules.Floor)
	}
	token, _, _, err := g.Adopt(ctx, lease.AdoptRequest{Holder: "h", Term: 1, Identity: "i"})
	must(t, err)
	got2, err := g.Acquire(ctx, lease.AcquireRequest{
		Holder: "h", Token: token, RequestID: "r", Max: 2, TTL: time.Minute,
		Candidates: []lease.Candidate{{Replica: "a", Instance: "pid-a"}, {Replica: "b", Instance: "pid-b"}},
	})
	must(t, err)
	if len(got2.Leases) != 1 || got2.Leases[0].Replica != "b" || got2.Leases[0].Token < 1<<40 {
		t.Errorf("leases: %+v", got2)
	}
}
