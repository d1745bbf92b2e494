package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"offduty.dev/arbiter/conformance"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// lister is an arbiter that lists one replica, and does not keep to what a state is.
type lister struct {
	arbiterv1.UnimplementedArbiterServiceServer
}

func (lister) GetCapabilities(context.Context, *arbiterv1.GetCapabilitiesRequest) (*arbiterv1.GetCapabilitiesResponse, error) {
	return &arbiterv1.GetCapabilitiesResponse{Listing: true, Implementation: "lister"}, nil
}

func (lister) ListReplicas(_ context.Context, q *arbiterv1.ListReplicasRequest) (*arbiterv1.ListReplicasResponse, error) {
	return &arbiterv1.ListReplicasResponse{State: &arbiterv1.GroupState{
		Group: q.GetGroup(), Epoch: "e", Revision: 1, Replicas: []*arbiterv1.Replica{{Name: "a", Duty: arbiterv1.Duty_DUTY_UNKNOWN}},
	}}, nil
}

// statusOf is the status with which the program exits.
func statusOf(err error) int {
	if own, ok := errors.AsType[*exitError](err); ok {
		return own.status
	}
	if err != nil {
		return 1
	}
	return 0
}

func TestConformanceExitsWithWhatWasSeen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	arbiterv1.RegisterArbiterServiceServer(s, lister{})
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	})
	defer serving.Wait()
	defer s.Stop()
	for name, tt := range map[string]struct {
		change func(*conformanceOptions)
		status int
		want   string
	}{
		"a case that passed is success":              {func(o *conformanceOptions) { o.only = []string{"state"} }, 0, "1 passed, 0 failed"},
		"a case that failed is 2":                    {func(o *conformanceOptions) { o.only = []string{"capabilities"} }, 2, "ERR-4 wants: A group that does not exist MUST be answered NOT_FOUND."},
		"a case that was skipped is 3, and is named": {func(o *conformanceOptions) { o.only = []string{"flip-seen"} }, 3, "skipped  flip-seen"},
		"a level that is not promised is 3":          {func(o *conformanceOptions) { o.level, o.only = "leasing", []string{"stolen"} }, 3, "the arbiter promises listing, not leasing"},
		"JSON is all that is printed":                {func(o *conformanceOptions) { o.output, o.only = "json", []string{"state"} }, 0, `"outcome": "passed"`},
		"a case that does not exist is 1":            {func(o *conformanceOptions) { o.only = []string{"stat"} }, 1, ""},
		"a level that does not exist is 1":           {func(o *conformanceOptions) { o.level = "all" }, 1, ""},
		"an arbiter that is not there is 1":          {func(o *conformanceOptions) { o.address, o.settle = "127.0.0.1:1", 100*time.Millisecond }, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := conformanceOptions{level: "declared", output: "human", settle: time.Second}
			o.address, o.group, o.insecure, o.timeout = l.Addr().String(), "g", true, 10*time.Second
			tt.change(&o)
			var out strings.Builder
			err := o.run(t.Context(), &out)
			if status := statusOf(err); status != tt.status || !strings.Contains(out.String(), tt.want) {
				t.Errorf("status %d (%v), want %d and %q\n%s", status, err, tt.status, tt.want, &out)
			}
			var report conformance.Report
			if o.output == "json" && json.Unmarshal([]byte(out.String()), &report) != nil {
				t.Errorf("this is no JSON:\n%s", &out)
			}
		})
	}
}
