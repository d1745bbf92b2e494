package controller

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/apply"
	"offduty.dev/upgrader/plan"
)

// teller keeps what it is told.
type teller struct{ said []string }

func (r *teller) Plan(_ *v1alpha1.UpgradePlan, _ client.Object, warning bool, reason, message string) {
	r.said = append(r.said, fmt.Sprintf("%v %s %s", warning, reason, message))
}

func (r *teller) Pod(*v1alpha1.UpgradePlan, *corev1.Pod, string, string) {}

// saying is a status with a reason.
func saying(reason plan.Reason, progress string, leased int32, stalled bool) *v1alpha1.UpgradePlanStatus {
	s := &v1alpha1.UpgradePlanStatus{Progress: progress, LeasedReplicas: leased}
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: string(reason), Message: "m"})
	if stalled {
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: v1alpha1.ConditionStalled, Status: metav1.ConditionTrue, Reason: string(reason)})
	}
	return s
}

// pulling is a status in which an image cannot be pulled.
func pulling(reason plan.Reason) *v1alpha1.UpgradePlanStatus {
	s := saying(reason, "2/5", 1, false)
	s.ReplicaStatuses = []v1alpha1.ReplicaStatus{{Name: "voter-1", Reason: string(reason)}}
	return s
}

func TestWhatIsToldOfAPlan(t *testing.T) {
	for _, c := range []struct {
		name     string
		statuses []*v1alpha1.UpgradePlanStatus
		want     []string
	}{
		{
			"work that goes on is not told: its milestones are",
			[]*v1alpha1.UpgradePlanStatus{saying(plan.AcquiringLeases, "0/5", 0, false), saying(plan.Updating, "0/5", 1, false)},
			nil,
		},
		{
			"a wait is told once for each progress, however often it is tried",
			[]*v1alpha1.UpgradePlanStatus{
				saying(plan.WaitingForDuty, "2/5", 0, false), saying(plan.AcquiringLeases, "2/5", 0, false),
				saying(plan.WaitingForDuty, "2/5", 0, false), saying(plan.HandoverRefused, "2/5", 0, false),
				saying(plan.WaitingForDuty, "2/5", 0, false), saying(plan.Updating, "2/5", 1, false),
				saying(plan.WaitingForDuty, "3/5", 0, false),
			},
			[]string{"false WaitingForDuty 2/5: m", "false HandoverRefused 2/5: m", "false WaitingForDuty 3/5: m"},
		},
		{
			"that a lease is awaited is no news while a batch is on its way",
			[]*v1alpha1.UpgradePlanStatus{saying(plan.WaitingForLease, "2/5", 1, false)},
			nil,
		},
		{
			"a stall is a warning, also with the same reason as before",
			[]*v1alpha1.UpgradePlanStatus{saying(plan.Updating, "2/5", 1, false), saying(plan.Updating, "2/5", 1, true)},
			[]string{"true Updating 2/5: m"},
		},
		{
			"what a container says is a warning, also before the plan gives up",
			[]*v1alpha1.UpgradePlanStatus{
				saying(plan.Updating, "2/5", 1, false), pulling("ErrImagePull"), pulling("ImagePullBackOff"), pulling("ErrImagePull"),
			},
			[]string{"true ErrImagePull 2/5: m", "true ImagePullBackOff 2/5: m"},
		},
		{
			"an arbiter that is lost is a warning",
			[]*v1alpha1.UpgradePlanStatus{saying(plan.Connecting, "2/5", 0, false), saying(plan.ArbiterUnreachable, "2/5", 1, false)},
			[]string{"true ArbiterUnreachable 2/5: m"},
		},
		{
			"the end is told",
			[]*v1alpha1.UpgradePlanStatus{saying(plan.Finishing, "5/5", 0, false), saying(plan.Complete, "5/5", 0, false)},
			[]string{"false Complete 5/5: m"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			told := &teller{}
			r := &Reconciler{Applier: &apply.Applier{Recorder: told}, Now: func() time.Time { return time.Unix(0, 0) }}
			up, old := &v1alpha1.UpgradePlan{}, &v1alpha1.UpgradePlanStatus{}
			for _, next := range c.statuses {
				r.narrate(t.Context(), up, old, next)
				old = next
			}
			if diff := cmp.Diff(c.want, told.said); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
