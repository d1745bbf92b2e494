package conformance

import (
	"slices"
	"time"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

func (h *holder) handover(from string, candidates ...*arbiterv1.Replica) *arbiterv1.RequestHandoverResponse {
	return call(h.check, "RequestHandover", h.api.RequestHandover, &arbiterv1.RequestHandoverRequest{
		Group: h.target.Group, Holder: h.id, Token: h.token, From: from, Candidates: names(candidates),
	})
}

// handed asks for a handover until it is accepted: that nobody could take over a moment ago, as
// after a restart, is no fault.
func (h *holder) handed(from string, candidates ...*arbiterv1.Replica) *arbiterv1.RequestHandoverResponse {
	got := h.handover(from, candidates...)
	for waited := time.Duration(0); got.GetRefusal().GetReason() == noSuccessor && waited < h.target.Settle; waited += again {
		h.wait(again)
		got = h.handover(from, candidates...)
	}
	h.movable(got.GetRefusal())
	h.granted("HAND-1", "a handover that nothing stands against", got.GetRefusal())
	return got
}

func names(rs []*arbiterv1.Replica) []string {
	var out []string
	for _, r := range rs {
		out = append(out, r.GetName())
	}
	return out
}

// movable skips the case where an administrator has named who works.
func (c *check) movable(r *arbiterv1.Refusal) {
	if r.GetReason() == dutyIsNamed {
		c.skip("the administrator has named who works in this group: %s", r.GetMessage())
	}
}

func tryHandover(c *check) {
	from := c.someWorking().GetName()
	to := c.idlers(1)
	h := c.holder()
	got := h.handed(from, to...)
	c.want(slices.Contains(names(to), got.GetSuccessor()), "HAND-1", "the successor is %q; the candidates were %q", got.GetSuccessor(), names(to))
	for range 3 {
		again := h.handover(from, to...)
		c.granted("HAND-1", "the repeated handover", again.GetRefusal())
		s := again.GetSuccessor()
		c.want(s == "" || slices.Contains(names(to), s), "HAND-1", "the successor is %q; the candidates were %q", s, names(to))
	}
	c.await("HAND-2", "say that "+from+" is idle and a candidate works", func(s *arbiterv1.GroupState) bool {
		return idle(find(s, from)) && slices.ContainsFunc(names(to), func(name string) bool { return works(find(s, name)) })
	})
}

func tryHandoverLeased(c *check) {
	from := c.someWorking().GetName()
	rs := c.idlers(1)
	h := c.holder()
	l := h.lease(rs[0], long)
	got := h.handover(from, rs[0])
	c.movable(got.GetRefusal())
	c.refused("HAND-3", "a handover to a leased replica", got.GetRefusal(), noSuccessor)
	c.want(!works(find(c.state(), l.GetReplica())), "BAN-1", "%s is leased, and has duty", l.GetReplica())
	if len(rs) == 1 {
		c.skip("it needs another idle replica, to be handed to past the leased one; the refusal alone was seen")
	}
	got = h.handed(from, rs...)
	c.want(got.GetSuccessor() != l.GetReplica(), "HAND-1", "%s is leased, and is the successor", l.GetReplica())
	c.await("HAND-2", "say that "+from+" is idle", func(s *arbiterv1.GroupState) bool {
		c.want(!works(find(s, l.GetReplica())), "BAN-1", "%s is leased, and got duty by a handover", l.GetReplica())
		return idle(find(s, from))
	})
	c.untouched("BAN-1", l)
}

func tryHandoverRefused(c *check) {
	from := c.someWorking()
	rs := c.idlers(1)
	old := c.holder()
	h := old.succeed()
	got := old.handover(from.GetName(), rs...)
	c.movable(got.GetRefusal())
	c.refused("ADOPT-4", "a handover with an old token", got.GetRefusal(), staleToken)
	got = h.handover(c.name+"/nobody", rs...)
	c.movable(got.GetRefusal())
	c.refused("HAND-3", "a handover from a name that is not in the group", got.GetRefusal(), unknownReplica)
	got = h.handover(from.GetName(), from)
	c.movable(got.GetRefusal())
	c.refused("HAND-3", "a handover to nobody but itself", got.GetRefusal(), noSuccessor)
	got = h.handover(rs[0].GetName(), rs...)
	c.granted("HAND-4", "a handover from a replica without duty", got.GetRefusal())
	c.want(got.GetSuccessor() == "", "HAND-4", "%s has no duty, and %q shall take over", rs[0].GetName(), got.GetSuccessor())
	s := c.state()
	c.want(find(s, from.GetName()).GetDuty() == working && idle(find(s, rs[0].GetName())), "HAND-3", "duty has moved: %s", showState(s))
}
