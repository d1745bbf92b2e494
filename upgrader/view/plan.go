package view

import (
	"fmt"
	"strings"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// State is the verdict on a plan. The set is closed; each has an exit code.
type State string

// The states. A plan whose status speaks of an earlier generation is UnderWay, whatever
// that status says.
const (
	// Complete: every replica is upgraded and verified.
	Complete State = "Complete"
	// UnderWay: it goes on by itself, or waits for something that may come by itself.
	UnderWay State = "UnderWay"
	// Stalled: it does not go on unless somebody does something, or nothing has moved for
	// progressDeadlineSeconds.
	Stalled State = "Stalled"
	// Paused: spec.paused is set and no replica is on its way any more.
	Paused State = "Paused"
)

// Exit codes of "kubectl offduty status", beside 0 for Complete and 1 for any error.
const (
	ExitUnderWay = 3
	ExitStalled  = 4
	ExitPaused   = 5
	ExitNotFound = 6
)

// ExitCode is what a pipeline gets to see of a state.
func (s State) ExitCode() int {
	switch s {
	case Complete:
		return 0
	case UnderWay:
		return ExitUnderWay
	case Stalled:
		return ExitStalled
	case Paused:
		return ExitPaused
	}
	return 1
}

// NotObserved is the reason while the status speaks of an earlier generation of the plan.
const NotObserved plan.Reason = "NotObserved"

// Plan is the view of one UpgradePlan.
type Plan struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	State     State  `json:"state"`
	ExitCode  int    `json:"exitCode"`
	Reason    string `json:"reason"`
	Message   string `json:"message,omitempty"`
	// Going says what goes on all the same while the plan is Stalled.
	Going    string   `json:"going,omitempty"`
	Upgraded int32    `json:"upgraded"`
	Replicas int32    `json:"replicas"`
	Targets  []Target `json:"targets,omitempty"`
}

// Target is the view of one Advanced StatefulSet.
type Target struct {
	Name            string `json:"name"`
	CurrentRevision string `json:"currentRevision,omitempty"`
	UpdateRevision  string `json:"updateRevision,omitempty"`
	// Partition on the set; nil: there is no set, or it parks.
	Partition *int32    `json:"partition,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Message   string    `json:"message,omitempty"`
	Upgraded  int32     `json:"upgraded"`
	Replicas  int32     `json:"replicas"`
	Pods      []Replica `json:"pods,omitempty"`
}

// Replica is the view of one replica.
type Replica struct {
	Name     string       `json:"name"`
	Duty     string       `json:"duty,omitempty"`
	Step     string       `json:"step,omitempty"`
	Revision string       `json:"revision,omitempty"`
	Lease    string       `json:"lease,omitempty"`
	Reason   string       `json:"reason,omitempty"`
	Message  string       `json:"message,omitempty"`
	Since    *metav1.Time `json:"since,omitempty"`
}

// Of returns the view of a plan.
func Of(up *v1alpha1.UpgradePlan) Plan {
	p := Plan{Namespace: up.Namespace, Name: up.Name, Upgraded: up.Status.UpgradedReplicas, Replicas: up.Status.Replicas}
	p.State, p.Reason, p.Message = verdict(up)
	p.ExitCode = p.State.ExitCode()
	if c := meta.FindStatusCondition(up.Status.Conditions, v1alpha1.ConditionProgressing); p.State == Stalled && c != nil && c.Status == metav1.ConditionTrue {
		p.Going = c.Message
	}
	index := make(map[string]int, len(up.Status.Targets))
	for i := range up.Status.Targets {
		t := &up.Status.Targets[i]
		index[t.Name] = i
		v := Target{
			Name: t.Name, CurrentRevision: t.CurrentRevision, UpdateRevision: t.UpdateRevision,
			Reason: t.Reason, Message: t.Message, Upgraded: t.UpgradedReplicas, Replicas: t.Replicas,
		}
		if t.Partition != nil && *t.Partition != plan.Parked {
			v.Partition = t.Partition
		}
		p.Targets = append(p.Targets, v)
	}
	for _, r := range up.Status.ReplicaStatuses {
		if i, ok := index[targetOf(r.Name)]; ok {
			p.Targets[i].Pods = append(p.Targets[i].Pods, Replica(r))
		}
	}
	return p
}

// targetOf is the name of the set to which a replica belongs: "<set>-<ordinal>".
func targetOf(replica string) string { return replica[:max(strings.LastIndexByte(replica, '-'), 0)] }

// verdict says how a plan stands. It believes nothing that the status says of an earlier
// generation of the plan.
func verdict(up *v1alpha1.UpgradePlan) (State, string, string) {
	ready := meta.FindStatusCondition(up.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || up.Status.ObservedGeneration != up.Generation {
		return UnderWay, string(NotObserved), fmt.Sprintf("the upgrader has not yet told of generation %d of the plan", up.Generation)
	}
	state := UnderWay
	switch {
	case up.DeletionTimestamp != nil:
	case ready.Status == metav1.ConditionTrue:
		state = Complete
	case meta.IsStatusConditionTrue(up.Status.Conditions, v1alpha1.ConditionStalled):
		state = Stalled
	case up.Spec.Paused && !moving(up):
		state = Paused
	}
	return state, ready.Reason, ready.Message
}

// moving says whether a replica is between its lease and its return to duty.
func moving(up *v1alpha1.UpgradePlan) bool {
	for i := range up.Status.ReplicaStatuses {
		switch plan.ParseStep(up.Status.ReplicaStatuses[i].Step) {
		case plan.StepUndoing, plan.StepLeased, plan.StepDraining, plan.StepSelected,
			plan.StepReleased, plan.StepVerifying, plan.StepReadmitting:
			return true
		case plan.StepNone, plan.StepMissing, plan.StepProtected, plan.StepFailed, plan.StepUpgraded:
		}
	}
	return false
}

// Followed names the targets whose template is not the plan's own: what stands there may be
// newer than all that the plan's status tells.
func Followed(up *v1alpha1.UpgradePlan) []string {
	var names []string
	for _, t := range up.Spec.Targets {
		if len(t.Images) == 0 {
			names = append(names, t.Name)
		}
	}
	return names
}

// Doubt takes back that a plan is complete when the set that it follows has a template which
// the plan's status does not speak of yet.
func (p *Plan) Doubt(set *kruisev1beta1.StatefulSet) {
	for i := range p.Targets {
		t := &p.Targets[i]
		seen := set.Status.ObservedGeneration == set.Generation && set.Status.UpdateRevision == t.UpdateRevision
		if p.State == Complete && t.Name == set.Name && !seen {
			p.State, p.ExitCode, p.Reason = UnderWay, ExitUnderWay, string(NotObserved)
			p.Message = "the upgrader has not yet told of the latest change of StatefulSet " + set.Name
		}
	}
}

// Doubted says whether Doubt took something back; the plan itself may never change again.
func (p *Plan) Doubted() bool { return p.Reason == string(NotObserved) }
