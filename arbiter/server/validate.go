package server

import (
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Limits of the wire, as its documentation says.
const (
	maxName    = 253
	maxRequest = 128
	maxReason  = 1024
	maxList    = 1000
	maxTTL     = time.Hour
)

// checks collects what is wrong with a request, field by field.
type checks struct {
	violations []*errdetails.BadRequest_FieldViolation
}

func (c *checks) fail(field, format string, args ...any) {
	c.violations = append(c.violations, &errdetails.BadRequest_FieldViolation{
		Field: field, Description: fmt.Sprintf(format, args...),
	})
}

// text wants 1 to limit characters of valid UTF-8.
func (c *checks) text(field, value string, limit int) {
	if n := utf8.RuneCountInString(value); n < 1 || n > limit || !utf8.ValidString(value) {
		c.fail(field, "must have 1 to %d characters", limit)
	}
}

func (c *checks) list(field string, n, low int) {
	if n < low || n > maxList {
		c.fail(field, "must have %d to %d items", low, maxList)
	}
}

// grows wants a number above the last one.
func (c *checks) grows(field string, n, last int64) {
	if n <= last {
		c.fail(field, "must grow: it is %d after %d", n, last)
	}
}

// ttl wants whole seconds, 1 to 3600.
func (c *checks) ttl(field string, d *durationpb.Duration) {
	if t := d.AsDuration(); !d.IsValid() || t < time.Second || t > maxTTL || t%time.Second != 0 {
		c.fail(field, "must be whole seconds, 1 to %d", int(maxTTL/time.Second))
	}
}

// err is INVALID_ARGUMENT with the fields, or nil.
func (c *checks) err() error {
	if len(c.violations) == 0 {
		return nil
	}
	first := c.violations[0]
	st := status.Newf(codes.InvalidArgument, "%s %s", first.GetField(), first.GetDescription())
	return withDetails(st, &errdetails.BadRequest{FieldViolations: c.violations})
}
