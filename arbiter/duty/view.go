package duty

import (
	"maps"
	"slices"
	"sync"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/policy"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

// View is one consistent state of a group, as it was saved. It never changes.
type View struct {
	Key      string
	Prefix   string
	Epoch    string
	Revision int64
	Record   store.Record
	Rules    policy.Rules
	Notes    roster.Notes
	// Health of the members that attend.
	Health map[string]roster.Health
	// Overdue pins by lease id.
	Overdue map[string]bool

	once    sync.Once
	names   []string
	serving int
	next    chan struct{}
}

// Superseded is closed when there is a newer view.
func (v *View) Superseded() <-chan struct{} { return v.next }

// Names returns the members' names, sorted.
func (v *View) Names() []string {
	v.derive()
	return v.names
}

// Serving counts the members that serve.
func (v *View) Serving() int {
	v.derive()
	return v.serving
}

func (v *View) derive() {
	v.once.Do(func() {
		v.names = slices.Sorted(maps.Keys(v.Record.Roster.Members))
		v.serving = v.Rules.Serving(&v.Record.Leases)
	})
}

// Lease returns the lease on a member, nil when there is none.
func (v *View) Lease(name string) *lease.Lease {
	if l, ok := v.Record.Leases.Leases[name]; ok {
		return &l
	}
	return nil
}

// View returns the group's state now; nil until the group is ready.
func (g *Group) View() *View { return g.view.Load() }

// Observed says whether the application decides who works, as far as that is known yet.
func (g *Group) Observed() bool { return g.look.Load() != nil }

// HandsOver says whether a handover may be accepted, as far as that is known yet.
func (g *Group) HandsOver() bool { return !g.Observed() || g.handsOver.Load() }

// Ready is closed when the group has been configured and has a view.
func (g *Group) Ready() <-chan struct{} { return g.ready }

// Stopped is closed when the loop has ended.
func (g *Group) Stopped() <-chan struct{} { return g.stop }

// publish makes the saved state the one that everybody sees.
func (g *Group) publish() {
	if !g.configured {
		return
	}
	now := g.cfg.Now()
	if g.seq == 0 {
		// Views of a later process must have greater numbers within the same epoch.
		g.seq = now.UnixMicro()
	}
	g.seq++
	v := &View{
		Key: g.cfg.Key, Prefix: g.cfg.Prefix, Epoch: g.record.Leases.Epoch, Revision: g.seq,
		Record: g.record, Rules: g.rules, Notes: g.notes, Health: g.health, next: make(chan struct{}),
	}
	for _, l := range g.record.Leases.Leases {
		if g.ages.Overdue(l, g.settings.PinOverdue, now) {
			if v.Overdue == nil {
				v.Overdue = map[string]bool{}
			}
			v.Overdue[l.ID] = true
		}
	}
	if old := g.view.Swap(v); old != nil {
		close(old.next)
		return
	}
	close(g.ready)
}
