package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// saying wants the plan not to be ready for reason, and its message to have all words.
func saying(reason string, words ...string) func(harness.Now) error {
	return told("Ready", "False", reason, words...)
}

// roster is that of the worked example with another selector.
func rosterFor(app, assigned string) string {
	return strings.Replace(harness.RosterManifest(assigned), "app: sample", "app: "+app, 1)
}

// TestEachWaitHasAWayOut lets one plan stand still for one reason after the other, and takes
// what docs/stuck.md says of each.
func TestEachWaitHasAWayOut(t *testing.T) {
	const wait = "{handover: Wait, maxUnavailable: 2}"
	s := newStage(t)
	good := harness.PlanManifest(harness.NewImage, wait)
	with := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	arbiter := func(address, secret string) string {
		return with("group: sample", "group: sample\n    address: "+address+"\n    tls: {secretName: "+secret+"}")
	}
	s.apply(secret("good", s.files("upgrader")))
	s.apply(secret("another", s.files("attendant")))
	// What stands in its way before anything is written, each mended by the next.
	for _, c := range []struct {
		name, plan string
		before     func(*stage)
		want       func(harness.Now) error
	}{
		{"TargetNotFound", good, nil, saying("TargetNotFound", "create it")},
		{"TargetNotSupported", good, func(s *stage) {
			s.apply(rosterFor("other", harness.Named(0, 2, 4)))
			s.apply(strings.Replace(harness.SetManifest(), "      partition: 3\n", "      partition: 3\n      paused: true\n", 1))
		}, saying("TargetNotSupported", "paused to false")},
		{"ContainerNotFound", with("main: ", "absent: "), func(s *stage) {
			s.must(s.Patch(s.t.Context(), "asts", harness.Group, `{"spec":{"updateStrategy":{"rollingUpdate":{"paused":false}}}}`))
		}, saying("ContainerNotFound", "absent")},
		{"ArbiterUnreachable", arbiter("127.0.0.1:1", "good"), nil, saying("ArbiterUnreachable", "127.0.0.1:1")},
		{"ArbiterConfigInvalid", arbiter(s.ArbiterAddress, "absent"), nil, saying("ArbiterConfigInvalid", "absent")},
		{"ArbiterDenied", arbiter(s.ArbiterAddress, "another"), nil, saying("ArbiterDenied")},
		{"GroupNotFound", with("group: sample", "group: absent"), nil, saying("GroupNotFound", "create the Roster")},
		{"UnknownReplica", arbiter(s.ArbiterAddress, "good"), nil, saying("UnknownReplica", "selector")},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s.on(t)
			if c.before != nil {
				c.before(s)
			}
			s.apply(c.plan)
			s.await("the plan says so", c.want)
		})
	}
	t.Run("and when the roster's selector is right, the plan goes on", func(t *testing.T) {
		s := s.on(t)
		s.apply(rosterFor("sample", harness.Named(0, 2, 4)))
		s.awaitWorking(3)
		s.await("two are upgraded", waiting("2/5", "WaitingForDuty"))
	})
	t.Run("WaitingForLease at the floor: the floor is lowered", func(t *testing.T) {
		s := s.on(t)
		s.patchRoster(`{"floor":{"minServing":5}}`)
		s.assign(harness.Named(0, 1, 3))
		s.await("the plan waits for a lease", saying("WaitingForLease", "floor 5"))
		s.patchRoster(`{"floor":{"minServing":3}}`)
		s.await("four are upgraded", waiting("4/5", "WaitingForDuty"))
	})
	t.Run("HandoverRefused as duty is named: others are named", func(t *testing.T) {
		s := s.on(t)
		s.apply(harness.PlanManifest(harness.NewImage, "{handover: Request, maxUnavailable: 2}"))
		s.await("the plan says so", saying("HandoverRefused", "sample-0", "name other working replicas"))
		s.assign(harness.Named(1, 2, 3))
		s.await("the plan is ready", settled)
	})
	t.Run("WaitingForPod as a quota allows no more: the quota is lifted", func(t *testing.T) {
		s := s.on(t)
		s.allowNoPods()
		s.kubectl("delete", "pod", "sample-4", "--wait=false")
		s.await("the plan waits for the pod", saying("WaitingForPod", "sample-4"))
		s.kubectl("delete", "resourcequota", "none")
		s.await("the plan is ready", settled)
	})
	t.Run("WriteFailed as a policy refuses the upgrader's writes: the policy goes", func(t *testing.T) {
		s := s.on(t)
		drop := s.refuseHolds()
		s.kubectl("delete", "pod", "sample-4", "--wait=false")
		s.await("the plan says so", saying("WriteFailed", "no holds in this house"))
		drop()
		s.await("the plan is ready", settled)
	})
}

func (s *stage) kubectl(args ...string) {
	s.t.Helper()
	_, err := s.Kubectl(s.t.Context(), "", append(args, "--namespace", s.Namespace)...)
	s.must(err)
}

// allowNoPods makes a quota, and waits until it is enforced.
func (s *stage) allowNoPods() {
	s.t.Helper()
	s.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none}\nspec: {hard: {pods: \"0\"}}\n")
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, "the quota is enforced", func(ctx context.Context) error {
		_, err := s.Kubectl(ctx, "", "run", "tried", "--image=alpine:3", "--restart=Never", "--dry-run=server", "--namespace", s.Namespace)
		if err == nil {
			return errors.New("a pod is accepted")
		}
		if !strings.Contains(err.Error(), "exceeded quota") {
			return err
		}
		return nil
	}))
}

// refuseHolds makes a policy that lets nobody put a hold on a pod, until drop.
func (s *stage) refuseHolds() (drop func()) {
	s.t.Helper()
	name := "e2e-holds-" + s.Namespace
	s.apply(fmt.Sprintf(`apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %[1]s}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[2]s}}
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [UPDATE], resources: [pods]}]
  validations:
  - expression: "!('offduty.dev/hold' in object.metadata.?labels.orValue({})) || 'offduty.dev/hold' in oldObject.metadata.?labels.orValue({})"
    message: no holds in this house
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: %[1]s}
spec: {policyName: %[1]s, validationActions: [Deny]}
`, name, s.Namespace))
	s.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: tried}\nspec: {containers: [{name: main, image: alpine:3}]}\n")
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, "the policy is enforced", func(ctx context.Context) error {
		if _, err := s.Kubectl(ctx, "", "label", "pod", "tried", "offduty.dev/hold=true", "--dry-run=server", "--overwrite", "--namespace", s.Namespace); err == nil {
			return errors.New("a hold is accepted")
		}
		return nil
	}))
	s.kubectl("delete", "pod", "tried", "--wait=false")
	return func() {
		s.t.Helper()
		_, err := s.Kubectl(context.WithoutCancel(s.t.Context()), "", "delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", name)
		s.must(err)
	}
}

func TestAReplicaThatCannotBeSaved(t *testing.T) {
	const broken = "alpine:broken-1"
	s := newStage(t)
	s.begin(harness.Named(0, 1, 2), 3)
	s.apply(harness.PlanManifest(broken, "{handover: Wait, maxUnavailable: 1, verify: {timeoutSeconds: 2}}"))
	s.await("the plan stalls", stalled("ReplicaFailed", broken, "sample-4", "stays out of duty"))
	t.Run("is named in the roster, out of duty and not counted", func(t *testing.T) {
		s := s.on(t)
		s.await("the roster says so", func(n harness.Now) error {
			st := n.Rosters[harness.Group].Status
			if st.Quarantined != "sample-4" || st.Leased != "sample-4" || st.Serving != 4 {
				return fmt.Errorf("quarantined %q, leased %q, %d serving", st.Quarantined, st.Leased, st.Serving)
			}
			return nil
		})
	})
	t.Run("keeps its pin when the arbiter's record is lost, and the group is frozen no longer than that takes", func(t *testing.T) {
		s := s.on(t)
		epoch := s.now().Rosters[harness.Group].Status.Epoch
		s.kubectl("patch", "roster", harness.Group, "--subresource=status", "--type=json", `--patch=[{"op":"remove","path":"/status"}]`)
		s.await("the pin is known again", func(n harness.Now) error {
			st := n.Rosters[harness.Group].Status
			if st.Epoch == "" || st.Epoch == epoch || st.Frozen || len(st.Leases) != 1 || st.Leases[0].Phase != "Pinned" {
				return fmt.Errorf("epoch %q, frozen %t, leases %+v", st.Epoch, st.Frozen, st.Leases)
			}
			return nil
		})
		s.awaitWorking(3)
	})
	t.Run("is left out by its ordinal, and the plan goes on with a good image for the others", func(t *testing.T) {
		s := s.on(t)
		s.scale(5, "[4]")
		s.await("its lease has ended with it", harness.Now.NoLeases)
		s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 1}"))
		s.await("all but the workers are upgraded", exactly("2/5", "WaitingForDuty", 0, 1, 2, 3, 5))
	})
}
