package tenancy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	arbiter "offduty.dev/arbiter/client"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

func TestAnOperatorForSomeNamespaces(t *testing.T) {
	s := install(t)
	mirror(t, s, "team-b", "own")
	stages := begin(t, s)
	for _, namespace := range teams {
		t.Run("a plan of "+namespace+" is carried out", func(t *testing.T) {
			await(t, stages[namespace], "the plan is ready", settled)
		})
	}
	t.Run("a lease that runs out is fenced", func(t *testing.T) { runOut(t, s, stages["team-a"]) })
	t.Run("certificates and their authority are replaced under a plan", func(t *testing.T) { rotate(t, s, stages) })
	t.Run("a plan of another namespace is not touched", func(t *testing.T) { untouched(t, stages[outside]) })
	t.Run("neither may do anything elsewhere", func(t *testing.T) { nothingElse(t, s) })
	t.Run("each right was used, and nothing was done without one", func(t *testing.T) {
		_, err := stages["team-a"].Evidence(t.Context()) // waits for the audit log
		must(t, err)
		checkRights(t, s, harness.UpgraderAccount)
		checkRights(t, s, harness.ArbiterAccount)
	})
	t.Run("nobody complains in the logs", func(t *testing.T) {
		for _, name := range []string{harness.ArbiterProcess, harness.UpgraderA} {
			log, err := os.ReadFile(filepath.Join(s.Cluster.LogDir(), name+".log"))
			must(t, err)
			if i := strings.Index(string(log), "forbidden"); i >= 0 {
				t.Errorf("%s: ...%s", name, log[max(0, i-300):min(len(log), i+300)])
			}
		}
	})
}

// begin makes the same in all three namespaces; the plan of team-b has a Secret of its own.
func begin(t *testing.T, s *harness.System) map[string]*harness.Stage {
	t.Helper()
	plan := harness.PlanManifest(harness.NewImage, "{maxUnavailable: 2}")
	own := fmt.Sprintf("group: sample\n    address: %s\n    tls: {secretName: own}", s.ArbiterAddress)
	plans := map[string]string{"team-a": plan, "team-b": strings.Replace(plan, "group: sample", own, 1), outside: plan}
	stages := map[string]*harness.Stage{}
	for namespace := range plans {
		st := stage(t, s, namespace)
		stages[namespace] = st
		must(t, st.Apply(t.Context(), harness.RosterManifest(harness.Slots(2))))
		must(t, st.Apply(t.Context(), harness.SetManifest("offduty.dev/in-service")))
	}
	for namespace, st := range stages {
		await(t, st, "five pods run", running)
		must(t, st.Apply(t.Context(), plans[namespace]))
	}
	return stages
}

// nothingElse asks the API server what neither may do.
func nothingElse(t *testing.T, s *harness.System) {
	t.Helper()
	kinds := []string{"pods", "statefulsets.apps.kruise.io", "upgradeplans.offduty.dev", "rosters.offduty.dev", "secrets"}
	for _, who := range []controlplane.Identity{harness.UpgraderAccount, harness.ArbiterAccount} {
		for _, kind := range kinds {
			for _, verb := range []string{"get", "list", "watch", "patch", "update", "create"} {
				mayNot(t, s, who, verb, kind, "--namespace", outside)
			}
			mayNot(t, s, who, "delete", kind, "--namespace", "team-a")
		}
		mayNot(t, s, who, "list", "pods", "--all-namespaces")
		mayNot(t, s, who, "list", "secrets", "--namespace", "team-a")
		mayNot(t, s, who, "create", "tokenreviews.authentication.k8s.io")
		mayNot(t, s, who, "impersonate", "users")
		mayNot(t, s, who, "get", "nodes")
	}
	mayNot(t, s, harness.ArbiterAccount, "patch", "statefulsets.apps.kruise.io", "--namespace", "team-a")
	mayNot(t, s, harness.ArbiterAccount, "get", "secrets", "--namespace", "team-a")
	mayNot(t, s, harness.UpgraderAccount, "patch", "rosters.offduty.dev", "--namespace", "team-a")
	mayNot(t, s, harness.UpgraderAccount, "get", "secrets/offduty-arbiter-ca", "--namespace", harness.SystemNamespace)
}

// untouched wants a namespace to be as its people made it.
func untouched(t *testing.T, st *harness.Stage) {
	t.Helper()
	n := st.History.Now()
	if p := n.Plans[harness.Group]; len(p.Status.Conditions) > 0 {
		t.Errorf("the plan has a status: %+v", p.Status)
	}
	if r := n.Rosters[harness.Group]; len(r.Status.Conditions) > 0 {
		t.Errorf("the roster has a status: %+v", r.Status)
	}
	if k := n.Sets[harness.Group]; k.Armed != "" {
		t.Errorf("the set is armed: %s", k.Armed)
	}
	e, err := st.Evidence(t.Context())
	must(t, err)
	if i := slices.IndexFunc(e.Writes, harness.Write.Ours); i >= 0 {
		t.Errorf("the upgrader wrote: %+v", e.Writes[i])
	}
	out, err := st.Kubectl(t.Context(), "", "get", "upgradeplan", harness.Group, "--namespace", st.Namespace, "--output", "jsonpath={.metadata.finalizers}")
	must(t, err)
	if out != "" {
		t.Errorf("the plan has finalizers %s", out)
	}
}

// runOut takes a lease and does not renew it; the arbiter fences the pod and ends it.
func runOut(t *testing.T, s *harness.System, st *harness.Stage) {
	t.Helper()
	k, err := s.Arbiter("upgrader")
	must(t, err)
	defer func() { must(t, k.Close()) }()
	group := st.Namespace + "/" + harness.Group
	a, no, err := k.Adopt(t.Context(), group, "a test", 1, "a test", nil)
	must(t, err)
	if no != nil {
		t.Fatal(no)
	}
	state, err := k.List(t.Context(), group)
	must(t, err)
	i := slices.IndexFunc(state.Replicas, func(r arbiter.Replica) bool { return r.Duty == arbiter.DutyIdle })
	if i < 0 {
		t.Fatalf("nobody is idle: %+v", state.Replicas)
	}
	r := state.Replicas[i]
	res, no, err := k.Acquire(t.Context(), arbiter.AcquireRequest{
		Group: group, Holder: "a test", Token: a.Token, RequestID: "1", Max: 1, TTL: time.Second,
		Candidates: []arbiter.Candidate{{Replica: r.Name, Instance: r.Instance}},
	})
	must(t, err)
	if no != nil || len(res.Leases) != 1 {
		t.Fatalf("no lease on %s: %v %+v", r.Name, no, res)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, controlplane.Until(ctx, "the lease has run out", func(ctx context.Context) error {
		state, err := k.List(ctx, group)
		if err != nil {
			return err
		}
		if now, _ := state.Replica(r.Name); now.Lease != nil {
			return errors.New("it is there")
		}
		return nil
	}))
	_, err = k.Retire(t.Context(), group, "a test", a.Token)
	must(t, err)
}
