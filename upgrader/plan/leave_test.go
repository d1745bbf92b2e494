package plan

import (
	"testing"
	"time"
)

func TestLeaving(t *testing.T) {
	leaving := func(mut func(w *World)) func() *World {
		return func() *World {
			w := rollout(3)
			w.Policy.Deleting = true
			w.web().Partition = Parked
			mut(w)
			return w
		}
	}
	settled := func(w *World) {
		w.web().Partition, w.web().Returning = 3, true
		for j := range w.web().Pods {
			w.pod(j).Hold, w.pod(j).Verified = false, ""
		}
	}
	gone := func(w *World) {
		*w.web() = Target{Name: "web", Gone: true, Blocked: &Blocker{Reason: TargetNotFound, Message: "gone"}}
		w.Arbiter.Blocked = &Blocker{Reason: ArbiterUnreachable, Message: "no answer", Retry: true}
		w.Arbiter.Orphans = []Lease{{ID: "L", Replica: "ns/web-0"}}
	}
	unread := func(newer bool) func(w *World) {
		return func(w *World) {
			w.web().Armed, w.web().Unread, w.web().Newer = false, true, newer
			w.web().Blocked = &Blocker{Reason: TargetNotSupported, Message: "it cannot be read"}
			w.addTarget("db", 1)
			w.Targets[1].Partition = Parked
		}
	}
	run(t, []test{
		{
			name:  "a plan whose annotation cannot be read stays, and gives its other sets back",
			world: leaving(unread(false)),
			want:  []string{"apply db partition 1 (Leaving) returning"}, reason: TargetNotSupported, stalled: true,
		},
		{
			name:   "a plan that a newer upgrader has begun to give back is left to that, all its sets",
			world:  leaving(unread(true)),
			reason: TargetNotSupported, stalled: true,
		},
		{
			name:   "a plan whose targets are gone waits for its arbiter, to give its leases back",
			world:  leaving(func(w *World) { gone(w); w.Policy.DeletingSince = now.Add(-time.Minute) }),
			reason: ArbiterUnreachable, says: "cannot be released",
		},
		{
			name:  "but not for ever",
			world: leaving(func(w *World) { gone(w); w.Policy.DeletingSince = now.Add(-time.Hour) }),
			want:  []string{"leave untold"}, reason: Leaving, says: "cannot be told",
		},
		{
			name: "nor is it silence when the connection is only just being made",
			world: leaving(func(w *World) {
				gone(w)
				w.Policy.DeletingSince, w.Arbiter.Blocked.Reason = now.Add(-2*time.Hour), Connecting
			}),
			reason: Connecting, says: "cannot be released",
		},
		{
			name: "a set that was lost with a lease on it is taken over once more, to give that back in order",
			world: leaving(func(w *World) {
				w.web().Armed = false
				w.pod(1).note()
			}),
			want: []string{"apply web partition 2147483647 (Arming) proven v1"}, reason: Arming,
		},
		{
			name: "one that another plan has meanwhile is named: somebody must end the lease",
			world: leaving(func(w *World) {
				w.web().Armed, w.web().Blocked = false, &Blocker{Reason: TargetTaken, Message: "it belongs to another"}
				w.pod(1).lease()
			}),
			reason: TargetTaken, stalled: true, says: "by force",
		},
		{
			name: "a plan whose set is there waits for its arbiter as long as it takes",
			world: leaving(func(w *World) {
				settled(w)
				w.Arbiter.Blocked = &Blocker{Reason: ArbiterUnreachable, Message: "no answer"}
				w.Policy.DeletingSince = now.Add(-time.Hour)
				w.web().Armed = false
			}),
			reason: ArbiterUnreachable, says: "cannot be released", stalled: true,
		},
		{
			name:  "the partition never goes below what protects, whatever it was before",
			world: leaving(func(w *World) { w.pod(2).Revision, w.pod(2).Verified = "v2", "v2" }),
			want:  []string{"apply web partition 2 (Leaving) returning"}, reason: Leaving,
		},
		{
			name:  "a partition that was higher before is restored",
			world: leaving(func(w *World) { w.web().OriginalPartition = 7 }),
			want:  []string{"apply web partition 7 (Leaving) returning"}, reason: Leaving,
		},
		{
			name:   "the holds stay until Kruise has seen the partition",
			world:  leaving(func(w *World) { w.web().Partition, w.web().Observed = 3, false }),
			reason: WaitingForKruise,
		},
		{
			name:  "no hold goes before the set says that it is given back, also when its partition is right",
			world: leaving(func(w *World) { w.web().Partition = 3 }),
			want:  []string{"apply web partition 3 (Leaving) returning"}, reason: Leaving,
		},
		{
			name:  "a new leader puts its term on a set that is being given back before it goes on",
			world: leaving(func(w *World) { settled(w); w.Term = 2 }),
			want:  []string{"apply web partition 3 (Arming)"}, reason: Arming,
		},
		{
			name: "the partition is raised, and not lowered, while a set is given back",
			world: leaving(func(w *World) {
				settled(w)
				w.web().Partition = 5
				w.pod(2).Revision = "v2"
			}),
			want: []string{"disarm web"}, reason: Leaving,
		},
		{
			name: "then the holds go",
			world: leaving(func(w *World) {
				w.web().Partition, w.web().Returning = 3, true
				w.pod(2).Hold, w.pod(2).Verified = false, ""
			}),
			want: []string{
				"patch web-0 hold=false working= verified=",
				"patch web-1 hold=false working= verified=",
			},
			reason: Leaving,
		},
		{
			name: "what an ended lease left on a replica goes, also when the template came back to it unverified",
			world: leaving(func(w *World) {
				r := w.pod(1).grant()
				r.Revision, r.Verified, r.Lease = "v2", "", nil
			}),
			want: []string{"patch web-1 grant=false note="}, reason: Undoing, says: "web-1",
		},
		{
			name: "who is past the point of no return gets room in the partition when another was lost and came back new",
			world: leaving(func(w *World) {
				w.pod(0).reborn("v2")
				w.pod(1).release()
				w.web().Partition = 2
			}),
			want: []string{"apply web partition 1 (Selecting)"}, reason: Updating, says: "web-1",
		},
		{
			name: "but not while an old one has lost its hold: Kruise could take that",
			world: leaving(func(w *World) {
				w.pod(0).reborn("v1")
				w.pod(1).release()
				w.web().Partition = Parked
			}),
			reason: Updating, says: "web-1",
		},
		{
			name:  "then the rest of what was taken over",
			world: leaving(settled),
			want:  []string{"disarm web"}, reason: Leaving,
		},
		{
			name:  "then the plan itself",
			world: leaving(func(w *World) { settled(w); w.web().Armed = false }),
			want:  []string{"leave, bar web"}, reason: Leaving,
		},
		{
			name: "also when the arbiter was told before, and does not take the plan up again",
			world: leaving(func(w *World) {
				settled(w)
				w.web().Armed, w.Arbiter.Adopted = false, false
				w.Arbiter.Blocked, w.Arbiter.Again = &Blocker{Reason: HolderRetired, Message: "gone"}, now
			}),
			want: []string{"leave, bar web"}, reason: Leaving,
		},
		{
			name: "a set that it always had to leave alone is not touched",
			world: leaving(func(w *World) {
				settled(w)
				w.web().Armed, w.web().Listed = false, false
			}),
			want: []string{"leave"}, reason: Leaving,
		},
		{
			name: "a plan whose target is gone leaves at once",
			world: leaving(func(w *World) {
				*w.web() = Target{Name: "web", Gone: true, Blocked: &Blocker{Reason: TargetNotFound, Message: "gone"}}
			}),
			want: []string{"leave"}, reason: Leaving,
		},
		{
			name:   "a released replica is finished first",
			world:  leaving(func(w *World) { w.pod(2).release(); w.web().Partition = 2 }),
			reason: Updating, says: "web-2",
		},
		{
			name:  "also when the partition had to be raised meanwhile",
			world: leaving(func(w *World) { w.pod(2).release() }),
			want:  []string{"apply web partition 2 (Selecting)"}, reason: Updating, says: "web-2",
		},
		{
			name:   "but not while a pod has no hold, which it does not get any more",
			world:  leaving(func(w *World) { w.pod(2).release(); w.pod(0).Hold = false }),
			reason: Updating, says: "web-2",
		},
		{
			name: "one that failed is given up, too, when the group is gone and its lease with it",
			world: leaving(func(w *World) {
				w.Arbiter = Arbiter{Blocked: &Blocker{Reason: GroupNotFound, Message: "no such group"}}
				r := w.pod(2).update()
				r.Lease, r.Fit, r.State = nil, false, StateUpdating
				w.web().Partition, r.LastStep, r.LastSince = 2, StepFailed, now.Add(-time.Hour)
			}),
			want: []string{"patch web-2 grant=false note="}, reason: Undoing,
		},
		{
			name: "a released replica that failed is given up: nothing may choose it any more",
			world: leaving(func(w *World) {
				r := w.pod(2).release()
				w.web().Partition, r.LastStep, r.LastSince = 2, StepReleased, now.Add(-time.Hour)
			}),
			want: []string{"apply web partition 3 (WaitingForKruise)"}, reason: Undoing,
		},
		{
			name: "then its marks go",
			world: leaving(func(w *World) {
				r := w.pod(2).release()
				w.web().Partition, r.LastStep, r.LastSince = 3, StepReleased, now.Add(-time.Hour)
			}),
			want: []string{"patch web-2 grant=false state=Normal note= fence=7"}, reason: Undoing,
		},
		{
			name: "then its lease ends",
			world: leaving(func(w *World) {
				r := w.pod(2).pin()
				w.web().Partition, r.Hold, r.Fenced = 3, false, 7
			}),
			want: []string{"release L-web-2 undone"}, reason: Undoing,
		},
		{
			name: "a replica that failed at the new revision is given up with its marks off",
			world: leaving(func(w *World) {
				r := w.pod(2).update()
				r.Fit, r.State = false, StateUpdating
				w.web().Partition, r.LastStep, r.LastSince = 2, StepFailed, now.Add(-time.Hour)
			}),
			want: []string{"patch web-2 grant=false note= fence=7"}, reason: Undoing,
		},
		{
			name: "and its lease ends, although it is not well",
			world: leaving(func(w *World) {
				r := w.pod(2).update()
				r.Fit, r.State, r.Grant, r.Note, r.Fenced = false, StateUpdating, false, Note{}, 7
				w.web().Partition, r.LastStep, r.LastSince = 2, StepFailed, now.Add(-time.Hour)
			}),
			want: []string{"release L-web-2 undone"}, reason: Undoing,
		},
		{
			name:  "a plan that never adopted does so first, to give its leases back",
			world: leaving(func(w *World) { settled(w); w.web().Armed, w.Arbiter.Adopted = false, false }),
			want:  []string{"adopt"}, reason: Leaving,
		},
		{
			name: "a worker that came back new is not marked while the plan leaves",
			world: leaving(func(w *World) {
				w.web().Partition, w.web().Returning = 2, true
				w.pod(2).Revision, w.pod(2).Verified, w.pod(2).Duty, w.pod(2).Hold = "v2", "", Working, false
				w.pod(0).Hold, w.pod(0).Verified, w.pod(1).Hold, w.pod(1).Verified = false, "", false, ""
			}),
			want: []string{"disarm web"}, reason: Leaving,
		},
		{
			name: "a gate is opened before the hold goes, each in its own patch",
			world: leaving(func(w *World) {
				settled(w)
				w.pod(2).Hold = true
				w.pod(2).gated(false)
			}),
			want: []string{"patch web-2 gate=true"}, reason: Leaving,
		},
	})
}

// A target that is taken out of a plan is given back as by a plan that is deleted, while the
// plan goes on.
func TestATargetThatIsTakenOut(t *testing.T) {
	dropped := func(mut func(w *World)) func() *World {
		return func() *World {
			w := rollout(2)
			w.addTarget("db", 2)
			w.complete()
			old := &w.Targets[1]
			old.Leaving, old.CurrentRevision = true, "v1"
			for j := range old.Pods {
				old.Pods[j].Revision, old.Pods[j].Verified = "v1", "v1"
			}
			mut(w)
			return w
		}
	}
	returning := func(w *World) { w.Targets[1].Partition, w.Targets[1].Returning = 2, true }
	db := func(w *World) *Replica { return &w.Targets[1].Pods[0] }
	run(t, []test{
		{
			name:  "its partition is restored, as far as it protects",
			world: dropped(func(*World) {}),
			want:  []string{"apply db partition 2 (Leaving) returning"}, reason: Leaving,
		},
		{
			name:  "its idle replicas are not leased any more",
			world: dropped(returning),
			want:  []string{"patch db-0 hold=false working= verified=", "patch db-1 hold=false working= verified="}, reason: Leaving,
		},
		{
			name:  "one that can be taken back is, before its lease ends",
			world: dropped(func(w *World) { w.Targets[1].Partition = 2; db(w).chosen() }),
			want:  []string{"patch db-0 grant=false state=Normal note= fence=7"}, reason: Undoing, says: "Leaving",
		},
		{
			name:   "one past the point of no return is finished, and keeps its lease meanwhile",
			world:  dropped(func(w *World) { w.Targets[1].Partition = 1; db(w).release() }),
			reason: Updating, says: "db-0",
		},
		{
			name: "a new leader adopts first what it is to give back",
			world: dropped(func(w *World) {
				w.Targets[1].Partition, w.Arbiter.Adopted = 2, false
				db(w).pin().Fenced, db(w).Hold = 7, false
			}),
			want: []string{"adopt"}, reason: Undoing,
		},
		{
			name: "one that was named again meanwhile is given back to the end: who took a hold off may be frozen",
			world: func() *World {
				w := rollout(3)
				w.web().Leaving, w.web().Returning, w.web().Partition = true, true, 3
				w.pod(0).Hold, w.pod(0).Verified = false, ""
				return w
			},
			want: []string{"patch web-1 hold=false working= verified=", "patch web-2 hold=false working= verified="}, reason: Leaving,
		},
		{
			name: "then it is disarmed",
			world: dropped(func(w *World) {
				returning(w)
				for j := range w.Targets[1].Pods {
					w.Targets[1].Pods[j].Hold, w.Targets[1].Pods[j].Verified = false, ""
				}
			}),
			want: []string{"disarm db"}, reason: Leaving,
		},
		{
			name:  "one that is not armed is barred: a former leader may be about to take it over",
			world: dropped(func(w *World) { w.Targets[1].Armed = false }),
			want:  []string{"bar db"}, reason: Leaving,
		},
		{
			name: "nobody can be about to, if the plan always had to leave it alone",
			world: dropped(func(w *World) {
				w.Targets[1].Armed, w.Targets[1].Listed = false, false
			}),
			reason: Complete,
		},
	})
}
