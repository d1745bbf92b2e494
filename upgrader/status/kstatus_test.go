package status

import (
	"errors"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// kstatus is what Flux and helm --wait make of a plan. The library is their own (the
// maintained continuation of sigs.k8s.io/cli-utils), and the oracle here.
func kstatus(t *testing.T, up *v1alpha1.UpgradePlan) string {
	t.Helper()
	o, err := runtime.DefaultUnstructuredConverter.ToUnstructured(up)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: o}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("UpgradePlan"))
	r, err := status.Compute(u)
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.String()
}

func TestKstatus(t *testing.T) {
	blocked := world(1)
	blocked.Arbiter.Blocked = &plan.Blocker{Reason: plan.ArbiterUnreachable, Message: "gone"}
	for _, tt := range []struct {
		name   string
		world  *plan.World
		d      plan.Decision
		failed error
		want   string
	}{
		{"a complete plan", world(1), decision(plan.Complete, done), nil, "Current"},
		{"one on its way", world(1), decision(plan.Updating), nil, "InProgress"},
		{"one that waits for duty", world(1), decision(plan.WaitingForDuty), nil, "InProgress"},
		{"a paused one with work to do", world(1), decision(plan.Paused), nil, "InProgress"},
		{"one whose arbiter cannot be reached for a moment", blocked, decision(plan.ArbiterUnreachable), nil, "InProgress"},
		{"one whose arbiter is gone", blocked, decision(plan.ArbiterUnreachable, stalled), nil, "Failed"},
		{"one with a failed replica", world(1), decision(plan.ReplicaFailed, stalled), nil, "Failed"},
		{"one past its deadline", world(1), decision(plan.WaitingForDuty, stalled), nil, "Failed"},
		{"a complete one whose last write failed", world(1), decision(plan.Complete, done), errors.New("forbidden"), "InProgress"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up := &v1alpha1.UpgradePlan{ObjectMeta: metav1.ObjectMeta{Name: "web", Generation: 3}}
			for _, old := range []*v1alpha1.UpgradePlanStatus{
				{ObservedGeneration: -1},
				Of(&v1alpha1.UpgradePlanStatus{}, 2, world(1), decision(plan.Complete, done), nil, now),
				Of(&v1alpha1.UpgradePlanStatus{}, 2, world(1), decision(plan.ReplicaFailed, stalled), nil, now),
			} {
				up.Status = *old
				if got := kstatus(t, up); got != "InProgress" {
					t.Errorf("before it is seen it is %s, as it was before", got)
				}
				up.Status = *Of(old, up.Generation, tt.world, tt.d, tt.failed, now.Add(time.Second))
				if got := kstatus(t, up); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			}
			up.DeletionTimestamp = &metav1.Time{Time: now}
			if got := kstatus(t, up); got != "Terminating" {
				t.Errorf("when it is being deleted it is %s", got)
			}
		})
	}
}
