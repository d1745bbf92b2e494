package harness

import (
	"errors"
	"flag"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"offduty.dev/docs/protocol"
)

// histories is a folder with more recordings, as -artifacts leaves them.
var histories = flag.String("histories", "", "hold the recordings in this folder, too, against docs/protocol")

// recorded is the evidence of a real run on test/cluster.
func recorded(t *testing.T, name string) Evidence {
	t.Helper()
	e, err := ReadEvidence("testdata/" + name + ".json.gz")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestOtherRecordings tells how it stands with each recording in the folder that was given.
func TestOtherRecordings(t *testing.T) {
	if *histories == "" {
		t.Skip("no folder was given with -histories")
	}
	err := filepath.WalkDir(*histories, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".json.gz") {
			return err
		}
		t.Run(path, func(t *testing.T) {
			e, err := ReadEvidence(path)
			if err != nil {
				t.Fatal(err)
			}
			sum, err := e.Behaves(Group)
			t.Log(sum)
			if err != nil {
				t.Error(err)
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRealRunsAreBehavioursOfTheModel: the first three were recorded by hand, the others in rounds
// of test/chaos, where they once were none (of the requests only the keys are left).
func TestRealRunsAreBehavioursOfTheModel(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json.gz")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no recordings: %v", err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".json.gz")
		t.Run(name, func(t *testing.T) {
			sum, err := recorded(t, name).Behaves(Group)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(sum)
			if sum.Events < 30 {
				t.Errorf("only %d events were judged", sum.Events)
			}
		})
	}
}

// find returns the place of the first event that is, and that comes after another.
func find(t *testing.T, events []protocol.Event, after int, is func(protocol.Event) bool) int {
	t.Helper()
	i := slices.IndexFunc(events[after:], is)
	if i < 0 {
		t.Fatal("the recording has no such event")
	}
	return after + i
}

// doctored is a recording in which something was changed that must not happen.
type doctored struct {
	name   string
	doctor func(t *testing.T, events []protocol.Event) []protocol.Event
	says   string
}

func doctoredHistories() []doctored {
	// In the recording replica 1 is the first whose hold is released.
	const replica = 1
	pinned := func(e protocol.Event) bool { return e.Replicas[replica].Phase == protocol.Pinned }
	released := func(e protocol.Event) bool { return e.Pod == replica && pinned(e) && !e.Replicas[replica].Hold }
	return []doctored{
		{
			"a hold is released before the pin",
			func(t *testing.T, events []protocol.Event) []protocol.Event {
				t.Helper()
				at := find(t, events, 0, released)
				// The pin comes one event after the release.
				for i := find(t, events, 0, pinned); i <= at; i++ {
					events[i].Replicas[replica].Phase = protocol.Leased
				}
				return events
			},
			"written by the upgrader",
		},
		{
			"a hold is taken off by nobody who may",
			func(t *testing.T, events []protocol.Event) []protocol.Event {
				t.Helper()
				events[find(t, events, 0, released)].By = protocol.System
				return events
			},
			"pod sample-1",
		},
		{
			"a lease is given back before the replica is readmitted",
			func(t *testing.T, events []protocol.Event) []protocol.Event {
				t.Helper()
				from := find(t, events, 0, released) + 1
				to := find(t, events, from, func(e protocol.Event) bool { return e.Replicas[replica].Phase == protocol.NoLease })
				for i := from; i < to; i++ {
					events[i].Replicas[replica].Phase, events[i].Replicas[replica].Token = protocol.NoLease, 0
				}
				return events
			},
			"",
		},
		{
			"the partition is lowered by one too many",
			func(t *testing.T, events []protocol.Event) []protocol.Event {
				t.Helper()
				low := func(e protocol.Event) bool { return e.Sets[0].Partition == 3 }
				at := find(t, events, 0, low)
				for i := range events[at:] {
					events[at+i].Sets[0].Partition = 2
				}
				return events
			},
			"set sample",
		},
		{
			"a leased replica gets duty",
			func(t *testing.T, events []protocol.Event) []protocol.Event {
				t.Helper()
				at := find(t, events, 0, pinned)
				for i := range events[at:] {
					events[at+i].Replicas[replica].Working = true
				}
				return events
			},
			"roster",
		},
		{
			"Kruise updates a replica that is held",
			func(t *testing.T, events []protocol.Event) []protocol.Event {
				t.Helper()
				events = slices.Delete(events, find(t, events, 0, released), find(t, events, 0, released)+1)
				for i := range events {
					if r := &events[i].Replicas[replica]; r.Rev == 1 && pinned(events[i]) {
						r.Hold = true
					}
				}
				return events
			},
			"",
		},
	}
}

func TestDoctoredHistoriesAreNoBehaviours(t *testing.T) {
	for _, tt := range doctoredHistories() {
		t.Run(tt.name, func(t *testing.T) {
			traces, err := recorded(t, "worked-example").Traces(Group)
			if err != nil {
				t.Fatal(err)
			}
			trace := traces[0]
			trace.Events = tt.doctor(t, trace.Events)
			_, err = protocol.Protocol.Accepts(trace)
			if _, ok := errors.AsType[*protocol.Rejection](err); !ok {
				t.Fatalf("got %v, want a rejection", err)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("it does not tell of %q: %v", tt.says, err)
			}
			t.Log(err)
		})
	}
}

func TestWhatTheModelDoesNotCoverIsSaid(t *testing.T) {
	e := recorded(t, "worked-example")
	for i := range e.Rosters {
		e.Rosters[i].Status.Frozen = true
	}
	if _, err := e.Behaves(Group); !errors.Is(err, ErrUnfit) {
		t.Errorf("got %v, want ErrUnfit", err)
	}
}

func TestAHistoryGoesOnAfterItWasCut(t *testing.T) {
	traces, err := recorded(t, "scaled").Traces(Group)
	if err != nil {
		t.Fatal(err)
	}
	if len(traces) < 2 {
		t.Fatalf("got %d traces, want one for each number of replicas", len(traces))
	}
	last := traces[len(traces)-1]
	// Also there nobody may lower the partition at will.
	at := find(t, last.Events, 0, func(e protocol.Event) bool { return e.Set >= 0 && e.Sets[0].Partition == last.Start.Sets[0].Partition })
	for i := range last.Events[at:] {
		last.Events[at+i].Sets[0].Partition = 0
	}
	if _, err := protocol.Protocol.Accepts(last); err == nil {
		t.Error("a partition that is lowered for nobody is accepted after a cut")
	}
}
