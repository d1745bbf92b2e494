package main

import (
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"offduty.dev/cmd/internal/electiontest"
)

func TestTheElectionHasItsNameInTheMetrics(t *testing.T) {
	o := &options{
		metrics: "0", probes: "0", elect: true, namespace: "sys",
		leaseDuration: 15 * time.Second, renewDeadline: 10 * time.Second, retryPeriod: 2 * time.Second,
	}
	electiontest.HasName(t, "offduty-upgrader", func(cfg *rest.Config) (manager.Manager, error) {
		lock, err := election(cfg, o, "me")
		if err != nil {
			return nil, err
		}
		scheme, err := newScheme()
		if err != nil {
			return nil, err
		}
		return o.manager(cfg, scheme, lock)
	})
}
