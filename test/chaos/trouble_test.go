package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// trouble is one kind of things that go wrong, or that somebody does.
type trouble struct {
	name string
	// on names what it befalls, in one order for all troubles. No two befall the same at a
	// time.
	on func(e event) []string
	// weight is how many cards of it there are in the deck.
	weight int
	// How long it lasts, from and to; 0: it is done when it is done.
	shortest, longest time.Duration
	// befall returns when the trouble is over.
	befall func(ctx context.Context, a *act, e event) error
}

// What troubles befall that is no process.
const (
	upgradersWay   = "the upgraders' way to the arbiter"
	applicationWay = "the application's way to the arbiter"
	admission      = "admission"
	pods           = "pods"
	user           = "the user"
)

var upgraders = []string{harness.UpgraderA, harness.UpgraderB}

// troubles are all kinds. Frozen processes and broken ways last shorter and longer than a
// lease (harness.LeaseTTL) and a leadership term (3 s).
func troubles() []trouble {
	all := []trouble{{
		name: "the leader is frozen until the other upgrader leads", weight: 2, shortest: 0, longest: 2 * time.Second,
		on: func(event) []string { return upgraders }, befall: overtake,
	}, {
		name: "the upgrader's writes are denied", weight: 2, shortest: 2 * time.Second, longest: 8 * time.Second,
		on: only(admission), befall: deny,
	}}
	for _, p := range []struct {
		name   string
		weight int
		on     func(event) []string
	}{
		{"an upgrader", 2, func(e event) []string { return upgraders[e.chance%2 : e.chance%2+1] }},
		{"the arbiter", 2, only(harness.ArbiterProcess)},
		{"Kruise", 1, only(controlplane.Kruise)},
		{"the API server", 1, only(controlplane.APIServer)},
		{"etcd", 1, only(controlplane.Etcd)},
	} {
		all = append(all,
			trouble{name: p.name + " is killed", weight: p.weight, on: p.on, shortest: 0, longest: 4 * time.Second, befall: killed},
			trouble{name: p.name + " is frozen", weight: p.weight, on: p.on, shortest: time.Second, longest: 9 * time.Second, befall: frozen})
	}
	for _, w := range []struct {
		name   string
		weight int
	}{{upgradersWay, 1}, {applicationWay, 1}} {
		all = append(all,
			trouble{name: w.name + " is cut", weight: w.weight, on: only(w.name), shortest: time.Second, longest: 8 * time.Second, befall: faulty(harness.Cut)},
			trouble{name: w.name + " is slow", weight: w.weight, on: only(w.name), shortest: 3 * time.Second, longest: 8 * time.Second, befall: faulty(harness.Delayed)},
			trouble{name: w.name + " is half-open", weight: w.weight, on: only(w.name), shortest: 2 * time.Second, longest: 12 * time.Second, befall: faulty(harness.HalfOpen)})
	}
	for _, u := range []struct {
		name   string
		befall func(context.Context, *act, event) error
	}{
		{"duty is moved", moveDuty},
		{"duty is moved as fast as possible", flip},
		{"the plan is paused and resumed", pauseAndResume},
		{"the plan gets a newer image", newerImage},
		{"the plan is taken back", undo},
		{"the plan is deleted and made again", remake},
		{"the set is scaled and scaled back", scale},
	} {
		all = append(all, trouble{name: u.name, weight: 1, on: only(user), shortest: time.Second, longest: 4 * time.Second, befall: u.befall})
	}
	return append(all, trouble{name: "a pod is deleted", weight: 2, on: only(pods), befall: deletePod})
}

// cutsOffTheKubelet says whether writes to the API server may have failed. A kubelet tries
// again; kwok, which stands for it, gives up after errors that it does not know.
func (e event) cutsOffTheKubelet() bool {
	return slices.ContainsFunc(e.trouble.on(e), func(what string) bool {
		return what == controlplane.APIServer || what == controlplane.Etcd
	})
}

// only is a trouble that always befalls the same.
func only(what string) func(event) []string { return func(event) []string { return []string{what} } }

func killed(ctx context.Context, a *act, e event) error {
	name := e.trouble.on(e)[0]
	defer a.keeper.keepDown(name)()
	if err := a.Kill(name); err != nil {
		return err
	}
	pause(ctx, e.lasts)
	return nil
}

func frozen(ctx context.Context, a *act, e event) error {
	name := e.trouble.on(e)[0]
	if err := a.freeze(ctx, name); err != nil {
		return err
	}
	pause(ctx, e.lasts)
	return a.Thaw(name)
}

// freeze waits for a process that is just being started again.
func (a *act) freeze(ctx context.Context, name string) error {
	return a.insist(ctx, "freeze "+name, func(context.Context) error { return a.Freeze(name) })
}

// overtake freezes the leader for as long as it takes the other upgrader to lead, and a
// little longer: then there are two that believe that they lead.
func overtake(ctx context.Context, a *act, e event) error {
	var leader string
	if err := a.insist(ctx, "find the leader", func(ctx context.Context) (err error) {
		leader, err = a.leader(ctx)
		return err
	}); err != nil {
		return err
	}
	if err := a.freeze(ctx, leader); err != nil {
		return err
	}
	err := a.insist(ctx, "the other upgrader leads", func(ctx context.Context) error {
		other := upgraders[(slices.Index(upgraders, leader)+1)%2]
		leads, err := a.leads(ctx, other)
		if err == nil && !leads {
			err = fmt.Errorf("%s does not", other)
		}
		return err
	})
	pause(ctx, e.lasts)
	return errors.Join(err, a.Thaw(leader))
}

// leader is the upgrader that says that it leads.
func (a *act) leader(ctx context.Context) (string, error) {
	var problems []error
	for _, name := range upgraders {
		leads, err := a.leads(ctx, name)
		if leads {
			return name, nil
		}
		problems = append(problems, err)
	}
	return "", fmt.Errorf("no upgrader leads: %w", errors.Join(problems...))
}

func (a *act) leads(ctx context.Context, name string) (bool, error) {
	m, err := a.Scrape(ctx, name)
	return m.Sum("leader_election_master_status", nil) == 1, err
}

func faulty(fault harness.Fault) func(context.Context, *act, event) error {
	return func(ctx context.Context, a *act, e event) error {
		way := a.ways[e.trouble.on(e)[0]]
		way.Set(fault, time.Duration(e.chance%uint64(2*time.Second)))
		pause(ctx, e.lasts)
		way.Set(harness.NoFault, 0)
		return nil
	}
}

// denied are the resources of which the upgrader's writes may be denied.
var denied = []struct{ name, group, resource string }{
	{"pods", "", "pods"},
	{"gates", "", "pods/status"},
	{"sets", "apps.kruise.io", "statefulsets"},
	{"plans", "offduty.dev", "upgradeplans/status"},
	{"armed-plans", "offduty.dev", "upgradeplans"},
}

// policies deny the upgrader its writes wherever they are bound, which they are not yet.
func policies() string {
	var all string
	for _, d := range denied {
		all += fmt.Sprintf(`---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: chaos-%s
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [%q], apiVersions: ["*"], operations: [UPDATE], resources: [%s]}
  matchConditions:
  - name: who
    expression: request.userInfo.username == %q
  validations:
  - expression: "false"
    message: %s
    reason: Forbidden
`, d.name, d.group, d.resource, harness.UpgraderAccount.Username(), denial)
	}
	return all
}

const denial = "denied by chaos"

func deny(ctx context.Context, a *act, e event) error {
	name := denied[e.chance%uint64(len(denied))].name
	binding := fmt.Sprintf(`apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: chaos
spec:
  policyName: chaos-%s
  validationActions: [Deny]
`, name)
	if err := a.insist(ctx, "deny "+name, func(ctx context.Context) error { return a.Apply(ctx, binding) }); err != nil {
		return err
	}
	pause(ctx, e.lasts)
	return a.insist(ctx, "allow "+name, func(ctx context.Context) error {
		_, err := a.Kubectl(ctx, "", "delete", "validatingadmissionpolicybinding", "chaos", "--ignore-not-found")
		return err
	})
}

// deletePod deletes the pod that is at the event's step or, half of the time, any other. One
// time in four it is gone at once, as when its node is.
func deletePod(ctx context.Context, a *act, e event) error {
	name := a.struck(e)
	if names := a.podNames(); len(names) > 0 && (name == "" || e.chance&1 == 0) {
		name = names[e.chance>>8%uint64(len(names))]
	}
	var options []client.DeleteOption
	if e.chance>>1&3 == 0 {
		options = append(options, client.GracePeriodSeconds(0))
	}
	return a.insist(ctx, "delete "+name, func(ctx context.Context) error {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: a.Namespace, Name: name}}
		return client.IgnoreNotFound(a.admin.Delete(ctx, pod, options...))
	})
}

func moveDuty(ctx context.Context, a *act, e event) error {
	assigned := harness.Slots(int(1 + e.chance>>8%3))
	if e.chance&1 == 0 {
		first := int(e.chance >> 8 % 5)
		assigned = harness.Named(first, (first+1)%5, (first+2)%5)
	}
	return a.insist(ctx, "move duty", func(ctx context.Context) error { return a.Assign(ctx, assigned) })
}

// flip asks for other workers all the time. Some of it fails when something else goes wrong.
func flip(ctx context.Context, a *act, e event) error {
	f, err := a.Flip(ctx, e.chance&1 == 0, e.chance)
	if err != nil {
		return err
	}
	pause(ctx, e.lasts)
	flips, _ := f.Stop()
	a.book.add("times that duty was asked to move", flips)
	return nil
}

func pauseAndResume(ctx context.Context, a *act, e event) error {
	if err := a.patchPlan(ctx, `{"spec":{"paused":true}}`); err != nil {
		return err
	}
	pause(ctx, e.lasts)
	return a.patchPlan(ctx, `{"spec":{"paused":false}}`)
}

func newerImage(ctx context.Context, a *act, _ event) error {
	a.want(a.nextImage())
	return a.applyPlan(ctx)
}

func undo(ctx context.Context, a *act, _ event) error {
	a.want(a.previous)
	return a.applyPlan(ctx)
}

func remake(ctx context.Context, a *act, e event) error {
	err := a.insist(ctx, "delete the plan", func(ctx context.Context) error {
		_, err := a.Kubectl(ctx, "", "delete", "upgradeplan", harness.Group, "--namespace", a.Namespace, "--wait=false", "--ignore-not-found")
		return err
	})
	if err != nil {
		return err
	}
	return a.applyPlan(ctx)
}

func scale(ctx context.Context, a *act, e event) error {
	if err := a.scale(ctx, []int{3, 4, 6, 7}[e.chance%4]); err != nil {
		return err
	}
	pause(ctx, e.lasts)
	return a.scale(ctx, replicas)
}
