package main

import (
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"offduty.dev/arbiter/controller"
	"offduty.dev/cmd/internal/electiontest"
)

func TestTheElectionHasItsNameInTheMetrics(t *testing.T) {
	o := &serveOptions{metrics: "0", probes: "0", leaderElect: true, leaderNamespace: "sys", leaseDuration: 15 * time.Second}
	electiontest.HasName(t, "offduty-arbiter", func(cfg *rest.Config) (manager.Manager, error) {
		return o.manager(cfg, logr.Discard(), &controller.Term{Now: time.Now})
	})
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
