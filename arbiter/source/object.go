package source

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Object is what an expression sees of a pod, under the names that it has in Kubernetes. It
// is what the arbiter keeps of pods. What a pod does not have is empty: "", 0, false, {}, [].
type Object struct {
	Metadata Metadata `json:"metadata"`
	Spec     Spec     `json:"spec"`
	Status   Status   `json:"status"`
}

// Metadata of a pod. Times are strings, as in YAML; timestamp() reads them.
type Metadata struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace"`
	UID               string            `json:"uid"`
	Labels            map[string]string `json:"labels"`
	Annotations       map[string]string `json:"annotations"`
	CreationTimestamp string            `json:"creationTimestamp"`
	DeletionTimestamp string            `json:"deletionTimestamp"`
}

// Spec of a pod.
type Spec struct {
	NodeName string `json:"nodeName"`
}

// Status of a pod.
type Status struct {
	Phase             string      `json:"phase"`
	PodIP             string      `json:"podIP"`
	HostIP            string      `json:"hostIP"`
	Conditions        []Condition `json:"conditions"`
	ContainerStatuses []Container `json:"containerStatuses"`
}

// Condition of a pod.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Container of a pod.
type Container struct {
	Name         string `json:"name"`
	Ready        bool   `json:"ready"`
	RestartCount int64  `json:"restartCount"`
	Image        string `json:"image"`
	ImageID      string `json:"imageID"`
}

// Strip takes from a pod what neither an expression nor a group looks at: most of it.
func Strip(p *corev1.Pod) {
	p.ManagedFields = nil
	p.Spec = corev1.PodSpec{NodeName: p.Spec.NodeName, InitContainers: ports(p.Spec.InitContainers), Containers: ports(p.Spec.Containers)}
	s := p.Status
	p.Status = corev1.PodStatus{Phase: s.Phase, PodIP: s.PodIP, HostIP: s.HostIP, Conditions: s.Conditions}
	for i := range s.ContainerStatuses {
		c := &s.ContainerStatuses[i]
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Ready: c.Ready, RestartCount: c.RestartCount, Image: c.Image, ImageID: c.ImageID,
			State: corev1.ContainerState{Running: c.State.Running},
		})
	}
}

func objectOf(p *corev1.Pod) *Object {
	o := &Object{
		Metadata: Metadata{
			Name: p.Name, Namespace: p.Namespace, UID: string(p.UID), Labels: p.Labels, Annotations: p.Annotations,
			CreationTimestamp: timeOf(&p.CreationTimestamp), DeletionTimestamp: timeOf(p.DeletionTimestamp),
		},
		Spec:   Spec{NodeName: p.Spec.NodeName},
		Status: Status{Phase: string(p.Status.Phase), PodIP: p.Status.PodIP, HostIP: p.Status.HostIP},
	}
	for _, c := range p.Status.Conditions {
		o.Status.Conditions = append(o.Status.Conditions, Condition{
			Type: string(c.Type), Status: string(c.Status), Reason: c.Reason, Message: c.Message,
		})
	}
	for i := range p.Status.ContainerStatuses {
		c := &p.Status.ContainerStatuses[i]
		o.Status.ContainerStatuses = append(o.Status.ContainerStatuses, Container{
			Name: c.Name, Ready: c.Ready, RestartCount: int64(c.RestartCount), Image: c.Image, ImageID: c.ImageID,
		})
	}
	return o
}

func timeOf(t *metav1.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
