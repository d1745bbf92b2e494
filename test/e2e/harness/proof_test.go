package harness

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/api/v1alpha1"
)

// begun is when the histories of these tests begin; version v was seen v milliseconds later.
var begun = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func at(version int64) time.Time { return begun.Add(time.Duration(version) * time.Millisecond) }

func stamp(version int64) Stamp { return Stamp{Version: version, At: at(version)} }

// upgrade is a history in which sample-1 of three replicas, floor 2, is upgraded as it
// should be while sample-0 works.
func upgrade() *Evidence {
	e := &Evidence{
		Rosters: []Roster{{Stamp: stamp(1), Name: "sample", Floor: 2}},
		Sets: []Set{
			{Stamp: stamp(2), Name: "sample", Generation: 1, Observed: 1, Replicas: 3, Partition: Parked, UpdateRevision: "sample-a", Template: "old"},
			{Stamp: stamp(1000), Name: "sample", Generation: 2, Observed: 1, Replicas: 3, Partition: 3, UpdateRevision: "sample-a", Template: "new"},
			{Stamp: stamp(1010), Name: "sample", Generation: 2, Observed: 2, Replicas: 3, Partition: 3, UpdateRevision: "sample-b", Template: "new"},
			{Stamp: stamp(1030), Name: "sample", Generation: 3, Observed: 2, Replicas: 3, Partition: 2, UpdateRevision: "sample-b", Template: "new"},
		},
		Shifts: []Shift{{Pod: "sample-0", UID: "uid-0", From: at(50)}},
		Writes: []Write{
			ours("statefulsets", "sample", 2, Write{Partition: new(int32(3))}),
			ours("pods", "sample-1", 11, Write{Grant: new(true)}),
			ours("statefulsets", "sample", 1010, Write{Partition: new(int32(2))}),
			ours("pods", "sample-1", 1040, Write{Hold: new(false)}),
			{At: at(1060), User: Kruise, Kind: "pods", Name: "sample-1", Body: `{"image":"new"}`},
			ours("pods", "sample-1", 1090, Write{Hold: new(true), Grant: new(false)}),
		},
	}
	for i := range 3 {
		e.Pods = append(e.Pods, podAt(int64(10+i), i, func(*Pod) {}))
	}
	for _, v := range []struct {
		version int64
		change  func(*Pod)
	}{
		{1020, func(p *Pod) { p.Grant, p.Lease = true, "1/1" }},
		{1040, func(p *Pod) { p.State = "PreparingUpdate" }},
		{1050, func(p *Pod) { p.Hold = false }},
		{1060, func(p *Pod) { p.Image, p.Revision, p.State, p.Ready = "new", "sample-b", "Updating", false }},
		{1070, func(p *Pod) { p.Containers = []Container{{ID: "1"}} }},
		{1090, func(p *Pod) { p.Containers, p.Ready, p.State = []Container{{ID: "2", Running: true}}, true, "Updated" }},
		{1100, func(p *Pod) { p.Hold, p.Grant, p.Lease, p.State = true, false, "", "Normal" }},
	} {
		e.next("sample-1", v.version, v.change)
	}
	return e
}

func podAt(version int64, ordinal int, change func(*Pod)) Pod {
	p := Pod{
		Stamp: stamp(version), Name: fmt.Sprintf("sample-%d", ordinal), UID: fmt.Sprintf("uid-%d", ordinal), Image: "old",
		Revision: "sample-a", State: "Normal", Hold: true, Ready: true, Containers: []Container{{ID: "1", Running: true}},
	}
	change(&p)
	return p
}

func ours(kind, name string, base int64, w Write) Write {
	w.User, w.Kind, w.Name, w.Base = UpgraderAccount.Username(), kind, name, base
	w.At = at(base + 5)
	if kind == "pods" {
		w.UID = "uid-" + name[len(name)-1:]
	}
	return w
}

// next appends a version of a pod.
func (e *Evidence) next(name string, version int64, change func(*Pod)) {
	var last Pod
	for _, p := range e.Pods {
		if p.Name == name && p.Version < version {
			last = p
		}
	}
	last.Stamp = stamp(version)
	change(&last)
	e.Pods = append(e.Pods, last)
	slices.SortStableFunc(e.Pods, func(a, b Pod) int { return int(a.Version - b.Version) })
}

// drained makes it a history in which sample-1 is not released: its gate is closed, its lease
// ends with a version, duty is given with version 1030, and the gate is opened again later.
func drained(e *Evidence, ended int64) {
	lease := []v1alpha1.LeaseRecord{{Replica: "sample-1", ID: "1", Phase: "Leased"}}
	duty := []v1alpha1.MemberRecord{{Name: "sample-1", Assigned: true}}
	leased := e.Rosters[0]
	leased.Stamp, leased.Status.Leases = stamp(15), lease
	given := leased
	given.Stamp, given.Status.Members = stamp(1030), duty
	if ended < given.Version {
		given.Status.Leases = nil
	}
	e.Rosters = append(e.Rosters, leased, given)
	e.Writes = []Write{ours("pods", "sample-1", 11, Write{Gate: new(false)}), ours("pods", "sample-1", 1040, Write{Gate: new(true)})}
	e.Pods = slices.DeleteFunc(e.Pods, func(p Pod) bool { return p.Name == "sample-1" && p.Version > 11 })
	e.next("sample-1", 16, func(p *Pod) { p.Gate = "False" })
	e.next("sample-1", 1041, func(p *Pod) { p.Gate = "True" })
	e.Shifts = append(e.Shifts, Shift{Pod: "sample-1", UID: "uid-1", From: at(1031)})
	e.Sets = e.Sets[:1]
}

func TestProve(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Evidence)
		want   []int // the numbers of the promises that are broken
	}{
		{name: "an upgrade as it should be keeps all promises", change: func(*Evidence) {}},
		{
			name: "a hold taken off a pod whose application works breaks the first",
			change: func(e *Evidence) {
				e.Shifts = append(e.Shifts, Shift{Pod: "sample-1", UID: "uid-1", From: at(20), To: at(1047)})
			},
			want: []int{1},
		},
		{
			name: "one whose application stopped just before does not",
			change: func(e *Evidence) {
				e.Shifts = append(e.Shifts, Shift{Pod: "sample-1", UID: "uid-1", From: at(20), To: at(1044)})
			},
		},
		{
			name: "one whose earlier instance worked does not",
			change: func(e *Evidence) {
				e.Shifts = append(e.Shifts, Shift{Pod: "sample-1", UID: "uid-9", From: at(20), To: at(1047)})
			},
		},
		{
			name: "a gate closed while the application works breaks the first",
			change: func(e *Evidence) {
				e.Writes = append(e.Writes, ours("pods", "sample-0", 10, Write{Gate: new(false)}), ours("pods", "sample-0", 70, Write{Gate: new(true)}))
				e.Shifts[0].From = at(5)
				e.next("sample-0", 15, func(*Pod) {})
			},
			want: []int{1},
		},
		{
			name:   "an image changed while the application works breaks the first",
			change: func(e *Evidence) { e.next("sample-0", 900, func(p *Pod) { p.Image = "new" }) },
			want:   []int{1},
		},
		{
			name:   "a container stopped while the application works breaks the first",
			change: func(e *Evidence) { e.next("sample-0", 900, func(p *Pod) { p.Containers = []Container{{ID: "1"}} }) },
			want:   []int{1},
		},
		{
			name:   "duty that begins between release and readmission breaks the first, whichever instance has it",
			change: func(e *Evidence) { e.Shifts = append(e.Shifts, Shift{Pod: "sample-1", UID: "uid-9", From: at(1080)}) },
			want:   []int{1},
		},
		{
			name:   "duty that begins after readmission does not",
			change: func(e *Evidence) { e.Shifts = append(e.Shifts, Shift{Pod: "sample-1", UID: "uid-1", From: at(1096)}) },
		},
		{
			name:   "duty that begins while the gate is closed under a lease breaks the first",
			change: func(e *Evidence) { drained(e, 1031) },
			want:   []int{1},
		},
		{
			name:   "duty that is given by a record without the lease does not: it ran out before the point of no return",
			change: func(e *Evidence) { drained(e, 1029) },
		},
		{
			name:   "a release without a precondition breaks the first",
			change: func(e *Evidence) { e.Writes[3].UID = "" },
			want:   []int{1},
		},
		{
			name:   "a release while another has long been unready breaks the second",
			change: func(e *Evidence) { e.next("sample-2", 20, func(p *Pod) { p.Ready = false }) },
			want:   []int{2},
		},
		{
			name:   "one while another became unready just now does not",
			change: func(e *Evidence) { e.next("sample-2", 1045, func(p *Pod) { p.Ready = false }) },
		},
		{
			name:   "a release while another is being upgraded breaks the second",
			change: func(e *Evidence) { e.next("sample-2", 1045, func(p *Pod) { p.Lease = "2/2" }) },
			want:   []int{2},
		},
		{
			name: "a release of one that served nobody does not",
			change: func(e *Evidence) {
				e.next("sample-2", 20, func(p *Pod) { p.Ready = false })
				e.next("sample-1", 1041, func(p *Pod) { p.Ready = false })
				e.Writes[3] = ours("pods", "sample-1", 1041, Write{Hold: new(false)})
			},
		},
		{
			name:   "a partition below the number of the protected breaks the fourth",
			change: func(e *Evidence) { e.Sets[3].Partition, e.Writes[2].Partition = 1, new(int32(1)) },
			want:   []int{4},
		},
		{
			name:   "one that is exact for a grant that is not there does, too",
			change: func(e *Evidence) { e.next("sample-1", 1025, func(p *Pod) { p.Grant = false }) },
			want:   []int{4},
		},
		{
			name:   "one that is lowered before Kruise has seen the template does, too",
			change: func(e *Evidence) { e.Sets[2].Observed, e.Sets[3].Observed = 1, 1 },
			want:   []int{4},
		},
		{
			name: "each set is judged by its own pods",
			change: func(e *Evidence) {
				e.Sets = append(e.Sets,
					Set{Stamp: stamp(1031), Name: "other", Generation: 1, Observed: 1, Replicas: 2, Partition: Parked, UpdateRevision: "other-a", Template: "old"},
					Set{Stamp: stamp(1032), Name: "other", Generation: 2, Observed: 1, Replicas: 2, Partition: 1, UpdateRevision: "other-a", Template: "old"})
				e.Writes = append(e.Writes, ours("statefulsets", "other", 1031, Write{Partition: new(int32(1))}))
			},
			want: []int{4},
		},
		{
			name: "a floor is that of all sets together",
			change: func(e *Evidence) {
				for i := range e.Rosters {
					e.Rosters[i].Floor = 3
				}
				e.Pods = append([]Pod{podAt(9, 0, func(p *Pod) { p.Name, p.UID = "other-0", "uid-other" })}, e.Pods...)
			},
		},
		{
			name: "an ordinal that is reserved needs no protection, one beyond does",
			change: func(e *Evidence) {
				for i := range e.Sets {
					e.Sets[i].Ordinals = []int{0, 1, 3}
				}
				e.Sets[3].Partition, e.Writes[2].Partition = 1, new(int32(1))
			},
			want: []int{4},
		},
		{
			name: "a hold taken off because the plan is deleted is no release",
			change: func(e *Evidence) {
				e.Plans = []Plan{{Stamp: stamp(1200), Name: "sample", Deleting: true}}
				e.Writes = append(e.Writes, ours("pods", "sample-0", 10, Write{Hold: new(false)}))
				e.Pods = slices.DeleteFunc(e.Pods, func(p Pod) bool { return p.Name == "sample-0" })
				e.Pods = append(e.Pods, podAt(10, 0, func(*Pod) {}), podAt(1300, 0, func(p *Pod) { p.Hold = false }))
				slices.SortStableFunc(e.Pods, func(a, b Pod) int { return int(a.Version - b.Version) })
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := upgrade()
			c.change(e)
			var got []int
			for _, v := range e.Prove() {
				t.Log(v)
				if !slices.Contains(got, v.Promise) {
					got = append(got, v.Promise)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("broken promises (-want +got):\n%s", diff)
			}
		})
	}
}
