package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	fluxcel "github.com/fluxcd/pkg/runtime/cel"
	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/jsondiff"
	"github.com/google/go-cmp/cmp"
	"github.com/itchyny/gojq"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
	"offduty.dev/test/gitops"
)

// The tests in this file deliver config/samples/gitops as Flux, Argo CD, kubectl and
// pipelines do. Flux is its own apply engine and health checks, as libraries; Argo CD's
// health scripts run in its Lua, and its writes are the same requests to the API server.

var capture = flag.String("capture", "", "write each kind of plan, set and roster that the tools of delivery see into this folder")

const gitopsSamples = root + "/config/samples/gitops"

// The identities under which the tools write. Both are usually administrators; admission
// asks who they are all the same.
var (
	flux = controlplane.User("kustomize-controller", "system:masters")
	argo = controlplane.User("argocd-controller", "system:masters")
)

// app reads one manifest of the sample application.
func app(t *testing.T, file string, edit ...string) *unstructured.Unstructured {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(gitopsSamples, "app", file))
	if err != nil {
		t.Fatal(err)
	}
	return object(t, strings.NewReplacer(edit...).Replace(string(b)))
}

func text(t *testing.T, u *unstructured.Unstructured) string {
	t.Helper()
	b, err := yaml.Marshal(u.Object)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func object(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	objects, err := controlplane.Decode([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	return objects[0]
}

// sample reads a manifest of a tool into its type.
func sample[T any](t *testing.T, path string) T {
	t.Helper()
	var v T
	b, err := os.ReadFile(filepath.Join(gitopsSamples, path))
	if err == nil {
		err = yaml.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// kustomization is what we use of Flux's kind.
type kustomization struct {
	Spec struct {
		HealthCheckExprs []kustomize.CustomHealthCheck `json:"healthCheckExprs"`
		Ignore           []struct {
			Paths  []string           `json:"paths"`
			Target kustomize.Selector `json:"target"`
		} `json:"ignore"`
	} `json:"spec"`
}

// application is what we use of Argo CD's kind.
type application struct {
	Spec struct {
		IgnoreDifferences []struct {
			Kind              string   `json:"kind"`
			JSONPointers      []string `json:"jsonPointers"`
			JQPathExpressions []string `json:"jqPathExpressions"`
		} `json:"ignoreDifferences"`
	} `json:"spec"`
}

// applyAsFlux is what its kustomize-controller does with a folder from Git.
func (s *stage) applyAsFlux(k kustomization, objects ...*unstructured.Unstructured) (*ssa.ChangeSet, error) {
	s.t.Helper()
	writer, err := s.Cluster.Client(s.t.Context(), flux, nil)
	s.must(err)
	options := ssa.DefaultApplyOptions()
	for _, rule := range k.Spec.Ignore {
		options.DriftIgnoreRules = append(options.DriftIgnoreRules, jsondiff.IgnoreRule{
			Paths:    rule.Paths,
			Selector: &jsondiff.Selector{Group: rule.Target.Group, Kind: rule.Target.Kind, Name: rule.Target.Name},
		})
	}
	m := ssa.NewResourceManager(writer, nil, ssa.Owner{Field: "kustomize-controller", Group: "kustomize.toolkit.fluxcd.io"})
	objects = slices.Clone(objects)
	for i, o := range objects {
		objects[i] = o.DeepCopy()
		objects[i].SetNamespace(s.Namespace)
	}
	return m.ApplyAll(s.t.Context(), objects, options)
}

// applyServerSide is one server-side apply by a manager.
func (s *stage) applyServerSide(who controlplane.Identity, o *unstructured.Unstructured, more ...client.ApplyOption) (*unstructured.Unstructured, error) {
	s.t.Helper()
	writer, err := s.Cluster.Client(s.t.Context(), who, nil)
	s.must(err)
	o = o.DeepCopy()
	o.SetNamespace(s.Namespace)
	err = writer.Apply(s.t.Context(), client.ApplyConfigurationFromUnstructured(o), append(more, client.FieldOwner(who.Username()))...)
	return o, err
}

func (s *stage) live(kind *unstructured.Unstructured) *unstructured.Unstructured {
	s.t.Helper()
	reader, err := s.Cluster.Client(s.t.Context(), harness.Observer, nil)
	s.must(err)
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(kind.GroupVersionKind())
	s.must(reader.Get(s.t.Context(), client.ObjectKey{Namespace: s.Namespace, Name: kind.GetName()}, u))
	return u
}

// versions are all versions of the delivered objects of a stage, by kind.
type versions struct {
	mu  sync.Mutex
	all map[string][]*unstructured.Unstructured
}

// watch records the versions of the kinds of some objects.
func (s *stage) watch(kinds ...*unstructured.Unstructured) *versions {
	s.t.Helper()
	v := &versions{all: map[string][]*unstructured.Unstructured{}}
	reader, err := s.Cluster.Client(s.t.Context(), harness.Observer, nil)
	s.must(err)
	for _, kind := range kinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind.GroupVersionKind())
		w, err := reader.Watch(s.t.Context(), list, client.InNamespace(s.Namespace))
		s.must(err)
		s.t.Cleanup(w.Stop)
		go func() {
			for event := range w.ResultChan() {
				if u, ok := event.Object.(*unstructured.Unstructured); ok {
					v.mu.Lock()
					v.all[u.GetKind()] = append(v.all[u.GetKind()], u)
					v.mu.Unlock()
				}
			}
		}()
	}
	return v
}

// of returns the versions of a kind once there are as new ones as the live object.
func (v *versions) of(s *stage, kind *unstructured.Unstructured) []*unstructured.Unstructured {
	s.t.Helper()
	version := s.live(kind).GetResourceVersion()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var all []*unstructured.Unstructured
	s.must(controlplane.Until(ctx, "the watch of "+kind.GetKind()+" has caught up", func(context.Context) error {
		v.mu.Lock()
		all = slices.Clone(v.all[kind.GetKind()])
		v.mu.Unlock()
		if !slices.ContainsFunc(all, func(u *unstructured.Unstructured) bool { return u.GetResourceVersion() == version }) {
			return fmt.Errorf("it lacks version %s", version)
		}
		return nil
	}))
	return all
}

func (s *stage) kstatus(u *unstructured.Unstructured) string {
	s.t.Helper()
	r, err := status.Compute(u)
	s.must(err)
	return r.Status.String()
}

func (s *stage) argoHealth(u *unstructured.Unstructured) gitops.Health {
	s.t.Helper()
	script, err := gitops.Script(root, u.GroupVersionKind().Group, u.GetKind())
	s.must(err)
	h, err := gitops.HealthOf(script, u)
	s.must(err)
	return h
}

// fluxHealth is kstatus, or the expression of the Kustomization where it has one.
func (s *stage) fluxHealth(k kustomization, u *unstructured.Unstructured) string {
	s.t.Helper()
	for _, check := range k.Spec.HealthCheckExprs {
		if check.APIVersion != u.GetAPIVersion() || check.Kind != u.GetKind() {
			continue
		}
		e, err := fluxcel.NewStatusEvaluator(&check.HealthCheckExpressions)
		s.must(err)
		r, err := e.Evaluate(s.t.Context(), u)
		if err != nil { // Flux takes it for Unknown and looks again
			return status.UnknownStatus.String()
		}
		return r.Status.String()
	}
	return s.kstatus(u)
}

// sequence applies judge to each version and leaves out repetitions.
func sequence(all []*unstructured.Unstructured, judge func(*unstructured.Unstructured) string) []string {
	out := make([]string, 0, len(all))
	for _, u := range all {
		out = append(out, judge(u))
	}
	return slices.Compact(out)
}

// checkNoEarlyPass wants all pods to have the image of the set's template and to be ready
// whenever all objects pass. The versions of all kinds are in one order.
func (s *stage) checkNoEarlyPass(tool string, pass func(*unstructured.Unstructured) bool, kinds ...[]*unstructured.Unstructured) {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	versionOf := func(u *unstructured.Unstructured) int64 {
		v, err := strconv.ParseInt(u.GetResourceVersion(), 10, 64)
		s.must(err)
		return v
	}
	all := slices.Concat(kinds...)
	slices.SortStableFunc(all, func(a, b *unstructured.Unstructured) int { return int(versionOf(a) - versionOf(b)) })
	latest := map[string]*unstructured.Unstructured{}
	passes := 0
	for _, u := range all {
		latest[u.GetKind()] = u
		set := latest["StatefulSet"]
		if set == nil || len(latest) < len(kinds) {
			continue
		}
		passed := true
		for _, l := range latest {
			passed = passed && pass(l)
		}
		if !passed {
			continue
		}
		passes++
		if wrong := unlike(e.Pods, versionOf(u), image(set)); len(wrong) > 0 {
			s.t.Errorf("%s lets version %s of %s pass, while %v do not run %s", tool, u.GetResourceVersion(), u.GetKind(), wrong, image(set))
		}
	}
	if passes == 0 {
		s.t.Errorf("%s never lets it pass", tool)
	}
}

// unlike names the pods that did not run an image at a version.
func unlike(pods []harness.Pod, version int64, image string) []string {
	at := map[string]harness.Pod{}
	for _, p := range pods {
		if p.Version <= version {
			at[p.Name] = p
		}
	}
	var out []string
	for name, p := range at {
		if p.Image != image || !p.Runs() {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func image(set *unstructured.Unstructured) string {
	containers, _, _ := unstructured.NestedSlice(set.Object, "spec", "template", "spec", "containers")
	if len(containers) == 0 {
		return ""
	}
	name, _, _ := unstructured.NestedString(containers[0].(map[string]any), "image")
	return name
}

// spec is what a tool may have changed.
func spec(u *unstructured.Unstructured) any { return u.Object["spec"] }

// without removes an Application's ignored differences, as Argo CD does before it compares.
func (s *stage) without(a application, u *unstructured.Unstructured) map[string]any {
	s.t.Helper()
	o := u.DeepCopy().Object
	unstructured.RemoveNestedField(o, "metadata")
	unstructured.RemoveNestedField(o, "status")
	for _, rule := range a.Spec.IgnoreDifferences {
		for _, pointer := range rule.JSONPointers {
			unstructured.RemoveNestedField(o, strings.Split(strings.Trim(pointer, "/"), "/")...)
		}
		for _, path := range rule.JQPathExpressions {
			q, err := gojq.Parse("del(" + path + ")")
			s.must(err)
			out, _ := q.Run(roundTrip(s, o)).Next()
			o, _ = out.(map[string]any)
		}
	}
	return roundTrip(s, o)
}

// roundTrip makes numbers what JSON makes of them.
func roundTrip(s *stage, o map[string]any) map[string]any {
	s.t.Helper()
	b, err := json.Marshal(o)
	s.must(err)
	var out map[string]any
	s.must(json.Unmarshal(b, &out))
	return out
}

// respecting is what Argo CD writes with RespectIgnoreDifferences: the manifest with the
// live values of what is ignored.
func (s *stage) respecting(a application, manifest, live *unstructured.Unstructured) *unstructured.Unstructured {
	s.t.Helper()
	target := manifest.DeepCopy()
	for _, rule := range a.Spec.IgnoreDifferences {
		for _, pointer := range rule.JSONPointers {
			path := strings.Split(strings.Trim(pointer, "/"), "/")
			v, found, err := unstructured.NestedFieldCopy(live.Object, path...)
			s.must(err)
			if found {
				s.must(unstructured.SetNestedField(target.Object, v, path...))
			}
		}
	}
	return target
}

// delivery is config/samples/gitops on its way into a namespace.
type delivery struct {
	*stage
	kustomization     kustomization
	application       application
	roster, set, plan *unstructured.Unstructured
	seen              *versions
}

func (d *delivery) on(t *testing.T) *delivery {
	t.Helper()
	c := *d
	c.stage = d.stage.on(t)
	return &c
}

// commit changes the image in Git, and Flux applies it.
func (d *delivery) commit(image string) {
	d.t.Helper()
	d.set.Object = app(d.t, "set.yaml", harness.OldImage, image).Object
	_, err := d.applyAsFlux(d.kustomization, d.roster, d.set, d.plan)
	d.must(err)
}

// until waits for something that is asked of the API server.
func (d *delivery) until(what string, check func() error) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	d.must(controlplane.Until(ctx, what, func(context.Context) error { return check() }))
}

// healthy waits until all pods run the image, and all health checks pass.
func (d *delivery) healthy(image string) {
	d.t.Helper()
	d.until("all replicas run "+image, func() error {
		n := d.History.Now()
		if withImage(n, image) != 5 {
			return errors.New("not all do")
		}
		return settled(n)
	})
	d.until("all health checks pass", func() error {
		for _, o := range []*unstructured.Unstructured{d.roster, d.set, d.plan} {
			live := d.live(o)
			if f, h := d.fluxHealth(d.kustomization, live), d.argoHealth(live); f != "Current" || h.Status != "Healthy" {
				return fmt.Errorf("%s is %s for Flux, %s for Argo CD", o.GetKind(), f, h)
			}
		}
		return nil
	})
}

// planIs waits until the plan is something for kstatus and something for Argo CD.
func (d *delivery) planIs(kstatus, argo string) {
	d.t.Helper()
	d.until("the plan is "+kstatus+", "+argo, func() error {
		live := d.live(d.plan)
		if k, a := d.kstatus(live), d.argoHealth(live); k != kstatus || a.Status != argo {
			return fmt.Errorf("it is %s, %s", k, a)
		}
		return nil
	})
}

func TestDeliveryFromGit(t *testing.T) {
	d := &delivery{
		stage:         newStage(t),
		kustomization: sample[kustomization](t, "flux/kustomization.yaml"),
		application:   sample[application](t, "argocd/application.yaml"),
		roster:        app(t, "roster.yaml", "workers: 3", "workers: 3\n    lifetimeSeconds: 3"),
		set:           app(t, "set.yaml"),
		plan:          app(t, "plan.yaml", "handover: Request", "handover: Request\n    verify: {timeoutSeconds: 10}"),
	}
	d.seen = d.watch(d.set, d.plan, d.roster)
	t.Run("what Flux applies passes all health checks, its own and Argo CD's", func(t *testing.T) {
		d := d.on(t)
		d.commit(harness.OldImage)
		d.healthy(harness.OldImage)
		d.awaitWorking(3)
	})
	t.Run("a commit with another image is rolled out, and nothing passes before the last replica runs it", func(t *testing.T) {
		d := d.on(t)
		d.commit(harness.NewImage)
		d.healthy(harness.NewImage)
		sets, plans := d.seen.of(d.stage, d.set), d.seen.of(d.stage, d.plan)
		d.checkNoEarlyPass("Flux", func(u *unstructured.Unstructured) bool { return d.fluxHealth(d.kustomization, u) == "Current" }, sets, plans)
		d.checkNoEarlyPass("Argo CD", func(u *unstructured.Unstructured) bool { return d.argoHealth(u).Status == "Healthy" }, sets, plans)
	})
	t.Run("the same commit again changes nothing, whoever applies it", func(t *testing.T) { d.on(t).checkRepetition() })
	t.Run("a manifest that names the upgrader's fields", func(t *testing.T) { d.on(t).checkConflicts() })
	t.Run("a commit with an image that does not work makes the plan fail, and a better one heals it", func(t *testing.T) {
		d := d.on(t)
		d.commit("alpine:broken-1")
		d.planIs("Failed", "Degraded")
		d.commit("alpine:3.19.0")
		d.healthy("alpine:3.19.0")
	})
	t.Run("a paused plan with work to do is suspended", func(t *testing.T) {
		d := d.on(t)
		d.must(d.Patch(t.Context(), "upgradeplan", harness.Group, `{"spec":{"paused":true}}`))
		d.await("the pause is seen", settled)
		d.commit("alpine:3.19.1")
		d.planIs("InProgress", "Suspended")
	})
	t.Run("kstatus and Argo CD saw each state, and no other", func(t *testing.T) { d.on(t).checkSequence() })
	d.keep(d.seen)
}

func (d *delivery) checkRepetition() {
	before := d.live(d.set)
	changes, err := d.applyAsFlux(d.kustomization, d.roster, d.set, d.plan)
	d.must(err)
	for _, c := range changes.Entries {
		if c.Action != ssa.UnchangedAction {
			d.t.Errorf("Flux says %s", c)
		}
	}
	_, err = d.applyServerSide(argo, d.set, client.ForceOwnership)
	d.must(err)
	d.apply(text(d.t, d.set))
	if diff := cmp.Diff(spec(before), spec(d.live(d.set))); diff != "" {
		d.t.Errorf("the set's spec (-before +after):\n%s", diff)
	}
}

func (d *delivery) checkSequence() {
	want := []string{
		"InProgress Progressing", "Current Healthy", // installed
		"InProgress Progressing", "Current Healthy", // upgraded
		"InProgress Progressing", "Failed Degraded", // broken
		"InProgress Progressing", "Current Healthy", // healed
		"InProgress Progressing", "Current Healthy", // paused, with nothing to do
		"InProgress Progressing", "InProgress Suspended", // and with something to do
	}
	got := sequence(d.seen.of(d.stage, d.plan), func(u *unstructured.Unstructured) string { return d.kstatus(u) + " " + d.argoHealth(u).Status })
	if diff := cmp.Diff(want, got); diff != "" {
		d.t.Errorf("the plan (-want +got):\n%s", diff)
	}
	for _, h := range sequence(d.seen.of(d.stage, d.set), func(u *unstructured.Unstructured) string { return d.argoHealth(u).Status }) {
		if h != "Progressing" && h != "Healthy" {
			d.t.Errorf("Argo CD saw the set %s", h)
		}
	}
}

// checkConflicts tries manifests with fields of the upgrader, in all ways.
func (d *delivery) checkConflicts() {
	for field, value := range map[string]any{
		"partition":             int64(0),
		"podUpdatePolicy":       "InPlaceIfPossible",
		"maxUnavailable":        int64(1),
		"inPlaceUpdateStrategy": map[string]any{"gracePeriodSeconds": int64(5)},
	} {
		d.t.Run(field, func(t *testing.T) { d.on(t).checkConflict(field, value) })
	}
}

func (d *delivery) checkConflict(field string, value any) {
	before := d.live(d.set)
	manifest := d.set.DeepCopy()
	d.must(unstructured.SetNestedField(manifest.Object, value, "spec", "updateStrategy", "rollingUpdate", field))
	_, err := d.applyServerSide(argo, manifest)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "offduty-upgrader") {
		d.t.Errorf("server-side apply without force answers %v, not a conflict with offduty-upgrader", err)
	}
	_, err = d.applyServerSide(argo, manifest, client.ForceOwnership)
	refused(d.t, "server-side apply by force", err)
	_, err = d.applyAsFlux(d.kustomization, manifest)
	refused(d.t, "Flux", err)
	if _, err = d.applyServerSide(argo, d.respecting(d.application, manifest, before), client.ForceOwnership); err != nil {
		d.t.Errorf("Argo CD, which respects what is ignored, is refused: %v", err)
	}
	after := d.live(d.set)
	if diff := cmp.Diff(spec(before), spec(after)); diff != "" {
		d.t.Errorf("the set's spec (-before +after):\n%s", diff)
	}
	strategy := func(u *unstructured.Unstructured) any {
		return d.without(d.application, u)["spec"].(map[string]any)["updateStrategy"]
	}
	if diff := cmp.Diff(strategy(manifest), strategy(after)); diff != "" {
		d.t.Errorf("Argo CD would show a difference (-Git +live):\n%s", diff)
	}
}

func refused(t *testing.T, who string, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "spec.updateStrategy of statefulset sample is the upgrader's") {
		t.Errorf("%s is answered %v, not refused", who, err)
	}
}

// keep writes the first object of each state into the folder of the flag -capture.
func (s *stage) keep(v *versions) {
	s.t.Helper()
	if *capture == "" {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	had := map[string]bool{}
	for kind, all := range v.all {
		for _, u := range all {
			h := s.argoHealth(u)
			name := fmt.Sprintf("%s-%s-%s", kind, strings.ToLower(h.Status), slug(h.Message))
			if had[name] {
				continue
			}
			had[name] = true
			u = u.DeepCopy()
			u.SetManagedFields(nil)
			b, err := yaml.Marshal(u.Object)
			s.must(err)
			s.must(os.WriteFile(filepath.Join(*capture, name+".yaml"), b, 0o600))
		}
	}
}

// slug makes a file's name of the first words of a message.
func slug(message string) string {
	words := strings.FieldsFunc(message, func(r rune) bool { return r < 'A' || r > 'z' || r > 'Z' && r < 'a' })
	return strings.ToLower(strings.Join(words[:min(6, len(words))], "-"))
}

// waitReady is kubectl wait for the stage's plan.
func (s *stage) waitReady(timeout time.Duration) error {
	_, err := s.Kubectl(s.t.Context(), "", "wait", "--for=condition=Ready", "upgradeplan/"+harness.Group, "--namespace", s.Namespace, "--timeout", timeout.String())
	return err
}

// applyUnseen applies a plan while no upgrader is there: what a tool sees in the moment
// before the upgrader has seen a change, made longer.
func (s *stage) applyUnseen(plan string) {
	s.t.Helper()
	s.must(s.Kill(harness.UpgraderA))
	s.apply(plan)
	if err := s.waitReady(time.Second); err == nil || !strings.Contains(err.Error(), "timed out") {
		s.t.Errorf("kubectl wait answers %v for a plan that no upgrader has seen", err)
	}
	if got := s.kstatus(s.live(object(s.t, plan))); got != "InProgress" {
		s.t.Errorf("kstatus, and with it helm --wait, takes a plan that no upgrader has seen for %s", got)
	}
	s.must(s.Restart(s.t.Context(), harness.UpgraderA))
}

// uncontested wants that the plan as it is now never said TemplateContested. Before, it
// may have: between two requests set and plan do differ.
func (s *stage) uncontested() {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	generation := s.now().Plans[harness.Group].Generation
	for _, p := range e.Plans {
		c := p.Condition("Ready")
		if c.Reason == "TemplateContested" && p.Status.ObservedGeneration == generation {
			s.t.Errorf("the plan said %s: %s", c.Reason, c.Message)
		}
	}
}

func TestPipelines(t *testing.T) {
	s := newStage(t)
	s.begin(harness.Slots(3), 3)
	t.Run("a plan that was just made is not ready, and kubectl wait waits for it", func(t *testing.T) {
		s := s.on(t)
		s.applyUnseen(harness.PlanManifest(harness.NewImage, "{maxUnavailable: 2}"))
		s.must(s.waitReady(patience))
		s.allRun(harness.NewImage)
	})
	t.Run("one that was just changed is not ready, and kubectl wait waits for it", func(t *testing.T) {
		s := s.on(t)
		s.applyUnseen(harness.PlanManifest("alpine:3.19.0", "{maxUnavailable: 2}"))
		s.must(s.waitReady(patience))
		s.allRun("alpine:3.19.0")
	})
	t.Run("kubectl apply of a manifest that named the upgrader's fields before is refused, until kubectl has forgotten them", func(t *testing.T) {
		s := s.on(t)
		set := app(t, "set.yaml", harness.OldImage, "alpine:3.19.0")
		before := s.live(set)
		refused(t, "kubectl apply", s.Apply(t.Context(), text(t, set)))
		_, err := s.Kubectl(t.Context(), "", "annotate", "statefulsets.apps.kruise.io", harness.Group, "--namespace", s.Namespace, corev1.LastAppliedConfigAnnotation+"-")
		s.must(err)
		s.apply(text(t, set))
		if diff := cmp.Diff(spec(before), spec(s.live(set))); diff != "" {
			t.Errorf("the set's spec (-before +after):\n%s", diff)
		}
	})
	t.Run("a chart that puts the image into set and plan is waited for, and nothing is contested", func(t *testing.T) {
		s := s.on(t)
		s.apply(text(t, app(t, "set.yaml", harness.OldImage, "alpine:3.19.1")) + "---\n" + harness.PlanManifest("alpine:3.19.1", "{maxUnavailable: 2}"))
		s.must(s.waitReady(patience))
		s.allRun("alpine:3.19.1")
		s.uncontested()
	})
	t.Run("a tool that is told to leave the image alone does, and would put it back otherwise", func(t *testing.T) {
		s := s.on(t)
		old := app(t, "set.yaml") // the image that the set was made with
		before := s.live(old)
		a := sample[application](t, "argocd/application-images.yaml")
		predicted, err := s.applyServerSide(argo, old, client.ForceOwnership, client.DryRunAll)
		s.must(err)
		if image(predicted) == image(before) {
			t.Error("the manifest does not name another image: this test shows nothing")
		}
		if diff := cmp.Diff(s.without(a, before), s.without(a, predicted)); diff != "" {
			t.Errorf("Argo CD would show a difference (-live +predicted):\n%s", diff)
		}
		k := sample[kustomization](t, "flux/kustomization-images.yaml")
		_, err = s.applyAsFlux(k, old)
		s.must(err)
		if diff := cmp.Diff(spec(before), spec(s.live(old))); diff != "" {
			t.Errorf("Flux changed the set (-before +after):\n%s", diff)
		}
	})
}

// The releases whose own CRDs judge our samples: what Go's module proxy has of them.
var tools = []struct{ module, sum, crd string }{
	{"github.com/argoproj/argo-cd/v3@v3.5.0", "h1:iqnPFSKaQ0l3hREMH2Rk55VDcxrvBFaSO0g9bifZKzc=", "manifests/crds/application-crd.yaml"},
	{"github.com/fluxcd/kustomize-controller@v1.9.5", "h1:/XY2zy3K7fntyppEXIHG7oRMzmfgIt50eJzUfaPX1Kc=", "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml"},
	{"github.com/fluxcd/source-controller@v1.9.0", "h1:5msg2yyjVYDULZos+2ve8MZzcSqTpusiXmrOeBhc9yY=", "config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml"},
}

// fromModule reads a file of a module, of whose content the checksum is known.
func fromModule(t *testing.T, module, sum, path string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module)
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("download %s: %v: %s", module, err, out)
	}
	var m struct{ Dir, Sum string }
	if err := json.Unmarshal(out, &m); err != nil || m.Sum != sum {
		t.Fatalf("%s has the checksum %s, not %s (%v)", module, m.Sum, sum, err)
	}
	b, err := os.ReadFile(filepath.Join(m.Dir, path))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheToolsKnowTheSamples(t *testing.T) {
	s := newStage(t)
	for _, tool := range tools {
		s.must(s.Cluster.Apply(t.Context(), fromModule(t, tool.module, tool.sum, tool.crd)))
	}
	files, err := filepath.Glob(filepath.Join(gitopsSamples, "*", "*.yaml"))
	s.must(err)
	if len(files) < 8 {
		t.Fatalf("there are only %v", files)
	}
	admin, err := s.Cluster.Client(t.Context(), controlplane.Admin(), nil)
	s.must(err)
	for _, file := range files {
		if filepath.Base(file) == "kustomization.yaml" && filepath.Base(filepath.Dir(file)) == "app" {
			continue // kustomize's own, which is no object
		}
		t.Run(strings.TrimPrefix(file, gitopsSamples+"/"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			s.must(err)
			o := object(t, string(b))
			o.SetNamespace(s.Namespace)
			if err := admin.Create(t.Context(), o, client.DryRunAll, client.FieldValidation("Strict")); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("a field that they do not know is refused", func(t *testing.T) {
		o := object(t, "{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: wrong}, spec: {interval: 1m, prune: true, sourceRef: {kind: GitRepository, name: a}, ignores: []}}")
		o.SetNamespace(s.Namespace)
		if err := admin.Create(t.Context(), o, client.DryRunAll, client.FieldValidation("Strict")); err == nil || !strings.Contains(err.Error(), "ignores") {
			t.Errorf("got %v: this test shows nothing", err)
		}
	})
}

// chart writes config/samples/gitops/app as a chart with one value, the image, which goes
// into set and plan.
func (s *stage) chart() string {
	s.t.Helper()
	dir := s.t.TempDir()
	s.must(os.Mkdir(filepath.Join(dir, "templates"), 0o700))
	for file, content := range map[string]string{
		"Chart.yaml":            "apiVersion: v2\nname: sample\nversion: 0.1.0\n",
		"templates/roster.yaml": text(s.t, app(s.t, "roster.yaml", "workers: 3", "workers: 3\n    lifetimeSeconds: 3")),
		"templates/set.yaml":    text(s.t, app(s.t, "set.yaml", harness.OldImage, "'{{ .Values.image }}'")),
		"templates/plan.yaml": text(s.t, app(s.t, "plan.yaml", "- name: sample", "- name: sample\n      images: {main: '{{ .Values.image }}'}",
			"handover: Request", "handover: Request\n    verify: {timeoutSeconds: 10}")),
	} {
		s.must(os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600))
	}
	return dir
}

// helm runs Helm as administrator.
func (s *stage) helm(args ...string) error {
	s.t.Helper()
	path, err := exec.CommandContext(s.t.Context(), filepath.Join(root, "hack", "tool"), "--path", "helm").Output()
	s.must(err)
	cmd := exec.CommandContext(s.t.Context(), strings.TrimSpace(string(path)), append(args, "--namespace", s.Namespace)...)
	cmd.Env = append(append(os.Environ(), s.KubectlEnv()...), "HELM_CACHE_HOME="+s.t.TempDir(), "HELM_CONFIG_HOME="+s.t.TempDir(), "HELM_DATA_HOME="+s.t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("helm %s: %w: %s", args[0], err, out)
	}
	return nil
}

func TestHelmWaits(t *testing.T) {
	s := newStage(t)
	chart := s.chart()
	upgrade := func(s *stage, image string) error {
		return s.helm("upgrade", "--install", "sample", chart, "--set", "image="+image, "--wait", "--force-conflicts", "--timeout", patience.String())
	}
	for _, image := range []string{harness.OldImage, harness.NewImage} {
		t.Run("helm upgrade --wait returns when all run "+image, func(t *testing.T) {
			s := s.on(t)
			s.must(upgrade(s, image))
			if got := s.kstatus(s.live(app(t, "plan.yaml"))); got != "Current" {
				t.Errorf("the plan is %s", got)
			}
			if got := s.live(app(t, "set.yaml")).Object["status"].(map[string]any); got["updatedReplicas"] != got["replicas"] {
				t.Errorf("%v of %v replicas are updated", got["updatedReplicas"], got["replicas"])
			}
		})
	}
	t.Run("and fails when the plan stalls", func(t *testing.T) {
		s := s.on(t)
		if err := upgrade(s, "alpine:broken-1"); err == nil || !strings.Contains(err.Error(), "UpgradePlan") {
			t.Errorf("it answers %v", err)
		}
	})
}
