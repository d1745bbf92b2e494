package traces

import (
	"runtime"
	"testing"

	"go.opentelemetry.io/otel"
	"google.golang.org/grpc/stats"
)

func TestTracesAreOffUnlessACollectorIsNamed(t *testing.T) {
	for _, c := range []struct {
		name string
		env  map[string]string
		want bool
	}{
		{"nothing is set", nil, false},
		{"an endpoint", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, true},
		{"one for traces", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}, true},
		{"disabled", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "OTEL_SDK_DISABLED": "true"}, false},
		{"no exporter", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "OTEL_TRACES_EXPORTER": "none"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := wanted(func(k string) string { return c.env[k] }); got != c.want {
				t.Errorf("wanted is %v", got)
			}
		})
	}
}

func TestOffStartsNothingAndRecordsNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	off, err := Start(t.Context(), "test", "v0")
	if err != nil {
		t.Fatal(err)
	}
	if off.On() || off.Dial() != nil || off.Serve() != nil {
		t.Error("it is on")
	}
	tracer := otel.Tracer("test")
	cost := testing.AllocsPerRun(100, func() {
		_, span := tracer.Start(t.Context(), "reconcile")
		if span.IsRecording() {
			t.Error("a span is recorded")
		}
		span.End()
	})
	t.Logf("a span that is not exported costs %.0f allocations", cost)
	if cost > 3 {
		t.Errorf("%.0f allocations, more than 3: it takes part in each reconcile", cost)
	}
	// Those of another test may end meanwhile.
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, before %d", after, before)
	}
	if err := off.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestConversationsAndRenewalsAreNotTraced(t *testing.T) {
	for method, want := range map[string]bool{"PinLease": true, "AcquireLeases": true, "WatchReplicas": false, "Attend": false, "RenewLeases": false} {
		if got := telling(&stats.RPCTagInfo{FullMethodName: "/offduty.arbiter.v1.ArbiterService/" + method}); got != want {
			t.Errorf("%s: %v", method, got)
		}
	}
}

func BenchmarkOff(b *testing.B) {
	tracer := otel.Tracer("test")
	b.ReportAllocs()
	for b.Loop() {
		_, span := tracer.Start(b.Context(), "reconcile")
		span.End()
	}
}
