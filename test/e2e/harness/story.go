package harness

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// How many lines a story has before and after its moment.
const (
	linesBefore = 16
	linesAfter  = 8
)

type line struct {
	at   time.Time
	text string
}

// Story tells what happened to a pod around a moment, one line for each change of the
// pod, of a set, of its duty, and for each write of the upgrader. An empty name means all
// pods.
func (e Evidence) Story(pod string, at time.Time) string {
	lines := slices.Concat(e.podLines(pod), e.setLines(), e.shiftLines(pod), e.writeLines(pod))
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	i, _ := slices.BinarySearchFunc(lines, at, func(l line, t time.Time) int { return l.at.Compare(t) })
	var b strings.Builder
	for j := max(0, i-linesBefore); j < min(len(lines), i+linesAfter); j++ {
		mark := " "
		if j == i {
			mark = ">"
		}
		fmt.Fprintf(&b, "  %s %s %s\n", mark, clock(lines[j].at), lines[j].text)
	}
	return b.String()
}

func (e Evidence) podLines(pod string) []line {
	var out []line
	last := map[string]string{}
	for _, p := range e.Pods {
		if pod != "" && p.Name != pod {
			continue
		}
		text := Describe(p)
		if last[p.Name] == text {
			continue
		}
		last[p.Name] = text
		out = append(out, line{p.At, fmt.Sprintf("pod %s version %d: %s", p.Name, p.Version, text)})
	}
	return out
}

// Describe says in one line what a pod is like.
func Describe(p Pod) string {
	if p.Gone {
		return "gone"
	}
	words := []string{p.Image, "state=" + p.State, "revision=" + p.Revision[strings.LastIndexByte(p.Revision, '-')+1:], fmt.Sprintf("ready=%t", p.Ready), fmt.Sprintf("restarts=%d", p.Restarts())}
	for _, f := range []struct {
		is   bool
		word string
	}{
		{p.Hold, "hold"},
		{p.Grant, "grant"},
		{p.Lease != "", "lease=" + p.Lease},
		{p.Working != "", "working=" + p.Working},
		{p.Gate != "", "gate=" + p.Gate},
		{p.Terminating, "terminating"},
		{!p.Runs(), "not running"},
	} {
		if f.is {
			words = append(words, f.word)
		}
	}
	return strings.Join(words, " ")
}

func (e Evidence) setLines() []line {
	var out []line
	last := ""
	for _, s := range e.Sets {
		text := fmt.Sprintf("set %s: partition %d, update revision %s, generation %d observed %d", s.Name, s.Partition, s.UpdateRevision, s.Generation, s.Observed)
		if text != last {
			out = append(out, line{s.At, text})
		}
		last = text
	}
	return out
}

func (e Evidence) shiftLines(pod string) []line {
	var out []line
	for _, s := range e.Shifts {
		if pod != "" && s.Pod != pod {
			continue
		}
		out = append(out, line{s.From, fmt.Sprintf("application in %s (%s) begins to work", s.Pod, s.UID)})
		if !s.To.IsZero() {
			out = append(out, line{s.To, fmt.Sprintf("application in %s (%s) has stopped", s.Pod, s.UID)})
		}
	}
	return out
}

func (e Evidence) writeLines(pod string) []line {
	var out []line
	for _, w := range e.Writes {
		if !w.Ours() || w.Kind == "pods" && pod != "" && w.Name != pod {
			continue
		}
		body := w.Body
		if len(body) > 240 {
			body = body[:240] + "…"
		}
		out = append(out, line{w.At, fmt.Sprintf("upgrader writes %s %s: %s", strings.TrimSuffix(w.Kind+"/"+w.Sub, "/"), w.Name, body)})
	}
	return out
}
