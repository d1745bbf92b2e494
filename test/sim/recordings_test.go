package sim

import (
	flags "flag"
	"math/rand/v2"
	"testing"
	"time"

	"offduty.dev/test/sim/calibration"
	"offduty.dev/upgrader/plan"
)

// modelled is the Kruise whose source the rules of the model cite.
const modelled = "v1.8.3"

// TestRecordings tells the model every story that was told to the real Kruise, in several
// orders of its caches, kubelets and rounds: each must come out as it was recorded.
func TestRecordings(t *testing.T) {
	if f := flags.Lookup("rewrite"); f != nil && f.Value.String() == "true" {
		t.Fatal("recordings are made of the real Kruise: go test ./test/e2e/calibration -rewrite")
	}
	const orders = 10
	for _, story := range calibration.Stories(t, "calibration/testdata") {
		t.Run(story.Name, func(t *testing.T) {
			if story.NotModelled != "" {
				t.Skip("not modelled: " + story.NotModelled)
			}
			for order := range uint64(orders) {
				seen := told(t, &story, order)
				if story.Compare(t, seen); t.Failed() {
					t.Fatalf("in order %d", order)
				}
			}
		})
	}
}

// told tells the model a story, and returns what became visible after each input.
func told(t *testing.T, s *calibration.Story, order uint64) (seen []string) {
	t.Helper()
	w := newReplay(order)
	defer w.s.stop()
	for _, step := range s.Steps {
		seen = append(seen, w.step(t, step.Input))
	}
	return seen
}

// replay is the model of Kruise alone with its kubelets and one set.
type replay struct {
	s     *Sim
	k     *kruise
	rnd   *rand.Rand
	trace *calibration.Trace
	// stopped are the ordinals whose kubelet stands.
	stopped map[int]bool
	// pods and sets are up to where the logs have been told; last are the pods as told.
	pods, sets int
	last       map[string]Pod
	// opened are the pods, by UID, that have the condition InPlaceUpdateReady.
	opened map[string]bool
}

func newReplay(order uint64) *replay {
	s := newSim(newDice(order, 0), func(s *Sim) { s.draw(Nothing) }, false)
	s.chaos = false
	s.cfg.Sets, s.cfg.Gated, s.cfg.BornHeld, s.cfg.Named = []string{"web"}, false, false, true
	s.api.pods, s.api.sets, s.api.podLog, s.api.setLog = map[string]Pod{}, map[string]Set{}, nil, nil
	k := &kruise{s: s, set: "web", cache: newCache(s.api), expect: map[string]Pod{}}
	s.kruises = []*kruise{k}
	return &replay{
		s: s, k: k, rnd: rand.New(rand.NewPCG(order, 1)), trace: calibration.NewTrace(),
		stopped: map[int]bool{}, last: map[string]Pod{}, opened: map[string]bool{},
	}
}

func (w *replay) step(t *testing.T, in calibration.Input) string {
	t.Helper()
	w.trace.Cut()
	if in.Verb == "kruise" {
		return modelled + "\n"
	}
	w.do(t, in)
	w.tell()
	w.rest()
	return w.trace.String()
}

func (w *replay) do(t *testing.T, in calibration.Input) {
	t.Helper()
	switch in.Verb {
	case "create", "set":
		if in.Has("born", "held") {
			w.s.cfg.BornHeld = true
		}
		if in.Has("grace") {
			w.k.grace = time.Duration(in.Int("grace", 0)) * time.Second
		}
		set, _ := w.s.api.patchSet("web", 0, func(s *Set) { changed(s, in) })
		w.trace.Input(int64(set.Generation))
		if in.Verb == "create" { // there are no rounds for a set that is not in the cache
			w.k.cache.nextSet(w.s.api)
		}
	case "current":
		rev, err := w.trace.Revision(in.Words[0])
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.s.api.patchSet("web", 0, func(s *Set) { s.CurrentRevision = rev })
	}
	for _, o := range in.Ordinals {
		w.doPod(t, in, o)
	}
}

func (w *replay) doPod(t *testing.T, in calibration.Input, ordinal int) {
	t.Helper()
	set := w.s.api.sets["web"]
	name := set.member(ordinal)
	switch {
	case in.Verb == "kubelet":
		w.stopped[ordinal] = in.Words[0] == "stops"
	case in.Verb == "delete" && !w.stopped[ordinal]:
		w.s.api.remove(name)
	default:
		if _, err := w.s.api.patchPod(name, "", 0, func(p *Pod) { label(p, in) }); err != nil {
			t.Fatal(err)
		}
	}
}

// changed is what an input says of the set.
func changed(s *Set, in calibration.Input) {
	s.Name = "web"
	s.Replicas = in.Int("replicas", s.Replicas)
	s.Partition = int32(in.Int("partition", int(s.Partition))) //nolint:gosec // as in the spec
	if in.Has("image") {
		s.Image = in.Values["image"]
	}
	if in.Has("hook") {
		s.Armed = in.Has("hook", "on")
	}
	if in.Verb == "create" {
		s.MaxUnavailable = "100%"
	}
	if in.Has("unavailable") {
		s.MaxUnavailable = in.Values["unavailable"]
	}
	if in.Has("weights") {
		s.Weights = ""
		if in.Has("weights", "on") {
			s.Weights = taken.Weights
		}
	}
}

// label is what an input says of a pod.
func label(p *Pod, in calibration.Input) {
	if in.Verb == "delete" {
		p.Terminating = true
	}
	if in.Has("hold") {
		p.Hold = in.Has("hold", "on")
	}
	if in.Has("grant") {
		p.Grant = in.Has("grant", "on")
	}
	if in.Has("working") {
		p.Working = in.Values["working"]
	}
	if in.Has("state") {
		if p.State = plan.State(in.Values["state"]); in.Has("state", "-") {
			p.State = plan.StateAbsent
		}
	}
}

// rest lets everybody act, in any order, until nobody has anything to do.
func (w *replay) rest() {
	const enough = 60
	for {
		for idle := 0; idle < enough; idle++ {
			if w.anything() {
				idle = 0
			}
		}
		before := w.s.api.rv
		w.each()
		for w.round(); w.k.sync != nil; {
			w.round()
		}
		w.tell()
		if w.s.api.rv == before && !w.grace() {
			return
		}
	}
}

// each lets every kubelet act: a pod takes as many actions to come up.
func (w *replay) each() {
	for range 3 {
		for _, name := range names(w.s.api.pods) {
			w.kubelet(w.s.api.pods[name])
		}
	}
}

// grace says whether a grace period goes on, and lets time pass then.
func (w *replay) grace() bool {
	for _, p := range w.s.api.pods {
		if p.Grace != "" {
			w.s.now = w.s.now.Add(time.Second)
			return true
		}
	}
	return false
}

// anything is one thing that somebody may do. It says whether that changed anything.
func (w *replay) anything() bool {
	before := w.s.api.rv
	if all := names(w.s.api.pods); len(all) > 0 && w.rnd.IntN(2) == 0 {
		w.kubelet(w.s.api.pods[all[w.rnd.IntN(len(all))]])
	} else {
		w.round()
	}
	w.tell()
	return w.s.api.rv != before
}

// round goes on with Kruise's round, or begins one. Its cache is prompt: a real one is late
// by less than Kruise waits before it tries again.
func (w *replay) round() {
	for w.k.cache.behind(w.s.api) {
		w.k.cache.nextPod(w.s.api)
		w.k.cache.nextSet(w.s.api)
	}
	w.k.step()
}

func (w *replay) kubelet(p Pod) {
	if w.stopped[ordinal(p.Name)] && (p.Terminating || p.Running != p.Image) {
		return
	}
	w.s.kubelet(p)
}

// tell takes in what was written.
func (w *replay) tell() {
	for ; w.pods < len(w.s.api.podLog); w.pods++ {
		e := w.s.api.podLog[w.pods]
		p, version := e.object, e.object.RV
		if e.deleted {
			p, version = w.last[e.name], w.s.api.rv
		}
		w.last[e.name] = p
		w.trace.Pod(int64(version), w.visible(&p, e.deleted))
	}
	for ; w.sets < len(w.s.api.setLog); w.sets++ {
		s := w.s.api.setLog[w.sets]
		w.trace.Set(int64(s.RV), calibration.Set{Update: s.UpdateRevision, Current: s.CurrentRevision, Observed: int64(s.Observed)})
	}
}

func (w *replay) visible(p *Pod, gone bool) calibration.Pod {
	out := calibration.Pod{
		Name: p.Name, UID: p.UID, Gone: gone, Terminating: p.Terminating, Revision: p.Revision, Image: p.Image,
		State: string(p.State), Hold: p.Hold, Grant: p.Grant, Working: p.Working,
		Updated: p.Record, Grace: p.Grace != "", Unfinished: !p.completed(), Runs: p.Running, Ready: p.Ready,
	}
	switch {
	case p.InPlaceReady:
		out.Open, w.opened[p.UID] = "True", true
	case w.opened[p.UID]:
		out.Open = "False"
	}
	return out
}
