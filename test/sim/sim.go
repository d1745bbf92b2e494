package sim

import (
	"fmt"
	"strings"
	"time"

	"offduty.dev/arbiter/roster"
	"offduty.dev/upgrader/plan"
)

// Config is what a seed decides before anything happens.
type Config struct {
	// Sets of the group, and how many replicas each has at first.
	Sets     []string
	Replicas map[string]int
	// Follow: the plan names no image for the set, whose template users write themselves.
	Follow map[string]bool
	Gated  bool
	// Real: the upgraders are the real ones, and not what mirrors them. Compare: the mirror
	// must see what they see.
	Real, Compare bool
	// BornHeld: the user's template has the hold, so that a pod is never without it.
	// Otherwise a pod that was lost is without hold until we have put it on.
	BornHeld bool
	Grace    time.Duration
	// Named: the container runtime names images as the template does.
	Named     bool
	Floor     int
	MaxLeased int
	TTL       time.Duration
	Roster    roster.Config
	// Without leaves out one safeguard, to see that the promises depend on it.
	Without Safeguard
	// Images of each set are wanted one after the other.
	Images map[string][]string
	// More goes wrong (more.go).
	More bool
	// Clocks go wrong.
	Clocks bool
	// Percent: the plan's maxUnavailable is one.
	Percent bool
	// Kubelets have trouble of their own. Nodes is how many there are that can be lost.
	Kubelets bool
	// Handovers are slow, refused, or interrupted.
	Handovers bool
	// Meddling: users change labels and annotations of pods, as admission lets them.
	Meddling bool
	Nodes    int
	// MinReady is the plan's minReadySeconds.
	MinReady time.Duration
	// Tools take hooks off sets, and settings back.
	Tools bool
	// What users and foreign tools do in this run.
	Contest, BreakGlass, Deletion, Dropping, Scaling bool
	// Unreliable: one in so many requests to the API server is lost, or its answer is, or it
	// arrives late or twice, and watches are lost; 0: none.
	Unreliable int
}

// Sim is one run.
type Sim struct {
	cfg Config
	rnd *dice
	now time.Time
	// ticks are the moments at which something may have happened, delivered the steps among
	// them, by kind of event.
	ticks     int
	delivered []int
	// looked is up to where an actor had looked when it found nothing to do.
	looked map[string]int
	// troubles counts what went wrong, whether it changed an object or not.
	troubles int

	api     *API
	kruises []*kruise
	arb     *arbiter
	apps    map[string]*app
	plan    planObject
	policy  plan.Policy
	plans   int // created so far
	// flying are requests whose sender does not wait any more, or has its answer already.
	flying []message
	// landing: one of them is carried out. delayed is the next to become one, in the words of
	// scenarios.
	landing bool
	delayed string
	// want are the images that users want.
	want map[string]string
	// away: the plan stays deleted.
	away bool
	// leader acts; frozen are former leaders in the middle of one decision.
	leader *upgrader
	frozen []*upgrader
	// thawAt is the step from which the first of the frozen goes on.
	thawAt int
	// freeze: the leader freezes at the next request that it is about to make.
	freeze bool

	clocks clocks
	nodes  []node
	// lingers is how long the application of a replica takes to let go of duty; refuses is until
	// when no handover is made.
	lingers map[string]time.Duration
	refuses time.Time
	// noPulls is until when no image can be pulled.
	noPulls time.Time

	chaos    bool
	lossy    int       // one answer in so many is lost; 0: none
	cut      time.Time // the arbiter cannot be reached until then
	requests int
	// unheld counts the updates of pods that were born without a hold, foreign those of
	// pods without one while somebody else had lowered the partition.
	unheld, foreign int
	// held are the pods, by UID, that ever had our hold, and the version that had it first.
	held map[string]int
	// verified is at what an upgrader has called a replica verified last, whatever is written there.
	verified map[string]string
	// late are those that a leader which had been frozen held when it led no more.
	late map[string]bool
	// excused are those of unheld, with the version that Kruise saw.
	excused map[string]int
	// most is the highest number of replicas that there ever were.
	most int
	// original is the lowest partition that a set may have when it is given back.
	original map[string]int32
	// onDisk is what a replica's data say: whether it worked when it ran last.
	onDisk map[string]bool
	// Kinds counts what was done, by kind.
	Kinds map[string]int
	// Checks counts at what the promises were checked, besides each tick.
	Checks map[string]int

	verbose bool
	story   []string
	err     error
	// broken is the check that failed: what was to be said of it, before names and numbers
	// were filled in.
	broken string
}

// broken images cannot be pulled, crashing ones end as soon as they are started; bad is either.
func broken(image string) bool   { return strings.HasPrefix(image, "broken") }
func crashing(image string) bool { return strings.HasPrefix(image, "crash") }
func bad(image string) bool      { return broken(image) || crashing(image) }

// newSim returns the world of a seed: sets at rest at v1, and a plan for the next images.
func newSim(rnd *dice, configure func(*Sim), verbose bool) *Sim {
	rnd.setup()
	s := &Sim{
		rnd: rnd, delivered: make([]int, len(events)), looked: map[string]int{}, onDisk: map[string]bool{}, lingers: map[string]time.Duration{},
		now: beginning, apps: map[string]*app{}, verbose: verbose,
		chaos: true, lossy: 30, want: map[string]string{}, held: map[string]int{}, verified: map[string]string{}, excused: map[string]int{}, late: map[string]bool{}, original: map[string]int32{}, Kinds: map[string]int{}, Checks: map[string]int{},
		api: &API{pods: map[string]Pod{}, sets: map[string]Set{}, numbers: map[string]int{}},
	}
	configure(s)
	s.nodes = make([]node, s.cfg.Nodes)
	for _, name := range s.cfg.Sets {
		s.install(name)
	}
	s.api.second = newCache(s.api)
	s.misset()
	cache := newCache(s.api)
	for _, name := range s.cfg.Sets {
		s.kruises = append(s.kruises, &kruise{s: s, set: name, cache: cache, expect: map[string]Pod{}, grace: s.cfg.Grace})
	}
	s.arb = newArbiter(s)
	s.arb.do(func(time.Time) {})
	if s.cfg.Roster.Names == nil {
		s.flip()
	}
	s.policy = plan.Policy{
		MaxUnavailable: 1 + s.rnd.IntN(2), RequestHandover: !s.cfg.Roster.Named, MinReady: s.cfg.MinReady,
		DrainTimeout: 5 * time.Second, VerifyTimeout: time.Minute, ProgressDeadline: time.Hour,
	}
	if s.cfg.Percent {
		s.policy.Percent, s.policy.MaxUnavailable = true, []int{34, 50}[s.policy.MaxUnavailable-1]
	}
	s.createPlan()
	s.leader = newUpgrader(s, 1)
	s.tell("setup", "%+v; maxUnavailable %d", s.cfg, s.policy.MaxUnavailable)
	return s
}

// draw draws what a seed decides.
func (s *Sim) draw(without Safeguard) {
	c := &s.cfg
	c.Sets, c.Replicas, c.Follow, c.Images = []string{"web"}, map[string]int{}, map[string]bool{}, map[string][]string{}
	c.Replicas["web"] = 3 + s.rnd.IntN(3)
	if s.chance(2) {
		c.Sets = append(c.Sets, "db")
		c.Replicas["web"], c.Replicas["db"] = 2+s.rnd.IntN(2), 1+s.rnd.IntN(3)
	}
	images := [][]string{{"v2"}, {"v2", "v3"}, {"broken", "v2"}, {"v2", "v1"}, {"v2", "v3", "v2"}}
	n, same, list := 0, s.chance(2), s.rnd.IntN(len(images))
	for _, name := range c.Sets {
		n += c.Replicas[name]
		if c.Images[name] = images[list]; !same {
			c.Images[name] = images[s.rnd.IntN(len(images))]
		}
		c.Follow[name] = s.chance(4)
	}
	s.most = n
	c.Without, c.Gated, c.Floor, c.MaxLeased, c.TTL = without, s.chance(2), 1+s.rnd.IntN(n-1), 1+s.rnd.IntN(2), 20*time.Second
	c.Roster = roster.Config{Slots: 1 + s.rnd.IntN(n-1), Settle: 10 * time.Second, Failover: 10 * time.Second, Lifetime: 5 * time.Second}
	if s.chance(3) {
		c.Grace = 3 * time.Second
	}
	c.Roster.Named, c.BornHeld = s.chance(2), s.chance(2)
	c.Contest, c.BreakGlass, c.Deletion = s.chance(4), s.chance(4), s.chance(3)
	c.Dropping, c.Scaling = s.chance(3) && len(c.Sets) > 1, s.chance(4)
	c.Named = s.chance(2)
	if s.chance(2) {
		c.Unreliable = 20
	}
	s.drawMore()
}

// install puts a set at rest into the cluster.
func (s *Sim) install(name string) {
	s.original[name] = []int32{0, 0, 1, plan.Parked}[s.rnd.IntN(4)]
	rev := revision(name, "v1")
	set, _ := s.api.patchSet(name, 0, func(t *Set) {
		t.Name, t.Replicas, t.Image, t.Partition = name, s.cfg.Replicas[name], "v1", s.original[name]
		t.CurrentRevision, t.UpdateRevision, t.Observed = rev, rev, 1
		t.Settings = Settings{Policy: "InPlaceIfPossible", MaxUnavailable: "1", Weights: "working=false:10", Grace: -1}
	})
	for i := range set.Replicas {
		p := s.newborn(name, set.member(i), rev)
		s.schedule(&p)
		p.State, p.Running, p.Ran, p.ContainersReady, p.InPlaceReady, p.Ready = plan.StateAbsent, "v1", "v1", true, true, true
		p.Hold = false
		if s.cfg.Gated {
			p.Gate = "True"
		}
		_ = s.api.create(p)
	}
	s.want[name], s.cfg.Images[name] = s.cfg.Images[name][0], s.cfg.Images[name][1:]
}

// newborn is a pod as Kruise creates it from the template (K stateful_set_control.go:1120
// for the state).
func (s *Sim) newborn(set, name, rev string) Pod {
	return Pod{Name: name, Set: set, Revision: rev, Image: imageOf(rev), State: plan.StateNormal, Hold: s.cfg.BornHeld, Working: "false", Gated: s.cfg.Gated, Named: s.cfg.Named}
}

// chance is true once in n; never for 0.
func (s *Sim) chance(n int) bool { return n > 0 && s.rnd.IntN(n) == 0 }

func (s *Sim) tell(who, format string, args ...any) {
	if s.verbose {
		s.story = append(s.story, fmt.Sprintf("%6d %8.2fs %-10s %s", s.ticks, s.now.Sub(beginning).Seconds(), who, fmt.Sprintf(format, args...)))
	}
}

func (s *Sim) fail(format string, args ...any) {
	if s.err == nil {
		s.err, s.broken = fmt.Errorf(format, args...), format
		s.tell("PROMISE", "%v", s.err)
		s.picture()
	}
}

// picture ends a story with how things stand.
func (s *Sim) picture() {
	for _, name := range s.cfg.Sets {
		s.tell("set", "%+v", s.api.sets[name])
	}
	s.tell("plan", "%+v; wanted: %v", s.plan, s.want)
	for _, name := range names(s.api.pods) {
		s.tell("pod", "%+v", s.api.pods[name])
		s.tell("arbiter", "%s: %+v %+v", name, s.arb.record.Members[name], s.arb.table.Leases[name])
	}
	s.tell("arbiter", "trusted %v holders %v handover %+v", s.arb.record.Trusted, s.arb.table.Holders, s.arb.memory.Handover)
	if s.leader.real == nil {
		_, a, leases := s.leader.view()
		s.tell("leader", "leases %+v", leases)
		s.tell("leader", "refused %+v, handover from %q refused %+v", a.Refused, a.HandoverFrom, a.HandoverRefused)
	}
	s.tell("leader", "%s: %s; %+v", s.leader.last.Reason, s.leader.last.Message, s.leader.last.Actions)
}

// change patches a pod without preconditions and tells it.
func (s *Sim) change(name, who, what string, fn func(*Pod)) {
	if _, err := s.api.patchPod(name, "", 0, fn); err == nil {
		s.tell(who, "%s: %s", name, what)
	}
}

func (s *Sim) somePod(fn func(Pod)) {
	all := names(s.api.pods)
	if len(all) > 0 {
		fn(s.api.pods[all[s.rnd.IntN(len(all))]])
	}
}

// broke is called when Kruise has updated a replica to a broken image. One that was lost
// and came back broken was not ours to choose.
func (s *Sim) broke() {
	n := 0
	for _, p := range s.api.pods {
		if p.Record && bad(imageOf(p.Revision)) {
			n++
		}
	}
	if n > s.limit(s.most) {
		s.fail("broken image: %d replicas are lost to it, maxUnavailable is %d", n, s.limit(s.most))
	}
}

// thaw lets a former leader go on with the decision in which it was frozen, and with some
// more, on what it sees now.
func (s *Sim) thaw() {
	if len(s.frozen) == 0 || s.ticks < s.thawAt {
		return
	}
	u := s.frozen[0]
	for range s.rnd.IntN(4) {
		u.cache.nextPod(s.api)
		u.cache.nextSet(s.api)
		if s.chance(2) {
			u.plan = s.plan
		}
		u.watch = min(u.watch+1, len(s.arb.shown)-1)
	}
	if u.step(); u.proc != nil {
		return
	}
	if u.left--; u.left < 0 {
		s.tell(u.name, "notices that it does not lead any more, and ends")
		s.frozen, s.thawAt = s.frozen[1:], s.ticks+s.rnd.IntN(1000)
	}
}

// succeed makes another upgrader the leader. The old one is dead, or frozen before one of
// the requests of its last decision.
func (s *Sim) succeed(frozen bool) {
	old := s.leader
	if frozen {
		if s.freeze = false; len(s.frozen) == 0 {
			s.thawAt = s.ticks + s.rnd.IntN(1000)
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

func (s *Sim) stop() {
	for _, k := range s.kruises {
		k.sync.kill()
	}
	s.leader.proc.kill()
	for _, u := range s.frozen {
		u.proc.kill()
	}
}
