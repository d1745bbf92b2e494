package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// collector receives spans as an OpenTelemetry collector does.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer

	mu     sync.Mutex
	traces map[string]map[string]*span // by trace id, by span id
}

// span is what is looked at.
type span struct {
	service, name, parent string
	attributes            map[string]string
}

// listen starts a collector and returns its address.
func (c *collector) listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(s, c)
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); served.Wait() })
	return "http://" + l.Addr().String()
}

// Export implements the collector's service.
func (c *collector) Export(_ context.Context, r *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.GetResourceSpans() {
		service := ""
		for _, a := range resource.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.add(service, s)
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func (c *collector) add(service string, s *tracev1.Span) {
	id := fmt.Sprintf("%x", s.GetTraceId())
	if c.traces[id] == nil {
		c.traces[id] = map[string]*span{}
	}
	got := &span{service: service, name: s.GetName(), parent: fmt.Sprintf("%x", s.GetParentSpanId()), attributes: map[string]string{}}
	for _, a := range s.GetAttributes() {
		got.attributes[a.GetKey()] = a.GetValue().GetStringValue()
	}
	c.traces[id][fmt.Sprintf("%x", s.GetSpanId())] = got
}

// path finds a span of a service, and the names of it and all that it is part of.
func (c *collector) path(service, name, namespace string) ([]*span, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, trace := range c.traces {
		for _, s := range trace {
			if s.service != service || !strings.HasSuffix(s.name, name) || !strings.HasPrefix(s.attributes["offduty.group"], namespace) {
				continue
			}
			path := []*span{s}
			for p := trace[s.parent]; p != nil; p = trace[p.parent] {
				path = append(path, p)
			}
			if path[len(path)-1].name == "reconcile" {
				slices.Reverse(path)
				return path, nil
			}
		}
	}
	return nil, fmt.Errorf("%d traces, and none from a reconcile to %s of %s", len(c.traces), name, service)
}

// restart starts both daemons anew with the environment.
func restart(ctx context.Context, s *harness.System, env ...string) error {
	s.Env = env
	err := errors.Join(s.Kill(harness.UpgraderA), s.Kill(harness.ArbiterProcess))
	if err != nil {
		return err
	}
	if err := s.StartArbiter(ctx); err != nil {
		return err
	}
	return s.StartUpgrader(ctx, harness.UpgraderA)
}

func TestOneTraceSpansBothProcesses(t *testing.T) {
	system := install(t)
	c := &collector{traces: map[string]map[string]*span{}}
	if err := restart(t.Context(), system, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.listen(t), "OTEL_BSP_SCHEDULE_DELAY=200"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := restart(context.Background(), system); err != nil {
			t.Error(err)
		}
	})
	s := newStage(t)
	s.begin(harness.Slots(3), 3)
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
	s.await("two are upgraded", waiting("2/5", "WaitingForDuty"))
	for _, want := range []struct{ call, action string }{
		{"AcquireLeases", "apply Acquire"}, {"PinLease", "apply Commit"}, {"ReleaseLease", "apply ReleaseLease"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var path []*span
		s.must(controlplane.Until(ctx, "a trace tells of "+want.call, func(context.Context) error {
			var err error
			path, err = c.path("offduty-arbiter", want.call, s.Namespace)
			return err
		}))
		s.checkPath(path, want.action)
	}
}

// checkPath wants: reconcile, the action, the call, the call as the arbiter answered it.
func (s *stage) checkPath(path []*span, action string) {
	s.t.Helper()
	var story []string
	for _, p := range path {
		var about []string
		for _, k := range slices.Sorted(maps.Keys(p.attributes)) {
			if key, ours := strings.CutPrefix(k, "offduty."); ours {
				about = append(about, key+"="+p.attributes[k])
			}
		}
		story = append(story, fmt.Sprintf("%s: %s %s", p.service, p.name, strings.Join(about, " ")))
	}
	s.t.Logf("one trace:\n  %s", strings.Join(story, "\n  "))
	if len(path) != 4 {
		s.t.Errorf("%d spans, not 4", len(path))
		return
	}
	if path[0].attributes["offduty.plan"] != s.Namespace+"/"+harness.Group || path[0].service != "offduty-upgrader" {
		s.t.Errorf("it begins with %+v", path[0])
	}
	if path[1].name != action || path[2].service != "offduty-upgrader" || path[3].service != "offduty-arbiter" {
		s.t.Errorf("it goes on with %+v, %+v, %+v", path[1], path[2], path[3])
	}
	if action != "apply Acquire" && (path[1].attributes["offduty.replica"] == "" || path[1].attributes["offduty.lease"] == "") {
		s.t.Errorf("%+v does not name replica and lease", path[1])
	}
}
