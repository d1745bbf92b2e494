package preview

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"offduty.dev/api/v1alpha1"
	arbiter "offduty.dev/arbiter/client"
	"offduty.dev/arbiter/policy"
	"offduty.dev/upgrader/kruise"
	"offduty.dev/upgrader/observe"
	"offduty.dev/upgrader/plan"
	"offduty.dev/upgrader/session"
)

// viewOf is the arbiter's side as its Roster tells it; without one nothing is known, and
// unseen says why.
func viewOf(up *v1alpha1.UpgradePlan, ro *v1alpha1.Roster, unseen string, pods []corev1.Pod) session.View {
	v := session.View{Leases: map[string]plan.Lease{}}
	v.Arbiter.Adopted = true
	if ro == nil {
		v.Arbiter.Blocked = &plan.Blocker{Reason: plan.Connecting, Retry: true, Message: "the arbiter's side is not known: " + unseen}
		return v
	}
	v.State = stateOf(ro, pods)
	v.Arbiter.Frozen = v.State.Frozen
	for _, r := range v.State.Replicas {
		if l := r.Lease; l != nil && l.Holder == string(up.UID) {
			lost := l.Phase == arbiter.PhaseExpired
			v.Leases[r.Name] = plan.Lease{
				ID: l.ID, Replica: r.Name, Token: l.Token, Instance: l.Instance,
				Pinned: l.Phase == arbiter.PhasePinned, Valid: !lost, Lost: lost,
			}
		}
	}
	return v
}

// stateOf reads a Roster's status as its arbiter would tell it.
func stateOf(ro *v1alpha1.Roster, pods []corev1.Pod) arbiter.GroupState {
	s := arbiter.GroupState{
		Group: ro.Namespace + "/" + ro.Name, Epoch: ro.Status.Epoch, Floor: int(ro.Status.Floor),
		MaxLeased: int(ro.Spec.MaxLeased), Frozen: ro.Status.Frozen,
	}
	ready := map[string]bool{}
	for i := range pods {
		c := kruise.Condition(&pods[i], corev1.PodReady)
		ready[pods[i].Name] = pods[i].Namespace == ro.Namespace && c != nil && c.Status == corev1.ConditionTrue
	}
	leases := map[string]*arbiter.Lease{}
	for _, l := range ro.Status.Leases {
		leases[l.Replica] = &arbiter.Lease{
			ID: l.ID, Replica: observe.ReplicaName(ro.Namespace, l.Replica), Holder: l.Holder, Token: l.Token,
			Phase: phaseOf(l.Phase), Instance: l.Instance, TTL: time.Duration(l.TTLSeconds) * time.Second,
		}
	}
	for _, m := range ro.Status.Members {
		s.Replicas = append(s.Replicas, arbiter.Replica{
			Name: observe.ReplicaName(ro.Namespace, m.Name), Duty: dutyOf(m.Duty), Instance: m.UID, Generation: m.Generation,
			Serving: ready[m.Name] && leases[m.Name] == nil, Lease: leases[m.Name], Message: m.Message,
		})
	}
	return s
}

func dutyOf(s string) arbiter.Duty {
	switch s {
	case arbiter.DutyWorking.String():
		return arbiter.DutyWorking
	case arbiter.DutyIdle.String():
		return arbiter.DutyIdle
	}
	return arbiter.DutyUnknown
}

func phaseOf(s string) arbiter.Phase {
	for _, p := range []arbiter.Phase{arbiter.PhaseLeased, arbiter.PhasePinned, arbiter.PhaseExpired} {
		if p.String() == s {
			return p
		}
	}
	return arbiter.PhaseUnknown
}

// rules is the arbiter in the simulation: the rules of a group as far as a Roster shows them.
type rules struct {
	floor, maxLeased int
	// named: the administrator names who works, or the application decides, so that duty does
	// not move when asked.
	named bool
	// others serve, or are leased, and belong to no target of the plan.
	othersServing, othersLeased int

	token int64
}

func rulesOf(ro *v1alpha1.Roster, state arbiter.GroupState, known map[string]bool) *rules {
	// Tokens above all that a real arbiter gave: a lease of the simulation is never fenced.
	r := &rules{floor: state.Floor, maxLeased: max(state.MaxLeased, 1), token: 1 << 60}
	if ro != nil {
		r.named = ro.Spec.Assigned == nil || len(ro.Spec.Assigned.Working) > 0
	}
	for _, m := range state.Replicas {
		if known[m.Name] {
			continue
		}
		if m.Serving {
			r.othersServing++
		}
		if m.Lease != nil {
			r.othersLeased++
		}
	}
	return r
}

// limits says which rules of a group the preview does not play.
func limits(ro *v1alpha1.Roster, now time.Time) []string {
	if ro == nil {
		return nil
	}
	var notes []string
	for i, w := range ro.Spec.FreezeWindows {
		window, err := policy.NewWindow(w.Schedule, time.Duration(w.DurationMinutes)*time.Minute, w.TimeZone)
		if err != nil {
			notes = append(notes, fmt.Sprintf("spec.freezeWindows[%d].%v of the roster: nothing is leased until that is put right; this is what happens then", i, err))
			continue
		}
		if f, _ := (policy.Windows{window}).At(now); f.Window != "" {
			notes = append(notes, fmt.Sprintf("the freeze window %s of the roster is open until %s; this is what happens when it is closed", f.Window, f.Until.UTC().Format(time.RFC3339)))
		}
	}
	if ro.Spec.Spread != nil {
		notes = append(notes, "the roster has spread: replicas whose nodes differ in "+ro.Spec.Spread.TopologyKey+" are upgraded one after the other, even where this shows one round")
	}
	return notes
}

// tally counts the replicas that serve, and those that are leased.
func (r *rules) tally(w *plan.World) (serving, leased int) {
	serving, leased = r.othersServing, r.othersLeased
	for i := range w.Targets {
		for j := range w.Targets[i].Pods {
			switch p := &w.Targets[i].Pods[j]; {
			case p.Lease != nil || p.LeasedBy != "":
				leased++
			case p.Ready && !p.Terminating:
				serving++
			}
		}
	}
	return serving, leased
}

// refuse says why no lease is granted on p; nil: it is.
func (r *rules) refuse(w *plan.World, p *plan.Replica) *plan.Blocker {
	serving, leased := r.tally(w)
	why := ""
	switch {
	case leased >= r.maxLeased:
		why = fmt.Sprintf("maxLeased %d: %d are leased", r.maxLeased, leased)
	case p.Ready && serving-1 < r.floor:
		why = fmt.Sprintf("floor %d: %d serve, %d without %s", r.floor, serving, serving-1, p.Name)
	default:
		return nil
	}
	return &plan.Blocker{Reason: plan.WaitingForLease, Retry: true, Message: "the arbiter would grant no lease on " + p.Name + ": " + why}
}
