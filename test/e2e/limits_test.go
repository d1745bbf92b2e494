package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"offduty.dev/test/e2e/harness"
)

// TestTheLimitsOfARoster lets the rules of one group stop an upgrade, one after the other, and
// takes each away.
func TestTheLimitsOfARoster(t *testing.T) {
	s := newStage(t)
	s.begin(harness.Slots(0), 0)

	t.Run("what contradicts itself is not accepted", func(t *testing.T) {
		for spec, want := range map[string]string{
			`{"floor":{"type":"Percent"}}`:                                 "percent with type Percent",
			`{"floor":{"type":"Percent","percent":60}}`:                    "only that one", // minServing is there
			`{"floor":{"type":"Percent","minServing":null,"percent":101}}`: "less than or equal to 100",
			`{"spread":{}}`:                                                     "spec.spread.topologyKey: Required",
			`{"spread":{"topologyKey":"a b"}}`:                                  "spec.spread.topologyKey",
			`{"freezeWindows":[{"schedule":"@daily"}]}`:                         "durationMinutes: Required",
			`{"freezeWindows":[{"schedule":"@daily","durationMinutes":10081}]}`: "less than or equal to 10080",
		} {
			if err := s.Patch(t.Context(), "roster", harness.Group, `{"spec":`+spec+`}`); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error is %v, and does not say %q", spec, err, want)
			}
		}
	})
	t.Run("a freeze window that cannot be read closes everything, and says where it is", func(t *testing.T) {
		s := s.on(t)
		s.patchRoster(`{"freezeWindows":[{"schedule":"61 * * * *","durationMinutes":60}]}`)
		s.awaitRoster("InvalidRule", "spec.freezeWindows[0].schedule")
		s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
		s.await("the plan waits", saying("WaitingForLease", "spec.freezeWindows[0].schedule"))
	})
	t.Run("nothing is leased while a window is open", func(t *testing.T) {
		s := s.on(t)
		s.patchRoster(`{"freezeWindows":[{"schedule":"* * * * *","durationMinutes":600,"timeZone":"Asia/Shanghai"}]}`)
		s.awaitRoster("OnDuty", "no upgrade begins until")
		s.await("the plan waits", saying("WaitingForLease", "freezeWindows", "Asia/Shanghai"))
	})
	t.Run("nor below a floor in percent", func(t *testing.T) {
		s := s.on(t)
		s.patchRoster(`{"freezeWindows":null,"floor":{"type":"Percent","minServing":null,"percent":81}}`)
		s.await("the plan waits", saying("WaitingForLease", "floor 5"))
	})
	t.Run("and leases share one domain of the topology", func(t *testing.T) {
		s := s.on(t)
		nodes := s.racks()
		s.patchRoster(`{"floor":{"percent":60},"spread":{"topologyKey":"example.com/rack"}}`)
		s.await("the plan is ready", settled)
		s.oneRackAtATime(nodes)
	})
}

// oneRackAtATime checks that no version of the roster has leases on several nodes.
func (s *stage) oneRackAtATime(nodes map[string]string) {
	s.t.Helper()
	_, _, _, rosters, err := s.History.Record()
	s.must(err)
	for i := range rosters {
		leased := map[string]bool{}
		for _, l := range rosters[i].Status.Leases {
			leased[nodes[l.Replica]] = true
		}
		if len(leased) > 1 {
			s.t.Errorf("version %d of the roster has leases on %v", rosters[i].Version, leased)
		}
	}
}

// racks makes each node a rack of its own, and returns the nodes of the pods, of which there must
// be several.
func (s *stage) racks() map[string]string {
	s.t.Helper()
	out, err := s.Kubectl(s.t.Context(), "", "get", "pods", "--namespace", s.Namespace,
		"--output", `jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{"\n"}{end}`)
	s.must(err)
	nodes, racks := map[string]string{}, map[string]bool{}
	for line := range strings.Lines(out) {
		pod, node, _ := strings.Cut(strings.TrimSpace(line), " ")
		nodes[pod] = node
		if racks[node] {
			continue
		}
		racks[node] = true
		s.kubectlAnywhere("label", "node", node, "--overwrite", "example.com/rack="+node)
	}
	if len(racks) < 2 {
		s.t.Fatalf("all pods run on one node, so that spread means nothing: %v", nodes)
	}
	return nodes
}

// kubectlAnywhere is kubectl for what is in no namespace.
func (s *stage) kubectlAnywhere(args ...string) {
	s.t.Helper()
	_, err := s.Kubectl(s.t.Context(), "", args...)
	s.must(err)
}

// awaitRoster waits until the roster's condition Ready has a reason and says a word.
func (s *stage) awaitRoster(reason, word string) {
	s.t.Helper()
	s.await("the roster says "+reason, func(n harness.Now) error {
		for _, c := range n.Rosters[harness.Group].Status.Conditions {
			if c.Type == "Ready" && (c.Reason != reason || !strings.Contains(c.Message, word)) {
				return fmt.Errorf("it says %s: %s", c.Reason, c.Message)
			} else if c.Type == "Ready" {
				return nil
			}
		}
		return errors.New("it has no condition Ready")
	})
}
