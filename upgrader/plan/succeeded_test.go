package plan

import "testing"

func TestASuccessorIsNoticedBehindAGraverReason(t *testing.T) {
	w := rollout(2)
	w.addTarget("db", 2)
	w.web().ArmedTerm = w.Term + 1
	w.Targets[1].Blocked = &Blocker{Reason: TargetNotSupported, Message: "no"}
	if d := Next(w, now); d.Reason != TargetNotSupported || !d.Succeeded() {
		t.Errorf("reason %s, succeeded %t; want TargetNotSupported and true", d.Reason, d.Succeeded())
	}
	w.web().ArmedTerm = w.Term
	if d := Next(w, now); d.Succeeded() {
		t.Errorf("succeeded without a successor: %+v", d)
	}
}

func TestALeaderThatMayHaveBeenSucceededAsks(t *testing.T) {
	begun := func(doubt func(*World)) func() *World {
		return func() *World {
			w := rollout(3)
			w.pod(1).chosen().Lease = nil // another leader's
			doubt(w)
			return w
		}
	}
	leaving := func(w *World) { w.pod(1).Doubted, w.Policy.Deleting = true, true }
	run(t, []test{
		{
			name:  "a note of which it does not know the lease is taken off",
			world: begun(func(*World) {}), want: []string{"patch web-1 grant=false state=Normal note=", "acquire 1 of web-2 web-0"}, reason: Undoing,
		},
		{
			name:  "unless a later leader may have written it: then nothing is written before the arbiter has answered",
			world: begun(func(w *World) { w.pod(1).Doubted = true }), want: []string{"adopt"}, reason: AcquiringLeases, says: "web-1 bears the note",
		},
		{
			name:  "nor when the plan goes",
			world: begun(leaving), want: []string{"adopt"}, reason: Leaving, says: "asking the arbiter",
		},
		{
			name:  "nor when the arbiter shows a lease that a later leader may have",
			world: begun(func(w *World) { w.Arbiter.Doubted = true }), want: []string{"adopt"}, reason: AcquiringLeases, says: "the arbiter shows",
		},
		{
			name:  "a partition that is too low is raised all the same",
			world: begun(func(w *World) { w.pod(1).Doubted, w.web().Partition = true, 1 }), want: []string{"apply web partition 3 (WaitingForKruise)", "adopt"},
			reason: Undoing,
		},
		{
			name: "an arbiter that cannot be asked is waited for",
			world: begun(func(w *World) {
				w.pod(1).Doubted = true
				w.Arbiter.Blocked = &Blocker{Reason: ArbiterUnreachable, Message: "no", Retry: true}
			}),
			reason: ArbiterUnreachable,
		},
	})
}
