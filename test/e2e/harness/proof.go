package harness

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"offduty.dev/api/v1alpha1"
)

// Violation is a promise of the design that was broken.
type Violation struct {
	// Promise is its number in the design.
	Promise int
	What    string
	// Story is what happened to the pod around that moment.
	Story string
}

func (v Violation) String() string {
	return fmt.Sprintf("promise %d: %s\n%s", v.Promise, v.What, v.Story)
}

// slack is how long the arbiter may not know yet that a pod is out of service by itself.
const slack = time.Second

// Prove holds the evidence against promises 1, 2 and 4; no violation: they were kept.
//
//  1. The upgrader takes no hold off and closes no gate while the application says
//     Working for that pod's UID, and no container of such a pod is changed or restarted.
//     From there until the hold is back, the gate open, that name does not begin to work;
//     unless its lease ran out while everything could still be undone: then the arbiter may
//     give it duty although nobody has opened its gate yet.
//  2. When the upgrader takes a replica out of service, the others that are ready and not
//     being upgraded are at least the floor. One that went out of service by itself
//     counts for a second, as the arbiter may not have heard of it.
//  4. No write of the upgrader sets a partition below the number of replicas that are
//     neither granted nor at the update revision, at that version.
func (e Evidence) Prove() []Violation {
	var out []Violation
	out = append(out, e.undisturbed()...)
	out = append(out, e.unchanged()...)
	out = append(out, e.banned()...)
	out = append(out, e.floor()...)
	return append(out, e.partitions()...)
}

// takesOut says whether a write takes a pod out of service.
func (e Evidence) takesOut(w Write) bool {
	if !w.Ours() || w.Kind != "pods" {
		return false
	}
	if w.Gate != nil && !*w.Gate {
		return true
	}
	return w.Hold != nil && !*w.Hold && !e.givesBack(w)
}

// givesBack says whether a write takes a hold off because the plan is being deleted, or has
// named the pod's set and does no more. Then the partition must protect the pod, which is
// checked by partitions.
func (e Evidence) givesBack(w Write) bool {
	at, named, names := e.result(w), false, false
	set := w.Name[:max(0, strings.LastIndexByte(w.Name, '-'))]
	for _, p := range e.Plans {
		if p.Version >= at {
			continue
		}
		if p.Deleting {
			return true
		}
		names = slices.Contains(p.Targets, set)
		named = named || names
	}
	return named && !names
}

// result is the version that a write made. The precondition makes it the next one after
// its base.
func (e Evidence) result(w Write) int64 {
	for _, p := range e.Pods {
		if w.Kind == "pods" && p.Name == w.Name && p.Version > w.Base {
			return p.Version
		}
	}
	for _, s := range e.Sets {
		if w.Kind == "statefulsets" && s.Name == w.Name && s.Version > w.Base {
			return s.Version
		}
	}
	return w.Base
}

// missing says whether versions around v may be missing, so that what there was then is not
// known.
func (e Evidence) missing(v int64) bool {
	return slices.ContainsFunc(e.Gaps, func(g Gap) bool { return g.After < v && v <= g.To })
}

// working returns the shift of that pod that covers t; UID "" means any.
func (e Evidence) working(pod, uid string, t time.Time) *Shift {
	for i := range e.Shifts {
		s := &e.Shifts[i]
		if s.Pod == pod && (uid == "" || s.UID == uid) && !t.Before(s.From) && (s.To.IsZero() || t.Before(s.To)) {
			return s
		}
	}
	return nil
}

func (e Evidence) violation(promise int, pod string, at time.Time, format string, args ...any) Violation {
	return Violation{Promise: promise, What: fmt.Sprintf(format, args...), Story: e.Story(pod, at)}
}

// undisturbed is promise 1 for what the upgrader writes.
func (e Evidence) undisturbed() []Violation {
	var out []Violation
	for _, w := range e.Writes {
		if !e.takesOut(w) {
			continue
		}
		if w.UID == "" || w.Base == 0 {
			out = append(out, e.violation(1, w.Name, w.At, "a write that takes %s out of service has no precondition: %s", w.Name, w.Body))
		}
		if s := e.working(w.Name, w.UID, w.At); s != nil {
			out = append(out, e.violation(1, w.Name, w.At, "the upgrader took %s out of service while the application worked since %s: %s",
				w.Name, clock(s.From), w.Body))
		}
	}
	return out
}

// unchanged is promise 1 for what Kruise and the kubelet do.
func (e Evidence) unchanged() []Violation {
	var out []Violation
	last := map[string]Pod{}
	for _, p := range e.Pods {
		before, ok := last[p.Name]
		last[p.Name] = p
		if !ok || before.UID != p.UID || p.Gone || e.missing(p.Version) {
			continue
		}
		what, at := "", p.At
		switch {
		case before.Image != p.Image:
			what = fmt.Sprintf("its image was changed from %s to %s", before.Image, p.Image)
			at = e.imageWritten(p)
		case before.Runs() && (!p.Runs() || before.Containers[0].ID != p.Containers[0].ID):
			what = "its container was stopped"
		default:
			continue
		}
		if s := e.working(p.Name, p.UID, at); s != nil {
			out = append(out, e.violation(1, p.Name, at, "%s worked since %s when %s", p.Name, clock(s.From), what))
		}
	}
	return out
}

// imageWritten is when Kruise wrote the image of p, as far as the audit log tells;
// otherwise when the watch told.
func (e Evidence) imageWritten(p Pod) time.Time {
	at := p.At
	for _, w := range e.Writes {
		if w.Kind == "pods" && w.Name == p.Name && w.Sub == "" && w.User == Kruise && strings.Contains(w.Body, strings.Split(p.Image, ",")[0]) && w.At.Before(p.At) {
			at = w.At
		}
	}
	return at
}

// banned is promise 1 for the time while a replica is out of service.
func (e Evidence) banned() []Violation {
	var out []Violation
	since := map[string]outage{}
	for _, w := range e.Writes {
		o, is := since[w.Name]
		switch {
		case e.takesOut(w):
			if !is {
				o = outage{pod: w.Name, from: w.At, version: e.result(w)}
			}
			o.released = o.released || w.Hold != nil
			since[w.Name] = o
		case is && putsBack(w):
			out = append(out, e.idle(o, w.At)...)
			delete(since, w.Name)
		}
	}
	for _, o := range since {
		out = append(out, e.idle(o, time.Now())...)
	}
	return out
}

// outage is a time for which the upgrader took a pod out of service.
type outage struct {
	pod  string
	from time.Time
	// version is that of the write with which it began.
	version int64
	// released: its hold was taken off.
	released bool
}

// putsBack says whether a write puts a pod back into service.
func putsBack(w Write) bool {
	return w.Ours() && w.Kind == "pods" && (w.Hold != nil && *w.Hold || w.Gate != nil && *w.Gate)
}

// idle wants no instance of a pod to begin to work before a moment.
func (e Evidence) idle(o outage, until time.Time) []Violation {
	var out []Violation
	for _, s := range e.Shifts {
		if s.Pod != o.pod || !s.From.After(o.from) || !s.From.Before(until) || !o.released && e.ranOut(o) {
			continue
		}
		out = append(out, e.violation(1, o.pod, s.From, "%s began to work at %s, while it was out of service for its upgrade since %s", o.pod, clock(s.From), clock(o.from)))
	}
	return out
}

// ranOut says whether the arbiter gave the pod duty by a record in which its lease has ended.
func (e Evidence) ranOut(o outage) bool {
	for i := range e.Rosters {
		r := &e.Rosters[i]
		if r.Version <= o.version {
			continue
		}
		leased := slices.ContainsFunc(r.Status.Leases, func(l v1alpha1.LeaseRecord) bool { return l.Replica == o.pod })
		given := slices.ContainsFunc(r.Status.Members, func(m v1alpha1.MemberRecord) bool { return m.Name == o.pod && m.Assigned })
		if given {
			return !leased
		}
	}
	return false
}

// at returns the latest version of each pod below v, by name; also of those that are gone.
func (e Evidence) at(v int64) map[string]Pod {
	m := map[string]Pod{}
	for _, p := range e.Pods {
		if p.Version < v {
			m[p.Name] = p
		}
	}
	return m
}

// floor is promise 2.
func (e Evidence) floor() []Violation {
	var out []Violation
	for _, w := range e.Writes {
		if !e.takesOut(w) {
			continue
		}
		v := e.result(w)
		pods := e.at(v)
		if !pods[w.Name].Ready || e.missing(v) {
			continue // it served nobody anyway, or nobody knows
		}
		var serving []string
		for name, p := range pods {
			if name != w.Name && p.Lease == "" && (inService(p) || e.wasInService(name, w.At.Add(-slack), v)) {
				serving = append(serving, name)
			}
		}
		slices.Sort(serving)
		if floor := e.floorAt(v); len(serving) < floor {
			out = append(out, e.violation(2, w.Name, w.At, "the upgrader took %s out of service, although beside it only %d serve (%s) and the floor is %d",
				w.Name, len(serving), strings.Join(serving, ", "), floor))
		}
	}
	return out
}

func inService(p Pod) bool { return p.Ready && !p.Gone && !p.Terminating }

// wasInService says whether a pod was in service at some time since t, before version v.
func (e Evidence) wasInService(name string, t time.Time, v int64) bool {
	served := false
	for _, p := range e.Pods {
		if p.Name != name || p.Version >= v {
			continue
		}
		if p.At.Before(t) {
			served = false
		}
		served = served || inService(p)
	}
	return served
}

func (e Evidence) floorAt(v int64) int {
	floor := 0
	for _, r := range e.Rosters {
		if r.Version < v {
			floor = r.Floor
		}
	}
	return floor
}

// partitions is promise 4.
func (e Evidence) partitions() []Violation {
	var out []Violation
	for _, w := range e.Writes {
		if !w.Ours() || w.Kind != "statefulsets" || w.Partition == nil {
			continue
		}
		v := e.result(w)
		if e.missing(v) {
			continue
		}
		i := slices.IndexFunc(e.Sets, func(s Set) bool { return s.Name == w.Name && s.Version == v })
		if i < 0 || w.Base == 0 {
			out = append(out, e.violation(4, "", w.At, "a write of partition %d to %s has no precondition", *w.Partition, w.Name))
			continue
		}
		if need, who := e.needed(e.Sets[i], w.Base); int(*w.Partition) < need {
			out = append(out, e.violation(4, who[0], w.At, "the upgrader set the partition of %s to %d, although %d replicas are neither granted nor at %s: %s",
				w.Name, *w.Partition, need, e.Sets[i].UpdateRevision, strings.Join(who, ", ")))
		}
	}
	return out
}

// needed counts the replicas that are neither granted nor at the update revision, as long
// as Kruise has not seen the template: all. A pod that went after version base of the set
// counts as what it was: a write may be decided on the pods as last read, since no
// precondition spans two objects (docs/decisions/0001-fences-are-tokens.md).
func (e Evidence) needed(s Set, base int64) (n int, who []string) {
	pods := e.at(s.Version)
	seen := s.Observed >= e.templateGeneration(s)
	for _, name := range s.names() {
		p, ok := pods[name]
		if ok && (p.Grant && p.Lease != "" && seen || seen && (!p.Gone || p.Version > base) && p.Revision == s.UpdateRevision) {
			continue
		}
		who = append(who, name)
	}
	return len(who), who
}

// templateGeneration is the generation with which s got its template.
func (e Evidence) templateGeneration(s Set) int64 {
	var template string
	generation := int64(1)
	for _, x := range e.Sets {
		if x.Name != s.Name || x.Version > s.Version {
			continue
		}
		if x.Template != template && template != "" {
			generation = x.Generation
		}
		template = x.Template
	}
	return generation
}

// MostOut is how many pods bore a lease at once at most, over all sets, after a version.
func (e Evidence) MostOut(after int64) (n int, who []string) {
	out := map[string]bool{}
	for _, p := range e.Pods {
		out[p.Name] = p.Lease != "" && !p.Gone
		names := slices.DeleteFunc(slices.Sorted(maps.Keys(out)), func(name string) bool { return !out[name] })
		if p.Version > after && len(names) > n {
			n, who = len(names), names
		}
	}
	return n, who
}

// Granted lists the replicas in the order in which they were first leased after a version.
func (e Evidence) Granted(after int64) []string {
	first := map[string]int64{}
	for i := range e.Rosters {
		for _, l := range e.Rosters[i].Status.Leases {
			if _, known := first[l.Replica]; !known && e.Rosters[i].Version > after {
				first[l.Replica] = l.Token
			}
		}
	}
	return slices.SortedFunc(maps.Keys(first), func(a, b string) int { return cmp.Compare(first[a], first[b]) })
}

// Firsts lists the pods in the order in which they first had an image.
func (e Evidence) Firsts(image string) []string {
	var names []string
	for _, p := range e.Pods {
		if p.Image == image && !slices.Contains(names, p.Name) {
			names = append(names, p.Name)
		}
	}
	return names
}

// clock is a time of day with milliseconds.
func clock(t time.Time) string { return t.Format("15:04:05.000") }
