package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
)

// Groups shows the groups as gauges. They are computed from the groups' views at each
// scrape, so that those of a group vanish with it. A standby runs no groups.
type Groups struct {
	// Each calls its argument with every group that runs.
	Each func(func(*duty.Group))
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"group"}, labels...), nil)
}

var (
	membersDesc   = desc("offduty_group_members", "Members of a group by duty: Working, Idle or Unknown.", "duty")
	attendingDesc = desc("offduty_group_attending_members", "Members of a group that attend: they talk to the arbiter at this moment.")
	servingDesc   = desc("offduty_group_serving_members", "Members of a group that count for its floor: ready, not leased, at a verified revision.")
	floorDesc     = desc("offduty_group_floor_members", "How many members of a group must serve at any time.")
	leasesDesc    = desc("offduty_group_leases", "Leases of a group by phase: Leased, Pinned, or Expired (not fenced yet).", "phase")
	oldestDesc    = desc("offduty_group_oldest_lease_timestamp_seconds", "When the oldest lease of a phase was granted, or pinned. Absent without such leases.", "phase")
	overdueDesc   = desc("offduty_group_overdue_pins", "Pins of a group that last longer than its pinOverdueSeconds. While there is one, nothing else is leased.")
	frozenDesc    = desc("offduty_group_frozen", "Whether a group lost its record, so that duty does not move and nothing is leased.")
	reasonDesc    = desc("offduty_group_reason", "1 for the reason of a group's condition Ready; its other reasons are absent.", "reason")

	groupDescs = []*prometheus.Desc{membersDesc, attendingDesc, servingDesc, floorDesc, leasesDesc, oldestDesc, overdueDesc, frozenDesc, reasonDesc}
)

// Describe implements prometheus.Collector.
func (g *Groups) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range groupDescs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *Groups) Collect(ch chan<- prometheus.Metric) {
	g.Each(func(group *duty.Group) {
		if v := group.View(); v != nil {
			collect(ch, v)
		}
	})
}

func collect(ch chan<- prometheus.Metric, v *duty.View) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, append([]string{v.Key}, labels...)...)
	}
	members := map[roster.Duty]int{roster.Working: 0, roster.Idle: 0, roster.Unknown: 0}
	for _, m := range v.Record.Roster.Members {
		members[m.Duty]++
	}
	for d, n := range members {
		gauge(membersDesc, float64(n), string(d))
	}
	gauge(attendingDesc, float64(len(v.Health)))
	gauge(servingDesc, float64(v.Serving()))
	gauge(floorDesc, float64(v.Rules.Floor))
	leases := map[lease.Phase]int{lease.Leased: 0, lease.Pinned: 0, lease.Expired: 0}
	oldest := map[lease.Phase]time.Time{}
	for _, l := range v.Record.Leases.Leases {
		leases[l.Phase]++
		if since := begun(l); oldest[l.Phase].IsZero() || since.Before(oldest[l.Phase]) {
			oldest[l.Phase] = since
		}
	}
	for phase, n := range leases {
		gauge(leasesDesc, float64(n), string(phase))
	}
	for phase, since := range oldest {
		if !since.IsZero() {
			gauge(oldestDesc, float64(since.Unix()), string(phase))
		}
	}
	gauge(overdueDesc, float64(len(v.Overdue)))
	frozen := 0.0
	if v.Record.Frozen {
		frozen = 1
	}
	gauge(frozenDesc, frozen)
	gauge(reasonDesc, 1, v.Record.Summary.Conditions[0].Reason)
}

// begun is when a lease came to its phase.
func begun(l lease.Lease) time.Time {
	if l.Phase == lease.Pinned {
		return l.PinnedAt
	}
	return l.GrantedAt
}
