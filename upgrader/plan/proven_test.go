package plan

import "testing"

// lostAll is a set of n all pods of which were lost right after v2 was written to it: Kruise
// has made them of v2, takes that for the current revision, and has forgotten v1.
func lostAll(n int, change func(*World)) func() *World {
	return func() *World {
		w := rollout(n)
		w.web().CurrentRevision, w.web().Partition = "v2", Parked
		for j := range w.web().Pods {
			w.pod(j).reborn("v2").Hold = true
			w.pod(j).Ready, w.pod(j).Fit = true, true
		}
		change(w)
		return w
	}
}

func TestASetThatLostAllItsPodsIsNotAtRest(t *testing.T) {
	run(t, []test{
		{
			name: "the hold proves nothing, however much at rest the set looks",
			world: lostAll(2, func(w *World) {
				w.pod(0).Hold, w.pod(1).Hold = false, false
			}),
			want:   []string{"patch web-0 hold=true state=Updated", "patch web-1 hold=true state=Updated"},
			reason: Holding,
		},
		{
			name:  "its pods are verified under leases, so that the arbiter hears of it",
			world: lostAll(1, func(*World) {}),
			want:  []string{"acquire 1 of web-0"}, reason: Verifying, says: "verified under a lease",
		},
		{
			name:  "which are pinned before anything is called verified",
			world: lostAll(1, func(w *World) { w.pod(0).lease() }),
			want:  []string{"pin L-web-0 for new-web-0"}, reason: Verifying,
		},
		{
			name:  "then they are",
			world: lostAll(1, func(w *World) { w.pod(0).pin() }),
			want:  []string{"patch web-0 state=Updated verified=v2 fence=7"}, reason: Readmitting,
		},
		{
			name: "a rollout that never lowered the partition is concluded all the same",
			world: lostAll(2, func(w *World) {
				w.pod(0).Verified, w.pod(1).Verified = "v2", "v2"
			}),
			want: []string{"apply web partition 2147483647 (Finishing) proven v2"}, reason: Finishing,
		},
		{
			name: "an image that never starts is not called complete: the plan says why",
			world: lostAll(1, func(w *World) {
				w.pod(0).Ready, w.pod(0).Fit = false, false
				w.pod(0).Trouble = &Blocker{Reason: "ImagePullBackOff", Message: "no such image"}
			}),
			reason: "ImagePullBackOff", says: "web-0: no such image",
		},
		{
			name: "and another image is written over it",
			world: lostAll(1, func(w *World) {
				w.pod(0).Ready, w.pod(0).Fit = false, false
				w.pod(0).Trouble = &Blocker{Reason: "ImagePullBackOff", Message: "no such image"}
				w.web().TemplatePending = true
			}),
			want: []string{"template web partition 1"}, reason: "ImagePullBackOff",
		},
	})
}

// atRest has had v2 for long.
func atRest(n int, change func(*World)) func() *World {
	return func() *World {
		w := rollout(n)
		w.complete()
		change(w)
		return w
	}
}

func TestWhatTheArbiterHasNotHeardOf(t *testing.T) {
	run(t, []test{
		{
			name:  "a pod that the arbiter keeps from duty is verified under a lease, were it called verified before",
			world: atRest(1, func(w *World) { w.pod(0).Unverified = true }),
			want:  []string{"acquire 1 of web-0"}, reason: Verifying, says: "web-0",
		},
		{
			name:  "which is pinned",
			world: atRest(1, func(w *World) { w.pod(0).lease().Unverified = true }),
			want:  []string{"pin L-web-0 for u0"}, reason: Verifying,
		},
		{
			name:  "what was verified is noted with the lease under which it was",
			world: atRest(1, func(w *World) { w.pod(0).pin().Unverified = true }),
			want:  []string{"patch web-0 state=Updated verified=v2 fence=7"}, reason: Readmitting,
		},
		{
			name: "and then the arbiter is told, once",
			world: atRest(1, func(w *World) {
				w.pod(0).pin().Unverified = true
				w.pod(0).Fenced = 7
			}),
			want: []string{"release L-web-0 upgraded v2"}, reason: Readmitting,
		},
		{
			name: "one that is not well is not leased, and nothing is complete",
			world: atRest(1, func(w *World) {
				w.pod(0).Unverified, w.pod(0).Ready, w.pod(0).Fit = true, false, false
				w.pod(0).Trouble = &Blocker{Reason: "ImagePullBackOff", Message: "no such image"}
			}),
			reason: "ImagePullBackOff",
		},
	})
}

func TestWhatIsProven(t *testing.T) {
	run(t, []test{
		{
			name:  "a pod that is lost while the set is at rest needs no lease when it is back",
			world: atRest(2, func(w *World) { w.pod(1).reborn("v2") }),
			want:  []string{"patch web-1 hold=true state=Updated verified=v2"}, reason: Holding,
		},
		{
			name: "nor does one that has duty already, were it the only one",
			world: atRest(1, func(w *World) {
				w.pod(0).reborn("v2").Duty = Working
			}),
			want: []string{"patch web-0 hold=true working=true state=Updated verified=v2"}, reason: WaitingForDuty,
		},
		{
			name:   "an empty set proves nothing of a new template",
			world:  atRest(0, func(w *World) { w.web().Proven = "v1" }),
			reason: Complete,
		},
		{
			name: "a set that Kruise has never seen is not taken over: nobody could say what it began with",
			world: func() *World {
				w := fresh(1)
				w.web().CurrentRevision, w.web().UpdateRevision, w.web().Observed, w.web().TemplateSeen = "", "", false, false
				w.pod(0).vanish()
				return w
			},
			reason: WaitingForKruise, says: "web",
		},
		{
			name: "what a plan that is gone had proven is not more because it is taken over again",
			world: func() *World {
				w := fresh(1)
				w.web().Proven, w.web().CurrentRevision, w.web().UpdateRevision, w.web().TemplatePending = "v1", "v2", "v2", false
				w.pod(0).Revision = "v2"
				return w
			},
			want: []string{"apply web partition 2147483647 (Arming) proven v1"}, reason: Arming,
		},
	})
}
