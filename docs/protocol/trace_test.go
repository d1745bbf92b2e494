package protocol

import (
	"errors"
	"testing"
)

// successor is a run in which leader 1 takes over while replica 0 is selected under leader 0's
// token and replica 1 is released: to leader 1 only the second is selected.
func successor(partition uint8) Trace {
	start := Sight{Sets: [maxTargets]Set{{Armed: true, Template: 2, Partition: 0, Current: 1}}}
	start.Replicas[0] = Replica{Rev: 1, Hold: true, Grant: true, State: Preparing, Note: 1, Phase: Leased, Token: 1}
	start.Replicas[1] = Replica{Rev: 1, Grant: true, State: Preparing, Note: 2, Phase: Pinned, Token: 2}
	adopted := start
	adopted.Lead, adopted.Replicas[0].Token, adopted.Replicas[1].Token = 1, 3, 4
	raised := adopted
	raised.Sets[0].Partition, raised.Sets[0].Term = partition, 1
	return Trace{Sets: []int{2}, Start: start, Events: []Event{
		{Sight: adopted, Pod: -1, Set: -1, Text: "adopted"},
		{Sight: raised, By: Upgrader, Pod: -1, Set: 0, Text: "the partition is set"},
	}}
}

func TestANewLeaderRaisesThePartitionAndPutsItsTermOnTheSetInOneWrite(t *testing.T) {
	for partition, want := range map[uint8]bool{
		0: true, // its term alone
		1: true, // whom it has not granted anything is not selected
		2: false,
	} {
		sum, err := Protocol.Accepts(successor(partition))
		if want && err != nil || !want && !errors.As(err, new(*Rejection)) {
			t.Errorf("to %d: %v, %v; want it accepted %t", partition, sum, err, want)
		}
	}
}
