package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/upgrader/plan"
)

// Config is what a seed decides before anything happens.
type Config struct {
	Replicas int
	Gated    bool
	// BornHeld: the user's template has the hold, so that a pod is never without it.
	// Otherwise a pod that was lost is without hold until we have put it on.
	BornHeld  bool
	Grace     time.Duration
	Floor     int
	MaxLeased int
	TTL       time.Duration
	Roster    roster.Config
	// Without leaves out one safeguard, to see that the promises depend on it.
	Without Safeguard
	// Images are wanted one after the other.
	Images []string
}

// Safeguard is a part of the protocol.
type Safeguard int

// The safeguards that a run can be without.
const (
	Nothing      Safeguard = iota
	Precondition           // uid and resourceVersion in the writes of pods
	PinCheck               // the pin before the hold is released
	Hold                   // the hold in Kruise's hook
	Ban                    // no duty for a leased name
)

// planObject is the UpgradePlan: what users want, and the status that any leader writes.
type planObject struct {
	policy     plan.Policy
	paused     bool
	image      string
	generation int
	steps      map[string]lastStep
	stepsOf    string
}

type lastStep struct {
	step  plan.Step
	since time.Time
}

// Sim is one run.
type Sim struct {
	cfg   Config
	rnd   *rand.Rand
	now   time.Time
	steps int

	api    *API
	kruise *kruise
	arb    *arbiter
	apps   map[string]*app
	plan   planObject
	// leader acts; frozen are former leaders in the middle of one decision.
	leader *upgrader
	frozen []*upgrader
	// thawAt is the step from which the first of the frozen goes on.
	thawAt int
	// freeze: the leader freezes at the next request that it is about to make.
	freeze bool

	chaos    bool
	lossy    int       // one answer in so many is lost; 0: none
	cut      time.Time // the arbiter cannot be reached until then
	requests int
	// unheld counts the updates of pods that were born without a hold.
	unheld int

	verbose bool
	story   []string
	err     error
}

func broken(image string) bool { return strings.HasPrefix(image, "broken") }

// New returns the world of a seed: a set at rest at v1, and a plan for the next image.
func New(seed uint64, without Safeguard, verbose bool) *Sim {
	s := &Sim{
		rnd: rand.New(rand.NewPCG(seed, 0)),
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), apps: map[string]*app{}, verbose: verbose,
		chaos: true, lossy: 30,
	}
	n := 3 + s.rnd.IntN(3)
	s.cfg = Config{
		Replicas: n, Gated: s.chance(2), Floor: 1 + s.rnd.IntN(n-1), MaxLeased: 1 + s.rnd.IntN(2), TTL: 20 * time.Second,
		Roster: roster.Config{Slots: 1 + s.rnd.IntN(n-1), Settle: 10 * time.Second, Failover: 10 * time.Second, Lifetime: 5 * time.Second},
		Images: [][]string{{"v2"}, {"v2", "v3"}, {"broken", "v2"}, {"v2", "v1"}}[s.rnd.IntN(4)],
	}
	s.cfg.Without = without
	if s.chance(3) {
		s.cfg.Grace = 3 * time.Second
	}
	s.cfg.Roster.Named, s.cfg.BornHeld = s.chance(2), s.chance(2)
	s.api = &API{pods: map[string]Pod{}}
	for i := range n {
		p := s.newborn("web-"+strconv.Itoa(i), "web-v1")
		p.State, p.Running, p.ContainersReady, p.InPlaceReady, p.Ready = plan.StateAbsent, "v1", true, true, true
		p.Hold = false
		if s.cfg.Gated {
			p.Gate = "True"
		}
		_ = s.api.create(p)
	}
	_, _ = s.api.patchSet(0, true, func(t *Set) { t.Image, t.CurrentRevision, t.UpdateRevision, t.Observed = "v1", "web-v1", "web-v1", 1 })
	s.kruise = &kruise{s: s, cache: newCache(s.api), expect: map[string]Pod{}, grace: s.cfg.Grace}
	s.arb = newArbiter(s)
	s.arb.do(func(time.Time) {})
	s.flip()
	s.plan = planObject{
		image: s.cfg.Images[0], generation: 1, steps: map[string]lastStep{},
		policy: plan.Policy{
			MaxUnavailable: 1 + s.rnd.IntN(2), RequestHandover: !s.cfg.Roster.Named,
			DrainTimeout: 5 * time.Second, VerifyTimeout: time.Minute, ProgressDeadline: time.Hour,
		},
	}
	s.cfg.Images = s.cfg.Images[1:]
	s.leader = newUpgrader(s, 1)
	s.tell("seed", "%d: %d replicas, floor %d, maxLeased %d, named %t, slots %d, gated %t, grace %s, maxUnavailable %d, then %v", seed, n, s.cfg.Floor,
		s.cfg.MaxLeased, s.cfg.Roster.Named, s.cfg.Roster.Slots, s.cfg.Gated, s.cfg.Grace, s.plan.policy.MaxUnavailable, s.cfg.Images)
	return s
}

// newborn is a pod as Kruise creates it from the template (K stateful_set_control.go:1120
// for the state).
func (s *Sim) newborn(name, rev string) Pod {
	return Pod{Name: name, Revision: rev, Image: imageOf(rev), State: plan.StateNormal, Hold: s.cfg.BornHeld, Working: "false", Gated: s.cfg.Gated}
}

// chance is true once in n; never for 0.
func (s *Sim) chance(n int) bool { return n > 0 && s.rnd.IntN(n) == 0 }

func (s *Sim) tell(who, format string, args ...any) {
	if s.verbose {
		s.story = append(s.story, fmt.Sprintf("%6d %8.2fs %-10s %s", s.steps, s.now.Sub(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).Seconds(), who, fmt.Sprintf(format, args...)))
	}
}

func (s *Sim) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
		s.tell("PROMISE", "%v", s.err)
		s.picture()
	}
}

// picture ends a story with how things stand.
func (s *Sim) picture() {
	t := s.api.set
	s.tell("set", "generation %d observed %d partition %d current %s update %s term %d", t.Generation, t.Observed, t.Partition, t.CurrentRevision, t.UpdateRevision, t.Term)
	for _, name := range names(s.api.pods) {
		s.tell("pod", "%+v", s.api.pods[name])
		s.tell("arbiter", "%s: %+v %+v", name, s.arb.record.Members[name], s.arb.table.Leases[name])
	}
	s.tell("arbiter", "trusted %v holders %v handover %+v", s.arb.record.Trusted, s.arb.table.Holders, s.arb.memory.Handover)
	_, a, _ := s.leader.view()
	s.tell("leader", "refused %+v, handover from %q refused %+v", a.Refused, a.HandoverFrom, a.HandoverRefused)
	s.tell("leader", "%s: %s; %+v", s.leader.last.Reason, s.leader.last.Message, s.leader.last.Actions)
}

// change patches a pod without preconditions and tells it.
func (s *Sim) change(name, who, what string, fn func(*Pod)) {
	if _, err := s.api.patchPod(name, "", 0, fn); err == nil {
		s.tell(who, "%s: %s", name, what)
	}
}

// Step lets one party do one thing.
func (s *Sim) Step() {
	s.steps++
	s.now = s.now.Add(time.Duration(s.rnd.IntN(80)) * time.Millisecond)
	switch n := s.rnd.IntN(100); {
	case n < 8:
		s.kruise.cache.nextPod(s.api)
	case n < 12:
		s.kruise.cache.nextSet(s.api)
	case n < 30:
		s.kruise.step()
	case n < 40:
		s.leader.cache.nextPod(s.api)
	case n < 44:
		s.leader.cache.nextSet(s.api)
	case n < 50:
		s.leader.watch = min(s.leader.watch+1, len(s.arb.shown)-1)
	case n < 68:
		if s.leader.step(); s.freeze && s.leader.proc != nil && s.chance(3) {
			s.succeed(true)
		}
	case n < 71:
		s.leader.renew()
	case n < 76:
		if s.arb.cache.nextPod(s.api); s.arb.cache.behind(s.api) {
			s.arb.cache.nextSet(s.api)
		}
		s.arb.do(func(time.Time) {})
	case n < 77:
		s.arb.fence()
	case n < 87:
		s.somePod(s.stepApp)
	case n < 96:
		s.somePod(s.kubelet)
	case n < 98:
		s.thaw()
	default:
		s.trouble()
	}
	s.check()
}

func (s *Sim) somePod(fn func(Pod)) {
	all := names(s.api.pods)
	if len(all) > 0 {
		fn(s.api.pods[all[s.rnd.IntN(len(all))]])
	}
}

// kubelet does one thing to a pod. A container restarts in place when its image changes.
func (s *Sim) kubelet(p Pod) {
	switch {
	case p.Terminating:
		s.arb.leave(p.Name, p.UID)
		delete(s.apps, p.UID)
		s.api.remove(p.Name)
		s.tell("kubelet", "%s is gone", p.Name)
	case p.Running != "" && p.Running != p.Image:
		s.interrupted(p)
		s.arb.leave(p.Name, p.UID)
		delete(s.apps, p.UID)
		s.change(p.Name, "kubelet", "stops "+p.Running, func(q *Pod) { q.Running, q.ContainersReady, q.Ready = "", false, false })
	case p.Running == "" && broken(p.Image): // it never starts
	case p.Running == "":
		s.change(p.Name, "kubelet", "starts "+p.Image, func(q *Pod) { q.Running = q.Image })
	case !p.ContainersReady:
		s.change(p.Name, "kubelet", "its container is ready", func(q *Pod) { q.ContainersReady, q.FitSince = true, s.now })
	default:
		ready := p.fit() && (!p.Gated || p.Gate == "True")
		if ready != p.Ready {
			s.change(p.Name, "kubelet", fmt.Sprintf("ready: %t", ready), func(q *Pod) { q.Ready = ready })
		}
	}
}

// broke is called when Kruise has updated a replica to a broken image. One that was lost
// and came back broken was not ours to choose.
func (s *Sim) broke() {
	n := 0
	for _, p := range s.api.pods {
		if p.Record && broken(imageOf(p.Revision)) {
			n++
		}
	}
	if n > s.plan.policy.MaxUnavailable {
		s.fail("broken image: %d replicas are lost to it, maxUnavailable is %d", n, s.plan.policy.MaxUnavailable)
	}
}

// thaw lets a former leader go on with the decision in which it was frozen, and with some
// more, on what it sees now.
func (s *Sim) thaw() {
	if len(s.frozen) == 0 || s.steps < s.thawAt {
		return
	}
	u := s.frozen[0]
	for range s.rnd.IntN(4) {
		u.cache.nextPod(s.api)
		u.cache.nextSet(s.api)
		u.watch = min(u.watch+1, len(s.arb.shown)-1)
	}
	if u.step(); u.proc != nil {
		return
	}
	if u.left--; u.left < 0 {
		s.tell(u.name, "notices that it does not lead any more, and ends")
		s.frozen, s.thawAt = s.frozen[1:], s.steps+s.rnd.IntN(1000)
	}
}

// trouble is what goes wrong, and what users do.
func (s *Sim) trouble() {
	if !s.chaos {
		if s.cfg.Roster.Named && s.chance(3) {
			s.flip()
		}
		return
	}
	switch s.rnd.IntN(12) {
	case 0:
		s.somePod(func(p Pod) { s.change(p.Name, "chaos", "the pod is deleted", func(q *Pod) { q.Terminating = true }) })
	case 1:
		s.succeed(false)
	case 2:
		s.freeze = true
	case 3:
		s.tell("chaos", "kruise restarts")
		s.kruise.restart()
	case 4:
		s.tell("chaos", "the arbiter restarts")
		s.arb.restart()
	case 5:
		s.tell("chaos", "a long pause")
		s.now = s.now.Add(time.Duration(s.rnd.IntN(30)) * time.Second)
	case 6:
		s.tell("chaos", "the arbiter cannot be reached for a while")
		s.cut = s.now.Add(time.Duration(s.rnd.IntN(25)) * time.Second)
	case 7:
		s.plan.paused = !s.plan.paused
		s.plan.generation++
		s.tell("user", "paused: %t", s.plan.paused)
	case 8:
		s.nextImage()
	default:
		s.flip()
	}
}

func (s *Sim) nextImage() {
	if len(s.cfg.Images) == 0 {
		return
	}
	s.plan.image, s.cfg.Images = s.cfg.Images[0], s.cfg.Images[1:]
	s.plan.generation++
	s.tell("user", "wants image %s", s.plan.image)
}

// succeed makes another upgrader the leader. The old one is dead, or frozen before one of
// the requests of its last decision.
func (s *Sim) succeed(frozen bool) {
	old := s.leader
	if frozen {
		if s.freeze = false; len(s.frozen) == 0 {
			s.thawAt = s.steps + s.rnd.IntN(1000)
		}
		old.left = s.rnd.IntN(5)
		s.frozen = append(s.frozen, old)
		s.tell("chaos", "%s freezes", old.name)
	} else {
		old.proc.kill()
		s.tell("chaos", "%s crashes", old.name)
	}
	s.leader = newUpgrader(s, old.term+1)
}

// flip changes who should work, by name or by number.
func (s *Sim) flip() {
	if !s.cfg.Roster.Named {
		return
	}
	s.cfg.Roster.Names = nil
	for _, i := range s.rnd.Perm(s.cfg.Replicas)[:s.cfg.Roster.Slots] {
		s.cfg.Roster.Names = append(s.cfg.Roster.Names, "web-"+strconv.Itoa(i))
	}
	slices.Sort(s.cfg.Roster.Names)
	s.tell("user", "workers: %v", s.cfg.Roster.Names)
	s.arb.do(func(time.Time) {})
}

// calm ends the chaos: from here on the plan must complete.
func (s *Sim) calm() {
	s.chaos, s.lossy, s.cut, s.plan.paused, s.freeze = false, 0, time.Time{}, false, false
	for len(s.cfg.Images) > 0 {
		s.nextImage()
	}
	s.tell("chaos", "ends")
}

// noteSteps is what status keeps of each replica's step.
func (s *Sim) noteSteps(w *plan.World, now time.Time) {
	t := &w.Targets[0]
	next := map[string]lastStep{}
	for j := range t.Pods {
		r := &t.Pods[j]
		step := plan.StepOf(w, t, r, now)
		l, ok := s.plan.steps[r.Name]
		if !ok || s.plan.stepsOf != t.UpdateRevision || l.step != step && step != plan.StepFailed {
			l.since = now
		}
		l.step = step
		next[r.Name] = l
	}
	s.plan.steps, s.plan.stepsOf = next, t.UpdateRevision
}

// Done says whether everything is as it must be at the end.
func (s *Sim) Done() bool {
	if len(s.cfg.Images) > 0 || len(s.arb.table.Leases) > 0 || !s.leader.last.Done || len(s.frozen) > 0 {
		return false
	}
	set, want := s.api.set, revision(s.plan.image)
	if set.Image != s.plan.image || set.Partition != plan.Parked || set.CurrentRevision != want || len(s.api.pods) != s.cfg.Replicas {
		return false
	}
	for _, p := range s.api.pods {
		if p.Revision != want || p.Verified != want || !p.Hold || p.Grant || p.Note.ID != "" || p.State != plan.StateNormal || p.Running != s.plan.image || !p.Ready {
			return false
		}
	}
	return true
}

// Run runs a seed: trouble for some steps, then calm until done. It returns what went
// wrong, and after how many steps it ended.
func Run(seed uint64, trouble, bound int, without Safeguard, verbose bool) (*Sim, error) {
	s := New(seed, without, verbose)
	defer s.stop()
	for range trouble {
		if s.Step(); s.err != nil {
			return s, s.err
		}
	}
	s.calm()
	for range bound {
		if s.Step(); s.err != nil {
			return s, s.err
		}
		if s.Done() {
			return s, nil
		}
	}
	s.fail("6: not complete %d steps after the last trouble: %s: %s", bound, s.leader.last.Reason, s.leader.last.Message)
	return s, s.err
}

func (s *Sim) stop() {
	s.kruise.sync.kill()
	s.leader.proc.kill()
	for _, u := range s.frozen {
		u.proc.kill()
	}
}

var _ = lease.Leased
