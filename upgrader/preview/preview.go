package preview

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/kruise"
	"offduty.dev/upgrader/observe"
	"offduty.dev/upgrader/plan"
)

// Input is what a preview is made of.
type Input struct {
	// Plan is the plan as it would be: with its defaults, and with the UID and status of the
	// one in the cluster, if there is one.
	Plan *v1alpha1.UpgradePlan
	// Snapshot of the plan's namespace.
	Snapshot *Snapshot
	// Roster of the group; nil when it cannot be seen, and then Unseen says why.
	Roster *v1alpha1.Roster
	Unseen string
	Now    time.Time
}

// Kind is what a step does.
type Kind string

// The kinds. Verify: the replica is at the new revision already, and is only checked.
const (
	Upgrade  Kind = "Upgrade"
	Verify   Kind = "Verify"
	Handover Kind = "Handover"
)

// Step is one thing that would happen. Steps of one round happen at the same time.
type Step struct {
	Round  int    `json:"round"`
	Kind   Kind   `json:"kind"`
	Target string `json:"target"`
	// Replica that is upgraded, or whose duty moves to To.
	Replica string `json:"replica"`
	To      string `json:"to,omitempty"`
	// NotInPlace says why Kruise could not update it in place; empty: it can.
	NotInPlace string `json:"notInPlace,omitempty"`
}

// Target is what would become of one set.
type Target struct {
	Name         string `json:"name"`
	FromRevision string `json:"fromRevision,omitempty"`
	// ToRevision is empty when the template that the plan would write makes a new one.
	ToRevision string        `json:"toRevision,omitempty"`
	Images     []ImageChange `json:"images,omitempty"`
	// Reason and Message say why nothing would be done to it.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// ImageChange is one container's.
type ImageChange struct {
	Container string `json:"container"`
	From      string `json:"from"`
	To        string `json:"to"`
}

// Replica is one that would be left.
type Replica struct {
	Name string `json:"name"`
	Duty string `json:"duty"`
	// NotInPlace says why Kruise could not update it in place; empty: it can.
	NotInPlace string `json:"notInPlace,omitempty"`
}

// Result is what would happen, and where it would end.
type Result struct {
	Namespace string   `json:"namespace"`
	Plan      string   `json:"plan"`
	Upgraded  int      `json:"upgraded"`
	Replicas  int      `json:"replicas"`
	Targets   []Target `json:"targets,omitempty"`
	Steps     []Step   `json:"steps,omitempty"`
	// Left are the replicas that would not be upgraded without further ado.
	Left []Replica `json:"left,omitempty"`
	// Notes say what the preview assumes.
	Notes []string `json:"notes,omitempty"`
	// Done: the plan would complete. Otherwise Reason and Message say what it would wait for.
	Done    bool   `json:"done"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Of previews a plan. Errors: a plan that is being deleted; objects that cannot be read.
func Of(ctx context.Context, in Input) (*Result, error) {
	up := in.Plan
	if up.DeletionTimestamp != nil {
		return nil, fmt.Errorf("upgradeplan %s is being deleted: there is nothing to preview", up.Name)
	}
	scene, err := observe.World(ctx, in.Snapshot, memory{}, up, 0, viewOf(up, in.Roster, in.Unseen, in.Snapshot.Pods))
	if err != nil {
		return nil, err
	}
	r := &Result{Namespace: up.Namespace, Plan: up.Name}
	m := &model{w: &scene.World, now: in.Now, next: map[string]string{}, refused: map[string]string{}}
	known := map[string]bool{}
	for i := range m.w.Targets {
		t := &m.w.Targets[i]
		m.w.Term = max(m.w.Term, t.ArmedTerm) // we stand for the upgrader that leads now
		t.Listed = true                       // it writes the status first
		for j := range t.Pods {
			known[observe.ReplicaName(up.Namespace, t.Pods[j].Name)] = true
		}
		spec := &v1alpha1.Target{Name: t.Name}
		if !t.Leaving {
			spec = &up.Spec.Targets[i]
		}
		if err := r.target(m, scene, spec, t, in.Snapshot); err != nil {
			return nil, err
		}
	}
	m.rules = rulesOf(in.Roster, scene.View.State, known)
	r.count(m)
	m.w.Policy.ProgressDeadline = 0 // time that passes here means nothing
	if up.Spec.Paused {
		m.w.Policy.Paused = false
		r.Notes = append(r.Notes, "the plan is paused; this is what happens when it is resumed")
	}
	r.Notes = append(r.Notes, limits(in.Roster, in.Now)...)
	r.finish(m, m.run())
	return r, nil
}

// count says how far the plan is before anything happens.
func (r *Result) count(m *model) {
	for i := range m.w.Targets {
		t := &m.w.Targets[i]
		r.Replicas += len(t.Pods)
		for j := range t.Pods {
			if !t.TemplatePending && plan.StepOf(m.w, t, &t.Pods[j], m.now) == plan.StepUpgraded {
				r.Upgraded++
			}
		}
	}
}

// finish says how it would end, and leaves out the steps that would only be begun.
func (r *Result) finish(m *model, d plan.Decision) {
	r.Done, r.Reason, r.Message = d.Done, string(d.Reason), d.Message
	left := map[string]bool{}
	for i := range m.w.Targets {
		t := &m.w.Targets[i]
		for j := range t.Pods {
			p := &t.Pods[j]
			if plan.StepOf(m.w, t, p, m.now) != plan.StepUpgraded || t.TemplatePending {
				left[p.Name] = true
				r.Left = append(r.Left, Replica{Name: p.Name, Duty: p.Duty.String(), NotInPlace: m.refused[p.Name]})
			}
		}
	}
	for _, s := range m.steps {
		switch {
		case s.NotInPlace != "":
			r.Reason = string(plan.NotInPlace)
			r.Message = fmt.Sprintf("Kruise cannot update %s in place, and goes no further: its revision differs in %s", s.Replica, s.NotInPlace)
		case s.Kind != Handover && left[s.Replica]:
			continue
		}
		r.Steps = append(r.Steps, s)
	}
}

// target says what would become of a set, and finds the replicas that cannot be updated in
// place.
func (r *Result) target(m *model, scene *observe.Scene, spec *v1alpha1.Target, t *plan.Target, all *Snapshot) error {
	out := Target{Name: t.Name, FromRevision: t.CurrentRevision, ToRevision: t.UpdateRevision}
	defer func() { r.Targets = append(r.Targets, out) }()
	if t.Blocked != nil {
		out.Reason, out.Message = string(t.Blocked.Reason), t.Blocked.Message
	}
	set := scene.Sets[t.Name]
	if set == nil {
		return nil
	}
	revisions := all.revisionsOf(set)
	to := revisions[t.UpdateRevision]
	if t.TemplatePending && t.TemplateBlocked == nil {
		var err error
		if to, err = written(set, spec.Images, revisions); err != nil {
			return err
		}
		out.Images, out.ToRevision = changes(set, spec.Images), ""
		if m.next[t.Name] = to.Name; revisions[to.Name] != nil {
			out.ToRevision = to.Name
		}
	}
	for j := range t.Pods {
		if why := notInPlace(revisions[t.Pods[j].Revision], to); why != "" {
			m.refused[t.Pods[j].Name] = why
		}
	}
	return nil
}

// notInPlace says why a pod cannot come from one revision to another; "": it can, or they
// are not known.
func notInPlace(from, to *appsv1.ControllerRevision) string {
	if from == nil || to == nil || from.Name == to.Name {
		return ""
	}
	return kruise.NotInPlace(from, to)
}

// written is the revision that the set gets when the plan's images are written: an earlier
// one whose template is the same, or a new one.
func written(set *kruisev1beta1.StatefulSet, images map[string]string, revisions map[string]*appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	next := set.DeepCopy()
	for i := range next.Spec.Template.Spec.Containers {
		c := &next.Spec.Template.Spec.Containers[i]
		if image, ok := images[c.Name]; ok {
			c.Image = image
		}
	}
	for _, rev := range revisions {
		if kruise.IsTemplate(next, rev) {
			return rev, nil
		}
	}
	raw, err := json.Marshal(map[string]any{"spec": map[string]any{"template": next.Spec.Template}})
	if err != nil {
		return nil, fmt.Errorf("encode the template of StatefulSet %s: %w", set.Name, err)
	}
	rev := &appsv1.ControllerRevision{}
	rev.Namespace, rev.Name, rev.Data.Raw = set.Namespace, set.Name+"-new", raw
	return rev, nil
}

func changes(set *kruisev1beta1.StatefulSet, images map[string]string) []ImageChange {
	var out []ImageChange
	for _, c := range set.Spec.Template.Spec.Containers {
		if image, ok := images[c.Name]; ok && image != c.Image {
			out = append(out, ImageChange{Container: c.Name, From: c.Image, To: image})
		}
	}
	return out
}

// Merge is the plan as it would be after applying a file: wanted, with the identity and the
// status of the live plan; live is nil when there is none.
func Merge(wanted, live *v1alpha1.UpgradePlan, now time.Time) *v1alpha1.UpgradePlan {
	up := wanted.DeepCopy()
	if live == nil {
		up.UID, up.CreationTimestamp, up.Generation = "preview", metav1.NewTime(now), 1
		up.Status = v1alpha1.UpgradePlanStatus{}
		return up
	}
	spec := up.Spec
	live.DeepCopyInto(up)
	up.Spec = spec
	up.Generation++ // so that what the present generation wrote counts as written by an earlier one
	return up
}
