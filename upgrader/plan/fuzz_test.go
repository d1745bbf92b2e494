package plan

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bytesSource reads choices from fuzzed bytes; when they are used up every choice is 0.
type bytesSource struct{ b []byte }

func (s *bytesSource) n(n int) int {
	if len(s.b) == 0 {
		return 0
	}
	v := int(s.b[0]) % n
	s.b = s.b[1:]
	return v
}

func (s *bytesSource) yes() bool { return s.n(2) == 1 }

// one in n.
func (s *bytesSource) rare(n int) bool { return s.n(n) == n-1 }

// worldOf makes any world of bytes: replicas at each step of their way, each bent a little.
func worldOf(b []byte) *World {
	s := &bytesSource{b}
	w := rollout(0)
	w.Targets = nil
	w.Policy.MaxUnavailable = 1 + s.n(4)
	w.Policy.Percent = s.rare(4)
	w.Policy.RequestHandover = s.yes()
	w.Policy.Paused, w.Policy.Deleting = s.rare(6), s.rare(6)
	w.Policy.DeletingSince = now.Add(-time.Duration(s.n(3)) * time.Hour)
	w.Policy.MinReady = time.Duration(s.n(2)) * 2 * time.Hour
	w.Term = int64(1 + s.n(2))
	w.Arbiter.Adopted = !s.rare(5)
	if s.rare(6) {
		w.Arbiter.Blocked = &Blocker{Reason: []Reason{ArbiterUnreachable, GroupNotFound}[s.n(2)], Message: "no answer", Retry: s.yes()}
	}
	w.Arbiter.Frozen = s.rare(8)
	if s.rare(5) {
		w.Arbiter.Refused = &Blocker{Reason: WaitingForLease, Message: "refused", Retry: true}
		w.Arbiter.RetryAt = now.Add(time.Duration(s.n(3)-1) * time.Second)
	}
	if s.yes() {
		w.Arbiter.RefusedFor = []Candidate{{"set0-1", "u1"}, {"set0-0", "u0"}}
	}
	if s.rare(8) {
		w.Arbiter.HandoverRefused = &Blocker{Reason: HandoverRefused, Message: "refused"}
	}
	if s.rare(8) {
		w.Arbiter.Orphans = []Lease{{ID: "orphan", Replica: "ns/gone-0"}}
	}
	if s.rare(8) {
		w.Arbiter.Condemned = []Lease{{ID: "condemned", Replica: "ns/going-0", Pinned: true}}
	}
	if s.yes() {
		w.LastProgress = now.Add(-time.Duration(s.n(3)) * time.Hour)
	}
	for i := range 1 + s.n(2) {
		w.addTarget("set"+strconv.Itoa(i), s.n(6))
		s.bendTarget(&w.Targets[i])
	}
	return w
}

func (s *bytesSource) bendTarget(t *Target) {
	t.Observed, t.TemplateSeen = !s.rare(5), true
	if !t.Observed {
		t.TemplateSeen, t.HookSeen = s.yes(), s.yes()
	}
	t.Armed, t.Settings, t.ArmedTerm = !s.rare(6), !s.rare(6), int64(1+s.n(2))
	t.Partition = []int32{Parked, 0, 1, 2, 3, 4, 5, 6}[s.n(8)]
	t.OriginalPartition = []int32{0, 2, Parked}[s.n(3)]
	if s.rare(4) {
		t.CurrentRevision = t.UpdateRevision
	}
	t.TemplatePending, t.TemplateWritten = s.rare(5), s.rare(6)
	if s.yes() {
		t.Changes = []string{"image:2"}
	}
	if s.rare(10) {
		t.TemplateBlocked = &Blocker{Reason: ContainerNotFound, Message: "no such container"}
	}
	if s.rare(10) {
		t.Blocked, t.Gone = &Blocker{Reason: TargetNotFound, Message: "missing"}, s.yes()
		if t.Gone {
			t.Pods = nil
		}
	}
	t.Leaving = t.Armed && !t.Gone && s.rare(8)
	t.Returning = t.Leaving && s.yes()
	if s.rare(20) {
		t.Blocked, t.Gone = &Blocker{Reason: TargetNotSupported, Message: "it cannot be read"}, false
		t.Armed, t.Unread, t.Newer = false, true, s.yes()
	}
	for j := range t.Pods {
		s.bend(&t.Pods[j])
	}
	t.Proven = []string{"v1", t.UpdateRevision, ""}[s.n(3)]
}

// bend brings a replica to some step and then changes single facts about it.
func (s *bytesSource) bend(r *Replica) {
	shapes := []func(){
		func() {},
		func() { r.Duty, r.Working = Working, "true" },
		func() { r.lease() },
		func() { r.note() },
		func() { r.grant() },
		func() { r.chosen() },
		func() { r.release() },
		func() { r.update() },
		func() { readmitted(r) },
		func() { readmitted(r).Lease = nil },
		func() { r.reborn("v1") },
		func() { r.reborn("v2") },
		func() { r.lease().reborn("v2") },
		func() { r.vanish() },
		func() { r.pin().vanish() },
		func() { r.Hold, r.State = false, StateAbsent },
		func() { r.State = StateUpdated },
	}
	if s.rare(3) {
		r.gated(s.yes())
	}
	shapes[s.n(len(shapes))]()
	for range s.n(3) {
		s.bendFact(r)
	}
}

func (s *bytesSource) bendFact(r *Replica) {
	facts := []func(){
		func() { r.Duty = Duty(s.n(3)) },
		func() {
			r.State = []State{StateAbsent, StateNormal, StatePreparingUpdate, StateUpdating, StateUpdated, "PreparingDelete"}[s.n(6)]
		},
		func() { r.Revision = []string{"v1", "v2", "v0", ""}[s.n(4)] },
		func() { r.Verified = []string{"v1", "v2", ""}[s.n(3)] },
		func() { r.Unverified = s.yes() },
		func() { r.Hold = !r.Hold },
		func() { r.Grant = !r.Grant },
		func() { r.Note = Note{} },
		func() { r.Working = []string{"", "true", "false"}[s.n(3)] },
		func() { r.Ready = !r.Ready },
		func() { r.Fit = !r.Fit },
		func() { r.UpdateDone = !r.UpdateDone },
		func() { r.Unhealthy = true },
		func() { r.Behind = s.n(3) },
		func() { r.Terminating = true },
		func() { r.Exists = !r.Exists },
		func() { r.UID = "other" },
		func() { r.Lease = nil },
		func() { r.lease().Lease.Valid = false },
		func() { r.lease().Lease.Valid, r.Lease.Lost = false, true },
		func() { r.lease().Lease.Token = 9 },
		func() { r.Fenced = []int64{6, 7, 9}[s.n(3)] },
		func() { r.LeasedBy = "another plan" },
		func() { r.Trouble = &Blocker{Reason: "CrashLoopBackOff", Message: "it crashes"} },
		func() { r.LastStep, r.LastSince = Step(s.n(12)), now.Add(-time.Duration(s.n(3))*10*time.Minute) },
		func() { r.gated(s.yes()).GateSince = now.Add(-time.Duration(s.n(2)) * time.Hour) },
		func() { r.Gated, r.GateOpen, r.GateClosed = true, false, false },
	}
	facts[s.n(len(facts))]()
}

func FuzzNext(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		b := make([]byte, 120)
		for i := range b {
			b[i] = byte(rnd.Uint32()) //nolint:gosec // any byte
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkNext(t, b) })
}

// TestNextKeepsItsPromises is FuzzNext over worlds that one seed decides, so that every
// run of the tests covers many.
func TestNextKeepsItsPromises(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, 160)
	for range 30_000 {
		for i := range b {
			b[i] = byte(rnd.Uint32()) //nolint:gosec // any byte
		}
		if checkNext(t, b); t.Failed() {
			t.Fatalf("world of %v", b)
		}
	}
}

func checkNext(t *testing.T, b []byte) {
	t.Helper()
	w, same := worldOf(b), worldOf(b)
	d := Next(w, now)
	if !reflect.DeepEqual(same, w) {
		t.Fatalf("the world was changed:\n%s", cmp.Diff(same, w))
	}
	if again := Next(same, now); !reflect.DeepEqual(d, again) {
		t.Fatalf("equal worlds, different decisions:\n%s", cmp.Diff(d, again))
	}
	if d.Reason == "" || d.Message == "" || d.Recheck < 0 {
		t.Errorf("reason %q, message %q, recheck %s", d.Reason, d.Message, d.Recheck)
	}
	if d.Done && (d.Stalled || len(d.Actions) > 0) {
		t.Errorf("done, and yet stalled %t with %q", d.Stalled, lines(d))
	}
	if d.Done && d.Going.Reason != "" {
		t.Errorf("done, and yet %+v goes on", d.Going)
	}
	checkRemarks(t, w, d)
	c := checker{t: t, w: w, d: d, touched: map[string]string{}}
	for i := range w.Targets {
		if w.Targets[i].Newer && len(d.Actions) > 0 {
			t.Errorf("a newer upgrader is at work on %s, and yet: %q", w.Targets[i].Name, lines(d))
		}
	}
	for _, a := range d.Actions {
		c.action(a)
	}
}

func checkRemarks(t *testing.T, w *World, d Decision) {
	t.Helper()
	if len(d.Targets) != len(w.Targets) {
		t.Fatalf("%d remarks on %d targets", len(d.Targets), len(w.Targets))
	}
	for i, r := range d.Targets {
		if r.Reason == "" || r.Message == "" || r.Reason == Complete && w.Targets[i].Leaving {
			t.Errorf("%s is told to be %+v", w.Targets[i].Name, r)
		}
	}
}

// checker holds one decision against the world by rules of its own, written without the
// planner's functions.
type checker struct {
	t       *testing.T
	w       *World
	d       Decision
	touched map[string]string
}

// once demands that nothing else of the decision touches what.
func (c *checker) once(what string, a Action) {
	c.t.Helper()
	if before := c.touched[what]; before != "" {
		c.t.Errorf("%s is touched twice in one decision: %s; %s", what, before, line(a))
	}
	c.touched[what] = line(a)
}

func (c *checker) pod(name string) (*Target, *Replica) {
	for i := range c.w.Targets {
		for j := range c.w.Targets[i].Pods {
			if r := &c.w.Targets[i].Pods[j]; r.Name == name {
				return &c.w.Targets[i], r
			}
		}
	}
	return nil, nil
}

func (c *checker) set(name string) *Target {
	for i := range c.w.Targets {
		if c.w.Targets[i].Name == name {
			return &c.w.Targets[i]
		}
	}
	return nil
}

func (c *checker) must(ok bool, a Action, format string, args ...any) {
	c.t.Helper()
	if !ok {
		c.t.Errorf("%s: %s", line(a), fmt.Sprintf(format, args...))
	}
}

func (c *checker) action(a Action) {
	switch a := a.(type) {
	case Commit:
		c.commit(a)
	case PatchPod:
		c.patch(a)
	case ApplySet:
		t := c.set(a.Target)
		c.write(a, t, a.ResourceVersion, a.Partition)
		for j := range t.Pods {
			c.must(!a.Return || c.leaving(t) && t.Pods[j].Lease == nil, a, "it is not the time to give %s back", t.Name)
			c.must(!t.Armed || a.Proven == "" || t.Pods[j].Verified == a.Proven, a, "%s is not verified at it", t.Pods[j].Name)
		}
	case WriteTemplate:
		c.template(a)
	case Disarm:
		c.disarm(a)
	case SetCurrentRevision:
		t := c.set(a.Target)
		c.once(a.Target+" status", a)
		for j := range t.Pods {
			c.must(t.Pods[j].Revision == t.UpdateRevision && t.Pods[j].Exists, a, "%s is not at the revision", t.Pods[j].Name)
		}
	case Acquire:
		c.acquire(a)
	case Handover:
		_, from := c.pod(a.From)
		for _, to := range a.To {
			t, _ := c.pod(to)
			c.must(!t.Leaving, a, "%s is to be given back", t.Name)
		}
		c.must(from.Duty == Working && len(a.To) > 0, a, "it does not work, or nobody can take over")
	case ReleaseLease:
		c.release(a)
	case Pin:
		_, r := c.pod(a.Pod)
		c.once(a.Pod, a)
		c.must(r.Lease != nil && r.Lease.Valid && !r.Lease.Lost && a.Lease.ID == r.Lease.ID && a.Lease.Instance == r.UID, a, "not this lease, or not this pod")
	case Adopt:
		c.must(!c.w.Arbiter.Adopted || c.w.Arbiter.Frozen, a, "it was adopted already")
	case Leave:
		c.leave(a)
	}
}

func (c *checker) leaving(t *Target) bool { return c.w.Policy.Deleting || t.Leaving }

func (c *checker) leave(a Leave) {
	c.must(c.w.Policy.Deleting, a, "the plan is not being deleted")
	for i := range c.w.Targets {
		t := &c.w.Targets[i]
		c.must(t.Gone || !t.Armed && !t.Unread, a, "%s may still be armed", t.Name)
		c.must(t.Gone || !a.Untold, a, "%s is still there", t.Name)
	}
	c.must(!a.Untold || c.w.Arbiter.Blocked != nil, a, "the arbiter can be told")
}

func (c *checker) commit(a Commit) {
	t, r := c.pod(a.Pod)
	c.once(a.Pod, a)
	l := r.Lease
	c.must(l != nil && *l == a.Lease && (l.Pinned || l.Valid) && !l.Lost, a, "without a valid lease")
	c.must(l != nil && l.Instance == r.UID && a.UID == r.UID && a.ResourceVersion == r.ResourceVersion, a, "not the pod that was leased and seen")
	c.must(l != nil && r.Fenced < l.Token, a, "the lease is void on this pod")
	c.must(r.Exists && r.Hold && r.Grant && r.State == StatePreparingUpdate && !r.Terminating, a, "it is not held, granted and chosen")
	c.must(r.Duty != Working && r.Revision != t.UpdateRevision, a, "it works, or is new already")
	c.must(!r.Gated || r.GateClosed, a, "its gate is open")
	c.must(t.Observed && t.TemplateSeen && !t.TemplatePending, a, "Kruise has not seen the template")
	c.must(!c.w.Policy.Paused && !c.leaving(t) && c.w.Arbiter.Adopted && c.w.Arbiter.Blocked == nil, a, "the plan may not go on")
}

func is(b *bool, v bool) bool { return b != nil && *b == v }

func (c *checker) patch(a PatchPod) {
	t, r := c.pod(a.Pod)
	c.once(a.Pod, a)
	c.must(r.Exists && a.UID == r.UID && a.ResourceVersion == r.ResourceVersion, a, "without its preconditions")
	c.must(t.Armed && t.Blocked == nil, a, "the set is not ours")
	c.must(a.Gate == nil || a.Hold == nil && a.Grant == nil && a.State == nil, a, "one patch cannot do both")
	if is(a.Gate, false) {
		c.must(r.Lease != nil && r.Lease.Valid && !r.Lease.Lost && r.Lease.Instance == r.UID && r.Fenced < r.Lease.Token, a, "a gate is closed without a valid lease")
	}
	if is(a.Hold, false) {
		c.must(c.leaving(t) && t.Returning && a.Returns == t.Name && t.Observed && t.Partition >= c.old(t), a, "a hold is taken off that is needed")
	}
	if is(a.Hold, true) {
		c.must(t.Observed || t.HookSeen, a, "Kruise may confirm a hold that it does not know")
		c.must(a.State != nil && *a.State == StateUpdated || r.State == StateUpdated, a, "nothing will confirm this hold")
	}
	c.verified(a, t, r)
}

func (c *checker) verified(a PatchPod, t *Target, r *Replica) {
	if a.Verified != nil && *a.Verified != "" {
		c.must(r.Revision == *a.Verified, a, "it is at %q", r.Revision)
		c.must(t.Proven == *a.Verified || r.Lease != nil && r.Lease.Pinned || r.Note.ID != "", a, "it is called verified, and nobody has seen to it")
	}
}

// old counts the replicas that are not known to be at the update revision.
func (c *checker) old(t *Target) int32 {
	n := int32(0)
	for j := range t.Pods {
		if r := &t.Pods[j]; !t.TemplateSeen || !r.Exists || r.Revision != t.UpdateRevision {
			n++
		}
	}
	return n
}

// protects counts those of them that Kruise may not update.
func (c *checker) protects(t *Target) int32 {
	n := c.old(t)
	if !t.TemplateSeen {
		return n
	}
	for j := range t.Pods {
		if r := &t.Pods[j]; r.Exists && r.Revision != t.UpdateRevision && c.mayBeUpdated(t, r) {
			n--
		}
	}
	return n
}

func (c *checker) mayBeUpdated(t *Target, r *Replica) bool {
	if r.Terminating || !r.Grant || r.Note.ID == "" {
		return false
	}
	if !r.Hold {
		return true // released
	}
	l, p := r.Lease, c.w.Policy
	return l != nil && l.Valid && !l.Lost && l.Instance == r.UID && r.Note == Note{l.ID, l.Token} && r.Duty != Working &&
		!p.Paused && !c.leaving(t) && !t.TemplatePending && (!r.Gated || r.GateClosed)
}

func (c *checker) write(a Action, t *Target, resourceVersion string, partition int32) {
	c.once(t.Name, a)
	c.must(resourceVersion == t.ResourceVersion, a, "without its precondition")
	c.must(t.Blocked == nil, a, "the set must not be written to")
	c.must(partition >= c.protects(t), a, "%d replicas are to be protected", c.protects(t))
	c.must(!t.Returning || partition >= t.Partition, a, "lowered while it is given back")
	c.must(partition >= t.Partition || t.TemplateSeen && t.Observed || !t.Armed && c.old(t) == 0, a, "lowered from %d before Kruise has seen the set", t.Partition)
}

func (c *checker) template(a WriteTemplate) {
	t := c.set(a.Target)
	c.write(a, t, a.ResourceVersion, a.Partition)
	c.must(int(a.Partition) >= len(t.Pods), a, "not everybody is protected")
	c.must(t.Armed && t.Observed && !c.w.Policy.Paused && !c.leaving(t) && !t.TemplateWritten, a, "it is not the time")
	for j := range t.Pods {
		r := &t.Pods[j]
		released := !r.Hold && r.Grant && r.Note.ID != ""
		c.must(!r.Exists || r.Terminating || released || r.Hold && r.State != StateAbsent, a, "%s is not held", r.Name)
	}
}

func (c *checker) disarm(a Disarm) {
	t := c.set(a.Target)
	c.once(a.Target, a)
	c.must(t.Partition >= c.old(t), a, "Kruise would update a replica")
	for j := range t.Pods {
		r := &t.Pods[j]
		c.must(!r.Exists || r.Terminating || !r.Hold && r.Note.ID == "" && !r.Grant, a, "%s still bears our labels", r.Name)
		c.must(r.Lease == nil, a, "%s is still leased", r.Name)
	}
}

// counts returns how many replicas the plan has, and how many leases.
func (c *checker) counts() (total, leases int) {
	leases = len(c.w.Arbiter.Orphans) + len(c.w.Arbiter.Condemned)
	for i := range c.w.Targets {
		t := &c.w.Targets[i]
		if t.Blocked == nil && !t.Leaving {
			total += len(t.Pods)
		}
		for j := range t.Pods {
			if t.Pods[j].Lease != nil {
				leases++
			}
		}
	}
	return total, leases
}

func (c *checker) acquire(a Acquire) {
	total, leases := c.counts()
	most := c.w.Policy.MaxUnavailable
	if c.w.Policy.Percent {
		most = max(1, most*total/100)
	}
	c.must(a.Max > 0 && a.Max+leases <= most, a, "%d are leased and %d may be", leases, most)
	c.must(!c.w.Policy.Paused && !c.w.Policy.Deleting && !c.w.Arbiter.Frozen, a, "it is not the time")
	for _, x := range a.Candidates {
		t, r := c.pod(x.Replica)
		c.must(r.Duty == Idle && r.Lease == nil && r.LeasedBy == "" && r.UID == x.UID && r.Exists, a, "%s is not free", x.Replica)
		isNew := r.Revision == t.UpdateRevision // then it is leased to be verified
		c.must(!t.Leaving, a, "%s is to be given back", t.Name)
		c.must(!c.risky(t), a, "%s is risked although its images have failed", x.Replica)
		c.must((isNew || r.Hold && r.State != StateUpdated) && t.Observed && t.Armed, a, "%s is not protected", x.Replica)
	}
}

// risky says whether a replica of t, or of a set that gets one of its images, was released
// and gives a reason why it does not become ready.
func (c *checker) risky(t *Target) bool {
	for i := range c.w.Targets {
		u := &c.w.Targets[i]
		if u.Name != t.Name && (len(t.Changes) == 0 || len(u.Changes) == 0) || u.Blocked != nil || u.Leaving {
			continue
		}
		for j := range u.Pods {
			if r := &u.Pods[j]; r.Trouble != nil && r.Exists && !r.Hold && r.Grant && r.Note.ID != "" {
				return true
			}
		}
	}
	return false
}

func (c *checker) release(a ReleaseLease) {
	name := a.Lease.Replica[len("ns/"):]
	t, r := c.pod(name)
	if r == nil {
		return // an orphan
	}
	c.once(name, a)
	if a.Upgraded {
		c.must(r.Revision == a.Revision && r.Verified == a.Revision && (r.Hold || c.leaving(t)) && !r.Grant, a, "it is not verified and held")
		c.must(!r.Gated || r.GateOpen, a, "its gate is closed")
		return
	}
	c.must(!r.Exists || r.Terminating || (r.Hold || c.leaving(t)) && !r.Grant && r.Note.ID == "", a, "its pod is not put back")
	c.must(!r.Exists || r.Terminating || r.Fenced >= a.Lease.Token, a, "its pod is not fenced")
	c.must(!r.Exists || r.Terminating || r.State != StatePreparingUpdate, a, "its state is left behind")
	c.must(t.Partition >= c.protects(t), a, "the partition is not raised")
}
