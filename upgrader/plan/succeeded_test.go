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
