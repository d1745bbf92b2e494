package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/docs/protocol"
	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

const (
	replicas = 5
	workers  = 3
	strategy = "{handover: Request, maxUnavailable: 2}"
	gate     = "offduty.dev/in-service"
)

const (
	// comes is how long an event waits for its step at most. Some do not come: nobody hands over
	// when all workers are upgraded already. Then it comes when the upgrade is complete.
	comes = 45 * time.Second
	// attempt is how long one request may take, so that it is not stuck at what is frozen.
	attempt = 10 * time.Second
	// ends bounds the troubles of one upgrade, and then how long the plan may take to complete.
	// Kruise takes up to half a minute to watch again after the API server was away. An arbiter
	// that ended before it had noted a change of its Roster does not know any more how long its
	// answers last: where the pod that had one is gone, it waits for the longest that there is,
	// 300 s.
	ends = 7 * time.Minute
)

// act is one round on its stage.
type act struct {
	*harness.Stage
	*world
	t     *testing.T
	round round

	mu sync.Mutex
	// image is what the user wants now, previous what they had when the upgrade began.
	image, previous string
	images          int
	// befallen are the pods at the steps of events, by their chance.
	befallen map[uint64]string
}

// run is one round: the application begins, some upgrades with their troubles, and what
// happened is held against the promises.
func (w *world) run(t *testing.T, r round) {
	t.Helper()
	s, err := w.system.NewStage(t.Context(), clustertest.Namespace(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &act{Stage: s, world: w, t: t, round: r, befallen: map[uint64]string{}}
	t.Cleanup(a.end)
	a.begin()
	for i, events := range r.upgrades {
		a.upgrade(i, events)
	}
}

// end proves what happened.
func (a *act) end() {
	e, err := a.Evidence(context.Background())
	if err != nil {
		a.t.Error(err)
	}
	// What is kept with -artifacts is read by TestRecordedHistories of test/e2e/harness.
	if err := e.Save(filepath.Join(a.t.ArtifactDir(), "evidence.json.gz")); err != nil {
		a.t.Error(err)
	}
	violations := append(e.Prove(), e.ProveGuards()...)
	for _, v := range violations {
		a.t.Error(v)
	}
	a.book.addEvidence(e, len(violations))
	a.holdAgainstTheModel(e)
	if a.t.Failed() {
		a.t.Logf("what happened last:\n%s", e.Story("", time.Now()))
	}
	if err := a.Close(); err != nil {
		a.t.Error(err)
	}
}

// holdAgainstTheModel tells whether what happened is a behaviour of docs/protocol, as far as that
// covers it. One of the last dozen rounds was not (docs/decisions/0012, at its end), so that it is
// told and counted, for somebody to read.
func (a *act) holdAgainstTheModel(e harness.Evidence) {
	var rejected *protocol.Rejection
	switch sum, err := e.Behaves(harness.Group); {
	case err == nil:
		a.book.add("events that are behaviours of docs/protocol", sum.Events)
		a.book.add("versions that were not held against it: replicas had come or gone, or versions were missing", sum.Skipped)
	case errors.As(err, &rejected):
		a.book.add("histories that docs/protocol does not know", 1)
		a.t.Logf("the model does not know this; to keep the recording, run it with -artifacts: %v", err)
	default:
		a.book.add("histories that docs/protocol does not cover", 1)
		a.t.Logf("not held against docs/protocol: %v", err)
	}
}

func (a *act) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// begin makes the application and waits until it works.
func (a *act) begin() {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), ends)
	defer cancel()
	for _, manifest := range []string{harness.RosterManifest(harness.Slots(workers)), harness.SetManifest(gate)} {
		a.must(a.insist(ctx, "make the application", func(ctx context.Context) error { return a.Apply(ctx, manifest) }))
	}
	a.must(a.History.Await(ctx, "all pods run", func(n harness.Now) error {
		running := 0
		for _, p := range n.Pods {
			if p.Runs() {
				running++
			}
		}
		if running != replicas {
			return fmt.Errorf("%d do", running)
		}
		return nil
	}))
	a.must(controlplane.Until(ctx, "replicas work", func(context.Context) error {
		if got := a.Attendants.Working(); len(got) != workers {
			return fmt.Errorf("%v do", got)
		}
		return nil
	}))
	a.image = harness.OldImage
}

// upgrade begins one and lets the events happen. When all troubles are over the user says
// once more what they want, and gets it.
func (a *act) upgrade(i int, events []event) {
	a.t.Helper()
	a.previous = a.image
	a.want(a.nextImage())
	begun := time.Now()
	ctx, cancel := context.WithTimeout(a.t.Context(), ends)
	defer cancel()
	a.must(a.applyPlan(ctx))
	group, during := errgroup.WithContext(ctx)
	for _, e := range events {
		group.Go(func() error {
			if err := a.happen(during, e); err != nil {
				return fmt.Errorf("%s: %w", e, err)
			}
			return nil
		})
	}
	a.must(group.Wait())
	if slices.ContainsFunc(events, event.cutsOffTheKubelet) {
		a.must(a.Cluster.Restart(ctx, controlplane.Kwok))
	}
	over := time.Now()
	a.settle()
	a.t.Logf("upgrade %d to %s: troubles over after %.1f s, complete %.1f s later", i, a.image, over.Sub(begun).Seconds(), time.Since(over).Seconds())
	a.book.complete(time.Since(over))
}

// settle ends everything that the user has begun and waits for the plan.
func (a *act) settle() {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), ends)
	defer cancel()
	a.must(a.insist(ctx, "give duty to anybody", func(ctx context.Context) error { return a.Assign(ctx, harness.Slots(workers)) }))
	a.must(a.scale(ctx, replicas))
	a.must(a.applyPlan(ctx))
	a.must(a.patchPlan(ctx, `{"spec":{"paused":null}}`))
	err := a.History.Await(ctx, "the plan is complete and nothing is left over", func(n harness.Now) error {
		if len(n.Pods) != replicas {
			return fmt.Errorf("there are %d pods", len(n.Pods))
		}
		return n.Complete(a.image)
	})
	if p, ok := a.History.Now().Plans[harness.Group]; err != nil && ok {
		err = fmt.Errorf("%w; the plan says %+v", err, p.Status)
	}
	a.must(err)
	a.must(controlplane.Until(ctx, "replicas work", func(context.Context) error {
		if got := a.Attendants.Working(); len(got) != workers {
			return fmt.Errorf("%v do; errors of the attendants: %v", got, a.Attendants.Errors())
		}
		return nil
	}))
}

// happen waits for the event's moment, and until nothing else befalls the same, and lets it
// happen.
func (a *act) happen(ctx context.Context, e event) error {
	at := a.moment(ctx, e)
	for _, what := range e.trouble.on(e) {
		lock := a.lock(what)
		lock.Lock()
		defer lock.Unlock()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	begun := time.Now()
	err := e.trouble.befall(ctx, a, e)
	a.t.Logf("%s: %s (%s), over after %.1f s", begun.Format("15:04:05.000"), e, at, time.Since(begun).Seconds())
	a.book.happened(e, at)
	return err
}

// How an event's moment came.
const (
	atItsStep = "the step came"
	inVain    = "the step did not come"
	atATime   = "at that time"
)

// moment returns at the event's step, or after its time.
func (a *act) moment(ctx context.Context, e event) string {
	if e.step == nil {
		pause(ctx, e.after)
		return atATime
	}
	ctx, cancel := context.WithTimeout(ctx, comes)
	defer cancel()
	at := inVain
	came := a.History.When(func(n harness.Now) bool {
		image := a.wanted()
		pod, ok := e.step.Seen(n, image)
		if ok && ctx.Err() == nil {
			a.strike(e, pod)
			at = atItsStep
		}
		// It is looked at with each version, also after nobody waits any more.
		return ok || ctx.Err() != nil || n.Complete(image) == nil
	}, func() {})
	select {
	case <-came:
		return at
	case <-ctx.Done():
		return inVain
	}
}

// strike notes the pod that is at the event's step.
func (a *act) strike(e event, pod string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.befallen[e.chance] = pod
}

// struck is the pod that was at the event's step; "" if none.
func (a *act) struck(e event) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.befallen[e.chance]
}

// insist repeats a request until it succeeds: what it needs may be away just now.
func (a *act) insist(ctx context.Context, what string, do func(context.Context) error) error {
	return controlplane.Until(ctx, what, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, attempt)
		defer cancel()
		return do(ctx)
	})
}

// want sets the image that the user wants.
func (a *act) want(image string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.image = image
}

func (a *act) wanted() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.image
}

// nextImage is one that was not there before.
func (a *act) nextImage() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.images++
	return fmt.Sprintf("alpine:3.%d.%d", 100+a.round.number, a.images)
}

// applyPlan applies the plan with the wanted image, as soon as one that is being deleted has
// gone.
func (a *act) applyPlan(ctx context.Context) error {
	return a.insist(ctx, "apply the plan", func(ctx context.Context) error {
		deleted, err := a.Kubectl(ctx, "", "get", "upgradeplan", harness.Group, "--namespace", a.Namespace, "--ignore-not-found",
			"--output", "jsonpath={.metadata.deletionTimestamp}")
		if err == nil && deleted != "" {
			err = errors.New("an earlier one is still leaving")
		}
		if err != nil {
			return err
		}
		return a.Apply(ctx, harness.PlanManifest(a.wanted(), strategy))
	})
}

func (a *act) patchPlan(ctx context.Context, patch string) error {
	return a.insist(ctx, "change the plan", func(ctx context.Context) error {
		return a.Patch(ctx, "upgradeplan", harness.Group, patch)
	})
}

func (a *act) scale(ctx context.Context, n int) error {
	return a.insist(ctx, "scale the set", func(ctx context.Context) error {
		return a.Patch(ctx, "asts", harness.Group, fmt.Sprintf(`{"spec":{"replicas":%d}}`, n))
	})
}

func (a *act) podNames() []string { return slices.Sorted(maps.Keys(a.History.Now().Pods)) }

// world is what all rounds share.
type world struct {
	system *harness.System
	keeper *keeper
	ways   map[string]*harness.Proxy
	admin  client.Client
	book   *book

	mu    sync.Mutex
	locks map[string]*sync.Mutex
}

// lock belongs to something that troubles befall.
func (w *world) lock(what string) *sync.Mutex {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.locks[what] == nil {
		w.locks[what] = &sync.Mutex{}
	}
	return w.locks[what]
}
