package tenancy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// right is one verb on one kind in one namespace, with an object's name if it is limited
// to that.
type right struct{ namespace, group, resource, verb, name string }

func (r right) String() string {
	return fmt.Sprintf("%s %s.%s %s in %s", r.verb, r.resource, r.group, r.name, r.namespace)
}

// rights are those of a service account, read from the Roles that are bound to it.
func rights(t *testing.T, k client.Client, who controlplane.Identity) map[right]bool {
	t.Helper()
	var bindings rbacv1.RoleBindingList
	must(t, k.List(t.Context(), &bindings))
	out := map[right]bool{}
	for _, b := range bindings.Items {
		if !slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool {
			return "system:serviceaccount:"+s.Namespace+":"+s.Name == who.Username()
		}) {
			continue
		}
		var role rbacv1.Role
		must(t, k.Get(t.Context(), client.ObjectKey{Namespace: b.Namespace, Name: b.RoleRef.Name}, &role))
		for _, rule := range role.Rules {
			maps.Copy(out, rightsOf(b.Namespace, rule))
		}
	}
	return out
}

func rightsOf(namespace string, rule rbacv1.PolicyRule) map[right]bool {
	out := map[right]bool{}
	names := rule.ResourceNames
	if len(names) == 0 {
		names = []string{""}
	}
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				for _, name := range names {
					out[right{namespace, group, resource, verb, name}] = true
				}
			}
		}
	}
	return out
}

// used are the rights that requests of an account have needed. A request that several
// rules would allow counts for the one with the name.
func used(granted map[right]bool, events []controlplane.AuditEvent) (out map[right]bool, without []string) {
	out = map[right]bool{}
	for _, e := range events {
		if e.Resource == "" {
			continue // discovery, which everybody may
		}
		resource := e.Resource
		if e.Subresource != "" {
			resource += "/" + e.Subresource
		}
		r := right{e.Namespace, e.Group, resource, e.Verb, e.Name}
		if !granted[r] {
			r.name = ""
		}
		if !granted[r] || e.Code == 403 {
			without = append(without, fmt.Sprintf("%s %s: code %d", e.Verb, e.URI, e.Code))
			continue
		}
		out[r] = true
	}
	return out, without
}

// rare are rights that a run need not come to use, and when it does.
var rare = map[string]string{
	"patch statefulsets.apps.kruise.io/status": "only when Kruise leaves status.currentRevision behind at the end of a rollout",
	"patch events.events.k8s.io":               "only when the same event happens again, as its series",
	"list pods":                                streams,
	"list controllerrevisions.apps":            streams,
	"list statefulsets.apps.kruise.io":         streams,
	"list upgradeplans.offduty.dev":            streams,
	"list rosters.offduty.dev":                 streams,
}

// streams: a watch may begin with what is there; client-go lists where it cannot.
const streams = "only where the API server cannot begin a watch with what there is (WatchList)"

func kindOf(r right) string {
	resource, sub, _ := strings.Cut(r.resource, "/")
	k := r.verb + " " + resource
	if r.group != "" {
		k += "." + r.group
	}
	if sub != "" {
		k += "/" + sub
	}
	return k
}

// checkRights holds what an account may do against what it did.
func checkRights(t *testing.T, s *harness.System, who controlplane.Identity) {
	t.Helper()
	admin, err := s.Cluster.Client(t.Context(), controlplane.Admin(), nil)
	must(t, err)
	granted := rights(t, admin, who)
	if len(granted) == 0 {
		t.Fatalf("%s has no Role", who.Username())
	}
	events, err := s.Cluster.AuditSince(0, func(e controlplane.AuditEvent) bool { return e.User == who.Username() })
	must(t, err)
	was, without := used(granted, events)
	for _, w := range without {
		t.Errorf("%s did without a Role that allows it: %s", who.Username(), w)
	}
	// A right is needed if it was used in one namespace.
	kinds := map[string]bool{}
	for r := range was {
		kinds[kindOf(r)] = true
	}
	idle := map[string]bool{}
	for r := range granted {
		if k := kindOf(r); !kinds[k] && rare[k] == "" {
			idle[k] = true
		}
	}
	for _, k := range slices.Sorted(maps.Keys(idle)) {
		t.Errorf("%s may %s and never did: take it out of config/rbac, or say in this test when it is needed", who.Username(), k)
	}
	t.Logf("%s made %d requests, which used %d of its %d rights", who.Username(), len(events), len(was), len(granted))
}

// mayNot wants kubectl auth can-i to say no.
func mayNot(t *testing.T, s *harness.System, who controlplane.Identity, ask ...string) {
	t.Helper()
	args := append([]string{"auth", "can-i", "--as", who.Username()}, ask...)
	out, err := s.Kubectl(t.Context(), "", args...)
	if strings.TrimSpace(out) != "no" {
		t.Errorf("%s may %s: %q, %v", who.Username(), strings.Join(ask, " "), out, err)
	}
}
