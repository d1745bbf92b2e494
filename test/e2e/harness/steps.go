package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// Parked is the partition between rollouts.
const Parked = 2147483647

// Step is a moment that an outside observer can see.
type Step struct {
	Name string
	// Seen names the pod that is there, of the rollout to image; "" while none is.
	Seen func(n Now, image string) (pod string, ok bool)
}

// podStep makes a step of a condition on one pod.
func podStep(name string, is func(p Pod, s Set, image string) bool) Step {
	return Step{name, func(n Now, image string) (string, bool) {
		for _, p := range n.Pods {
			if is(p, n.Sets[Group], image) {
				return p.Name, true
			}
		}
		return "", false
	}}
}

// The steps at which a plan takes its target over, and gives it back.
var (
	Arming = Step{"arming", func(n Now, _ string) (string, bool) {
		return Group + "-0", n.Sets[Group].Armed != ""
	}}
	Holding = podStep("holding", func(p Pod, _ Set, _ string) bool { return p.Hold && p.State == "Updated" })
	Leaving = podStep("leaving", func(p Pod, s Set, _ string) bool { return s.Armed != "" && !p.Hold && !p.Grant })
)

// Pinned is seen between the two halves of a release: the arbiter's record is written, and
// the pod not yet.
var Pinned = Step{"pinned", func(n Now, _ string) (string, bool) {
	for _, l := range n.Rosters[Group].Status.Leases {
		if p := n.Pods[l.Replica]; l.Phase == "Pinned" && p.Hold && p.Grant {
			return l.Replica, true
		}
	}
	return "", false
}}

// Steps of an upgrade, in their order, of pods that have our gate.
var Steps = []Step{
	{"the template is written", func(n Now, _ string) (string, bool) {
		s := n.Sets[Group]
		return Group + "-0", s.UpdateRevision != s.CurrentRevision
	}},
	podStep("leased and draining", func(p Pod, _ Set, _ string) bool {
		return p.Lease != "" && !p.Grant && p.Gate == "False"
	}),
	podStep("granted", func(p Pod, _ Set, _ string) bool { return p.Grant && p.State == "Normal" }),
	podStep("selected", func(p Pod, _ Set, _ string) bool {
		return p.Grant && p.Hold && p.State == "PreparingUpdate"
	}),
	podStep("released", func(p Pod, _ Set, image string) bool { return p.Grant && !p.Hold && p.Image != image }),
	podStep("updating", func(p Pod, _ Set, image string) bool {
		return p.State == "Updating" && p.Image == image
	}),
	podStep("updated", func(p Pod, _ Set, image string) bool {
		return p.State == "Updated" && !p.Hold && p.Image == image
	}),
	podStep("readmitting", func(p Pod, _ Set, image string) bool {
		return p.Image == image && p.Verified == p.Revision && p.Gate == "False"
	}),
	{"handing over", func(n Now, image string) (string, bool) {
		for _, m := range n.Rosters[Group].Status.Members {
			// Its duty was taken, and it has not said yet that it has stopped.
			if p := n.Pods[m.Name]; !m.Assigned && m.Duty == "Working" && p.Image != image {
				return m.Name, true
			}
		}
		return "", false
	}},
	{"parking", func(n Now, image string) (string, bool) {
		for _, p := range n.Pods {
			if p.Image != image || p.Verified != p.Revision {
				return "", false
			}
		}
		s := n.Sets[Group]
		return Group + "-0", s.Partition != Parked && s.Replicas > 0 && len(n.Pods) == s.Replicas
	}},
}

// StepOf is one of the steps of an upgrade.
func StepOf(name string) Step {
	return Steps[slices.IndexFunc(Steps, func(s Step) bool { return s.Name == name })]
}

// Plan is the stage's plan. It is an error that there is none, or that its status is not
// that of its latest generation.
func (n Now) Plan() (Plan, error) {
	p, ok := n.Plans[Group]
	if !ok {
		return p, fmt.Errorf("there is no plan")
	}
	if p.Status.ObservedGeneration != p.Generation {
		return p, fmt.Errorf("the plan's status is that of generation %d, not %d", p.Status.ObservedGeneration, p.Generation)
	}
	return p, nil
}

// Settled wants the stage's plan to be Ready, with its sets as they are now.
func (n Now) Settled() error {
	p, err := n.Plan()
	if err == nil && !p.Settled() {
		err = fmt.Errorf("the plan says %+v", p.Condition("Ready"))
	}
	if err == nil {
		err = n.knows(p)
	}
	return err
}

// knows wants Kruise to have seen the sets of a plan, and the plan's status to speak of them and
// of their pods as they are now. A set of which the template is followed changes without the
// plan's generation.
func (n Now) knows(p Plan) error {
	for _, t := range p.Status.Targets {
		s, ok := n.Sets[t.Name]
		switch {
		case !ok:
		case s.Observed != s.Generation:
			return fmt.Errorf("set %s is at generation %d, and Kruise has seen %d", s.Name, s.Generation, s.Observed)
		case t.UpdateRevision != s.UpdateRevision || t.Partition != nil && *t.Partition != s.Partition:
			return fmt.Errorf("the plan speaks of set %s at %s, which is at %s with partition %d", s.Name, t.UpdateRevision, s.UpdateRevision, s.Partition)
		}
	}
	for _, r := range p.Status.ReplicaStatuses {
		if pod, ok := n.Pods[r.Name]; ok && pod.Revision != r.Revision {
			return fmt.Errorf("the plan speaks of %s at %s, which is at %s", r.Name, r.Revision, pod.Revision)
		}
	}
	return nil
}

// Heeded wants the arbiter to go by the roster as it is now.
func (n Now) Heeded() error {
	if r := n.Rosters[Group]; r.Status.ObservedGeneration != r.Generation {
		return fmt.Errorf("the arbiter goes by generation %d of the roster, not %d", r.Status.ObservedGeneration, r.Generation)
	}
	return nil
}

// Agreed wants everybody to have noticed what the others have done: Kruise the sets, the
// arbiter the roster, the replicas their duty, and the plan's status all of it.
func (n Now) Agreed() error {
	p, err := n.Plan()
	if err == nil {
		err = n.knows(p)
	}
	if err == nil {
		err = n.Heeded()
	}
	if err != nil {
		return err
	}
	r, said := n.Rosters[Group], map[string]string{}
	for _, s := range p.Status.ReplicaStatuses {
		said[s.Name] = s.Duty
	}
	for _, m := range r.Status.Members {
		if duty, ok := said[m.Name]; ok && duty != m.Duty {
			return fmt.Errorf("the plan says %s of %s, the roster %s", duty, m.Name, m.Duty)
		}
		if r.Spec.Assigned != nil && !m.Assigned && m.Duty != "Idle" {
			return fmt.Errorf("%s has not stopped yet: %s", m.Name, m.Message)
		}
	}
	leased := 0
	for _, l := range r.Status.Leases {
		if l.Holder == p.UID {
			leased++
		}
	}
	if int(p.Status.LeasedReplicas) != leased {
		return fmt.Errorf("the plan has %d leases, the roster %d of its", p.Status.LeasedReplicas, leased)
	}
	return nil
}

// NoLeases wants the stage's group to have none.
func (n Now) NoLeases() error {
	if l := n.Rosters[Group].Status.Leases; len(l) > 0 {
		return fmt.Errorf("leases are left: %+v", l)
	}
	return nil
}

// Complete wants the plan to be Ready, every replica to be in service with image, and nothing
// to be left over of its upgrade: no grant, no note of a lease, no lease. The pods have our
// gate.
func (n Now) Complete(image string) error {
	if err := n.Settled(); err != nil {
		return err
	}
	s := n.Sets[Group]
	if s.Partition != Parked {
		return fmt.Errorf("the partition is %d", s.Partition)
	}
	if len(n.Pods) != s.Replicas {
		return fmt.Errorf("there are %d pods, not %d", len(n.Pods), s.Replicas)
	}
	for _, p := range n.Pods {
		if p.Image != image || !p.Hold || p.Grant || p.Lease != "" || !p.Ready || p.Gate != "True" || p.State != "Normal" {
			return fmt.Errorf("%s is not as it should be: %s", p.Name, Describe(p))
		}
	}
	return n.NoLeases()
}

// Term is the leadership term on the stage's set; 0 when it is not armed.
func (n Now) Term() int64 {
	var a struct{ Term int64 }
	if err := json.Unmarshal([]byte(n.Sets[Group].Armed), &a); err != nil {
		return 0
	}
	return a.Term
}

// Leader reads who has the lease of the upgraders' leader election.
func (s *System) Leader(ctx context.Context) (string, error) {
	return s.Kubectl(ctx, "", "get", "lease", "offduty-upgrader", "--namespace", SystemNamespace, "--output", "jsonpath={.spec.holderIdentity}")
}
