package calibration

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"sync"

	appspub "github.com/openkruise/kruise-api/apps/pub"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/sim/calibration"
)

var setKind = schema.GroupVersionKind{Group: "apps.kruise.io", Version: "v1beta1", Kind: "StatefulSet"}

// The set's name, its only container's image without the tag, and annotations of pods that
// stop the simulated kubelet.
const (
	name  = "web"
	image = "example.com/web:"
	hour  = "1h"

	deleteDelay = "sim.offduty.dev/delete-delay"
)

var delays = []string{"sim.offduty.dev/stop-delay", "sim.offduty.dev/restart-delay", deleteDelay}

// recording says whether the recordings are to be written anew.
func recording() bool {
	f := flag.Lookup("rewrite")
	return f != nil && f.Value.String() == "true"
}

// stage is a namespace with one set, under observation.
type stage struct {
	k         client.WithWatch
	namespace string
	// version is Kruise's.
	version  string
	trace    *calibration.Trace
	cancel   context.CancelFunc
	watching sync.WaitGroup

	mu   sync.Mutex
	pods map[string]*corev1.Pod
	set  *unstructured.Unstructured
	lost error
	// stopped are the ordinals whose kubelet stands, replicas how many pods there are to be.
	stopped  map[int]bool
	replicas int
}

func newStage(ctx context.Context, k client.WithWatch, version, namespace string) (*stage, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &stage{k: k, namespace: namespace, version: version, trace: calibration.NewTrace(), cancel: cancel, pods: map[string]*corev1.Pod{}, stopped: map[int]bool{}}
	sets := &unstructured.UnstructuredList{}
	sets.SetGroupVersionKind(setKind.GroupVersion().WithKind("StatefulSetList"))
	if err := errors.Join(s.follow(ctx, &corev1.PodList{}, s.notePod), s.follow(ctx, sets, s.noteSet)); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *stage) stop() {
	s.cancel()
	s.watching.Wait()
}

// follow takes in each version of each object of the namespace, which is empty at first.
func (s *stage) follow(ctx context.Context, list client.ObjectList, note func(watch.Event) error) error {
	if err := s.k.List(ctx, list, client.InNamespace(s.namespace)); err != nil {
		return err
	}
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.GetResourceVersion(), &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return s.k.Watch(ctx, list, &client.ListOptions{Namespace: s.namespace, Raw: &o})
		},
	})
	if err != nil {
		return err
	}
	s.watching.Go(func() {
		defer w.Stop()
		for e := range w.ResultChan() {
			err := note(e)
			s.mu.Lock()
			s.lost = errors.Join(s.lost, err)
			s.mu.Unlock()
		}
	})
	return nil
}

func version(o client.Object) (int64, error) { return strconv.ParseInt(o.GetResourceVersion(), 10, 64) }

func (s *stage) notePod(e watch.Event) error {
	p, ok := e.Object.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("the watch of pods said %s: %v", e.Type, e.Object)
	}
	v, err := version(p)
	gone := e.Type == watch.Deleted
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods[p.Name] = p; gone {
		delete(s.pods, p.Name)
	}
	s.trace.Pod(v, podOf(p, gone))
	return err
}

func (s *stage) noteSet(e watch.Event) error {
	u, ok := e.Object.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("the watch of sets said %s: %v", e.Type, e.Object)
	}
	v, err := version(u)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set = u
	update, _, _ := unstructured.NestedString(u.Object, "status", "updateRevision")
	current, _, _ := unstructured.NestedString(u.Object, "status", "currentRevision")
	s.trace.Set(v, calibration.Set{Update: update, Current: current, Observed: observed(u)})
	return err
}

func observed(u *unstructured.Unstructured) int64 {
	n, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	return n
}

func condition(p *corev1.Pod, t corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

func tag(image string) string { return image[strings.LastIndexByte(image, ':')+1:] }

func podOf(p *corev1.Pod, gone bool) calibration.Pod {
	_, updated := appspub.GetInPlaceUpdateState(p)
	_, grace := appspub.GetInPlaceUpdateGrace(p)
	out := calibration.Pod{
		Name: p.Name, UID: string(p.UID), Gone: gone, Terminating: p.DeletionTimestamp != nil,
		Revision: p.Labels["controller-revision-hash"], Image: tag(p.Spec.Containers[0].Image),
		State: p.Labels[appspub.LifecycleStateKey], Working: p.Labels[v1alpha1.DefaultWorkingLabel],
		Hold: p.Labels[v1alpha1.HoldLabel] == "true", Grant: p.Labels[v1alpha1.GrantLabel] == "true",
		Open: string(condition(p, appspub.InPlaceUpdateReady)), Updated: updated, Grace: grace, Unfinished: grace || unfinished(p),
		Ready: condition(p, corev1.PodReady) == corev1.ConditionTrue,
	}
	if c := containerOf(p); c != nil && c.State.Running != nil {
		out.Runs = tag(c.Image)
		// The status of a new tag of the same image shows the old one; the container's id is
		// the simulated kubelet's way to tell which was started.
		if id, ok := strings.CutPrefix(c.ContainerID, "containerd://samedigest"); ok {
			out.Runs = "samedigest" + id[:strings.IndexByte(id, '.')]
		}
	}
	return out
}

// unfinished is Kruise's own rule (inplace_update_defaults.go:427).
func unfinished(p *corev1.Pod) bool {
	record, _ := appspub.GetInPlaceUpdateState(p)
	var state appspub.InPlaceUpdateState
	if record == "" || json.Unmarshal([]byte(record), &state) != nil {
		return false
	}
	c := containerOf(p)
	last, ok := state.LastContainerStatuses["main"]
	return ok && (c == nil || c.ImageID == last.ImageID && c.Image != p.Spec.Containers[0].Image)
}

func containerOf(p *corev1.Pod) *corev1.ContainerStatus {
	if len(p.Status.ContainerStatuses) == 0 {
		return nil
	}
	return &p.Status.ContainerStatuses[0]
}

// step gives an input, and returns what became visible when nothing more happens.
func (s *stage) step(ctx context.Context, step calibration.Step) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s.trace.Cut()
	if step.Verb == "kruise" {
		return s.version + "\n", nil
	}
	if err := s.do(ctx, step.Input); err != nil {
		if refusal := apierrors.APIStatus(nil); errors.As(err, &refusal) {
			return fmt.Sprintf("refused: %s\n", message(refusal.Status().Message)), nil
		}
		return "", err
	}
	err := s.rest(ctx, step.Recorded)
	return s.trace.String(), err
}

// message is a webhook's own words.
func message(m string) string {
	if _, own, ok := strings.Cut(m, "denied the request: "); ok {
		m = own
	}
	return strings.Join(strings.Fields(m), " ")
}

// rest waits until nothing more happens: the kubelet has nothing to do, and then Kruise has
// been made to look at the set again and again without anything becoming visible. A look is
// over when Kruise has observed a generation that changes nothing but the limit of the
// revision history. As soon as what became visible is what was recorded, two looks are
// enough: no more is to be expected.
func (s *stage) rest(ctx context.Context, recorded string) error {
	const looks, enough = 8, 2
	for quiet := 0; quiet < looks; {
		before := s.trace.String()
		if err := controlplane.Until(ctx, "the kubelet has nothing to do", func(context.Context) error { return s.kubeletRests() }); err != nil {
			return err
		}
		if err := s.look(ctx); err != nil {
			return err
		}
		after := s.trace.String()
		if quiet++; after != before || s.kubeletRests() != nil {
			quiet = 0
		}
		if quiet >= enough && after == recorded && !recording() {
			return nil
		}
	}
	return nil
}

// look makes Kruise reconcile the set.
func (s *stage) look(ctx context.Context) error {
	u := s.object()
	if err := s.k.Get(ctx, client.ObjectKeyFromObject(u), u); err != nil {
		return err
	}
	limit, _, _ := unstructured.NestedInt64(u.Object, "spec", "revisionHistoryLimit")
	generation, err := s.patch(ctx, map[string]any{"spec": map[string]any{"revisionHistoryLimit": 21 - limit}})
	if err != nil {
		return err
	}
	return controlplane.Until(ctx, "Kruise has looked at the set", func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := observed(s.set); n < generation {
			return fmt.Errorf("it has observed generation %d, not %d", n, generation)
		}
		return nil
	})
}

// kubeletRests says what the kubelet is still to do.
func (s *stage) kubeletRests() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != nil {
		return controlplane.Permanent(s.lost)
	}
	there := 0
	for _, p := range s.pods {
		ordinal, err := strconv.Atoi(p.Name[strings.LastIndexByte(p.Name, '-')+1:])
		if err != nil {
			return controlplane.Permanent(err)
		}
		if ordinal < s.replicas {
			there++
		}
		if err := unsettled(p, s.stopped[ordinal]); err != nil {
			return err
		}
	}
	if there != s.replicas {
		return fmt.Errorf("%d of %d pods are there", there, s.replicas)
	}
	return nil
}

func unsettled(p *corev1.Pod, stopped bool) error {
	c := containerOf(p)
	_, grace := appspub.GetInPlaceUpdateGrace(p)
	want := tag(p.Spec.Containers[0].Image)
	failing := strings.HasPrefix(want, "broken") || strings.HasPrefix(want, "crash")
	switch {
	case grace:
		return fmt.Errorf("%s is in its grace period", p.Name)
	case stopped:
		return nil
	case p.DeletionTimestamp != nil:
		return fmt.Errorf("%s terminates", p.Name)
	case c == nil || !failing && podOf(p, false).Runs != want || failing && c.State.Waiting == nil:
		return fmt.Errorf("the container of %s does not run %s", p.Name, want)
	}
	if open, ready := condition(p, appspub.InPlaceUpdateReady), condition(p, corev1.PodReady); !failing && !unfinished(p) && (open != ready || open != corev1.ConditionTrue) {
		return fmt.Errorf("InPlaceUpdateReady of %s is %q, Ready %q", p.Name, open, ready)
	}
	return nil
}

func (s *stage) object() *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(setKind)
	u.SetNamespace(s.namespace)
	u.SetName(name)
	return u
}

// patch changes the set, and returns its generation.
func (s *stage) patch(ctx context.Context, merge map[string]any) (int64, error) {
	b, err := json.Marshal(merge)
	if err != nil {
		return 0, err
	}
	u := s.object()
	err = s.k.Patch(ctx, u, client.RawPatch(types.MergePatchType, b))
	return u.GetGeneration(), err
}

func (s *stage) patchPod(ctx context.Context, ordinal int, metadata map[string]any) error {
	b, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: fmt.Sprintf("%s-%d", name, ordinal)}}
	return s.k.Patch(ctx, p, client.RawPatch(types.MergePatchType, b))
}

func (s *stage) do(ctx context.Context, in calibration.Input) error {
	s.mu.Lock()
	s.replicas = in.Int("replicas", s.replicas)
	s.mu.Unlock()
	switch in.Verb {
	case "create":
		u := setObject(in)
		u.SetNamespace(s.namespace)
		err := s.k.Create(ctx, u)
		s.trace.Input(u.GetGeneration())
		return err
	case "set":
		generation, err := s.patch(ctx, map[string]any{"spec": specOf(in, false)})
		s.trace.Input(generation)
		return err
	case "current":
		revision, err := s.trace.Revision(in.Words[0])
		if err != nil {
			return err
		}
		body := fmt.Sprintf(`{"status": {"currentRevision": %q}}`, revision)
		return s.k.Status().Patch(ctx, s.object(), client.RawPatch(types.MergePatchType, []byte(body)))
	}
	for _, o := range in.Ordinals {
		if err := s.doPod(ctx, in, o); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) doPod(ctx context.Context, in calibration.Input, ordinal int) error {
	switch in.Verb {
	case "delete":
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: fmt.Sprintf("%s-%d", name, ordinal)}}
		if s.stopped[ordinal] { // it is to be seen terminating
			return s.k.Delete(ctx, p)
		}
		// Without the simulated kubelet, which deletes by name, and its successor as well.
		later := map[string]any{"annotations": map[string]any{deleteDelay: hour}}
		if err := s.patchPod(ctx, ordinal, later); err != nil {
			return err
		}
		return s.k.Delete(ctx, p, client.GracePeriodSeconds(0))
	case "kubelet":
		stops := in.Words[0] == "stops"
		s.mu.Lock()
		s.stopped[ordinal] = stops
		s.mu.Unlock()
		annotations := map[string]any{}
		for _, d := range delays {
			if annotations[d] = nil; stops {
				annotations[d] = hour
			}
		}
		return s.patchPod(ctx, ordinal, map[string]any{"annotations": annotations})
	}
	labels := map[string]any{}
	for key, label := range map[string]string{
		"hold": v1alpha1.HoldLabel, "grant": v1alpha1.GrantLabel,
		"working": v1alpha1.DefaultWorkingLabel, "state": appspub.LifecycleStateKey,
	} {
		switch v := in.Values[key]; v {
		case "":
		case "-", "off":
			labels[label] = nil
		case "on":
			labels[label] = "true"
		default:
			labels[label] = v
		}
	}
	return s.patchPod(ctx, ordinal, map[string]any{"labels": labels})
}

// setObject is the set of a story.
func setObject(in calibration.Input) *unstructured.Unstructured {
	labels := map[string]any{"app": name}
	born := map[string]any{"app": name, v1alpha1.DefaultWorkingLabel: "false"}
	if in.Has("born", "held") {
		born[v1alpha1.HoldLabel] = "true"
	}
	spec := specOf(in, true)
	spec["selector"], spec["serviceName"], spec["podManagementPolicy"] = map[string]any{"matchLabels": labels}, name, "Parallel"
	spec["revisionHistoryLimit"] = int64(10)
	spec["template"].(map[string]any)["metadata"] = map[string]any{"labels": born}
	u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	u.SetGroupVersionKind(setKind)
	u.SetName(name)
	return u
}

// specOf is what an input says of the set's spec.
func specOf(in calibration.Input, whole bool) map[string]any {
	rolling, spec := map[string]any{}, map[string]any{}
	if whole {
		rolling["podUpdatePolicy"], rolling["partition"] = "InPlaceOnly", int64(0)
		rolling["maxUnavailable"], rolling["unorderedUpdate"] = "100%", map[string]any{}
	}
	if in.Has("replicas") {
		spec["replicas"] = int64(in.Int("replicas", 0))
	}
	if in.Has("partition") {
		rolling["partition"] = int64(in.Int("partition", 0))
	}
	if in.Has("policy") {
		rolling["podUpdatePolicy"] = in.Values["policy"]
	}
	if in.Has("unavailable") {
		rolling["maxUnavailable"] = in.Values["unavailable"]
		if n, err := strconv.Atoi(in.Values["unavailable"]); err == nil {
			rolling["maxUnavailable"] = int64(n)
		}
	}
	if in.Has("grace") {
		rolling["inPlaceUpdateStrategy"] = map[string]any{"gracePeriodSeconds": int64(in.Int("grace", 0))}
	}
	if in.Has("weights") {
		rolling["unorderedUpdate"] = unordered(in.Has("weights", "on"))
	}
	if len(rolling) > 0 {
		spec["updateStrategy"] = map[string]any{"type": "RollingUpdate", "rollingUpdate": rolling}
	}
	if in.Has("hook") {
		spec["lifecycle"] = lifecycle(in.Has("hook", "on"))
	}
	if in.Has("image") || in.Has("env") {
		spec["template"] = template(in)
	}
	return spec
}

// template is that of Kruise's own revisions: lists are replaced as a whole. An input that
// names env must name the image, too.
func template(in calibration.Input) map[string]any {
	container := map[string]any{"name": "main", "image": image + in.Values["image"]}
	if in.Has("env") {
		container["env"] = []any{map[string]any{"name": "MODE", "value": in.Values["env"]}}
	}
	return map[string]any{"spec": map[string]any{
		"readinessGates": []any{map[string]any{"conditionType": string(appspub.InPlaceUpdateReady)}},
		"containers":     []any{container}, "terminationGracePeriodSeconds": int64(1),
	}}
}

// unordered are the priorities that arming writes (upgrader/kruise).
func unordered(on bool) map[string]any {
	if !on {
		return map[string]any{"priorityStrategy": nil}
	}
	weight := func(n int64, key, value string) map[string]any {
		return map[string]any{"weight": n, "matchSelector": map[string]any{"matchLabels": map[string]any{key: value}}}
	}
	return map[string]any{"priorityStrategy": map[string]any{"weightPriority": []any{
		weight(100, v1alpha1.GrantLabel, "true"), weight(50, v1alpha1.DefaultWorkingLabel, "false"),
	}}}
}

// lifecycle is the hook that arming writes. What disarming leaves is no lifecycle at all: an
// empty one makes Kruise take the way by Updated (stateful_set_control.go:806).
func lifecycle(on bool) any {
	if !on {
		return nil
	}
	return map[string]any{"inPlaceUpdate": map[string]any{"labelsHandler": map[string]any{v1alpha1.HoldLabel: "true"}}}
}
