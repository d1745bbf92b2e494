package sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appspub "github.com/openkruise/kruise-api/apps/pub"
	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"offduty.dev/api/v1alpha1"
	kruises "offduty.dev/upgrader/kruise"
	"offduty.dev/upgrader/plan"
)

// This file is the border between the model's objects, which hold what matters, and those of
// Kubernetes, which the upgrader reads and patches. Each way back is checked: what the model
// has no field for must not get lost in it.

const (
	namespace = "default"
	planName  = "plan"
	container = "app"
	group     = "group"
	// removed is the deletion time of whatever is being removed: nothing asks when it was.
	removed = 1767225600
)

// typedPod is the pod object.
func typedPod(p *Pod) *corev1.Pod {
	o := &corev1.Pod{}
	o.Namespace, o.Name, o.UID, o.ResourceVersion = namespace, p.Name, types.UID(p.UID), strconv.Itoa(p.RV)
	o.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: kruisev1beta1.GroupVersion.String(), Kind: "StatefulSet", Name: p.Set, UID: setUID(p.Set), Controller: new(true),
	}}
	if p.Terminating {
		o.DeletionTimestamp = &metav1.Time{Time: time.Unix(removed, 0)}
	}
	o.Labels = map[string]string{appsv1.ControllerRevisionHashLabelKey: p.Revision}
	put(o.Labels, appspub.LifecycleStateKey, string(p.State))
	put(o.Labels, v1alpha1.HoldLabel, flag(p.Hold))
	put(o.Labels, v1alpha1.GrantLabel, flag(p.Grant))
	put(o.Labels, v1alpha1.DefaultWorkingLabel, p.Working)
	o.Annotations = map[string]string{}
	put(o.Annotations, v1alpha1.LeaseAnnotation, kruises.FormatNote(p.Note))
	put(o.Annotations, v1alpha1.VerifiedAnnotation, p.Verified)
	if p.Fenced != 0 {
		o.Annotations[v1alpha1.FencedAnnotation] = strconv.FormatInt(p.Fenced, 10)
	}
	if p.Record {
		o.Annotations[appspub.InPlaceUpdateStateKey] = record(p)
	}
	if p.Grace != "" {
		o.Annotations[appspub.InPlaceUpdateGraceKey] = fmt.Sprintf(`{"revision":%q}`, p.Grace)
	}
	o.Spec.Containers = []corev1.Container{{Name: container, Image: p.Image}}
	o.Spec.ReadinessGates = gates(p.Gated)
	if o.Status.Phase = corev1.PodRunning; p.Failed {
		o.Status.Phase = corev1.PodFailed
	}
	o.Status.Conditions = conditions(p)
	o.Status.ContainerStatuses = []corev1.ContainerStatus{containerStatus(p)}
	return o
}

func put(m map[string]string, key, value string) {
	if value != "" {
		m[key] = value
	}
}

func flag(is bool) string {
	if is {
		return "true"
	}
	return ""
}

func gates(gated bool) []corev1.PodReadinessGate {
	g := []corev1.PodReadinessGate{{ConditionType: appspub.InPlaceUpdateReady}}
	if gated {
		g = append(g, corev1.PodReadinessGate{ConditionType: v1alpha1.InServiceGate})
	}
	return g
}

// record is Kruise's note of what ran before the last update (I, recordPodAndContainerStatus).
func record(p *Pod) string {
	b, err := json.Marshal(appspub.InPlaceUpdateState{
		Revision: p.Revision, UpdateTimestamp: metav1.NewTime(p.Recorded.UTC().Truncate(time.Second)),
		LastContainerStatuses: map[string]appspub.InPlaceUpdateContainerStatus{container: {ImageID: imageID(p.RecordImage)}},
	})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func imageID(image string) string {
	if image == "" {
		return ""
	}
	return "sha256:" + image
}

func conditions(p *Pod) []corev1.PodCondition {
	condition := func(t corev1.PodConditionType, is bool) corev1.PodCondition {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(p.FitSince)}
		if t == appspub.InPlaceUpdateReady {
			c.LastTransitionTime = metav1.NewTime(p.OpenSince)
		}
		if is {
			c.Status = corev1.ConditionTrue
		}
		return c
	}
	all := []corev1.PodCondition{condition(corev1.ContainersReady, p.ContainersReady), condition(appspub.InPlaceUpdateReady, p.InPlaceReady), condition(corev1.PodReady, p.Ready)}
	if p.Gate == "" {
		return all
	}
	c := condition(v1alpha1.InServiceGate, p.Gate == "True")
	c.LastTransitionTime = metav1.NewTime(p.GateSince.Truncate(time.Second))
	c.Reason, c.Message = "Upgrade", "the replica is out of service for its upgrade"
	if p.Gate == "True" {
		c.Reason, c.Message = "InService", "the replica is in service"
	}
	return append(all, c)
}

func containerStatus(p *Pod) corev1.ContainerStatus {
	c := corev1.ContainerStatus{Name: container, Image: p.Image}
	if p.Ran != "" {
		if c.Image, c.ImageID = p.Ran, imageID(p.Ran); !p.Named {
			c.Image = "docker.io/library/" + p.Ran
		}
	}
	switch {
	case p.Running != "":
		c.Ready = p.ContainersReady
		c.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(p.Started.Truncate(time.Second))}
	case p.Failed:
		c.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "Error"}
	case p.waiting() != "":
		c.State.Waiting = &corev1.ContainerStateWaiting{Reason: p.waiting(), Message: "back-off"}
	default:
		c.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	}
	return c
}

// read takes over from a pod object what anybody but Kruise and the kubelet may write.
func (p *Pod) read(o *corev1.Pod) {
	p.State = plan.State(o.Labels[appspub.LifecycleStateKey])
	p.Hold = o.Labels[v1alpha1.HoldLabel] == "true"
	p.Grant = o.Labels[v1alpha1.GrantLabel] == "true"
	p.Working = o.Labels[v1alpha1.DefaultWorkingLabel]
	p.Note, p.Fenced = kruises.Note(o), kruises.Fenced(o)
	p.Verified = o.Annotations[v1alpha1.VerifiedAnnotation]
	p.Gate, p.GateSince = "", time.Time{}
	if c := kruises.Condition(o, v1alpha1.InServiceGate); c != nil {
		p.Gate, p.GateSince = string(c.Status), c.LastTransitionTime.UTC()
	}
}

func setUID(name string) types.UID { return types.UID("set-" + name) }

// typedSet is the Advanced StatefulSet. uid is that of the plan in its annotation.
func (c *Config) typedSet(s *Set) *kruisev1beta1.StatefulSet {
	o := &kruisev1beta1.StatefulSet{}
	o.APIVersion, o.Kind = kruisev1beta1.GroupVersion.String(), "StatefulSet"
	o.Namespace, o.Name, o.UID = namespace, s.Name, setUID(s.Name)
	o.ResourceVersion, o.Generation = strconv.Itoa(s.RV), int64(s.Generation)
	o.Annotations = map[string]string{}
	put(o.Annotations, v1alpha1.LeftAnnotation, s.Left)
	if s.Plan != "" {
		o.Annotations[v1alpha1.ArmedAnnotation] = armedOf(s).String()
	}
	o.Spec.Replicas = new(int32(s.Replicas)) //nolint:gosec // a small number
	o.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	o.Spec.Template = c.template(s.Image)
	o.Spec.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
	o.Spec.UpdateStrategy.RollingUpdate = s.rolling(s.Partition)
	if s.Armed {
		o.Spec.Lifecycle = &appspub.Lifecycle{InPlaceUpdate: &appspub.LifecycleHook{LabelsHandler: map[string]string{v1alpha1.HoldLabel: "true"}}}
	}
	o.Status.ObservedGeneration, o.Status.CurrentRevision, o.Status.UpdateRevision = int64(s.Observed), s.CurrentRevision, s.UpdateRevision
	return o
}

// template is the user's.
func (c *Config) template(image string) corev1.PodTemplateSpec {
	var t corev1.PodTemplateSpec
	t.Labels = map[string]string{"app": "sample", v1alpha1.DefaultWorkingLabel: "false"}
	put(t.Labels, v1alpha1.HoldLabel, flag(c.BornHeld))
	t.Spec.Containers = []corev1.Container{{Name: container, Image: image}}
	t.Spec.ReadinessGates = gates(c.Gated)
	return t
}

// rolling is the update strategy.
func (s *Settings) rolling(partition int32) *kruisev1beta1.RollingUpdateStatefulSetStrategy {
	ru := &kruisev1beta1.RollingUpdateStatefulSetStrategy{
		Partition: &partition, PodUpdatePolicy: kruisev1beta1.PodUpdateStrategyType(s.Policy), MaxUnavailable: new(intstr.Parse(s.MaxUnavailable)),
	}
	if s.Weights != "" {
		ru.UnorderedUpdate = &kruisev1beta1.UnorderedUpdateStrategy{PriorityStrategy: weights(s.Weights)}
	}
	if s.Grace >= 0 {
		ru.InPlaceUpdateStrategy = &appspub.InPlaceUpdateStrategy{GracePeriodSeconds: s.Grace}
	}
	return ru
}

// weights reads "label=value:weight label=value:weight".
func weights(s string) *appspub.UpdatePriorityStrategy {
	p := &appspub.UpdatePriorityStrategy{}
	for f := range strings.FieldsSeq(s) {
		label, weight, _ := strings.Cut(f, ":")
		key, value, _ := strings.Cut(label, "=")
		n, err := strconv.ParseInt(weight, 10, 32)
		if err != nil {
			panic(err)
		}
		var t appspub.UpdatePriorityWeightTerm
		t.Weight, t.MatchSelector.MatchLabels = int32(n), map[string]string{key: value}
		p.WeightPriority = append(p.WeightPriority, t)
	}
	return p
}

// readSettings is the way back. What Kruise's webhook fills in is filled in
// (apis/apps/defaults/v1beta1.go, SetDefaultsStatefulSetV1beta1).
func readSettings(ru *kruisev1beta1.RollingUpdateStatefulSetStrategy) Settings {
	s := Settings{Policy: string(ru.PodUpdatePolicy), MaxUnavailable: "1", Grace: -1}
	if s.Policy == "" {
		s.Policy = string(kruisev1beta1.RecreatePodUpdateStrategyType)
	}
	if ru.MaxUnavailable != nil {
		s.MaxUnavailable = ru.MaxUnavailable.String()
	}
	if u := ru.UnorderedUpdate; u != nil && u.PriorityStrategy != nil {
		s.Weights = weightsText(u.PriorityStrategy)
	}
	if ru.InPlaceUpdateStrategy != nil {
		s.Grace = ru.InPlaceUpdateStrategy.GracePeriodSeconds
	}
	return s
}

func weightsText(p *appspub.UpdatePriorityStrategy) string {
	var out []string
	for _, t := range p.WeightPriority {
		for _, key := range slices.Sorted(maps.Keys(t.MatchSelector.MatchLabels)) {
			out = append(out, fmt.Sprintf("%s=%s:%d", key, t.MatchSelector.MatchLabels[key], t.Weight))
		}
	}
	return strings.Join(out, " ")
}

// armedOf is the annotation.
func armedOf(s *Set) *kruises.Armed {
	ru := s.Originals.rolling(s.Original)
	return &kruises.Armed{
		Version: kruises.ProtocolVersion, Plan: s.Plan, Term: s.Term, Generation: int64(s.ArmedGeneration), ImagesGeneration: int64(s.ImagesGeneration),
		Proven: s.Proven, Returning: s.Returning,
		Original: kruises.Original{
			Type: appsv1.RollingUpdateStatefulSetStrategyType, Partition: ru.Partition, MaxUnavailable: ru.MaxUnavailable,
			PodUpdatePolicy: ru.PodUpdatePolicy, UnorderedUpdate: ru.UnorderedUpdate, InPlaceUpdateStrategy: ru.InPlaceUpdateStrategy,
		},
	}
}

// read takes over from a set object what may be patched: spec and annotation, or status.
func (s *Set) read(o *kruisev1beta1.StatefulSet, status bool) error {
	if status {
		s.Observed, s.CurrentRevision, s.UpdateRevision = int(o.Status.ObservedGeneration), o.Status.CurrentRevision, o.Status.UpdateRevision
		return nil
	}
	ru := o.Spec.UpdateStrategy.RollingUpdate
	if ru == nil {
		ru = &kruisev1beta1.RollingUpdateStatefulSetStrategy{}
		o.Spec.UpdateStrategy.RollingUpdate = ru
	}
	if ru.Partition == nil {
		ru.Partition = new(int32) // by the webhook, as readSettings
	}
	s.Settings, s.Partition = readSettings(ru), *ru.Partition
	ru.PodUpdatePolicy, ru.MaxUnavailable = kruisev1beta1.PodUpdateStrategyType(s.Policy), new(intstr.Parse(s.MaxUnavailable))
	s.Armed = o.Spec.Lifecycle != nil && o.Spec.Lifecycle.InPlaceUpdate != nil && o.Spec.Lifecycle.InPlaceUpdate.LabelsHandler[v1alpha1.HoldLabel] == "true"
	if n := len(o.Spec.Template.Spec.Containers); n != 1 {
		return fmt.Errorf("%d containers", n)
	}
	s.Left = o.Annotations[v1alpha1.LeftAnnotation]
	s.Image = o.Spec.Template.Spec.Containers[0].Image
	s.Plan, s.Term, s.ArmedGeneration, s.ImagesGeneration, s.Proven, s.Original, s.Originals, s.Returning = "", 0, 0, 0, "", 0, Settings{}, false
	a, err := kruises.ParseArmed(o)
	if err != nil || a == nil {
		return err
	}
	s.Plan, s.Term, s.ArmedGeneration, s.ImagesGeneration, s.Proven, s.Returning = a.Plan, a.Term, int(a.Generation), int(a.ImagesGeneration), a.Proven, a.Returning
	s.Originals = readSettings(&kruisev1beta1.RollingUpdateStatefulSetStrategy{
		PodUpdatePolicy: a.Original.PodUpdatePolicy, MaxUnavailable: a.Original.MaxUnavailable,
		UnorderedUpdate: a.Original.UnorderedUpdate, InPlaceUpdateStrategy: a.Original.InPlaceUpdateStrategy,
	})
	if a.Original.Partition != nil {
		s.Original = *a.Original.Partition
	}
	return nil
}

// typedRevision is how Kruise keeps the template of an image (getPatch in stateful_set_utils.go).
func (c *Config) typedRevision(set, name string, number int) *appsv1.ControllerRevision {
	template, err := json.Marshal(map[string]any{"spec": map[string]any{"template": c.template(imageOf(name))}})
	if err != nil {
		panic(err)
	}
	o := &appsv1.ControllerRevision{Revision: int64(number), Data: runtime.RawExtension{Raw: template}}
	o.Namespace, o.Name = namespace, name
	o.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: kruisev1beta1.GroupVersion.String(), Kind: "StatefulSet", Name: set, UID: setUID(set), Controller: new(true),
	}}
	return o
}

// typedPlan is the UpgradePlan.
func (c *Config) typedPlan(p *planObject) *v1alpha1.UpgradePlan {
	o := &v1alpha1.UpgradePlan{}
	o.Namespace, o.Name, o.UID = namespace, planName, types.UID(p.uid)
	o.ResourceVersion, o.Generation = strconv.Itoa(p.rv), int64(p.generation)
	if p.finalizer {
		o.Finalizers = []string{v1alpha1.PlanFinalizer}
	}
	if p.deleting {
		o.DeletionTimestamp = &metav1.Time{Time: p.policy.DeletingSince.Truncate(time.Second)}
	}
	for _, t := range p.targets {
		target := v1alpha1.Target{Name: t.name}
		if t.image != "" {
			target.Images = map[string]string{container: t.image}
		}
		o.Spec.Targets = append(o.Spec.Targets, target)
	}
	o.Spec.Arbiter = v1alpha1.Arbiter{Group: group, TimeoutSeconds: 10}
	o.Spec.Paused, o.Spec.WorkingLabel = p.paused, v1alpha1.DefaultWorkingLabel
	st := &o.Spec.Strategy
	st.MaxUnavailable, st.Handover = new(intstr.FromInt32(int32(p.policy.MaxUnavailable))), v1alpha1.HandoverWait //nolint:gosec // a small number
	if p.policy.Percent {
		st.MaxUnavailable = new(intstr.FromString(strconv.Itoa(p.policy.MaxUnavailable) + "%"))
	}
	if p.policy.RequestHandover {
		st.Handover = v1alpha1.HandoverRequest
	}
	st.Drain = v1alpha1.Drain{Gate: v1alpha1.InServiceGate, GracePeriodSeconds: seconds(c.Grace), TimeoutSeconds: seconds(p.policy.DrainTimeout)}
	st.Verify = v1alpha1.Verify{MinReadySeconds: seconds(p.policy.MinReady), TimeoutSeconds: seconds(p.policy.VerifyTimeout)}
	st.ProgressDeadlineSeconds = seconds(p.policy.ProgressDeadline)
	if p.status != nil {
		p.status.DeepCopyInto(&o.Status)
	}
	return o
}

func seconds(d time.Duration) int32 { return int32(d / time.Second) } //nolint:gosec // a small number
