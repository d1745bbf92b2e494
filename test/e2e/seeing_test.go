package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
	"offduty.dev/test/monitoring"
)

// scrape reads the metrics of a process.
func (s *stage) scrape(process string) harness.Metrics {
	s.t.Helper()
	m, err := s.Scrape(s.t.Context(), process)
	s.must(err)
	return m
}

func TestSeeing(t *testing.T) {
	s := newStage(t)
	first := s.scrape(harness.UpgraderA)
	s.begin(harness.Named(0, 2, 4), 3)
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Wait, maxUnavailable: 2}"))
	s.await("two are upgraded", waiting("2/5", "WaitingForDuty"))
	t.Run("metrics tell how far the plan is, and why not further", func(t *testing.T) { s.on(t).checkWaiting() })
	s.assign(harness.Named(0, 1, 3))
	s.await("four are upgraded", waiting("4/5", "WaitingForDuty"))
	s.assign(harness.Slots(3))
	s.apply(harness.PlanManifest(harness.NewImage, "{handover: Request, maxUnavailable: 2}"))
	s.await("the plan is ready", settled)
	t.Run("metrics have counted what was done", func(t *testing.T) { s.on(t).checkCounted(first) })
	t.Run("events tell the story, once", func(t *testing.T) { s.on(t).checkStory() })
	t.Run("the log has a line for each write, with plan, replica and lease", func(t *testing.T) { s.on(t).checkLog() })
	t.Run("every metric of the alerts is served", func(t *testing.T) { s.on(t).checkRules() })
	t.Run("scraping costs no API request", func(t *testing.T) { s.on(t).checkScrapesAreFree() })
	t.Run("the metrics of a plan vanish with it", func(t *testing.T) { s.on(t).checkVanish() })
}

// mine are the labels of this stage's plan, and more.
func (s *stage) mine(more map[string]string) map[string]string {
	labels := map[string]string{"namespace": s.Namespace, "plan": harness.Group}
	maps.Copy(labels, more)
	return labels
}

type expectation struct {
	name   string
	labels map[string]string
	want   float64
}

// expect waits until a process shows all of it: its cache may be a moment behind ours.
func (s *stage) expect(process string, all []expectation) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, process+" shows it", func(ctx context.Context) error {
		m, err := s.Scrape(ctx, process)
		if err != nil {
			return err
		}
		var errs []error
		for _, e := range all {
			if got := m.Sum(e.name, e.labels); got != e.want {
				errs = append(errs, fmt.Errorf("%s%v is %v, not %v", e.name, e.labels, got, e.want))
			}
		}
		return errors.Join(errs...)
	}))
}

func (s *stage) checkWaiting() {
	s.t.Helper()
	group := func(more ...string) map[string]string {
		labels := map[string]string{"group": s.Namespace + "/" + harness.Group}
		for i := 0; i+1 < len(more); i += 2 {
			labels[more[i]] = more[i+1]
		}
		return labels
	}
	s.expect(harness.UpgraderA, []expectation{
		{"offduty_plan_replicas", s.mine(map[string]string{"step": "Upgraded"}), 2},
		{"offduty_plan_replicas", s.mine(map[string]string{"step": "Protected"}), 3},
		{"offduty_plan_working_replicas", s.mine(nil), 3},
		{"offduty_plan_reason", s.mine(map[string]string{"reason": "WaitingForDuty"}), 1},
		{"offduty_plan_reason", s.mine(nil), 1},
		{"offduty_plan_ready", s.mine(nil), 0},
		{"offduty_plan_stalled", s.mine(nil), 0},
		{"offduty_plan_arbiter_reachable", s.mine(nil), 1},
		{"offduty_plan_leases", s.mine(nil), 0},
	})
	s.expect(harness.ArbiterProcess, []expectation{
		{"offduty_group_members", group("duty", "Working"), 3},
		{"offduty_group_members", group("duty", "Idle"), 2},
		{"offduty_group_attending_members", group(), 5},
		{"offduty_group_serving_members", group(), 5},
		{"offduty_group_floor_members", group(), 3},
		{"offduty_group_leases", group(), 0},
		{"offduty_group_overdue_pins", group(), 0},
		{"offduty_group_frozen", group(), 0},
		{"offduty_group_reason", group("reason", "OnDuty"), 1},
	})
}

// checkCounted compares with a scrape before the plan; other tests ran before that.
func (s *stage) checkCounted(before harness.Metrics) {
	s.t.Helper()
	grown := []expectation{
		{"offduty_upgrader_leases_granted_total", nil, 5},
		{"offduty_upgrader_commits_total", nil, 5},
		{"offduty_upgrader_upgrades_total", nil, 5},
		{"offduty_upgrader_undos_total", nil, 0},
		{"offduty_upgrader_update_duration_seconds", nil, 5},
		{"offduty_upgrader_handovers_total", map[string]string{"result": "requested"}, 1},
		{"offduty_upgrader_handovers_total", map[string]string{"result": "done"}, 1},
		{"offduty_upgrader_adoptions_total", map[string]string{"result": "ok"}, 1},
		{"offduty_upgrader_arbiter_request_duration_seconds", map[string]string{"method": "PinLease", "code": "OK"}, 5},
		{"offduty_upgrader_writes_total", map[string]string{"object": "pod", "reason": "Releasing", "result": "ok"}, 5},
	}
	for i := range grown {
		grown[i].want += before.Sum(grown[i].name, grown[i].labels)
	}
	s.expect(harness.UpgraderA, grown)
	after := s.scrape(harness.UpgraderA)
	if n := after.Sum("offduty_upgrader_batches_total", nil) - before.Sum("offduty_upgrader_batches_total", nil); n < 3 || n > 5 {
		s.t.Errorf("%v batches were counted, not 3 to 5", n)
	}
	if term := after.Sum("offduty_upgrader_term", nil); term < 1 {
		s.t.Errorf("the term is %v", term)
	}
}

// checkStory reads the plan's events as kubectl describe shows them.
func (s *stage) checkStory() {
	s.t.Helper()
	var told []string
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, "the last event is there", func(ctx context.Context) error {
		var err error
		told, err = s.story(ctx)
		if err == nil && (len(told) == 0 || !strings.HasPrefix(told[len(told)-1], "Normal Complete")) {
			err = fmt.Errorf("so far: %q", told)
		}
		return err
	}))
	out, err := s.Kubectl(s.t.Context(), "", "describe", "--namespace", s.Namespace, "upgradeplan", harness.Group)
	s.must(err)
	_, events, _ := strings.Cut(out, "Events:")
	s.t.Logf("kubectl describe upgradeplan %s:\nEvents:%s", harness.Group, events)
	if len(told) > 30 {
		s.t.Errorf("%d events are noise, not a story", len(told))
	}
	last := ""
	for _, e := range told {
		if e == last {
			s.t.Errorf("told twice in a row: %s", e)
		}
		last = e
	}
	counts := map[string]int{}
	for _, e := range told {
		counts[strings.Fields(e)[1]]++
	}
	for reason, most := range map[string]int{
		"TakenOver": 1, "ImagesWritten": 1, "Leased": 4, "Released": 5, "Upgraded": 5, "WaitingForDuty": 3, "HandoverRequested": 1,
		"Parked": 1, "Complete": 1,
	} {
		if n := counts[reason]; n < 1 || n > most {
			s.t.Errorf("%d events %s, not 1 to %d", n, reason, most)
		}
		delete(counts, reason)
	}
	if len(counts) > 0 {
		s.t.Errorf("unexpected events: %v", counts)
	}
}

// story are the plan's events in their order: type, reason and message.
func (s *stage) story(ctx context.Context) ([]string, error) {
	k, err := s.Cluster.Client(ctx, controlplane.Admin(), nil)
	if err != nil {
		return nil, err
	}
	var list corev1.EventList
	if err := k.List(ctx, &list, client.InNamespace(s.Namespace), client.MatchingFields{"involvedObject.kind": "UpgradePlan"}); err != nil {
		return nil, err
	}
	slices.SortFunc(list.Items, func(a, b corev1.Event) int { return a.EventTime.Compare(b.EventTime.Time) })
	var out []string
	for i := range list.Items {
		e := &list.Items[i]
		if e.Series != nil {
			return nil, fmt.Errorf("event %s %q was repeated %d times", e.Reason, e.Message, e.Series.Count)
		}
		out = append(out, fmt.Sprintf("%s %s %s", e.Type, e.Reason, e.Message))
	}
	return out, nil
}

// checkLog holds the log of the upgrader against the API server's audit log.
func (s *stage) checkLog() {
	s.t.Helper()
	e, err := s.Evidence(s.t.Context())
	s.must(err)
	audited := map[written]int{}
	for _, w := range e.Writes {
		if w.Ours() && w.Kind != "upgradeplans" {
			audited[written{w.Kind, w.Name}]++
		}
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, "the upgrader's log has what the audit log has", func(context.Context) error {
		if diff := cmp.Diff(audited, s.logged()); diff != "" {
			return fmt.Errorf("writes of both (-audit +log):\n%s", diff)
		}
		return nil
	}))
	s.checkLines()
	s.checkArbiterLog()
}

// written is an object that the upgrader wrote.
type written struct{ Kind, Name string }

// logged counts the lines of the upgrader's log that tell of a write for this stage's plan.
func (s *stage) logged() map[written]int {
	s.t.Helper()
	out := map[written]int{}
	for _, l := range s.linesOfPlan() {
		switch l["msg"] {
		case "pod written":
			name, _ := strings.CutPrefix(fmt.Sprint(l["replica"]), s.Namespace+"/")
			out[written{"pods", name}]++
		case "statefulset written":
			out[written{"statefulsets", fmt.Sprint(l["target"])}]++
		}
	}
	return out
}

// linesOfPlan are those of the upgrader's log that are about this stage's plan.
func (s *stage) linesOfPlan() []harness.LogLine {
	s.t.Helper()
	lines, err := s.LogOf(harness.UpgraderA)
	s.must(err)
	return slices.DeleteFunc(lines, func(l harness.LogLine) bool { return l["plan"] != s.Namespace+"/"+harness.Group })
}

// checkLines wants the lease on each line about a replica that was leased.
func (s *stage) checkLines() {
	s.t.Helper()
	for _, l := range s.linesOfPlan() {
		if l["msg"] == "pod written" {
			s.checkLine(l)
		}
	}
}

func (s *stage) checkLine(l harness.LogLine) {
	s.t.Helper()
	if l["group"] != s.Namespace+"/"+harness.Group {
		s.t.Errorf("no group: %v", l)
	}
	switch l["reason"] {
	case "Holding", "Tending", "":
	default:
		if l["lease"] == nil || l["token"] == nil {
			s.t.Errorf("no lease: %v", l)
		}
	}
}

// checkArbiterLog wants a line for each end of a lease, in the words of the upgrader.
func (s *stage) checkArbiterLog() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, "the arbiter's log tells of all leases", func(context.Context) error {
		lines, err := s.LogOf(harness.ArbiterProcess)
		s.must(err)
		changes := map[string]int{}
		for _, l := range lines {
			if l["group"] != s.Namespace+"/"+harness.Group || l["change"] == nil {
				continue
			}
			changes[fmt.Sprint(l["change"])]++
			if !strings.HasPrefix(fmt.Sprint(l["replica"]), s.Namespace+"/") {
				return controlplane.Permanent(fmt.Errorf("the replica is not named as the upgrader does: %v", l))
			}
		}
		for _, c := range []string{"LeaseGranted", "LeasePinned", "LeaseReleased"} {
			if changes[c] != 5 {
				return fmt.Errorf("%d lines %s, not 5; all: %v", changes[c], c, changes)
			}
		}
		return nil
	}))
}

// checkRules holds the alerts against what is really served.
func (s *stage) checkRules() {
	s.t.Helper()
	rules, err := monitoring.Rules(root)
	s.must(err)
	served := s.scrape(harness.UpgraderA)
	maps.Copy(served, s.scrape(harness.ArbiterProcess))
	for _, r := range rules {
		for _, m := range monitoring.Metrics(r.Expr) {
			if served[m] == nil {
				s.t.Errorf("%s%s is about %s, which nobody serves", r.Alert, r.Record, m)
			}
		}
	}
}

func (s *stage) checkScrapesAreFree() {
	s.t.Helper()
	mark, err := s.Cluster.AuditMark()
	s.must(err)
	for range 20 {
		s.scrape(harness.UpgraderA)
		s.scrape(harness.ArbiterProcess)
	}
	if _, err := s.Evidence(s.t.Context()); err != nil { // waits until the audit log is complete
		s.t.Fatal(err)
	}
	requests, err := s.Cluster.AuditSince(mark, func(a controlplane.AuditEvent) bool {
		ours := a.User == harness.UpgraderAccount.Username() || a.User == harness.ArbiterAccount.Username()
		// Other tests' namespaces may still be on their way out.
		here := a.Namespace == "" || a.Namespace == s.Namespace
		return ours && here && a.Resource != "leases" && a.Verb != "watch"
	})
	s.must(err)
	if len(requests) > 0 {
		s.t.Errorf("%d requests beside 40 scrapes, the first: %s %s by %s", len(requests), requests[0].Verb, requests[0].URI, requests[0].User)
	}
}

func (s *stage) checkVanish() {
	s.t.Helper()
	_, err := s.Kubectl(s.t.Context(), "", "delete", "--namespace", s.Namespace, "upgradeplan", harness.Group, "--timeout", "120s")
	s.must(err)
	_, err = s.Kubectl(s.t.Context(), "", "delete", "--namespace", s.Namespace, "roster", harness.Group)
	s.must(err)
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, "nothing is shown of plan and group", func(ctx context.Context) error {
		for process, label := range map[string]string{harness.UpgraderA: "namespace", harness.ArbiterProcess: "group"} {
			m, err := s.Scrape(ctx, process)
			if err != nil {
				return err
			}
			if name, found := m.About(label, s.Namespace); found {
				return fmt.Errorf("%s has series of %s", name, s.Namespace)
			}
		}
		return nil
	}))
}
