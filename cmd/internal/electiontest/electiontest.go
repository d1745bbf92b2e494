// Package electiontest is what the tests of both programs share: an API server that knows what
// a manager asks for, and lets nobody win an election.
package electiontest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// discovery is what the API server answers. To everything else it says that it is out of order.
var discovery = map[string]string{
	"/api":                         `{"kind": "APIVersions", "versions": ["v1"]}`,
	"/api/v1":                      `{"kind": "APIResourceList", "groupVersion": "v1", "resources": [{"name": "pods", "kind": "Pod", "namespaced": true}]}`,
	"/apis":                        `{"kind": "APIGroupList", "groups": [{"name": "apps.kruise.io", "versions": [{"groupVersion": "apps.kruise.io/v1beta1", "version": "v1beta1"}]}]}`,
	"/apis/apps.kruise.io/v1beta1": `{"kind": "APIResourceList", "groupVersion": "apps.kruise.io/v1beta1", "resources": [{"name": "statefulsets", "kind": "StatefulSet", "namespaced": true}]}`,
}

// server also tells of the first request for a Lease.
func server(t *testing.T) (url string, asked <-chan struct{}) {
	t.Helper()
	first := make(chan struct{})
	once := sync.OnceFunc(func() { close(first) })
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer, ok := discovery[r.URL.Path]; ok {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(answer)) // a client that is gone needs none
			return
		}
		if strings.Contains(r.URL.Path, "/leases") {
			once() // the election has begun
		}
		http.Error(w, "not now", http.StatusServiceUnavailable)
	}))
	t.Cleanup(api.Close)
	return api.URL, first
}

// HasName starts a manager, waits until it runs for an election, and sees that the metric
// leader_election_master_status has one series of that name: the alerts ask for it.
func HasName(t *testing.T, name string, newManager func(*rest.Config) (manager.Manager, error)) {
	t.Helper()
	url, asked := server(t)
	mgr, err := newManager(&rest.Config{Host: url})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-asked:
	case err := <-done:
		done <- nil // for the deferred function
		t.Fatalf("the manager ended before it ran for an election: %v", err)
	}
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		if f.GetName() == "leader_election_master_status" {
			for _, m := range f.GetMetric() {
				names = append(names, m.GetLabel()[0].GetValue())
			}
		}
	}
	if !slices.Equal(names, []string{name}) {
		t.Errorf("the names are %q, want %s", names, name)
	}
}
