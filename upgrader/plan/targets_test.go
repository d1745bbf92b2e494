package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pair is a rollout of two sets, web with n and db with m replicas.
func pair(n, m int) *World {
	w := rollout(n)
	w.addTarget("db", m)
	return w
}

func (w *World) db(j int) *Replica { return &w.Targets[1].Pods[j] }

// fail is a replica that was updated and does not become well.
func (r *Replica) fail() *Replica {
	r.update().State = StateUpdating
	r.Fit, r.UpdateDone, r.Trouble = false, false, &Blocker{Reason: "ImagePullBackOff", Message: "no such image"}
	r.LastStep, r.LastSince = StepVerifying, now.Add(-time.Hour)
	return r
}

// done makes a replica one that was upgraded and verified.
func (r *Replica) done() *Replica { r.Revision, r.Verified = "v2", "v2"; return r }

func TestNeedDecidesWhoIsNext(t *testing.T) {
	run(t, []test{
		{
			name: "a replica that came back new comes first, in whichever set: it may have no duty until it is verified",
			world: func() *World {
				w := pair(2, 2)
				w.pod(0).Fit = false
				w.db(0).reborn("v2").Hold, w.db(0).State, w.db(0).Fit = true, StateNormal, false
				return w
			},
			want: []string{"acquire 1 of db-0 web-0 web-1 db-1"}, reason: Verifying,
		},
		{
			name:  "then one that is not fit, and serves nobody",
			world: func() *World { w := pair(2, 2); w.db(1).Fit = false; return w },
			want:  []string{"acquire 1 of db-1 web-1 web-0 db-0"}, reason: AcquiringLeases,
		},
		{
			name:  "then those furthest behind, before a set that is nearer to its end",
			world: func() *World { w := pair(1, 3); w.db(0).Behind, w.db(1).Behind = 2, 1; return w },
			want:  []string{"acquire 1 of db-0 db-1 web-0 db-2"}, reason: AcquiringLeases,
		},
		{
			name:  "a set that is begun is finished before the next, whatever their names and sizes",
			world: func() *World { w := pair(3, 4); w.db(1).done(); w.db(2).done(); return w },
			want:  []string{"acquire 1 of db-3 db-0 web-2 web-1 web-0"}, reason: AcquiringLeases,
		},
		{
			name:  "of sets that are equally far the one that the plan names first",
			world: func() *World { return pair(2, 2) },
			want:  []string{"acquire 1 of web-1 web-0 db-1 db-0"}, reason: AcquiringLeases,
		},
		{
			name: "duty is asked away from the set that is nearest to its end",
			world: func() *World {
				w := pair(3, 2)
				w.work(0, 1)
				w.pod(2).done()
				w.db(0).Duty, w.db(0).Working = Working, "true"
				w.db(1).done()
				return w
			},
			want: []string{"handover from db-0 to web-2 db-1"}, reason: WaitingForHandover,
		},
	})
}

func TestABrokenTargetDoesNotStopTheOthers(t *testing.T) {
	contested := func(w *World) *World {
		u := &w.Targets[1]
		u.TemplatePending, u.TemplateWritten, u.TemplateWriter = true, true, "argocd"
		return w
	}
	run(t, []test{
		{
			name: "a set that is missing is named, and the other goes on",
			world: func() *World {
				w := pair(2, 0)
				u := &w.Targets[1]
				u.Blocked, u.Gone = &Blocker{Reason: TargetNotFound, Message: "there is no StatefulSet db"}, true
				return w
			},
			want:   []string{"acquire 1 of web-1 web-0"},
			reason: TargetNotFound, stalled: true, says: "no StatefulSet db; meanwhile: asking for 1 of 2",
		},
		{
			name:  "a contested set is named, gives no candidate, and the other goes on",
			world: func() *World { return contested(pair(1, 2)) },
			want:  []string{"acquire 1 of web-0"}, reason: TemplateContested, stalled: true, says: "argocd",
		},
		{
			name: "but not with an image that a replica was lost to before it was taken back",
			world: func() *World {
				w := contested(pair(1, 2))
				w.Targets[0].Changes, w.Targets[1].Changes = []string{"x:2"}, []string{"x:2"}
				w.db(1).Revision, w.db(1).Fit, w.db(1).Ready = "lost", false, false
				return w
			},
			reason: TemplateContested, stalled: true, says: "argocd",
		},
		{
			name: "one that is unwell at the images to which the set was taken back says nothing of them",
			world: func() *World {
				w := contested(pair(1, 2))
				w.Targets[0].Changes, w.Targets[1].Changes = []string{"x:2"}, []string{"x:2"}
				w.db(1).Revision, w.db(1).Fit, w.db(1).Ready = w.Targets[1].UpdateRevision, false, false
				return w
			},
			want: []string{"acquire 1 of web-0"}, reason: TemplateContested, stalled: true, says: "argocd",
		},
		{
			name: "duty moves away from workers of the set that goes on, and from no other",
			world: func() *World {
				w := contested(pair(2, 2))
				w.pod(1).done()
				w.work(0)
				w.db(1).Duty, w.db(1).Working = Working, "true"
				return w
			},
			want: []string{"handover from web-0 to web-1"}, reason: TemplateContested, stalled: true, says: "meanwhile: asking the arbiter to move duty away from web-0",
		},
		{
			name: "replicas of a contested set do not take over duty: they would have to give it up again",
			world: func() *World {
				w := contested(pair(1, 1))
				w.work(0)
				w.db(0).done()
				return w
			},
			reason: TemplateContested, stalled: true, says: "no upgraded replica is idle",
		},
		{
			name:  "a failed replica in one set keeps its place in the batch, and the rest of the batch is for the other set",
			world: func() *World { w := pair(2, 2); w.Policy.MaxUnavailable = 3; w.db(1).fail(); return w },
			want:  []string{"acquire 2 of web-1 web-0"}, reason: ReplicaFailed, stalled: true, says: "db-1 failed",
		},
		{
			name: "a set that gets the very image that failed in another is not risked",
			world: func() *World {
				w := pair(2, 2)
				w.Policy.MaxUnavailable = 3
				w.db(1).fail()
				w.Targets[0].Changes, w.Targets[1].Changes = []string{"app:2", "log:2"}, []string{"app:2"}
				return w
			},
			reason: ReplicaFailed, stalled: true, says: "db-1 failed",
		},
		{
			name: "a replica that is well at the old images and then crashes says nothing of the new ones",
			world: func() *World {
				w := contested(pair(2, 2))
				w.Targets[0].Changes, w.Targets[1].Changes = []string{"app:3"}, []string{"app:3"}
				w.db(0).done()
				w.db(1).done().Fit = false
				w.db(1).Ready, w.db(1).Trouble = false, &Blocker{Reason: "CrashLoopBackOff", Message: "it crashes"}
				return w
			},
			want: []string{"acquire 1 of web-1 web-0"}, reason: TemplateContested, stalled: true, says: "argocd",
		},
		{
			name:   "a batch that is full of failed replicas takes no other, and the plan says so",
			world:  func() *World { w := pair(2, 2); w.db(1).fail(); return w },
			reason: ReplicaFailed, stalled: true, says: "meanwhile: as many replicas as may be unavailable (1) have failed",
		},
		{
			name: "duty is moved for the sake of the other set while a failed replica stays pinned",
			world: func() *World {
				w := pair(2, 2)
				w.Policy.MaxUnavailable = 3
				w.db(1).fail()
				w.work(0)
				w.pod(1).done()
				return w
			},
			want: []string{"handover from web-0 to web-1"}, reason: ReplicaFailed, stalled: true, says: "db-1 failed",
		},
		{
			name: "but not while another replica is under way",
			world: func() *World {
				w := pair(3, 2)
				w.Policy.MaxUnavailable = 3
				w.db(1).fail()
				w.work(0)
				w.pod(1).done()
				w.pod(2).update().State = StateUpdating
				return w
			},
			reason: ReplicaFailed, stalled: true, says: "meanwhile: web-2 is not yet well",
		},
	})
}

func TestAReleasedReplicaIsFinishedWithWhateverTemplateThereIs(t *testing.T) {
	// web-1 was released for v3, which somebody replaced by v2 before it was finished.
	reverted := func() *World {
		w := rollout(3)
		w.web().TemplatePending = true
		w.pod(1).release().Revision, w.pod(1).State = "v3", StateUpdated
		return w
	}
	run(t, []test{
		{
			name: "while the template is contested",
			world: func() *World {
				w := reverted()
				w.web().TemplateWritten, w.web().TemplateWriter = true, "argocd"
				return w
			},
			want: []string{"apply web partition 2 (Selecting)"}, reason: TemplateContested, stalled: true, says: "argocd",
		},
		{
			name: "while the images are refused",
			world: func() *World {
				w := reverted()
				w.web().TemplateBlocked = &Blocker{Reason: TemplateRefused, Message: "not in this house"}
				return w
			},
			want: []string{"apply web partition 2 (Selecting)"}, reason: TemplateRefused, stalled: true, says: "not in this house",
		},
		{
			name: "while the images are tried again that were refused",
			world: func() *World {
				w := reverted()
				w.web().TemplateBlocked, w.web().TemplateRetry = &Blocker{Reason: TemplateRefused, Message: "not in this house"}, now
				return w
			},
			want: []string{"template web partition 3", "apply web partition 2 (Selecting)"}, reason: TemplateRefused, stalled: true, says: "not in this house",
		},
		{
			name:  "while the plan is paused",
			world: func() *World { w := reverted(); w.Policy.Paused = true; return w },
			want:  []string{"apply web partition 2 (Selecting)"}, reason: Paused,
		},
		{
			name:  "but otherwise with the plan's own, which is written first",
			world: reverted,
			want:  []string{"template web partition 3"}, reason: Updating,
		},
	})
}

func TestEachTargetHasAReasonOfItsOwn(t *testing.T) {
	w := pair(2, 1)
	w.addTarget("cache", 1)
	w.addTarget("gone", 0)
	w.work(0, 1)
	w.Targets[2].CurrentRevision, w.Targets[2].Proven, w.Targets[2].Partition = "v2", "v2", Parked
	w.Targets[2].Pods[0].done()
	w.Targets[3].Blocked, w.Targets[3].Gone = &Blocker{Reason: TargetNotFound, Message: "missing"}, true
	w.db(0).update().State = StateUpdating
	d := Next(w, now)
	var got []Reason
	for _, r := range d.Targets {
		got = append(got, r.Reason)
	}
	// web waits for db's replica, and says so.
	if diff := cmp.Diff([]Reason{Verifying, Verifying, Complete, TargetNotFound}, got); diff != "" {
		t.Errorf("reasons (-want +got):\n%s\n%+v", diff, d)
	}
	if d.Going.Reason != Verifying || !strings.Contains(d.Going.Message, "db-0") {
		t.Errorf("what goes on is %+v", d.Going)
	}
}

func TestWhatStallsDoesNotGoOn(t *testing.T) {
	w := pair(2, 2)
	w.db(1).fail()
	w.db(0).done()
	w.pod(0).done()
	w.pod(1).done()
	w.Targets[0].CurrentRevision, w.Targets[0].Proven, w.Targets[0].Partition = "v2", "v2", Parked
	w.Targets[1].Changes = []string{"app:2"}
	if d := Next(w, now); !d.Stalled || d.Going.Reason != "" || strings.Contains(d.Message, "meanwhile") {
		t.Errorf("%+v", d)
	}
}

func TestALeaseOnARemovedReplicaLastsAsLongAsItsPod(t *testing.T) {
	condemned := []Lease{{ID: "L9", Replica: "ns/web-9", Pinned: true}}
	run(t, []test{
		{
			name:   "it is not given back, and counts in the batch",
			world:  func() *World { w := rollout(2); w.Arbiter.Condemned = condemned; return w },
			reason: WaitingForPod, says: "web-9 is being removed",
		},
		{
			name:   "also when everything else is done",
			world:  func() *World { w := rollout(1); w.complete(); w.Arbiter.Condemned = condemned; return w },
			reason: WaitingForPod, says: "web-9",
		},
		{
			name: "a plan does not leave before",
			world: func() *World {
				w := rollout(0)
				w.Targets = nil
				w.Policy.Deleting, w.Arbiter.Condemned = true, condemned
				return w
			},
			reason: WaitingForPod, says: "web-9",
		},
	})
}
