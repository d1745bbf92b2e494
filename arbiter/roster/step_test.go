package roster_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/arbiter/roster"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// bench is a roster of web-0..web-4 with everything around it, and a clock of its own.
type bench struct {
	t       *testing.T
	record  roster.Record
	memory  *roster.Memory
	config  roster.Config
	pods    map[string]roster.Pod
	att     map[string]roster.Attendance
	leased  map[string]bool
	holders bool
	frozen  bool
	now     time.Time
	notes   roster.Notes
	next    time.Time
}

func newBench(t *testing.T, slots int, named ...string) *bench {
	t.Helper()
	b := &bench{
		t: t, memory: roster.NewMemory(), pods: map[string]roster.Pod{}, att: map[string]roster.Attendance{},
		leased: map[string]bool{}, now: start,
		config: roster.Config{
			Slots: slots, Named: len(named) > 0, Names: named,
			Settle: 120 * time.Second, Failover: 10 * time.Second, Lifetime: 10 * time.Second,
		},
	}
	b.record = b.record.Clone()
	for i := range 5 {
		b.pods[fmt.Sprintf("web-%d", i)] = roster.Pod{Instance: fmt.Sprintf("u%d", i), Revision: "web-r1", Ready: true}
	}
	return b
}

func (b *bench) input() roster.Input {
	return roster.Input{
		Config: b.config, Pods: b.pods, Attendance: b.att, Leased: func(n string) bool { return b.leased[n] },
		Holders: b.holders, Frozen: b.frozen, Now: b.now,
	}
}

// step lets d pass and steps until nothing changes any more.
func (b *bench) step(d time.Duration) *bench {
	b.now = b.now.Add(d)
	b.notes, b.next = roster.Step(&b.record, b.memory, b.input())
	return b
}

// attend makes members attend: idle, healthy, at generation 0.
func (b *bench) attend(names ...string) *bench {
	for _, n := range names {
		b.att[n] = roster.Attendance{Connected: true, Instance: b.pods[n].Instance, Health: roster.Healthy, AckedDuty: roster.Idle}
	}
	return b
}

// tell sends members their duty as the server would, and ack has them put it into effect.
func (b *bench) tell(names ...string) *bench {
	for _, n := range names {
		a := b.att[n]
		if b.record.Members[n].Assigned {
			a.ToldUntil = b.now.Add(b.config.Lifetime)
		}
		b.att[n] = a
	}
	return b
}

func (b *bench) ack(names ...string) *bench {
	for _, n := range names {
		a := b.att[n]
		a.Acked, a.AckedDuty = b.record.Members[n].Generation, roster.Idle
		if b.record.Members[n].Assigned {
			a.AckedDuty = roster.Working
		}
		b.att[n] = a
	}
	return b
}

func (b *bench) disconnect(name string) *bench {
	a := b.att[name]
	a.Connected = false
	b.att[name] = a
	return b
}

func (b *bench) pod(name string, change func(*roster.Pod)) *bench {
	p := b.pods[name]
	change(&p)
	b.pods[name] = p
	return b
}

func (b *bench) unready(name string) *bench {
	return b.pod(name, func(p *roster.Pod) { p.Ready = false })
}

func (b *bench) handover(from string, candidates ...string) *bench {
	b.t.Helper()
	if _, refused := roster.RequestHandover(&b.record, b.memory, b.input(), from, candidates); refused != roster.Accepted {
		b.t.Fatalf("handover from %s is refused: %d", from, refused)
	}
	return b
}

// duties is "web-0*" for a member with duty, "web-0+" for one that may still work,
// "web-0?" for unknown ones without duty; idle ones are left out.
func (b *bench) duties() string {
	var out []string
	for n, m := range b.record.Members {
		switch {
		case m.Assigned && m.Duty == roster.Unknown:
			out = append(out, n[4:]+"*?")
		case m.Assigned:
			out = append(out, n[4:]+"*")
		case m.Duty == roster.Working:
			out = append(out, n[4:]+"+")
		case m.Duty == roster.Unknown:
			out = append(out, n[4:]+"?")
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestStepWithSlots(t *testing.T) {
	tests := map[string]struct {
		slots int
		do    func(b *bench)
		want  string
	}{
		"as many members work as there are slots": {3, func(b *bench) { b.step(0) }, "0* 1* 2*"},
		"duty is sticky": {2, func(b *bench) {
			b.step(0).unready("web-0").step(time.Second)
			b.pod("web-0", func(p *roster.Pod) { p.Ready = true }).step(time.Hour)
		}, "0* 1*"},
		"an unready member gets no duty": {2, func(b *bench) { b.unready("web-0").step(0) }, "1* 2*"},
		"a leased member gets no duty":   {2, func(b *bench) { b.leased["web-0"] = true; b.step(0) }, "1* 2*"},
		"a terminating member gets no duty": {2, func(b *bench) {
			b.pod("web-0", func(p *roster.Pod) { p.Terminating = true }).step(0)
		}, "1* 2*"},
		"a worker that is unready for too long is replaced, and may still work": {2, func(b *bench) {
			b.step(0).unready("web-0").step(0).step(10 * time.Second)
		}, "0+ 1* 2*"},
		"a worker whose pod is gone for too long is replaced": {2, func(b *bench) {
			b.step(0)
			delete(b.pods, "web-0")
			b.step(0).step(10 * time.Second)
		}, "1* 2*"},
		"a worker whose pod is gone is unknown until then": {2, func(b *bench) {
			b.step(0)
			delete(b.pods, "web-0")
			b.step(0)
		}, "0*? 1*"},
		"a worker keeps duty when nobody can take over": {5, func(b *bench) {
			b.step(0).unready("web-0").step(0).step(time.Hour)
		}, "0* 1* 2* 3* 4*"},
		"a worker that attends works on while its last answer lasts, and its successor waits": {1, func(b *bench) {
			b.attend("web-0").step(0).tell("web-0").ack("web-0").step(time.Second)
			b.tell("web-0").pod("web-0", func(p *roster.Pod) { p.Ready = false })
			a := b.att["web-0"]
			a.Health = roster.Unhealthy
			b.att["web-0"] = a
			b.step(0).tell("web-0").step(10 * time.Second).tell("web-0").step(time.Second)
		}, "0+"},
		"its successor gets duty when it has acknowledged": {1, func(b *bench) {
			b.attend("web-0").step(0).tell("web-0").ack("web-0")
			a := b.att["web-0"]
			a.Health = roster.Unhealthy
			b.att["web-0"] = a
			b.step(0).step(10 * time.Second).ack("web-0").step(0)
		}, "1*"},
		"a worker that attends and is cut off is replaced when its answer has run out": {1, func(b *bench) {
			b.attend("web-0").step(0).tell("web-0").ack("web-0").step(0)
			b.disconnect("web-0").step(0).step(9 * time.Second).step(time.Second)
		}, "1*"},
		"fewer slots take duty from the last": {3, func(b *bench) {
			b.step(0)
			b.config.Slots = 1
			b.step(0)
		}, "0* 1+ 2+"},
		"a handover takes duty first": {2, func(b *bench) {
			b.attend("web-0", "web-3").step(0).tell("web-0").ack("web-0").handover("web-0", "web-3").step(0)
		}, "0+ 1*"},
		"a handover gives duty when the predecessor is idle": {2, func(b *bench) {
			b.attend("web-0", "web-3").step(0).tell("web-0").ack("web-0").handover("web-0", "web-3").step(0).ack("web-0").step(0)
		}, "1* 3*"},
		"a handover from a member that does not attend waits for it to settle": {2, func(b *bench) {
			b.step(0).handover("web-0", "web-3").step(0).step(119 * time.Second)
		}, "0+ 1*"},
		"a handover from a member that does not attend ends after it has settled": {2, func(b *bench) {
			b.step(0).handover("web-0", "web-3").step(0).step(120 * time.Second)
		}, "1* 3*"},
		"a handover whose successor is leased meanwhile goes to another": {2, func(b *bench) {
			b.attend("web-0").step(0).tell("web-0").ack("web-0").handover("web-0", "web-3").step(0)
			b.leased["web-3"] = true
			b.ack("web-0").step(0)
		}, "1* 2*"},
		"a handover ends where it began when nobody can take over": {2, func(b *bench) {
			b.attend("web-0").step(0).tell("web-0").ack("web-0").handover("web-0", "web-3").step(0)
			b.leased["web-2"], b.leased["web-3"], b.leased["web-4"] = true, true, true
			b.ack("web-0").step(0)
		}, "0* 1*"},
		"duty prefers the revision that was verified last": {2, func(b *bench) {
			b.holders = true
			b.step(0).record.Trust("web-r2")
			b.pod("web-4", func(p *roster.Pod) { p.Revision = "web-r2" }).unready("web-0").step(0).step(10 * time.Second)
		}, "0+ 1* 4*"},
		"a member at a revision that nobody has verified gets no duty while a holder is there": {5, func(b *bench) {
			b.holders = true
			b.step(0).pod("web-1", func(p *roster.Pod) { p.Revision, p.Instance = "web-r2", "new" }).step(0)
		}, "0* 1+ 2* 3* 4*"},
		"a member at a new revision has duty while no holder is there": {5, func(b *bench) {
			b.step(0).pod("web-1", func(p *roster.Pod) { p.Revision = "web-r2" }).step(0)
		}, "0* 1* 2* 3* 4*"},
		"the first pods are trusted even when a holder was there before them": {1, func(b *bench) {
			b.holders = true
			b.step(0)
		}, "0*"},
		"a frozen roster neither gives nor takes duty": {2, func(b *bench) {
			b.frozen = true
			b.step(0).step(time.Hour)
		}, "0? 1? 2? 3? 4?"},
		"a lost roster learns from labels and from the members themselves who works": {2, func(b *bench) {
			b.frozen = true
			b.attend("web-4").pod("web-3", func(p *roster.Pod) { p.OnDuty = true })
			a := b.att["web-4"]
			a.AckedDuty, a.Acked = roster.Working, 7
			b.att["web-4"] = a
			b.step(0)
		}, "0? 1? 2? 3*? 4*?"},
		"a member that says it works without duty is not idle": {0, func(b *bench) {
			b.attend("web-0").step(0)
			a := b.att["web-0"]
			a.AckedDuty = roster.Working
			b.att["web-0"] = a
			b.step(0).step(time.Hour)
		}, "0?"},
		"an answer that is being sent keeps a member from becoming idle": {1, func(b *bench) {
			b.attend("web-0").step(0)
			a := b.att["web-0"]
			a.Telling = true
			b.att["web-0"] = a
			b.config.Slots = 0
			b.step(0).ack("web-0").step(time.Hour)
		}, "0+"},
		"an acknowledgement of an earlier generation does not count": {1, func(b *bench) {
			b.attend("web-0").step(0).ack("web-0").tell("web-0")
			b.config.Slots = 0
			b.step(0)
			a := b.att["web-0"]
			a.AckedDuty = roster.Idle
			b.att["web-0"] = a
			b.step(time.Second)
		}, "0+"},
		"an earlier instance may work on although the new one is idle": {1, func(b *bench) {
			b.attend("web-0").step(0).tell("web-0").ack("web-0")
			b.config.Slots = 0
			b.step(0).ack("web-0")
			a := b.att["web-0"]
			a.OldUntil = b.now.Add(5 * time.Second)
			b.att["web-0"] = a
			b.step(4 * time.Second)
		}, "0+"},
		"a member does not settle while its label says working": {1, func(b *bench) {
			b.step(0).pod("web-0", func(p *roster.Pod) { p.OnDuty = true })
			b.config.Slots = 0
			b.step(0).step(200 * time.Second)
			b.pod("web-0", func(p *roster.Pod) { p.OnDuty = false }).step(119 * time.Second)
		}, "0+"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, tt.slots)
			tt.do(b)
			if got := b.duties(); got != tt.want {
				t.Errorf("got %q, want %q\n%s", got, tt.want, cmp.Diff(nil, b.record.Members))
			}
		})
	}
}

func TestStepWithNamedWorkers(t *testing.T) {
	tests := map[string]struct {
		do   func(b *bench)
		want string
	}{
		"exactly the named members work": {func(b *bench) { b.step(0) }, "0* 2* 4*"},
		"a named member that is unready keeps duty": {func(b *bench) {
			b.step(0).unready("web-0").step(0).step(time.Hour)
		}, "0* 2* 4*"},
		"those named anew get duty at once, and the others settle": {func(b *bench) {
			b.step(0)
			b.config.Names = []string{"web-0", "web-1", "web-2"}
			b.step(0)
		}, "0* 1* 2* 4+"},
		"a member that attends is idle as soon as it has acknowledged": {func(b *bench) {
			b.attend("web-4").step(0).tell("web-4").ack("web-4")
			b.config.Names = []string{"web-0", "web-1", "web-2"}
			b.step(0).ack("web-4").step(0)
		}, "0* 1* 2*"},
		"a leased member gets duty when its lease has ended": {func(b *bench) {
			b.leased["web-0"] = true
			b.step(0)
			if b.duties() != "2* 4*" || len(b.notes.Leased) != 1 {
				b.t.Fatalf("with a lease on web-0: %q, %+v", b.duties(), b.notes)
			}
			b.leased["web-0"] = false
			b.step(0)
		}, "0* 2* 4*"},
		"a named member without a pod is unknown": {func(b *bench) {
			b.step(0)
			delete(b.pods, "web-0")
			b.step(time.Hour)
		}, "0*? 2* 4*"},
		"a named member that was replaced goes on": {func(b *bench) {
			b.step(0).pod("web-0", func(p *roster.Pod) { p.Instance = "new" }).step(0)
		}, "0* 2* 4*"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 0, "web-0", "web-2", "web-4")
			tt.do(b)
			if got := b.duties(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRequestHandoverRefusals(t *testing.T) {
	tests := map[string]struct {
		named      []string
		prepare    func(b *bench)
		from       string
		candidates []string
		want       roster.Refused
		successor  string
	}{
		"the first candidate that can take over is chosen": {
			prepare: func(b *bench) { b.leased["web-2"] = true }, from: "web-0", candidates: []string{"web-1", "web-2", "web-3"}, successor: "web-3",
		},
		"a member without duty needs no handover": {from: "web-4", candidates: []string{"web-3"}},
		"a repeated request names the same successor": {
			prepare: func(b *bench) { b.handover("web-0", "web-3").step(0) }, from: "web-0", candidates: []string{"web-4"}, successor: "web-3",
		},
		"duty moves one at a time": {
			prepare: func(b *bench) { b.handover("web-0", "web-3").step(0) }, from: "web-1", candidates: []string{"web-4"}, want: roster.RefusedBusy,
		},
		"an unready candidate cannot take over": {
			prepare: func(b *bench) { b.unready("web-3").step(0) }, from: "web-0", candidates: []string{"web-3"}, want: roster.RefusedNoSuccessor,
		},
		"an unknown member has nothing to hand over": {from: "db-0", candidates: []string{"web-3"}, want: roster.RefusedUnknown},
		"named duty does not move":                   {named: []string{"web-0"}, from: "web-0", candidates: []string{"web-3"}, want: roster.RefusedNamed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 2, tt.named...).step(0)
			if tt.prepare != nil {
				tt.prepare(b)
			}
			successor, got := roster.RequestHandover(&b.record, b.memory, b.input(), tt.from, tt.candidates)
			if diff := cmp.Diff([]any{tt.want, tt.successor}, []any{got, successor}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMembersThatAreGoneAreForgottenInTime(t *testing.T) {
	b := newBench(t, 1).step(0)
	delete(b.pods, "web-4")
	if b.step(0); !b.next.Equal(b.now.Add(10 * time.Minute)) {
		t.Errorf("the next look is at %s", b.next)
	}
	b.step(10 * time.Minute)
	if _, ok := b.record.Members["web-4"]; ok {
		t.Error("web-4 is still recorded")
	}
}

func TestALostRosterTrustsWhatIsThereExceptWhatIsBeingUpgraded(t *testing.T) {
	b := newBench(t, 1)
	b.frozen = true
	b.pod("web-1", func(p *roster.Pod) { p.Revision = "web-r2" })
	b.pod("web-2", func(p *roster.Pod) { p.Revision, p.LeaseID = "web-r3", "e-1" })
	b.step(0)
	if diff := cmp.Diff([]string{"web-r1", "web-r2"}, b.record.Trusted); diff != "" {
		t.Error(diff)
	}
}

func TestTrustedRevisionsAreBounded(t *testing.T) {
	b := newBench(t, 1)
	for i := range 100 {
		b.record.Trust(fmt.Sprintf("web-v%d", i))
	}
	b.step(0)
	if n := len(b.record.Trusted); n != 32 {
		t.Errorf("%d revisions are kept", n)
	}
	if !slices.Contains(b.record.Trusted, "web-r1") || !slices.Contains(b.record.Trusted, "web-v99") {
		t.Errorf("kept %v", b.record.Trusted)
	}
}

// A worker that crashed and has nobody to take its place must not keep the duty by which
// nobody could upgrade it.
func TestAWorkerThatIsDownLosesItsDutyToAnUpgrade(t *testing.T) {
	for _, tt := range []struct {
		name string
		// mar makes web-0, the only worker and never attending unless attended, unfit.
		mar      func(b *bench)
		attends  bool
		idle     bool
		upgrades bool
	}{
		{name: "its containers do not run", upgrades: true, idle: true, mar: func(b *bench) {
			b.pods["web-0"] = roster.Pod{Instance: "u0", Revision: "web-r1", Down: true}
		}},
		{name: "its containers do not run, and no upgrade is at work", mar: func(b *bench) {
			b.pods["web-0"] = roster.Pod{Instance: "u0", Revision: "web-r1", Down: true}
		}},
		{name: "it is not ready, and may work all the same", upgrades: true, mar: func(b *bench) {
			b.pods["web-0"] = roster.Pod{Instance: "u0", Revision: "web-r1"}
		}},
		{name: "it attended, and has gone silent for longer than its last answer lasts", upgrades: true, attends: true, idle: true, mar: func(b *bench) {
			a := b.att["web-0"]
			a.Connected = false
			b.att["web-0"] = a
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { newBench(t, 1).loses(tt.mar, tt.attends, tt.upgrades, tt.idle) })
	}
}

// loses makes web-0 the only worker, mars it, and wants it to be idle in the end or not; one
// that is gets its duty back when it is well.
func (b *bench) loses(mar func(b *bench), attends, upgrades, idle bool) {
	b.t.Helper()
	for i := 1; i < 5; i++ {
		delete(b.pods, fmt.Sprintf("web-%d", i))
	}
	if attends {
		b.attend("web-0")
	}
	b.holders = upgrades
	b.step(0)
	if !b.record.Members["web-0"].Assigned {
		b.t.Fatalf("it has no duty: %+v", b.record.Members)
	}
	if attends {
		b.tell("web-0")
	}
	mar(b)
	for range 5 {
		b.step(time.Minute)
	}
	if m := b.record.Members["web-0"]; (m.Duty == roster.Idle) != idle || m.Assigned == idle {
		b.t.Errorf("it is %+v", m)
	}
	b.pods["web-0"] = roster.Pod{Instance: "u0", Revision: "web-r1", Ready: true}
	b.attend("web-0")
	b.step(time.Second)
	if m := b.record.Members["web-0"]; !m.Assigned {
		b.t.Errorf("well again, it is %+v", m)
	}
}

// FuzzStep drives a roster at random and checks what must hold after every step.
func FuzzStep(f *testing.F) {
	f.Add(uint8(2), []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Add(uint8(1), []byte{10, 3, 0, 9, 33, 12, 90, 8, 200, 17, 6, 6, 42, 9, 9, 9})
	f.Fuzz(func(t *testing.T, slots uint8, steps []byte) {
		b := newBench(t, int(slots%5))
		b.attend("web-0", "web-1", "web-2").step(0)
		for i, s := range steps {
			if i > 300 {
				return
			}
			before := b.record.Clone()
			b.shake(s)
			b.step(0)
			b.check(before, i)
		}
	})
}

// shake changes one thing around the roster.
func (b *bench) shake(s byte) {
	name := fmt.Sprintf("web-%d", s/12%5)
	// A pod that is not there cannot change: it would come back as the same instance.
	change := func(fn func(*roster.Pod)) {
		if _, ok := b.pods[name]; ok {
			b.pod(name, fn)
		}
	}
	switch s % 12 {
	case 0:
		if m := b.record.Members[name]; m.Duty == roster.Idle && !m.Assigned {
			b.leased[name] = true
		}
	case 1:
		delete(b.leased, name)
	case 2:
		change(func(p *roster.Pod) { p.Ready = !p.Ready })
	case 3:
		delete(b.pods, name)
	case 4:
		b.pods[name] = roster.Pod{Instance: fmt.Sprint("n", s), Revision: "web-r1", Ready: true}
	case 5:
		b.ack(name)
	case 6, 7:
		b.now = b.now.Add(time.Duration(s) * time.Second)
	case 8:
		b.disconnect(name)
	case 9:
		b.attend(name)
	case 10:
		roster.RequestHandover(&b.record, b.memory, b.input(), name, []string{"web-0", "web-1", "web-2", "web-3", "web-4"})
	case 11:
		b.holders = !b.holders
		change(func(p *roster.Pod) { p.Revision = "web-r2" })
	}
	for n, a := range b.att {
		if a.Connected && b.record.Members[n].Assigned {
			a.ToldUntil = b.now.Add(b.config.Lifetime)
			b.att[n] = a
		}
	}
}

//nolint:gocognit // a list of invariants
func (b *bench) check(before roster.Record, step int) {
	b.t.Helper()
	attending := 0
	for n, m := range b.record.Members {
		old, known := before.Members[n]
		gained := m.Assigned && (!known || !old.Assigned)
		switch {
		case m.Assigned && m.Duty == roster.Idle:
			b.t.Fatalf("step %d: %s has duty and is idle", step, n)
		case m.Assigned && b.leased[n]:
			b.t.Fatalf("step %d: %s has duty under a lease", step, n)
		case gained && roster.Quarantined(b.record, b.pods[n], b.holders):
			b.t.Fatalf("step %d: %s gets duty in quarantine", step, n)
		case known && m.Generation < old.Generation, known && m.Assigned != old.Assigned && m.Generation == old.Generation:
			b.t.Fatalf("step %d: %s goes from %+v to %+v", step, n, old, m)
		case known && m.Duty == roster.Idle && old.Duty != roster.Idle:
			b.mayBeIdle(n, m, step)
		}
		if m.Attends && m.Duty != roster.Idle {
			attending++
		}
	}
	if attending > b.config.Slots && attending > countAttending(before) {
		b.t.Fatalf("step %d: %d members that attend may work, %d slots", step, attending, b.config.Slots)
	}
}

func countAttending(r roster.Record) int {
	n := 0
	for _, m := range r.Members {
		if m.Duty != roster.Idle {
			n++
		}
	}
	return n
}

// mayBeIdle demands a reason for which a member has become idle.
func (b *bench) mayBeIdle(n string, m roster.Member, step int) {
	b.t.Helper()
	a := b.att[n]
	acked := a.Connected && a.Acked == m.Generation && a.AckedDuty == roster.Idle
	if !acked && a.ToldUntil.After(b.now) {
		b.t.Fatalf("step %d: %s is idle (%s) though its answer lasts until %s, now %s", step, n, m.Message, a.ToldUntil, b.now)
	}
}

func TestAPodBornInAnArmedSetGetsNoDutyBeforeItsHoldIsConfirmed(t *testing.T) {
	for _, tt := range []struct {
		name  string
		bench *bench
	}{
		{"by slots", newBench(t, 1)},
		{"by name", newBench(t, 0, "web-0")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.bench.step(0)
			b.holders, b.leased["web-4"] = true, true
			// The worker's pod is lost, and comes back without the hold; one is still held.
			for n, p := range b.pods {
				b.pods[n] = roster.Pod{Instance: p.Instance + "'", Revision: p.Revision, Ready: true, Held: n == "web-4"}
			}
			b.record.Members["web-0"] = roster.Member{Generation: 9, Duty: roster.Idle, Instance: "u0'"}
			b.step(0)
			if got := b.assigned(); got != "" {
				t.Errorf("without a hold, duty went to %s", got)
			}
			p := b.pods["web-0"]
			p.Held = true
			b.pods["web-0"] = p
			b.step(0)
			if got := b.assigned(); got != "web-0" {
				t.Errorf("held, duty went to %q, not web-0", got)
			}
		})
	}
}

// assigned names the members with duty.
func (b *bench) assigned() string {
	var out []string
	for n, m := range b.record.Members {
		if m.Assigned {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
