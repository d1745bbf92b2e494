package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"offduty.dev/arbiter/client"
	"offduty.dev/upgrader/metrics"
	"offduty.dev/upgrader/plan"
)

// Adopt makes this upgrader the only one that acts for the plan. known are the leases
// that the plan's pods name, for an arbiter that lost its record.
func (s *Session) Adopt(ctx context.Context, known []client.Lease) error {
	if err := s.Check(ctx); err != nil {
		return err
	}
	term, identity, err := s.cfg.Leader(ctx)
	if err != nil {
		return fmt.Errorf("adopt the leases of plan %s: %w", s.key.Plan, err)
	}
	s.mu.Lock()
	epoch, shown := s.viewed.Epoch, s.shown(s.viewed)
	s.mu.Unlock()
	a, no, err := s.conn.Adopt(ctx, s.key.Group, s.key.Holder, term, identity, known)
	s.cfg.Metrics.Adopted(term, no != nil, err)
	if err != nil {
		return err
	}
	if no != nil && no.Reason == client.ReasonHolderRetired {
		return s.giveUp(plan.HolderRetired, fmt.Sprintf(
			"the arbiter at %s has let go of this plan (holder %s) before, and never takes it up again: delete the plan, and apply it anew", s.key.Address, s.key.Holder))
	}
	if no != nil {
		return fmt.Errorf("adopt the leases of plan %s in term %d: another upgrader leads: %s", s.key.Plan, term, no)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.leases
	s.adopted, s.epoch, s.token, s.leases, s.request, s.useless = true, epoch, a.Token, map[string]*held{}, "", nil
	s.highest, s.vouched = max(a.Token, shown), make(map[plan.Note]bool, len(known))
	for _, l := range known {
		s.vouched[plan.Note{ID: l.ID, Token: l.Token}] = true
	}
	for _, l := range a.Leases {
		asked := time.Time{}
		if h := old[l.Replica]; h != nil && h.ID == l.ID {
			asked = h.asked
		}
		s.track(l, asked)
	}
	for name, h := range old {
		if s.leases[name] == nil || s.leases[name].ID != h.ID {
			s.renewer.Forget(h.ID)
		}
	}
	return nil
}

// uselessPatience is after how long an arbiter that cannot serve the plan is asked again: it
// may have been replaced by one that can.
const uselessPatience = time.Minute

// giveUp notes why the arbiter cannot serve the plan.
func (s *Session) giveUp(reason plan.Reason, message string) error {
	b := plan.Blocker{Reason: reason, Message: message}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopted, s.useless, s.askAgain = false, &b, s.cfg.Now().Add(uselessPatience)
	return &plan.Stuck{Blocker: b}
}

// Check refuses an arbiter that cannot keep promise 1. Errors: *plan.Stuck, and those of the
// arbiter's client.
func (s *Session) Check(ctx context.Context) error {
	s.mu.Lock()
	ok := s.supported
	s.mu.Unlock()
	if ok {
		return nil
	}
	c, err := s.conn.Capabilities(ctx, s.key.Group)
	if err != nil {
		return err
	}
	if c.Leases != client.LeasesPinned {
		return s.giveUp(plan.ArbiterNotSupported, fmt.Sprintf(
			"the arbiter at %s (%s) gives no pinned leases for group %s, without which a replica could be called to duty while it is upgraded: use one that does",
			s.key.Address, c.Implementation, s.key.Group))
	}
	s.mu.Lock()
	s.supported = true
	s.mu.Unlock()
	return nil
}

// track notes a lease; asked is when this process asked for one that is new to it. The caller
// holds the lock.
func (s *Session) track(l client.Lease, asked time.Time) {
	h := s.leases[l.Replica]
	if h == nil || h.ID != l.ID {
		h = &held{since: s.cfg.Now(), asked: asked}
		s.leases[l.Replica] = h
	}
	h.Lease = l
	s.highest = max(s.highest, l.Token)
	h.gone = l.Phase == client.PhaseExpired
	s.renewer.Track(l)
}

// Acquire asks for up to most leases. A refusal is remembered until the group's state
// changes from what View told: it may have changed already, without our having decided
// on that.
func (s *Session) Acquire(ctx context.Context, candidates []client.Candidate, most int) (granted []string, err error) {
	s.mu.Lock()
	state := s.viewed
	if s.request == "" {
		s.request = newRequestID()
	}
	r := client.AcquireRequest{
		Group: s.key.Group, Holder: s.key.Holder, Token: s.token, RequestID: s.request,
		Candidates: candidates, Max: most, TTL: s.cfg.TTL,
	}
	s.mu.Unlock()
	sent := s.cfg.Now()
	res, no, err := s.conn.Acquire(ctx, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		// Some leases may have been granted: adopting again tells which.
		s.adopted = false
		return nil, err
	}
	s.request = ""
	if no != nil {
		s.cfg.Metrics.Refused("acquire", no.Reason.String())
		err := s.refuse(&s.refused, state, no, "")
		if err == nil {
			s.refused.candidates = asked(candidates)
		}
		return nil, err
	}
	for _, l := range res.Leases {
		s.track(l, sent)
		granted = append(granted, l.Replica)
	}
	s.refused = nil
	s.cfg.Metrics.Granted(len(granted))
	for _, no := range res.Refusals {
		s.cfg.Metrics.Refused("acquire", no.Reason.String())
	}
	if len(granted) < most {
		s.noteRefusals(state, candidates, res.Refusals)
	}
	return granted, nil
}

// noteRefusals remembers the first refusal, in the order of the candidates.
func (s *Session) noteRefusals(state client.GroupState, candidates []client.Candidate, refusals map[string]client.Refusal) {
	for _, c := range candidates {
		if no, ok := refusals[c.Replica]; ok {
			if s.refuse(&s.refused, state, &no, short(c.Replica)) == nil {
				s.refused.candidates = asked(candidates)
			}
			return
		}
	}
}

// asked are the candidates as the planner named them.
func asked(candidates []client.Candidate) []plan.Candidate {
	out := make([]plan.Candidate, 0, len(candidates))
	for _, c := range candidates {
		out = append(out, plan.Candidate{Replica: short(c.Replica), UID: c.Instance})
	}
	return out
}

// refuse remembers a refusal; a stale token means that we must adopt again first.
func (s *Session) refuse(to **refused, state client.GroupState, no *client.Refusal, replica string) error {
	if no.Reason == client.ReasonStaleToken {
		s.adopted = false
		return fmt.Errorf("plan %s: %s", s.key.Plan, no)
	}
	message := "the arbiter grants no lease"
	if replica != "" {
		message += " on " + replica
	}
	r := &refused{epoch: state.Epoch, revision: state.Revision}
	r.Blocker = plan.Blocker{Reason: plan.WaitingForLease, Retry: true, Message: message + ": " + no.String()}
	if no.RetryAfter > 0 {
		r.retry = s.cfg.Now().Add(no.RetryAfter)
	}
	*to = r
	return nil
}

// Pin makes the lease on replica one that does not expire. ok is false when the arbiter
// refused; the lease then counts as lost, so that it is given back: what stands in its
// way may be another replica that needs the lease more.
func (s *Session) Pin(ctx context.Context, l plan.Lease) (ok bool, why string, err error) {
	pinned, no, err := s.conn.Pin(ctx, s.key.Group, client.LeaseRef{ID: l.ID, Token: l.Token}, l.Instance)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		return false, "", err
	case no == nil:
		s.track(pinned, time.Time{})
		s.futile.count, s.patience = 0, time.Time{}
		return true, "", nil
	}
	s.cfg.Metrics.Refused("pin", no.Reason.String())
	if no.Reason == client.ReasonStaleToken {
		s.adopted = false
		return false, no.String(), nil
	}
	if h := s.leases[l.Replica]; h != nil && h.ID == l.ID {
		h.gone = true
	}
	s.vain(plan.PinRefused, short(l.Replica)+": "+no.String())
	return false, no.String(), nil
}

// Release gives a lease back. unused: nothing was begun under it, because it was outdated. One
// for which another leader asked says nothing of the arbiter.
func (s *Session) Release(ctx context.Context, l plan.Lease, outcome client.Outcome, revision string, unused bool) error {
	no, err := s.conn.Release(ctx, s.key.Group, client.LeaseRef{ID: l.ID, Token: l.Token}, outcome, revision)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		return err
	}
	if no != nil {
		s.cfg.Metrics.Refused("release", no.Reason.String())
		if no.Reason == client.ReasonStaleToken {
			s.adopted = false
		}
		return fmt.Errorf("release the lease on %s: %s", l.Replica, no)
	}
	if h := s.leases[l.Replica]; h != nil && h.ID == l.ID {
		if unused && !h.asked.IsZero() {
			s.vain(plan.LeaseOutdated, fmt.Sprintf("%s: asked for %s before it was given back, and half of the TTL is %s",
				short(l.Replica), s.cfg.Now().Sub(h.asked).Round(100*time.Millisecond), s.cfg.TTL/2))
		}
		delete(s.leases, l.Replica)
		s.renewer.Forget(l.ID)
	}
	s.refused = nil
	return nil
}

// Handover asks to move duty from a replica to one of the candidates.
func (s *Session) Handover(ctx context.Context, from string, candidates []string) (successor string, err error) {
	s.mu.Lock()
	state := s.viewed
	r := client.HandoverRequest{Group: s.key.Group, Holder: s.key.Holder, Token: s.token, From: from, Candidates: candidates}
	s.mu.Unlock()
	to, no, err := s.conn.Handover(ctx, r)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if no != nil {
		s.cfg.Metrics.Handover(metrics.HandoverRefused)
		s.cfg.Metrics.Refused("handover", no.Reason.String())
		if err := s.refuse(&s.handover.refused, state, no, ""); err != nil {
			return "", err
		}
		s.handover.refused.Blocker = plan.Blocker{
			Reason: plan.HandoverRefused, Retry: true,
			Message: fmt.Sprintf("the arbiter does not move duty away from %s: %s", short(from), no),
		}
		s.handover.refused.handover.From = short(from)
		for _, c := range candidates {
			s.handover.refused.handover.To = append(s.handover.refused.handover.To, short(c))
		}
		return "", nil
	}
	s.cfg.Metrics.Handover(metrics.HandoverRequested)
	s.handover.from, s.handover.since, s.handover.refused = from, s.cfg.Now(), nil
	return to, nil
}

// Retire makes the arbiter forget the plan.
func (s *Session) Retire(ctx context.Context) error {
	s.mu.Lock()
	token, adopted := s.token, s.adopted
	s.mu.Unlock()
	if !adopted {
		return nil
	}
	no, err := s.conn.Retire(ctx, s.key.Group, s.key.Holder, token)
	if errors.Is(err, client.ErrNotFound) {
		return nil // the group is gone, and its record with it
	}
	if err != nil {
		return err
	}
	if no != nil {
		if no.Reason == client.ReasonStaleToken {
			// It was retired before, and then adopted by a leader that had been frozen: adopting
			// anew gets it back.
			s.mu.Lock()
			s.adopted = false
			s.mu.Unlock()
		}
		return fmt.Errorf("retire plan %s at the arbiter: %s", s.key.Plan, no)
	}
	return nil
}
