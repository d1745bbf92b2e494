// Package observe reads one plan's world from the cache. It makes no API request.
package observe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	arbiter "offduty.dev/arbiter/client"
	"offduty.dev/upgrader/kruise"
	"offduty.dev/upgrader/plan"
	"offduty.dev/upgrader/session"
)

// Names of the cache's indexes.
const (
	// OwnerIndex finds pods and controller revisions by the UID of their controller.
	OwnerIndex = "controller-uid"
	// TargetIndex finds plans by the names of their targets.
	TargetIndex = "target"
)

// FieldManager owns what the upgrader writes.
const FieldManager = "offduty-upgrader"

// Fresh tells whether the cache has caught up with our own writes to an object.
type Fresh interface {
	Seen(obj client.Object) bool
}

// Refusals tells what the API server refused to write, so that it is not asked again at once.
type Refusals interface {
	// Template says why the images of up were refused for set, and when to try them again;
	// nil: they were not.
	Template(up *v1alpha1.UpgradePlan, set *kruisev1beta1.StatefulSet) (*plan.Blocker, time.Time)
}

// Memory is what this process knows of its own writes.
type Memory interface {
	Fresh
	Refusals
}

// Scene is a world together with the objects from which it was read.
type Scene struct {
	World plan.World
	Plan  *v1alpha1.UpgradePlan
	// Sets by name of the target; nil for one that is missing.
	Sets  map[string]*kruisev1beta1.StatefulSet
	Armed map[string]*kruise.Armed
	Pods  map[string]*corev1.Pod
	// Stale: the cache does not yet show a write of ours; nothing is to be decided.
	Stale bool
	// View is the arbiter's side.
	View session.View

	memory Memory
}

// Settings is what the plan wants of its targets.
func Settings(up *v1alpha1.UpgradePlan) kruise.Settings {
	return kruise.Settings{WorkingLabel: up.Spec.WorkingLabel, GracePeriodSeconds: up.Spec.Strategy.Drain.GracePeriodSeconds}
}

// ReplicaName is how the arbiter knows a pod.
func ReplicaName(namespace, pod string) string { return namespace + "/" + pod }

// World reads the world of one plan. view is what the arbiter said, or why there is no
// conversation with it.
func World(ctx context.Context, r client.Reader, memory Memory, up *v1alpha1.UpgradePlan, term int64, view session.View) (*Scene, error) {
	s := &Scene{
		Plan: up, View: view, memory: memory, Sets: map[string]*kruisev1beta1.StatefulSet{},
		Armed: map[string]*kruise.Armed{}, Pods: map[string]*corev1.Pod{},
	}
	s.Stale = !memory.Seen(up)
	s.World = plan.World{Policy: policy(up), Arbiter: view.Arbiter, Term: term}
	if t := up.Status.LastProgressTime; t != nil {
		s.World.LastProgress = t.Time
	}
	known := map[string]bool{}
	for i := range up.Spec.Targets {
		t, err := s.target(ctx, r, &up.Spec.Targets[i], known)
		if err != nil {
			return nil, fmt.Errorf("observe target %s: %w", up.Spec.Targets[i].Name, err)
		}
		s.World.Targets = append(s.World.Targets, *t)
	}
	if err := s.dropped(ctx, r, known); err != nil {
		return nil, err
	}
	s.strays(known)
	return s, nil
}

// dropped adds the sets that the plan names no more and has not given back yet: its status
// lists them as long. One that the plan has not armed is barred: a former leader may be about
// to.
func (s *Scene) dropped(ctx context.Context, r client.Reader, known map[string]bool) error {
	for _, name := range TargetNames(s.Plan)[len(s.Plan.Spec.Targets):] {
		set := &kruisev1beta1.StatefulSet{}
		if err := r.Get(ctx, client.ObjectKey{Namespace: s.Plan.Namespace, Name: name}, set); err != nil {
			if apierrors.IsNotFound(err) {
				continue
			}
			return fmt.Errorf("observe StatefulSet %s, which is no target any more: %w", name, err)
		}
		if !s.mine(set) && s.another(set) {
			// It is nobody's business here but to be barred: what the cache shows may be older
			// than this plan's taking over, and who forgets the set then will not give it back.
			s.Stale = s.Stale || !s.memory.Seen(set)
			s.World.Targets = append(s.World.Targets, plan.Target{Name: name, ResourceVersion: set.ResourceVersion, Listed: true, Leaving: true})
			continue
		}
		t, err := s.target(ctx, r, &v1alpha1.Target{Name: name}, known)
		if err != nil {
			return fmt.Errorf("observe StatefulSet %s, which is no target any more: %w", name, err)
		}
		t.Leaving = true
		s.World.Targets = append(s.World.Targets, *t)
	}
	return nil
}

// mine says whether a set is armed by the plan, or may be.
func (s *Scene) mine(set *kruisev1beta1.StatefulSet) bool {
	armed, err := kruise.ParseArmed(set)
	if u, ok := errors.AsType[*kruise.UnreadableError](err); ok {
		return u.Concerns(string(s.Plan.UID))
	}
	return armed != nil && armed.Plan == string(s.Plan.UID)
}

// another says whether a set is armed by somebody else.
func (s *Scene) another(set *kruisev1beta1.StatefulSet) bool {
	_, armed := set.Annotations[v1alpha1.ArmedAnnotation]
	return armed
}

// strays sorts out the leases on replicas that no target has any more: a pod that is being
// removed is still protected by its lease.
func (s *Scene) strays(known map[string]bool) {
	a := &s.World.Arbiter
	for name, l := range s.View.Leases {
		namespace, pod, _ := strings.Cut(name, "/")
		switch {
		case known[name]:
		case namespace == s.Plan.Namespace && s.Pods[pod] != nil:
			a.Condemned = append(a.Condemned, l)
		default:
			a.Orphans = append(a.Orphans, l)
		}
	}
	for i := range s.View.State.Replicas {
		if r := &s.View.State.Replicas[i]; !known[r.Name] && r.Duty == arbiter.DutyIdle && r.Lease == nil {
			a.Outside = r.Name
			break
		}
	}
	byName := func(a, b plan.Lease) int { return strings.Compare(a.Replica, b.Replica) }
	slices.SortFunc(a.Orphans, byName)
	slices.SortFunc(a.Condemned, byName)
}

func policy(up *v1alpha1.UpgradePlan) plan.Policy {
	st := up.Spec.Strategy
	p := plan.Policy{
		Paused: up.Spec.Paused, Deleting: up.DeletionTimestamp != nil,
		MaxUnavailable: 1, RequestHandover: st.Handover != v1alpha1.HandoverWait,
		DrainTimeout:     seconds(st.Drain.TimeoutSeconds),
		VerifyTimeout:    seconds(st.Verify.TimeoutSeconds),
		MinReady:         seconds(st.Verify.MinReadySeconds),
		ProgressDeadline: seconds(st.ProgressDeadlineSeconds),
	}
	if up.DeletionTimestamp != nil {
		p.DeletingSince = up.DeletionTimestamp.Time
	}
	if m := st.MaxUnavailable; m != nil {
		p.MaxUnavailable = m.IntValue()
		if m.Type == intstr.String {
			p.Percent = true
			p.MaxUnavailable, _ = strconv.Atoi(strings.TrimSuffix(m.StrVal, "%"))
		}
	}
	return p
}

func seconds(s int32) time.Duration { return time.Duration(s) * time.Second }

// target reads one set with its pods.
func (s *Scene) target(ctx context.Context, r client.Reader, spec *v1alpha1.Target, known map[string]bool) (*plan.Target, error) {
	i := len(s.World.Targets)
	t := &plan.Target{Name: spec.Name, Listed: Listed(s.Plan, spec.Name)}
	set := &kruisev1beta1.StatefulSet{}
	err := r.Get(ctx, client.ObjectKey{Namespace: s.Plan.Namespace, Name: spec.Name}, set)
	if apierrors.IsNotFound(err) {
		t.Gone = true
		t.Blocked = &plan.Blocker{Reason: plan.TargetNotFound, Message: fmt.Sprintf(
			"there is no Advanced StatefulSet (apps.kruise.io) %s in namespace %s: create it, or correct spec.targets", spec.Name, s.Plan.Namespace)}
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	s.Sets[spec.Name] = set
	s.Stale = s.Stale || !s.memory.Seen(set)
	revisions, err := revisionsOf(ctx, r, set)
	if err != nil {
		return nil, err
	}
	pods, err := s.podsOf(ctx, r, set)
	if err != nil {
		return nil, err
	}
	if err := s.set(ctx, r, t, set, spec, revisions, pods); err != nil {
		return nil, err
	}
	s.replicas(i, t, set, pods, known)
	behind(t, revisions)
	return t, nil
}

// set fills in what the set itself tells.
func (s *Scene) set(ctx context.Context, r client.Reader, t *plan.Target, set *kruisev1beta1.StatefulSet, spec *v1alpha1.Target, revisions map[string]*appsv1.ControllerRevision, pods map[string]*corev1.Pod) error {
	t.ResourceVersion = set.ResourceVersion
	t.CurrentRevision, t.UpdateRevision = set.Status.CurrentRevision, set.Status.UpdateRevision
	t.Partition = kruise.Partition(set)
	t.Observed = set.Status.ObservedGeneration == set.Generation && t.UpdateRevision != ""
	t.TemplateSeen = t.Observed
	if rev := revisions[t.UpdateRevision]; rev != nil && !t.TemplateSeen {
		t.TemplateSeen = kruise.IsTemplate(set, rev)
	}
	armed, err := kruise.ParseArmed(set)
	if err != nil {
		s.unread(t, err)
		return nil // shown in the plan
	}
	t.Proven = proven(t, armed, pods)
	t.Changes = kruise.Changes(set, revisions[before(t, armed != nil)])
	if armed != nil && armed.Plan == string(s.Plan.UID) {
		s.armed(t, set, armed)
	}
	if t.Blocked, err = s.blocked(ctx, r, set, armed, revisions, pods); err != nil {
		return err
	}
	if len(spec.Images) > 0 {
		s.images(t, set, spec.Images, armed)
	}
	return nil
}

// images fills in what becomes of the images that the plan wants in the set.
func (s *Scene) images(t *plan.Target, set *kruisev1beta1.StatefulSet, wanted map[string]string, armed *kruise.Armed) {
	t.TemplatePending = kruise.ImagesDiffer(set, wanted)
	if c := kruise.MissingContainer(set, wanted); c != "" {
		b := &plan.Blocker{Reason: plan.ContainerNotFound, Message: fmt.Sprintf(
			"StatefulSet %s has no container %s: correct spec.targets[].images; its containers are %s", t.Name, c, containers(set))}
		t.TemplatePending, t.TemplateBlocked = true, b
	}
	if image := kruise.BadImage(wanted); image != "" {
		t.TemplateBlocked = &plan.Blocker{Reason: plan.TemplateRefused, Message: fmt.Sprintf(
			"the image %q for StatefulSet %s has spaces in it, which no pod may have: correct spec.targets[].images", image, t.Name)}
	}
	if !t.Armed && t.Blocked == nil {
		t.Blocked = t.TemplateBlocked
	}
	if t.TemplatePending && t.TemplateBlocked == nil {
		t.TemplateBlocked, t.TemplateRetry = s.memory.Template(s.Plan, set)
	}
	t.TemplateWritten = armed != nil && armed.ImagesGeneration == s.Plan.Generation
	if t.TemplatePending && t.TemplateWritten {
		// Somebody has taken the plan's images back: what was lost to them still tells of them.
		t.Changes = append(t.Changes, slices.Sorted(maps.Values(wanted))...)
	}
	t.TemplateWriter = kruise.TemplateWriter(set, FieldManager)
}

// unread is for a set with an annotation that must not be acted upon.
func (s *Scene) unread(t *plan.Target, err error) {
	t.Blocked = &plan.Blocker{Reason: plan.TargetNotSupported, Message: err.Error()}
	var u *kruise.UnreadableError
	if errors.As(err, &u) && u.Concerns(string(s.Plan.UID)) {
		t.Unread, t.Newer = true, u.Newer
	}
}

// armed is for a set that the plan has taken over.
func (s *Scene) armed(t *plan.Target, set *kruisev1beta1.StatefulSet, armed *kruise.Armed) {
	s.Armed[t.Name] = armed
	t.Armed, t.ArmedTerm, t.Leaving, t.Returning = true, armed.Term, armed.Returning, armed.Returning
	t.HookSeen = set.Status.ObservedGeneration > armed.Generation
	t.Settings = kruise.Applied(set, Settings(s.Plan))
	if armed.Original.Partition != nil {
		t.OriginalPartition = *armed.Original.Partition
	}
}

// proven is the revision at which the set was last at rest; "": nobody has noted one.
func proven(t *plan.Target, armed *kruise.Armed, pods map[string]*corev1.Pod) string {
	if armed == nil {
		return ""
	}
	armed.Prove(t.CurrentRevision, func(revision string) bool { return anyVerified(pods, revision) })
	return armed.Proven
}

// before is the revision to which the set's template is a change: the one at which it was last
// at rest. Of a set that has not been taken over Kruise's word is all there is; of one that has, it
// is worth nothing when it names the new revision: Kruise says so, too, when it has lost the
// last pod of the one before.
func before(t *plan.Target, armed bool) string {
	if t.Proven != "" || armed && t.CurrentRevision == t.UpdateRevision {
		return t.Proven
	}
	return t.CurrentRevision
}

func anyVerified(pods map[string]*corev1.Pod, revision string) bool {
	for _, p := range pods {
		if p.Annotations[v1alpha1.VerifiedAnnotation] == revision {
			return true
		}
	}
	return false
}

func containers(set *kruisev1beta1.StatefulSet) string {
	names := make([]string, 0, len(set.Spec.Template.Spec.Containers))
	for i := range set.Spec.Template.Spec.Containers {
		names = append(names, set.Spec.Template.Spec.Containers[i].Name)
	}
	return strings.Join(names, ", ")
}

// blocked says why nothing may be written to the set.
func (s *Scene) blocked(ctx context.Context, r client.Reader, set *kruisev1beta1.StatefulSet, armed *kruise.Armed, revisions map[string]*appsv1.ControllerRevision, pods map[string]*corev1.Pod) (*plan.Blocker, error) {
	if b := kruise.Unsupported(set); b != nil {
		return b, nil
	}
	var others v1alpha1.UpgradePlanList
	if err := r.List(ctx, &others, client.InNamespace(set.Namespace), client.MatchingFields{TargetIndex: set.Name}); err != nil {
		return nil, err
	}
	for i := range others.Items {
		o := &others.Items[i]
		holds := armed != nil && armed.Plan == string(o.UID)
		if o.UID != s.Plan.UID && (holds || s.Armed[set.Name] == nil && Wants(o, set.Name) && older(o, s.Plan)) {
			return &plan.Blocker{Reason: plan.TargetTaken, Message: fmt.Sprintf(
				"StatefulSet %s belongs to the older UpgradePlan %s: take it out of one of them", set.Name, o.Name)}, nil
		}
	}
	if s.Armed[set.Name] != nil {
		return nil, nil //nolint:nilnil // not blocked
	}
	if pod, why := pendingNotInPlace(set, revisions, pods); why != "" {
		return &plan.Blocker{Reason: plan.NotInPlace, Message: fmt.Sprintf(
			"the rollout that is under way in StatefulSet %s changes %s of %s, which cannot be done in place: let it end, or undo it, before a plan takes the set over", set.Name, why, pod)}, nil
	}
	return nil, nil //nolint:nilnil // not blocked
}

// Wants says whether a plan names a set as its target, and not only did so once.
func Wants(up *v1alpha1.UpgradePlan, set string) bool {
	return slices.ContainsFunc(up.Spec.Targets, func(t v1alpha1.Target) bool { return t.Name == set })
}

func older(a, b *v1alpha1.UpgradePlan) bool {
	if a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.Name < b.Name
	}
	return a.CreationTimestamp.Before(&b.CreationTimestamp)
}

// pendingNotInPlace names a pod that cannot be brought to the update revision in place, and
// why. Each pod's own revision counts: several rollouts may have stopped half-way.
func pendingNotInPlace(set *kruisev1beta1.StatefulSet, revisions map[string]*appsv1.ControllerRevision, pods map[string]*corev1.Pod) (pod, why string) {
	to := revisions[set.Status.UpdateRevision]
	if to == nil {
		return "", ""
	}
	seen := map[string]bool{to.Name: true}
	for _, name := range slices.Sorted(maps.Keys(pods)) {
		from := revisions[kruise.Revision(pods[name])]
		if from == nil || seen[from.Name] {
			continue
		}
		seen[from.Name] = true
		if why := kruise.NotInPlace(from, to); why != "" {
			return name, why
		}
	}
	return "", ""
}

// behind counts for each replica the later revisions in its set. Kruise numbers a revision
// anew when it is returned to; one that it has forgotten has no number, and is the oldest.
func behind(t *plan.Target, revisions map[string]*appsv1.ControllerRevision) {
	number := func(name string) int64 {
		if rev := revisions[name]; rev != nil {
			return rev.Revision
		}
		return 0
	}
	later := []int64{number(t.UpdateRevision)}
	for j := range t.Pods {
		if r := &t.Pods[j]; r.Exists {
			later = append(later, number(r.Revision))
		}
	}
	slices.Sort(later)
	later = slices.Compact(later)
	for j := range t.Pods {
		if r := &t.Pods[j]; r.Exists && r.Revision != t.UpdateRevision {
			i, _ := slices.BinarySearch(later, number(r.Revision))
			r.Behind = len(later) - 1 - i
		}
	}
}

func revisionsOf(ctx context.Context, r client.Reader, set *kruisev1beta1.StatefulSet) (map[string]*appsv1.ControllerRevision, error) {
	var list appsv1.ControllerRevisionList
	if err := r.List(ctx, &list, client.InNamespace(set.Namespace), client.MatchingFields{OwnerIndex: string(set.UID)}); err != nil {
		return nil, err
	}
	m := make(map[string]*appsv1.ControllerRevision, len(list.Items))
	for i := range list.Items {
		m[list.Items[i].Name] = &list.Items[i]
	}
	return m, nil
}

// podsOf reads the pods of a set, those that are being removed included.
func (s *Scene) podsOf(ctx context.Context, r client.Reader, set *kruisev1beta1.StatefulSet) (map[string]*corev1.Pod, error) {
	var list corev1.PodList
	if err := r.List(ctx, &list, client.InNamespace(set.Namespace), client.MatchingFields{OwnerIndex: string(set.UID)}); err != nil {
		return nil, err
	}
	byName := make(map[string]*corev1.Pod, len(list.Items))
	for j := range list.Items {
		p := &list.Items[j]
		byName[p.Name] = p
		s.Pods[p.Name] = p
		s.Stale = s.Stale || !s.memory.Seen(p)
	}
	return byName, nil
}

// replicas fills in one replica for each ordinal that the set should have.
func (s *Scene) replicas(i int, t *plan.Target, set *kruisev1beta1.StatefulSet, byName map[string]*corev1.Pod, known map[string]bool) {
	ordinals := kruise.Ordinals(set)
	t.Replicas = len(ordinals)
	t.Pods = make([]plan.Replica, 0, t.Replicas)
	last := s.lastSteps(t)
	for _, o := range ordinals {
		name := set.Name + "-" + strconv.Itoa(o)
		rep := s.replica(i, name, byName[name], set)
		if l, ok := last[name]; ok {
			rep.LastStep, rep.LastSince = l.step, l.since
		}
		known[ReplicaName(set.Namespace, name)] = true
		t.Pods = append(t.Pods, rep)
	}
}

type lastStep struct {
	step  plan.Step
	since time.Time
}

// lastSteps reads from the plan's status since when each replica is where it is; only
// while the status speaks of the same revision.
func (s *Scene) lastSteps(t *plan.Target) map[string]lastStep {
	same := slices.ContainsFunc(s.Plan.Status.Targets, func(ts v1alpha1.TargetStatus) bool {
		return ts.Name == t.Name && ts.UpdateRevision == t.UpdateRevision
	})
	if !same {
		return nil
	}
	m := make(map[string]lastStep, len(s.Plan.Status.ReplicaStatuses))
	for _, r := range s.Plan.Status.ReplicaStatuses {
		if r.Since != nil {
			m[r.Name] = lastStep{plan.ParseStep(r.Step), r.Since.Time}
		}
	}
	return m
}

// replica joins a pod with what the arbiter says of its name.
func (s *Scene) replica(i int, name string, pod *corev1.Pod, set *kruisev1beta1.StatefulSet) plan.Replica {
	r := plan.Replica{Name: name, Target: i}
	full := ReplicaName(set.Namespace, name)
	if l, ok := s.View.Leases[full]; ok {
		r.Lease = &l
	}
	if a, ok := s.View.State.Replica(full); ok {
		r.Duty = duty(a.Duty)
		r.Unhealthy = a.Health == arbiter.Unhealthy
		if r.Lease == nil && a.Lease != nil && a.Lease.Holder != string(s.Plan.UID) {
			r.LeasedBy = a.Lease.Holder
		}
		if pod != nil && a.Instance != "" && a.Instance != string(pod.UID) {
			r.Duty = plan.Unknown // the arbiter speaks of another pod
		} else {
			// A lease that is ours no more, and is shown, says that it was not told yet.
			r.Unverified = pod != nil && a.Unverified && (r.Lease != nil || a.Lease == nil)
		}
	} else {
		r.Unlisted = s.View.Arbiter.Blocked == nil
	}
	if pod != nil {
		fill(&r, pod, set, s.Plan)
		r.Doubted = s.View.Doubted(r.Note)
	}
	return r
}

func duty(d arbiter.Duty) plan.Duty {
	switch d {
	case arbiter.DutyWorking:
		return plan.Working
	case arbiter.DutyIdle:
		return plan.Idle
	case arbiter.DutyUnknown:
	}
	return plan.Unknown
}

func fill(r *plan.Replica, pod *corev1.Pod, set *kruisev1beta1.StatefulSet, up *v1alpha1.UpgradePlan) {
	gate := up.Spec.Strategy.Drain.Gate
	r.Exists = true
	r.Terminating = pod.DeletionTimestamp != nil
	r.UID, r.ResourceVersion = string(pod.UID), pod.ResourceVersion
	r.Revision, r.State = kruise.Revision(pod), kruise.State(pod)
	r.Hold = pod.Labels[v1alpha1.HoldLabel] == "true"
	r.Grant = pod.Labels[v1alpha1.GrantLabel] == "true"
	r.Working = pod.Labels[up.Spec.WorkingLabel]
	r.WorkingDefault = set.Spec.Template.Labels[up.Spec.WorkingLabel]
	r.Note = kruise.Note(pod)
	r.Fenced = kruise.Fenced(pod)
	r.Verified = pod.Annotations[v1alpha1.VerifiedAnnotation]
	r.Gated = slices.ContainsFunc(pod.Spec.ReadinessGates, func(g corev1.PodReadinessGate) bool { return string(g.ConditionType) == gate })
	if c := kruise.Condition(pod, corev1.PodConditionType(gate)); c != nil {
		r.GateOpen, r.GateClosed = c.Status == corev1.ConditionTrue, c.Status == corev1.ConditionFalse
		r.GateSince = c.LastTransitionTime.Time
	}
	if c := kruise.Condition(pod, corev1.PodReady); c != nil {
		r.Ready = c.Status == corev1.ConditionTrue
	}
	r.Fit, r.FitSince = kruise.Fit(pod, gate)
	r.UpdateDone = kruise.UpdateDone(pod)
	if !r.Fit || !r.UpdateDone {
		r.Trouble = kruise.Trouble(pod)
	}
}

// Known returns the leases that the plan's pods name, for an arbiter that lost its record.
func (s *Scene) Known() []arbiter.Lease {
	var out []arbiter.Lease
	for name, pod := range s.Pods {
		n := kruise.Note(pod)
		if n.ID == "" || n.Token < 0 {
			continue
		}
		phase := arbiter.PhaseLeased
		if pod.Labels[v1alpha1.HoldLabel] != "true" {
			phase = arbiter.PhasePinned
		}
		out = append(out, arbiter.Lease{
			ID: n.ID, Token: n.Token, Replica: ReplicaName(pod.Namespace, name), Holder: string(s.Plan.UID),
			Instance: string(pod.UID), Phase: phase, TTL: time.Minute,
		})
	}
	return out
}

// ControllerUID is the value of OwnerIndex.
func ControllerUID(obj client.Object) []string {
	if c := metav1.GetControllerOf(obj); c != nil && c.Kind == "StatefulSet" && strings.HasPrefix(c.APIVersion, kruisev1beta1.GroupVersion.Group+"/") {
		return []string{string(c.UID)}
	}
	return nil
}

// Listed says whether the plan's status shows that it may have taken a set over: with the
// partition, which it shows of no set that it has always had to leave alone.
func Listed(up *v1alpha1.UpgradePlan, target string) bool {
	return slices.ContainsFunc(up.Status.Targets, func(t v1alpha1.TargetStatus) bool { return t.Name == target && t.Partition != nil })
}

// TargetNames is the value of TargetIndex: the plan's targets, in their order, and then the
// sets that it names no more and that its status still shows.
func TargetNames(obj client.Object) []string {
	up, ok := obj.(*v1alpha1.UpgradePlan)
	if !ok {
		return nil
	}
	names := make([]string, 0, len(up.Spec.Targets))
	for i := range up.Spec.Targets {
		names = append(names, up.Spec.Targets[i].Name)
	}
	for i := range up.Status.Targets {
		if name := up.Status.Targets[i].Name; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
