package duty

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

// Reasons of the condition Ready; the first that applies, in this order.
const (
	ReasonFrozen           = "Frozen"
	ReasonOverduePin       = "OverduePin"
	ReasonInvalidRule      = "InvalidRule"
	ReasonInvalidSource    = "InvalidSource"
	ReasonCalledToDuty     = "CalledToDuty"
	ReasonUnsettled        = "Unsettled"
	ReasonDutyUnknown      = "DutyUnknown"
	ReasonReplicaLeased    = "ReplicaLeased"
	ReasonNotEnoughWorkers = "NotEnoughWorkers"
	ReasonSettling         = "Settling"
	ReasonBestEffort       = "BestEffort"
	ReasonOnDuty           = "OnDuty"
)

// Condition types by the kstatus rules: Reconciling and Stalled are there only while true.
const (
	ConditionReady       = "Ready"
	ConditionReconciling = "Reconciling"
	ConditionStalled     = "Stalled"
)

// summary describes the record for people.
func (g *Group) summary() store.Summary {
	s := store.Summary{
		ObservedGeneration: g.settings.Generation,
		Serving:            g.rules.Serving(&g.record.Leases),
		Floor:              g.rules.Floor,
	}
	var working, leased []string
	for name, m := range g.record.Roster.Members {
		if m.Assigned {
			working = append(working, name)
		}
		if _, ok := g.record.Leases.Leases[name]; ok {
			leased = append(leased, name)
		}
	}
	slices.Sort(working)
	slices.Sort(leased)
	s.Working, s.Leased = strings.Join(working, ","), strings.Join(leased, ",")
	s.Quarantined = strings.Join(g.notes.Quarantined, ",")
	s.Conditions = g.conditions()
	return s
}

func (g *Group) conditions() [3]store.Condition {
	ready, reason, message, stalled := g.verdict()
	if f := g.rules.Freeze; ready && f.Window != "" {
		message += "; no upgrade begins until " + f.Until.UTC().Format(time.RFC3339) + ": the freeze window " + f.Window + " is open"
	}
	out := [3]store.Condition{{Type: ConditionReady, True: ready, Reason: reason, Message: message}}
	switch {
	case ready:
	case stalled:
		out[1] = store.Condition{Type: ConditionStalled, True: true, Reason: reason, Message: message}
	default:
		out[1] = store.Condition{Type: ConditionReconciling, True: true, Reason: reason, Message: message}
	}
	return out
}

// verdict is the condition Ready, and whether only somebody else can mend it.
func (g *Group) verdict() (ready bool, reason, message string, stalled bool) {
	n := g.notes
	best := bestEffort(n)
	switch {
	case g.record.Frozen && len(g.noted()) == 0:
		return false, ReasonFrozen, "the record was lost: duty and grants are frozen until every pod is fenced, and the upgrader that marked them has adopted again", true
	case g.record.Frozen:
		return false, ReasonFrozen, "the record was lost: duty and grants are frozen until the leases noted on " +
			list(g.noted()) + " are adopted again by their holder", true
	case g.rules.Overdue != "":
		return false, ReasonOverduePin, "the pin of " + g.rules.Overdue + " lasts longer than pinOverdueSeconds: finish that replica, " +
			"or end the lease with `arbiter force-release`; nothing else is leased meanwhile", true
	case g.settings.Unclear != "":
		return false, ReasonInvalidRule, g.settings.Unclear + "; nothing is leased until that is put right", true
	case g.settings.Roster.Observed != nil:
		return g.observed(n)
	case len(n.Leased) > 0:
		return false, ReasonReplicaLeased, "duty of " + list(n.Leased) + " waits for the end of the lease" + best, false
	case n.Assigned < n.Wanted:
		return false, ReasonNotEnoughWorkers, fmt.Sprintf("%d of %d on duty%s%s", n.Assigned, n.Wanted, whyNotEnough(n), best), false
	case len(n.Draining) > 0:
		return false, ReasonSettling, list(n.Draining) + " may still work: not confirmed idle yet" + best, false
	case best != "":
		return true, ReasonBestEffort, fmt.Sprintf("%d on duty%s", n.Assigned, best), false
	}
	return true, ReasonOnDuty, fmt.Sprintf("%d on duty", n.Assigned), false
}

// observed is the condition Ready of a roster whose application decides who works.
func (g *Group) observed(n roster.Notes) (ready bool, reason, message string, stalled bool) {
	switch {
	case g.settings.Broken != "":
		return false, ReasonInvalidSource, g.settings.Broken + "; nobody counts as idle", true
	case len(n.Called) > 0:
		return false, ReasonCalledToDuty, "the application called " + list(n.Called) + " to duty during an upgrade: " +
			"it is given back unless its upgrade has begun, and is else in danger", false
	case n.Unsettled != "":
		return false, ReasonUnsettled, n.Unsettled + " (" + nobodyIf(list(n.Working)) + "); nobody counts as idle meanwhile", false
	case len(n.Unknown) > 0:
		return false, ReasonDutyUnknown, "the duty of " + list(n.Unknown) + " is not known: " + n.WhyUnknown, false
	}
	return true, ReasonOnDuty, fmt.Sprintf("%d seen on duty", n.Assigned), false
}

func nobodyIf(names string) string {
	if names == "" {
		return "nobody"
	}
	return names
}

// noted are the members whose pods carry a lease that is not known.
func (g *Group) noted() []string {
	var out []string
	for name, p := range g.pods {
		if l, ok := g.record.Leases.Leases[name]; p.LeaseID != "" && (!ok || l.ID != p.LeaseID) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func whyNotEnough(n roster.Notes) string {
	var why []string
	if len(n.Absent) > 0 {
		why = append(why, "no pod: "+list(n.Absent))
	}
	if len(n.Quarantined) > 0 {
		why = append(why, "at a revision that nobody has verified: "+list(n.Quarantined))
	}
	if len(n.Unheld) > 0 {
		why = append(why, "in an armed set, and not held by the upgrader or not confirmed by Kruise: "+list(n.Unheld))
	}
	if len(n.Draining) > 0 {
		why = append(why, "not confirmed idle yet: "+list(n.Draining))
	}
	if len(why) == 0 {
		return "; no other member is fit, idle and not leased"
	}
	return "; " + strings.Join(why, "; ")
}

func bestEffort(n roster.Notes) string {
	if len(n.BestEffort) == 0 {
		return ""
	}
	return "; best effort: " + list(n.BestEffort) + " without attending"
}

// list joins names, at most ten of them.
func list(names []string) string {
	if len(names) > 10 {
		return strings.Join(names[:10], ", ") + fmt.Sprintf(" and %d more", len(names)-10)
	}
	return strings.Join(names, ", ")
}
