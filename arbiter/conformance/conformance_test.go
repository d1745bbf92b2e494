package conformance_test

import (
	"context"
	"errors"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"offduty.dev/arbiter/conformance"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dial connects to a listener in memory.
func dial(t *testing.T, l *bufconn.Listener, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return dialTo(t, func() *bufconn.Listener { return l }, opts...)
}

// dialTo connects to the listener that there is at the time.
func dialTo(t *testing.T, now func() *bufconn.Listener, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:bufconn", append(opts,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return now().DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	must(t, err)
	return conn
}

// serve runs a server until stop is called.
func serve(t *testing.T, s *grpc.Server) (l *bufconn.Listener, stop func()) {
	t.Helper()
	l = bufconn.Listen(1 << 20)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	return l, func() {
		s.Stop()
		if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	}
}

// outside is a call of somebody who may not lease.
func outside(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(metadata.AppendToOutgoingContext(ctx, "outsider", "yes"), method, req, reply, conn, opts...)
}

// tryDouble runs cases on a double, in a bubble with a clock of its own.
func tryDouble(t *testing.T, f fault, only ...string) *conformance.Report {
	t.Helper()
	var report *conformance.Report
	synctest.Test(t, func(t *testing.T) {
		d := newDouble(f, time.Now)
		s := grpc.NewServer(grpc.UnaryInterceptor(d.admit))
		arbiterv1.RegisterArbiterServiceServer(s, d)
		l, stop := serve(t, s)
		defer stop()
		conn, stranger := dial(t, l), dial(t, l, grpc.WithUnaryInterceptor(outside))
		defer func() { must(t, errors.Join(conn.Close(), stranger.Close())) }()
		var err error
		report, err = conformance.Check(t.Context(), conformance.Target{
			Conn: conn, Outsider: stranger, Group: doubleGroup, Driver: d.driver(), Only: only,
		}, time.Now, nil)
		must(t, err)
	})
	return report
}

func TestTheDoubleIsRightButForItsFaults(t *testing.T) {
	report := tryDouble(t, "")
	for _, r := range report.Results {
		if r.Outcome != conformance.Passed || len(r.Warnings) > 0 {
			t.Errorf("%s\n%s\n%v", r.Line(), r.Finding, r.Warnings)
		}
	}
	if len(report.Results) != len(conformance.Cases()) {
		t.Errorf("%d of %d cases were tried", len(report.Results), len(conformance.Cases()))
	}
}

// Each fault, the case that has to find it, and the clause that it names.
var faults = []struct {
	fault     fault
	id, words string
}{
	{"every group exists", "capabilities", "ERR-4"},
	{"revisions stand still", "quorum-edge", "LIST-4"},
	{"a watch begins with the next change", "watch-first", "WATCH-1"},
	{"a watch sends what has changed", "watch-gap", "WATCH-2"},
	{"a watch ends at ten states", "watch-slow", "WATCH-2"},
	{"who is leased is called idle", "flip-leased", "BAN-2"},
	{"failover does not look at leases", "failover-ban", "BAN-1"},
	{"terms are not compared", "adopt-again", "ADOPT-3"},
	{"adoption raises no lease", "adopt-fences", "ADOPT-1"},
	{"old tokens act", "adopt-fences", "ADOPT-4"},
	{"old tokens acquire", "acquire-reordered", "ADOPT-4"},
	{"claims are believed", "known-leases", "ADOPT-6"},
	{"max is not counted", "acquire-order", "GRANT-5"},
	{"requests have no identity", "acquire-duplicate", "GRANT-6"},
	{"what is there already does not count", "acquire-late", "GRANT-10"},
	{"who works is leased", "acquire-idle", "GRANT-1"},
	{"instances are not compared", "acquire-instance", "GRANT-2"},
	{"a lease is everybody's", "acquire-one", "GRANT-3"},
	{"a grant has its holder's token", "tokens-grow", "GRANT-7"},
	{"a lease has its replica's id", "tokens-grow", "GRANT-7"},
	{"the floor is one too low", "quorum-edge", "GRANT-4"},
	{"leased replicas serve", "quorum-edge", "LIST-5"},
	{"pins look at no floor", "quorum-edge-pin", "PIN-3"},
	{"pins look at no duty", "flip-pin", "PIN-1"},
	{"pins look at no instance", "pin-instance", "PIN-2"},
	{"a lease dies with its pod", "recreated-pin", "BAN-1"},
	{"a refused pin ends the lease", "flip-pin", "PIN-4"},
	{"pins are made once", "pin-again", "PIN-6"},
	{"pins run out", "pin-outlives-ttl", "PIN-5"},
	{"pins are kept in memory", "restart-keeps", "DUR-1"},
	{"nothing is written down", "restart-keeps", "DUR-1"},
	{"a renewal changes nothing", "renew-keeps", "TTL-1"},
	{"renewals are answered backwards", "renew-order", "RENEW-1"},
	{"what ran out is renewed", "expired", "TTL-2"},
	{"what is gone is renewed", "released", "RENEW-2"},
	{"a late release ends any lease", "stolen", "REL-2"},
	{"a second release fails", "released", "REL-2"},
	{"times are compared by clocks", "clock-ahead", "TTL-3"},
	{"times are compared by clocks", "clock-behind", "TTL-3"},
	{"force stops at pins", "forced", "FORCE-1"},
	{"retired holders come back", "retired", "RETIRE-3"},
	{"everybody may lease", "outsider", "SEC-2"},
	{"any TTL is good", "garbage", "ERR-2"},
	{"leases are checked, then written", "concurrent", "LIN-1"},
	{"states are old ones", "concurrent", "LIN-1"},
	{"a state without replicas after many calls", "overload", "ERR-6"},
	{"anybody moves duty", "handover-refused", "ADOPT-4"},
	{"duty is handed to a leased replica", "handover-leased", "HAND-3"},
	{"a handover is only said", "handover", "HAND-2"},
}

func TestEachFaultIsFoundByTheCaseThatIsMeantForIt(t *testing.T) {
	for _, f := range faults {
		t.Run(string(f.fault)+" ("+f.id+")", func(t *testing.T) {
			r := tryDouble(t, f.fault, f.id).Results[0]
			if r.Outcome != conformance.Failed || r.Finding.Clause.ID != f.words {
				t.Errorf("want it to fail by %s\n%s\n%s", f.words, r.Line(), r.Finding)
			}
		})
	}
}

func TestRunMakesATestOfEachCase(t *testing.T) {
	d := newDouble("", time.Now)
	s := grpc.NewServer(grpc.UnaryInterceptor(d.admit))
	arbiterv1.RegisterArbiterServiceServer(s, d)
	l, stop := serve(t, s)
	defer stop()
	conn := dial(t, l)
	defer func() { must(t, conn.Close()) }()
	conformance.Run(t, conformance.Target{Conn: conn, Group: doubleGroup, Only: []string{"capabilities", "quorum-edge", "handover"}})
}

// The specification, the kit's copy of it, and what the cases check, belong together.
func TestSpecification(t *testing.T) {
	page, err := os.ReadFile("../../docs/arbiter/SPEC.md")
	must(t, err)
	var written []conformance.Clause
	for _, m := range regexp.MustCompile(`(?m)^- \*\*([A-Z]+-\d+)\*\* (.*)$`).FindAllStringSubmatch(string(page), -1) {
		written = append(written, conformance.Clause{ID: m[1], Text: m[2]})
	}
	if diff := cmp.Diff(written, conformance.Clauses()); diff != "" {
		t.Errorf("docs/arbiter/SPEC.md and clauses.go differ (-page +code):\n%s", diff)
	}
	checked := map[string]bool{"ERR-1": true, "LIST-5": true}
	for _, c := range conformance.Cases() {
		for _, id := range c.Clauses {
			checked[id] = true
			if !slices.ContainsFunc(written, func(w conformance.Clause) bool { return w.ID == id }) {
				t.Errorf("case %s checks %s, which is no clause", c.ID, id)
			}
		}
	}
	for _, w := range written {
		if why := conformance.Unseen(w.ID); checked[w.ID] == (why != "") {
			t.Errorf("%s: is it checked (%t), or is it not (%q)?", w.ID, checked[w.ID], why)
		}
		if !strings.Contains(w.Text, "MUST") && !strings.Contains(w.Text, "SHOULD") {
			t.Errorf("%s obliges nobody", w.ID)
		}
	}
}
