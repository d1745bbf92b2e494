package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// How the arbiter's pods are recognised (config/manager).
const (
	arbiterPods = "app.kubernetes.io/name=offduty-arbiter"
	arbiterPort = "grpc"
)

// tunnel forwards a port of this machine to the arbiter that leads, as kubectl port-forward
// does.
type tunnel struct {
	config    *rest.Config
	namespace string
}

// open returns the address of this end. The tunnel ends with ctx.
func (t *tunnel) open(ctx context.Context) (string, error) {
	k, err := kubernetes.NewForConfig(t.config)
	if err != nil {
		return "", err
	}
	pod, port, err := t.leader(ctx, k)
	if err != nil {
		return "", err
	}
	dialer, err := t.dialer(k, pod)
	if err != nil {
		return "", err
	}
	var problems strings.Builder
	ready, failed := make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.NewOnAddressesForStreamingWithContext(ctx, dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, ready, io.Discard, &problems)
	if err != nil {
		return "", fmt.Errorf("forward a port to pod %s/%s: %w", t.namespace, pod, err)
	}
	go func() { failed <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-failed:
		return "", fmt.Errorf("forward a port to pod %s/%s: %w %s; or give --address", t.namespace, pod, err, problems.String())
	case <-ctx.Done():
		return "", ctx.Err()
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local), nil
}

// leader finds the pod that serves: only the one that leads is ready.
func (t *tunnel) leader(ctx context.Context, k kubernetes.Interface) (string, int32, error) {
	pods, err := k.CoreV1().Pods(t.namespace).List(ctx, metav1.ListOptions{LabelSelector: arbiterPods})
	if err != nil {
		return "", 0, fmt.Errorf("find the arbiter's pod: %w; or give --address", err)
	}
	for i := range pods.Items {
		if p := &pods.Items[i]; isReady(p) {
			port, err := portOf(p)
			return p.Name, port, err
		}
	}
	return "", 0, fmt.Errorf("none of %d pods with label %s in namespace %s is ready: give --arbiter-namespace, or --address", len(pods.Items), arbiterPods, t.namespace)
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func portOf(p *corev1.Pod) (int32, error) {
	for i := range p.Spec.Containers {
		for _, port := range p.Spec.Containers[i].Ports {
			if port.Name == arbiterPort {
				return port.ContainerPort, nil
			}
		}
	}
	return 0, errors.New("pod " + p.Name + " has no port named " + arbiterPort)
}

// dialer uses websockets, and SPDY with an API server that does not know them.
func (t *tunnel) dialer(k kubernetes.Interface, pod string) (httpstream.Dialer, error) {
	url := k.CoreV1().RESTClient().Post().Resource("pods").Namespace(t.namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(t.config)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	websocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(url, t.config)
	if err != nil {
		return nil, err
	}
	return portforward.NewFallbackDialerForStreaming(websocket, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}
