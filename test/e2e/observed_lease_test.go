package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// lead lets a replica win the election of the Lease "leader" by client-go, until stop is
// called; then it releases the Lease if it is to. It works while it leads.
func (v *voters) lead(pod string, release bool) (stop func()) {
	v.t.Helper()
	kubeconfig, err := v.Cluster.Kubeconfig(v.t.Context(), controlplane.Admin())
	v.must(err)
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	v.must(err)
	client, err := kubernetes.NewForConfig(config)
	v.must(err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(v.t.Context()))
	done, won := make(chan struct{}), make(chan struct{})
	shift := len(v.shifts)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: v.Namespace, Name: "leader"}, Client: client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: pod + "_" + string(v.History.Now().Pods[pod].UID)},
		},
		LeaseDuration: 12 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: time.Second, ReleaseOnCancel: release,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(won) },
			OnStoppedLeading: func() {},
		},
	})
	v.must(err)
	go func() {
		defer close(done)
		elector.Run(ctx)
	}()
	end := func() { cancel(); <-done }
	v.t.Cleanup(end)
	v.wait(pod+" leads", won)
	v.shifts = append(v.shifts, harness.Shift{Pod: pod, UID: v.History.Now().Pods[pod].UID, From: time.Now()})
	return func() {
		v.shifts[shift].To = time.Now()
		end()
	}
}

func TestAnObservedRosterByTheHolderOfALease(t *testing.T) {
	s := newStage(t)
	v := &voters{stage: s}
	s.apply(harness.ObservedManifest(`{lease: {name: leader}}`))
	if err := s.Apply(t.Context(), harness.RosterManifest(harness.Slots(3))); err == nil || !strings.Contains(err.Error(), "assigned and observed cannot be exchanged") {
		t.Errorf("an observed roster became an assigned one: %v", err)
	}
	s.apply(harness.SetManifest())
	s.awaitFive(true)
	before := s.now().Pods
	s.await("nobody is idle while there is no lease", says("", "DutyUnknown"))
	stop := v.lead("sample-0", true)
	s.await("its holder works", says("sample-0", "OnDuty"))
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
	s.await("the others are upgraded", waiting("4/5", "WaitingForDuty"))
	s.check(before, upgraded(1, 2, 3, 4), 1)
	stop()
	stop = v.lead("sample-3", false)
	s.await("the plan is ready", settled)
	s.check(before, upgraded(0, 1, 2, 3, 4), parked)
	stop()
	s.await("nobody is idle when the lease is not renewed any more", says("sample-3", "DutyUnknown"))
	e, err := s.Evidence(t.Context())
	s.must(err)
	e.Shifts = v.shifts
	for _, violation := range append(e.Prove(), e.ProveGuards()...) {
		t.Error(violation)
	}
	if n := len(e.Shifts); n != 2 {
		t.Errorf("the proof knows of %d shifts", n)
	}
}
