// Package e2e applies what config/ installs to a real control plane, runs Offduty on it, and
// checks it from outside.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"offduty.dev/docs/protocol"
	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

func TestMain(m *testing.M) { clustertest.Main(m, controlplane.Options{}) }

// root is the module's folder.
const root = "../.."

var installed struct {
	once   sync.Once
	system *harness.System
	err    error
}

// install returns Offduty on the control plane of this test binary, with one upgrader.
func install(t *testing.T) *harness.System {
	t.Helper()
	c := clustertest.Shared(t)
	installed.once.Do(func() {
		o := harness.Default
		o.Upgrader, o.KeepRunning = harness.Steady, true
		installed.system, installed.err = harness.InstallWith(context.Background(), c, root, o, harness.UpgraderA)
	})
	if installed.err != nil {
		t.Fatal(installed.err)
	}
	return installed.system
}

// stage is a harness.Stage whose methods fail the test.
type stage struct {
	*harness.Stage
	t      *testing.T
	strict bool
}

// newStage gives the test a namespace of its own. When the test ends, everything that
// happened in it is held against the promises.
func newStage(t *testing.T) *stage {
	t.Helper()
	system := install(t)
	s, err := system.NewStage(t.Context(), clustertest.Namespace(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	st := &stage{Stage: s, t: t}
	t.Cleanup(func() {
		e, err := s.Evidence(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, v := range e.Prove() {
			t.Error(v)
		}
		switch sum, err := e.Behaves(harness.Group); {
		case err == nil:
			t.Logf("the run of plan %s is a behaviour of docs/protocol: %s", harness.Group, sum)
		case errors.Is(err, harness.ErrUnfit), errors.Is(err, protocol.ErrTooMany):
			t.Logf("not held against docs/protocol: %v", err)
		case st.strict:
			t.Error(err)
		default:
			t.Logf("the model does not know this: %v", err)
		}
		if t.Failed() {
			t.Logf("what happened last:\n%s", e.Story("", time.Now()))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// followsTheModel demands that the history of this stage is a behaviour of docs/protocol, and
// does not only tell if it is not.
func (s *stage) followsTheModel() { s.strict = true }

// patience is how long a step of a story may take on a loaded machine.
const patience = 3 * time.Minute

// on returns the stage for a subtest.
func (s *stage) on(t *testing.T) *stage {
	t.Helper()
	return &stage{Stage: s.Stage, t: t}
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) apply(manifest string) { s.t.Helper(); s.must(s.Apply(s.t.Context(), manifest)) }

// assign gives the roster other workers, and waits until the arbiter goes by that: who asks it
// for something earlier is answered by what was before.
func (s *stage) assign(assigned string) {
	s.t.Helper()
	s.must(s.Assign(s.t.Context(), assigned))
	s.await("the arbiter goes by the new roster", harness.Now.Heeded)
}

// patchRoster is assign for the rest of the roster's spec.
func (s *stage) patchRoster(spec string) {
	s.t.Helper()
	s.must(s.Patch(s.t.Context(), "roster", harness.Group, `{"spec":`+spec+`}`))
	s.await("the arbiter goes by the new roster", harness.Now.Heeded)
}

// now is what there is, and nothing older.
func (s *stage) now() harness.Now {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	n, err := s.History.CatchUp(ctx)
	s.must(err)
	return n
}

// await waits until check answers nil.
func (s *stage) await(what string, check func(harness.Now) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(s.History.Await(ctx, what, check))
}

// begin makes roster and set and waits until all pods are ready and exactly the given
// number of replicas works.
func (s *stage) begin(assigned string, workers int, gates ...string) map[string]harness.Pod {
	s.t.Helper()
	return s.beginWith(harness.SetManifest(gates...), assigned, workers, gates...)
}

// beginWith is begin with another set; "" is that of the worked example.
func (s *stage) beginWith(set, assigned string, workers int, gates ...string) map[string]harness.Pod {
	s.t.Helper()
	if set == "" {
		set = harness.SetManifest()
	}
	s.apply(harness.RosterManifest(assigned))
	s.apply(set)
	s.awaitFive(len(gates) == 0)
	s.awaitWorking(workers)
	return s.now().Pods
}

// awaitFive waits until five pods run, and are ready if they are to be.
func (s *stage) awaitFive(ready bool) {
	s.t.Helper()
	s.await("five pods run", func(n harness.Now) error {
		running := 0
		for _, p := range n.Pods {
			if p.Runs() && (p.Ready || !ready) {
				running++
			}
		}
		if running != 5 {
			return fmt.Errorf("%d do", running)
		}
		return nil
	})
}

// awaitWorking waits until n replicas work, and they are those that have duty by the roster: who
// works may not have heard of the latest yet.
func (s *stage) awaitWorking(n int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, fmt.Sprintf("%d replicas work", n), func(context.Context) error {
		w, roster := s.Attendants.Working(), s.History.Now()
		var duty []string
		for _, m := range roster.Rosters[harness.Group].Status.Members {
			if m.Assigned {
				duty = append(duty, m.Name)
			}
		}
		slices.Sort(duty)
		if len(w) != n || !slices.Equal(w, duty) {
			return fmt.Errorf("%v do, and %v have duty; errors of the attendants: %v", w, duty, s.Attendants.Errors())
		}
		return roster.Heeded()
	}))
}

// holdUpdates keeps the kubelet from starting the containers that Kruise changes, until goOn is
// called: what is to happen to a replica that is past the point of no return may take its time.
func (s *stage) holdUpdates() (goOn func()) {
	s.t.Helper()
	const delay = "sim.offduty.dev/restart-delay"
	s.kubectl("annotate", "pods", "--all", "--overwrite", delay+"=1h")
	return func() {
		s.t.Helper()
		s.kubectl("annotate", "pods", "--all", delay+"-")
	}
}

// What tests ask of the stage's plan.
var plan, settled = harness.Now.Plan, harness.Now.Settled

// waiting wants the plan to have come to progress and to wait with reason, for what there is
// now: a status that everybody has not had a part in yet may be the one from before the test's
// last change.
func waiting(progress, reason string) func(harness.Now) error {
	return func(n harness.Now) error {
		p, err := plan(n)
		if err == nil {
			err = n.Agreed()
		}
		if err != nil {
			return err
		}
		if c := p.Condition("Ready"); p.Status.Progress != progress || c.Reason != reason {
			return fmt.Errorf("the plan is at %s and says %s: %s", p.Status.Progress, c.Reason, c.Message)
		}
		return nil
	}
}
