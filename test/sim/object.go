package sim

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// planObject is the UpgradePlan: what users want, and the status that any leader writes.
// What it points to is never changed in place, so that a copy is a version.
type planObject struct {
	uid                 string // "": there is no plan
	rv, generation      int
	deleting, finalizer bool

	policy  plan.Policy
	paused  bool
	targets []target

	// Status: the step of each replica, and the update revision of each target shown.
	steps map[string]lastStep
	shown map[string]string
	// status is all of it, as the real upgrader wrote it.
	status *v1alpha1.UpgradePlanStatus
}

type target struct {
	name string
	// image that the plan wants; "": it follows whatever template the set has.
	image string
}

type lastStep struct {
	step  plan.Step
	since time.Time
}

func (p *planObject) named(set string) bool {
	return slices.ContainsFunc(p.targets, func(t target) bool { return t.name == set })
}

func (p *planObject) image(set string) string {
	for _, t := range p.targets {
		if t.name == set {
			return t.image
		}
	}
	return ""
}

// dropped are the sets that the plan names no more and its status still shows.
func (p *planObject) dropped() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(p.shown)) {
		if !p.named(name) {
			out = append(out, name)
		}
	}
	return out
}

// edit is a change of the spec by a user.
func (s *Sim) edit(fn func(p *planObject)) {
	fn(&s.plan)
	s.plan.rv++
	s.plan.generation++
}

// writePlan is a write by an upgrader, under the version that it saw. Its own version
// comes back to it by the watch, as all others.
func (s *Sim) writePlan(u *upgrader, fn func(p *planObject)) bool {
	uid, rv := u.doing.uid, u.doing.rv
	var is planObject
	if err := s.send(message{u.name, func() error {
		if uid != s.plan.uid || rv != s.plan.rv {
			return errConflict
		}
		fn(&s.plan)
		s.plan.rv++
		is = s.plan
		s.goes(u)
		return nil
	}}); err != nil {
		s.tell(u.name, "writes the plan: %v", err)
		return false
	}
	u.doing.rv, u.doing.finalizer = is.rv, is.finalizer
	return true
}

// goes lets a plan go that is to be deleted and has no finalizer any more.
func (s *Sim) goes(u *upgrader) {
	if s.plan.deleting && !s.plan.finalizer {
		s.left(u)
		s.plan = planObject{rv: s.plan.rv}
	}
}

// writeStatus is status.Of as far as the planner reads it again, and the write of it.
func (s *Sim) writeStatus(u *upgrader, w *plan.World, now time.Time) {
	old, now := &u.doing, now.Round(0)
	steps, shown := map[string]lastStep{}, map[string]string{}
	for i := range w.Targets {
		t := &w.Targets[i]
		if u.barred[t.Name] {
			continue
		}
		shown[t.Name] = t.UpdateRevision
		for j := range t.Pods {
			r := &t.Pods[j]
			step := plan.StepOf(w, t, r, now)
			l, ok := old.steps[r.Name]
			if !ok || old.shown[t.Name] != t.UpdateRevision || l.step != step && step != plan.StepFailed {
				l.since = now
			}
			l.step = step
			steps[r.Name] = l
		}
	}
	if maps.Equal(old.steps, steps) && maps.Equal(old.shown, shown) || s.plan.uid == "" {
		return
	}
	s.writePlan(u, func(p *planObject) { p.steps, p.shown = steps, shown })
}

// createPlan is what a user does first, and again after a deletion.
func (s *Sim) createPlan() {
	s.plans++
	s.plan = planObject{uid: "plan-" + strconv.Itoa(s.plans), rv: s.plan.rv + 1, generation: 1, policy: s.policy}
	for _, name := range s.cfg.Sets {
		s.plan.targets = append(s.plan.targets, s.wish(name))
	}
	s.tell("user", "creates %s: %v", s.plan.uid, s.plan.targets)
}

// wish is the target as the user wants it now.
func (s *Sim) wish(set string) target {
	if s.cfg.Follow[set] {
		return target{name: set}
	}
	return target{set, s.want[set]}
}
