package sim

import "time"

// This file has what a run may be like besides what draw in sim.go says, and what goes wrong
// then besides what trouble.go has.

// drawMore draws in half of the seeds what was added later: the others are as they were.
func (s *Sim) drawMore() {
	one := func(n int) bool { return s.rnd.throw(s.rnd.own, n) == 0 }
	if one(2) {
		return
	}
	c := &s.cfg
	c.More = true
	c.Clocks, c.Percent = one(2), one(3)
	c.Handovers, c.Meddling = one(2), one(3)
	if c.Kubelets = one(2); c.Kubelets {
		c.Nodes = 3
		for _, name := range c.Sets {
			if c.Images[name][0] == "broken" && one(2) {
				c.Images[name] = []string{"crash", "v2"}
			}
		}
	}
	if one(2) {
		c.MinReady = 3 * time.Second
	}
	c.Tools = one(3) && !c.BreakGlass // who takes the hook and the partition away leaves nothing
}

// limit is how many of n replicas may be unavailable: the plan's maxUnavailable, of which a
// percentage is rounded down, and is one at least (docs/api.md).
func (s *Sim) limit(n int) int {
	if !s.policy.Percent {
		return s.policy.MaxUnavailable
	}
	return max(1, n*s.policy.MaxUnavailable/100)
}

// trouble more.
func (s *Sim) moreTrouble() bool {
	kinds := []struct {
		name string
		do   func() bool
	}{
		{"clock jumped", s.jump},
		{"no image can be pulled", s.noImages},
		{"container crashed", s.crash},
		{"probe failed", s.unwell},
		{"pod evicted", s.evict},
		{"node lost", s.someNode},
		{"pod removed by force", s.removeByForce},
		{"worker lost while duty moves", s.dieMoving},
		{"application slow to let go of duty", s.linger},
		{"handovers refused for a while", s.refuseHandovers},
		{"label changed by a user", s.meddle},
	}
	k := kinds[s.rnd.IntN(len(kinds))]
	if !k.do() {
		return false
	}
	s.Kinds[k.name]++
	s.troubles++
	return true
}
