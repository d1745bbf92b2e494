package sim

// This file has tools and administrators who write the sets that a plan has, beside images
// (contest) and partitions (breakGlass).

// foreignTool is a tool that applies a manifest in which our settings are not (KRUISE.md 14c):
// the hook, or priorities, policy and maxUnavailable. The partition stays: what protects by
// itself is the last thing that is left.
func (s *Sim) foreignTool() bool {
	t := s.someSet()
	if !s.cfg.Tools || !s.armed(&t) || !t.Armed {
		return false
	}
	if s.chance(2) {
		s.unhook(t.Name)
		s.Kinds["hook taken off by a tool"]++
	} else {
		s.resettle(t.Name)
		s.Kinds["settings put back by a tool"]++
	}
	return true
}

func (s *Sim) unhook(set string) {
	s.tell("tool", "takes the hook off %s", set)
	_, _ = s.api.patchSet(set, 0, func(t *Set) { t.Armed, t.Unhooked = false, true })
}

// resettle puts back what the set's own manifest says, the policy apart: no other lets a held
// pod live (KRUISE.md 14b), and the model knows no other.
func (s *Sim) resettle(set string) {
	s.tell("tool", "puts back the settings of %s", set)
	_, _ = s.api.patchSet(set, 0, func(t *Set) {
		t.Settings = Settings{Policy: t.Policy, MaxUnavailable: "1", Weights: "working=false:10", Grace: t.Grace}
	})
}
