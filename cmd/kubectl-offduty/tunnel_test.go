package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// arbiterPod is a pod as config/manager makes it.
func arbiterPod(name string, ready corev1.ConditionStatus) corev1.Pod {
	var p corev1.Pod
	p.Name = name
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "metrics", ContainerPort: 8080}, {Name: "grpc", ContainerPort: 9443}}}}
	return p
}

// apiServer lists pods and forwards ports of pod leader to something that echoes. Like an
// older API server it knows SPDY alone.
func apiServer(t *testing.T, pods ...corev1.Pod) *rest.Config {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/namespaces/offduty-system/pods", func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.Query().Get("labelSelector"); got != arbiterPods {
			t.Errorf("it asks for pods with %q", got)
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(corev1.PodList{Items: pods}); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("POST /api/v1/namespaces/offduty-system/pods/leader/portforward", func(w http.ResponseWriter, r *http.Request) {
		if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
			t.Error(err)
			return
		}
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
			if port := s.Headers().Get(corev1.PortHeader); port != "9443" {
				t.Errorf("it asks for port %s", port)
			}
			if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeData {
				go func() {
					_, _ = io.Copy(s, s)
					_ = s.Close()
				}()
			}
			return nil
		})
		<-conn.CloseChan()
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return &rest.Config{Host: s.URL}
}

func TestTheTunnelLeadsToTheReadyPod(t *testing.T) {
	config := apiServer(t, arbiterPod("standby", corev1.ConditionFalse), arbiterPod("leader", corev1.ConditionTrue))
	address, err := (&tunnel{config: config, namespace: "offduty-system"}).open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 5)
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "hello" {
		t.Errorf("the other end answers %q: %v", answer, err)
	}
}

func TestWithoutAReadyPodTheTunnelSaysWhatToDo(t *testing.T) {
	config := apiServer(t, arbiterPod("standby", corev1.ConditionFalse))
	_, err := (&tunnel{config: config, namespace: "offduty-system"}).open(t.Context())
	if err == nil || !strings.Contains(err.Error(), "none of 1 pods") || !strings.Contains(err.Error(), "--address") {
		t.Errorf("it says %v", err)
	}
}
