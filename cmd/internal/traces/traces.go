// Package traces exports spans to an OpenTelemetry collector, when the environment names
// one. Otherwise nothing is started, and spans cost next to nothing.
package traces

import (
	"context"
	"fmt"
	"os"
	"strings"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/semconv/v1.43.0"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// Traces is the export of one process.
type Traces struct{ provider *sdktrace.TracerProvider }

// Start begins to export over OTLP/gRPC if OTEL_EXPORTER_OTLP_ENDPOINT or
// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, unless OTEL_SDK_DISABLED is true. The other
// OTEL_* variables mean what the OpenTelemetry specification says. Spans are sent from the
// background; a collector that does not answer costs the spans and nothing else.
func Start(ctx context.Context, service, version string) (*Traces, error) {
	if !wanted(os.Getenv) {
		return &Traces{}, nil
	}
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("export traces: %w; see the variables OTEL_EXPORTER_OTLP_*", err)
	}
	// What the environment says comes last, and wins.
	about, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName(service), semconv.ServiceVersion(version)),
		resource.WithHost(), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("describe this process for traces: %w; see the variable OTEL_RESOURCE_ATTRIBUTES", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return &Traces{provider: provider}, nil
}

// wanted says whether the environment asks for traces.
func wanted(env func(string) string) bool {
	if strings.EqualFold(env("OTEL_SDK_DISABLED"), "true") || env("OTEL_TRACES_EXPORTER") == "none" {
		return false
	}
	return env("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// On says whether spans are exported.
func (t *Traces) On() bool { return t.provider != nil }

// Stop sends what has not been sent, for as long as ctx allows.
func (t *Traces) Stop(ctx context.Context) error {
	if !t.On() {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil
}

// Dial makes a client's calls part of the trace in which they are made.
func (t *Traces) Dial() []grpc.DialOption {
	if !t.On() {
		return nil
	}
	return []grpc.DialOption{grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithFilter(telling)))}
}

// Serve makes the calls that a server answers part of their clients' traces.
func (t *Traces) Serve() []grpc.ServerOption {
	if !t.On() {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(otelgrpc.WithFilter(telling)))}
}

// telling leaves out what tells no story: conversations that last for hours, and the
// renewals beside them.
func telling(info *stats.RPCTagInfo) bool {
	for _, quiet := range []string{"/WatchReplicas", "/Attend", "/RenewLeases", "/Check", "/Watch", "/ServerReflectionInfo"} {
		if strings.HasSuffix(info.FullMethodName, quiet) {
			return false
		}
	}
	return true
}
