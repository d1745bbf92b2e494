package sim

import (
	"slices"
	"time"

	"offduty.dev/arbiter/roster"
	"offduty.dev/upgrader/plan"
)

// trouble is what goes wrong, and what users and foreign tools do.
func (s *Sim) trouble() {
	s.openGates()
	if s.network() {
		return
	}
	if !s.chaos {
		s.settle()
		return
	}
	if s.cfg.Tools && s.rnd.throw(s.rnd.own, 8) == 0 {
		if s.foreignTool() {
			s.troubles++
		}
		return
	}
	if s.cfg.More && s.chance(2) {
		s.moreTrouble()
		return
	}
	n := s.rnd.IntN(18)
	kinds := []struct {
		name string
		do   func() bool
	}{
		{"pod lost", s.losePod},
		{"upgrader crashed", func() bool { s.succeed(false); return true }},
		{"upgrader to freeze", func() bool { s.freeze = true; return true }},
		{"Kruise restarted", func() bool { s.tell("chaos", "kruise restarts"); s.restartKruise(); return true }},
		{"arbiter restarted", func() bool { s.tell("chaos", "the arbiter restarts"); s.arb.restart(); return true }},
		{"long pause", s.sleep},
		{"arbiter cut off", s.cutOff},
		{"plan paused or resumed", s.pause},
		{"new image", s.nextImage},
		{"foreign image", s.contest},
		{"foreign partition", s.breakGlass},
		{"plan deleted or created", s.delete},
		{"target dropped or added", s.drop},
		{"set scaled", s.scale},
		{"image by the set's owner", s.follow},
	}
	if n < len(kinds) {
		if kinds[n].do() {
			s.Kinds[kinds[n].name]++
			s.troubles++
		}
		return
	}
	if s.flip() {
		s.Kinds["other workers named"]++
		s.troubles++
	}
}

func (s *Sim) losePod() bool {
	s.somePod(func(p Pod) { s.change(p.Name, "chaos", "the pod is deleted", func(q *Pod) { q.Terminating = true }) })
	return true
}

func (s *Sim) sleep() bool {
	s.tell("chaos", "a long pause")
	s.now = s.now.Add(time.Duration(s.rnd.IntN(30)) * time.Second)
	return true
}

func (s *Sim) cutOff() bool {
	s.tell("chaos", "the arbiter cannot be reached for a while")
	s.cut = s.now.Add(time.Duration(s.rnd.IntN(25)) * time.Second)
	return true
}

// here says whether there is a plan that is not on its way out.
func (s *Sim) here() bool { return s.plan.uid != "" && !s.plan.deleting }

// armed says whether a plan that is to stay has the set and all its pods: who writes a set
// whose pods are not held yet, or are not any more, or which the upgrader is about to give
// back, does it at his own risk.
func (s *Sim) armed(set *Set) bool {
	for _, p := range s.api.pods {
		if p.Set == set.Name && !p.Hold && !p.released() {
			return false
		}
	}
	doing := &s.leader.doing
	return s.here() && set.Plan == s.plan.uid && s.plan.named(set.Name) && doing.uid == s.plan.uid && !doing.deleting && doing.named(set.Name)
}

func (s *Sim) someSet() Set { return s.api.sets[s.cfg.Sets[s.rnd.IntN(len(s.cfg.Sets))]] }

func (s *Sim) pause() bool {
	if !s.here() {
		return false
	}
	s.edit(func(p *planObject) { p.paused = !p.paused })
	s.tell("user", "paused: %t", s.plan.paused)
	return true
}

// nextImage makes users want the next image of a set, which may be the one before.
func (s *Sim) nextImage() bool {
	name := s.someSet().Name
	if len(s.cfg.Images[name]) == 0 {
		return false
	}
	s.want[name], s.cfg.Images[name] = s.cfg.Images[name][0], s.cfg.Images[name][1:]
	s.tell("user", "wants image %s in %s", s.want[name], name)
	s.tellPlan(name)
	return true
}

// tellPlan writes what users want of a set into the plan, if that has a say.
func (s *Sim) tellPlan(name string) {
	if s.here() && s.plan.named(name) && s.plan.image(name) != s.wish(name).image {
		s.edit(func(p *planObject) {
			p.targets = slices.Clone(p.targets)
			p.targets[slices.IndexFunc(p.targets, func(t target) bool { return t.name == name })] = s.wish(name)
		})
	}
}

// follow is a user who writes the template of a set that the plan follows.
func (s *Sim) follow() bool {
	t := s.someSet()
	if !s.cfg.Follow[t.Name] || !s.armed(&t) || t.Image == s.want[t.Name] {
		return false
	}
	s.tell("user", "writes image %s to %s", s.want[t.Name], t.Name)
	_, _ = s.api.patchSet(t.Name, 0, func(t *Set) { t.Image = s.want[t.Name] })
	return true
}

// contest is a foreign tool that writes an earlier image back.
func (s *Sim) contest() bool {
	t := s.someSet()
	if !s.cfg.Contest || s.cfg.Follow[t.Name] || !s.armed(&t) || t.Image == "v1" {
		return false
	}
	s.tell("tool", "writes image v1 back to %s", t.Name)
	_, _ = s.api.patchSet(t.Name, 0, func(t *Set) { t.Image = "v1" })
	return true
}

// breakGlass is an administrator who lowers a partition, whatever protects.
func (s *Sim) breakGlass() bool {
	t := s.someSet()
	if !s.cfg.BreakGlass || !s.armed(&t) {
		return false
	}
	partition := int32(s.rnd.IntN(t.Replicas + 1)) //nolint:gosec // a small number
	s.tell("admin", "sets the partition of %s to %d", t.Name, partition)
	_, _ = s.api.patchSet(t.Name, 0, func(t *Set) { t.Partition, t.Foreign = partition, true })
	return true
}

// delete deletes the plan, or creates another when it is gone.
func (s *Sim) delete() bool {
	switch {
	case s.plan.uid == "":
		s.createPlan()
	case !s.cfg.Deletion || s.plan.deleting:
		return false
	default:
		s.tell("user", "deletes the plan")
		s.edit(func(p *planObject) {
			p.deleting, p.policy.Deleting, p.policy.DeletingSince = true, true, s.read(s.clocks.api).Truncate(time.Second)
		})
		if !s.plan.finalizer {
			s.plan = planObject{rv: s.plan.rv}
		}
	}
	return true
}

// drop takes a target out of the plan, or puts it in again.
func (s *Sim) drop() bool {
	if !s.cfg.Dropping || !s.here() {
		return false
	}
	name := s.cfg.Sets[s.rnd.IntN(len(s.cfg.Sets))]
	switch {
	case !s.plan.named(name):
		s.putIn(name)
	case len(s.plan.targets) > 1:
		s.takeOut(name)
	default:
		return false
	}
	return true
}

func (s *Sim) putIn(name string) {
	s.tell("user", "adds the target %s", name)
	s.edit(func(p *planObject) { p.targets = append(slices.Clone(p.targets), s.wish(name)) })
}

func (s *Sim) takeOut(name string) {
	s.tell("user", "takes out the target %s", name)
	s.edit(func(p *planObject) {
		p.targets = slices.DeleteFunc(slices.Clone(p.targets), func(t target) bool { return t.name == name })
	})
}

// scale adds a replica to a set, or takes it away again.
func (s *Sim) scale() bool {
	t := s.someSet()
	if !s.cfg.Scaling || !s.armed(&t) {
		return false
	}
	n := s.cfg.Replicas[t.Name]
	if t.Replicas == n {
		n++
	}
	s.tell("user", "scales %s to %d", t.Name, n)
	_, _ = s.api.patchSet(t.Name, 0, func(t *Set) { t.Replicas = n })
	total := 0
	for _, name := range s.cfg.Sets {
		total += s.api.sets[name].Replicas
	}
	s.most = max(s.most, total)
	return true
}

// flip changes who should work, by name.
func (s *Sim) flip() bool {
	if !s.cfg.Roster.Named {
		return false
	}
	var all []string
	for _, name := range s.cfg.Sets {
		t := s.api.sets[name]
		for i := range t.Replicas {
			all = append(all, t.member(i))
		}
	}
	s.rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	s.cfg.Roster.Names = all[:s.cfg.Roster.Slots]
	slices.Sort(s.cfg.Roster.Names)
	s.tell("user", "workers: %v", s.cfg.Roster.Names)
	s.arb.do(func(time.Time) {})
	return true
}

// calm ends the chaos: from here on the plan must complete, or be gone if it was deleted.
func (s *Sim) calm() {
	s.chaos, s.lossy, s.cut, s.freeze = false, 0, time.Time{}, false
	s.tell("chaos", "ends")
	s.mendClocks()
	s.well()
	s.away = !s.here() && s.chance(2)
	for _, name := range s.cfg.Sets {
		for range len(s.cfg.Images[name]) {
			s.want[name], s.cfg.Images[name] = s.cfg.Images[name][0], s.cfg.Images[name][1:]
		}
		s.tellPlan(name)
	}
	for _, name := range s.cfg.Sets {
		// Duty that nobody names goes to replicas of the plan alone: without the others they
		// may all be at work for ever.
		if s.here() && !s.plan.named(name) && (!s.cfg.Roster.Named || s.chance(2) || s.sick(name)) {
			s.edit(func(p *planObject) { p.targets = append(slices.Clone(p.targets), s.wish(name)) })
		}
	}
	if s.here() {
		s.edit(func(p *planObject) { p.paused = false }) // what a foreign tool wrote is written anew
	}
}

// sick says whether replicas of a set are at a broken image, or at one that nobody has verified,
// or will be when they are lost: nobody would mend them outside the plan, and while they count
// against the floor nobody else can go.
func (s *Sim) sick(name string) bool {
	set := s.api.sets[name]
	if bad(set.Image) || !s.arb.proven[set.revision()] {
		return true
	}
	for _, p := range s.api.pods {
		if p.Set == name && (bad(imageOf(p.Revision)) || !s.arb.proven[p.Revision]) {
			return true
		}
	}
	return false
}

// openGates is what users do where no plan is (docs/uninstall.md): a pod that was lost has
// no condition for its gate.
func (s *Sim) openGates() {
	for _, name := range names(s.api.pods) {
		if p := s.api.pods[name]; p.Gated && p.Gate == "" && s.api.sets[p.Set].Plan == "" {
			s.change(name, "user", "opens the gate", func(q *Pod) { q.Gate = "True" })
		}
	}
}

// settle is what users still do then.
func (s *Sim) settle() {
	if s.cfg.Roster.Named && s.chance(3) && (s.offDuty() || s.chance(10)) {
		s.flip()
	}
	if s.plan.uid == "" && !s.away {
		s.createPlan()
	}
	s.mend()
	s.follow()
}

// offDuty says whether those who are not to work do not. Users wait for that before they name
// others: where all but one work, nobody would ever be off duty for long enough to be upgraded.
func (s *Sim) offDuty() bool {
	for name, m := range s.arb.record.Members {
		if m.Duty != roster.Idle && !slices.Contains(s.cfg.Roster.Names, name) {
			return false
		}
	}
	return true
}

// mend is what users do about a replica that failed although its image is good: they delete
// the pod, as the plan says. One that an earlier plan gave up is not at work for anybody: it is
// of these that is said that the others are to be healed.
func (s *Sim) mend() {
	for _, name := range names(s.api.pods) {
		p := s.api.pods[name]
		_, leased := s.arb.table.Leases[name]
		given := !leased && p.Note.ID == "" && !p.Grant
		if p.same() && !p.Terminating && (given || s.plan.steps[name].step == plan.StepFailed) {
			s.change(name, "user", "deletes the pod that failed", func(q *Pod) { q.Terminating = true })
			s.Kinds["failed pod deleted"]++
		}
	}
}

// Done says whether everything is as it must be at the end.
func (s *Sim) Done() bool {
	if len(s.arb.table.Leases) > 0 || len(s.frozen) > 0 || len(s.flying) > 0 {
		return false
	}
	if s.away {
		if s.plan.uid != "" || len(s.arb.table.Holders) > 0 {
			return false
		}
	} else if !s.here() || !s.leader.last.Done || s.leader.holder != s.plan.uid {
		return false
	}
	pods := 0
	for _, name := range s.cfg.Sets {
		set := s.api.sets[name]
		pods += set.Replicas
		if s.here() && s.plan.named(name) && !s.complete(&set) || !s.plan.named(name) && !s.givenBack(&set) {
			return false
		}
	}
	return len(s.api.pods) == pods
}

// complete says whether a target is at the images that users want, and at rest.
func (s *Sim) complete(set *Set) bool {
	image := s.want[set.Name]
	want := revision(set.Name, image)
	if set.Image != image || set.Partition != plan.Parked || set.CurrentRevision != want {
		return false
	}
	for _, p := range s.api.pods {
		if p.Set == set.Name && (p.Revision != want || p.Verified != want || !p.Hold || p.Grant || p.Note.ID != "" || p.State != plan.StateNormal || p.Running != image || !p.Ready) {
			return false
		}
	}
	return true
}

// givenBack says whether nothing of ours is left on a set.
func (s *Sim) givenBack(set *Set) bool {
	if set.Armed || set.Plan != "" || set.Partition < s.original[set.Name] {
		return false
	}
	for _, p := range s.api.pods {
		if p.Set == set.Name && (p.Grant || p.Note.ID != "" || p.Hold && !s.cfg.BornHeld && !s.late[p.UID] || p.Gate == "False" || p.State == plan.StatePreparingUpdate) {
			return false
		}
	}
	return true
}
