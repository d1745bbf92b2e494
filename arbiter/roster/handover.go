package roster

import (
	"slices"
	"time"
)

// Asked is a handover that an application was asked for.
type Asked struct {
	// Holder asked for it.
	Holder string
	// From worked, at this revision.
	From, Revision string
}

// handoverPatience is how long duty may take to move before it is no longer expected to.
const handoverPatience = 30 * time.Second

// AskHandover chooses who is to take over from a member, where the application decides who works
// and is asked to move duty: the first candidate that is seen to be idle, is fit and not leased.
// It returns the successor, empty when from has no duty and nothing is to be done. Until duty is
// seen to have moved, or does not for too long, nobody else is asked for and the successor is not
// leased.
//
// An application is asked once for each replica that works, its revision and holder: Asked of
// the record is the caller's to keep.
func AskHandover(r *Record, m *Memory, in Input, asked Asked, candidates []string) (string, Refused) {
	s := &step{r: r, m: m, in: in}
	mem, known := r.Members[asked.From]
	h := m.Handover
	switch {
	case !known:
		return "", RefusedUnknown
	case in.Config.Observed == nil || !in.Config.Observed.HandsOver:
		return "", RefusedObserved
	case h != nil && h.From == asked.From:
		return h.To, Accepted
	case h != nil:
		return "", RefusedBusy
	case mem.Duty == Idle:
		return "", Accepted
	case mem.Duty != Working:
		return "", RefusedUncertain
	case slices.Contains(r.Asked, asked):
		return "", RefusedAgain
	}
	able := s.candidates()
	for _, c := range candidates {
		if c != asked.From && slices.Contains(able, c) && in.Pods[c].Sight.Unfit == "" {
			m.Handover = &Handover{From: asked.From, To: c, until: in.Now.Add(handoverPatience)}
			return c, Accepted
		}
	}
	return "", RefusedNoSuccessor
}

// expectHandover ends a handover of an observed roster that is seen to be done, or that is not for
// too long.
func (s *step) expectHandover() {
	h := s.m.Handover
	if h == nil {
		return
	}
	moved := s.r.Members[h.To].Duty == Working || s.r.Members[h.From].Duty == Idle
	if moved || !s.in.Config.Observed.HandsOver || !s.in.Now.Before(h.until) {
		s.m.Handover = nil
		return
	}
	s.at(h.until)
}
