package calibration

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Pod is one version of a pod.
type Pod struct {
	Name, UID string
	// Gone: with this version the pod was deleted.
	Gone, Terminating bool

	// Revision is the controller revision's name, Image the tag in the spec.
	Revision, Image string
	// State, Hold, Grant and Working are labels; State "" is none.
	State       string
	Hold, Grant bool
	Working     string
	// Open is the condition InPlaceUpdateReady: "True", "False" or "".
	Open string
	// Updated: Kruise has a record of an in-place update. Grace: it holds the image back.
	// Unfinished: by that record the update is not done.
	Updated, Grace, Unfinished bool

	// Runs is the tag that runs; "" while none does. Ready is the pod's condition.
	Runs  string
	Ready bool
}

// Set is one version of the set.
type Set struct {
	Update, Current string
	Observed        int64
}

type event struct {
	version int64
	pod     *Pod
	set     *Set
}

// Trace collects versions, and tells what became visible since the last Cut. Versions may
// come in any order, as long as all those of an object come in its own.
type Trace struct {
	mu     sync.Mutex
	events []event
	// pods and set are as they were at the last Cut.
	pods map[string]Pod
	set  Set
	// generation that the last input made; 0: it made none.
	generation int64
	// uids of each name, and names of the revisions, in the order in which they appeared.
	uids      map[string][]string
	revisions []string
}

// NewTrace returns a trace of nothing.
func NewTrace() *Trace { return &Trace{pods: map[string]Pod{}, uids: map[string][]string{}} }

// Pod adds a version of a pod.
func (t *Trace) Pod(version int64, p Pod) { t.add(event{version: version, pod: &p}) }

// Set adds a version of the set.
func (t *Trace) Set(version int64, s Set) { t.add(event{version: version, set: &s}) }

func (t *Trace) add(e event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, e)
}

// Len counts the versions since the last Cut.
func (t *Trace) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.events)
}

// Input says that the last input made a generation of the set.
func (t *Trace) Input(generation int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.generation = generation
}

// Cut forgets what became visible so far.
func (t *Trace) Cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set, t.pods = t.latest()
	t.events, t.generation = nil, 0
}

func (t *Trace) latest() (Set, map[string]Pod) {
	set, pods := t.set, maps.Clone(t.pods)
	for _, e := range t.events {
		switch {
		case e.set != nil:
			set = *e.set
		case e.pod.Gone:
			delete(pods, e.pod.Name)
		default:
			pods[e.pod.Name] = *e.pod
		}
	}
	return set, pods
}

// String is what became visible since the last Cut.
func (t *Trace) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.SortStableFunc(t.events, func(a, b event) int { return cmp.Compare(a.version, b.version) })
	t.name()
	tracks := map[string][]string{}
	for _, name := range t.names() {
		if track := t.track(name); len(track) > 0 {
			tracks[name] = track
		}
	}
	var out strings.Builder
	if b := t.begins(); b != "" {
		fmt.Fprintf(&out, "begins: %s\n", b)
	}
	for _, name := range slices.Sorted(maps.Keys(tracks)) {
		for i, line := range tracks[name] {
			lead := name + ":"
			if i > 0 {
				lead = strings.Repeat(" ", len(lead))
			}
			fmt.Fprintf(&out, "%s %s\n", lead, line)
		}
	}
	for _, line := range t.sets() {
		fmt.Fprintf(&out, "set: %s\n", line)
	}
	if out.Len() == 0 {
		return "nothing\n"
	}
	return out.String()
}

// name numbers pods and revisions as they appear.
func (t *Trace) name() {
	note := func(rev string) {
		if rev != "" && !slices.Contains(t.revisions, rev) {
			t.revisions = append(t.revisions, rev)
		}
	}
	for _, e := range t.events {
		if e.set != nil {
			note(e.set.Update)
			continue
		}
		note(e.pod.Revision)
		if !slices.Contains(t.uids[e.pod.Name], e.pod.UID) {
			t.uids[e.pod.Name] = append(t.uids[e.pod.Name], e.pod.UID)
		}
	}
}

func (t *Trace) names() []string {
	names := map[string]bool{}
	for name := range t.pods {
		names[name] = true
	}
	for _, e := range t.events {
		if e.pod != nil {
			names[e.pod.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Revision is the name of the revision that is shown as rev.
func (t *Trace) Revision(rev string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, name := range t.revisions {
		if rev == fmt.Sprintf("r%d", i+1) {
			return name, nil
		}
	}
	return "", fmt.Errorf("there is no revision %s yet, only %d", rev, len(t.revisions))
}

func (t *Trace) short(rev string) string {
	if i := slices.Index(t.revisions, rev); i >= 0 {
		return fmt.Sprintf("r%d", i+1)
	}
	return "-"
}

// track are the versions of a pod, and how it rests.
func (t *Trace) track(name string) []string {
	was, here := t.pods[name]
	now, last := was, "gone"
	if here {
		last = t.version(was)
	}
	var lines []string
	for _, e := range t.events {
		if e.pod == nil || e.pod.Name != name {
			continue
		}
		if now = *e.pod; now.between() {
			continue
		}
		line := t.version(now)
		if n := len(lines); now.Gone && n > 0 && strings.Contains(lines[n-1], " terminating") {
			lines = lines[:n-1] // how long that takes is the kubelet's affair
		}
		if line != last {
			lines = append(lines, line)
		}
		last = line
	}
	if last != "gone" && (len(lines) > 0 || now.rests() != was.rests()) {
		lines = append(lines, now.rests())
	}
	return lines
}

// between says whether an update is done and the pod still shut: what Kruise opens too early
// is never seen so.
func (p Pod) between() bool {
	return !p.Gone && p.Updated && !p.Unfinished && p.Open == "False"
}

func (t *Trace) version(p Pod) string {
	if p.Gone {
		return "gone"
	}
	words := []string{fmt.Sprintf("#%d", slices.Index(t.uids[p.Name], p.UID)+1), t.short(p.Revision), p.Image, cmp.Or(p.State, "-")}
	open := map[string]string{"True": "open", "False": "shut", "": "?"}[p.Open]
	if p.Unfinished {
		open = "unfinished"
	}
	words = append(words, open)
	for _, flag := range []struct {
		on   bool
		word string
	}{
		{p.Hold, "hold"},
		{p.Grant, "grant"},
		{p.Working != "false", "working=" + cmp.Or(p.Working, "-")},
		{p.Grace, "grace"},
		{p.Terminating, "terminating"},
		{p.Updated, "runs " + cmp.Or(p.Runs, "nothing")},
	} {
		if flag.on {
			words = append(words, flag.word)
		}
	}
	return strings.Join(words, " ")
}

func (p Pod) rests() string {
	ready := "rests not ready"
	switch {
	case p.Unfinished:
		ready = "rests unfinished"
	case p.Ready:
		ready = "rests ready"
	}
	return ready + ", runs " + cmp.Or(p.Runs, "nothing")
}

// begins is the order in which updates began.
func (t *Trace) begins() string {
	latest, begun, observed := maps.Clone(t.pods), []string{}, t.generation == 0 || t.set.Observed >= t.generation
	for _, e := range t.events {
		if e.set != nil {
			if !observed && e.set.Observed >= t.generation {
				observed, begun = true, append(begun, "observed")
			}
			continue
		}
		was, p := latest[e.pod.Name], *e.pod
		latest[p.Name] = p
		began := was.Open == "True" && p.Open == "False" || was.Revision != p.Revision || was.State != p.State && p.State == "PreparingUpdate"
		if began && was.UID == p.UID && !slices.Contains(begun, p.Name) {
			begun = append(begun, p.Name)
		}
	}
	return strings.Join(begun, " ")
}

// sets are the revisions that the set named, each pair once.
func (t *Trace) sets() []string {
	var lines []string
	first := t.pair(t.set)
	for _, e := range t.events {
		if e.set == nil || e.set.Update == "" {
			continue
		}
		if line := t.pair(*e.set); line != first && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

func (t *Trace) pair(s Set) string {
	return fmt.Sprintf("update %s, current %s", t.short(s.Update), t.short(s.Current))
}
