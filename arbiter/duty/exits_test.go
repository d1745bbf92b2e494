package duty_test

import (
	"testing"
	"testing/synctest"
	"time"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/policy"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

// lessee asks for leases on behalf of a holder.
type lessee struct {
	*world
	holder string
	token  int64
	got    lease.Lease // the last one
}

// ask says why no lease on replica is granted; 0: it is.
func (h *lessee) ask(replica, instance string) lease.Reason {
	h.t.Helper()
	got, err := h.acquire(h.holder, replica, instance)
	must(h.t, err)
	switch {
	case got.Refusal != nil:
		return got.Refusal.Reason
	case len(got.Refused) > 0:
		return got.Refused[0].Refusal.Reason
	}
	h.got = got.Leases[0]
	return 0
}

func (h *lessee) ref() lease.Ref { return lease.Ref{ID: h.got.ID, Token: h.got.Token} }

func (h *lessee) release() {
	h.t.Helper()
	_, err := h.Release(h.ctx, h.ref(), "")
	must(h.t, err)
}

// adopt says why the holder may not be acted for; 0: it may.
func (h *lessee) adopt(term int64) lease.Reason {
	h.t.Helper()
	token, leases, no, err := h.Adopt(h.ctx, lease.AdoptRequest{Holder: h.holder, Term: term, Identity: "i"})
	must(h.t, err)
	h.token = token
	if len(leases) > 0 {
		h.got = leases[0]
	}
	return reason(no)
}

// pin and retire say why it is refused; 0: it is not.
func (h *lessee) pin() lease.Reason {
	h.t.Helper()
	_, no, err := h.Pin(h.ctx, h.ref(), "u1")
	must(h.t, err)
	return reason(no)
}

func (h *lessee) retire() lease.Reason {
	h.t.Helper()
	no, err := h.Retire(h.ctx, h.holder, h.token)
	must(h.t, err)
	return reason(no)
}

func reason(r *lease.Refusal) lease.Reason {
	if r == nil {
		return 0
	}
	return r.Reason
}

// Each refusal that docs/stuck.md has a way out of, and the way. h and g are two plans; nobody
// has duty.
func TestEachRefusalHasAWayOut(t *testing.T) {
	for _, tt := range []struct {
		name string
		want lease.Reason
		// try is refused, and then, after way, is not.
		before   func(h, g *lessee)
		try      func(h, g *lessee) lease.Reason
		way      func(h, g *lessee)
		settings func(*duty.Settings)
	}{
		{
			name: "MaxLeased: another is released", want: lease.MaxLeased,
			settings: func(s *duty.Settings) { s.MaxLeased = 1 },
			before:   func(h, _ *lessee) { h.ask("web-1", "u1") },
			try:      func(_, g *lessee) lease.Reason { return g.ask("web-2", "u2") },
			way:      func(h, _ *lessee) { h.release() },
		},
		{
			name: "MaxLeased: it is raised", want: lease.MaxLeased,
			settings: func(s *duty.Settings) { s.MaxLeased = 1 },
			before:   func(h, _ *lessee) { h.ask("web-1", "u1") },
			try:      func(_, g *lessee) lease.Reason { return g.ask("web-2", "u2") },
			way:      func(h, _ *lessee) { h.settings.MaxLeased = 2; h.configure() },
		},
		{
			name: "LeasedByOther: the other plan finishes", want: lease.LeasedByOther,
			before: func(h, _ *lessee) { h.ask("web-1", "u1") },
			try:    func(_, g *lessee) lease.Reason { return g.ask("web-1", "u1") },
			way:    func(h, _ *lessee) { h.release() },
		},
		{
			name: "Floor: another becomes ready", want: lease.BelowFloor,
			settings: func(s *duty.Settings) { s.Floor = 2 },
			before:   func(h, _ *lessee) { h.ready("web-0", false) },
			try:      func(h, _ *lessee) lease.Reason { return h.ask("web-1", "u1") },
			way:      func(h, _ *lessee) { h.ready("web-0", true) },
		},
		{
			// The clock of the test begins at midnight.
			name: "FreezeWindow: it closes", want: lease.FreezeWindow,
			settings: func(s *duty.Settings) { s.Windows = window("0 0 * * *") },
			before:   func(h, _ *lessee) {},
			try:      func(h, _ *lessee) lease.Reason { return h.ask("web-1", "u1") },
			way:      func(*lessee, *lessee) { pass(time.Hour) },
		},
		{
			name: "FreezeWindow: it is taken away", want: lease.FreezeWindow,
			settings: func(s *duty.Settings) { s.Windows = window("0 0 * * *") },
			before:   func(h, _ *lessee) {},
			try:      func(h, _ *lessee) lease.Reason { return h.ask("web-1", "u1") },
			way:      func(h, _ *lessee) { h.settings.Windows = nil; h.configure() },
		},
		{
			name: "FreezeWindow: one that cannot be read is put right", want: lease.FreezeWindow,
			settings: func(s *duty.Settings) { s.Unclear = "spec.freezeWindows[0].schedule" },
			before:   func(h, _ *lessee) {},
			try:      func(h, _ *lessee) lease.Reason { return h.ask("web-1", "u1") },
			way:      func(h, _ *lessee) { h.settings.Unclear = ""; h.configure() },
		},
		{
			name: "Spread: the other domain's is released", want: lease.Spread,
			settings: zones,
			before:   func(h, _ *lessee) { h.runsOn("web-1", "n1"); h.runsOn("web-2", "n2"); h.ask("web-1", "u1") },
			try:      func(_, g *lessee) lease.Reason { return g.ask("web-2", "u2") },
			way:      func(h, _ *lessee) { h.release() },
		},
		{
			name: "Spread: the node gets its label", want: lease.Spread,
			settings: zones,
			before:   func(h, _ *lessee) { h.runsOn("web-1", "n3") },
			try:      func(h, _ *lessee) lease.Reason { return h.ask("web-1", "u1") },
			way: func(h, _ *lessee) {
				h.settings.Domains = map[string]string{"n3": "c"}
				h.configure()
			},
		},
		{
			name: "NotIdle: its duty is taken, and it has stopped", want: lease.NotIdle,
			before: func(h, _ *lessee) { h.slots(1) },
			try:    func(h, _ *lessee) lease.Reason { return h.ask("web-0", "u0") },
			way:    func(h, _ *lessee) { h.slots(0); pass(121 * time.Second) },
		},
		{
			name: "InstanceChanged: the replica is looked at again", want: lease.InstanceChanged,
			before: func(h, _ *lessee) { h.runsAs("web-1", "u9") },
			try:    func(h, _ *lessee) lease.Reason { return h.ask("web-1", h.seen) },
			way:    func(h, _ *lessee) { h.seen = "u9" },
		},
		{
			name: "LeaseLost: the replica is given back, and another lease asked for", want: lease.Lost,
			before: func(h, _ *lessee) {
				h.ask("web-1", "u1")
				pass(2 * time.Hour) // longer than the TTL
			},
			try: func(h, _ *lessee) lease.Reason { return h.pin() },
			way: func(h, _ *lessee) {
				must(h.t, h.Fenced(h.ctx, h.got.ID))
				h.ask("web-1", "u1")
			},
		},
		{
			name: "StaleToken: it adopts again", want: lease.StaleToken,
			before: func(h, _ *lessee) {
				h.ask("web-1", "u1")
				late := h.got
				h.adopt(2)
				h.got = late
			},
			try: func(h, _ *lessee) lease.Reason { return h.pin() },
			way: func(h, _ *lessee) { h.adopt(3) },
		},
		{
			name: "HolderHasLeases: they are released first", want: lease.HolderHasLeases,
			before: func(h, _ *lessee) { h.ask("web-1", "u1"); h.adopt(2) },
			try:    func(h, _ *lessee) lease.Reason { return h.retire() },
			way:    func(h, _ *lessee) { h.release() },
		},
		{
			name: "HolderRetired: the plan is deleted, and applied anew", want: lease.HolderRetired,
			before: func(h, _ *lessee) { h.adopt(1); h.retire() },
			try:    func(h, _ *lessee) lease.Reason { return h.adopt(2) },
			way:    func(h, _ *lessee) { h.holder = "another UID" },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := begin(t, store.NewMemory(), 0, nil)
				defer w.stop()
				w.seen = "u1"
				if tt.settings != nil {
					tt.settings(&w.settings)
				}
				w.configure().known()
				h, g := &lessee{world: w, holder: "h"}, &lessee{world: w, holder: "g"}
				tt.before(h, g)
				if got := tt.try(h, g); got != tt.want {
					t.Fatalf("it is refused for reason %d, want %d", got, tt.want)
				}
				tt.way(h, g)
				if got := tt.try(h, g); got != 0 {
					t.Errorf("after the way out it is refused for reason %d", got)
				}
			})
		})
	}
}

// window opens for an hour.
func window(schedule string) policy.Windows {
	w, err := policy.NewWindow(schedule, time.Hour, "")
	if err != nil {
		panic(err)
	}
	return policy.Windows{w}
}

// zones has leases in one zone at a time, and two nodes in two of them.
func zones(s *duty.Settings) {
	s.Spread, s.Domains = "zone", map[string]string{"n1": "a", "n2": "b"}
}

// runsOn puts a pod on a node.
func (w *world) runsOn(name, node string) { w.change(name, func(p *roster.Pod) { p.Node = node }) }

// ready makes a pod ready, or not.
func (w *world) ready(name string, ready bool) {
	w.change(name, func(p *roster.Pod) { p.Ready = ready })
}

// runsAs makes the name run as another pod.
func (w *world) runsAs(name, instance string) {
	w.change(name, func(p *roster.Pod) { p.Instance = instance })
}

func (w *world) change(name string, edit func(*roster.Pod)) {
	w.t.Helper()
	pods := map[string]roster.Pod{}
	for n, p := range w.pods {
		if n == name {
			edit(&p)
		}
		pods[n] = p
	}
	w.pods = pods
	w.configure()
}

// Each reason of a roster that docs/stuck.md has a way out of, and the way.
func TestEachReasonOfARosterHasAWayOut(t *testing.T) {
	name := func(w *world, names ...string) {
		w.settings.Roster.Named, w.settings.Roster.Names = true, names
		w.configure()
	}
	for _, tt := range []struct {
		name, want string
		before     func(h *lessee)
		way        func(h *lessee)
	}{
		{
			"ReplicaLeased: its upgrade ends", duty.ReasonReplicaLeased,
			func(h *lessee) { h.ask("web-1", "u1"); name(h.world, "web-1") },
			func(h *lessee) { h.release(); h.serves("web-1", "u1") },
		},
		{
			"ReplicaLeased: another is named", duty.ReasonReplicaLeased,
			func(h *lessee) { h.ask("web-1", "u1"); name(h.world, "web-1") },
			func(h *lessee) { name(h.world, "web-2"); h.serves("web-2", "u2") },
		},
		{
			"Settling: who does not attend stops in settleSeconds", duty.ReasonSettling,
			func(h *lessee) {
				name(h.world, "web-1")
				name(h.world, "web-2")
			},
			func(h *lessee) { pass(121 * time.Second); h.serves("web-2", "u2") },
		},
		{
			"BestEffort: the workers attend", duty.ReasonBestEffort,
			func(h *lessee) { name(h.world, "web-1") },
			func(h *lessee) { h.serves("web-1", "u1") },
		},
		{
			"NotEnoughWorkers: a pod comes", duty.ReasonNotEnoughWorkers,
			func(h *lessee) {
				delete(h.pods, "web-1")
				name(h.world, "web-1")
			},
			func(h *lessee) {
				h.pods["web-1"] = roster.Pod{Instance: "u1", Ready: true}
				h.configure()
				h.serves("web-1", "u1")
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &lessee{world: begin(t, store.NewMemory(), 0, nil).configure().known(), holder: "h"}
				defer h.stop()
				tt.before(h)
				if c := h.View().Record.Summary.Conditions[0]; c.Reason != tt.want {
					t.Fatalf("the roster says %+v", c)
				}
				tt.way(h)
				if c := h.View().Record.Summary.Conditions[0]; c.Reason != duty.ReasonOnDuty {
					t.Errorf("after the way out it says %+v", c)
				}
			})
		})
	}
}

// serves has a member that was given duty attend, so that nothing is best effort.
func (w *world) serves(name, instance string) {
	w.t.Helper()
	s := w.attend(name, instance)
	_, err := s.Report(w.ctx, duty.Report{Acked: w.View().Record.Roster.Members[name].Generation, Duty: roster.Working, Health: roster.Healthy})
	must(w.t, err)
	must(w.t, s.Sent(w.ctx))
}
