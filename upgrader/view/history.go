package view

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/kruise"
)

// Revision is one that Kruise keeps of a target.
type Revision struct {
	Target string `json:"target"`
	// Number grows with each change of the template; going back to an earlier template
	// gives that one a new number.
	Number  int64             `json:"revision"`
	Name    string            `json:"name"`
	Images  map[string]string `json:"images"`
	Created metav1.Time       `json:"created"`
	// Pods at this revision.
	Pods int `json:"pods"`
	// Current and Update: what the set's status says.
	Current bool `json:"current,omitempty"`
	Update  bool `json:"update,omitempty"`

	object *appsv1.ControllerRevision
}

// History lists the revisions of a plan's targets, in the order of the plan, oldest first.
// It needs no set: revisions and pods name their owner. Errors: a revision that cannot be
// read.
func History(up *v1alpha1.UpgradePlan, revisions []appsv1.ControllerRevision, pods []corev1.Pod) ([]Revision, error) {
	count := map[string]int{}
	for i := range pods {
		count[kruise.Revision(&pods[i])]++
	}
	var out []Revision
	for _, t := range up.Spec.Targets {
		begin := len(out)
		for i := range revisions {
			if ownedBySet(&revisions[i], t.Name) {
				images, err := kruise.Images(&revisions[i])
				if err != nil {
					return nil, err
				}
				out = append(out, Revision{
					Target: t.Name, Number: revisions[i].Revision, Name: revisions[i].Name, Images: images,
					Created: revisions[i].CreationTimestamp, Pods: count[revisions[i].Name], object: &revisions[i],
				})
			}
		}
		own := out[begin:]
		slices.SortFunc(own, func(a, b Revision) int { return cmp.Compare(a.Number, b.Number) })
		markRevisions(up, t.Name, own)
	}
	return out, nil
}

// ownedBySet says whether o belongs to the Advanced StatefulSet of that name.
func ownedBySet(o metav1.Object, set string) bool {
	c := metav1.GetControllerOf(o)
	return c != nil && c.Kind == "StatefulSet" && strings.HasPrefix(c.APIVersion, "apps.kruise.io/") && c.Name == set
}

// markRevisions says which revisions the plan's status names. Before the upgrader has told,
// the newest one is the update revision: it is that of the template.
func markRevisions(up *v1alpha1.UpgradePlan, target string, own []Revision) {
	i := slices.IndexFunc(up.Status.Targets, func(t v1alpha1.TargetStatus) bool { return t.Name == target })
	told := i >= 0 && up.Status.Targets[i].UpdateRevision != ""
	for j := range own {
		if told {
			own[j].Current = own[j].Name == up.Status.Targets[i].CurrentRevision
			own[j].Update = own[j].Name == up.Status.Targets[i].UpdateRevision
			continue
		}
		own[j].Update = j == len(own)-1
	}
}

// PrintHistory writes revisions for people.
func PrintHistory(out io.Writer, revisions []Revision, now time.Time) error {
	w := table(out)
	fmt.Fprintf(w, "TARGET\tREVISION\tNAME\tIMAGES\tPODS\tAGE\t\n")
	for i := range revisions {
		r := &revisions[i]
		var marks []string
		if r.Current {
			marks = append(marks, "current")
		}
		if r.Update {
			marks = append(marks, "update")
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%s\t%s\n", r.Target, r.Number, r.Name, images(r.Images), r.Pods, age(&r.Created, now), strings.Join(marks, ", "))
	}
	return w.Flush()
}

func images(m map[string]string) string {
	var s []string
	for _, c := range slices.Sorted(maps.Keys(m)) {
		s = append(s, c+"="+m[c])
	}
	return strings.Join(s, ", ")
}

// Undone is what spec.targets[Index].images must become.
type Undone struct {
	Index    int
	Target   string
	Images   map[string]string
	Revision Revision
}

// Undo says what to write to a plan so that its targets go back to an earlier revision:
// number to, or with 0 the one before that which the plan asks for now. only names one
// target; with several targets a number needs it, as each set counts for itself.
//
// Errors say why it cannot be done, and what to do instead.
func Undo(up *v1alpha1.UpgradePlan, revisions []Revision, only string, to int64) ([]Undone, error) {
	if to != 0 && only == "" && len(up.Spec.Targets) > 1 {
		return nil, fmt.Errorf("plan %s has %d targets, and each counts its revisions for itself: name one with --target", up.Name, len(up.Spec.Targets))
	}
	var out []Undone
	for i, t := range up.Spec.Targets {
		if only != "" && t.Name != only {
			continue
		}
		own := slices.DeleteFunc(slices.Clone(revisions), func(r Revision) bool { return r.Target != t.Name })
		u, err := undoTarget(t, own, to)
		if err != nil {
			return nil, err
		}
		u.Index = i
		out = append(out, u)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("plan %s has no target %s", up.Name, only)
	}
	return out, nil
}

func undoTarget(t v1alpha1.Target, own []Revision, to int64) (Undone, error) {
	update := slices.IndexFunc(own, func(r Revision) bool { return r.Update })
	if update < 0 {
		return Undone{}, fmt.Errorf("target %s has no revisions yet: nothing can be undone", t.Name)
	}
	i, err := pick(t, own, update, to)
	if err != nil {
		return Undone{}, err
	}
	if len(t.Images) == 0 {
		return Undone{}, fmt.Errorf("target %s follows its set's template, so that the plan has no images to take back: "+
			"put the earlier ones (%s) back where the set's manifest comes from (Git, a Helm release), and the plan rolls them out",
			t.Name, images(own[i].Images))
	}
	if why := kruise.NotInPlace(own[update].object, own[i].object); why != "" {
		return Undone{}, fmt.Errorf("revision %d of target %s differs in %s, which cannot be changed in place: apply the set's earlier manifest without the plan", own[i].Number, t.Name, why)
	}
	u := Undone{Target: t.Name, Images: maps.Clone(t.Images), Revision: own[i]}
	for container, image := range own[i].Images {
		_, named := t.Images[container]
		if named || own[update].Images[container] != image {
			u.Images[container] = image
		}
	}
	return u, nil
}

// pick finds the revision to go back to.
func pick(t v1alpha1.Target, own []Revision, update int, to int64) (int, error) {
	if to == 0 {
		if pending(t, own[update]) {
			return update, nil // what was asked for last was never written
		}
		if update == 0 {
			return 0, fmt.Errorf("target %s has no revision before %d: nothing can be undone", t.Name, own[update].Number)
		}
		return update - 1, nil
	}
	i := slices.IndexFunc(own, func(r Revision) bool { return r.Number == to })
	if i < 0 {
		numbers := make([]string, 0, len(own))
		for _, r := range own {
			numbers = append(numbers, fmt.Sprint(r.Number))
		}
		return 0, fmt.Errorf("target %s has no revision %d: it has %s", t.Name, to, strings.Join(numbers, ", "))
	}
	return i, nil
}

func pending(t v1alpha1.Target, r Revision) bool {
	for container, image := range t.Images {
		if r.Images[container] != image {
			return true
		}
	}
	return false
}

// PrintUndone says what was written.
func PrintUndone(out io.Writer, plan string, undone []Undone, note string, now time.Time) error {
	for i := range undone {
		r := &undone[i].Revision
		if _, err := fmt.Fprintf(out, "%s: target %s goes back to revision %d of %s ago (%s)%s\n", plan, undone[i].Target, r.Number,
			age(&r.Created, now), images(undone[i].Images), note); err != nil {
			return err
		}
	}
	return nil
}
