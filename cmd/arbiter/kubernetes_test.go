package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"offduty.dev/arbiter/controller"
)

// electing is an API server that knows what a manager asks for and is out of order
// otherwise, and tells of the first request for a Lease.
func electing(t *testing.T) (url string, asked <-chan struct{}) {
	t.Helper()
	first := make(chan struct{})
	once := sync.OnceFunc(func() { close(first) })
	discovery := map[string]string{
		"/api":    `{"kind": "APIVersions", "versions": ["v1"]}`,
		"/api/v1": `{"kind": "APIResourceList", "groupVersion": "v1", "resources": [{"name": "pods", "kind": "Pod", "namespaced": true}]}`,
		"/apis":   `{"kind": "APIGroupList", "groups": []}`,
	}
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

// The alerts ask for leader_election_master_status by this name.
func TestTheElectionHasItsNameInTheMetrics(t *testing.T) {
	url, asked := electing(t)
	o := &serveOptions{metrics: "0", probes: "0", leaderElect: true, leaderNamespace: "sys", leaseDuration: 15 * time.Second}
	mgr, err := o.manager(&rest.Config{Host: url}, logr.Discard(), &controller.Term{Now: time.Now})
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
		t.Fatal(err)
	}
	families, err := ctrlmetrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		if f.GetName() == "leader_election_master_status" {
			names = append(names, f.GetMetric()[0].GetLabel()[0].GetValue())
		}
	}
	if len(names) != 1 || names[0] != "offduty-arbiter" {
		t.Errorf("names are %q", names)
	}
}

func TestACertificateIsNotMadeForAServiceAccount(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  string
	}{
		{[]string{"system:serviceaccount:*"}, "nobody"},
		{[]string{"system:serviceaccount:ns:app", "att"}, "att"},
		{[]string{"att", "other"}, "att"},
		{nil, "nobody"},
	} {
		if got := first(c.names); got != c.want {
			t.Errorf("%v: got %s, want %s", c.names, got, c.want)
		}
	}
}
