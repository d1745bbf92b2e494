package conformance

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// SpecificationVersion is the version of docs/arbiter/SPEC.md that the kit checks.
const SpecificationVersion = 1

// Outcome is what became of a case.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
	// Broken: the kit could not do its part; nothing is said of the arbiter.
	Broken Outcome = "broken"
)

// Result is what a case has shown.
type Result struct {
	Case
	Outcome Outcome `json:"outcome"`
	// Finding is set when it failed.
	Finding *Finding `json:"finding,omitempty"`
	// Warnings are SHOULDs that were not kept.
	Warnings []Finding `json:"warnings,omitempty"`
	// Reason says why it was skipped, or what was broken.
	Reason  string  `json:"reason,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Report is what a run has shown.
type Report struct {
	Specification int `json:"specification"`
	// Implementation is what the arbiter says of itself.
	Implementation string `json:"implementation"`
	Group          string `json:"group"`
	Level          Level  `json:"level"`
	// Only are the cases that were asked for; empty: all.
	Only    []string  `json:"only,omitempty"`
	Began   time.Time `json:"began"`
	Results []Result  `json:"results"`
}

// Count returns how many cases had an outcome.
func (r *Report) Count(o Outcome) int {
	n := 0
	for _, x := range r.Results {
		if x.Outcome == o {
			n++
		}
	}
	return n
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// WriteSummary writes the end of a report for people: what failed, what was not seen, and the
// verdict.
func (r *Report) WriteSummary(w io.Writer) error {
	var b strings.Builder
	for _, x := range r.Results {
		if x.Outcome == Failed {
			fmt.Fprintf(&b, "\n%s: %s\n%s\n", x.ID, x.Tells, x.Finding)
		}
		for _, f := range x.Warnings {
			fmt.Fprintf(&b, "\n%s: a SHOULD was not kept\n%s\n", x.ID, &f)
		}
	}
	fmt.Fprintf(&b, "\n%s", r.verdict())
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// verdict says in the end what was shown.
func (r *Report) verdict() string {
	text := fmt.Sprintf("%d passed, %d failed, %d skipped, %d broken: ", r.Count(Passed), r.Count(Failed), r.Count(Skipped), r.Count(Broken))
	name := r.Implementation
	if name == "" {
		name = "the arbiter"
	}
	level := fmt.Sprintf("level %s of specification %d", r.Level, r.Specification)
	if len(r.Only) > 0 {
		level = fmt.Sprintf("what was asked for of specification %d", r.Specification)
	}
	switch {
	case r.Count(Failed) > 0:
		return text + name + " does not keep to " + level + "\n"
	case r.Count(Broken) > 0:
		return text + "of " + level + " nothing can be said before the kit can do its part\n"
	case r.Count(Skipped) > 0:
		return text + name + " keeps to " + level + " as far as was seen; the skipped cases were not\n"
	}
	return text + name + " keeps to " + level + "\n"
}

// Line is a result in one line.
func (r Result) Line() string {
	line := fmt.Sprintf("%-8s %-18s %s [%s]", r.Outcome, r.ID, r.Tells, strings.Join(r.Clauses, " "))
	if r.Reason != "" {
		line += "\n         " + string(r.Outcome) + ": " + r.Reason
	}
	return line
}

// String tells a finding as a block: the clause, the problem, what was said before.
func (f *Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %s wants: %s\n  but: %s", f.Clause.ID, f.Clause.Text, f.Problem)
	for i, x := range f.Exchange {
		when := "before"
		if i == len(f.Exchange)-1 {
			when = "last"
		}
		fmt.Fprintf(&b, "\n  %s, %s", when, strings.ReplaceAll(x, "\n", "\n    "))
	}
	return b.String()
}

// runID names a run.
func runID() string { return "conformance-" + strings.ToLower(rand.Text()[:8]) }
