package view

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// Answer says why a plan is where it is.
type Answer struct {
	Plan Plan `json:"plan"`
	// Findings on the plan, its targets and its replicas, in this order.
	Findings []Finding `json:"findings,omitempty"`
	// Group is the arbiter's side; nil when it cannot be seen, and then Unseen says why.
	Group  *Group `json:"group,omitempty"`
	Unseen string `json:"unseen,omitempty"`
}

// Finding is one reason, and what to do about it.
type Finding struct {
	// Subject is "plan", "target <name>" or "replica <name>".
	Subject string `json:"subject"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
}

// Group is what a Roster tells of the group.
type Group struct {
	Name    string  `json:"name"`
	Serving int32   `json:"serving"`
	Floor   int32   `json:"floor"`
	Frozen  bool    `json:"frozen,omitempty"`
	Working string  `json:"working,omitempty"`
	Leases  []Lease `json:"leases,omitempty"`
}

// Lease says who holds what.
type Lease struct {
	Replica string `json:"replica"`
	Phase   string `json:"phase"`
	// Holder is the plan's name, or the holder's id when no plan of the namespace has it.
	Holder string `json:"holder"`
	ID     string `json:"id"`
	// Held is since when, in the arbiter's own time.
	Held string `json:"held,omitempty"`
	// Overdue: pinned for longer than the Roster allows; nothing else is granted meanwhile.
	Overdue bool `json:"overdue,omitempty"`
}

// Why answers for one plan. roster may be nil, and then unseen says why; plans give names
// to holders.
func Why(up *v1alpha1.UpgradePlan, roster *v1alpha1.Roster, unseen string, plans []v1alpha1.UpgradePlan, now time.Time) Answer {
	a := Answer{Plan: Of(up), Unseen: unseen}
	p := &a.Plan
	a.add("plan", p.Reason, p.Message)
	for i := range p.Targets {
		t := &p.Targets[i]
		if t.Reason != "" && (t.Reason != p.Reason || t.Message != p.Message) {
			a.add("target "+t.Name, t.Reason, t.Message)
		}
		for j := range t.Pods {
			a.replica(&t.Pods[j])
		}
	}
	if roster != nil {
		a.Group, a.Unseen = group(roster, plans, now), ""
	}
	return a
}

func (a *Answer) add(subject, reason, message string) {
	a.Findings = append(a.Findings, Finding{Subject: subject, Reason: reason, Message: message, Remedy: Remedies[plan.Reason(reason)].Do})
}

// replica adds why a replica is not upgraded.
func (a *Answer) replica(r *Replica) {
	if r.Reason != "" {
		a.add("replica "+r.Name, r.Reason, r.Message)
		return
	}
	if s := standing(r); s != "" {
		a.Findings = append(a.Findings, Finding{Subject: "replica " + r.Name, Reason: r.Step, Message: s})
	}
}

// standing says in words where a replica stands; "" when there is nothing to say.
func standing(r *Replica) string {
	switch plan.ParseStep(r.Step) {
	case plan.StepProtected:
		switch r.Duty {
		case plan.Working.String():
			return "it works: it is upgraded when it is off duty"
		case plan.Idle.String():
			return "it is idle, and waits for its turn"
		}
		return "its duty is not known, which counts as working"
	case plan.StepMissing:
		return "it has no running pod"
	case plan.StepUndoing:
		return "it is being given back as it was"
	case plan.StepLeased, plan.StepDraining, plan.StepSelected:
		return "it is being prepared; this can still be taken back"
	case plan.StepReleased:
		return "Kruise is updating it; this cannot be taken back"
	case plan.StepFailed:
		return "it did not become well; it stays pinned, out of duty"
	case plan.StepVerifying:
		return "it runs the new revision and is being verified"
	case plan.StepReadmitting:
		return "it is being given back to duty"
	case plan.StepNone, plan.StepUpgraded:
	}
	return ""
}

func group(ro *v1alpha1.Roster, plans []v1alpha1.UpgradePlan, now time.Time) *Group {
	s := &ro.Status
	g := &Group{Name: ro.Namespace + "/" + ro.Name, Serving: s.Serving, Floor: s.Floor, Frozen: s.Frozen, Working: s.Working}
	names := map[string]string{}
	for i := range plans {
		names[string(plans[i].UID)] = plans[i].Name
	}
	for i := range s.Leases {
		l := &s.Leases[i]
		v := Lease{Replica: l.Replica, Phase: l.Phase, ID: l.ID, Holder: l.Holder, Held: age(l.GrantedAt, now)}
		if n := names[l.Holder]; n != "" {
			v.Holder = "upgradeplan/" + n
		}
		if l.PinnedAt != nil {
			v.Held = age(l.PinnedAt, now)
			v.Overdue = now.Sub(l.PinnedAt.Time) > time.Duration(ro.Spec.PinOverdueSeconds)*time.Second
		}
		g.Leases = append(g.Leases, v)
	}
	return g
}

// RosterOf is the Roster that a plan's group names, if its arbiter is the reference one: a
// bare name is a Roster of the plan's namespace.
func RosterOf(up *v1alpha1.UpgradePlan) types.NamespacedName {
	g := up.Spec.Arbiter.Group
	for i := range g {
		if g[i] == '/' {
			return types.NamespacedName{Namespace: g[:i], Name: g[i+1:]}
		}
	}
	return types.NamespacedName{Namespace: up.Namespace, Name: g}
}

// Print writes an answer for people.
func (a *Answer) Print(out io.Writer) error {
	fmt.Fprintf(out, "upgradeplan/%s: %d of %d upgraded, %s\n", a.Plan.Name, a.Plan.Upgraded, a.Plan.Replicas, a.Plan.State)
	for _, f := range a.Findings {
		subject := f.Subject
		if subject == "plan" {
			subject += " " + a.Plan.Name
		}
		fmt.Fprintf(out, "\n%s: %s\n", subject, f.Reason)
		if f.Message != "" {
			fmt.Fprintf(out, "  %s\n", f.Message)
		}
		if f.Remedy != "" {
			fmt.Fprintf(out, "  what to do: %s\n", f.Remedy)
		}
	}
	if a.Group == nil {
		_, err := fmt.Fprintf(out, "\nthe arbiter's side is not known: %s\n", a.Unseen)
		return err
	}
	return a.Group.print(out)
}

func (g *Group) print(out io.Writer) error {
	frozen := ""
	if g.Frozen {
		frozen = ", frozen"
	}
	fmt.Fprintf(out, "\nroster %s: %d serve, the floor is %d%s\n", g.Name, g.Serving, g.Floor, frozen)
	fmt.Fprintf(out, "  on duty: %s\n", orNobody(g.Working))
	if len(g.Leases) == 0 {
		_, err := fmt.Fprintln(out, "  leased: nobody")
		return err
	}
	fmt.Fprintln(out)
	w := table(out)
	fmt.Fprintf(w, "  REPLICA\tPHASE\tHOLDER\tFOR\n")
	for _, l := range g.Leases {
		phase := l.Phase
		if l.Overdue {
			phase += " (overdue)"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", l.Replica, phase, l.Holder, l.Held)
	}
	return w.Flush()
}

func orNobody(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}

// Release says what is about to be given up when the lease on a replica is ended by force.
// Errors: there is none, as far as can be seen.
func (a *Answer) Release(replica string) (string, error) {
	what := "a lease that cannot be seen (" + a.Unseen + ")"
	if a.Group != nil {
		i := slices.IndexFunc(a.Group.Leases, func(l Lease) bool { return l.Replica == replica })
		if i < 0 {
			return "", fmt.Errorf("roster %s shows no lease on %s", a.Group.Name, replica)
		}
		l := a.Group.Leases[i]
		what = fmt.Sprintf("the lease %s, which is %s, held by %s for %s", l.ID, strings.ToLower(l.Phase), l.Holder, l.Held)
	}
	text := fmt.Sprintf("replica %s: this ends %s; the arbiter may then call it to duty", replica, what)
	if r := a.Plan.replica(replica); r != nil {
		text += fmt.Sprintf("\nits step is %s: %s", r.Step, standing(r))
	}
	return text, nil
}

// replica finds a replica by name.
func (p *Plan) replica(name string) *Replica {
	for i := range p.Targets {
		for j := range p.Targets[i].Pods {
			if r := &p.Targets[i].Pods[j]; r.Name == name {
				return r
			}
		}
	}
	return nil
}
