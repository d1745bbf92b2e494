package harness

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appspub "github.com/openkruise/kruise-api/apps/pub"
	appsv1 "k8s.io/api/apps/v1"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/docs/protocol"
)

// ErrUnfit is for a history that the model of the protocol says nothing about.
var ErrUnfit = errors.New("the model does not cover this history")

// Behaves checks that what happened to the plans of that name, one after the other, each from
// its beginning to its end, is a behaviour of the model in docs/protocol. Errors: ErrUnfit,
// with what the model does not know; protocol.ErrTooMany; *protocol.Rejection, which tells the
// story.
func (e Evidence) Behaves(plan string) (protocol.Summary, error) {
	traces, skipped, err := e.traces(plan)
	sum := protocol.Summary{Skipped: skipped}
	for i := 0; i < len(traces) && err == nil; i++ {
		var one protocol.Summary
		one, err = protocol.Protocol.Accepts(traces[i])
		sum.Events, sum.Touches, sum.Most = sum.Events+one.Events, sum.Touches+one.Touches, max(sum.Most, one.Most)
	}
	return sum, err
}

// Traces are the histories of the plans of that name as the model sees them. Where replicas
// come or go, or versions are missing, a history is cut in two.
func (e Evidence) Traces(plan string) ([]protocol.Trace, error) {
	traces, _, err := e.traces(plan)
	return traces, err
}

func (e Evidence) traces(plan string) (traces []protocol.Trace, skipped int, err error) {
	var uids []string
	for _, p := range e.Plans {
		if p.Name == plan && !slices.Contains(uids, p.UID) {
			uids = append(uids, p.UID)
		}
	}
	for _, uid := range uids {
		of, left, err := e.retell(uid)
		if err != nil {
			return nil, 0, err
		}
		traces, skipped = append(traces, of...), skipped+left
	}
	if len(traces) == 0 {
		return nil, 0, fmt.Errorf("%w: the arbiter never knew a plan %s while nothing changed that cannot be retold", ErrUnfit, plan)
	}
	return traces, skipped, nil
}

// all retells the life of one plan.
func (r *retelling) all() error {
	if err := r.cast(); err != nil {
		return err
	}
	for _, v := range r.versions() {
		if v.number >= r.stretch.to {
			return nil
		}
		if err := r.tell(v); err != nil {
			return err
		}
		if r.now.Left {
			return nil
		}
	}
	return nil
}

// retelling turns versions of objects into what the model can see.
type retelling struct {
	e       Evidence
	uid     string // the plan's
	stretch stretch
	sets    []string
	pods    []string
	trace   protocol.Trace

	begun   bool
	skipped int              // versions after the cut and before the trace begins
	before  []protocol.Sight // some, until it begins
	others  map[string]bool  // pods that are there, and are none of the replicas
	sight   map[string]*Set  // the latest version of each set

	now       protocol.Sight
	holder    int64            // the token of the plan's holder
	terms     map[int64]uint8  // numbers of leaders: the order of their terms
	templates map[string]uint8 // numbers of revisions, by set and template
	revisions map[string]uint8 // and by name
	next      map[string]uint8 // the last number of each set
	uids      map[string]string
	tokens    map[int64]uint16 // their order
}

// version is one of any object.
type version struct {
	number int64
	pod    *Pod
	set    *Set
	plan   *Plan
	roster *Roster
}

// versions are all of them, in the order of etcd.
func (r *retelling) versions() []version {
	var out []version
	for i := range r.e.Pods {
		out = append(out, version{number: r.e.Pods[i].Version, pod: &r.e.Pods[i]})
	}
	for i := range r.e.Sets {
		out = append(out, version{number: r.e.Sets[i].Version, set: &r.e.Sets[i]})
	}
	for i := range r.e.Plans {
		out = append(out, version{number: r.e.Plans[i].Version, plan: &r.e.Plans[i]})
	}
	for i := range r.e.Rosters {
		out = append(out, version{number: r.e.Rosters[i].Version, roster: &r.e.Rosters[i]})
	}
	slices.SortStableFunc(out, func(a, b version) int { return cmp.Compare(a.number, b.number) })
	return out
}

// cast finds who takes part, and numbers what has names.
func (r *retelling) cast() error {
	if err := r.count(); err != nil {
		return err
	}
	if err := r.countTerms(); err != nil {
		return err
	}
	r.next = map[string]uint8{}
	for _, name := range r.sets {
		if err := r.castSet(name); err != nil {
			return err
		}
	}
	if len(r.pods) > protocol.MaxReplicas {
		return fmt.Errorf("%w: %d replicas", ErrUnfit, len(r.pods))
	}
	return nil
}

// castSet numbers the replicas of a set, and its revisions by the order of its templates.
// Which revision a template is shows when Kruise has observed it.
func (r *retelling) castSet(name string) error {
	names := r.stretch.names[name]
	for _, s := range r.e.Sets {
		if s.Name != name {
			continue
		}
		if s.Gone {
			return fmt.Errorf("%w: set %s was removed", ErrUnfit, name)
		}
		if r.templates[name+s.Template] == 0 {
			r.next[name]++
			r.templates[name+s.Template] = r.next[name]
		}
		if s.Observed == s.Generation && s.UpdateRevision != "" {
			r.revisions[s.UpdateRevision] = r.templates[name+s.Template]
		}
	}
	if names == nil {
		return fmt.Errorf("%w: there was no set %s", ErrUnfit, name)
	}
	r.pods = append(r.pods, names...)
	r.trace.Sets = append(r.trace.Sets, len(names))
	return nil
}

// tell adds one version to the trace.
func (r *retelling) tell(v version) error {
	e := protocol.Event{Pod: -1, Set: -1}
	switch {
	case v.pod != nil:
		if e.Pod = slices.Index(r.pods, v.pod.Name); e.Pod < 0 {
			r.other(v.pod)
			return nil
		}
		before := r.now.Replicas[e.Pod]
		r.pod(&r.now.Replicas[e.Pod], v.pod)
		e.By = r.author(v.pod, before, r.now.Replicas[e.Pod])
		e.When, e.Text = clock(v.pod.At), fmt.Sprintf("pod %s version %d%s: %s", v.pod.Name, v.number, by(e.By), Describe(*v.pod))
	case v.set != nil:
		if e.Set = slices.Index(r.sets, v.set.Name); e.Set < 0 {
			return nil
		}
		e.By = r.setAuthor(v.set)
		r.sight[v.set.Name] = v.set
		if err := r.set(e.Set, v.set); err != nil {
			return err
		}
		e.When, e.Text = clock(v.set.At), fmt.Sprintf("set %s version %d%s: partition %d, generation %d observed %d, armed %t",
			v.set.Name, v.number, by(e.By), v.set.Partition, v.set.Generation, v.set.Observed, v.set.Armed != "")
	case v.plan != nil:
		if v.plan.UID != r.uid || r.now.Deleted == v.plan.Deleting || v.plan.Gone {
			return nil
		}
		r.now.Deleted = v.plan.Deleting
		e.When, e.Text = clock(v.plan.At), fmt.Sprintf("plan %s is being deleted", v.plan.Name)
	case v.roster != nil:
		if err := r.roster(v.roster); err != nil {
			return err
		}
		e.When, e.Text = clock(v.roster.At), fmt.Sprintf("roster %s version %d: %s", v.roster.Name, v.number, r.leases(v.roster))
	}
	if !r.begun {
		return r.begin(v)
	}
	e.Sight = r.now
	r.trace.Events = append(r.trace.Events, e)
	return nil
}

func by(a protocol.Author) string {
	switch a {
	case protocol.Upgrader:
		return ", written by the upgrader"
	case protocol.Foreign:
		return ", written by somebody else"
	case protocol.Unknown:
		return ", of which the audit log does not say who wrote it"
	case protocol.System:
	}
	return ""
}

func (r *retelling) pod(v *protocol.Replica, p *Pod) {
	r.uids[p.Name] = p.UID
	if p.Gone {
		*v = protocol.Replica{Phase: v.Phase, Token: v.Token}
		return
	}
	v.Rev, v.Hold, v.Grant = r.revisions[p.Revision], p.Hold, p.Grant
	v.State = map[string]uint8{"PreparingUpdate": protocol.Preparing, "Updating": protocol.Updating, "Updated": protocol.Updated}[p.State]
	v.GateClosed = p.Gate == "False"
	r.trace.Gate = r.trace.Gate || p.Gate != ""
	v.Verified = r.revisions[p.Verified]
	v.Note, v.Fence = r.tokens[noted(p)], r.tokens[number(p.Fenced)]
}

// noted is the token in "<id>/<token>".
func noted(p *Pod) int64 { return number(p.Lease[strings.LastIndexByte(p.Lease, '/')+1:]) }

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// count numbers all tokens by their order: only that means anything.
func (r *retelling) count() error {
	seen := map[int64]bool{}
	for i := range r.e.Pods {
		seen[noted(&r.e.Pods[i])], seen[number(r.e.Pods[i].Fenced)] = true, true
	}
	for i := range r.e.Rosters {
		for _, l := range r.e.Rosters[i].Status.Leases {
			seen[l.Token] = true
		}
	}
	delete(seen, 0)
	if len(seen) > 1<<15 {
		return fmt.Errorf("%w: %d tokens", ErrUnfit, len(seen))
	}
	r.tokens = map[int64]uint16{}
	for i, n := range slices.Sorted(maps.Keys(seen)) {
		r.tokens[n] = uint16(i + 1)
	}
	return nil
}

func (r *retelling) set(j int, s *Set) error {
	v := &r.now.Sets[j]
	v.Armed, v.Template, v.Current = s.Armed != "", r.templates[s.Name+s.Template], r.revisions[s.CurrentRevision]
	v.Partition = partition(s.Partition)
	if s.Armed == "" {
		return nil
	}
	a, err := armedBy(s)
	if err != nil {
		return err
	}
	if a.Plan != r.uid && r.begun {
		return fmt.Errorf("%w: set %s belongs to another plan", ErrUnfit, s.Name)
	}
	v.Term = r.terms[a.Term]
	return nil
}

// armed is what a set says of who has it.
type armed struct {
	Plan     string `json:"plan"`
	Term     int64  `json:"term"`
	Proven   string `json:"proven"`
	Original struct {
		Partition *int32 `json:"partition"`
	} `json:"original"`
}

func armedBy(s *Set) (a armed, err error) {
	if err := json.Unmarshal([]byte(s.Armed), &a); err != nil {
		return a, fmt.Errorf("read what set %s says of who has it: %w", s.Name, err)
	}
	return a, nil
}

// countTerms numbers the leaders by their terms. One that began and was killed before it had
// adopted may have left its term on a set.
func (r *retelling) countTerms() error {
	seen := map[int64]bool{}
	for i := range r.e.Rosters {
		for _, h := range r.e.Rosters[i].Status.Holders {
			if h.Holder == r.uid {
				seen[h.Term] = true
			}
		}
	}
	for i := range r.e.Sets {
		s := &r.e.Sets[i]
		if s.Armed == "" {
			continue
		}
		a, err := armedBy(s)
		if err != nil {
			return err
		}
		if a.Plan == r.uid {
			seen[a.Term] = true
		}
	}
	for i, term := range slices.Sorted(maps.Keys(seen)) {
		r.terms[term] = uint8(i)
	}
	return nil
}

// roster takes over the arbiter's record.
func (r *retelling) roster(x *Roster) error {
	if x.Status.Frozen {
		return fmt.Errorf("%w: the arbiter lost its record", ErrUnfit)
	}
	if len(x.Status.ForceReleases) > 0 {
		return fmt.Errorf("%w: a lease was released by force", ErrUnfit)
	}
	r.holders(x)
	for i, name := range r.pods {
		v := &r.now.Replicas[i]
		if err := r.lease(v, name, x); err != nil {
			return err
		}
		for _, m := range x.Status.Members {
			if m.Name == name {
				r.duty(v, m, x.Spec.Observed != nil)
			}
		}
	}
	return nil
}

// lease on a replica.
func (r *retelling) lease(v *protocol.Replica, name string, x *Roster) error {
	v.Phase, v.Token = protocol.NoLease, 0
	i := slices.IndexFunc(x.Status.Leases, func(l v1alpha1.LeaseRecord) bool { return l.Replica == name })
	if i < 0 {
		return nil
	}
	l := &x.Status.Leases[i]
	if l.Holder != r.uid && r.begun {
		return fmt.Errorf("%w: %s is leased by another plan", ErrUnfit, name)
	}
	v.Phase = map[string]uint8{"Leased": protocol.Leased, "Pinned": protocol.Pinned, "Expired": protocol.Expired}[l.Phase]
	v.Token = r.tokens[l.Token]
	return nil
}

// duty of a member: one whose duty is not known stays what it was. One whose duty was taken counts
// as working until it is idle; that is said of its name, also when its pod is a new one by then,
// which was never told.
func (r *retelling) duty(v *protocol.Replica, m v1alpha1.MemberRecord, observed bool) {
	switch {
	case m.Duty == "Idle" || m.UID != r.uids[m.Name] || v.Rev == 0:
		v.Working = false
	case m.Assigned || observed && m.Duty == "Working":
		v.Working = true
	}
}

func (r *retelling) holders(x *Roster) {
	i := slices.IndexFunc(x.Status.Holders, func(h v1alpha1.HolderRecord) bool { return h.Holder == r.uid })
	if i < 0 {
		r.now.Left = r.holder != 0
		return
	}
	r.holder = x.Status.Holders[i].Token
	r.now.Lead = r.terms[x.Status.Holders[i].Term]
}

func (r *retelling) leases(x *Roster) string {
	words := []string{}
	for _, l := range x.Status.Leases {
		words = append(words, fmt.Sprintf("%s %s (%d)", l.Replica, l.Phase, l.Token))
	}
	return fmt.Sprintf("working: %s; leases: %s", x.Status.Working, strings.Join(words, ", "))
}

// author says who made a version of a pod that was as before: the upgrader, if the audit log
// has a write of its that this is the result of. A write that changes nothing makes no
// version; the next one is somebody else's then.
func (r *retelling) author(p *Pod, before, after protocol.Replica) protocol.Author {
	for _, w := range r.e.Writes {
		if w.Kind == "pods" && w.Name == p.Name && w.Ours() && w.Base != 0 && r.e.result(w) == p.Version && explains(w, before, after) {
			return protocol.Upgrader
		}
	}
	if before == after {
		return protocol.System
	}
	for _, w := range r.e.Writes {
		if w.Kind == "pods" && w.Name == p.Name && !w.Ours() && explains(w, before, after) && p.At.Sub(w.At).Abs() < 5*time.Second {
			return protocol.System
		}
	}
	return protocol.Unknown // of an upgrader that was killed meanwhile the audit log has no answer
}

// explains says whether everything that changed is in a write.
func explains(w Write, before, after protocol.Replica) bool {
	for _, f := range []struct {
		changed bool
		key     string
	}{
		{before.Hold != after.Hold, v1alpha1.HoldLabel},
		{before.Grant != after.Grant, v1alpha1.GrantLabel},
		{before.Note != after.Note, v1alpha1.LeaseAnnotation},
		{before.Fence != after.Fence, v1alpha1.FencedAnnotation},
		{before.Verified != after.Verified, v1alpha1.VerifiedAnnotation},
		{before.GateClosed != after.GateClosed, v1alpha1.InServiceGate},
		{before.State != after.State, appspub.LifecycleStateKey},
		{before.Rev != after.Rev, appsv1.ControllerRevisionHashLabelKey},
	} {
		if f.changed && !strings.Contains(w.Body, f.key) {
			return false
		}
	}
	return true
}

func (r *retelling) setAuthor(s *Set) protocol.Author {
	for _, w := range r.e.Writes {
		if w.Kind == "statefulsets" && w.Name == s.Name && w.Ours() && w.Base != 0 && r.e.result(w) == s.Version {
			return protocol.Upgrader
		}
	}
	j := slices.Index(r.sets, s.Name)
	v := r.now.Sets[j]
	if v.Template != r.templates[s.Name+s.Template] || v.Partition != partition(s.Partition) || v.Armed != (s.Armed != "") {
		return protocol.Foreign // Kruise writes nothing but the status
	}
	if before := r.sight[s.Name]; before != nil && before.Armed != s.Armed {
		return protocol.Unknown // as of a pod
	}
	return protocol.System
}
