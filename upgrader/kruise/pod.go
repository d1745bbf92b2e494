package kruise

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	appspub "github.com/openkruise/kruise-api/apps/pub"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// Revision is the controller revision at which the pod's spec is.
func Revision(pod *corev1.Pod) string { return pod.Labels[appsv1.ControllerRevisionHashLabelKey] }

// State is Kruise's lifecycle state of the pod.
func State(pod *corev1.Pod) plan.State { return plan.State(pod.Labels[appspub.LifecycleStateKey]) }

// FormatNote is the value of the annotation offduty.dev/lease; "" for no lease.
func FormatNote(n plan.Note) string {
	if n.ID == "" {
		return ""
	}
	return n.ID + "/" + strconv.FormatInt(n.Token, 10)
}

// Note reads the annotation offduty.dev/lease. What cannot be read is a note of an
// unknown lease, so that it is cleaned up.
func Note(pod *corev1.Pod) plan.Note {
	v := pod.Annotations[v1alpha1.LeaseAnnotation]
	if v == "" {
		return plan.Note{}
	}
	i := strings.LastIndexByte(v, '/')
	if i < 1 {
		return plan.Note{ID: v, Token: -1}
	}
	token, err := strconv.ParseInt(v[i+1:], 10, 64)
	if err != nil || token < 0 || token > MaxToken {
		return plan.Note{ID: v, Token: -1}
	}
	return plan.Note{ID: v[:i], Token: token}
}

// MaxToken is above any token that an arbiter can come to by counting. A higher one in an
// annotation is nobody's: were it believed, no lease could ever be above it.
const MaxToken = 1 << 53

// Fenced reads the annotation offduty.dev/fenced: the token up to which every lease on the
// pod is void; 0 if there is none that can be read.
func Fenced(pod *corev1.Pod) int64 {
	token, err := strconv.ParseInt(pod.Annotations[v1alpha1.FencedAnnotation], 10, 64)
	if err != nil || token < 0 || token > MaxToken {
		return 0
	}
	return token
}

// Condition returns a condition of the pod; nil when it has none of that type.
func Condition(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Fit says whether the pod is ready apart from gate, and since when.
func Fit(pod *corev1.Pod, gate string) (bool, time.Time) {
	var since time.Time
	want := []corev1.PodConditionType{corev1.ContainersReady}
	for _, g := range pod.Spec.ReadinessGates {
		if string(g.ConditionType) != gate {
			want = append(want, g.ConditionType)
		}
	}
	for _, t := range want {
		c := Condition(pod, t)
		if c == nil || c.Status != corev1.ConditionTrue {
			return false, time.Time{}
		}
		if c.LastTransitionTime.After(since) {
			since = c.LastTransitionTime.Time
		}
	}
	return pod.Status.Phase == corev1.PodRunning, since
}

// inPlaceState reads Kruise's record of the last in-place update; nil when there was none.
func inPlaceState(pod *corev1.Pod) (*appspub.InPlaceUpdateState, error) {
	v, ok := appspub.GetInPlaceUpdateState(pod)
	if !ok {
		return nil, nil //nolint:nilnil // no record is no error
	}
	var s appspub.InPlaceUpdateState
	if err := json.Unmarshal([]byte(v), &s); err != nil {
		return nil, fmt.Errorf("read annotation %s of pod %s/%s: %w", appspub.InPlaceUpdateStateKey, pod.Namespace, pod.Name, err)
	}
	return &s, nil
}

// UpdateDone says whether every container that the last in-place update changed runs
// another image than before. The image's name in the status does not tell: only its ID
// does (inplace_update_defaults.go, defaultCheckContainersInPlaceUpdateCompleted). The ID
// stays the same when an image that never ran is taken back: then Kruise must have concluded
// the update, and the container run under the very name.
func UpdateDone(pod *corev1.Pod) bool {
	if _, waiting := appspub.GetInPlaceUpdateGrace(pod); waiting {
		return false
	}
	s, err := inPlaceState(pod)
	if err != nil {
		return false
	}
	if s == nil {
		return true
	}
	if len(s.NextContainerImages) > 0 {
		return false
	}
	for name, last := range s.LastContainerStatuses {
		c := containerStatus(pod, name)
		if c == nil || c.ImageID == "" || c.ImageID == last.ImageID && !concluded(pod, c) {
			return false
		}
	}
	return true
}

// concluded says whether Kruise takes the update as done, and c runs what the pod asks for.
func concluded(pod *corev1.Pod, c *corev1.ContainerStatus) bool {
	state := appspub.LifecycleStateType(pod.Labels[appspub.LifecycleStateKey])
	return (state == appspub.LifecycleStateUpdated || state == appspub.LifecycleStateNormal) &&
		c.State.Running != nil && c.Image == specImage(pod, c.Name)
}

func containerStatus(pod *corev1.Pod, name string) *corev1.ContainerStatus {
	for i := range pod.Status.ContainerStatuses {
		if pod.Status.ContainerStatuses[i].Name == name {
			return &pod.Status.ContainerStatuses[i]
		}
	}
	return nil
}

// hopeless are the kubelet's reasons for a waiting container that do not pass by themselves.
var hopeless = map[string]string{
	"ImagePullBackOff":           "the image cannot be pulled",
	"ErrImagePull":               "the image cannot be pulled",
	"ErrImageNeverPull":          "the image is not on the node and its pull policy is Never",
	"InvalidImageName":           "the image has an invalid name",
	"CrashLoopBackOff":           "the container starts and ends again and again",
	"CreateContainerConfigError": "the container's configuration is not complete",
	"CreateContainerError":       "the container cannot be created",
	"RunContainerError":          "the container cannot be started",
}

// Trouble is the pod's own reason for not becoming ready; nil when it gives none.
func Trouble(pod *corev1.Pod) *plan.Blocker {
	if c := Condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		return &plan.Blocker{Reason: plan.Unschedulable, Message: "no node takes the pod: " + c.Message}
	}
	if _, err := inPlaceState(pod); err != nil {
		return &plan.Blocker{Reason: plan.NotReady, Message: err.Error()}
	}
	for i := range pod.Status.ContainerStatuses {
		c := &pod.Status.ContainerStatuses[i]
		if w := c.State.Waiting; w != nil && hopeless[w.Reason] != "" {
			return &plan.Blocker{Reason: plan.Reason(w.Reason), Message: fmt.Sprintf("container %s, image %s: %s: %s", c.Name, specImage(pod, c.Name), hopeless[w.Reason], w.Message)}
		}
	}
	return sameDigest(pod)
}

func specImage(pod *corev1.Pod, name string) string {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return pod.Spec.Containers[i].Image
		}
	}
	return ""
}

// sameDigest finds the update that never completes: a container was started anew with
// the new image, whose content is the old one's (kruise issues 2297 and 1493). Its status
// then mostly names another image than the pod does: containerd names an image by the first
// of its tags, and a short name in full. Where the names are equal Kruise concludes.
func sameDigest(pod *corev1.Pod) *plan.Blocker {
	s, err := inPlaceState(pod)
	if _, waiting := appspub.GetInPlaceUpdateGrace(pod); err != nil || s == nil || waiting {
		return nil // during the grace period the spec still has the old image
	}
	for name, last := range s.LastContainerStatuses {
		c := containerStatus(pod, name)
		if c == nil || c.State.Running == nil || c.ImageID != last.ImageID || c.ImageID == "" || concluded(pod, c) {
			continue
		}
		if c.State.Running.StartedAt.After(s.UpdateTimestamp.Time) {
			return &plan.Blocker{Reason: plan.SameDigest, Message: fmt.Sprintf(
				"container %s runs %s, which has the same content as the image before (%s), so that nobody can tell that it was updated: build an image that differs", name, specImage(pod, name), c.ImageID)}
		}
	}
	return nil
}
