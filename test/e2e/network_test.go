package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// There is no CNI here that would enforce them: what is checked is that the API server
// takes the policies and that they select the pods and ports that they mean.
func TestTheNetworkPoliciesSelectWhatTheyMean(t *testing.T) {
	c := clustertest.Shared(t)
	admin, err := c.Client(t.Context(), controlplane.Admin(), nil)
	if err != nil {
		t.Fatal(err)
	}
	install(t) // for the namespace
	objects := withPolicies(t, c)
	pods := map[string]corev1.PodTemplateSpec{}
	var all policies
	for _, o := range objects {
		switch o.GetKind() {
		case "NetworkPolicy":
			if err := admin.Create(t.Context(), o.DeepCopy(), client.DryRunAll); err != nil {
				t.Errorf("%s: %v", o.GetName(), err)
			}
			all = append(all, convert[networkingv1.NetworkPolicy](t, o))
		case "Deployment":
			pods[o.GetName()] = convert[appsv1.Deployment](t, o).Spec.Template
		}
	}
	anywhere := map[string]string{"kubernetes.io/metadata.name": "team"}
	upgraders, attendant := pods["offduty-upgrader"].Labels, map[string]string{"offduty.dev/attendant": "true"}
	metrics := map[string]string{"offduty.dev/metrics": "true"}
	own := map[string]string{"kubernetes.io/metadata.name": harness.SystemNamespace}
	for _, r := range []struct {
		name      string
		to        string
		namespace map[string]string
		pod       map[string]string
		port      string
		let       bool
	}{
		{"the upgrader calls the arbiter", "offduty-arbiter", own, upgraders, "grpc", true},
		{"a pod that attends does", "offduty-arbiter", anywhere, attendant, "grpc", true},
		{"another does not", "offduty-arbiter", anywhere, map[string]string{"app": "x"}, "grpc", false},
		{"nor one elsewhere that looks like an upgrader", "offduty-arbiter", anywhere, upgraders, "grpc", false},
		{"a pod that attends reads no metrics", "offduty-arbiter", anywhere, attendant, "metrics", false},
		{"a namespace that scrapes does", "offduty-arbiter", metrics, nil, "metrics", true},
		{"also those of the upgrader", "offduty-upgrader", metrics, nil, "metrics", true},
		{"which nobody else calls", "offduty-upgrader", anywhere, attendant, "metrics", false},
		{"and nobody reaches another port", "offduty-arbiter", own, upgraders, "probes", false},
	} {
		t.Run(r.name, func(t *testing.T) {
			if got := all.let(t, pods[r.to], r.namespace, r.pod, r.port); got != r.let {
				t.Errorf("let in: %t", got)
			}
		})
	}
	for name, pod := range pods {
		if !all.limit(t, pod, networkingv1.PolicyTypeIngress) || !all.limit(t, pod, networkingv1.PolicyTypeEgress) {
			t.Errorf("%s is not limited in both directions", name)
		}
	}
}

// withPolicies renders config/default with the component config/network.
func withPolicies(t *testing.T, c *controlplane.Cluster) []*unstructured.Unstructured {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	config, err := filepath.Abs("../../config")
	if err != nil {
		t.Fatal(err)
	}
	config, err = filepath.Rel(dir, config)
	if err != nil {
		t.Fatal(err)
	}
	overlay := fmt.Sprintf("resources: [%s/default]\ncomponents: [%s/network]\n", config, config)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(overlay), 0o600); err != nil {
		t.Fatal(err)
	}
	rendered, err := c.Kustomize(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := controlplane.Decode(rendered)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func convert[T any](t *testing.T, o *unstructured.Unstructured) T {
	t.Helper()
	var out T
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &out, true); err != nil {
		t.Fatalf("%s: %v", o.GetName(), err)
	}
	return out
}

func matches(t *testing.T, s *metav1.LabelSelector, set map[string]string) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(labels.Set(set))
}

// policies are those of one namespace.
type policies []networkingv1.NetworkPolicy

// limit says whether a pod is under a policy of a kind: without one everything may pass.
func (p policies) limit(t *testing.T, pod corev1.PodTemplateSpec, kind networkingv1.PolicyType) bool {
	t.Helper()
	return slices.ContainsFunc(p, func(n networkingv1.NetworkPolicy) bool {
		return slices.Contains(n.Spec.PolicyTypes, kind) && matches(t, &n.Spec.PodSelector, pod.Labels)
	})
}

// let says whether a pod of a namespace may call a named port of a pod of ours.
func (p policies) let(t *testing.T, to corev1.PodTemplateSpec, namespace, pod map[string]string, port string) bool {
	t.Helper()
	if !slices.ContainsFunc(to.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool { return c.Name == port }) {
		t.Fatalf("the container has no port %s", port)
	}
	return slices.ContainsFunc(p, func(n networkingv1.NetworkPolicy) bool {
		return matches(t, &n.Spec.PodSelector, to.Labels) && slices.ContainsFunc(n.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool {
			return slices.ContainsFunc(r.Ports, func(q networkingv1.NetworkPolicyPort) bool { return q.Port.String() == port }) &&
				slices.ContainsFunc(r.From, func(f networkingv1.NetworkPolicyPeer) bool { return from(t, f, namespace, pod) })
		})
	})
}

// from says whether a peer is meant. Without a selector for namespaces it is a pod of the
// policy's own.
func from(t *testing.T, f networkingv1.NetworkPolicyPeer, namespace, pod map[string]string) bool {
	t.Helper()
	if f.NamespaceSelector == nil {
		return namespace["kubernetes.io/metadata.name"] == harness.SystemNamespace && matches(t, f.PodSelector, pod)
	}
	return matches(t, f.NamespaceSelector, namespace) && (f.PodSelector == nil || matches(t, f.PodSelector, pod))
}
