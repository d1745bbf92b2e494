package duty

import (
	"time"

	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

// maxLifetime is the longest that the API allows: what a member may have been promised by a
// former process that recorded no promise, under settings that have changed since.
const maxLifetime = 300 * time.Second

// inherit notes what members may have been promised before this process began: those of
// the record, or, when there is none yet, every pod that is there: a roster that was deleted
// and made anew may have given it duty, and its application relies on that for a lifetime.
func (g *Group) inherit(now time.Time, settings Settings, pods map[string]roster.Pod) {
	g.former = map[string]string{}
	if len(g.record.Roster.Members) == 0 {
		for name, p := range pods {
			g.former[name] = p.Instance
		}
	}
	for name, m := range g.record.Roster.Members {
		g.former[name] = m.Instance
	}
	g.inherited = now.Add(g.promised(settings))
}

// promised is the lifetime on which a member may have relied when this process began.
func (g *Group) promised(settings Settings) time.Duration {
	switch {
	case g.record.Promised > 0:
		return min(g.record.Promised, maxLifetime)
	case len(g.record.Roster.Members) > 0 && g.record.Summary.ObservedGeneration != settings.Generation:
		return maxLifetime
	}
	return settings.Roster.Lifetime
}

// promise brings the record's promise in line with the lifetime of answers. A longer one is
// recorded before the first answer that has it: whatever is decided is saved before it is
// answered. A shorter one is recorded when nobody can rely on a longer any more. It says whether
// the record has changed.
func (g *Group) promise(r *store.Record, now time.Time) bool {
	want, left := g.lifetime(), g.outstanding(now)
	if left <= want {
		r.Promised = want
		return true
	}
	if at := now.Add(left - want); g.stepAt.IsZero() || at.Before(g.stepAt) {
		g.stepAt = at
	}
	// The record has whole seconds.
	if up := (left + time.Second - 1).Truncate(time.Second); up > r.Promised {
		r.Promised = up
		return true
	}
	return false
}

// outstanding is for how long somebody may still rely on an answer that was given.
func (g *Group) outstanding(now time.Time) time.Duration {
	var left time.Duration
	for _, a := range g.att {
		left = max(left, a.ToldUntil.Sub(now), a.OldUntil.Sub(now))
		if a.Telling {
			left = max(left, a.promised)
		}
	}
	for name := range g.former {
		if g.att[name] == nil {
			left = max(left, g.inherited.Sub(now))
		}
	}
	return left
}
