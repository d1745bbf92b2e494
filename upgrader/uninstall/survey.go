package uninstall

import (
	"context"
	"fmt"
	"strings"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/kruise"
	"offduty.dev/upgrader/plan"
)

// ignoreNoKind takes a kind whose CRD is not there for one without objects.
func ignoreNoKind(err error) error {
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// headline says how far a plan is.
func headline(up *v1alpha1.UpgradePlan) string {
	s := fmt.Sprintf("UpgradePlan %s/%s", up.Namespace, up.Name)
	if up.Status.Progress != "" {
		s += ", " + up.Status.Progress + " upgraded"
	}
	if up.DeletionTimestamp != nil {
		s += ", is leaving"
	}
	return s + ": " + why(up)
}

// why is what a plan says of itself.
func why(up *v1alpha1.UpgradePlan) string {
	c := meta.FindStatusCondition(up.Status.Conditions, v1alpha1.ConditionReady)
	if c == nil {
		return "no upgrader has looked at it yet"
	}
	return c.Reason + ": " + c.Message
}

// effects says what deleting a plan would do.
func (u *uninstaller) effects(ctx context.Context, up *v1alpha1.UpgradePlan) ([]string, error) {
	var out []string
	for _, t := range up.Spec.Targets {
		set := &kruisev1beta1.StatefulSet{}
		err := u.k.Get(ctx, client.ObjectKey{Namespace: up.Namespace, Name: t.Name}, set)
		if err = ignoreNoKind(err); err != nil {
			return nil, fmt.Errorf("read StatefulSet %s/%s: %w", up.Namespace, t.Name, err)
		}
		out = append(out, effect(up, t.Name, set))
	}
	steps := map[string][]string{}
	for i := range up.Status.ReplicaStatuses {
		r := &up.Status.ReplicaStatuses[i]
		kind := outcome(r)
		steps[kind] = append(steps[kind], r.Name+" ("+r.Step+")")
	}
	for _, kind := range []string{finishes, takesBack, givesUp} {
		if len(steps[kind]) > 0 {
			out = append(out, "deleting it "+kind+" "+strings.Join(steps[kind], ", "))
		}
	}
	return out, nil
}

// What becomes of a replica that is on its way.
const (
	finishes  = "first finishes"
	takesBack = "takes back"
	givesUp   = "gives up, as it is,"
)

func outcome(r *v1alpha1.ReplicaStatus) string {
	switch plan.ParseStep(r.Step) {
	case plan.StepUndoing, plan.StepLeased, plan.StepDraining, plan.StepSelected:
		return takesBack
	case plan.StepReleased, plan.StepReadmitting:
		return finishes
	case plan.StepVerifying:
		if r.Lease != "" {
			return finishes
		}
	case plan.StepFailed:
		return givesUp
	case plan.StepNone, plan.StepMissing, plan.StepProtected, plan.StepUpgraded:
	}
	return ""
}

// effect says what becomes of a target.
func effect(up *v1alpha1.UpgradePlan, name string, set *kruisev1beta1.StatefulSet) string {
	if set.UID == "" {
		return "StatefulSet " + name + " is not there"
	}
	a, err := kruise.ParseArmed(set)
	switch {
	case err != nil:
		return "it cannot leave: " + err.Error()
	case a == nil || a.Plan != string(up.UID):
		return "StatefulSet " + name + " is not taken over, and stays as it is"
	}
	old := max(0, set.Status.Replicas-set.Status.UpdatedReplicas)
	was := int32(0)
	if a.Original.Partition != nil {
		was = *a.Original.Partition
	}
	s := fmt.Sprintf("StatefulSet %s is given back: partition %d becomes %d", name, kruise.Partition(set), max(was, old))
	if old > 0 {
		s += fmt.Sprintf("; %d of %d replicas are at an older revision and stay there", old, set.Status.Replicas)
	}
	return s
}

// leftovers names the sets that are armed by no plan: nobody will give them back.
func (u *uninstaller) leftovers(ctx context.Context) (bool, error) {
	plans, err := u.plans(ctx)
	if err != nil {
		return false, err
	}
	there := map[string]bool{}
	for i := range plans {
		there[string(plans[i].UID)] = true
	}
	var sets kruisev1beta1.StatefulSetList
	if err := u.k.List(ctx, &sets); ignoreNoKind(err) != nil {
		return false, fmt.Errorf("list the sets: %w", err)
	}
	any := false
	for i := range sets.Items {
		set := &sets.Items[i]
		a, err := kruise.ParseArmed(set)
		if a == nil && err == nil || a != nil && there[a.Plan] {
			continue
		}
		any = true
		u.say("StatefulSet %s is still armed, and the plan that did it is gone: apply a plan for it and delete that again, or see %q in %s.",
			types.NamespacedName{Namespace: set.Namespace, Name: set.Name}, "By hand", guide)
	}
	for i := range plans {
		any = true
		u.say("UpgradePlan %s has been applied meanwhile.", client.ObjectKeyFromObject(&plans[i]))
	}
	return any, nil
}

// duty names the rosters that give duty: without an arbiter their replicas stop working.
func (u *uninstaller) duty(ctx context.Context) (bool, error) {
	var list v1alpha1.RosterList
	if err := u.k.List(ctx, &list); ignoreNoKind(err) != nil {
		return false, fmt.Errorf("list the rosters: %w", err)
	}
	for i := range list.Items {
		r := &list.Items[i]
		u.say("Roster %s/%s goes with the manifests; on duty now: %s", r.Namespace, r.Name, orNobody(r.Status.Working))
	}
	if len(list.Items) == 0 || u.o.IgnoreRosters {
		return false, nil
	}
	u.say("Replicas that attend stop working when the arbiter goes. Let them decide on their duty by themselves first and delete")
	u.say("the rosters, or run this again with --ignore-rosters.")
	return true, nil
}

func orNobody(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}
