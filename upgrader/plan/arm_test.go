package plan

import (
	"fmt"
	"strings"
	"testing"
)

// fresh is a set that no plan has touched yet, with every pod at v1 and no rollout.
func fresh(n int) *World {
	w := rollout(n)
	t := w.web()
	t.Armed, t.Settings, t.ArmedTerm, t.Partition, t.Proven = false, false, 0, 0, ""
	t.UpdateRevision, t.TemplatePending = "v1", true
	for j := range t.Pods {
		r := w.pod(j)
		r.Hold, r.State, r.Verified, r.Working = false, StateAbsent, "", ""
	}
	return w
}

func TestArming(t *testing.T) {
	run(t, []test{
		{
			name:   "a set that the status does not name yet is not taken over: nobody would give it back if the spec lost it now",
			world:  func() *World { w := fresh(2); w.web().Listed = false; return w },
			reason: Arming, says: "web",
		},
		{
			name:  "leases are adopted before anything is written",
			world: func() *World { w := fresh(2); w.Arbiter.Adopted = false; return w },
			want:  []string{"adopt"}, reason: AcquiringLeases,
		},
		{
			name: "a target is left alone while the arbiter cannot be reached",
			world: func() *World {
				w := fresh(2)
				w.Arbiter = Arbiter{Blocked: &Blocker{Reason: ArbiterUnreachable, Message: "refused"}}
				return w
			},
			reason: ArbiterUnreachable, says: "refused", stalled: true,
		},
		{
			name:  "a set at rest is taken over with its partition parked",
			world: func() *World { return fresh(2) },
			want:  []string{"apply web partition 2147483647 (Arming) proven v1"}, reason: Arming,
		},
		{
			name: "a rollout under way is taken over at its present state",
			world: func() *World {
				w := fresh(5)
				w.web().UpdateRevision, w.web().Partition = "v2", 0
				w.pod(4).Revision, w.pod(3).Revision = "v2", "v2"
				return w
			},
			want: []string{"apply web partition 3 (Arming)"}, reason: Arming,
		},
		{
			name: "a template that Kruise has not seen is a rollout under way of every pod",
			world: func() *World {
				w := fresh(3)
				w.web().Observed, w.web().TemplateSeen, w.web().TemplatePending = false, false, false
				return w
			},
			want: []string{"apply web partition 3 (Arming) proven v1"}, reason: Arming,
		},
		{
			name:   "a target that cannot be served is not written to",
			world:  func() *World { w := fresh(2); w.web().Blocked = &Blocker{Reason: NotInPlace, Message: "env"}; return w },
			reason: NotInPlace, stalled: true,
		},
		{
			name: "no pod is held before Kruise has seen the hook",
			world: func() *World {
				w := fresh(2)
				w.web().Armed, w.web().Settings, w.web().ArmedTerm, w.web().Partition, w.web().Proven = true, true, 1, Parked, "v1"
				w.web().Observed = false
				return w
			},
			reason: WaitingForKruise,
		},
		{
			name: "a hold is put on together with the state that makes Kruise confirm it",
			world: func() *World {
				w := fresh(2)
				w.web().Armed, w.web().Settings, w.web().ArmedTerm, w.web().Partition, w.web().Proven = true, true, 1, Parked, "v1"
				w.work(1)
				return w
			},
			want: []string{
				"patch web-0 hold=true working=false state=Updated verified=v1",
				"patch web-1 hold=true state=Updated verified=v1",
			},
			reason: Holding,
		},
		{
			name: "in a rollout under way a hold proves nothing about a revision",
			world: func() *World {
				w := rollout(2)
				w.pod(0).Hold, w.pod(0).Verified = false, ""
				return w
			},
			want: []string{"patch web-0 hold=true state=Updated"}, reason: Holding,
		},
		{
			name:   "the template waits until Kruise has confirmed every hold",
			world:  func() *World { w := held(2); w.pod(1).State = StateUpdated; return w },
			reason: Readmitting, says: "web-1",
		},
		{
			name:  "template and partition are written in one patch that protects everybody",
			world: func() *World { return held(3) },
			want:  []string{"template web partition 3"}, reason: WritingTemplate,
		},
		{
			name:   "no template is written while the plan is paused",
			world:  func() *World { w := held(2); w.Policy.Paused = true; return w },
			reason: Paused,
		},
		{
			name: "a container that does not exist is said, and nothing is written",
			world: func() *World {
				w := held(2)
				w.web().TemplateBlocked = &Blocker{Reason: ContainerNotFound, Message: "no container x"}
				return w
			},
			reason: ContainerNotFound, says: "no container x", stalled: true,
		},
		{
			name: "images that somebody wrote over ours are not fought for",
			world: func() *World {
				w := held(2)
				w.web().TemplateWritten, w.web().TemplateWriter = true, "argocd"
				return w
			},
			reason: TemplateContested, says: "argocd", stalled: true,
		},
		{
			name:   "no lease is asked for while a hold is not confirmed",
			world:  func() *World { w := rollout(2); w.pod(0).State = StateUpdated; return w },
			reason: WaitingForKruise, says: "web-0",
		},
		{
			name:  "a new leader writes its term into the set before it acts",
			world: func() *World { w := rollout(2); w.Term = 2; return w },
			want:  []string{"apply web partition 2 (Arming)"}, reason: Arming,
		},
		{
			name:   "a new leader leaves a set alone in which nothing is to be done",
			world:  func() *World { w := rollout(2); w.complete(); w.Term, w.Arbiter.Adopted = 2, false; return w },
			reason: Complete,
		},
		{
			name:  "a new leader adopts before it touches the set",
			world: func() *World { w := rollout(2); w.Term, w.Arbiter.Adopted = 2, false; return w },
			want:  []string{"adopt"}, reason: AcquiringLeases,
		},
		{
			name:  "settings that somebody changed are put right",
			world: func() *World { w := rollout(2); w.web().Settings = false; return w },
			want:  []string{"apply web partition 2 (Arming)"}, reason: Arming,
		},
		{
			name:  "a hook that was lost is put back before Kruise has seen the loss",
			world: func() *World { w := rollout(2); w.web().Settings, w.web().Observed = false, false; return w },
			want:  []string{"apply web partition 2 (Arming)"}, reason: Arming,
		},
		{
			name: "while the hook is lost, a replica that is not released is protected by the partition",
			world: func() *World {
				w := rollout(3)
				w.pod(1).chosen()
				w.pod(2).release()
				w.web().Settings, w.web().Partition = false, 1
				return w
			},
			want: []string{"apply web partition 2 (WaitingForKruise)"}, reason: Undoing, says: "from 1 to 2",
		},
		{
			name:  "a pod that Kruise was updating without us is made one that heeds its hold",
			world: func() *World { w := rollout(2); w.pod(0).State = StateUpdating; return w },
			want:  []string{"patch web-0 hold=true state=Updated"}, reason: Holding,
		},
		{
			name: "the partition is not lowered for a replica whose hold Kruise does not heed",
			world: func() *World {
				w := rollout(2)
				w.pod(1).grant().State = StateUpdated
				return w
			},
			reason: Selecting, says: "web-1",
		},
	})
}

// held is an armed set at rest with the plan's images still to be written.
func held(n int) *World {
	w := rollout(n)
	w.web().UpdateRevision, w.web().Partition, w.web().TemplatePending = "v1", Parked, true
	return w
}

// TestAPlanGoesOnWhenWhatStoodInItsWayIsMended lets one world be in each way, and then not.
func TestAPlanGoesOnWhenWhatStoodInItsWayIsMended(t *testing.T) {
	target := func(reason Reason) func(*World) {
		return func(w *World) { w.web().Blocked = &Blocker{Reason: reason, Message: "so"} }
	}
	arbiter := func(reason Reason) func(*World) {
		return func(w *World) { w.Arbiter.Blocked = &Blocker{Reason: reason, Message: "so"} }
	}
	for name, mar := range map[string]func(*World){
		"TargetNotSupported": target(TargetNotSupported),
		"NotInPlace":         target(NotInPlace),
		"ArbiterDenied":      arbiter(ArbiterDenied),
		"GroupNotFound":      arbiter(GroupNotFound),
		"UnknownReplica": func(w *World) {
			for j := range w.web().Pods {
				w.pod(j).Duty, w.pod(j).Unlisted = Unknown, true
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := rollout(2)
			mar(w)
			if d := Next(w, now); string(d.Reason) != name || strings.Contains(fmt.Sprint(lines(d)), "acquire") {
				t.Errorf("before: %s: %s, %q", d.Reason, d.Message, lines(d))
			}
			if d := Next(rollout(2), now); d.Reason != AcquiringLeases {
				t.Errorf("mended: %s: %s", d.Reason, d.Message)
			}
		})
	}
}
