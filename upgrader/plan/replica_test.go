package plan

import (
	"testing"
	"time"
)

func TestForward(t *testing.T) {
	run(t, []test{
		{
			name:  "a leased replica without our gate is noted and granted in one patch",
			world: func() *World { w := rollout(2); w.pod(1).lease().Working = "true"; return w },
			want:  []string{"patch web-1 grant=true working=false note=L-web-1"}, reason: Draining,
		},
		{
			name:  "a leased replica with our gate is noted and its gate closed in one patch",
			world: func() *World { w := rollout(2); w.pod(1).gated(true).lease(); return w },
			want:  []string{"patch web-1 gate=false note=L-web-1"}, reason: Draining,
		},
		{
			name:   "a lease that is not confirmed yet closes no gate",
			world:  func() *World { w := rollout(2); w.pod(1).gated(true).lease().Lease.Valid = false; return w },
			reason: WaitingForLease, says: "web-1",
		},
		{
			name:   "a replica whose traffic has not left is not selected",
			world:  func() *World { w := rollout(2); w.pod(1).gated(false).note(); return w },
			reason: Draining, says: "web-1",
		},
		{
			name:  "a replica is selected as soon as it is drained",
			world: func() *World { w := rollout(2); w.pod(1).gated(false).note().Ready = false; return w },
			want:  []string{"patch web-1 grant=true"}, reason: Selecting,
		},
		{
			name: "a replica is selected when its drain has taken its time",
			world: func() *World {
				w := rollout(2)
				w.pod(1).gated(false).note().GateSince = now.Add(-time.Minute)
				return w
			},
			want: []string{"patch web-1 grant=true"}, reason: Selecting,
		},
		{
			name:   "a selected replica waits until Kruise has chosen it",
			world:  func() *World { w := rollout(2); w.pod(1).grant(); w.web().Partition = 1; return w },
			reason: Selecting, says: "has not yet chosen web-1",
		},
		{
			name:  "the hold is released when Kruise has chosen exactly our replica",
			world: func() *World { w := rollout(2); w.pod(1).chosen(); w.web().Partition = 1; return w },
			want:  []string{"commit web-1 L-web-1 pinned=false"}, reason: Releasing,
		},
		{
			name: "a pin that was made before a crash is used",
			world: func() *World {
				w := rollout(2)
				w.pod(1).chosen().Lease.Pinned = true
				w.web().Partition = 1
				return w
			},
			want: []string{"commit web-1 L-web-1 pinned=true"}, reason: Releasing,
		},
		{
			name: "no hold is released while the arbiter cannot be asked",
			world: func() *World {
				w := rollout(2)
				w.pod(1).chosen()
				w.web().Partition = 1
				w.Arbiter.Blocked = &Blocker{Reason: ArbiterUnreachable, Message: "gone", Retry: true}
				return w
			},
			reason: ArbiterUnreachable, says: "gone",
		},
		{
			name:  "a note with an older token is written anew, so that an old leader's writes conflict",
			world: func() *World { w := rollout(2); w.pod(1).chosen().Lease.Token = 9; return w },
			want:  []string{"patch web-1 grant=true note=L-web-1"}, reason: Draining,
		},
		{
			name:  "a hold that is not on is not taken for released without grant and note",
			world: func() *World { w := rollout(2); w.pod(1).note().Hold = false; return w },
			want:  []string{"patch web-1 hold=true state=Updated"}, reason: Holding,
		},
	})
}

func TestUndo(t *testing.T) {
	chosen := func(mut func(w *World, r *Replica)) func() *World {
		return func() *World {
			w := rollout(2)
			w.pod(1).chosen()
			w.web().Partition = 1
			mut(w, w.pod(1))
			return w
		}
	}
	raise := []string{"apply web partition 2 (WaitingForKruise)"}
	undo := []string{"patch web-1 grant=false state=Normal note= fence=7"}
	run(t, []test{
		{name: "a lost lease raises the partition first", world: chosen(func(_ *World, r *Replica) { r.Lease.Lost, r.Lease.Valid = true, false }), want: raise, reason: Undoing},
		{name: "a changed duty raises the partition first", world: chosen(func(_ *World, r *Replica) { r.Duty = Working }), want: raise, reason: Undoing},
		{name: "another pod under the lease raises the partition first", world: chosen(func(_ *World, r *Replica) { r.Lease.Instance = "u9" }), want: raise, reason: Undoing},
		{name: "a pause raises the partition first", world: chosen(func(w *World, _ *Replica) { w.Policy.Paused = true }), want: raise, reason: Paused},
		{name: "the deletion of the plan raises the partition first", world: chosen(func(w *World, _ *Replica) { w.Policy.Deleting = true }), want: raise, reason: Undoing},
		{name: "new images raise the partition first", world: chosen(func(w *World, _ *Replica) { w.web().TemplatePending = true }), want: raise, reason: Undoing},
		{
			name:  "a lease that ended raises the partition first",
			world: chosen(func(_ *World, r *Replica) { r.Lease = nil }), want: raise, reason: Undoing,
		},
		{
			name: "no pod is written before Kruise has seen the raised partition",
			world: chosen(func(w *World, r *Replica) {
				r.Lease.Lost, w.web().Partition, w.web().Observed = true, 2, false
			}),
			reason: WaitingForKruise,
		},
		{
			name:  "then the pod is put back, with the state that Kruise would leave for ever",
			world: chosen(func(w *World, r *Replica) { r.Lease.Lost, w.web().Partition = true, 2 }),
			want:  undo, reason: Undoing, says: "LeaseLost",
		},
		{
			name: "then its gate is opened",
			world: chosen(func(w *World, r *Replica) {
				w.web().Partition = 2
				r.Grant, r.Note, r.State, r.Duty, r.Fenced = false, Note{}, StateNormal, Working, 7
				r.Working = "false"
				r.gated(false)
			}),
			want: []string{"patch web-1 gate=true"}, reason: Undoing, says: "DutyChanged",
		},
		{
			name: "a lease under which nothing was done yet is fenced on the pod all the same",
			world: chosen(func(w *World, r *Replica) {
				w.web().Partition = 2
				r.Grant, r.Note, r.State, r.Duty = false, Note{}, StateNormal, Working
			}),
			want: []string{"patch web-1 fence=7"}, reason: Undoing,
		},
		{
			name:  "a lease that is void on the pod is not acted under, fresh as the pod may be",
			world: chosen(func(_ *World, r *Replica) { r.Fenced = 7 }), want: raise, reason: Undoing,
		},
		{
			name: "what was asked for long ago, or by another leader, is given back before anything is begun: the pod first",
			world: chosen(func(w *World, r *Replica) {
				w.web().Partition = 2
				r.Grant, r.Note, r.State, r.Lease.Outdated = false, Note{}, StateNormal, true
			}),
			want: []string{"patch web-1 fence=7"}, reason: Undoing, says: "LeaseOutdated",
		},
		{
			name: "and then the lease, of which the arbiter's conversation hears that it was of no use",
			world: chosen(func(w *World, r *Replica) {
				w.web().Partition = 2
				r.Grant, r.Note, r.State, r.Lease.Outdated, r.Fenced = false, Note{}, StateNormal, true, 7
			}),
			want: []string{"release L-web-1 unused"}, reason: Undoing, says: "LeaseOutdated",
		},
		{
			name:  "what was begun is gone on with, however long ago it was asked for: the pin looks at the floor",
			world: chosen(func(_ *World, r *Replica) { r.Lease.Outdated = true }),
			want:  []string{"commit web-1 L-web-1 pinned=false"}, reason: Releasing,
		},
		{
			name:  "a leader that meets a later token stops",
			world: chosen(func(_ *World, r *Replica) { r.Note.Token = 9 }), reason: Succeeded,
		},
		{
			name: "and the lease is released last",
			world: chosen(func(w *World, r *Replica) {
				w.web().Partition = 2
				r.Grant, r.Note, r.State, r.Duty, r.Fenced = false, Note{}, StateNormal, Working, 7
			}),
			want: []string{"release L-web-1 undone"}, reason: Undoing,
		},
		{
			name: "what was verified before the template moved on is not told to the arbiter: it is verified again if the template comes back",
			world: func() *World {
				w := rollout(2)
				w.web().UpdateRevision = "v3"
				readmitted(w.pod(1)).Fenced = 7
				return w
			},
			want: []string{"release L-web-1 undone"}, reason: Undoing,
		},
		{
			name:  "a duty that is not known for a moment takes nothing back, as the pin asks again",
			world: chosen(func(_ *World, r *Replica) { r.Duty = Unknown }),
			want:  []string{"commit web-1 L-web-1 pinned=false"}, reason: Releasing,
		},
		{
			name:  "what an ended lease left on a pod is cleaned up",
			world: chosen(func(w *World, r *Replica) { r.Lease, w.web().Partition = nil, 2 }),
			want:  []string{"patch web-1 grant=false state=Normal note=", "acquire 1 of web-0"}, reason: Undoing,
		},
		{
			name: "a choice that a reverted template left behind is for Kruise to take back",
			world: func() *World {
				w := rollout(2)
				w.complete()
				w.pod(1).State = StatePreparingUpdate
				return w
			},
			reason: WaitingForKruise, says: "web-1",
		},
		{
			name: "a released replica is not taken back, whatever happens",
			world: func() *World {
				w := rollout(2)
				w.pod(1).release().Duty = Working
				w.pod(1).Lease.Instance = "u9"
				w.Policy.Paused, w.web().Partition = true, 1
				return w
			},
			reason: Paused,
		},
	})
}

func TestAfterRelease(t *testing.T) {
	old := now.Add(-11 * time.Minute)
	bad := &Blocker{Reason: "ImagePullBackOff", Message: "image web:broken"}
	run(t, []test{
		{
			name:   "an update that Kruise has not finished is waited for",
			world:  func() *World { w := rollout(2); w.pod(1).update().State = StateUpdating; return w },
			reason: Verifying, says: "web-1",
		},
		{
			name:   "containers that still run their old image are waited for",
			world:  func() *World { w := rollout(2); w.pod(1).update().UpdateDone = false; return w },
			reason: Verifying,
		},
		{
			name: "a replica is not good before it was ready for long enough",
			world: func() *World {
				w := rollout(2)
				w.Policy.MinReady = time.Minute
				w.pod(1).update().FitSince = now.Add(-59 * time.Second)
				return w
			},
			reason: Verifying,
		},
		{
			name:  "a node whose clock is ahead of ours delays nothing when no time of readiness is wanted",
			world: func() *World { w := rollout(2); w.pod(1).update().FitSince = now.Add(time.Minute); return w },
			want:  []string{"patch web-1 hold=true grant=false verified=v2 note= fence=7"}, reason: Readmitting,
		},
		{
			name: "that a released replica was verified is not believed: somebody else has written it",
			world: func() *World {
				w := rollout(2)
				r := w.pod(1).update()
				r.UpdateDone, r.Verified = false, "v2"
				return w
			},
			reason: Verifying,
		},
		{
			name:   "an application that feels unwell is believed",
			world:  func() *World { w := rollout(2); w.pod(1).update().Unhealthy = true; return w },
			reason: Verifying,
		},
		{
			name:  "a good replica gets its hold back and gives up its grant",
			world: func() *World { w := rollout(2); w.pod(1).update(); return w },
			want:  []string{"patch web-1 hold=true grant=false verified=v2 note= fence=7"}, reason: Readmitting,
		},
		{
			name:   "its gate stays closed until Kruise has seen the hold",
			world:  func() *World { w := rollout(2); readmitted(w.pod(1).gated(false)).State = StateUpdated; return w },
			reason: Readmitting, says: "has not yet seen the hold",
		},
		{
			name:  "then its gate opens",
			world: func() *World { w := rollout(2); readmitted(w.pod(1).gated(false)); return w },
			want:  []string{"patch web-1 gate=true"}, reason: Readmitting,
		},
		{
			name:  "then its lease is released with what was reached",
			world: func() *World { w := rollout(2); readmitted(w.pod(1).gated(true)); return w },
			want:  []string{"release L-web-1 upgraded v2"}, reason: Readmitting,
		},
		{
			name:  "a verification that did not end the lease is not ours",
			world: func() *World { w := rollout(2); readmitted(w.pod(1)).Fenced = 6; return w },
			want:  []string{"patch web-1 state=Updated verified=v2 fence=7"}, reason: Readmitting,
		},
		{
			name: "nor is one on a replica that came back new and is leased to be verified",
			world: func() *World {
				w := rollout(2)
				r := w.pod(1).reborn("v2").lease()
				r.Hold, r.Verified = true, "v2"
				return w
			},
			reason: Verifying, says: "not yet well",
		},
		{
			name: "the reason of the pod stands in the plan while it may still recover",
			world: func() *World {
				w := rollout(2)
				r := w.pod(1).update()
				r.Fit, r.UpdateDone, r.State, r.Trouble = false, false, StateUpdating, bad
				return w
			},
			reason: "ImagePullBackOff", says: "image web:broken",
		},
		{
			name: "a broken image stops further leases",
			world: func() *World {
				w := rollout(3)
				w.Policy.MaxUnavailable = 3
				r := w.pod(1).update()
				r.Fit, r.UpdateDone, r.State, r.Trouble = false, false, StateUpdating, bad
				return w
			},
			reason: "ImagePullBackOff",
		},
		{
			name: "a replica that does not become well in time has failed and stays pinned",
			world: func() *World {
				w := rollout(3)
				w.Policy.MaxUnavailable = 3
				r := w.pod(1).update()
				r.Fit, r.UpdateDone, r.State, r.Trouble = false, false, StateUpdating, bad
				r.LastStep, r.LastSince = StepVerifying, old
				return w
			},
			reason: ReplicaFailed, says: "set an image that works", stalled: true,
		},
		{
			name: "an update that never starts has failed, too",
			world: func() *World {
				w := rollout(2)
				r := w.pod(1).release()
				w.web().Partition, r.LastStep, r.LastSince = 1, StepReleased, old
				return w
			},
			reason: ReplicaFailed, stalled: true,
		},
		{
			name: "a failed replica that recovers goes on",
			world: func() *World {
				w := rollout(2)
				r := w.pod(1).update()
				r.LastStep, r.LastSince = StepFailed, old
				return w
			},
			want: []string{"patch web-1 hold=true grant=false verified=v2 note= fence=7"}, reason: Readmitting,
		},
		{
			name: "a lost pod that came back broken at the new revision stops further leases, too",
			world: func() *World {
				w := rollout(3)
				r := w.pod(1).reborn("v2")
				r.Hold, r.Duty, r.Trouble = true, Unknown, bad
				return w
			},
			reason: "ImagePullBackOff",
		},
		{
			name: "a mended image is written although a replica is broken",
			world: func() *World {
				w := rollout(3)
				r := w.pod(1).update()
				r.Fit, r.UpdateDone, r.State, r.Trouble = false, false, StateUpdating, bad
				r.LastStep, r.LastSince = StepVerifying, old
				w.web().Partition, w.web().TemplatePending = 2, true
				return w
			},
			want: []string{"template web partition 3"}, reason: ReplicaFailed,
		},
		{
			name: "the broken replica goes first under its own pin",
			world: func() *World {
				w := rollout(3)
				r := w.pod(1).update()
				r.Revision, r.Fit, r.UpdateDone, r.State = "broken", false, false, StateUpdating
				w.web().Partition = 3
				return w
			},
			want: []string{"apply web partition 2 (Selecting)"}, reason: Updating,
		},
		{
			name: "a broken replica that Kruise has held again is released again under its pin",
			world: func() *World {
				w := rollout(3)
				r := w.pod(1).update()
				r.Revision, r.Fit, r.Hold, r.State = "broken", false, true, StatePreparingUpdate
				w.web().Partition = 2
				return w
			},
			want: []string{"commit web-1 L-web-1 pinned=true"}, reason: Releasing,
		},
		{
			name: "one that failed stays failed while its lease is not known, and no other is risked after a restart",
			world: func() *World {
				w := rollout(3)
				w.Policy.MaxUnavailable, w.web().Partition = 2, 2
				r := w.pod(2).update()
				r.Lease, r.Fit, r.State = nil, false, StateUpdating
				r.LastStep, r.LastSince = StepFailed, now.Add(-time.Hour)
				return w
			},
			reason: ReplicaFailed, stalled: true, says: "web-2 failed",
		},
	})
}

// readmitted is an upgraded replica whose hold is back and whose lease is not released yet.
func readmitted(r *Replica) *Replica {
	r.update().Hold, r.Grant, r.Note = true, false, Note{}
	r.Verified, r.Fenced, r.State = "v2", r.Lease.Token, StateNormal
	return r
}

func TestLostPods(t *testing.T) {
	run(t, []test{
		{
			name:   "a lost pod is waited for",
			world:  func() *World { w := rollout(2); w.pod(1).lease().vanish(); return w },
			reason: WaitingForPod, says: "web-1",
		},
		{
			name:  "a new pod at the old revision is held at once",
			world: func() *World { w := rollout(2); w.pod(1).pin().reborn("v1"); return w },
			want:  []string{"patch web-1 hold=true state=Updated"}, reason: Holding,
		},
		{
			name: "a hold does not wait for the partition, nor for Kruise to see it",
			world: func() *World {
				w := rollout(3)
				w.pod(1).pin().reborn("v1")
				w.pod(2).grant().vanish()
				w.web().Partition, w.web().Observed, w.web().HookSeen = 2, false, true
				return w
			},
			want: []string{"patch web-1 hold=true state=Updated", "apply web partition 3 (WaitingForKruise)"}, reason: Holding,
		},
		{
			name: "its lease was for another pod and is given back",
			world: func() *World {
				w := rollout(2)
				r := w.pod(1).pin().reborn("v1")
				r.Hold, r.Fenced = true, 7
				return w
			},
			want: []string{"release L-web-1 undone"}, reason: Undoing, says: "PodReplaced",
		},
		{
			name: "a pod that came back new under its lease is pinned before it counts, so that the arbiter is sure to be told",
			world: func() *World {
				w := rollout(2)
				r := w.pod(1).grant().reborn("v2")
				r.Hold, r.Fit, r.FitSince = true, true, now.Add(-time.Minute)
				return w
			},
			want: []string{"pin L-web-1 for new-web-1"}, reason: Verifying,
		},
		{
			name: "then it is verified like an upgraded one",
			world: func() *World {
				w := rollout(2)
				r := w.pod(1).pin().reborn("v2")
				r.Hold, r.Fit, r.FitSince = true, true, now.Add(-time.Minute)
				return w
			},
			want: []string{"patch web-1 state=Updated verified=v2 fence=7"}, reason: Readmitting,
		},
		{
			name: "a lease that was lost before the pin is given back, and another asked for",
			world: func() *World {
				w := rollout(2)
				r := w.pod(1).lease().reborn("v2")
				r.Hold, r.Fit, r.FitSince, r.Lease.Lost, r.Fenced = true, true, now.Add(-time.Minute), true, 7
				return w
			},
			want: []string{"release L-web-1 undone"}, reason: Undoing, says: "LeaseLost",
		},
		{
			name: "a pod that came back new without a lease is leased before it counts",
			world: func() *World {
				w := rollout(3)
				w.work(0, 2)
				r := w.pod(1).reborn("v2")
				r.Hold, r.Fit, r.FitSince, r.Duty = true, true, now.Add(-time.Minute), Idle
				return w
			},
			want: []string{"acquire 1 of web-1"}, reason: Verifying, says: "verified under a lease",
		},
		{
			name: "one that is only to be verified is leased first: until then it may keep the floor from others",
			world: func() *World {
				w := rollout(3)
				r := w.pod(1).reborn("v2")
				r.Hold, r.Fit, r.FitSince, r.Duty = true, true, now.Add(-time.Minute), Idle
				return w
			},
			want: []string{"acquire 1 of web-1 web-2 web-0"}, reason: Verifying,
		},
		{
			name: "a pod that came back new and works already is verified when it is off duty",
			world: func() *World {
				w := rollout(3)
				w.work(0, 2)
				w.pod(0).Revision, w.pod(0).Verified, w.pod(0).Duty, w.pod(0).Working = "v2", "v2", Idle, "false"
				w.pod(2).Revision, w.pod(2).Verified = "v2", "v2"
				r := w.pod(1).reborn("v2")
				r.Hold, r.Fit, r.FitSince, r.Duty = true, true, now.Add(-time.Minute), Working
				return w
			},
			want: []string{"handover from web-1 to web-0"}, reason: Verifying,
		},
	})
}
