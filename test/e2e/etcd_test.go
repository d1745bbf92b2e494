package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/etcd"
	"offduty.dev/test/e2e/harness"
)

// Images of the set; what runs is a process of this machine.
const (
	etcdImage = "etcd:v3.6.3"
	etcdNext  = "etcd:v3.6.4"
	etcdLast  = "etcd:v3.6.5"
)

// database is a stage on which a real etcd runs.
type database struct {
	*stage
	etcd *etcd.Kubelet
}

// newDatabase makes the set and waits until all five serve.
func newDatabase(t *testing.T) *database {
	t.Helper()
	s := newStage(t)
	kubelet, err := etcd.Run(t.Context(), s.Cluster, s.Namespace, harness.Group)
	s.must(err)
	t.Cleanup(func() {
		if err := kubelet.Stop(); err != nil {
			t.Error(err)
		}
	})
	set := strings.ReplaceAll(harness.SetManifest(etcd.Gate), harness.OldImage, etcdImage)
	// The process has time to stop before the container is said to be started again.
	const labels = "        working: \"false\"\n    spec:"
	set = strings.Replace(set, labels, strings.Replace(labels, "    spec", "      annotations: {sim.offduty.dev/restart-delay: 500ms}\n    spec", 1), 1)
	s.apply(set)
	s.awaitFive(true)
	return &database{stage: s, etcd: kubelet}
}

// phase is what came of restarting all members once while clients wrote.
type phase struct {
	report        etcd.Report
	lost          []string
	before, after etcd.State
	// changes of the leader, as all processes have counted them together.
	changes int
	starts  []int
}

// elections is by how much the raft term has grown: each election is in one of its own.
func (p *phase) elections() int { return int(p.after.Term - p.before.Term) } //nolint:gosec // a handful

// during lets clients write while all members are restarted, and looks what became of it.
func (d *database) during(prefix string, restart func()) phase {
	t := d.t
	t.Helper()
	p := phase{before: d.state()}
	changes, err := d.etcd.LeaderChanges(t.Context())
	d.must(err)
	starts := d.etcd.Starts()
	load, err := d.etcd.Write(t.Context(), prefix)
	d.must(err)
	restart()
	d.until("all processes were started again", func(context.Context) error {
		p.starts = d.etcd.Starts()
		for i := range starts {
			if p.starts[i] -= starts[i]; p.starts[i] == 0 {
				return fmt.Errorf("that of ordinal %d was not", i)
			}
		}
		return nil
	})
	p.after = d.state()
	p.report = load.Stop()
	p.lost, err = load.Lost(t.Context())
	d.must(err)
	p.changes, err = d.etcd.LeaderChanges(t.Context())
	d.must(err)
	p.changes -= changes
	return p
}

func (d *database) until(what string, check func(context.Context) error) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	d.must(controlplane.Until(ctx, what, check))
}

// state waits until all members agree on who leads.
func (d *database) state() (s etcd.State) {
	d.t.Helper()
	d.until("all members of etcd agree", func(ctx context.Context) (err error) {
		s, err = d.etcd.State(ctx)
		return err
	})
	return s
}

// plainly upgrades the set as Kruise does when nobody else is there.
func (d *database) plainly(image string) {
	d.t.Helper()
	d.must(d.Patch(d.t.Context(), "statefulset.apps.kruise.io", harness.Group, fmt.Sprintf(
		`{"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0, "maxUnavailable": 1}},
		"template": {"spec": {"containers": [{"name": "main", "image": %q, "command": ["sleep", "infinity"]}]}}}}`, image)))
	d.await("all are ready at the next image", func(n harness.Now) error {
		for name, p := range n.Pods {
			if !p.Ready || !p.Runs() || p.Image != image {
				return fmt.Errorf("%s is at %s, ready: %t", name, p.Image, p.Ready)
			}
		}
		return nil
	})
}

const etcdHeading = "                   seconds   acked    lost  failed  raw errors  longest    stall  elections"

func (p *phase) String() string {
	r := &p.report
	return fmt.Sprintf("%8.1f %7d %7d %7d %11d %8s %8s %10d  %s", r.For.Seconds(), r.Acked, len(p.lost), len(r.Failed), r.Errors(),
		r.Longest.Round(time.Millisecond), r.Stall.Round(time.Millisecond), p.elections(), r.Kinds())
}

// A set of five, whose containers are the members of a real etcd, is upgraded while clients write:
// through a plan, and then by Kruise alone.
func TestARealEtcdIsUpgradedWhileClientsWrite(t *testing.T) {
	d := newDatabase(t)
	d.apply(harness.ObservedManifest(fmt.Sprintf("{etcd: {port: %d, probe: {periodSeconds: 1, timeoutSeconds: 1, maxAgeSeconds: 10}}}", d.etcd.Port())))
	first := d.state().Leader
	d.await("the roster shows the leader", says(first, "OnDuty"))
	asked := d.handovers()
	with := d.during("arbitrated", func() {
		d.apply(harness.PlanManifest(etcdNext, "{handover: Request, maxUnavailable: 1, verify: {minReadySeconds: 1}}"))
		d.await("the plan is ready", settled)
	})
	asked = d.handovers() - asked
	e, err := d.Evidence(t.Context())
	d.must(err)
	e.Shifts = d.etcd.Shifts()
	for _, violation := range append(e.Prove(), e.ProveGuards()...) {
		t.Error(violation)
	}
	without := d.during("unarbitrated", func() {
		for _, kind := range []string{"upgradeplan", "roster"} {
			_, err := d.Kubectl(t.Context(), "", "delete", "--namespace", d.Namespace, kind, harness.Group)
			d.must(err)
		}
		d.plainly(etcdLast)
	})

	t.Logf("%d members were restarted once each while clients wrote; duty was asked to move %d times, from %s to %s\n%s\nunder arbitration %s\nwithout           %s",
		etcd.Members, asked, first, with.after.Leader, etcdHeading, &with, &without)
	for _, w := range append(with.lost, with.report.Failed...) {
		t.Error(w)
	}
	if !slices.Equal(with.starts, []int{1, 1, 1, 1, 1}) {
		t.Errorf("the processes were started %v times", with.starts)
	}
	if with.elections() != asked || asked != 1 || first == with.after.Leader {
		t.Errorf("duty was asked to move %d times, and there were %d elections; %s led, and then %s", asked, with.elections(), first, with.after.Leader)
	}
	// Each process sees each election. One that is started finds a leader, and sees no change.
	if with.changes != etcd.Members*asked {
		t.Errorf("etcd's own metrics count %d changes of the leader, seen by %d members: %d were asked for", with.changes, etcd.Members, asked)
	}
	if n := len(e.Shifts); n != 2 {
		t.Errorf("the proof knows of %d times that somebody led", n)
	}
}

// handovers is how often the upgrader has asked the arbiter to move duty.
func (d *database) handovers() int {
	d.t.Helper()
	m, err := d.Scrape(d.t.Context(), harness.UpgraderA)
	d.must(err)
	return int(m.Sum("offduty_upgrader_handovers_total", map[string]string{"result": "requested"}))
}
