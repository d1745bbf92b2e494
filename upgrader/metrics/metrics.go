// Package metrics counts what the upgrader does, and shows at each scrape how far each
// plan is. Everything is read from memory: a scrape makes no API request.
package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"offduty.dev/upgrader/plan"
)

// Metrics are the counters of one upgrader. The methods do nothing on nil, so that what
// is counted can be tested without counting. They may be called at the same time.
type Metrics struct {
	now func() time.Time

	writes     *prometheus.CounterVec
	leases     prometheus.Counter
	refusals   *prometheus.CounterVec
	batches    prometheus.Counter
	commits    prometheus.Counter
	upgrades   prometheus.Counter
	undos      prometheus.Counter
	handovers  *prometheus.CounterVec
	adoptions  *prometheus.CounterVec
	term       prometheus.Gauge
	updateTime prometheus.Histogram
	requests   *prometheus.HistogramVec

	mu sync.Mutex
	// committed is when the hold of each pod that is not verified yet was released, by UID.
	committed map[string]time.Time
}

// New registers the counters. now is a monotonic clock.
func New(reg prometheus.Registerer, now func() time.Time) *Metrics {
	m := &Metrics{
		now: now, committed: map[string]time.Time{},
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "offduty_upgrader_writes_total",
			Help: "Writes to the API server by kind of object, by why they were made (a reason, or Tending), and by result: ok, conflict (the world had changed; it is looked at again) or error.",
		}, []string{"object", "reason", "result"}),
		leases: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "offduty_upgrader_leases_granted_total",
			Help: "Leases that arbiters granted.",
		}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "offduty_upgrader_refusals_total",
			Help: "What arbiters refused, by request and by the arbiter's reason.",
		}, []string{"request", "reason"}),
		batches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "offduty_upgrader_batches_total",
			Help: "How often a partition was lowered to let Kruise have selected replicas.",
		}),
		commits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "offduty_upgrader_commits_total",
			Help: "Holds that were released: points of no return.",
		}),
		upgrades: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "offduty_upgrader_upgrades_total",
			Help: "Replicas that were upgraded, verified and given back.",
		}),
		undos: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "offduty_upgrader_undos_total",
			Help: "Leases that were given back before the replica was released to Kruise, everything undone.",
		}),
		handovers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "offduty_upgrader_handovers_total",
			Help: "Handovers by result: requested (the arbiter accepted), refused, done (the replica is off duty) and expired (asked for again after a minute).",
		}, []string{"result"}),
		adoptions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "offduty_upgrader_adoptions_total",
			Help: "Takeovers of a plan's leases at its arbiter by result: ok, refused or error.",
		}, []string{"result"}),
		term: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "offduty_upgrader_term",
			Help: "Leadership term in which this upgrader acts; 0 while it does not lead.",
		}),
		updateTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "offduty_upgrader_update_duration_seconds",
			Help:    "Time from the release of a pod's hold until the pod was verified at the update revision. One that was released by an earlier process is not counted.",
			Buckets: []float64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600},
		}),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "offduty_upgrader_arbiter_request_duration_seconds",
			Help:    "Time that calls to arbiters took, repetitions included, by method and gRPC code.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method", "code"}),
	}
	reg.MustRegister(m.writes, m.leases, m.refusals, m.batches, m.commits, m.upgrades, m.undos, m.handovers,
		m.adoptions, m.term, m.updateTime, m.requests)
	return m
}

// Tending is the reason of a write that only keeps labels and gates in line.
const Tending plan.Reason = "Tending"

// Results of a request.
const (
	ok      = "ok"
	failed  = "error"
	refused = "refused"
)

// Wrote counts a write to an object of a kind (pod, statefulset, upgradeplan).
func (m *Metrics) Wrote(object string, why plan.Reason, err error) {
	if m == nil {
		return
	}
	result := failed
	switch {
	case err == nil:
		result = ok
	case apierrors.IsConflict(err), apierrors.IsNotFound(err), apierrors.IsInvalid(err):
		// The test of a JSON patch that does not hold is answered as invalid.
		result = "conflict"
	}
	if why == "" {
		why = Tending
	}
	m.writes.WithLabelValues(object, string(why), result).Inc()
}

// Granted counts leases.
func (m *Metrics) Granted(n int) {
	if m != nil {
		m.leases.Add(float64(n))
	}
}

// Refused counts a "no" to a request (adopt, acquire, pin, release, handover, retire);
// reason is from the arbiter's closed set.
func (m *Metrics) Refused(request, reason string) {
	if m != nil {
		m.refusals.WithLabelValues(request, reason).Inc()
	}
}

// Batch counts a partition that was lowered.
func (m *Metrics) Batch() {
	if m != nil {
		m.batches.Inc()
	}
}

// Committed notes that the hold was taken off the pod of that UID.
func (m *Metrics) Committed(uid string) {
	if m == nil {
		return
	}
	m.commits.Inc()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.committed[uid] = m.now()
}

// Verified notes that the pod of that UID is well at the update revision.
func (m *Metrics) Verified(uid string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, known := m.committed[uid]; known {
		delete(m.committed, uid)
		m.updateTime.Observe(m.now().Sub(at).Seconds())
	}
}

// Forget drops what is remembered of a pod that is gone.
func (m *Metrics) Forget(uid string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.committed, uid)
}

// GaveBack counts a lease that ended, with its replica upgraded or as it was before.
func (m *Metrics) GaveBack(upgraded bool) {
	switch {
	case m == nil:
	case upgraded:
		m.upgrades.Inc()
	default:
		m.undos.Inc()
	}
}

// Handover results.
const (
	HandoverRequested = "requested"
	HandoverRefused   = refused
	HandoverDone      = "done"
	HandoverExpired   = "expired"
)

// Handover counts how a handover went on.
func (m *Metrics) Handover(result string) {
	if m != nil {
		m.handovers.WithLabelValues(result).Inc()
	}
}

// Adopted counts a takeover in a term.
func (m *Metrics) Adopted(term int64, no bool, err error) {
	switch {
	case m == nil:
	case err != nil:
		m.adoptions.WithLabelValues(failed).Inc()
	case no:
		m.adoptions.WithLabelValues(refused).Inc()
	default:
		m.adoptions.WithLabelValues(ok).Inc()
		m.term.Set(float64(term))
	}
}
