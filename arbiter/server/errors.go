package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"offduty.dev/arbiter/duty"
)

// retryIn is when a client that was told UNAVAILABLE should ask again.
const retryIn = time.Second

// ErrNoGroup: no group of that name is configured.
var ErrNoGroup = errors.New("no such group")

// toStatus maps errors of the groups to gRPC; the only place that does.
func toStatus(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoGroup):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, duty.ErrUncertain):
		// Not UNAVAILABLE: that would promise that nothing was recorded.
		return status.Error(codes.Unknown, err.Error())
	case errors.Is(err, duty.ErrUnavailable):
		return withDetails(status.New(codes.Unavailable, err.Error()), &errdetails.RetryInfo{RetryDelay: durationpb.New(retryIn)})
	case errors.Is(err, duty.ErrUnknownReplica):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, duty.ErrInstance), errors.Is(err, duty.ErrObserved):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, duty.ErrSuperseded):
		return status.Error(codes.Aborted, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	return status.Error(codes.Unknown, err.Error())
}

// withDetails returns st with a detail; without it if that cannot be encoded.
func withDetails(st *status.Status, detail protoadapt.MessageV1) error {
	full, err := st.WithDetails(detail)
	if err != nil {
		return st.Err()
	}
	return full.Err()
}
