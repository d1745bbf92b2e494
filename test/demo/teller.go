package main

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"offduty.dev/test/e2e/harness"
)

// teller prints one line for each change of a replica.
type teller struct {
	mu    sync.Mutex
	out   io.Writer
	begun time.Time
	first map[string]harness.Pod // as they were at first
	last  map[string]harness.Pod
	// quiet: the story is over.
	quiet bool
}

func newTeller(out io.Writer) *teller {
	return &teller{out: out, begun: time.Now(), first: map[string]harness.Pod{}, last: map[string]harness.Pod{}}
}

func (t *teller) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, format+"\n", args...)
}

// line says what happened to a replica. The caller holds the lock.
func (t *teller) line(pod, format string, args ...any) {
	if t.quiet {
		return
	}
	fmt.Fprintf(t.out, "   %5.1fs  %s  %s\n", time.Since(t.begun).Seconds(), pod, fmt.Sprintf(format, args...))
}

// end keeps what happens from now on to itself.
func (t *teller) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.quiet = true
}

// shift is told of each beginning and end of a replica's work, as it saw it itself.
func (t *teller) shift(s harness.Shift) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.To.IsZero() {
		t.line(s.Pod, "on duty")
		return
	}
	t.line(s.Pod, "off duty")
}

// pod is told of each version of a pod.
func (t *teller) pod(p harness.Pod) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, known := t.last[p.Name]
	t.last[p.Name] = p
	if p.Runs() && t.first[p.Name].Name == "" {
		t.first[p.Name] = p
	}
	if !known {
		return
	}
	switch {
	case p.Lease != "" && before.Lease == "":
		t.line(p.Name, "leased: it gets no duty until it is given back")
	case before.Hold && !p.Hold:
		t.line(p.Name, "chosen by Kruise, pinned, released: the point of no return")
	case p.Image != before.Image:
		t.line(p.Name, "updated in place: %s → %s", before.Image, p.Image)
	case p.Runs() && before.ImageID() == "":
		t.line(p.Name, "runs %s", p.Image)
	case p.Runs() && p.ImageID() != before.ImageID():
		t.line(p.Name, "runs again: %s, restart %d", same(p.UID == before.UID), p.Restarts())
	case p.Verified != before.Verified && p.Image != t.first[p.Name].Image:
		t.line(p.Name, "verified and given back")
	}
}

func same(is bool) string {
	if is {
		return "the same pod"
	}
	return "another pod"
}

// table shows all replicas at the end.
func (t *teller) table(n harness.Now, working []string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintln(t.out)
	w := tabwriter.NewWriter(t.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "   REPLICA\tFIRST IMAGE\tIMAGE\tPOD\tRESTARTS\tREADY\tDUTY")
	for i := range len(n.Pods) {
		p, first := n.Pods[fmt.Sprintf("sample-%d", i)], t.first[fmt.Sprintf("sample-%d", i)]
		duty := "idle"
		if slices.Contains(working, p.Name) {
			duty = "working"
		}
		fmt.Fprintf(w, "   %s\t%s\t%s\t%s\t%d\t%t\t%s\n", p.Name, first.Image, p.Image, same(p.UID == first.UID), p.Restarts(), p.Ready, duty)
	}
	return w.Flush()
}
