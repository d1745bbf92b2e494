package view

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"offduty.dev/api/v1alpha1"
)

// Line is a plan in one line.
func (p *Plan) Line() string {
	s := fmt.Sprintf("upgradeplan/%s: %d of %d upgraded: %s", p.Name, p.Upgraded, p.Replicas, p.Reason)
	if p.State == Stalled || p.State == Paused {
		s += " (" + strings.ToLower(string(p.State)) + ")"
	}
	if p.Message != "" {
		s += ": " + oneLine(p.Message)
	}
	return s
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Tree prints plan, targets and replicas. now is for ages.
func (p *Plan) Tree(out io.Writer, now time.Time) error {
	w := table(out)
	fmt.Fprintf(w, "NAME\tDUTY\tSTEP\tREVISION\tREASON\tSINCE\n")
	fmt.Fprintf(w, "%s\t\t%d/%d %s\t\t%s\t\n", p.Name, p.Upgraded, p.Replicas, p.State, p.Reason)
	for i := range p.Targets {
		branch, stem := "├─ ", "│  "
		if i == len(p.Targets)-1 {
			branch, stem = "└─ ", "   "
		}
		p.Targets[i].tree(w, branch, stem, now)
	}
	if p.Message != "" {
		fmt.Fprintf(w, "\n%s\n", p.Message)
	}
	if p.Going != "" {
		fmt.Fprintf(w, "meanwhile: %s\n", p.Going)
	}
	return w.Flush()
}

func (t *Target) tree(w io.Writer, branch, stem string, now time.Time) {
	fmt.Fprintf(w, "%s%s\t\t%d/%d\t%s\t%s\t\n", branch, t.Name, t.Upgraded, t.Replicas, t.revisions(), t.Reason)
	unlisted := int(t.Replicas) - len(t.Pods) // a status lists 1,000 at most
	for i := range t.Pods {
		r := &t.Pods[i]
		twig := "├─ "
		if i == len(t.Pods)-1 && unlisted <= 0 {
			twig = "└─ "
		}
		fmt.Fprintf(w, "%s%s%s\t%s\t%s\t%s\t%s\t%s\n", stem, twig, r.Name, r.Duty, r.Step, t.short(r.Revision), r.Reason, age(r.Since, now))
	}
	if unlisted > 0 && len(t.Pods) > 0 {
		fmt.Fprintf(w, "%s└─ … %d more, which are protected or upgraded\t\t\t\t\t\n", stem, unlisted)
	}
}

// revisions is where the set comes from and where it goes.
func (t *Target) revisions() string {
	from, to := t.short(t.CurrentRevision), t.short(t.UpdateRevision)
	if from == to || from == "" {
		return to
	}
	return from + " → " + to
}

// short leaves the set's own name out of a revision's.
func (t *Target) short(revision string) string { return strings.TrimPrefix(revision, t.Name+"-") }

// List prints one line for each plan.
func List(out io.Writer, plans []v1alpha1.UpgradePlan, namespaces bool, now time.Time) error {
	w := table(out)
	column := func(namespace string) string {
		if namespaces {
			return namespace + "\t"
		}
		return ""
	}
	fmt.Fprintf(w, "%sNAME\tUPGRADED\tSTATE\tREASON\tAGE\tMESSAGE\n", column("NAMESPACE"))
	for i := range plans {
		p := Of(&plans[i])
		fmt.Fprintf(w, "%s%s\t%d/%d\t%s\t%s\t%s\t%s\n", column(p.Namespace), p.Name, p.Upgraded, p.Replicas,
			p.State, p.Reason, age(&plans[i].CreationTimestamp, now), oneLine(p.Message))
	}
	return w.Flush()
}

func age(since *metav1.Time, now time.Time) string {
	if since == nil || since.IsZero() {
		return ""
	}
	return duration.HumanDuration(max(now.Sub(since.Time), 0))
}

func table(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }
