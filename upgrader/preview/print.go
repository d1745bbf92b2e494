package preview

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Print writes a preview for people.
func (r *Result) Print(out io.Writer) error {
	fmt.Fprintf(out, "upgradeplan/%s: %d of %d upgraded\n", r.Plan, r.Upgraded, r.Replicas)
	for i := range r.Targets {
		r.Targets[i].print(out)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(out, "  note: %s\n", n)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(r.Steps) > 0 {
		fmt.Fprintf(w, "\nROUND\tWHAT\tREPLICA\tHOW\n")
	}
	for _, s := range r.Steps {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", s.Round, s.Kind, s.Replica, s.how())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if r.Done {
		_, err := fmt.Fprintln(out, "\nthen it is complete")
		return err
	}
	fmt.Fprintf(out, "\nthen it waits: %s: %s\n\n", r.Reason, r.Message)
	fmt.Fprintf(w, "LEFT\tDUTY\tHOW\n")
	for _, p := range r.Left {
		fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, p.Duty, inPlace(p.NotInPlace))
	}
	return w.Flush()
}

func (t *Target) print(out io.Writer) {
	to := t.ToRevision
	if to == "" {
		to = "a new one"
	}
	if t.FromRevision != to {
		fmt.Fprintf(out, "  %s: revision %s → %s\n", t.Name, t.FromRevision, to)
	}
	for _, c := range t.Images {
		fmt.Fprintf(out, "  %s: container %s: %s → %s\n", t.Name, c.Container, c.From, c.To)
	}
	if t.Reason != "" {
		fmt.Fprintf(out, "  %s: nothing would be done: %s: %s\n", t.Name, t.Reason, t.Message)
	}
}

func (s *Step) how() string {
	switch s.Kind {
	case Handover:
		return "duty moves to " + s.To
	case Verify:
		return "it is at the new revision already"
	case Upgrade:
	}
	return inPlace(s.NotInPlace)
}

func inPlace(refused string) string {
	if refused != "" {
		return "REFUSED: its revision differs in " + refused
	}
	return "in place"
}
