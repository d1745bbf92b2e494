package server

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// subject says what a request is about, as keys and values for logs and traces
// (docs/monitoring.md lists the keys). It names nothing that is secret.
func subject(request any) []any {
	var out []any
	add := func(key, value string) {
		if value != "" {
			out = append(out, key, value)
		}
	}
	if r, ok := request.(interface{ GetGroup() string }); ok {
		add("group", r.GetGroup())
	}
	if r, ok := request.(interface{ GetHolder() string }); ok {
		add("holder", r.GetHolder())
	}
	if r, ok := request.(interface{ GetReplica() string }); ok {
		add("replica", r.GetReplica())
	}
	if r, ok := request.(interface{ GetLease() *arbiterv1.LeaseRef }); ok {
		add("lease", r.GetLease().GetId())
	}
	if r, ok := request.(interface{ GetFrom() string }); ok {
		add("replica", r.GetFrom())
	}
	return out
}

// annotate writes the subject of a call on its span, if it is traced.
func annotate(ctx context.Context, fields []any) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	for i := 0; i+1 < len(fields); i += 2 {
		span.SetAttributes(attribute.String(fmt.Sprintf("offduty.%s", fields[i]), fmt.Sprint(fields[i+1])))
	}
}
