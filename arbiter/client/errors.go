package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// The kinds of failure, for errors.Is. Every error of a call is an *Error of at least
// one kind, unless the caller's own context ended.
var (
	// ErrInvalid: the request is wrong. Fix it, do not retry.
	ErrInvalid = errors.New("invalid request")
	// ErrUnavailable: the arbiter cannot be reached, or cannot answer now. A connection
	// that broke after the request had left looks the same, so repeat the same request.
	ErrUnavailable = errors.New("arbiter unavailable")
	// ErrHandshake: unavailable because of TLS: a certificate, its name or its CA.
	ErrHandshake = errors.New("TLS handshake failed")
	// ErrUnimplemented: the arbiter has no such call, see Capabilities.
	ErrUnimplemented = errors.New("not implemented by this arbiter")
	// ErrNotFound: the arbiter has no such group.
	ErrNotFound = errors.New("no such group")
	// ErrDenied: the arbiter does not accept who is asking.
	ErrDenied = errors.New("denied by the arbiter")
	// ErrProtocol: the answer breaks the contract of the protocol and was not used.
	ErrProtocol = errors.New("answer breaks the protocol")
	// ErrOutcomeUnknown: whether anything was recorded is not known. Repeat the request.
	ErrOutcomeUnknown = errors.New("outcome unknown")
)

// Error is the failure of one call.
type Error struct {
	// Kinds holds ErrUnavailable and its like.
	Kinds []error
	// RetryAfter is when the arbiter wants to be asked again; 0: it did not say.
	RetryAfter time.Duration

	text  string
	cause error
}

// Error returns what was asked of whom, what went wrong, and what to do.
func (e *Error) Error() string { return e.text }

// Unwrap returns the kinds and the cause.
func (e *Error) Unwrap() []error { return append([]error{e.cause}, e.Kinds...) }

// failure turns the error of a call into ours. ctx is the caller's own, without the
// timeout of the call.
func (c *Client) failure(ctx context.Context, call, group string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s of group %s at arbiter %s: %w", call, group, c.address, context.Cause(ctx))
	}
	st := status.Convert(err)
	where := fmt.Sprintf("arbiter %s: %s of group %s", c.address, call, group)
	e := &Error{
		Kinds: []error{ErrOutcomeUnknown}, RetryAfter: retryAfter(st), cause: err,
		text: fmt.Sprintf("%s: %s: %s", where, st.Code(), st.Message()),
	}
	switch st.Code() {
	case codes.Unavailable:
		e.Kinds, e.text = c.unavailable(st.Message())
	case codes.DeadlineExceeded:
		if c.conn.GetState() != connectivity.Ready {
			e.Kinds, e.text = c.unavailable(fmt.Sprintf("no connection within %s", c.timeout))
			break
		}
		e.text = fmt.Sprintf("%s: no answer within %s; repeat the request or raise the timeout", where, c.timeout)
	case codes.InvalidArgument:
		e.Kinds = []error{ErrInvalid}
		e.text = fmt.Sprintf("%s: invalid request: %s%s", where, st.Message(), violations(st))
	case codes.NotFound:
		e.Kinds = []error{ErrNotFound}
		e.text = fmt.Sprintf("%s: not found: %s; check that the group exists there", where, st.Message())
	case codes.Unimplemented:
		e.Kinds = []error{ErrUnimplemented}
		e.text = fmt.Sprintf("%s: not implemented: %s; ask the arbiter's capabilities, or use another arbiter", where, st.Message())
	case codes.PermissionDenied, codes.Unauthenticated:
		e.Kinds = []error{ErrDenied}
		e.text = fmt.Sprintf("%s: denied: %s; check the client certificate or token, and what the arbiter allows it", where, st.Message())
	case codes.OK, codes.Canceled, codes.Unknown, codes.AlreadyExists, codes.ResourceExhausted, codes.FailedPrecondition,
		codes.Aborted, codes.OutOfRange, codes.Internal, codes.DataLoss:
		// As any code of a later version: the outcome is unknown.
	}
	return e
}

// unavailable finds out from the transport's message whether TLS is to blame.
func (c *Client) unavailable(message string) ([]error, string) {
	if err := c.dialer.refused(); err != nil {
		return []error{ErrInvalid, ErrUnavailable}, fmt.Sprintf("arbiter %s: %v", c.address, err)
	}
	if strings.HasPrefix(message, "max retries exhausted") { // grpc's words around the last error
		if _, last, ok := strings.Cut(message, "desc = "); ok {
			message = last
		}
	}
	text := fmt.Sprintf("arbiter %s cannot be reached: %s; ", c.address, message)
	// grpc reports a refused certificate of ours only as text: with TLS 1.3 the refusal
	// comes with the first read after the handshake.
	for _, sign := range []string{"authentication handshake failed", "tls: ", "x509: "} {
		if strings.Contains(message, sign) {
			return []error{ErrUnavailable, ErrHandshake},
				text + "check spec.arbiter.tls: the CA, the server name, the client certificate, and whether the arbiter speaks TLS"
		}
	}
	text += "check spec.arbiter.address, that the arbiter runs there, and that the network lets us through"
	if c.secure {
		// The refusal may also be lost in the broken pipe.
		text += "; if it hangs up on us, check the client certificate in spec.arbiter.tls"
	}
	return []error{ErrUnavailable}, text
}

// broken reports an answer that contradicts the protocol.
func (c *Client) broken(call, group string, why error) error {
	return &Error{
		Kinds: []error{ErrProtocol, ErrOutcomeUnknown},
		cause: why,
		text:  fmt.Sprintf("arbiter %s: %s of group %s: the answer breaks the protocol: %v; report this to the arbiter's maker", c.address, call, group, why),
	}
}

func retryAfter(st *status.Status) time.Duration {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return max(0, info.GetRetryDelay().AsDuration())
		}
	}
	return 0
}

// violations lists the fields of a google.rpc.BadRequest.
func violations(st *status.Status) string {
	var b strings.Builder
	for _, d := range st.Details() {
		bad, ok := d.(*errdetails.BadRequest)
		if !ok {
			continue
		}
		for _, v := range bad.GetFieldViolations() {
			fmt.Fprintf(&b, "; %s: %s", v.GetField(), v.GetDescription())
		}
	}
	return b.String()
}
