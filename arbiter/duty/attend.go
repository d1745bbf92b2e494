package duty

import (
	"context"
	"fmt"
	"slices"
	"time"

	"offduty.dev/arbiter/roster"
)

// attendance is one member's conversation; it belongs to the loop.
type attendance struct {
	roster.Attendance
	session *Session
	// promised is the lifetime of the answer that is being sent.
	promised time.Duration
}

// Session is one conversation with one instance of a member.
type Session struct {
	group    *Group
	name     string
	instance string
}

// Report is what an attending member says.
type Report struct {
	// Acked is the generation in effect, Duty the duty in effect; Unknown when not said.
	Acked  int64
	Duty   roster.Duty
	Health roster.Health
}

// Answer is what an attending member is told.
type Answer struct {
	Working    bool
	Generation int64
	Lifetime   time.Duration
}

// Attend begins a conversation with the instance of a member, which ends any other of
// the same member. name has no prefix.
//
// Errors: ErrUnknownReplica, ErrInstance, ErrObserved, ErrUnavailable.
func (g *Group) Attend(ctx context.Context, name, instance string) (*Session, error) {
	s := &Session{group: g, name: name, instance: instance}
	err := g.do(ctx, false, func(t *txn) {
		a := g.att[name]
		if t.err = g.mayAttend(name, instance, a, t.now); t.err != nil {
			return
		}
		if a == nil {
			a = &attendance{Attendance: g.attendanceOf(name)}
			g.att[name] = a
		}
		// An answer of the older conversation may be sent only after this. It names a request
		// that was received before now, so it lasts no longer than one that is sent now.
		a.sent(t.now)
		if a.Instance != instance && a.ToldUntil.After(a.OldUntil) {
			a.OldUntil = a.ToldUntil
		}
		a.session, a.Instance = s, instance
		// Not Connected before the first report: until then nothing is known of it.
		a.Connected, a.Acked, a.AckedDuty, a.Health = false, 0, roster.Unknown, roster.HealthUnknown
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (g *Group) mayAttend(name, instance string, a *attendance, now time.Time) error {
	if g.settings.Roster.Observed != nil {
		return fmt.Errorf("%s: %w", name, ErrObserved)
	}
	if g.settings.Attended == nil {
		p, ok := g.pods[name]
		switch {
		case !ok:
			return fmt.Errorf("%s: %w", name, ErrUnknownReplica)
		case p.Instance != instance:
			return fmt.Errorf("%s: %w: %q runs, %q attends", name, ErrInstance, p.Instance, instance)
		}
		return nil
	}
	if !slices.Contains(g.settings.Attended, name) {
		return fmt.Errorf("%s: %w", name, ErrUnknownReplica)
	}
	if a != nil && a.Instance != instance && (a.Connected || a.Telling || a.ToldUntil.After(now)) {
		return fmt.Errorf("%s: %w: %q has not left yet", name, ErrInstance, a.Instance)
	}
	return nil
}

// Report takes what the member says and returns its duty. An answer that says working
// must be followed by Sent once it has been handed to the transport.
//
// Errors: ErrSuperseded, ErrInstance (end the conversation); ErrUnavailable, ErrUncertain.
func (s *Session) Report(ctx context.Context, r Report) (Answer, error) {
	g := s.group
	err := g.do(ctx, true, func(t *txn) {
		a := g.att[s.name]
		if t.err = s.current(a, t.now); t.err != nil {
			return
		}
		a.Connected, a.Acked, a.AckedDuty, a.Health = true, r.Acked, r.Duty, r.Health
		if r.Duty == roster.Working && !t.roster.Members[s.name].Assigned {
			// Whoever told it that, it may go on for a lifetime.
			if until := t.now.Add(g.lifetime()); until.After(a.ToldUntil) && t.roster.Members[s.name].Duty != roster.Working {
				a.ToldUntil = until
			}
		}
	})
	if err != nil {
		return Answer{}, err
	}
	return s.Answer(ctx)
}

// Answer returns the duty of the member now. See Report about Sent.
func (s *Session) Answer(ctx context.Context) (Answer, error) {
	g := s.group
	var out Answer
	err := g.do(ctx, false, func(t *txn) {
		a := g.att[s.name]
		if t.err = s.current(a, t.now); t.err != nil {
			return
		}
		m := t.roster.Members[s.name]
		out = Answer{Working: m.Assigned, Generation: m.Generation, Lifetime: g.lifetime()}
		if out.Working {
			a.Telling, a.promised = true, out.Lifetime
		}
	})
	return out, err
}

// sent ends the sending of an answer that said working, which lasts from now. The member
// counts from earlier: from when it sent the request that the answer names.
func (a *attendance) sent(now time.Time) {
	if until := now.Add(a.promised); a.Telling && until.After(a.ToldUntil) {
		a.ToldUntil = until
	}
	a.Telling = false
}

// Sent says that an answer has been handed to the transport.
func (s *Session) Sent(ctx context.Context) error {
	return s.told(ctx, func(*attendance) {})
}

// Close ends the conversation. The member's last answer runs out in its own time.
func (s *Session) Close(ctx context.Context) error {
	return s.told(ctx, func(a *attendance) { a.Connected, a.session = false, nil })
}

func (s *Session) told(ctx context.Context, then func(*attendance)) error {
	g := s.group
	return g.do(ctx, true, func(t *txn) {
		a := g.att[s.name]
		if a == nil || a.session != s {
			return
		}
		a.sent(t.now)
		then(a)
	})
}

// Name returns the member's name.
func (s *Session) Name() string { return s.name }

// current says whether s is still the conversation with the current instance.
func (s *Session) current(a *attendance, now time.Time) error {
	if a == nil || a.session != s {
		return fmt.Errorf("%s: %w", s.name, ErrSuperseded)
	}
	return s.group.mayAttend(s.name, s.instance, a, now)
}

func (g *Group) lifetime() time.Duration { return max(g.settings.Roster.Lifetime, time.Second) }

// attendanceOf returns what is known of a member's conversation. Of a member that has not
// attended since this process began, a former one may have told that it works; not so of
// one that came later.
func (g *Group) attendanceOf(name string) roster.Attendance {
	if a := g.att[name]; a != nil {
		return a.Attendance
	}
	if instance, ok := g.former[name]; ok {
		return roster.Attendance{Instance: instance, ToldUntil: g.inherited}
	}
	return roster.Attendance{}
}

// attendedPods makes members without Kubernetes look like pods: one is there while it is
// in conversation, and as ready as it says it is.
func (g *Group) attendedPods(time.Time) map[string]roster.Pod {
	pods := map[string]roster.Pod{}
	for _, name := range g.settings.Attended {
		if a := g.att[name]; a != nil && a.Connected {
			pods[name] = roster.Pod{Instance: a.Instance, Ready: a.Health == roster.Healthy}
		}
	}
	return pods
}
