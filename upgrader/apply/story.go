package apply

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// Recorder tells people the story, as events.
type Recorder interface {
	// Plan records an event on the plan. Kubernetes joins events that differ in their
	// message alone, and keeps that of the first: about, a set or pod, tells them apart.
	Plan(up *v1alpha1.UpgradePlan, about client.Object, warning bool, reason, message string)
	// Pod records an event on a pod of the plan.
	Pod(up *v1alpha1.UpgradePlan, pod *corev1.Pod, reason, message string)
}

// milestone is what replicas come to. On the plan those that come to it by one decision
// share an event; each pod has its own.
type milestone struct {
	reason string
	// plan and pod are the messages; the plan's names the replicas.
	plan, pod string
}

var (
	leased   = &milestone{"Leased", "off duty, and leased so that they stay so: %s", "off duty, and leased so that it stays so"}
	released = &milestone{"Released", "given to Kruise for their update in place: %s", "given to Kruise for its update in place"}
	upgraded = &milestone{"Upgraded", "upgraded, verified and free for duty again: %s", "upgraded, verified and free for duty again"}
	undone   = &milestone{"Undone", "taken back before their upgrade began: %s", "taken back before its upgrade began"}

	milestones = []*milestone{leased, undone, released, upgraded}
)

// story is what one decision has brought about.
type story map[*milestone][]string

// replica notes that a replica has come to a milestone.
func (r *run) replica(pod string, m *milestone) {
	if r.story == nil {
		r.story = story{}
	}
	r.story[m] = append(r.story[m], pod)
	if p := r.scene.Pods[pod]; p != nil {
		r.Recorder.Pod(r.scene.Plan, p, m.reason, m.pod)
	}
}

// tell records the milestones on the plan.
func (r *run) tell() {
	for _, m := range milestones {
		if pods := r.story[m]; len(pods) > 0 {
			r.event(r.pod(pods[0]), m.reason, m.plan, list(pods))
		}
	}
}

func (r *run) event(about client.Object, reason, format string, args ...any) {
	r.Recorder.Plan(r.scene.Plan, about, false, reason, fmt.Sprintf(format, args...))
}

// pod returns a pod of the scene for an event, nil if there is none.
func (r *run) pod(name string) client.Object {
	if p := r.scene.Pods[name]; p != nil {
		return p
	}
	return nil
}

// applied tells of a change of a set that people should know. What a batch does to the
// partition is told by its replicas.
func (r *run) applied(a plan.ApplySet) {
	set := r.scene.Sets[a.Target]
	switch {
	case a.Why == plan.Arming && r.scene.Armed[a.Target] == nil:
		r.event(set, "TakenOver", "StatefulSet %s is under protection: Kruise updates only what this plan releases", a.Target)
	case a.Why == plan.Selecting:
		r.Metrics.Batch()
	case a.Why == plan.Finishing:
		r.event(set, "Parked", "StatefulSet %s is done; Kruise updates nothing until there is another template", a.Target)
	case a.Why == plan.WaitingForKruise:
		r.event(set, "PartitionRaised", "StatefulSet %s: the partition is raised to %d, so that no replica is updated that was not selected", a.Target, a.Partition)
	case a.Why == plan.Leaving:
		r.event(set, "GivenBack", "StatefulSet %s has its partition back (%d)", a.Target, a.Partition)
	}
}

// list joins names, at most ten of them.
func list(names []string) string {
	const most = 10
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
