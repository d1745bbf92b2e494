package controlplane_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	kruise "github.com/openkruise/kruise-api/apps/v1beta1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
)

func TestMain(m *testing.M) { clustertest.Main(m, controlplane.Options{}) }

// patience bounds every wait of these tests; on an idle machine each takes a
// second or two.
const patience = 90 * time.Second

// set is a Kruise StatefulSet of one test and the client that the test uses.
type set struct {
	t         *testing.T
	k         client.WithWatch
	namespace string
}

func newSet(t *testing.T, replicas int) set {
	t.Helper()
	c := clustertest.Shared(t)
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), kruise.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	k, err := c.Client(t.Context(), controlplane.Admin(), scheme)
	if err != nil {
		t.Fatal(err)
	}
	s := set{t: t, k: k, namespace: clustertest.Namespace(t)}
	if err := c.Apply(t.Context(), fmt.Appendf(nil, manifest, s.namespace, replicas)); err != nil {
		t.Fatal(err)
	}
	s.await("all pods are ready", func(pods []corev1.Pod) error {
		return all(pods, replicas, ready)
	})
	return s
}

const manifest = `
apiVersion: apps.kruise.io/v1beta1
kind: StatefulSet
metadata: {name: sample, namespace: %s}
spec:
  replicas: %d
  serviceName: sample
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: sample}}
  template:
    metadata: {labels: {app: sample, working: "true"}}
    spec:
      readinessGates: [{conditionType: InPlaceUpdateReady}]
      containers: [{name: main, image: "example.com/sample:v1"}]
  updateStrategy:
    type: RollingUpdate
    rollingUpdate:
      podUpdatePolicy: InPlaceIfPossible
      maxUnavailable: 100%%
      partition: 0
      unorderedUpdate:
        priorityStrategy:
          weightPriority: [{weight: 100, matchSelector: {matchLabels: {working: "false"}}}]
`

// await waits until the pods, in the order of their names, satisfy check.
func (s set) await(what string, check func(pods []corev1.Pod) error) []corev1.Pod {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var pods corev1.PodList
	err := controlplane.Until(ctx, what, func(ctx context.Context) error {
		if err := s.k.List(ctx, &pods, client.InNamespace(s.namespace)); err != nil {
			return err
		}
		return check(pods.Items)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return pods.Items
}

// update writes image and partition in one patch, as a user would.
func (s set) update(image string, partition int) {
	s.t.Helper()
	patch, err := json.Marshal([]map[string]any{
		{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image},
		{"op": "replace", "path": "/spec/updateStrategy/rollingUpdate/partition", "value": partition},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	sample := &kruise.StatefulSet{}
	sample.Namespace, sample.Name = s.namespace, "sample"
	s.retry("the set takes the new image", func(ctx context.Context) error {
		return s.k.Patch(ctx, sample, client.RawPatch("application/json-patch+json", patch))
	})
}

// label sets working on a pod.
func (s set) label(pod, working string) error {
	return s.labelWithin(s.t.Context(), pod, working)
}

func (s set) labelWithin(ctx context.Context, pod, working string) error {
	target := &corev1.Pod{}
	target.Namespace, target.Name = s.namespace, pod
	patch := fmt.Appendf(nil, `{"metadata":{"labels":{"working":%q}}}`, working)
	return s.k.Patch(ctx, target, client.RawPatch("application/merge-patch+json", patch))
}

// retry repeats do until it succeeds, for requests beside a restart.
func (s set) retry(what string, do func(ctx context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := controlplane.Until(ctx, what, do); err != nil {
		s.t.Fatal(err)
	}
}

func all(pods []corev1.Pod, n int, check func(corev1.Pod) error) error {
	if len(pods) != n {
		return fmt.Errorf("there are %d pods, not %d", len(pods), n)
	}
	for _, pod := range pods {
		if err := check(pod); err != nil {
			return fmt.Errorf("pod %s: %w", pod.Name, err)
		}
	}
	return nil
}

func ready(pod corev1.Pod) error { return condition(pod, corev1.PodReady, corev1.ConditionTrue) }

func condition(pod corev1.Pod, kind corev1.PodConditionType, want corev1.ConditionStatus) error {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind && c.Status == want {
			return nil
		}
	}
	return fmt.Errorf("condition %s is not %s", kind, want)
}

// running says whether the container runs image with that many restarts, and
// the pod is ready.
func running(image string, restarts int32) func(corev1.Pod) error {
	return func(pod corev1.Pod) error {
		if len(pod.Status.ContainerStatuses) == 0 {
			return errors.New("it has no container status")
		}
		if got := pod.Status.ContainerStatuses[0]; got.Image != image || got.RestartCount != restarts || got.State.Running == nil {
			return fmt.Errorf("it has image %s, %d restarts, state %v; wanted %s and %d", got.Image, got.RestartCount, got.State, image, restarts)
		}
		return ready(pod)
	}
}

func waiting(reason string) func(corev1.Pod) error {
	return func(pod corev1.Pod) error {
		if len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Waiting == nil {
			return fmt.Errorf("no container of it waits: %v", pod.Status.ContainerStatuses)
		}
		if got := pod.Status.ContainerStatuses[0].State.Waiting.Reason; got != reason {
			return fmt.Errorf("its container waits for %s, not %s", got, reason)
		}
		return condition(pod, corev1.PodReady, corev1.ConditionFalse)
	}
}
