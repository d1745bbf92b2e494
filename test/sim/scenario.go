package sim

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Scenario is a case with a name, read from a document: what happened to others or to us,
// the cluster, and the story, in sentences of a small language (docs/simulation.md). Where
// nobody is told what to do, all act in turn.
type Scenario struct {
	File, Title string
	setup       []sentence
	story       []sentence
	// Without are the safeguards without which the story ends badly.
	Without []Without
}

// Without is a safeguard, and what becomes of the story without it: the number of the
// promise that breaks, or "" when something is awaited or expected in vain.
type Without struct {
	Line      int
	Safeguard Safeguard
	Promise   string
}

// sentence is a line of the document that is to be carried out.
type sentence struct {
	line int
	text string
	do   func(*director) error
}

// form is a sentence of the language, with what may stand in its gaps.
type form struct {
	text string
	mean func(words []string) (func(*director) error, error)
	re   *regexp.Regexp
}

// gaps are what may stand in a form.
var gaps = map[string]string{
	"<pod>": `([a-z]+-\d)`, "<pods>": `([a-z]+-\d(?:, [a-z]+-\d)*)`, "<set>": `([a-z]+)`, "<image>": `(v\d|broken|crash)`,
	"<n>": `(\d+)`, "<time>": `(\d+(?:ms|s|m))`, "<condition>": `(.+)`, "<request>": `(.+)`, "<actors>": `(.+)`, "<news>": `(.+)`,
	"<reason>": `([A-Z]\w+)`, "<step>": `([A-Z]\w+)`, "<state>": `([A-Z]\w+)`, "<open>": `(open|closed)`, "<host>": `(.+)`, "<safeguard>": `([a-z]+)`,
}

func compile(text string) *regexp.Regexp {
	words := strings.Fields(regexp.QuoteMeta(text))
	for i, w := range words {
		for gap, re := range gaps {
			if rest, ok := strings.CutPrefix(w, gap); ok {
				words[i] = re + rest
			}
		}
	}
	return regexp.MustCompile("^" + strings.Join(words, " ") + "$")
}

// read finds the form of a sentence.
func read(forms []form, what, text string) (func(*director) error, error) {
	for _, f := range forms {
		if words := f.re.FindStringSubmatch(text); words != nil {
			return f.mean(words[1:])
		}
	}
	var known []string
	for _, f := range forms {
		known = append(known, f.text)
	}
	return nil, fmt.Errorf("no %s: %q; one is:\n  %s", what, text, strings.Join(known, "\n  "))
}

// Sections of a document. What stands in the first two is for people alone.
const (
	thePeer = "The peer"
	here    = "Here"
	cluster = "Cluster"
	story   = "Story"
	without = "Without"
)

var sections = []string{thePeer, here, cluster, story, without}

// ReadScenario reads a document. Errors name the line and what is possible there.
func ReadScenario(file string, from io.Reader) (*Scenario, error) {
	r := &reader{c: &Scenario{File: file}}
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		r.n++
		if err := r.take(strings.TrimRight(lines.Text(), " ")); err != nil {
			return nil, err
		}
	}
	if err := r.flush(); err != nil {
		return nil, err
	}
	switch c := r.c; {
	case lines.Err() != nil:
		return nil, fmt.Errorf("%s: %w", file, lines.Err())
	case c.Title == "" || len(c.setup) == 0 || len(c.story) == 0:
		return nil, fmt.Errorf("%s: it needs a title (# …), a section %s and a section %s", file, cluster, story)
	}
	return r.c, nil
}

// reader reads a document line by line.
type reader struct {
	c       *Scenario
	n       int // of the line
	section string
	// text is the sentence that is being read, which may go on in lines that are indented;
	// it began at line began.
	text  string
	began int
}

func (r *reader) take(line string) error {
	if more, ok := strings.CutPrefix(line, "  "); ok && r.text != "" {
		r.text += " " + strings.TrimSpace(more)
		return nil
	}
	if err := r.flush(); err != nil {
		return err
	}
	switch first, rest, _ := strings.Cut(line, " "); first {
	case "#":
		r.c.Title = rest
	case "##":
		if r.section = rest; !slices.Contains(sections, rest) {
			return fmt.Errorf("%s:%d: no section %q: they are %s", r.c.File, r.n, rest, strings.Join(sections, ", "))
		}
	case "-":
		r.text, r.began = rest, r.n
	}
	return nil
}

// flush takes the sentence that has been read.
func (r *reader) flush() error {
	if r.text == "" {
		return nil
	}
	err := r.c.add(r.section, sentence{line: r.began, text: r.text})
	if err != nil {
		return fmt.Errorf("%s:%d: %w", r.c.File, r.began, err)
	}
	r.text = ""
	return nil
}

func (c *Scenario) add(section string, s sentence) (err error) {
	switch section {
	case cluster:
		s.do, err = read(setupForms, "sentence about the cluster", s.text)
		c.setup = append(c.setup, s)
	case story:
		s.do, err = read(storyForms, "sentence of a story", s.text)
		c.story = append(c.story, s)
	case without:
		err = c.addWithout(s)
	}
	return err
}

var withoutForm = regexp.MustCompile(`^([a-z]+): (?:promise (\d) breaks|the story fails)$`)

func (c *Scenario) addWithout(s sentence) error {
	words := withoutForm.FindStringSubmatch(s.text)
	if words == nil {
		return fmt.Errorf("%q: it is <safeguard>: promise <n> breaks, or <safeguard>: the story fails", s.text)
	}
	w := Without{Line: s.line, Promise: words[2]}
	if err := w.Safeguard.UnmarshalText([]byte(words[1])); err != nil {
		return err
	}
	c.Without = append(c.Without, w)
	return nil
}

// Ended is what came of a story.
type Ended struct {
	// Err is nil when all went as the document says. Promise is the number of the promise
	// that broke, if one did.
	Err     error
	Promise string
	// Told is the story as it went.
	Told []string
}

// Run plays the story, without a safeguard if one is named. With real the upgraders are the
// real ones, and not what mirrors them; the safeguards are then all there.
func (c *Scenario) Run(without Safeguard, real bool) Ended {
	d := &director{still: map[string]bool{}, deaf: map[string]bool{}, workers: []string{}, most: 1}
	dice := &dice{replayed: &Tape{}} // nothing is left to chance
	d.s = newSim(dice, func(s *Sim) {
		d.s = s
		d.defaults(without)
		s.cfg.Real = real
		for _, line := range c.setup {
			_ = line.do(d)
		}
		d.configured()
	}, true)
	defer d.s.stop()
	d.s.chaos, d.s.lossy = false, 0
	d.s.policy.MaxUnavailable, d.s.policy.Percent = d.most, d.percent
	d.s.plan.policy = d.s.policy
	for _, line := range c.story {
		d.s.tell("STORY", "%s", line.text)
		err := line.do(d)
		if d.s.err != nil {
			err = d.s.err
		}
		if err != nil {
			d.s.picture()
			return Ended{Err: fmt.Errorf("%s:%d: %s: %w", c.File, line.line, line.text, err), Promise: Promise(d.s.err), Told: d.s.story}
		}
	}
	return Ended{Told: d.s.story}
}

// director leads a story: all act in turn, except those that it stops.
type director struct {
	s *Sim
	// still are the actors that do nothing, deaf the watches that bring no news.
	still, deaf map[string]bool
	// stopBefore is the request that the leader is not to make.
	stopBefore string
	never      []never
	workers    []string
	most       int
	percent    bool
	// broken is what was never to be.
	broken error
}

// never is what may not be from a line on.
type never struct {
	text string
	so   func(*director) bool
}

const (
	turn    = 200 * time.Millisecond // how long a turn of all actors takes
	patient = 3 * time.Minute        // how long a story waits for something
)

// until lets all act in turn until something is so.
func (d *director) until(so func() bool) bool {
	for end := d.s.now.Add(patient); d.s.now.Before(end); {
		if so() || d.over() {
			return true
		}
		d.turn(so)
	}
	return so()
}

func (d *director) over() bool { return d.s.err != nil || d.broken != nil }

// after is called when an actor has acted. It says whether the turn ends.
func (d *director) after(so func() bool) bool {
	d.s.check()
	for _, n := range d.never {
		if d.broken == nil && n.so(d) {
			d.broken = fmt.Errorf("it is so that %s, which was never to be", n.text)
		}
	}
	return d.over() || so()
}

// turn lets each actor act once, and stops as soon as something is so.
func (d *director) turn(so func() bool) {
	d.s.now = d.s.now.Add(turn)
	d.s.ticks++
	for _, act := range []func(func() bool) bool{d.arbiter, d.kruise, d.upgrader, d.applications, d.kubelets} {
		if act(so) {
			return
		}
	}
}

func (d *director) kruise(so func() bool) bool {
	if d.still[actorKruise] {
		return false
	}
	for _, k := range d.s.kruises {
		d.hear(k.cache, newsPodsKruise, newsSetsKruise)
		for first := true; first || k.sync != nil; first = false {
			if k.step(); d.after(so) {
				return true
			}
		}
	}
	return false
}

func (d *director) hear(c *Cache, pods, sets string) {
	for !d.deaf[pods] && c.nextPod(d.s.api) {
	}
	for !d.deaf[sets] && c.nextSet(d.s.api) {
	}
}

func (d *director) upgrader(so func() bool) bool {
	if d.still[actorUpgrader] {
		return false
	}
	u := d.s.leader
	d.hear(u.cache, newsPodsUpgrader, newsSetsUpgrader)
	if !d.deaf[newsDutyUpgrader] {
		u.watch = len(d.s.arb.shown) - 1
	}
	if !d.deaf[newsPlanUpgrader] {
		u.plan = d.s.plan
	}
	for first := true; first || u.proc != nil; first = false {
		if d.atStop() {
			return d.after(so)
		}
		if u.step(); d.after(so) {
			return true
		}
	}
	u.renew()
	return d.after(so)
}

// atStop says whether the leader stands before the request that it is not to make.
func (d *director) atStop() bool {
	u := d.s.leader
	return d.stopBefore != "" && u.proc != nil && u.about == d.stopBefore
}

func (d *director) arbiter(so func() bool) bool {
	if d.still[actorArbiter] {
		return false
	}
	d.hear(d.s.arb.cache, "", "")
	d.s.arb.do(func(time.Time) {})
	d.s.arb.fence()
	return d.after(so)
}

func (d *director) applications(so func() bool) bool {
	for _, name := range names(d.s.api.pods) {
		if d.still[actorApplications] || d.still["the application of "+name] {
			continue
		}
		for range 2 { // it reports, and hears the answer
			if d.s.stepApp(d.s.api.pods[name]); d.after(so) {
				return true
			}
		}
	}
	return false
}

func (d *director) kubelets(so func() bool) bool {
	for _, name := range names(d.s.api.pods) {
		if d.still[actorKubelets] || d.still["the kubelet of "+name] {
			continue
		}
		if d.s.kubelet(d.s.api.pods[name]); d.after(so) {
			return true
		}
	}
	return false
}
