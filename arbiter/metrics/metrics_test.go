package metrics

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// running returns a group of three with one lease, pinned, and the metrics it is counted in.
func running(t *testing.T) (*prometheus.Registry, *Metrics) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, time.Now)
	g := duty.New(duty.Config{
		Key: "shop/voters", Prefix: "shop/", Store: m.Store(store.NewMemory()), Now: time.Now, NewEpoch: func() string { return "e" },
		FirstToken: func() int64 { return 0 }, Log: logr.Discard(), Changed: m.Changed,
	})
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); <-g.Stopped() })
	go g.Run(ctx)
	pods := map[string]roster.Pod{}
	for _, name := range []string{"voter-0", "voter-1", "voter-2"} {
		pods[name] = roster.Pod{Instance: "u", Ready: true}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	settings := duty.Settings{
		Floor: 1, MaxLeased: 1, PinOverdue: time.Hour,
		Roster: roster.Config{Slots: 1, Settle: time.Hour, Failover: time.Hour, Lifetime: time.Hour},
	}
	// The pods come when the group is there: nobody can have had duty before it.
	must(g.Configure(ctx, settings, nil))
	must(g.Configure(ctx, settings, pods))
	token, _, _, err := g.Adopt(ctx, lease.AdoptRequest{Holder: "h", Term: 1, Identity: "i"})
	must(err)
	got, err := g.Acquire(ctx, lease.AcquireRequest{
		Holder: "h", Token: token, RequestID: "r", Max: 1, TTL: time.Minute,
		Candidates: []lease.Candidate{{Replica: "voter-1", Instance: "u"}, {Replica: "voter-2", Instance: "u"}},
	})
	must(err)
	l := got.Leases[0]
	_, _, err = g.Pin(ctx, lease.Ref{ID: l.ID, Token: l.Token}, "u")
	must(err)
	reg.MustRegister(&Groups{Each: func(fn func(*duty.Group)) { fn(g) }})
	return reg, m
}

func TestAGroupIsShownFromItsView(t *testing.T) {
	reg, _ := running(t)
	want := `
		# HELP offduty_group_floor_members How many members of a group must serve at any time.
		# TYPE offduty_group_floor_members gauge
		offduty_group_floor_members{group="shop/voters"} 1
		# HELP offduty_group_leases Leases of a group by phase: Leased, Pinned, or Expired (not fenced yet).
		# TYPE offduty_group_leases gauge
		offduty_group_leases{group="shop/voters",phase="Expired"} 0
		offduty_group_leases{group="shop/voters",phase="Leased"} 0
		offduty_group_leases{group="shop/voters",phase="Pinned"} 1
		# HELP offduty_group_members Members of a group by duty: Working, Idle or Unknown.
		# TYPE offduty_group_members gauge
		offduty_group_members{duty="Idle",group="shop/voters"} 2
		offduty_group_members{duty="Unknown",group="shop/voters"} 0
		offduty_group_members{duty="Working",group="shop/voters"} 1
		# HELP offduty_group_serving_members Members of a group that count for its floor: ready, not leased, at a verified revision.
		# TYPE offduty_group_serving_members gauge
		offduty_group_serving_members{group="shop/voters"} 2
		# HELP offduty_arbiter_changes_total What saved records have changed: leases (LeaseGranted, LeasePinned, LeaseReleased, LeaseExpired, LeaseForced) and duties (DutyGiven, DutyTaken).
		# TYPE offduty_arbiter_changes_total counter
		offduty_arbiter_changes_total{change="DutyGiven"} 1
		offduty_arbiter_changes_total{change="DutyTaken"} 0
		offduty_arbiter_changes_total{change="LeaseExpired"} 0
		offduty_arbiter_changes_total{change="LeaseForced"} 0
		offduty_arbiter_changes_total{change="LeaseGranted"} 1
		offduty_arbiter_changes_total{change="LeasePinned"} 1
		offduty_arbiter_changes_total{change="LeaseReleased"} 0
	`
	err := testutil.GatherAndCompare(reg, strings.NewReader(want), "offduty_group_floor_members", "offduty_group_leases",
		"offduty_group_members", "offduty_group_serving_members", "offduty_arbiter_changes_total")
	if err != nil {
		t.Error(err)
	}
}

func TestNamesFollowTheRulesOfPrometheus(t *testing.T) {
	reg, m := running(t)
	m.requests.WithLabelValues("PinLease", "OK").Observe(1)
	m.streams.WithLabelValues("Attend").Inc()
	m.refusals.WithLabelValues("PinLease", "NotIdle").Inc()
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestEachRefusalOfAnAnswerIsCounted(t *testing.T) {
	no := &arbiterv1.Refusal{Reason: arbiterv1.RefusalReason_REFUSAL_REASON_MAX_LEASED}
	busy := &arbiterv1.Refusal{Reason: arbiterv1.RefusalReason_REFUSAL_REASON_NOT_IDLE}
	for _, c := range []struct {
		name   string
		method string
		answer any
		want   map[string]float64
	}{
		{"a yes", "PinLease", &arbiterv1.PinLeaseResponse{}, map[string]float64{"MaxLeased": 0, "NotIdle": 0}},
		{"a no to all", "AcquireLeases", &arbiterv1.AcquireLeasesResponse{Refusal: no}, map[string]float64{"MaxLeased": 1, "NotIdle": 0}},
		{
			"a no to each candidate", "AcquireLeases",
			&arbiterv1.AcquireLeasesResponse{Refusals: []*arbiterv1.CandidateRefusal{{Refusal: no}, {Refusal: busy}, {Refusal: busy}}},
			map[string]float64{"MaxLeased": 1, "NotIdle": 2},
		},
		{
			"renewals that were lost", "RenewLeases",
			&arbiterv1.RenewLeasesResponse{Results: []*arbiterv1.RenewResult{{Id: "a"}, {Id: "b", Refusal: no}}},
			map[string]float64{"MaxLeased": 1, "NotIdle": 0},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := New(prometheus.NewRegistry(), time.Now)
			info := &grpc.UnaryServerInfo{FullMethod: "/offduty.arbiter.v1.ArbiterService/" + c.method}
			if _, err := m.Unary(t.Context(), nil, info, func(context.Context, any) (any, error) { return c.answer, nil }); err != nil {
				t.Fatal(err)
			}
			got := map[string]float64{
				"MaxLeased": testutil.ToFloat64(m.refusals.WithLabelValues(c.method, "MaxLeased")),
				"NotIdle":   testutil.ToFloat64(m.refusals.WithLabelValues(c.method, "NotIdle")),
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if n := testutil.CollectAndCount(m.requests); n != 1 {
				t.Errorf("%d series of durations", n)
			}
		})
	}
}

// broken is a store that saves nothing.
type broken struct {
	store.Store
	err error
}

func (b broken) Save(context.Context, store.Record, store.Version) (store.Version, error) {
	return "", b.err
}

func TestSavesAreTimedByResult(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := New(reg, time.Now)
	for _, err := range []error{nil, store.ErrConflict, errors.New("no route")} {
		if _, got := m.Store(broken{err: err}).Save(t.Context(), store.Record{}, ""); !errors.Is(got, err) {
			t.Errorf("Save answered %v, not %v", got, err)
		}
	}
	if n := testutil.CollectAndCount(m.saves); n != 3 {
		t.Errorf("%d results, not 3", n)
	}
}
