package client

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// FuzzStateOf feeds what a broken or hostile arbiter may send.
func FuzzStateOf(f *testing.F) {
	for _, state := range []*arbiterv1.GroupState{
		{},
		{Group: "g", Replicas: []*arbiterv1.Replica{{Name: "a", Duty: arbiterv1.Duty_DUTY_IDLE}, {Name: "a"}}},
		{Group: "g", Replicas: []*arbiterv1.Replica{{Name: "a", Lease: &arbiterv1.Lease{Id: "l", Replica: "a", Token: 1, Phase: 2}}, {Name: "b", Duty: 77}}},
	} {
		data, err := proto.Marshal(state)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		wire := &arbiterv1.GroupState{}
		if proto.Unmarshal(data, wire) != nil {
			return
		}
		state, err := stateOf(wire, "g")
		if err != nil {
			return
		}
		checkState(t, wire, state)
	})
}

func checkState(t *testing.T, wire *arbiterv1.GroupState, state GroupState) {
	t.Helper()
	if len(state.Replicas) != len(wire.GetReplicas()) {
		t.Fatalf("%d replicas of %d", len(state.Replicas), len(wire.GetReplicas()))
	}
	for i, r := range state.Replicas {
		if found, _ := state.Replica(r.Name); found != r {
			t.Errorf("the name %q is not unique", r.Name)
		}
		checkReplica(t, wire.GetReplicas()[i], r)
	}
	for _, r := range state.dutyUnknown().Replicas {
		if r.Duty != DutyUnknown {
			t.Errorf("%q has a duty after the loss of the stream", r.Name)
		}
	}
}

func checkReplica(t *testing.T, wire *arbiterv1.Replica, r Replica) {
	t.Helper()
	if r.Duty == DutyIdle && wire.GetDuty() != arbiterv1.Duty_DUTY_IDLE {
		t.Errorf("%q is idle, but was said to be %v", r.Name, wire.GetDuty())
	}
	if r.Lease != nil && (r.Lease.Replica != r.Name || r.Lease.ID == "" || r.Lease.Token <= 0) {
		t.Errorf("%q has a lease that nobody can name: %+v", r.Name, r.Lease)
	}
}

// FuzzLeaseOf: a lease from the wire can be named in a later call, or is refused.
func FuzzLeaseOf(f *testing.F) {
	for _, l := range []*arbiterv1.Lease{{}, {Id: "l", Replica: "a", Token: 1, Phase: 2}, {Id: "l", Replica: "a", Token: -1, Ttl: durationpb.New(-1)}} {
		data, err := proto.Marshal(l)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		wire := &arbiterv1.Lease{}
		if proto.Unmarshal(data, wire) != nil {
			return
		}
		l, err := leaseOf(wire)
		if err == nil && (l.ID == "" || l.Replica == "" || l.Token <= 0 || l.TTL < 0) {
			t.Errorf("%v is read as %+v", wire, l)
		}
		no := &arbiterv1.Refusal{}
		if proto.Unmarshal(data, no) != nil {
			return
		}
		if r := refusalOf(no); r.RetryAfter < 0 || r.Reason.String() == "" {
			t.Errorf("%v is read as %+v", no, r)
		}
	})
}
