package sim

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/upgrader/plan"
)

// The actors that can be told to stand still, and the news that can be kept from them.
const (
	actorKruise       = "Kruise"
	actorUpgrader     = "the upgrader"
	actorArbiter      = "the arbiter"
	actorApplications = "the applications"
	actorKubelets     = "the kubelets"

	newsPodsKruise   = "Kruise hears of pods"
	newsSetsKruise   = "Kruise hears of sets"
	newsPodsUpgrader = "the upgrader hears of pods"
	newsSetsUpgrader = "the upgrader hears of sets"
	newsDutyUpgrader = "the upgrader hears of duty"
	newsPlanUpgrader = "the upgrader hears of the plan"
)

var (
	hostForm  = regexp.MustCompile(`^(the (upgrader|arbiter|API server|nodes)|Kruise)$`)
	actorForm = regexp.MustCompile(`^(Kruise|the (upgrader|arbiter|applications|kubelets)|the (application|kubelet) of [a-z]+-\d)$`)
	newsForm  = regexp.MustCompile(`^(Kruise hears of (pods|sets)|the upgrader hears of (pods|sets|duty|the plan))$`)
)

// The language. docs/simulation.md says what each form means; a test holds it against this.
var setupForms, storyForms, conditionForms []form

type words = []string

// act makes a form of what cannot be said wrongly.
func act(text string, do func(*director, words) error) form {
	return form{text: text, re: compile(text), mean: func(w words) (func(*director) error, error) {
		return func(d *director) error { return do(d, w) }, nil
	}}
}

// about makes a form whose first gap is a condition.
func about(text string, do func(d *director, so func(*director) bool, text string) error) form {
	return form{text: text, re: compile(text), mean: func(w words) (func(*director) error, error) {
		so, err := condition(w[0])
		if err != nil {
			return nil, err
		}
		return func(d *director) error { return do(d, so, w[0]) }, nil
	}}
}

// among makes a form whose first gap is one of a few.
func among(text string, allowed *regexp.Regexp, do func(*director, words) error) form {
	return form{text: text, re: compile(text), mean: func(w words) (func(*director) error, error) {
		if !allowed.MatchString(w[0]) {
			return nil, fmt.Errorf("%q: it is one of %s", w[0], allowed)
		}
		return func(d *director) error { return do(d, w) }, nil
	}}
}

func number(text string) int {
	n, _ := strconv.Atoi(text) // the form has seen to it
	return n
}

func span(text string) time.Duration {
	t, _ := time.ParseDuration(text)
	return t
}

// not is how a condition that is not so is found in a form of conditions.
type notSo struct{}

func (notSo) Error() string { return "not so" }

// condition reads what may be so, or not.
func condition(text string) (func(*director) bool, error) {
	so, err := read(conditionForms, "condition", text)
	if err != nil {
		return nil, err
	}
	return func(d *director) bool { return so(d) == nil }, nil
}

// is makes a form of a condition.
func is(text string, so func(*Sim, words) bool) form {
	return act(text, func(d *director, w words) error {
		if so(d.s, w) {
			return nil
		}
		return notSo{}
	})
}

func init() {
	setupForms = []form{
		act("<set> has <n> replicas", func(d *director, w words) error {
			c := &d.s.cfg
			c.Sets = append(c.Sets, w[0])
			c.Replicas[w[0]], c.Images[w[0]] = number(w[1]), []string{"v1"}
			return nil
		}),
		act("<set> is to get <image>", func(d *director, w words) error { d.s.cfg.Images[w[0]] = []string{w[1]}; return nil }),
		act("the plan follows the template of <set>", func(d *director, w words) error { d.s.cfg.Follow[w[0]] = true; return nil }),
		act("pods declare our gate", func(d *director, _ words) error { d.s.cfg.Gated = true; return nil }),
		act("pods are born with the hold", func(d *director, _ words) error { d.s.cfg.BornHeld = true; return nil }),
		act("the floor is <n>", func(d *director, w words) error { d.s.cfg.Floor = number(w[0]); return nil }),
		act("<n> may be leased", func(d *director, w words) error { d.s.cfg.MaxLeased = number(w[0]); return nil }),
		act("<n> may be unavailable", func(d *director, w words) error { d.most = number(w[0]); return nil }),
		act("<n>% may be unavailable", func(d *director, w words) error { d.most, d.percent = number(w[0]), true; return nil }),
		act("replicas are to be ready for <time>", func(d *director, w words) error { d.s.cfg.MinReady = span(w[0]); return nil }),
		act("a lease lasts <time>", func(d *director, w words) error { d.s.cfg.TTL = span(w[0]); return nil }),
		act("Kruise waits <time> before it changes an image", func(d *director, w words) error { d.s.cfg.Grace = span(w[0]); return nil }),
		act("<pods> are to work", func(d *director, w words) error { d.workers = list(w[0]); return nil }),
		act("the arbiter chooses <n> to work", func(d *director, w words) error { d.s.cfg.Roster.Slots = number(w[0]); return nil }),
	}
	conditionForms = []form{
		is("<pod> is leased", func(s *Sim, w words) bool { _, ok := s.arb.table.Leases[w[0]]; return ok }),
		is("<pod> is pinned", func(s *Sim, w words) bool { return s.arb.table.Leases[w[0]].Phase == lease.Pinned }),
		is("nothing is leased", func(s *Sim, _ words) bool { return len(s.arb.table.Leases) == 0 }),
		is("<pod> works", func(s *Sim, w words) bool { return s.works(s.api.pods[w[0]]) }),
		is("<pod> is held", func(s *Sim, w words) bool { return s.api.pods[w[0]].Hold }),
		is("<pod> is released", func(s *Sim, w words) bool { p := s.api.pods[w[0]]; return p.released() }),
		is("<pod> is there", func(s *Sim, w words) bool { p, ok := s.api.pods[w[0]]; return ok && !p.Terminating }),
		is("<pod> is gone", func(s *Sim, w words) bool { _, ok := s.api.pods[w[0]]; return !ok }),
		is("<pod> is ready", func(s *Sim, w words) bool { return s.api.pods[w[0]].Ready }),
		is("<pod> runs <image>", func(s *Sim, w words) bool { return s.api.pods[w[0]].Running == w[1] }),
		is("<pod> is at the revision of <image>", func(s *Sim, w words) bool { p := s.api.pods[w[0]]; return p.Revision == revision(p.Set, w[1]) }),
		is("<pod> was verified at <image>", func(s *Sim, w words) bool { p := s.api.pods[w[0]]; return p.Verified == revision(p.Set, w[1]) }),
		is("the gate of <pod> is <open>", func(s *Sim, w words) bool {
			return s.api.pods[w[0]].Gate == map[string]string{"open": "True", "closed": "False"}[w[1]]
		}),
		is("Kruise's state of <pod> is <state>", func(s *Sim, w words) bool { return string(s.api.pods[w[0]].State) == w[1] }),
		is("<pod> is at the step <step>", func(s *Sim, w words) bool { return s.plan.steps[w[0]].step.String() == w[1] }),
		is("the partition of <set> is <n>", func(s *Sim, w words) bool { return s.api.sets[w[0]].Partition == int32(number(w[1])) }), //nolint:gosec // a small number
		is("the partition of <set> is parked", func(s *Sim, w words) bool { return s.api.sets[w[0]].Partition == plan.Parked }),
		is("the template of <set> has <image>", func(s *Sim, w words) bool { return s.api.sets[w[0]].Image == w[1] }),
		is("the plan says <reason>", func(s *Sim, w words) bool { return string(s.leader.last.Reason) == w[0] }),
		is("the plan is gone", func(s *Sim, _ words) bool { return s.plan.uid == "" }),
		is("the former leader has ended", func(s *Sim, _ words) bool { return len(s.frozen) == 0 }),
		is("all is done", func(s *Sim, _ words) bool { return s.Done() }),
	}
	conditionForms = append(conditionForms, moreConditions...)
	storyForms = slices.Concat(directions, incidents, moreIncidents)
}

// directions say what is awaited and expected, and who acts.
var directions = []form{
	about("until: <condition>", func(d *director, so func(*director) bool, _ string) error { return d.await(so, true) }),
	about("until not: <condition>", func(d *director, so func(*director) bool, _ string) error { return d.await(so, false) }),
	about("expect: <condition>", func(d *director, so func(*director) bool, _ string) error { return d.expect(so(d)) }),
	about("expect not: <condition>", func(d *director, so func(*director) bool, _ string) error { return d.expect(!so(d)) }),
	about("from here on never: <condition>", func(d *director, so func(*director) bool, text string) error {
		d.never = append(d.never, never{text, so})
		return d.expect(!so(d))
	}),
	about("no longer never: <condition>", func(d *director, _ func(*director) bool, text string) error {
		d.never = slices.DeleteFunc(d.never, func(n never) bool { return n.text == text })
		return nil
	}),
	act("<time> pass", func(d *director, w words) error {
		end := d.s.now.Add(span(w[0]))
		return d.await(func(d *director) bool { return !d.s.now.Before(end) }, true)
	}),
	among("<actors> stand still", actorForm, func(d *director, w words) error { d.still[w[0]] = true; return nil }),
	among("<actors> go on", actorForm, func(d *director, w words) error { delete(d.still, w[0]); return nil }),
	among("no longer: <news>", newsForm, func(d *director, w words) error { d.deaf[w[0]] = true; return nil }),
	among("again: <news>", newsForm, func(d *director, w words) error { delete(d.deaf, w[0]); return nil }),
	among("the upgrader crashes before it <request>", requestForm, func(d *director, w words) error { return d.stop(w[0], func() { d.s.succeed(false) }) }),
	among("the upgrader freezes before it <request>, and another leads", requestForm, func(d *director, w words) error {
		return d.stop(w[0], func() { d.s.succeed(true) })
	}),
	act("the former leader wakes, and does what it was about to do", func(d *director, _ words) error {
		for d.s.thawAt = 0; len(d.s.frozen) > 0 && !d.over(); d.after(func() bool { return false }) {
			d.s.thaw()
		}
		return d.broken
	}),
}

// incidents are what happens to the cluster, and what people do.
var incidents = []form{
	act("Kruise restarts", func(d *director, _ words) error { d.s.restartKruise(); return nil }),
	act("the arbiter restarts", func(d *director, _ words) error { d.s.arb.restart(); return nil }),
	act("the arbiter cannot be reached for <time>", func(d *director, w words) error { d.s.cut = d.s.now.Add(span(w[0])); return nil }),
	act("<pod> is lost", func(d *director, w words) error {
		d.s.change(w[0], "chaos", "the pod is deleted", func(p *Pod) { p.Terminating = true })
		return nil
	}),
	act("somebody takes all that is ours off <pod>", func(d *director, w words) error {
		d.s.change(w[0], "somebody", "takes our labels and annotations off", func(p *Pod) {
			p.Hold, p.Grant, p.Working, p.Note, p.Verified, p.Fenced = false, false, "", plan.Note{}, "", 0
		})
		return nil
	}),
	act("somebody sets the partition of <set> to <n>", func(d *director, w words) error {
		_, err := d.s.api.patchSet(w[0], 0, func(t *Set) { t.Partition, t.Foreign = int32(number(w[1])), true })
		return err
	}),
	act("somebody writes <image> to <set>", func(d *director, w words) error {
		_, err := d.s.api.patchSet(w[1], 0, func(t *Set) { t.Image = w[0] })
		return err
	}),
	act("the user wants <image> in <set>", func(d *director, w words) error {
		d.s.want[w[1]] = w[0]
		d.s.tellPlan(w[1])
		if d.s.cfg.Follow[w[1]] {
			_, err := d.s.api.patchSet(w[1], 0, func(t *Set) { t.Image = w[0] })
			return err
		}
		return nil
	}),
	act("the user pauses the plan", func(d *director, _ words) error { d.s.edit(func(p *planObject) { p.paused = true }); return nil }),
	act("the user resumes the plan", func(d *director, _ words) error { d.s.edit(func(p *planObject) { p.paused = false }); return nil }),
	act("the user deletes the plan", func(d *director, _ words) error {
		d.s.cfg.Deletion, d.s.away = true, true
		d.s.delete()
		return nil
	}),
	act("the user makes <pods> work", func(d *director, w words) error { d.s.cfg.Roster.Names = list(w[0]); return nil }),
}

func list(pods string) []string {
	all := strings.Split(pods, ", ")
	slices.Sort(all)
	return all
}

// expect is an error unless something is so.
func (d *director) expect(so bool) error {
	if !so {
		return notSo{}
	}
	return nil
}

// await lets all act until something is so, or not.
func (d *director) await(so func(*director) bool, wanted bool) error {
	switch ok := d.until(func() bool { return so(d) == wanted }); {
	case d.broken != nil:
		return d.broken
	case d.s.err != nil:
		return d.s.err
	case !ok:
		last := &d.s.leader.last
		return fmt.Errorf("it is not so after %v: %s: %s", patient, last.Reason, last.Message)
	}
	return nil
}

// stop lets all act until the leader stands before a request.
func (d *director) stop(before string, then func()) error {
	d.stopBefore = before
	err := d.await(func(d *director) bool { return d.atStop() }, true)
	d.stopBefore = ""
	if err == nil {
		then()
	}
	return err
}

// defaults is what a cluster is like of which nothing else is said.
func (d *director) defaults(without Safeguard) {
	d.s.cfg = Config{
		Replicas: map[string]int{}, Follow: map[string]bool{}, Images: map[string][]string{}, Without: without,
		Floor: 1, MaxLeased: 1, TTL: 20 * time.Second, Named: true,
		Roster: roster.Config{Slots: 1, Settle: 10 * time.Second, Failover: 10 * time.Second, Lifetime: 5 * time.Second},
	}
}

// configured draws the conclusions from what was said of the cluster.
func (d *director) configured() {
	c := &d.s.cfg
	for _, name := range c.Sets {
		d.s.most += c.Replicas[name]
		c.Nodes = max(c.Nodes, c.Replicas[name]+1) // one for each replica of a set, and one more
	}
	if len(d.workers) > 0 {
		c.Roster.Named, c.Roster.Names, c.Roster.Slots = true, d.workers, len(d.workers)
	}
}

// requestForm is what the upgrader can be about to do.
var requestForm = regexp.MustCompile(`^(adopts|asks for leases|asks for a handover|lets the plan go|writes the status|` +
	`(applies|writes the image of|sets the current revision of|disarms|bars) [a-z]+|` +
	`(holds|drains|grants|pins|releases|undoes|readmits|gives back) [a-z]+-\d)$`)

// request says in these words what an action does first.
func request(a plan.Action) string {
	switch a := a.(type) {
	case plan.Adopt:
		return "adopts"
	case plan.Acquire:
		return "asks for leases"
	case plan.Handover:
		return "asks for a handover"
	case plan.Leave:
		return "lets the plan go"
	case plan.ApplySet:
		return "applies " + a.Target
	case plan.WriteTemplate:
		return "writes the image of " + a.Target
	case plan.SetCurrentRevision:
		return "sets the current revision of " + a.Target
	case plan.Disarm:
		return "disarms " + a.Target
	case plan.Bar:
		return "bars " + a.Target
	case plan.Pin:
		return "pins " + a.Pod
	case plan.Commit:
		if a.Lease.Pinned {
			return "releases " + a.Pod
		}
		return "pins " + a.Pod
	case plan.ReleaseLease:
		return "gives back " + a.Lease.Replica
	case plan.PatchPod:
		return purpose(a.Why) + " " + a.Pod
	}
	return ""
}

func purpose(why plan.Reason) string {
	switch why { //nolint:exhaustive // the others undo
	case plan.Holding:
		return "holds"
	case plan.Draining:
		return "drains"
	case plan.Selecting:
		return "grants"
	case plan.Readmitting:
		return "readmits"
	}
	return "undoes"
}
