package metrics

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

func closed() <-chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}

func plans(t *testing.T, leading <-chan struct{}) *Plans {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	up := &v1alpha1.UpgradePlan{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "voters"}}
	up.Status = v1alpha1.UpgradePlanStatus{
		Replicas: 5, UpgradedReplicas: 2, WorkingReplicas: 3,
		LastProgressTime: &metav1.Time{Time: time.Unix(1000, 0)},
		Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: string(plan.WaitingForDuty)},
			{Type: v1alpha1.ConditionArbiterReachable, Status: metav1.ConditionTrue},
		},
		ReplicaStatuses: []v1alpha1.ReplicaStatus{{Step: "Released"}, {Step: "Upgraded"}},
	}
	return &Plans{
		Reader: fake.NewClientBuilder().WithScheme(scheme).WithObjects(up).Build(), Leading: leading, Context: t.Context(),
		Leases: func(types.NamespacedName) Leases { return Leases{Leased: 1, Pinned: 2, Oldest: time.Unix(900, 0)} },
	}
}

func TestAPlanIsShownFromItsStatus(t *testing.T) {
	want := `
		# HELP offduty_plan_leases Leases that a plan holds, by phase: leased or pinned.
		# TYPE offduty_plan_leases gauge
		offduty_plan_leases{namespace="shop",phase="leased",plan="voters"} 1
		offduty_plan_leases{namespace="shop",phase="pinned",plan="voters"} 2
		# HELP offduty_plan_oldest_lease_timestamp_seconds Since when this upgrader has known the oldest lease that a plan holds. Absent without leases.
		# TYPE offduty_plan_oldest_lease_timestamp_seconds gauge
		offduty_plan_oldest_lease_timestamp_seconds{namespace="shop",plan="voters"} 900
		# HELP offduty_plan_reason 1 for the reason why a plan is where it is; its other reasons are absent.
		# TYPE offduty_plan_reason gauge
		offduty_plan_reason{namespace="shop",plan="voters",reason="WaitingForDuty"} 1
		# HELP offduty_plan_replicas Replicas of a plan by step. A step at which there is none is absent.
		# TYPE offduty_plan_replicas gauge
		offduty_plan_replicas{namespace="shop",plan="voters",step="Protected"} 2
		offduty_plan_replicas{namespace="shop",plan="voters",step="Released"} 1
		offduty_plan_replicas{namespace="shop",plan="voters",step="Upgraded"} 2
	`
	err := testutil.CollectAndCompare(plans(t, closed()), strings.NewReader(want),
		"offduty_plan_leases", "offduty_plan_oldest_lease_timestamp_seconds", "offduty_plan_reason", "offduty_plan_replicas")
	if err != nil {
		t.Error(err)
	}
}

func TestAStandbyShowsNoPlans(t *testing.T) {
	if n := testutil.CollectAndCount(plans(t, make(chan struct{}))); n != 0 {
		t.Errorf("it shows %d series", n)
	}
}

func TestNamesFollowTheRulesOfPrometheus(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, time.Now)
	reg.MustRegister(plans(t, closed()))
	m.Wrote("pod", "", nil)
	m.Refused("acquire", "NotIdle")
	m.Handover(HandoverDone)
	m.Adopted(1, false, nil)
	m.requests.WithLabelValues("PinLease", "OK").Observe(1)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestWritesAreCountedByWhatBecameOfThem(t *testing.T) {
	m := New(prometheus.NewRegistry(), time.Now)
	pods := schema.GroupResource{Resource: "pods"}
	m.Wrote("pod", plan.Draining, nil)
	m.Wrote("pod", plan.Draining, apierrors.NewConflict(pods, "a", errors.New("changed")))
	m.Wrote("pod", plan.Draining, errors.New("no route"))
	m.Wrote("pod", "", nil)
	got := map[string]float64{}
	for _, r := range []string{"ok", "conflict", "error"} {
		got[r] = testutil.ToFloat64(m.writes.WithLabelValues("pod", "Draining", r))
	}
	got["tending"] = testutil.ToFloat64(m.writes.WithLabelValues("pod", "Tending", "ok"))
	if diff := cmp.Diff(map[string]float64{"ok": 1, "conflict": 1, "error": 1, "tending": 1}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnUpdateIsTimedFromItsReleaseOnce(t *testing.T) {
	now := time.Unix(0, 0)
	reg := prometheus.NewRegistry()
	m := New(reg, func() time.Time { return now })
	m.Committed("uid")
	now = now.Add(7 * time.Second)
	m.Verified("uid")
	m.Verified("uid")     // was counted
	m.Verified("another") // was released by an earlier process
	want := `
		# HELP offduty_upgrader_commits_total Holds that were released: points of no return.
		# TYPE offduty_upgrader_commits_total counter
		offduty_upgrader_commits_total 1
	`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "offduty_upgrader_commits_total"); err != nil {
		t.Error(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "offduty_upgrader_update_duration_seconds" {
			continue
		}
		if h := f.GetMetric()[0].GetHistogram(); h.GetSampleCount() != 1 || h.GetSampleSum() != 7 {
			t.Errorf("got %v", h)
		}
	}
	if len(m.committed) != 0 {
		t.Errorf("%v is remembered", m.committed)
	}
}

func TestNobodyNeedsToCount(t *testing.T) {
	var m *Metrics
	m.Wrote("pod", "", nil)
	m.Granted(1)
	m.Refused("pin", "Frozen")
	m.Batch()
	m.Committed("u")
	m.Verified("u")
	m.Forget("u")
	m.GaveBack(true)
	m.Handover(HandoverDone)
	m.Adopted(1, false, nil)
}

// Plans choose their arbiters; what these answer must not make ever more series.
func TestCodesThatDoNotExistAreOne(t *testing.T) {
	m := New(prometheus.NewRegistry(), time.Now)
	for code := range codes.Code(100) {
		answer := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
			return status.Error(code, "no")
		}
		if err := m.Unary(t.Context(), "/offduty.arbiter.v1.ArbiterService/PinLease", nil, nil, nil, answer); status.Code(err) != code {
			t.Errorf("code %d has become %v", code, err)
		}
	}
	if got, want := testutil.CollectAndCount(m.requests), int(codes.Unauthenticated)+1; got != want {
		t.Errorf("%d series, want %d", got, want)
	}
}
