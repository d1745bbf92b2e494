package metrics

import (
	"context"
	"path"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Unary times the calls to arbiters. Watches are not timed: they last as long as a plan.
func (m *Metrics) Unary(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	begun := m.now()
	err := call(ctx, method, request, reply, conn, opts...)
	m.requests.WithLabelValues(path.Base(method), codeOf(err)).Observe(m.now().Sub(begun).Seconds())
	return err
}

// codeOf is the code of an answer. Plans choose their arbiters, and an answer can have any
// number for a code: each would make a series of its own.
func codeOf(err error) string {
	if code := status.Code(err); code <= codes.Unauthenticated {
		return code.String()
	}
	return codes.Unknown.String()
}
