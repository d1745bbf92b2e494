package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/binaries"
)

const kruiseNamespace = "kruise-system"

// KruiseVersion is that of the Kruise manager, for example v1.8.3.
func (c *Cluster) KruiseVersion() string { return binaries.Version(c.binaries.Kruise) }

// startKruise installs Kruise's own manifests, all but its workloads, and runs
// its manager here with the token of its own service account, so that its RBAC
// is in force.
//
// The manifests are applied once only: the manager rewrites its webhook
// configurations, and they could not be applied again over that.
func (c *Cluster) startKruise(ctx context.Context) error {
	manifests, err := os.ReadFile(c.binaries.KruiseManifests)
	if err != nil {
		return fmt.Errorf("read Kruise's manifests: %w", err)
	}
	objects, err := Decode(manifests)
	if err != nil {
		return err
	}
	var installed []*unstructured.Unstructured
	for _, object := range objects {
		if kind := object.GetKind(); kind != "Deployment" && kind != "DaemonSet" {
			installed = append(installed, object)
		}
	}
	if err := c.ApplyObjects(ctx, installed...); err != nil {
		return fmt.Errorf("install Kruise: %w", err)
	}
	config, err := c.Kubeconfig(ctx, ServiceAccount(kruiseNamespace, "kruise-manager"))
	if err != nil {
		return err
	}
	manager := c.spec(Kruise, c.binaries.Kruise,
		"--metrics-addr="+local(c.listen.kruiseMetrics),
		"--health-probe-addr="+local(c.listen.kruiseHealth),
		"--enable-pprof=false",
		"--enable-leader-election=false",
		"--protection-log-path="+c.file("logs", "kruise-protection"),
		"--logtostderr=true",
		"--v=3",
		// It tells whether Kruise waits for an update that never comes.
		"--vmodule=stateful_set_control=4",
		"--feature-gates=KruiseDaemon=false", // the daemon needs a real container runtime
		"--rest-config-qps=500",
		"--rest-config-burst=1000",
	)
	// WEBHOOK_HOST makes Kruise register its webhooks by URL instead of by
	// service, which an API server outside the cluster network cannot reach.
	manager.Env = append(manager.Env,
		"KUBECONFIG="+config,
		"POD_NAMESPACE="+kruiseNamespace,
		"WEBHOOK_HOST=127.0.0.1",
		fmt.Sprintf("WEBHOOK_PORT=%d", c.listen.webhook),
		"WEBHOOK_CERT_DIR="+c.file("kruise-certificates"),
	)
	admits, err := c.admission(ctx, true)
	if err != nil {
		return err
	}
	// Its /readyz says yes seconds before its webhooks answer.
	if _, err := c.launch(manager, admits); err != nil {
		return err
	}
	return c.awaitReady(ctx, Kruise)
}

// admission asks, by a dry run, whether a pod and, with Kruise, a set would be
// admitted: the API server learns of webhooks and service accounts some time
// after these are there.
func (c *Cluster) admission(ctx context.Context, kruise bool) (func(context.Context) error, error) {
	admin, err := c.Client(ctx, Admin(), nil)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		err := admin.Create(ctx, probePod(), client.DryRunAll)
		if kruise {
			err = errors.Join(err, admin.Create(ctx, probeSet(), client.DryRunAll))
		}
		return err
	}, nil
}

func probePod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "admission-probe"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "probe", Image: "probe:1"}}},
	}
}

func probeSet() *unstructured.Unstructured {
	labels := map[string]any{"app": "admission-probe"}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps.kruise.io/v1beta1",
		"kind":       "StatefulSet",
		"metadata":   map[string]any{"namespace": metav1.NamespaceDefault, "name": "admission-probe"},
		"spec": map[string]any{
			"replicas": int64(0),
			"selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{
				"metadata": map[string]any{"labels": labels},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "probe", "image": "probe:1"}}},
			},
		},
	}}
}
