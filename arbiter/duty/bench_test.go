package duty_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

// BenchmarkRound is one acquire, pin and release in memory, among ten replicas.
func BenchmarkRound(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	g := duty.New(duty.Config{
		Key: "ns/web", Prefix: "ns/", Store: store.NewMemory(), Now: time.Now, NewEpoch: func() string { return "e" },
		FirstToken: func() int64 { return 0 }, Log: logr.Discard(),
	})
	done := make(chan struct{})
	go func() { g.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	pods := map[string]roster.Pod{}
	for i := range 10 {
		pods[fmt.Sprintf("web-%d", i)] = roster.Pod{Instance: "u", Ready: true}
	}
	settings := duty.Settings{MaxLeased: 1, PinOverdue: time.Hour, Roster: roster.Config{Slots: 3, Settle: time.Hour, Failover: time.Hour, Lifetime: time.Hour}}
	// The pods come when the group is there: nobody can have had duty before it.
	if err := errors.Join(g.Configure(ctx, settings, nil), g.Configure(ctx, settings, pods)); err != nil {
		b.Fatal(err)
	}
	token, _, _, err := g.Adopt(ctx, lease.AdoptRequest{Holder: "h", Term: 1, Identity: "i"})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		got, err := g.Acquire(ctx, lease.AcquireRequest{
			Holder: "h", Token: token, RequestID: "r", Max: 1, TTL: time.Minute, Candidates: []lease.Candidate{{Replica: "web-9", Instance: "u"}},
		})
		if err != nil || len(got.Leases) != 1 {
			b.Fatal(got, err)
		}
		ref := lease.Ref{ID: got.Leases[0].ID, Token: got.Leases[0].Token}
		if _, refusal, err := g.Pin(ctx, ref, "u"); err != nil || refusal != nil {
			b.Fatal(refusal, err)
		}
		if refusal, err := g.Release(ctx, ref, ""); err != nil || refusal != nil {
			b.Fatal(refusal, err)
		}
	}
}
