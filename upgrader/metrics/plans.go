package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// scrapeTimeout bounds how long a scrape waits for a cache that is not filled yet.
const scrapeTimeout = 5 * time.Second

// Leases are those that one plan holds.
type Leases struct {
	Leased, Pinned int
	// Oldest is since when this process has known the oldest of them; zero: there is none.
	Oldest time.Time
}

// Plans shows the plans as gauges. They are computed from the cache at each scrape, so
// that those of a plan vanish with it.
type Plans struct {
	// Reader is the cache.
	Reader client.Reader
	// Leading is closed when this process leads. A standby shows no plans: they would be
	// counted twice.
	Leading <-chan struct{}
	// Leases of a plan.
	Leases func(types.NamespacedName) Leases
	// Context of the process.
	Context context.Context //nolint:containedctx // a scrape has none of its own
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"namespace", "plan"}, labels...), nil)
}

var (
	replicasDesc = desc("offduty_plan_replicas", "Replicas of a plan by step. A step at which there is none is absent.", "step")
	workingDesc  = desc("offduty_plan_working_replicas", "Replicas of a plan that are on duty, or whose duty is unknown.")
	reasonDesc   = desc("offduty_plan_reason", "1 for the reason why a plan is where it is; its other reasons are absent.", "reason")
	readyDesc    = desc("offduty_plan_ready", "Whether every replica of a plan is upgraded.")
	stalledDesc  = desc("offduty_plan_stalled", "Whether a plan will not go on unless somebody does something.")
	reachDesc    = desc("offduty_plan_arbiter_reachable", "Whether the arbiter of a plan answers.")
	progressDesc = desc("offduty_plan_last_progress_timestamp_seconds", "When a replica of a plan last took a step forward, or the plan began.")
	leasesDesc   = desc("offduty_plan_leases", "Leases that a plan holds, by phase: leased or pinned.", "phase")
	oldestDesc   = desc("offduty_plan_oldest_lease_timestamp_seconds", "Since when this upgrader has known the oldest lease that a plan holds. Absent without leases.")

	planDescs = []*prometheus.Desc{replicasDesc, workingDesc, reasonDesc, readyDesc, stalledDesc, reachDesc, progressDesc, leasesDesc, oldestDesc}
)

// Describe implements prometheus.Collector.
func (p *Plans) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range planDescs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (p *Plans) Collect(ch chan<- prometheus.Metric) {
	select {
	case <-p.Leading:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(p.Context, scrapeTimeout)
	defer cancel()
	var list v1alpha1.UpgradePlanList
	if err := p.Reader.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		ch <- prometheus.NewInvalidMetric(reasonDesc, err)
		return
	}
	for i := range list.Items {
		p.collect(ch, &list.Items[i])
	}
}

// collect shows one plan. It must not change it: it is the cache's.
func (p *Plans) collect(ch chan<- prometheus.Metric, up *v1alpha1.UpgradePlan) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{up.Namespace, up.Name}, labels...)...)
	}
	is := func(condition string) float64 {
		if meta.IsStatusConditionTrue(up.Status.Conditions, condition) {
			return 1
		}
		return 0
	}
	for step, n := range steps(&up.Status) {
		if n > 0 {
			gauge(replicasDesc, float64(n), plan.Step(step).String())
		}
	}
	gauge(workingDesc, float64(up.Status.WorkingReplicas))
	if c := meta.FindStatusCondition(up.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		gauge(reasonDesc, 1, c.Reason)
		gauge(reachDesc, is(v1alpha1.ConditionArbiterReachable))
	}
	gauge(readyDesc, is(v1alpha1.ConditionReady))
	gauge(stalledDesc, is(v1alpha1.ConditionStalled))
	if t := up.Status.LastProgressTime; t != nil {
		gauge(progressDesc, float64(t.Unix()))
	}
	l := p.Leases(client.ObjectKeyFromObject(up))
	gauge(leasesDesc, float64(l.Leased), "leased")
	gauge(leasesDesc, float64(l.Pinned), "pinned")
	if !l.Oldest.IsZero() {
		gauge(oldestDesc, float64(l.Oldest.Unix()))
	}
}

// steps counts a plan's replicas by step. A long status leaves replicas out, and only
// such as are upgraded or have not begun.
func steps(s *v1alpha1.UpgradePlanStatus) [plan.StepUpgraded + 1]int {
	var n [plan.StepUpgraded + 1]int
	listed := 0
	for i := range s.ReplicaStatuses {
		if step := plan.ParseStep(s.ReplicaStatuses[i].Step); step != plan.StepNone {
			n[step]++
			listed++
		}
	}
	upgraded := int(s.UpgradedReplicas)
	n[plan.StepProtected] += int(s.Replicas) - listed - (upgraded - n[plan.StepUpgraded])
	n[plan.StepUpgraded] = upgraded
	return n
}
