package protocol

import (
	"errors"
	"testing"
)

// successor is a run in which leader 1 takes over while replica 0 is selected under leader 0's
// token, replica 1 is released and replica 2 is protected: to leader 1 only the second is
// selected.
func successor(partition uint8) Trace {
	start := Sight{Sets: [maxTargets]Set{{Armed: true, Template: 2, Partition: 0, Current: 1}}}
	start.Replicas[0] = Replica{Rev: 1, Hold: true, Grant: true, State: Preparing, Note: 1, Phase: Leased, Token: 1}
	start.Replicas[1] = Replica{Rev: 1, Grant: true, State: Preparing, Note: 2, Phase: Pinned, Token: 2}
	start.Replicas[2] = Replica{Rev: 1, Hold: true}
	adopted := start
	adopted.Lead, adopted.Replicas[0].Token, adopted.Replicas[1].Token = 1, 3, 4
	raised := adopted
	raised.Sets[0].Partition, raised.Sets[0].Term = partition, 1
	return Trace{Sets: []int{3}, Start: start, Events: []Event{
		{Sight: adopted, Pod: -1, Set: -1, Text: "adopted"},
		{Sight: raised, By: Upgrader, Pod: -1, Set: 0, Text: "the partition is set"},
	}}
}

func TestANewLeaderRaisesThePartitionAndPutsItsTermOnTheSetInOneWrite(t *testing.T) {
	for partition, want := range map[uint8]bool{
		0: true, // its term alone
		1: false,
		2: true, // whom it has not granted anything is not selected
		3: true, // the released one is being deleted
	} {
		sum, err := Protocol.Accepts(successor(partition))
		if want && err != nil || !want && !errors.As(err, new(*Rejection)) {
			t.Errorf("to %d: %v, %v; want it accepted %t", partition, sum, err, want)
		}
	}
}

// early is the same run, but leader 1 sets the partition before it has adopted.
func early(partition uint8) Trace {
	t := successor(partition)
	raised, adopted := t.Events[1], t.Events[0]
	raised.Replicas, raised.Lead = t.Start.Replicas, 0
	adopted.Sets = raised.Sets
	t.Events = []Event{raised, adopted}
	return t
}

func TestANewLeaderMayRaiseThePartitionBeforeItHasAdoptedAndDoNoMore(t *testing.T) {
	for partition, want := range map[uint8]bool{0: false, 1: false, 2: true, 3: true} {
		if sum, err := Protocol.Accepts(early(partition)); (err == nil) != want {
			t.Errorf("to %d: %v, %v; want it accepted %t", partition, sum, err, want)
		}
	}
	granted := early(2)
	late := granted.Events[0]
	late.Replicas[2].Note, late.Replicas[2].Grant, late.Pod, late.Set = 1, true, 2, -1
	granted.Events = []Event{granted.Events[0], late}
	if _, err := Protocol.Accepts(granted); !errors.As(err, new(*Rejection)) {
		t.Errorf("a replica that is not leased is granted: got %v, want a rejection", err)
	}
}

// reborn is a run in which the pod of a replica is lost, comes back without a hold and works.
func reborn(worked bool) Trace {
	start := Sight{Sets: [maxTargets]Set{{Armed: true, Template: 2, Partition: 1, Current: 1}}}
	start.Replicas[0] = Replica{Rev: 1, Hold: true, Working: worked}
	gone, back := start, start
	gone.Replicas[0] = Replica{}
	back.Replicas[0] = Replica{Rev: 1}
	works := back
	works.Replicas[0].Working = true
	return Trace{Sets: []int{1}, Start: start, Events: []Event{
		{Sight: gone, Pod: 0, Set: -1, Text: "gone"},
		{Sight: back, Pod: 0, Set: -1, Text: "back"},
		{Sight: works, Pod: -1, Set: -1, Text: "works"},
	}}
}

func TestOnlyTheDutyOfALostWorkerIsKept(t *testing.T) {
	for _, worked := range []bool{true, false} {
		if sum, err := Protocol.Accepts(reborn(worked)); (err == nil) != worked {
			t.Errorf("worked before %t: %v, %v", worked, sum, err)
		}
	}
}

// expiry is a run in which a lease expires, and is given back or forgotten without a fence.
func expiry(by uint16) Trace {
	start := Sight{Sets: [maxTargets]Set{{Armed: true, Template: 2, Partition: 1, Current: 1}}}
	start.Replicas[0] = Replica{Rev: 1, Hold: true, Phase: Leased, Token: 1}
	expired := start
	expired.Replicas[0].Phase = Expired
	fenced := expired
	fenced.Replicas[0].Fence = by
	forgotten := fenced
	forgotten.Replicas[0].Phase, forgotten.Replicas[0].Token = NoLease, 0
	again := forgotten
	again.Replicas[0].Phase, again.Replicas[0].Token = Leased, 2
	return Trace{Sets: []int{1}, Start: start, Events: []Event{
		{Sight: expired, Pod: -1, Set: -1, Text: "expired"},
		{Sight: fenced, Pod: 0, Set: -1, Text: "fenced"},
		{Sight: forgotten, Pod: -1, Set: -1, Text: "forgotten"},
		{Sight: again, Pod: -1, Set: -1, Text: "granted again"},
	}}
}

func TestALeaseIsGrantedAgainAfterItsPodWasFenced(t *testing.T) {
	for by, want := range map[uint16]bool{1: true, 0: false} {
		if sum, err := Protocol.Accepts(expiry(by)); (err == nil) != want {
			t.Errorf("fenced by %d: %v, %v; want it accepted %t", by, sum, err, want)
		}
	}
}
