package server_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/server"
	"offduty.dev/arbiter/store"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const group = "ns/web"

// registry is a server.Groups of one group.
type registry struct{ group *duty.Group }

func (r registry) Group(_ context.Context, key string) (*duty.Group, error) {
	if key != r.group.Key() {
		return nil, fmt.Errorf("group %q: %w", key, server.ErrNoGroup)
	}
	return r.group, nil
}

// arbiter is a running server with one group of web-0..web-2 over a store.
type arbiter struct {
	arbiterv1.ArbiterServiceClient
	attend arbiterv1.AttendanceServiceClient
	health healthv1.HealthClient
	group  *duty.Group
	pods   map[string]roster.Pod
	conf   duty.Settings
}

// settings: one slot, floor 1, two leases at a time, short lifetimes.
func settings() duty.Settings {
	return duty.Settings{
		Generation: 1, Floor: 1, MaxLeased: 2, PinOverdue: time.Hour,
		Roster: roster.Config{Slots: 1, Settle: 120 * time.Second, Failover: 10 * time.Second, Lifetime: 10 * time.Second},
	}
}

// start runs an arbiter over s until the test ends or stop is called.
func start(t *testing.T, s store.Store) (a *arbiter, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a = &arbiter{pods: map[string]roster.Pod{}, conf: settings()}
	for i := range 3 {
		a.pods[fmt.Sprintf("web-%d", i)] = roster.Pod{Instance: fmt.Sprintf("u%d", i), Revision: "web-r1", Ready: true}
	}
	a.group = duty.New(duty.Config{
		Key: group, Prefix: "ns/", Store: s, Now: time.Now, NewEpoch: func() string { return "e" },
		FirstToken: func() int64 { return 0 }, Log: logr.Discard(),
	})
	listener := bufconn.Listen(1 << 20)
	srv := server.New(server.Config{Groups: registry{a.group}, Version: "test", Now: time.Now, Log: logr.Discard()})
	done := make(chan error, 2)
	go func() { a.group.Run(ctx); done <- nil }()
	go func() { done <- srv.Serve(ctx, listener) }()
	// The pods come when the group is there: nobody can have had duty before it.
	must(t, a.group.Configure(ctx, a.conf, nil))
	must(t, a.group.Configure(ctx, a.conf, a.pods))
	conn, err := grpc.NewClient("passthrough:bufconn",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	a.ArbiterServiceClient, a.attend, a.health = arbiterv1.NewArbiterServiceClient(conn), arbiterv1.NewAttendanceServiceClient(conn), healthv1.NewHealthClient(conn)
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		must(t, conn.Close())
		cancel()
		must(t, errors.Join(<-done, <-done))
	}
	t.Cleanup(stop)
	return a, stop
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (a *arbiter) adopt(t *testing.T, term int64) int64 {
	t.Helper()
	r, err := a.AdoptLeases(t.Context(), &arbiterv1.AdoptLeasesRequest{Group: group, Holder: "plan", Term: term, Identity: "me"})
	must(t, err)
	if r.GetRefusal() != nil {
		t.Fatal(r.GetRefusal())
	}
	return r.GetToken()
}

func (a *arbiter) acquire(t *testing.T, token int64, replicas ...string) *arbiterv1.AcquireLeasesResponse {
	t.Helper()
	req := &arbiterv1.AcquireLeasesRequest{
		Group: group, Holder: "plan", Token: token, RequestId: "r", Max: 1000, Ttl: durationpb.New(30 * time.Second),
	}
	for _, r := range replicas {
		req.Candidates = append(req.Candidates, &arbiterv1.Candidate{Replica: "ns/" + r, Instance: "u" + r[4:]})
	}
	resp, err := a.AcquireLeases(t.Context(), req)
	must(t, err)
	return resp
}

func (a *arbiter) state(t *testing.T) map[string]string {
	t.Helper()
	r, err := a.ListReplicas(t.Context(), &arbiterv1.ListReplicasRequest{Group: group})
	must(t, err)
	return summary(r.GetState())
}

// summary is replica to duty and, if any, lease phase.
func summary(s *arbiterv1.GroupState) map[string]string {
	out := map[string]string{}
	for _, r := range s.GetReplicas() {
		text := r.GetDuty().String()[len("DUTY_"):]
		if l := r.GetLease(); l != nil {
			text += " " + l.GetPhase().String()[len("LEASE_PHASE_"):]
		}
		out[r.GetName()] = text
	}
	return out
}

func ref(l *arbiterv1.Lease) *arbiterv1.LeaseRef {
	return &arbiterv1.LeaseRef{Id: l.GetId(), Token: l.GetToken()}
}

func TestOneReplicaFromLeaseToRelease(t *testing.T) {
	a, _ := start(t, store.NewMemory())
	ctx := t.Context()
	got := a.acquire(t, a.adopt(t, 1), "web-0", "web-1")
	if len(got.GetLeases()) != 1 || len(got.GetRefusals()) != 1 ||
		got.GetRefusals()[0].GetRefusal().GetReason() != arbiterv1.RefusalReason_REFUSAL_REASON_NOT_IDLE {
		t.Fatalf("want a lease on web-1 and a refusal of web-0, which works: %v", got)
	}
	l := got.GetLeases()[0]
	pin, err := a.PinLease(ctx, &arbiterv1.PinLeaseRequest{Group: group, Lease: ref(l), Instance: "u1"})
	must(t, err)
	if pin.GetRefusal() != nil {
		t.Fatal(pin.GetRefusal())
	}
	if diff := cmp.Diff(map[string]string{"ns/web-0": "WORKING", "ns/web-1": "IDLE PINNED", "ns/web-2": "IDLE"}, a.state(t)); diff != "" {
		t.Error(diff)
	}
	renewed, err := a.RenewLeases(ctx, &arbiterv1.RenewLeasesRequest{Group: group, Leases: []*arbiterv1.LeaseRef{ref(l), {Id: "x"}}})
	must(t, err)
	if r := renewed.GetResults(); r[0].GetRefusal() != nil || r[1].GetRefusal().GetReason() != arbiterv1.RefusalReason_REFUSAL_REASON_LEASE_LOST {
		t.Errorf("renewed: %v", r)
	}
	for range 2 {
		rel, err := a.ReleaseLease(ctx, &arbiterv1.ReleaseLeaseRequest{
			Group: group, Lease: ref(l), Outcome: arbiterv1.LeaseOutcome_LEASE_OUTCOME_UPGRADED, Version: "web-r2",
		})
		must(t, err)
		if rel.GetRefusal() != nil {
			t.Error(rel.GetRefusal())
		}
	}
	if diff := cmp.Diff(map[string]string{"ns/web-0": "WORKING", "ns/web-1": "IDLE", "ns/web-2": "IDLE"}, a.state(t)); diff != "" {
		t.Error(diff)
	}
}

func TestLeasesPinsAndTokensSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	file, err := store.OpenFile(path)
	must(t, err)
	a, stop := start(t, file.Group(group))
	token := a.adopt(t, 1)
	leases := a.acquire(t, token, "web-1", "web-2").GetLeases()
	_, err = a.PinLease(t.Context(), &arbiterv1.PinLeaseRequest{Group: group, Lease: ref(leases[0]), Instance: "u1"})
	must(t, err)
	before := a.state(t)
	stop()
	must(t, file.Close())

	file, err = store.OpenFile(path)
	must(t, err)
	a, stop = start(t, file.Group(group))
	if diff := cmp.Diff(before, a.state(t)); diff != "" {
		t.Error(diff)
	}
	if again := a.adopt(t, 1); again != token {
		t.Errorf("the same leader has token %d after the restart, before it %d", again, token)
	}
	if newer := a.adopt(t, 2); newer <= leases[1].GetToken() {
		t.Errorf("token %d does not grow above %d", newer, leases[1].GetToken())
	}
	rel, err := a.ReleaseLease(t.Context(), &arbiterv1.ReleaseLeaseRequest{
		Group: group, Lease: ref(leases[0]), Outcome: arbiterv1.LeaseOutcome_LEASE_OUTCOME_UNDONE,
	})
	must(t, err)
	if rel.GetRefusal().GetReason() != arbiterv1.RefusalReason_REFUSAL_REASON_STALE_TOKEN {
		t.Errorf("a release with the old leader's token: %v", rel)
	}
	stop()
	must(t, file.Close())
}

func TestWatchSendsTheWholeStateAfterEachChange(t *testing.T) {
	a, _ := start(t, store.NewMemory())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := a.WatchReplicas(ctx, &arbiterv1.WatchReplicasRequest{Group: group})
	must(t, err)
	first, err := w.Recv()
	must(t, err)
	if diff := cmp.Diff(map[string]string{"ns/web-0": "WORKING", "ns/web-1": "IDLE", "ns/web-2": "IDLE"}, summary(first.GetState())); diff != "" {
		t.Error(diff)
	}
	a.acquire(t, a.adopt(t, 1), "web-2")
	for last := first.GetState().GetRevision(); ; {
		r, err := w.Recv()
		must(t, err)
		if r.GetState().GetRevision() <= last {
			t.Fatalf("revision %d after %d", r.GetState().GetRevision(), last)
		}
		last = r.GetState().GetRevision()
		if summary(r.GetState())["ns/web-2"] == "IDLE LEASED" {
			return
		}
	}
}

// attendant is a replica that attends.
type attendant struct {
	t      *testing.T
	stream arbiterv1.AttendanceService_AttendClient
	name   string
	// sequence is that of the last request that was sent.
	sequence int64
}

func (a *arbiter) attends(t *testing.T, name, instance string) *attendant {
	t.Helper()
	stream, err := a.attend.Attend(t.Context())
	must(t, err)
	x := &attendant{t: t, stream: stream, name: name}
	x.send(instance, 0, arbiterv1.Duty_DUTY_IDLE)
	return x
}

func (x *attendant) send(instance string, generation int64, d arbiterv1.Duty) {
	x.t.Helper()
	x.sequence++
	must(x.t, x.stream.Send(&arbiterv1.AttendRequest{
		Group: group, Replica: "ns/" + x.name, Instance: instance, Sequence: x.sequence,
		AcknowledgedGeneration: generation, Duty: d, Health: arbiterv1.Health_HEALTH_HEALTHY,
	}))
}

func (x *attendant) recv(want arbiterv1.Duty) *arbiterv1.AttendResponse {
	x.t.Helper()
	for {
		r, err := x.stream.Recv()
		must(x.t, err)
		if r.GetDuty() == want {
			return r
		}
	}
}

func TestHandoverTellsTheSuccessorAfterThePredecessorIsIdle(t *testing.T) {
	a, _ := start(t, store.NewMemory())
	one, two := a.attends(t, "web-0", "u0"), a.attends(t, "web-1", "u1")
	working := one.recv(arbiterv1.Duty_DUTY_WORKING)
	one.send("u0", working.GetGeneration(), arbiterv1.Duty_DUTY_WORKING)
	two.recv(arbiterv1.Duty_DUTY_IDLE)
	token := a.adopt(t, 1)
	r, err := a.RequestHandover(t.Context(), &arbiterv1.RequestHandoverRequest{
		Group: group, Holder: "plan", Token: token, From: "ns/web-0", Candidates: []string{"ns/web-1"},
	})
	must(t, err)
	if r.GetSuccessor() != "ns/web-1" {
		t.Fatal(r)
	}
	idle := one.recv(arbiterv1.Duty_DUTY_IDLE)
	if got := a.state(t); got["ns/web-0"] != "WORKING" || got["ns/web-1"] != "IDLE" {
		t.Errorf("before web-0 has acknowledged: %v", got)
	}
	if got := a.acquire(t, token, "web-1").GetRefusals(); len(got) != 1 {
		t.Errorf("the chosen successor was leased: %v", got)
	}
	one.send("u0", idle.GetGeneration(), arbiterv1.Duty_DUTY_IDLE)
	two.recv(arbiterv1.Duty_DUTY_WORKING)
	if got := a.state(t); got["ns/web-0"] != "IDLE" || got["ns/web-1"] != "WORKING" {
		t.Errorf("after it: %v", got)
	}
}

func TestAttendRefusesALatePodAndAStranger(t *testing.T) {
	a, _ := start(t, store.NewMemory())
	for _, tt := range []struct {
		name, instance string
		want           codes.Code
	}{
		{"web-0", "old", codes.FailedPrecondition},
		{"web-9", "u9", codes.NotFound},
		{"web-0", "", codes.InvalidArgument},
	} {
		if _, err := a.attends(t, tt.name, tt.instance).stream.Recv(); status.Code(err) != tt.want {
			t.Errorf("%s as %q: %v, want %s", tt.name, tt.instance, err, tt.want)
		}
	}
}

func TestAnswersAndChangesNameTheLastRequest(t *testing.T) {
	a, _ := start(t, store.NewMemory())
	x := a.attends(t, "web-0", "u0")
	var got []int64
	working := x.recv(arbiterv1.Duty_DUTY_WORKING)
	got = append(got, working.GetSequence())
	for range 2 {
		x.send("u0", working.GetGeneration(), arbiterv1.Duty_DUTY_WORKING)
		got = append(got, x.recv(arbiterv1.Duty_DUTY_WORKING).GetSequence())
	}
	a.conf.Roster.Slots = 0
	must(t, a.group.Configure(t.Context(), a.conf, a.pods))
	idle := x.recv(arbiterv1.Duty_DUTY_IDLE)
	got = append(got, idle.GetSequence())
	x.sequence += 5 // a gap is no harm
	x.send("u0", idle.GetGeneration(), arbiterv1.Duty_DUTY_IDLE)
	got = append(got, x.recv(arbiterv1.Duty_DUTY_IDLE).GetSequence())
	if diff := cmp.Diff([]int64{1, 2, 3, 3, 9}, got); diff != "" {
		t.Errorf("named (-want +got):\n%s", diff)
	}
}

func TestASequenceThatDoesNotGrowEndsTheConversation(t *testing.T) {
	tests := map[string][]int64{
		"none at all":             {0},
		"below the first":         {-1},
		"the same once more":      {1, 1},
		"one that has been":       {1, 2, 1},
		"none after some":         {1, 2, 0},
		"the smallest after some": {3, math.MinInt64},
	}
	for name, sequences := range tests {
		t.Run(name, func(t *testing.T) {
			a, _ := start(t, store.NewMemory())
			stream, err := a.attend.Attend(t.Context())
			must(t, err)
			for i, sequence := range sequences {
				must(t, stream.Send(&arbiterv1.AttendRequest{
					Group: group, Replica: "ns/web-1", Instance: "u1", Duty: arbiterv1.Duty_DUTY_IDLE, Sequence: sequence,
				}))
				_, err = stream.Recv()
				if last := i == len(sequences)-1; !last {
					must(t, err)
				}
			}
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("got %v, want %s", err, codes.InvalidArgument)
			}
			if diff := cmp.Diff([]string{"sequence"}, fields(err)); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

func TestANewerConversationEndsTheOlder(t *testing.T) {
	a, _ := start(t, store.NewMemory())
	older := a.attends(t, "web-0", "u0")
	older.recv(arbiterv1.Duty_DUTY_WORKING)
	a.attends(t, "web-0", "u0").recv(arbiterv1.Duty_DUTY_WORKING)
	older.send("u0", 2, arbiterv1.Duty_DUTY_WORKING)
	for {
		if _, err := older.stream.Recv(); err != nil {
			if status.Code(err) != codes.Aborted {
				t.Errorf("got %v", err)
			}
			return
		}
	}
}

func TestBadRequestsNameTheirFields(t *testing.T) {
	a, _ := start(t, store.NewMemory())
	ctx := t.Context()
	tests := map[string]struct {
		call func() error
		want []string
	}{
		"acquire without anything": {
			func() error {
				_, err := a.AcquireLeases(ctx, &arbiterv1.AcquireLeasesRequest{})
				return err
			},
			[]string{"holder", "request_id", "candidates", "max", "ttl", "group"},
		},
		"a ttl of half seconds": {
			func() error {
				_, err := a.AcquireLeases(ctx, &arbiterv1.AcquireLeasesRequest{
					Group: group, Holder: "h", RequestId: "r", Max: 1, Ttl: durationpb.New(1500 * time.Millisecond),
					Candidates: []*arbiterv1.Candidate{{Replica: "ns/web-0"}},
				})
				return err
			},
			[]string{"ttl"},
		},
		"too many leases to renew": {
			func() error {
				_, err := a.RenewLeases(ctx, &arbiterv1.RenewLeasesRequest{Group: group, Leases: make([]*arbiterv1.LeaseRef, 1001)})
				return err
			},
			[]string{"leases"},
		},
		"a release without its outcome": {
			func() error {
				_, err := a.ReleaseLease(ctx, &arbiterv1.ReleaseLeaseRequest{Group: group, Lease: &arbiterv1.LeaseRef{Id: "x"}})
				return err
			},
			[]string{"outcome"},
		},
		"an upgrade without its version": {
			func() error {
				_, err := a.ReleaseLease(ctx, &arbiterv1.ReleaseLeaseRequest{
					Group: group, Lease: &arbiterv1.LeaseRef{Id: "x"}, Outcome: arbiterv1.LeaseOutcome_LEASE_OUTCOME_UPGRADED,
				})
				return err
			},
			[]string{"version"},
		},
		"a release by force without a reason": {
			func() error {
				_, err := a.ForceReleaseLease(ctx, &arbiterv1.ForceReleaseLeaseRequest{Group: group, Replica: "ns/web-0"})
				return err
			},
			[]string{"reason"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := tt.call()
			if status.Code(err) != codes.InvalidArgument {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(tt.want, fields(err)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// fields are those that a bad request was refused for.
func fields(err error) []string {
	var names []string
	for _, d := range status.Convert(err).Details() {
		if b, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range b.GetFieldViolations() {
				names = append(names, v.GetField())
			}
		}
	}
	return names
}

// broken is a store that fails when it is told to.
type broken struct {
	store.Store
	load, save error
}

func (b *broken) Load(ctx context.Context) (store.Record, store.Version, error) {
	if b.load != nil {
		return store.Record{}, "", b.load
	}
	return b.Store.Load(ctx)
}

func (b *broken) Save(ctx context.Context, r store.Record, v store.Version) (store.Version, error) {
	if b.save != nil {
		return "", b.save
	}
	return b.Store.Save(ctx, r, v)
}

func TestFailuresOfTheStoreAreNotAnswers(t *testing.T) {
	s := &broken{Store: store.NewMemory()}
	a, _ := start(t, s)
	adopt := func() error {
		_, err := a.AdoptLeases(t.Context(), &arbiterv1.AdoptLeasesRequest{Group: group, Holder: "plan", Term: 1, Identity: "me"})
		return err
	}
	s.save = errors.New("no answer")
	if err := adopt(); status.Code(err) != codes.Unknown {
		t.Errorf("a save of unknown outcome: %v", err)
	}
	s.load = errors.New("no answer")
	err := adopt()
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a record that cannot be read: %v", err)
	}
	if d := status.Convert(err).Details(); len(d) != 1 {
		t.Errorf("UNAVAILABLE does not say when to retry: %v", d)
	}
	s.save, s.load = nil, nil
	must(t, adopt())
}

func TestUnknownGroupsAreNotFoundAndHealthIsServed(t *testing.T) {
	a, _ := start(t, store.NewMemory())
	if _, err := a.GetCapabilities(t.Context(), &arbiterv1.GetCapabilitiesRequest{Group: "ns/other"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
	r, err := a.health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: "offduty.arbiter.v1.ArbiterService"})
	must(t, err)
	if r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Error(r)
	}
}

func TestPlaintextIsServedOnLoopbackOnly(t *testing.T) {
	listener, err := net.Listen("tcp", "0.0.0.0:0") //nolint:gosec // what the test is about
	must(t, err)
	srv := server.New(server.Config{Now: time.Now, Log: logr.Discard()})
	if err := srv.Serve(t.Context(), listener); err == nil {
		t.Error("it was served")
	}
}
