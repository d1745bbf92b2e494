// Package metrics counts what the arbiter does, and shows at each scrape how each group
// is. Everything is read from memory: a scrape makes no API request.
package metrics

import (
	"context"
	"errors"
	"path"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/store"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// Metrics are the counters of one arbiter. Its methods may be called at the same time.
// Store and Changed do nothing on nil.
type Metrics struct {
	now func() time.Time

	requests *prometheus.HistogramVec
	streams  *prometheus.GaugeVec
	refusals *prometheus.CounterVec
	changes  *prometheus.CounterVec
	saves    *prometheus.HistogramVec
}

// New registers the counters. now is a monotonic clock.
func New(reg prometheus.Registerer, now func() time.Time) *Metrics {
	m := &Metrics{
		now: now,
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "offduty_arbiter_request_duration_seconds",
			Help:    "Time that calls took to be answered, by method and gRPC code. Streams are not in it.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method", "code"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "offduty_arbiter_open_streams",
			Help: "Conversations that are open, by method: WatchReplicas is one for each plan, Attend one for each attending replica.",
		}, []string{"method"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "offduty_arbiter_refusals_total",
			Help: "What was refused, by method and by reason, which stands for one rule.",
		}, []string{"method", "reason"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "offduty_arbiter_changes_total",
			Help: "What saved records have changed: leases (LeaseGranted, LeasePinned, LeaseReleased, LeaseExpired, LeaseForced) and duties (DutyGiven, DutyTaken).",
		}, []string{"change"}),
		saves: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "offduty_arbiter_store_write_duration_seconds",
			Help:    "Time that it took to save a group's record by result: ok, conflict (somebody else had changed it) or error.",
			Buckets: []float64{.0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"result"}),
	}
	reg.MustRegister(m.requests, m.streams, m.refusals, m.changes, m.saves)
	for _, c := range duty.Changes() {
		m.changes.WithLabelValues(string(c))
	}
	return m
}

// Changed counts a change of a group's record; see duty.Config.
func (m *Metrics) Changed(c duty.Change) {
	if m != nil {
		m.changes.WithLabelValues(string(c.Kind)).Inc()
	}
}

// Unary times a call and counts what it refuses.
func (m *Metrics) Unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	begun, method := m.now(), path.Base(info.FullMethod)
	answer, err := next(ctx, request)
	m.requests.WithLabelValues(method, status.Code(err).String()).Observe(m.now().Sub(begun).Seconds())
	if err == nil {
		for _, r := range refusals(answer) {
			m.refusals.WithLabelValues(method, reason(r)).Inc()
		}
	}
	return answer, err
}

// Stream counts a conversation while it is open.
func (m *Metrics) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	open := m.streams.WithLabelValues(path.Base(info.FullMethod))
	open.Inc()
	defer open.Dec()
	return next(srv, stream)
}

// refusals are those in an answer of any kind.
func refusals(answer any) []*arbiterv1.Refusal {
	var out []*arbiterv1.Refusal
	add := func(r *arbiterv1.Refusal) {
		if r != nil {
			out = append(out, r)
		}
	}
	if a, ok := answer.(interface{ GetRefusal() *arbiterv1.Refusal }); ok {
		add(a.GetRefusal())
	}
	switch a := answer.(type) {
	case *arbiterv1.AcquireLeasesResponse:
		for _, c := range a.GetRefusals() {
			add(c.GetRefusal())
		}
	case *arbiterv1.RenewLeasesResponse:
		for _, c := range a.GetResults() {
			add(c.GetRefusal())
		}
	}
	return out
}

// Store times the writes of a store.
func (m *Metrics) Store(s store.Store) store.Store {
	if m == nil {
		return s
	}
	return &timed{Store: s, m: m}
}

type timed struct {
	store.Store
	m *Metrics
}

// Save implements store.Store.
func (t *timed) Save(ctx context.Context, r store.Record, v store.Version) (store.Version, error) {
	begun := t.m.now()
	saved, err := t.Store.Save(ctx, r, v)
	result := "ok"
	switch {
	case errors.Is(err, store.ErrConflict):
		result = "conflict"
	case err != nil:
		result = "error"
	}
	t.m.saves.WithLabelValues(result).Observe(t.m.now().Sub(begun).Seconds())
	return saved, err
}

// reason is that of a refusal, as people write it: NotIdle.
func reason(r *arbiterv1.Refusal) string {
	name := strings.TrimPrefix(r.GetReason().String(), "REFUSAL_REASON_")
	var b strings.Builder
	for word := range strings.SplitSeq(strings.ToLower(name), "_") {
		if word != "" {
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return b.String()
}
