package harness

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"offduty.dev/docs/protocol"
)

// stretch is a part of a history that the model covers: its replicas stay the same, and no
// version is missing. Versions from one on, below another.
type stretch struct {
	from, to int64
	// names are those of each set's replicas.
	names map[string][]string
}

// stretches cuts the history of some sets where their replicas change and where versions are
// missing.
func (e Evidence) stretches(sets []string) []stretch {
	// Nothing is known of [to, from) of each cut.
	var cuts []stretch
	for _, g := range e.Gaps {
		cuts = append(cuts, stretch{to: g.After + 1, from: g.To + 1})
	}
	last := map[string][]string{}
	for _, s := range e.Sets {
		if names := s.names(); slices.Contains(sets, s.Name) && !s.Gone {
			if before, ok := last[s.Name]; ok && !slices.Equal(before, names) {
				cuts = append(cuts, stretch{to: s.Version, from: s.Version})
			}
			last[s.Name] = names
		}
	}
	slices.SortStableFunc(cuts, func(a, b stretch) int { return cmp.Compare(a.to, b.to) })
	var out []stretch
	var from int64
	for _, c := range append(cuts, stretch{to: math.MaxInt64}) {
		if c.to > from {
			out = append(out, stretch{from: from, to: c.to, names: e.namesBefore(c.to)})
		}
		from = max(from, c.from)
	}
	return out
}

// namesBefore are the names of each set's replicas by its last version below v.
func (e Evidence) namesBefore(v int64) map[string][]string {
	names := map[string][]string{}
	for _, s := range e.Sets {
		if s.Version < v && !s.Gone {
			names[s.Name] = s.names()
		}
	}
	return names
}

// earlier is how many of the sights before a cut Kruise may still go by after it.
const earlier = 8

// begin starts the trace with the first version of the stretch that has the plan's holder.
// After a cut nobody knows what was under way before: it starts when nothing is.
func (r *retelling) begin(v version) error {
	if r.stretch.from > 0 {
		r.before = append(r.before, r.now)
		r.before = r.before[max(0, len(r.before)-earlier):]
	}
	switch {
	case r.holder == 0 || v.number < r.stretch.from:
		return nil
	case r.stretch.from > 0 && !r.quiet():
		r.skipped++
		return nil
	}
	r.begun, r.trace.Start, r.trace.Earlier = true, r.now, r.before
	for j := range r.trace.Sets {
		set := r.sight[r.sets[j]]
		if set == nil {
			continue
		}
		if set.Armed == "" {
			r.trace.Original[j] = r.now.Sets[j].Partition
			continue
		}
		a, err := armedBy(set)
		if err != nil {
			return err
		}
		if a.Original.Partition != nil {
			r.trace.Original[j] = partition(*a.Original.Partition)
		}
		if r.stretch.from > 0 {
			r.trace.Finished[j] = r.revisions[a.Proven]
		}
	}
	return nil
}

// quiet says whether nothing is under way, as far as can be seen: every replica is there and
// held, none is leased or bears marks, and there is no other pod of its set.
func (r *retelling) quiet() bool {
	if len(r.others) > 0 {
		return false
	}
	for j, name := range r.sets {
		s := r.sight[name]
		if s == nil || s.Observed != s.Generation || !r.now.Sets[j].Armed {
			return false
		}
	}
	for i := range r.pods {
		v := &r.now.Replicas[i]
		if v.Rev == 0 || !v.Hold || v.Grant || v.State != protocol.Normal || v.Note != 0 || v.GateClosed || v.Phase != protocol.NoLease {
			return false
		}
	}
	return true
}

// other notes a pod of one of the sets that is none of its replicas, as long as it is there.
func (r *retelling) other(p *Pod) {
	if !slices.Contains(r.sets, p.Name[:max(0, strings.LastIndexByte(p.Name, '-'))]) {
		return
	}
	keep(r.others, p.Name, true, p.Gone)
}

func partition(p int32) uint8 {
	if p >= 0 && p < int32(protocol.Parked) {
		return uint8(p)
	}
	return protocol.Parked
}

// retell tells the life of one plan, stretch by stretch.
func (e Evidence) retell(uid string) (traces []protocol.Trace, skipped int, err error) {
	targets, err := e.targets(uid)
	if err != nil {
		return nil, 0, err
	}
	for _, s := range e.stretches(targets) {
		r := retelling{
			e: e, uid: uid, sets: targets, stretch: s, revisions: map[string]uint8{}, templates: map[string]uint8{},
			terms: map[int64]uint8{}, uids: map[string]string{}, others: map[string]bool{}, sight: map[string]*Set{},
		}
		if err := r.all(); err != nil {
			return nil, 0, err
		}
		if r.begun {
			traces = append(traces, r.trace)
		}
		skipped += r.skipped
	}
	return traces, skipped, nil
}

// targets are the sets of a plan.
func (e Evidence) targets(uid string) (sets []string, err error) {
	for _, p := range e.Plans {
		switch {
		case p.UID != uid || p.Gone:
		case sets == nil:
			sets = p.Targets
		case !slices.Equal(sets, p.Targets):
			return nil, fmt.Errorf("%w: the targets of plan %s changed", ErrUnfit, p.Name)
		}
	}
	if len(sets) > protocol.MaxSets {
		return nil, fmt.Errorf("%w: %d targets", ErrUnfit, len(sets))
	}
	return sets, nil
}
