package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"offduty.dev/test/cluster/controlplane"
)

// Observer is who watches, as the audit log names it.
var Observer = controlplane.User("e2e-observer", "system:masters")

// The kinds that are recorded.
var (
	podKind    = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	setKind    = schema.GroupVersionResource{Group: "apps.kruise.io", Version: "v1beta1", Resource: "statefulsets"}
	planKind   = schema.GroupVersionResource{Group: "offduty.dev", Version: "v1alpha1", Resource: "upgradeplans"}
	rosterKind = schema.GroupVersionResource{Group: "offduty.dev", Version: "v1alpha1", Resource: "rosters"}
)

var kinds = map[schema.GroupKind]schema.GroupVersionResource{
	{Kind: "Pod"}: podKind,
	{Group: "apps.kruise.io", Kind: "StatefulSet"}: setKind,
	{Group: "offduty.dev", Kind: "UpgradePlan"}:    planKind,
	{Group: "offduty.dev", Kind: "Roster"}:         rosterKind,
}

// History is every version of the pods, sets, plans and rosters of one namespace since
// Record began. It resumes its watches where they broke off, so that nothing is missed
// when the API server is restarted.
type History struct {
	cancel  context.CancelFunc
	running sync.WaitGroup
	sources map[schema.GroupVersionResource]dynamic.ResourceInterface

	mu      sync.Mutex
	pods    []Pod
	sets    []Set
	plans   []Plan
	rosters []Roster
	now     Now
	// changed is closed and made anew with each version.
	changed chan struct{}
	// objects are the latest versions as they came.
	objects map[schema.GroupVersionResource]map[string]*unstructured.Unstructured
	hooks   []*hook
	onPod   []func(Pod)
	gaps    []Gap
	// told is the version of each kind that was told of last.
	told map[schema.GroupVersionResource]int64
	// due is the latest version of each kind that is known to be there: Await does not look at
	// anything older.
	due    map[schema.GroupVersionResource]int64
	broken error
}

// Gap is where versions of one kind may be missing: the API server was restarted, and did not
// know any more what had happened since the last version that it had told of.
type Gap struct {
	// After is the version that was told of last, To the one with which it went on.
	After, To int64
}

// Now is the latest version of each object, by name; of those that are gone, none.
type Now struct {
	Pods    map[string]Pod
	Sets    map[string]Set
	Plans   map[string]Plan
	Rosters map[string]Roster
}

// hook is done once, as soon as its condition holds.
type hook struct {
	when func(Now) bool
	do   func()
	done chan struct{}
}

// Record begins to record a namespace. It ends with Stop.
func Record(ctx context.Context, c *controlplane.Cluster, namespace string) (*History, error) {
	config, err := c.RESTConfig(ctx, Observer)
	if err != nil {
		return nil, err
	}
	k, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("watch namespace %s: %w", namespace, err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h := &History{
		cancel: cancel, changed: make(chan struct{}), sources: map[schema.GroupVersionResource]dynamic.ResourceInterface{},
		objects: map[schema.GroupVersionResource]map[string]*unstructured.Unstructured{},
		told:    map[schema.GroupVersionResource]int64{}, due: map[schema.GroupVersionResource]int64{},
		now: Now{Pods: map[string]Pod{}, Sets: map[string]Set{}, Plans: map[string]Plan{}, Rosters: map[string]Roster{}},
	}
	for _, kind := range []schema.GroupVersionResource{podKind, setKind, planKind, rosterKind} {
		h.sources[kind] = k.Resource(kind).Namespace(namespace)
		if err := h.follow(ctx, h.sources[kind], kind); err != nil {
			h.Stop()
			return nil, fmt.Errorf("watch %s in namespace %s: %w", kind.Resource, namespace, err)
		}
	}
	return h, nil
}

// Stop ends the recording. The history stays.
func (h *History) Stop() {
	h.cancel()
	h.running.Wait()
}

// follow notes what is there, and then each version.
func (h *History) follow(ctx context.Context, k dynamic.ResourceInterface, kind schema.GroupVersionResource) error {
	version, err := h.list(ctx, k, kind)
	if err != nil {
		return err
	}
	h.running.Go(func() {
		for ctx.Err() == nil {
			if err := h.watch(ctx, k, kind, version); err != nil {
				h.fail(err)
				return
			}
			// The API server was restarted and does not know that version any more: what
			// happened between the last version that it told of and its end is lost, unless
			// it is still there.
			h.mu.Lock()
			told := h.told[kind]
			h.mu.Unlock()
			err := controlplane.Until(ctx, "the API server lists "+kind.Resource+" again", func(ctx context.Context) error {
				version, err = h.list(ctx, k, kind)
				return err
			})
			if err == nil {
				err = h.miss(told, version)
			}
			if err != nil && ctx.Err() == nil {
				h.fail(err)
				return
			}
		}
	})
	return nil
}

// miss notes a gap.
func (h *History) miss(after int64, version string) error {
	to, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return fmt.Errorf("the version of a list is no number: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gaps = append(h.gaps, Gap{After: after, To: to})
	return nil
}

// Gaps are where versions may be missing.
func (h *History) Gaps() []Gap {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.gaps)
}

// list notes every object that is not as it was last seen, and those that are gone.
func (h *History) list(ctx context.Context, k dynamic.ResourceInterface, kind schema.GroupVersionResource) (version string, err error) {
	list, err := k.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	h.mu.Lock()
	before := maps.Clone(h.objects[kind])
	h.mu.Unlock()
	for i := range list.Items {
		u := &list.Items[i]
		if b := before[u.GetName()]; b == nil || b.GetResourceVersion() != u.GetResourceVersion() {
			h.note(kind, u, false)
		}
		delete(before, u.GetName())
	}
	for _, u := range before {
		u = u.DeepCopy()
		u.SetResourceVersion(list.GetResourceVersion())
		h.note(kind, u, true)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told[kind] = max(h.told[kind], versionOf(list)) // what came and went before is known to be gone
	return list.GetResourceVersion(), nil
}

// watch notes each version from a version on, until ctx ends or that is too old.
func (h *History) watch(ctx context.Context, k dynamic.ResourceInterface, kind schema.GroupVersionResource, version string) error {
	w, err := watchtools.NewRetryWatcherWithContext(ctx, version, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return k.Watch(ctx, o) },
	})
	if err != nil {
		return err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watch.Error && tooOld(event.Object) {
			return nil
		}
		u, ok := event.Object.(*unstructured.Unstructured)
		if !ok || event.Type == watch.Bookmark || event.Type == watch.Error {
			return fmt.Errorf("the watch of %s said %s: %v", kind.Resource, event.Type, event.Object)
		}
		h.note(kind, u, event.Type == watch.Deleted)
	}
	if ctx.Err() == nil {
		return fmt.Errorf("the watch of %s ended: versions are missing from the history", kind.Resource)
	}
	return nil
}

func tooOld(status runtime.Object) bool {
	err := apierrors.FromObject(status)
	return apierrors.IsGone(err) || apierrors.IsResourceExpired(err)
}

func (h *History) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = errors.Join(h.broken, err)
}

// note writes a version down, then does what waited for it.
func (h *History) note(kind schema.GroupVersionResource, u *unstructured.Unstructured, gone bool) {
	h.mu.Lock()
	if h.objects[kind] == nil {
		h.objects[kind] = map[string]*unstructured.Unstructured{}
	}
	keep(h.objects[kind], u.GetName(), u, gone)
	pod, err := h.write(kind, u, gone)
	if err != nil {
		h.broken = errors.Join(h.broken, err)
	}
	var due []*hook
	h.hooks = slices.DeleteFunc(h.hooks, func(k *hook) bool {
		if !k.when(h.now) {
			return false
		}
		due = append(due, k)
		return true
	})
	close(h.changed)
	h.changed = make(chan struct{})
	tell := h.onPod
	h.mu.Unlock()
	for _, k := range due {
		k.do()
		close(k.done)
	}
	if pod != nil {
		for _, f := range tell {
			f(*pod)
		}
	}
}

func (h *History) write(kind schema.GroupVersionResource, u *unstructured.Unstructured, gone bool) (*Pod, error) {
	s, err := stampOf(u, time.Now(), gone)
	if err != nil {
		return nil, err
	}
	h.told[kind] = max(h.told[kind], s.Version)
	switch kind {
	case podKind:
		p, err := podOf(u, s)
		if err != nil {
			return nil, err
		}
		h.pods = append(h.pods, p)
		keep(h.now.Pods, p.Name, p, gone)
		return &p, nil
	case setKind:
		var v Set
		if v, err = setOf(u, s); err == nil {
			h.sets = append(h.sets, v)
			keep(h.now.Sets, v.Name, v, gone)
		}
	case planKind:
		var v Plan
		if v, err = planOf(u, s); err == nil {
			h.plans = append(h.plans, v)
			keep(h.now.Plans, v.Name, v, gone)
		}
	case rosterKind:
		var v Roster
		if v, err = rosterOf(u, s); err == nil {
			h.rosters = append(h.rosters, v)
			keep(h.now.Rosters, v.Name, v, gone)
		}
	}
	return nil, err
}

func keep[T any](m map[string]T, name string, v T, gone bool) {
	if gone {
		delete(m, name)
		return
	}
	m[name] = v
}

// Now returns the latest versions.
func (h *History) Now() Now {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now.clone()
}

func (n Now) clone() Now {
	return Now{Pods: maps.Clone(n.Pods), Sets: maps.Clone(n.Sets), Plans: maps.Clone(n.Plans), Rosters: maps.Clone(n.Rosters)}
}

// Await waits until check answers nil. It looks at each version that is recorded, so
// that no state is too short to be seen, but at none that is older than what Due was told of.
func (h *History) Await(ctx context.Context, what string, check func(Now) error) error {
	var last error
	done := h.When(func(n Now) bool {
		if last = h.behind(); last == nil {
			last = check(n)
		}
		return last == nil
	}, func() {})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		h.mu.Lock()
		defer h.mu.Unlock()
		return fmt.Errorf("wait until %s: %w; last seen: %w", what, context.Cause(ctx), last)
	}
}

// Due tells of an object that is known to be there, as by who has just written it. Others
// than those that are recorded do not count.
func (h *History) Due(u *unstructured.Unstructured) {
	if kind, ok := kinds[u.GroupVersionKind().GroupKind()]; ok {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.due[kind] = max(h.due[kind], versionOf(u))
	}
}

// versionOf is 0 for what is no number, which never happens to what the API server answers:
// stampOf refuses it.
func versionOf(o interface{ GetResourceVersion() string }) int64 {
	v, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// behind says what is known to be there and not yet recorded. The caller holds mu.
func (h *History) behind() error {
	for kind, version := range h.due {
		if told := h.told[kind]; told < version {
			return fmt.Errorf("version %d of %s has not been seen; the last one was %d", version, kind.Resource, told)
		}
	}
	return nil
}

// CatchUp returns what there is, no older than at its call: the watches tell of it a little
// later than the API server has it, and each kind's at its own time.
func (h *History) CatchUp(ctx context.Context) (Now, error) {
	gone := map[schema.GroupVersionResource]map[string]int64{}
	for kind := range h.sources {
		var err error
		if gone[kind], err = h.survey(ctx, kind); err != nil {
			return Now{}, err
		}
	}
	var now Now
	err := h.Await(ctx, "everything that there is has been seen", func(n Now) error {
		now = n.clone()
		for kind, names := range gone {
			for name, at := range names {
				if u := h.objects[kind][name]; u != nil && versionOf(u) <= at {
					return fmt.Errorf("that %s of %s is gone has not been seen", name, kind.Resource)
				}
			}
		}
		return nil
	})
	return now, err
}

// survey makes due what there is of a kind, and returns what was there before and is not any
// more, with the version of the list that lacks it.
func (h *History) survey(ctx context.Context, kind schema.GroupVersionResource) (gone map[string]int64, err error) {
	h.mu.Lock()
	before := maps.Clone(h.objects[kind])
	h.mu.Unlock()
	list, err := h.sources[kind].List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind.Resource, err)
	}
	for i := range list.Items {
		delete(before, list.Items[i].GetName())
		h.Due(&list.Items[i])
	}
	gone = map[string]int64{}
	for name := range before {
		gone[name] = versionOf(list)
	}
	return gone, nil
}

// When calls do as soon as a version is recorded with which cond holds, or at once if it
// holds already, and closes the channel when do has returned. do is called before the
// next version of that kind is looked at: it is the place to kill or freeze something at
// a step. cond must not call History.
func (h *History) When(cond func(Now) bool, do func()) <-chan struct{} {
	k := &hook{when: cond, do: do, done: make(chan struct{})}
	h.mu.Lock()
	holds := cond(h.now)
	if !holds {
		h.hooks = append(h.hooks, k)
	}
	h.mu.Unlock()
	if holds {
		do()
		close(k.done)
	}
	return k.done
}

// OnPod makes f be told of each further version of a pod, in order, and of those that
// are there now.
func (h *History) OnPod(f func(Pod)) {
	h.mu.Lock()
	present := slices.Collect(maps.Values(h.now.Pods))
	h.onPod = append(h.onPod, f)
	h.mu.Unlock()
	for _, p := range present {
		f(p)
	}
}

// Record returns all versions, each kind in its order. The error says that some may be
// missing.
func (h *History) Record() (pods []Pod, sets []Set, plans []Plan, rosters []Roster, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.pods), slices.Clone(h.sets), slices.Clone(h.plans), slices.Clone(h.rosters), h.broken
}
