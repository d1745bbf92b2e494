package conformance_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/test/bufconn"

	"offduty.dev/arbiter/conformance"
	"offduty.dev/arbiter/controller"
	"offduty.dev/arbiter/server"
	"offduty.dev/arbiter/store"
)

const roster = `apiVersion: offduty.dev/v1alpha1
kind: Roster
metadata: {namespace: demo, name: voters}
spec:
  members: {names: [voter-0, voter-1, voter-2, voter-3, voter-4]}
  floor: {type: Quorum, voters: 5}
  maxLeased: 3
  assigned: {workers: 1, lifetimeSeconds: 1, failoverSeconds: 1}
`

var voters = map[string]string{"demo/voter-0": "a", "demo/voter-1": "b", "demo/voter-2": "c", "demo/voter-3": "d", "demo/voter-4": "e"}

// reference is the reference arbiter on a state file, as its processes come and go.
type reference struct {
	t    *testing.T
	path string

	mu       sync.Mutex
	listener *bufconn.Listener
	end      func()
}

// begin begins a process whose clock is skewed.
func (r *reference) begin(skew time.Duration) {
	config, err := controller.DecodeStandalone([]byte(roster))
	must(r.t, err)
	state, err := store.OpenFile(r.path)
	must(r.t, err)
	now := func() time.Time { return time.Now().Add(skew) }
	ctx, cancel := context.WithCancel(r.t.Context())
	groups := controller.NewStandalone(config, state, now, logr.Discard(), nil)
	must(r.t, groups.Start(ctx))
	s := server.New(server.Config{Groups: groups, Version: "test", Now: now, Log: logr.Discard()})
	l, ended := bufconn.Listen(1<<20), make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listener = l
	r.end = func() {
		cancel()
		must(r.t, <-ended)
		groups.Wait()
		must(r.t, state.Close())
	}
}

func (r *reference) restart(_ context.Context, clock time.Duration) error {
	r.end()
	r.begin(clock) //nolint:contextcheck // a process outlives the call that starts it
	return nil
}

func TestTheReferenceArbiterStandalone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reference{t: t, path: filepath.Join(t.TempDir(), "state")}
		r.begin(0)
		defer func() { r.end() }()
		conn := dialTo(t, func() *bufconn.Listener {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.listener
		})
		defer func() { must(t, conn.Close()) }()
		app := conformance.Attend(t.Context(), conn, "demo/voters", voters)
		defer app.Close()
		report, err := conformance.Check(t.Context(), conformance.Target{
			Conn: conn, Group: "demo/voters", Driver: app.Driver().Over(conformance.Driver{Restart: r.restart}),
		}, time.Now, func(x conformance.Result) { t.Log(x.Line()) })
		must(t, err)
		for _, x := range report.Results {
			// Without TLS there are no outsiders: test/e2e has some.
			if x.Outcome != conformance.Passed && x.ID != "outsider" {
				t.Errorf("%s\n%s", x.Line(), x.Finding)
			}
			for _, w := range x.Warnings {
				t.Logf("%s\n%s", x.ID, &w)
			}
		}
	})
}
