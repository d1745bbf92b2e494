package preview

import (
	"cmp"
	"slices"
	"time"

	"offduty.dev/upgrader/plan"
)

// model is the world outside of the planner, in which everything goes well: the arbiter by
// its rules, Kruise, and a kubelet that is done at once.
type model struct {
	w     *plan.World
	now   time.Time
	rules *rules
	// next names the revision that a target gets when its images are written.
	next map[string]string
	// refused are replicas that Kruise cannot update in place.
	refused map[string]string

	round int
	steps []Step
	// changed: something has happened since it was last cleared.
	changed bool
}

// run plays the planner's decisions until it is done, or until nothing happens any more,
// and returns the last decision.
func (m *model) run() plan.Decision {
	// Each replica takes some ten decisions; a plan that needs more than that goes in circles.
	most := 50
	for i := range m.w.Targets {
		most += 20 * len(m.w.Targets[i].Pods)
	}
	var d plan.Decision
	for waited := 0; most > 0; most-- {
		d = plan.Next(m.w, m.now)
		if d.Done {
			return d
		}
		m.changed = false
		for _, a := range d.Actions {
			m.apply(a)
		}
		m.settle()
		switch {
		case m.changed:
			waited = 0
			m.w.Arbiter.Refused, m.w.Arbiter.HandoverRefused = m.news(m.w.Arbiter.Refused), m.news(m.w.Arbiter.HandoverRefused)
			m.w.LastProgress = m.now
		case d.Recheck > 0 && waited < 3 && len(d.Actions) == 0:
			m.now = m.now.Add(d.Recheck)
			waited++
		case len(d.Actions) == 0:
			return d
		}
	}
	return d
}

// news keeps a refusal only while nothing has changed since.
func (m *model) news(b *plan.Blocker) *plan.Blocker {
	if m.changed {
		return nil
	}
	return b
}

// apply carries out one action.
func (m *model) apply(a plan.Action) {
	switch a := a.(type) {
	case plan.Adopt:
		m.w.Arbiter.Adopted, m.changed = true, true
	case plan.Acquire:
		m.acquire(a)
	case plan.Handover:
		m.handover(a)
	case plan.ReleaseLease:
		m.release(a.Lease.ID)
	case plan.ApplySet:
		t := m.target(a.Target)
		if !t.Armed {
			t.Armed, t.OriginalPartition = true, t.Partition
		}
		t.ArmedTerm, t.Settings, t.Partition, m.changed = m.w.Term, true, a.Partition, true
		if a.Proven != "" {
			t.Proven = a.Proven
		}
		t.Returning = t.Returning || a.Return
	case plan.WriteTemplate:
		t := m.target(a.Target)
		t.UpdateRevision, t.Partition = m.next[t.Name], a.Partition
		t.TemplatePending, t.TemplateWritten, m.changed = false, true, true
	case plan.SetCurrentRevision:
		m.target(a.Target).CurrentRevision, m.changed = a.Revision, true
	case plan.PatchPod:
		m.patch(a)
	case plan.Commit:
		r := m.replica(a.Pod)
		r.Lease.Pinned, r.Hold, m.changed = true, false, true
	case plan.Pin:
		m.replica(a.Pod).Lease.Pinned, m.changed = true, true
	case plan.Disarm, plan.Leave:
		// A plan that is being deleted is not previewed.
	}
}

func (m *model) target(name string) *plan.Target {
	i := slices.IndexFunc(m.w.Targets, func(t plan.Target) bool { return t.Name == name })
	return &m.w.Targets[i]
}

func (m *model) replica(name string) *plan.Replica {
	for i := range m.w.Targets {
		for j := range m.w.Targets[i].Pods {
			if r := &m.w.Targets[i].Pods[j]; r.Name == name {
				return r
			}
		}
	}
	return nil
}

func (m *model) acquire(a plan.Acquire) {
	var no *plan.Blocker
	granted := 0
	for _, c := range a.Candidates {
		if granted == a.Max {
			break
		}
		r := m.replica(c.Replica)
		if b := m.rules.refuse(m.w, r); b != nil {
			if no == nil {
				no = b
			}
			continue
		}
		if granted == 0 {
			m.round++
		}
		granted++
		m.rules.token++
		r.Lease = &plan.Lease{ID: "preview/" + r.Name, Replica: r.Name, Token: m.rules.token, Valid: true, Instance: r.UID}
		t := &m.w.Targets[r.Target]
		kind := Upgrade
		if r.Revision == t.UpdateRevision {
			kind = Verify
		}
		m.steps = append(m.steps, Step{Round: m.round, Kind: kind, Target: t.Name, Replica: r.Name, NotInPlace: m.refused[r.Name]})
	}
	m.changed = m.changed || granted > 0
	if granted == 0 {
		m.w.Arbiter.Refused, m.w.Arbiter.RefusedFor = no, a.Candidates
	}
}

// handover moves duty as the reference arbiter does: to the first of those that can take it.
func (m *model) handover(a plan.Handover) {
	if m.rules.named {
		m.w.Arbiter.HandoverRefusedFor = a
		m.w.Arbiter.HandoverRefused = &plan.Blocker{Reason: plan.HandoverRefused, Retry: true, Message: "the arbiter would not move duty away from " + a.From +
			": the Roster names who works (spec.assigned.working): name upgraded replicas there"}
		return
	}
	m.round++
	m.steps = append(m.steps, Step{Round: m.round, Kind: Handover, Target: m.w.Targets[m.replica(a.From).Target].Name, Replica: a.From, To: a.To[0]})
	m.replica(a.From).Duty, m.replica(a.To[0]).Duty, m.changed = plan.Idle, plan.Working, true
}

func (m *model) release(id string) {
	m.w.Arbiter.Orphans = slices.DeleteFunc(m.w.Arbiter.Orphans, func(l plan.Lease) bool { return l.ID == id })
	for i := range m.w.Targets {
		for j := range m.w.Targets[i].Pods {
			if r := &m.w.Targets[i].Pods[j]; r.Lease != nil && r.Lease.ID == id {
				r.Lease = nil
			}
		}
	}
	m.changed = true
}

func (m *model) patch(a plan.PatchPod) {
	r := m.replica(a.Pod)
	set(&r.Hold, a.Hold)
	set(&r.Grant, a.Grant)
	set(&r.Working, a.Working)
	set(&r.State, a.State)
	set(&r.Note, a.Note)
	set(&r.Verified, a.Verified)
	set(&r.Fenced, a.Fence)
	if a.Gate != nil {
		r.GateOpen, r.GateClosed, r.GateSince = *a.Gate, !*a.Gate, m.now
	}
	m.changed = true
}

func set[T any](to *T, v *T) {
	if v != nil {
		*to = *v
	}
}

// settle lets Kruise and the kubelet do what they would do now.
func (m *model) settle() {
	for i := range m.w.Targets {
		t := &m.w.Targets[i]
		if t.Blocked != nil {
			continue
		}
		if !t.Observed || !t.TemplateSeen || t.Armed && !t.HookSeen {
			t.Observed, t.TemplateSeen, t.HookSeen, m.changed = true, true, true, true
		}
		for j := range t.Pods {
			m.refresh(t, &t.Pods[j])
		}
		m.update(t)
		m.conclude(t)
	}
}

// refresh does what Kruise and the kubelet do to a pod whatever the partition is.
func (m *model) refresh(t *plan.Target, r *plan.Replica) {
	if !r.Exists || r.Terminating {
		return
	}
	if r.State == plan.StateUpdated && r.Hold || r.State == plan.StatePreparingUpdate && r.Revision == t.UpdateRevision {
		r.State, m.changed = plan.StateNormal, true
	}
	if ready := r.Fit && (!r.Gated || r.GateOpen); r.Ready != ready {
		r.Ready, m.changed = ready, true
	}
}

// update does what Kruise does with the partition: the first (replicas - partition) pods,
// ordered by revision, grant and idleness, are marked while they are held and updated when
// they are not (docs of package kruise; sortPodsToUpdate).
func (m *model) update(t *plan.Target) {
	order := make([]*plan.Replica, 0, len(t.Pods))
	for j := range t.Pods {
		order = append(order, &t.Pods[len(t.Pods)-1-j]) // ties go to the higher ordinal
	}
	slices.SortStableFunc(order, func(a, b *plan.Replica) int { return cmp.Compare(weight(t, b), weight(t, a)) })
	for _, r := range order[:max(len(order)-int(t.Partition), 0)] {
		if !r.Exists || r.Revision == t.UpdateRevision {
			continue
		}
		if m.refused[r.Name] != "" {
			return // with InPlaceOnly Kruise goes no further than the first that it cannot update
		}
		if r.Hold && r.State != plan.StatePreparingUpdate {
			r.State, m.changed = plan.StatePreparingUpdate, true
		}
		if !r.Hold {
			r.Revision, r.State, r.UpdateDone, r.Fit, r.FitSince, r.Trouble = t.UpdateRevision, plan.StateUpdated, true, true, m.now, nil
			m.changed = true
		}
	}
}

func weight(t *plan.Target, r *plan.Replica) int {
	n := 0
	if r.Revision == t.UpdateRevision {
		n += 1000
	}
	if r.Grant {
		n += 100
	}
	if r.Working == "false" {
		n += 50
	}
	return n
}

// conclude ends the rollout when every replica is updated and ready (completeRollingUpdate).
func (m *model) conclude(t *plan.Target) {
	if t.CurrentRevision == t.UpdateRevision || slices.ContainsFunc(t.Pods, func(r plan.Replica) bool {
		return !r.Exists || !r.Ready || r.Revision != t.UpdateRevision
	}) {
		return
	}
	t.CurrentRevision, m.changed = t.UpdateRevision, true
}
