package source

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/roster"
)

// Prober asks a source again and again, and keeps what it says: nobody who decides waits for an
// answer. It is safe for concurrent use.
type Prober struct {
	source  application.Source
	probing v1alpha1.Probing
	now     func() time.Time
	changed func()
	// asked wakes Run when there are members that were not asked yet.
	asked chan struct{}

	mu      sync.Mutex
	members map[string]application.Member
	kept    map[string]kept
}

// kept is what is known of one instance of a member.
type kept struct {
	// sight that is believed.
	sight roster.Sight
	// at is when that was asked which was said last.
	at time.Time
	// idle and failed count answers in a row.
	idle, failed int
}

// NewProber returns a prober, which calls changed when what it says is not what it said
// before; changed must not block for long.
func NewProber(source application.Source, probing v1alpha1.Probing, now func() time.Time, changed func()) *Prober {
	return &Prober{
		source: source, probing: probing, now: now, changed: changed,
		asked: make(chan struct{}, 1), kept: map[string]kept{},
	}
}

// Run asks until ctx is done.
func (p *Prober) Run(ctx context.Context) {
	for {
		select {
		case <-p.asked: // they are asked now
		default:
		}
		if _, different := p.ask(ctx, p.following()); different && ctx.Err() == nil {
			p.changed()
		}
		// A tenth of jitter, so that not all rosters ask at the same time.
		period := seconds(p.probing.PeriodSeconds)
		timer := time.NewTimer(period - rand.N(period/10+1)) //nolint:gosec // only spreads load
		select {
		case <-timer.C:
		case <-p.asked:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// Follow sets who is asked, and says what is known of them.
func (p *Prober) Follow(members map[string]application.Member) map[string]roster.Sight {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := maps.EqualFunc(p.members, members, func(a, b application.Member) bool {
		return a.Instance == b.Instance && a.Address == b.Address && maps.Equal(a.Ports, b.Ports)
	})
	p.members = members
	maps.DeleteFunc(p.kept, func(name string, k kept) bool { return members[name].Instance != k.sight.Instance })
	if !same {
		select {
		case p.asked <- struct{}{}:
		default:
		}
	}
	out := make(map[string]roster.Sight, len(members))
	for name, m := range members {
		out[name] = roster.Sight{Instance: m.Instance, Duty: roster.Unknown, Why: "it was not asked yet"}
		if k, ok := p.kept[name]; ok {
			out[name] = k.sight
		}
	}
	return out
}

// Look asks all members now. Unlike Follow it does not go by an earlier answer where there is
// none now.
func (p *Prober) Look(ctx context.Context, members map[string]application.Member) map[string]roster.Sight {
	said, _ := p.ask(ctx, members)
	return said
}

func (p *Prober) following() map[string]application.Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members
}

// ask asks members, takes what they say, and returns it as far as it is of now. It says whether
// any of them is believed to be different from before.
func (p *Prober) ask(ctx context.Context, members map[string]application.Member) (map[string]roster.Sight, bool) {
	if len(members) == 0 {
		return nil, false
	}
	// Twice the time of an answer: for a turn, and for the answer.
	ctx, cancel := context.WithTimeout(ctx, 2*seconds(p.probing.TimeoutSeconds)+time.Second)
	defer cancel()
	at := p.now()
	said := p.source.See(ctx, members)
	p.mu.Lock()
	defer p.mu.Unlock()
	different := false
	out := make(map[string]roster.Sight, len(members))
	for name, m := range members {
		s := p.dated(said[name], m, at)
		before, known := p.kept[name]
		if known && before.sight.Instance != m.Instance {
			before, known = kept{}, false
		}
		if known && before.at.After(at) {
			out[name] = s // asked before the one that is kept
			continue
		}
		after := before.take(s, at, p.probing)
		p.kept[name] = after
		different = different || !alike(before.sight, after.sight)
		if out[name] = after.sight; s.Duty != roster.Working && s.Duty != roster.Idle {
			out[name] = s
		}
	}
	return out, different
}

// dated is what was said of a member, when that was asked at a moment.
func (p *Prober) dated(s roster.Sight, m application.Member, at time.Time) roster.Sight {
	if s.Instance != m.Instance {
		s = roster.Sight{Duty: roster.Unknown, Why: "the source says nothing of it"}
	}
	s.Instance = m.Instance
	if s.Until.IsZero() {
		s.Until = at.Add(seconds(p.probing.MaxAgeSeconds))
	}
	return s
}

// take is what is known after a member was asked once more.
func (k kept) take(s roster.Sight, at time.Time, p v1alpha1.Probing) kept {
	before := k.sight
	k.at = at
	switch s.Duty {
	case roster.Working:
		k.idle, k.failed, k.sight = 0, 0, s
	case roster.Idle:
		k.idle, k.failed, k.sight = k.idle+1, 0, s
		if before.Duty != roster.Idle && k.idle < int(p.SuccessThreshold) {
			k.sight.Duty, k.sight.Why = roster.Unknown, fmt.Sprintf("it says that it is idle, but not yet %d times in a row", p.SuccessThreshold)
		}
	case roster.Unknown:
		k.failed++
		k.idle = 0
		if before.Duty == "" || before.Duty == roster.Unknown || k.failed >= int(p.FailureThreshold) {
			k.sight = s
		}
	}
	return k
}

// alike says whether two sights say the same, whenever that was.
func alike(a, b roster.Sight) bool {
	a.Until = b.Until
	return a == b
}
