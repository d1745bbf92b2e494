package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
)

// The tests in this file apply config/default to a real API server and ask as different
// people for things, all as a dry run: admission decides, and nothing changes.

const (
	manifests = "../../config/default"
	samples   = "../../config/samples"
)

var (
	upgrader   = controlplane.ServiceAccount("offduty-system", "offduty-upgrader")
	arbiter    = controlplane.ServiceAccount("offduty-system", "offduty-arbiter")
	kruise     = controlplane.ServiceAccount("kruise-system", "kruise-manager")
	breakGlass = controlplane.User("fireman", "offduty:break-glass")
	admin      = controlplane.Admin()
	// tenant may change sets, pods, plans and rosters of the namespace.
	tenant = controlplane.User("tenant")
	// owner may do everything in the namespace, also through the status of objects.
	owner = controlplane.User("owner")
	// named may write plans, and patch only the sets and read only the Secret whose names
	// begin with "mine".
	named = controlplane.User("named")
	// stranger may write plans and nothing else.
	stranger = controlplane.User("stranger")
)

// site is a namespace with an armed set "sample", an unarmed one "free", and held pods.
type site struct {
	cluster   *controlplane.Cluster
	namespace string
	as        map[string]client.Client // by user name
}

// attempt is something that somebody tries. Its writes are dry runs.
type attempt func(context.Context, client.Client) error

// ruling is what is expected of an attempt: who is refused with which words, who is not.
type ruling struct {
	name    string
	do      attempt
	refused []controlplane.Identity
	words   string
	allowed []controlplane.Identity
}

func (s *site) check(t *testing.T, rulings []ruling) {
	t.Helper()
	for _, r := range rulings {
		for _, who := range r.refused {
			t.Run(r.name+" is refused to "+who.Username(), func(t *testing.T) {
				err := r.do(t.Context(), s.as[who.Username()])
				if err == nil || !strings.Contains(err.Error(), r.words) {
					t.Errorf("got %v, want a refusal with %q", err, r.words)
				}
			})
		}
		for _, who := range r.allowed {
			t.Run(r.name+" is allowed to "+who.Username(), func(t *testing.T) {
				if err := r.do(t.Context(), s.as[who.Username()]); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// everybodyElse are those who may change sets and pods, but are not the upgrader.
func everybodyElse(but ...controlplane.Identity) []controlplane.Identity {
	return slices.DeleteFunc([]controlplane.Identity{tenant, owner, admin, kruise}, func(i controlplane.Identity) bool {
		return slices.ContainsFunc(but, func(b controlplane.Identity) bool { return b.Username() == i.Username() })
	})
}

const oldSample = `{"apiVersion":"apps.kruise.io/v1alpha1","kind":"StatefulSet","metadata":{"name":"sample"}}`

func TestAnArmedSetKeepsItsProtection(t *testing.T) {
	s := newSite(t)
	s.create(t, s.plan("standing", []string{"sample"}, ""))
	kubelet := s.kubelet(t)
	oldScale := s.scale("v1alpha1", "sample")
	s.until(t, "the policy on scaling knows of the plan", func(ctx context.Context) error {
		if err := oldScale(ctx, s.as[admin.Username()]); err == nil {
			return errors.New("it may be scaled")
		}
		return nil
	})
	var (
		trusted = []controlplane.Identity{upgrader, breakGlass}
		users   = []controlplane.Identity{tenant, owner, admin}
	)
	s.check(t, []ruling{
		{
			name: "lowering the partition", do: s.patchSet("sample", `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}`),
			refused: everybodyElse(), words: "spec.updateStrategy of statefulset sample is the upgrader's", allowed: trusted,
		},
		{
			name: "allowing recreation", do: s.patchSet("sample", `{"spec":{"updateStrategy":{"rollingUpdate":{"podUpdatePolicy":"InPlaceIfPossible"}}}}`),
			refused: everybodyElse(), words: "Leave partition, priorities, podUpdatePolicy and maxUnavailable out", allowed: trusted,
		},
		{
			name: "changing maxUnavailable", do: s.patchSet("sample", `{"spec":{"updateStrategy":{"rollingUpdate":{"maxUnavailable":1}}}}`),
			refused: everybodyElse(), words: "spec.updateStrategy", allowed: trusted,
		},
		{
			name: "changing the priorities", do: s.patchSet("sample", `{"spec":{"updateStrategy":{"rollingUpdate":{"unorderedUpdate":null}}}}`),
			refused: everybodyElse(), words: "spec.updateStrategy", allowed: trusted,
		},
		{
			name: "taking the hook away", do: s.patchSet("sample", `{"spec":{"lifecycle":null}}`),
			refused: everybodyElse(), words: "spec.lifecycle.inPlaceUpdate of statefulset sample is the upgrader's", allowed: trusted,
		},
		{
			name: "changing the hook's label", do: s.patchSet("sample", `{"spec":{"lifecycle":{"inPlaceUpdate":{"labelsHandler":{"offduty.dev/hold":"false"}}}}}`),
			refused: everybodyElse(), words: "spec.lifecycle.inPlaceUpdate", allowed: trusted,
		},
		{
			name: "taking the annotation off", do: s.patchSet("sample", `{"metadata":{"annotations":{"offduty.dev/armed":null}}}`),
			refused: everybodyElse(), words: "the annotation offduty.dev/armed of statefulset sample is the upgrader's", allowed: trusted,
		},
		{
			name: "rewriting the annotation", do: s.patchSet("sample", `{"metadata":{"annotations":{"offduty.dev/armed":"{}"}}}`),
			refused: everybodyElse(), words: "the annotation offduty.dev/armed", allowed: trusted,
		},
		{
			name: "forging the annotation on another set", do: s.patchSet("free", `{"metadata":{"annotations":{"offduty.dev/armed":"{}"}}}`),
			refused: everybodyElse(), words: "the annotation offduty.dev/armed", allowed: trusted,
		},
		{
			name: "replacing the set by the manifest it came from", do: s.replaceSet("sample"),
			refused: users, words: "the annotation offduty.dev/armed", allowed: []controlplane.Identity{breakGlass},
		},
		{
			name: "writing through the old API version, which has no hook", do: s.patchOldSet("sample", `{"spec":{"replicas":1}}`),
			refused: append(users, trusted...), words: "use apps.kruise.io/v1beta1",
		},
		{
			name: "writing the status through the old API version", do: mergeStatus(s.object(t, oldSample), `{"status":{"replicas":2}}`),
			refused: everybodyElse(tenant), words: "use apps.kruise.io/v1beta1",
		},
		{
			name: "scaling through the old API version", do: oldScale,
			refused: []controlplane.Identity{owner, admin}, words: "scaling statefulset sample through apps.kruise.io/v1alpha1 would drop spec.lifecycle",
		},
		{
			name: "scaling through the new one", do: s.scale("v1beta1", "sample"),
			allowed: []controlplane.Identity{owner, admin},
		},
		{
			name: "scaling a set that is no plan's through the old API version", do: s.scale("v1alpha1", "free"),
			allowed: []controlplane.Identity{owner, admin},
		},
		{
			name: "applying the partition by force", do: s.forceSet("sample"),
			refused: users, words: "spec.updateStrategy of statefulset sample is the upgrader's", allowed: trusted,
		},
		{
			name:    "lowering the partition, by those who have no business with sets",
			do:      s.patchSet("sample", `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}`),
			refused: []controlplane.Identity{arbiter, kubelet, named, stranger}, words: "forbidden",
		},
		{
			name: "writing a set that is not armed through the old API version", do: s.patchOldSet("free", `{"spec":{"replicas":1}}`),
			allowed: users,
		},
		{
			name: "changing the image", do: s.jsonPatchSet("sample", `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"alpine:3.18.9"}]`),
			allowed: append(users, trusted...),
		},
		{name: "scaling", do: s.patchSet("sample", `{"spec":{"replicas":1}}`), allowed: append(users, trusted...)},
		{
			name: "adding another hook", do: s.patchSet("sample", `{"spec":{"lifecycle":{"preDelete":{"labelsHandler":{"example.com/wait":"true"}}}}}`),
			allowed: append(users, trusted...),
		},
		{name: "adding a label", do: s.patchSet("sample", `{"metadata":{"labels":{"team":"a"}}}`), allowed: append(users, trusted...)},
		{name: "writing the status", do: s.patchSetStatus("sample", `{"status":{"replicas":2}}`), allowed: []controlplane.Identity{kruise, upgrader}},
		{
			name: "changing the strategy of a set that is not armed", do: s.patchSet("free", `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":1}}}}`),
			allowed: append(users, trusted...),
		},
	})
}

func TestOnlyTheUpgraderTakesHoldsOffAndPutsGrantsOn(t *testing.T) {
	s := newSite(t)
	var (
		trusted   = []controlplane.Identity{upgrader, breakGlass}
		anybody   = append(everybodyElse(), arbiter)
		viaStatus = []controlplane.Identity{owner, admin, kruise, arbiter}
		holdWords = "only the upgrader takes the label offduty.dev/hold off pod sample-0"
		kubelet   = s.kubelet(t)
	)
	s.check(t, []ruling{
		{
			name: "taking a hold off", do: s.patchPod("sample-0", `{"metadata":{"labels":{"offduty.dev/hold":null}}}`),
			refused: anybody, words: holdWords, allowed: trusted,
		},
		{
			name: "making a hold false", do: s.patchPod("sample-0", `{"metadata":{"labels":{"offduty.dev/hold":"false"}}}`),
			refused: anybody, words: holdWords, allowed: trusted,
		},
		{
			name: "taking all labels off", do: s.patchPod("sample-0", `{"metadata":{"labels":null}}`),
			refused: anybody, words: holdWords,
		},
		{
			name: "taking a hold off through the status", do: s.patchPodStatus("sample-0", `{"metadata":{"labels":{"offduty.dev/hold":null}}}`),
			refused: viaStatus, words: holdWords, allowed: []controlplane.Identity{upgrader},
		},
		{
			name: "replacing the status of a pod without its labels", do: s.replacePodStatus("sample-0", withoutLabels),
			refused: []controlplane.Identity{owner, admin}, words: holdWords,
		},
		{
			// NodeRestriction is there first; the policy is for clusters without it.
			name: "taking a hold off through the status, on its node", do: s.patchPodStatus("sample-0", `{"metadata":{"labels":{"offduty.dev/hold":null}}}`),
			refused: []controlplane.Identity{kubelet}, words: "forbidden",
		},
		{
			name: "putting a grant on through the status, on its node", do: s.patchPodStatus("sample-0", `{"metadata":{"labels":{"offduty.dev/grant":"true"}}}`),
			refused: []controlplane.Identity{kubelet}, words: "forbidden",
		},
		{
			name: "writing a condition of a held pod, on its node", do: s.patchPodStatus("sample-0", `{"status":{"message":"it runs"}}`),
			allowed: []controlplane.Identity{kubelet, kruise, upgrader},
		},
		{
			name:    "taking a hold off through the status, which break-glass does not need",
			do:      s.patchPodStatus("sample-0", `{"metadata":{"labels":{"offduty.dev/hold":null}}}`),
			refused: []controlplane.Identity{breakGlass}, words: "cannot patch resource",
		},
		{
			name: "taking a hold off a pod made an orphan", do: s.patchPod("sample-0", `{"metadata":{"ownerReferences":null,"labels":{"offduty.dev/hold":null}}}`),
			refused: anybody, words: holdWords,
		},
		{
			name: "replacing a pod by one without labels", do: s.replacePod("sample-0", withoutLabels),
			refused: []controlplane.Identity{tenant, owner, admin}, words: holdWords, allowed: []controlplane.Identity{breakGlass},
		},
		{
			name: "putting a grant on", do: s.patchPod("sample-0", `{"metadata":{"labels":{"offduty.dev/grant":"true"}}}`),
			refused: anybody, words: "only the upgrader puts the label offduty.dev/grant on pod sample-0", allowed: trusted,
		},
		{
			name: "putting a grant on through the status", do: s.patchPodStatus("sample-0", `{"metadata":{"labels":{"offduty.dev/grant":"true"}}}`),
			refused: viaStatus, words: "only the upgrader puts the label offduty.dev/grant", allowed: []controlplane.Identity{upgrader},
		},
		{
			name: "putting a hold on again, with Kruise's state", do: s.patchPod("sample-1", `{"metadata":{"labels":{"offduty.dev/hold":"true","lifecycle.apps.kruise.io/state":"PreparingUpdate"}}}`),
			allowed: append(anybody, trusted...),
		},
		{
			name: "changing Kruise's state of a held pod", do: s.patchPod("sample-0", `{"metadata":{"labels":{"lifecycle.apps.kruise.io/state":"PreparingUpdate"}}}`),
			allowed: []controlplane.Identity{kruise, upgrader},
		},
		{
			name: "changing another label of a held pod", do: s.patchPod("sample-0", `{"metadata":{"labels":{"offduty.dev/duty":"idle"}}}`),
			allowed: append(anybody, trusted...),
		},
		{
			name:    "creating a pod whose template has hold and grant",
			do:      s.createPod(metav1.ObjectMeta{Labels: map[string]string{"offduty.dev/hold": "true", "offduty.dev/grant": "true"}}),
			allowed: []controlplane.Identity{kruise, admin},
		},
		{
			name: "deleting a held pod", do: func(ctx context.Context, k client.Client) error {
				return k.Delete(ctx, s.pod("sample-0"), client.DryRunAll)
			},
			allowed: []controlplane.Identity{tenant, kruise},
		},
	})
}

// notedTemplate patches a set so that each of its pods would be fenced when it is created.
const notedTemplate = `{"spec":{"template":{"metadata":{"annotations":{"offduty.dev/fenced":"9007199254740992"}}}}}`

func TestOnlyTheUpgraderAndTheArbiterWriteWhatLeasesAreKnownBy(t *testing.T) {
	s := newSite(t)
	var (
		trusted   = []controlplane.Identity{upgrader, breakGlass}
		everybody = everybodyElse()
		anybody   = append(everybodyElse(), arbiter)
		kubelet   = s.kubelet(t)
		scheduler = controlplane.User("system:kube-scheduler")
		// viaStatus may write the status of a pod, and with it annotations.
		viaStatus = []controlplane.Identity{owner, admin, kruise, kubelet}
		annotate  = func(pod, annotations string) attempt {
			return s.patchPod(pod, `{"metadata":{"annotations":`+annotations+`}}`)
		}
		annotateStatus = func(pod, annotations string) attempt {
			return s.patchPodStatus(pod, `{"metadata":{"annotations":`+annotations+`}}`)
		}
		born = func(annotations map[string]string) attempt {
			return s.createPod(metav1.ObjectMeta{Annotations: annotations})
		}
	)
	s.become(t, scheduler)
	const only = "only the upgrader changes "
	rulings := []ruling{
		{
			name: "a token that freezes the group", do: annotate("sample-0", `{"offduty.dev/fenced":"9007199254740991"}`),
			refused: everybody, words: only + "offduty.dev/fenced on pod sample-0", allowed: append(trusted, arbiter),
		},
		{
			name: "a token on a pod that has none", do: annotate("sample-1", `{"offduty.dev/fenced":"1"}`),
			refused: everybody, words: only + "offduty.dev/fenced on pod sample-1", allowed: append(trusted, arbiter),
		},
		{
			name: "taking a fence off", do: annotate("sample-0", `{"offduty.dev/fenced":null}`),
			refused: everybody, words: only + "offduty.dev/fenced", allowed: trusted,
		},
		{
			name: "a lease that nobody gave", do: annotate("sample-1", `{"offduty.dev/lease":"x-1/9007199254740991"}`),
			refused: anybody, words: only + "offduty.dev/lease on pod sample-1", allowed: trusted,
		},
		{
			name: "another token of the lease", do: annotate("sample-0", `{"offduty.dev/lease":"e-7/8"}`),
			refused: anybody, words: only + "offduty.dev/lease", allowed: trusted,
		},
		{
			name: "taking the lease off", do: annotate("sample-0", `{"offduty.dev/lease":null}`),
			refused: anybody, words: only + "offduty.dev/lease", allowed: trusted,
		},
		{
			name: "calling a revision verified", do: annotate("sample-1", `{"offduty.dev/verified":"sample-2"}`),
			refused: anybody, words: only + "offduty.dev/verified on pod sample-1", allowed: trusted,
		},
		{
			name: "calling no revision verified", do: annotate("sample-0", `{"offduty.dev/verified":null}`),
			refused: anybody, words: only + "offduty.dev/verified", allowed: trusted,
		},
		{
			name: "a fence and a lease at once", do: annotate("sample-0", `{"offduty.dev/fenced":"7","offduty.dev/lease":null}`),
			refused: anybody, words: only + "offduty.dev/lease, offduty.dev/fenced", allowed: trusted,
		},
		{
			name: "taking all annotations off", do: annotate("sample-0", `null`),
			refused: anybody, words: only + "offduty.dev/lease, offduty.dev/verified, offduty.dev/fenced",
		},
		{
			name: "replacing a pod by one without annotations", do: s.replacePod("sample-0", withoutAnnotations),
			refused: []controlplane.Identity{tenant, owner, admin}, words: only, allowed: []controlplane.Identity{breakGlass},
		},
		{
			name: "annotations of a pod made an orphan", do: s.patchPod("sample-0", `{"metadata":{"ownerReferences":null,"annotations":{"offduty.dev/fenced":"8"}}}`),
			refused: everybody, words: only,
		},
		{
			name: "applying a token by force", do: s.forceAnnotation("sample-1", "offduty.dev/fenced", "8"),
			refused: []controlplane.Identity{tenant, owner, admin}, words: only + "offduty.dev/fenced", allowed: trusted,
		},
		{
			name: "a token through the status", do: annotateStatus("sample-0", `{"offduty.dev/fenced":"8"}`),
			refused: viaStatus, words: only + "offduty.dev/fenced", allowed: []controlplane.Identity{upgrader, arbiter},
		},
		{
			name: "a lease through the status", do: annotateStatus("sample-0", `{"offduty.dev/lease":null}`),
			refused: append(viaStatus, arbiter), words: only + "offduty.dev/lease", allowed: []controlplane.Identity{upgrader},
		},
		{
			name: "replacing the status of a pod without its annotations", do: s.replacePodStatus("sample-0", withoutAnnotations),
			refused: []controlplane.Identity{owner, admin}, words: only,
		},
		{
			name: "any of it by those who have no business with pods", do: annotate("sample-0", `{"offduty.dev/fenced":"8"}`),
			refused: []controlplane.Identity{kubelet, named, stranger}, words: "forbidden",
		},
	}
	rulings = append(rulings, []ruling{
		{
			name: "another annotation of a pod that has them", do: annotate("sample-0", `{"example.com/note":"a","apps.kruise.io/inplace-update-grace":"{}"}`),
			allowed: append(anybody, trusted...),
		},
		{
			name: "writing the same again", do: annotate("sample-0", `{"offduty.dev/lease":"e-7/7"}`), allowed: append(anybody, trusted...),
		},
		{
			name: "the status of a pod that has them", do: s.patchPodStatus("sample-0", `{"status":{"message":"it runs"}}`),
			allowed: []controlplane.Identity{kubelet, kruise, upgrader, owner},
		},
		{
			name: "the image of a pod that has them", do: s.jsonPatchPod("sample-0", `[{"op":"replace","path":"/spec/containers/0/image","value":"alpine:3.18.9"}]`),
			allowed: []controlplane.Identity{kruise, tenant},
		},
		{
			// As a restore does, which puts the record back as well.
			name: "creating a pod that has them", do: born(map[string]string{"offduty.dev/fenced": "9007199254740991", "offduty.dev/verified": "sample-1"}),
			refused: []controlplane.Identity{tenant, kruise}, words: "may not create a pod with offduty.dev/verified, offduty.dev/fenced",
			allowed: []controlplane.Identity{owner, admin},
		},
		{name: "creating a pod that has others", do: born(map[string]string{"example.com/note": "a"}), allowed: []controlplane.Identity{tenant, kruise}},
		{
			name: "binding a pod to a node with them", do: s.bind("sample-1", "offduty.dev/fenced"),
			refused: []controlplane.Identity{scheduler}, words: "may not create a pod with offduty.dev/fenced",
		},
		{
			// The pod is bound already, which is found out after admission.
			name: "binding a pod to a node with others", do: s.bind("sample-1", "example.com/note"),
			refused: []controlplane.Identity{scheduler}, words: "already assigned to node",
		},
		{
			name: "putting them into the template of a set", do: s.patchSet("free", notedTemplate),
			refused: append(everybody, trusted...), words: "the template of statefulset free has offduty.dev/fenced",
		},
		{
			name: "putting them into the template of a set through the old API version", do: s.patchOldSet("free", notedTemplate),
			refused: []controlplane.Identity{tenant, owner, admin}, words: "the template of statefulset free has offduty.dev/fenced",
		},
		{
			name: "creating a set whose template has them", do: s.createNotedSet(t),
			refused: []controlplane.Identity{tenant, owner, admin}, words: "the template of statefulset noted has offduty.dev/fenced",
		},
		{
			name: "another annotation of a template", do: s.patchSet("free", `{"spec":{"template":{"metadata":{"annotations":{"example.com/note":"a"}}}}}`),
			allowed: []controlplane.Identity{tenant, owner, admin},
		},
	}...)
	s.check(t, rulings)
}

// The other subresources of a pod take no labels and no annotations: a patch of them is
// refused, or leaves both as they are.
func TestNoSubresourceOfAPodTakesAHoldOffOrPutsAGrantOn(t *testing.T) {
	s := newSite(t)
	for _, sub := range []string{"resize", "ephemeralcontainers"} {
		for _, who := range []controlplane.Identity{owner, admin, kruise, arbiter, breakGlass, s.kubelet(t)} {
			t.Run(sub+" by "+who.Username(), func(t *testing.T) {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "sample-0"}}
				patch := client.RawPatch(types.MergePatchType, []byte(
					`{"metadata":{"labels":{"offduty.dev/hold":null,"offduty.dev/grant":"true"},"annotations":{"offduty.dev/fenced":"9"}}}`))
				err := s.as[who.Username()].SubResource(sub).Patch(t.Context(), pod, patch, client.DryRunAll)
				if err == nil && (pod.Labels["offduty.dev/hold"] != "true" || pod.Labels["offduty.dev/grant"] == "true" || pod.Annotations["offduty.dev/fenced"] != "6") {
					t.Errorf("the labels are %v, the annotations %v", pod.Labels, pod.Annotations)
				}
			})
		}
	}
}

func TestWhoeverWritesAPlanMustBeAllowedToPatchItsTargets(t *testing.T) {
	s := newSite(t)
	all := make([]string, 0, 32)
	for i := range 32 {
		all = append(all, fmt.Sprintf("mine-%d", i))
	}
	oneForeign := slices.Concat(all[:31], []string{"theirs"})
	s.create(t, s.plan("standing", []string{"mine-0"}, ""))
	s.check(t, []ruling{
		{
			name: "a plan for a set", do: s.createPlan([]string{"sample"}, ""),
			refused: []controlplane.Identity{named, stranger}, words: "patch on statefulsets.apps.kruise.io named sample",
			allowed: []controlplane.Identity{tenant, owner, admin},
		},
		{
			name: "a plan for a set of one's own", do: s.createPlan([]string{"mine-0"}, ""),
			refused: []controlplane.Identity{stranger}, words: "stranger may not change", allowed: []controlplane.Identity{named, tenant},
		},
		{
			name: "a plan by those who have no business with plans", do: s.createPlan([]string{"sample"}, ""),
			refused: []controlplane.Identity{upgrader, arbiter, kruise, breakGlass, s.kubelet(t)}, words: "forbidden",
		},
		{
			name: "changing what a plan is for, by the upgrader", do: s.patchPlan("standing", `{"spec":{"targets":[{"name":"mine-0"},{"name":"sample"}],"arbiter":{"tls":{"secretName":"theirs"}}}}`),
			allowed: []controlplane.Identity{upgrader}, // it may patch sets and read secrets by itself
		},
		{
			name: "giving a plan another's Secret", do: s.patchPlan("standing", `{"spec":{"arbiter":{"tls":{"secretName":"theirs"}}}}`),
			refused: []controlplane.Identity{named, tenant, stranger}, words: "get on secrets named theirs", allowed: []controlplane.Identity{owner},
		},
		{name: "a plan for 32 sets", do: s.createPlan(all, ""), allowed: []controlplane.Identity{named, tenant}},
		{
			name: "a plan for 32 sets of which the last is another's", do: s.createPlan(oneForeign, ""),
			refused: []controlplane.Identity{named, stranger}, words: "patch on statefulsets.apps.kruise.io named ",
			allowed: []controlplane.Identity{tenant},
		},
		{
			name: "a plan with a Secret", do: s.createPlan([]string{"mine-0"}, "theirs"),
			refused: []controlplane.Identity{named, tenant}, words: "get on secrets named theirs", allowed: []controlplane.Identity{owner},
		},
		{
			name: "a roster with a Secret", do: s.createRoster("secretName", "theirs"),
			refused: []controlplane.Identity{tenant}, words: "get on secrets named theirs", allowed: []controlplane.Identity{owner},
		},
		{
			name: "a roster with a ConfigMap", do: s.createRoster("configMapName", "theirs"),
			refused: []controlplane.Identity{tenant}, words: "get on configmaps named theirs", allowed: []controlplane.Identity{admin},
		},
		{name: "a plan with a Secret of one's own", do: s.createPlan([]string{"mine-0"}, "mine"), allowed: []controlplane.Identity{named}},
		{
			name: "changing the images of a plan", do: s.patchPlan("standing", `{"spec":{"targets":[{"name":"mine-0","images":{"main":"evil:1"}}]}}`),
			refused: []controlplane.Identity{stranger}, words: "named mine-0", allowed: []controlplane.Identity{named, tenant},
		},
		{
			name: "adding a target to a plan", do: s.patchPlan("standing", `{"spec":{"targets":[{"name":"mine-0"},{"name":"sample"}]}}`),
			refused: []controlplane.Identity{named, stranger}, words: "named ", allowed: []controlplane.Identity{tenant},
		},
		{name: "labelling a plan", do: s.patchPlan("standing", `{"metadata":{"labels":{"team":"a"}}}`), allowed: []controlplane.Identity{stranger, tenant}},
		{
			name: "putting the finalizer on a plan", do: s.patchPlan("standing", `{"metadata":{"finalizers":["offduty.dev/targets"]}}`),
			allowed: []controlplane.Identity{upgrader},
		},
	})
}

func TestBadPlansAndRostersAreRefusedWithWordsThatHelp(t *testing.T) {
	s := newSite(t)
	plan := func(spec string) string {
		return `{"apiVersion":"offduty.dev/v1alpha1","kind":"UpgradePlan","metadata":{"name":"p"},"spec":` + spec + `}`
	}
	roster := func(spec string) string {
		return `{"apiVersion":"offduty.dev/v1alpha1","kind":"Roster","metadata":{"name":"r"},"spec":` + spec + `}`
	}
	observedRoster := func(observed string) string {
		return roster(`{"members":{"selector":{"matchLabels":{"a":"b"}}},"floor":{"minServing":1},"observed":` + observed + `}`)
	}
	const rest = `,"arbiter":{"group":"g"}`
	tests := []struct{ name, object, words string }{
		{"no target", plan(`{"targets":[]` + rest + `}`), "spec.targets"},
		{"a target twice", plan(`{"targets":[{"name":"a"},{"name":"a"}]` + rest + `}`), "Duplicate value"},
		{"an empty image", plan(`{"targets":[{"name":"a","images":{"main":""}}]` + rest + `}`), "non-empty reference"},
		{"no group", plan(`{"targets":[{"name":"a"}],"arbiter":{}}`), "spec.arbiter.group"},
		{"an address with a scheme", plan(`{"targets":[{"name":"a"}],"arbiter":{"group":"g","address":"https://a:1"}}`), "address must be host:port"},
		{"maxUnavailable 0", plan(`{"targets":[{"name":"a"}]` + rest + `,"strategy":{"maxUnavailable":0}}`), "maxUnavailable must be a count of at least 1"},
		{"maxUnavailable 0%", plan(`{"targets":[{"name":"a"}]` + rest + `,"strategy":{"maxUnavailable":"0%"}}`), "percentage from 1% to 100%"},
		{"an unknown handover", plan(`{"targets":[{"name":"a"}]` + rest + `,"strategy":{"handover":"Hope"}}`), `supported values: "Request", "Wait"`},
		{"Kruise's own gate", plan(`{"targets":[{"name":"a"}]` + rest + `,"strategy":{"drain":{"gate":"InPlaceUpdateReady"}}}`), "must not be a condition that Kruise or the kubelet writes"},
		{"our own label as working label", plan(`{"targets":[{"name":"a"}]` + rest + `,"workingLabel":"offduty.dev/hold"}`), "must not be one of Offduty's or Kruise's own labels"},
		{"a working label that is none", plan(`{"targets":[{"name":"a"}]` + rest + `,"workingLabel":"a b"}`), "workingLabel must be a valid label key"},
		{"no selector", roster(`{"members":{"selector":{}},"floor":{"minServing":1},"assigned":{"workers":1}}`), "members.selector must not be empty"},
		{"a floor of both kinds", roster(`{"members":{"selector":{"matchLabels":{"a":"b"}}},"floor":{"minServing":1,"voters":3},"assigned":{"workers":1}}`), "floor needs minServing with type MinServing"},
		{"a floor of no kind", roster(`{"members":{"selector":{"matchLabels":{"a":"b"}}},"floor":{},"assigned":{"workers":1}}`), "floor needs minServing with type MinServing"},
		{"workers by number and by name", roster(`{"members":{"selector":{"matchLabels":{"a":"b"}}},"floor":{"minServing":1},"assigned":{"workers":1,"working":["a-0"]}}`), "assigned needs either workers"},
		{"neither workers nor working", roster(`{"members":{"selector":{"matchLabels":{"a":"b"}}},"floor":{"minServing":1},"assigned":{}}`), "assigned needs either workers"},
		{"duty that is given and observed", roster(`{"members":{"selector":{"matchLabels":{"a":"b"}}},"floor":{"minServing":1},"assigned":{"workers":1},"observed":{"lease":{"name":"a"}}}`), "either assigned"},
		{"duty that is neither given nor observed", roster(`{"members":{"selector":{"matchLabels":{"a":"b"}}},"floor":{"minServing":1}}`), "either assigned"},
		{"two sources of duty", roster(`{"members":{"selector":{"matchLabels":{"a":"b"}}},"floor":{"minServing":1},"observed":{"lease":{"name":"a"},"pods":{"working":"true"}}}`), "observed needs one source"},
		{"no source of duty", roster(`{"members":{"selector":{"matchLabels":{"a":"b"}}},"floor":{"minServing":1},"observed":{}}`), "observed needs one source"},
		{"a number of holders of one lease", roster(`{"members":{"selector":{"matchLabels":{"a":"b"}}},"floor":{"minServing":1},"observed":{"workers":1,"lease":{"name":"a"}}}`), "workers is not for the source lease"},
		{"a member that is asked nothing", observedRoster(`{"http":{"port":80}}`), "http needs either path"},
		{"a member that is asked in two ways", observedRoster(`{"http":{"port":80,"path":"/","working":{"path":"/a"},"idle":{"path":"/b"}}}`), "http needs either path"},
		{"only one answer of two", observedRoster(`{"http":{"port":80,"working":{"path":"/a"}}}`), "http needs both working and idle"},
		{"a URL for a path", observedRoster(`{"http":{"port":80,"path":"http://evil/"}}`), "should match"},
		{"a path with a blank", observedRoster(`{"http":{"port":80,"path":"/a b"}}`), "should match"},
		{"a port that is none", observedRoster(`{"http":{"port":0,"path":"/"}}`), "port must be a number from 1 to 65535"},
		{"a port's name that is none", observedRoster(`{"http":{"port":"A:1","path":"/"}}`), "port must be a number from 1 to 65535"},
		{"TLS without HTTPS", observedRoster(`{"http":{"port":80,"path":"/","tls":{"secretName":"a"}}}`), "tls needs scheme HTTPS"},
		{"an answer that is too old before the next", observedRoster(`{"http":{"port":80,"path":"/","probe":{"periodSeconds":30}}}`), "maxAgeSeconds must be more"},
		{"one duty for both", observedRoster(`{"grpc":{"port":80,"health":{"working":"a","idle":"a"}}}`), "working and idle must be two services"},
		{"a handover that a health service cannot do", observedRoster(`{"grpc":{"port":80,"health":{"working":"a","idle":"b"},"handover":true}}`), "handover is for DutyService"},
		{"a lag without anybody who could take over", observedRoster(`{"grpc":{"port":80,"maxLagBytes":1}}`), "it needs handover"},
		{"a fitness without anybody who could take over", observedRoster(`{"http":{"port":80,"working":{"path":"/a"},"idle":{"path":"/b"},"fit":{"path":"/c"}}}`), "they need handover"},
		{"a handover to a URL", observedRoster(`{"http":{"port":80,"path":"/","handover":{"path":"http://example.com"}}}`), "handover.path"},
		{"two sources that are asked", observedRoster(`{"grpc":{"port":80},"http":{"port":80,"path":"/"}}`), "observed needs one source"},
		{"a lag that nobody tells", observedRoster(`{"http":{"port":80,"working":{"path":"/a"},"idle":{"path":"/b"},"handover":{"path":"/c"},"maxLagBytes":1}}`), "maxLagBytes is for path"},
		{"an expression that says nothing", roster(`{"members":{"selector":{"matchLabels":{"a":"b"}}},"floor":{"minServing":1},"observed":{"pods":{"working":""}}}`), "should be at least 1 chars long"},
		{"settling too fast", roster(`{"members":{"selector":{"matchLabels":{"a":"b"}}},"floor":{"minServing":1},"assigned":{"workers":1,"settleSeconds":5}}`), "greater than or equal to 120"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := s.as[admin.Username()].Create(t.Context(), s.object(t, tt.object), client.DryRunAll)
			if err == nil || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("got %v, want a refusal with %q", err, tt.words)
			}
		})
	}
	t.Run("the samples are accepted", func(t *testing.T) {
		for _, file := range []string{"roster.yaml", "plan.yaml"} {
			if err := s.as[tenant.Username()].Create(t.Context(), s.sample(t, file), client.DryRunAll); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	})
}

func TestTheManifestsRunUnderRestrictedPodSecurity(t *testing.T) {
	s := newSite(t)
	for _, name := range []string{"offduty-arbiter", "offduty-upgrader"} {
		err := controlplane.Until(t.Context(), "the pods of "+name, func(ctx context.Context) error {
			pods := &corev1.PodList{}
			err := s.as[admin.Username()].List(ctx, pods, client.InNamespace("offduty-system"), client.MatchingLabels{"app.kubernetes.io/name": name})
			if err == nil && len(pods.Items) == 0 {
				err = errors.New("there are none")
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestTheAPIServerFindsNoFaultWithThePolicies(t *testing.T) {
	s := newSite(t)
	for _, name := range []string{
		"offduty-armed-sets", "offduty-armed-sets-old-api", "offduty-armed-sets-old-scale", "offduty-holds-and-grants",
		"offduty-notes", "offduty-notes-in-templates", "offduty-plan-targets", "offduty-plan-targets-17-to-32",
	} {
		policy := &admissionv1.ValidatingAdmissionPolicy{}
		s.until(t, "the API server has looked at "+name, func(ctx context.Context) error {
			err := s.as[admin.Username()].Get(ctx, client.ObjectKey{Name: name}, policy)
			if err == nil && policy.Status.ObservedGeneration != policy.Generation {
				err = errors.New("not yet")
			}
			return err
		})
		if found := policy.Status.TypeChecking; found != nil && len(found.ExpressionWarnings) > 0 {
			t.Errorf("%s: %v", name, found.ExpressionWarnings)
		}
	}
}

// newSite applies the manifests and waits until they are in force.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{cluster: clustertest.Shared(t), namespace: clustertest.Namespace(t), as: map[string]client.Client{}}
	yaml, err := s.cluster.Kustomize(t.Context(), manifests)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cluster.Apply(t.Context(), yaml); err != nil {
		t.Fatal(err)
	}
	for _, who := range []controlplane.Identity{upgrader, arbiter, kruise, breakGlass, admin, tenant, owner, named, stranger} {
		s.become(t, who)
	}
	s.grantRights(t)
	s.createSets(t)
	s.awaitPods(t)
	s.await(t)
	return s
}

// grantRights gives the users their roles.
func (s *site) grantRights(t *testing.T) {
	t.Helper()
	var (
		mine  = make([]string, 0, 32)
		write = []string{"get", "list", "create", "update", "patch", "delete"}
		plans = rbacv1.PolicyRule{APIGroups: []string{"offduty.dev"}, Resources: []string{"upgradeplans", "rosters"}, Verbs: write}
	)
	for i := range 32 {
		mine = append(mine, fmt.Sprintf("mine-%d", i))
	}
	for who, rules := range map[string][]rbacv1.PolicyRule{
		tenant.Username(): {
			plans,
			{APIGroups: []string{"apps.kruise.io"}, Resources: []string{"statefulsets"}, Verbs: write},
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: write},
		},
		owner.Username(): {{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}},
		named.Username(): {
			plans,
			{APIGroups: []string{"apps.kruise.io"}, Resources: []string{"statefulsets"}, Verbs: []string{"patch"}, ResourceNames: mine},
			{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}, ResourceNames: []string{"mine"}},
		},
		stranger.Username(): {plans},
	} {
		meta := metav1.ObjectMeta{Namespace: s.namespace, Name: who}
		s.create(t, &rbacv1.Role{ObjectMeta: meta, Rules: rules})
		s.create(t, &rbacv1.RoleBinding{
			ObjectMeta: *meta.DeepCopy(),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: who},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: who}},
		})
	}
}

// createSets makes the sets "sample", armed by the upgrader, and "free", and holds sample-0.
func (s *site) createSets(t *testing.T) {
	t.Helper()
	for _, name := range []string{"sample", "free"} {
		set := s.sample(t, "sample.yaml")
		set.SetName(name)
		labels := map[string]any{"app": name}
		for path, value := range map[string]any{
			"spec.replicas": int64(2), "spec.selector.matchLabels": labels, "spec.template.metadata.labels": labels,
		} {
			if err := unstructured.SetNestedField(set.Object, value, strings.Split(path, ".")...); err != nil {
				t.Fatal(err)
			}
		}
		s.create(t, set)
	}
	patches := []struct {
		object client.Object
		patch  string
	}{
		{s.set("sample"), `{"metadata":{"annotations":{"offduty.dev/armed":"{\"protocol\":1}"}},"spec":{
			"lifecycle":{"inPlaceUpdate":{"labelsHandler":{"offduty.dev/hold":"true"}}},
			"updateStrategy":{"rollingUpdate":{"podUpdatePolicy":"InPlaceOnly","maxUnavailable":"100%","partition":2147483647,
				"unorderedUpdate":{"priorityStrategy":{"weightPriority":[{"weight":100,"matchSelector":{"matchLabels":{"offduty.dev/grant":"true"}}}]}}}}}}`},
		{s.pod("sample-0"), `{"metadata":{"labels":{"offduty.dev/hold":"true"},
			"annotations":{"offduty.dev/lease":"e-7/7","offduty.dev/verified":"sample-1","offduty.dev/fenced":"6"}}}`},
		{s.pod("sample-1"), `{"metadata":{"labels":{"team":"a"}}}`},
	}
	for _, p := range patches {
		err := controlplane.Until(t.Context(), "arming by the upgrader", func(ctx context.Context) error {
			return s.as[upgrader.Username()].Patch(ctx, p.object, client.RawPatch(types.MergePatchType, []byte(p.patch)))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// awaitPods waits until nobody has anything more to do to the pods that are asked about.
func (s *site) awaitPods(t *testing.T) {
	t.Helper()
	for _, name := range []string{"sample-0", "sample-1"} {
		s.until(t, name+" is ready", func(ctx context.Context) error {
			pod := &corev1.Pod{}
			if err := s.as[admin.Username()].Get(ctx, client.ObjectKey{Namespace: s.namespace, Name: name}, pod); err != nil {
				return err
			}
			if !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			}) {
				return fmt.Errorf("it is not: %+v", pod.Status.Conditions)
			}
			return nil
		})
	}
}

// await waits until each policy refuses what it must, and every role is in force: the API
// server learns of both a little later.
func (s *site) await(t *testing.T) {
	t.Helper()
	refused := map[string]attempt{
		"the policy on sets":      s.patchSet("sample", `{"spec":{"lifecycle":null}}`),
		"the policy on pods":      s.patchPod("sample-0", `{"metadata":{"labels":{"offduty.dev/hold":null}}}`),
		"the policy on notes":     s.patchPod("sample-0", `{"metadata":{"annotations":{"offduty.dev/fenced":null}}}`),
		"the policy on templates": s.patchSet("free", notedTemplate),
		"the policy on a target":  s.createPlan([]string{"sample"}, ""),
		"the policy on a roster":  s.createRoster("secretName", "theirs"),
	}
	for what, do := range refused {
		who := admin
		if what == "the policy on a target" || what == "the policy on a roster" {
			who = stranger
		}
		s.until(t, what, func(ctx context.Context) error {
			if err := do(ctx, s.as[who.Username()]); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
				return fmt.Errorf("not yet refused: %w", err)
			}
			return nil
		})
	}
	label := `{"metadata":{"labels":{"team":"a"}}}`
	for who, do := range map[string]attempt{
		tenant.Username():     s.patchSet("sample", label),
		owner.Username():      s.patchPodStatus("sample-0", label),
		breakGlass.Username(): s.patchPod("sample-0", label),
		named.Username():      s.createPlan([]string{"mine-0"}, "mine"),
	} {
		s.until(t, "the role of "+who, func(ctx context.Context) error { return do(ctx, s.as[who]) })
	}
}

func (s *site) until(t *testing.T, what string, ok func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := controlplane.Until(ctx, what, ok); err != nil {
		t.Fatal(err)
	}
}

func (s *site) create(t *testing.T, o client.Object) {
	t.Helper()
	err := controlplane.Until(t.Context(), "creating "+o.GetName(), func(ctx context.Context) error {
		return client.IgnoreAlreadyExists(s.as[admin.Username()].Create(ctx, o))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// object reads JSON; the object is put into the namespace of the site.
func (s *site) object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	u.SetNamespace(s.namespace)
	return u
}

func (s *site) sample(t *testing.T, file string) *unstructured.Unstructured {
	t.Helper()
	yaml, err := os.ReadFile(filepath.Join(samples, file))
	if err != nil {
		t.Fatal(err)
	}
	objects, err := controlplane.Decode(yaml)
	if err != nil {
		t.Fatal(err)
	}
	objects[0].SetNamespace(s.namespace)
	return objects[0]
}

func (s *site) set(name string) *unstructured.Unstructured {
	return s.named("apps.kruise.io", "v1beta1", "StatefulSet", name)
}

func (s *site) pod(name string) *unstructured.Unstructured { return s.named("", "v1", "Pod", name) }

func (s *site) named(group, version, kind, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: version, Kind: kind})
	u.SetNamespace(s.namespace)
	u.SetName(name)
	return u
}

func merge(o client.Object, patch string) attempt {
	return func(ctx context.Context, k client.Client) error {
		return k.Patch(ctx, o.DeepCopyObject().(client.Object), client.RawPatch(types.MergePatchType, []byte(patch)), client.DryRunAll)
	}
}

func mergeStatus(o client.Object, patch string) attempt {
	return func(ctx context.Context, k client.Client) error {
		return k.Status().Patch(ctx, o.DeepCopyObject().(client.Object), client.RawPatch(types.MergePatchType, []byte(patch)), client.DryRunAll)
	}
}

func (s *site) patchSet(name, patch string) attempt       { return merge(s.set(name), patch) }
func (s *site) patchSetStatus(name, patch string) attempt { return mergeStatus(s.set(name), patch) }
func (s *site) patchPod(name, patch string) attempt       { return merge(s.pod(name), patch) }
func (s *site) patchPodStatus(name, patch string) attempt { return mergeStatus(s.pod(name), patch) }

func (s *site) patchOldSet(name, patch string) attempt {
	return merge(s.named("apps.kruise.io", "v1alpha1", "StatefulSet", name), patch)
}

func (s *site) patchPlan(name, patch string) attempt {
	return merge(s.named("offduty.dev", "v1alpha1", "UpgradePlan", name), patch)
}

func (s *site) jsonPatchSet(name, patch string) attempt {
	return func(ctx context.Context, k client.Client) error {
		return k.Patch(ctx, s.set(name), client.RawPatch(types.JSONPatchType, []byte(patch)), client.DryRunAll)
	}
}

func (s *site) jsonPatchPod(name, patch string) attempt {
	return func(ctx context.Context, k client.Client) error {
		return k.Patch(ctx, s.pod(name), client.RawPatch(types.JSONPatchType, []byte(patch)), client.DryRunAll)
	}
}

// forceAnnotation does what `kubectl apply --server-side --force-conflicts` does.
func (s *site) forceAnnotation(pod, key, value string) attempt {
	return func(ctx context.Context, k client.Client) error {
		o := s.pod(pod)
		o.SetAnnotations(map[string]string{key: value})
		return k.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("gitops"), client.ForceOwnership, client.DryRunAll)
	}
}

// bind does what a scheduler does; the annotations of a binding are put on its pod.
func (s *site) bind(pod, annotation string) attempt {
	return func(ctx context.Context, k client.Client) error {
		meta := metav1.ObjectMeta{Namespace: s.namespace, Name: pod}
		noted := *meta.DeepCopy()
		noted.Annotations = map[string]string{annotation: "9007199254740991"}
		return k.SubResource("binding").Create(ctx, &corev1.Pod{ObjectMeta: meta}, &corev1.Binding{
			ObjectMeta: noted,
			Target:     corev1.ObjectReference{Kind: "Node", Name: "node-1"},
		}, client.DryRunAll)
	}
}

func (s *site) createNotedSet(t *testing.T) attempt {
	t.Helper()
	set := s.sample(t, "sample.yaml")
	set.SetName("noted")
	err := unstructured.SetNestedField(set.Object, "9007199254740992", "spec", "template", "metadata", "annotations", "offduty.dev/fenced")
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, k client.Client) error {
		return k.Create(ctx, set.DeepCopy(), client.DryRunAll)
	}
}

// become makes a client of somebody whom not every site needs.
func (s *site) become(t *testing.T, who controlplane.Identity) {
	t.Helper()
	k, err := s.cluster.Client(t.Context(), who, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.as[who.Username()] = k
}

// kubelet is the one of the node on which sample-0 runs.
func (s *site) kubelet(t *testing.T) controlplane.Identity {
	t.Helper()
	pod := &corev1.Pod{}
	s.until(t, "sample-0 has a node", func(ctx context.Context) error {
		err := s.as[admin.Username()].Get(ctx, client.ObjectKey{Namespace: s.namespace, Name: "sample-0"}, pod)
		if err == nil && pod.Spec.NodeName == "" {
			err = errors.New("it has none")
		}
		return err
	})
	who := controlplane.User("system:node:"+pod.Spec.NodeName, "system:nodes")
	s.become(t, who)
	return who
}

// scale is kubectl scale through a version of Kruise's API.
func (s *site) scale(version, name string) attempt {
	return func(ctx context.Context, k client.Client) error {
		set := s.named("apps.kruise.io", version, "StatefulSet", name)
		body := client.WithSubResourceBody(&autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: 3}})
		return k.SubResource("scale").Update(ctx, set, body, client.DryRunAll)
	}
}

// forceSet does what `kubectl apply --server-side --force-conflicts` does with a manifest
// that names the partition.
func (s *site) forceSet(name string) attempt {
	return func(ctx context.Context, k client.Client) error {
		set := s.set(name)
		set.Object["spec"] = map[string]any{"updateStrategy": map[string]any{"rollingUpdate": map[string]any{"partition": int64(0)}}}
		return k.Apply(ctx, client.ApplyConfigurationFromUnstructured(set), client.FieldOwner("gitops"), client.ForceOwnership, client.DryRunAll)
	}
}

// replacePod does what `kubectl replace` does with the pod as it is but for a change.
func (s *site) replacePod(name string, change func(*unstructured.Unstructured)) attempt {
	return s.changePod(name, change, func(ctx context.Context, k client.Client, pod *unstructured.Unstructured) error {
		return k.Update(ctx, pod, client.DryRunAll)
	})
}

func (s *site) replacePodStatus(name string, change func(*unstructured.Unstructured)) attempt {
	return s.changePod(name, change, func(ctx context.Context, k client.Client, pod *unstructured.Unstructured) error {
		return k.Status().Update(ctx, pod, client.DryRunAll)
	})
}

func (s *site) changePod(
	name string, change func(*unstructured.Unstructured), write func(context.Context, client.Client, *unstructured.Unstructured) error,
) attempt {
	return replaced(s.pod(name), change, write)
}

// replaced reads an object, changes it and writes it, again where somebody else was quicker.
func replaced(
	o *unstructured.Unstructured, change func(*unstructured.Unstructured), write func(context.Context, client.Client, *unstructured.Unstructured) error,
) attempt {
	return func(ctx context.Context, k client.Client) error {
		return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			o := o.DeepCopy()
			if err := k.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
				return err
			}
			change(o)
			return write(ctx, k, o)
		})
	}
}

func withoutLabels(u *unstructured.Unstructured)      { u.SetLabels(nil) }
func withoutAnnotations(u *unstructured.Unstructured) { u.SetAnnotations(nil) }

// replaceSet does what `kubectl replace` does with the manifest from before arming.
func (s *site) replaceSet(name string) attempt {
	return replaced(s.set(name), func(set *unstructured.Unstructured) {
		set.SetAnnotations(nil)
		unstructured.RemoveNestedField(set.Object, "spec", "lifecycle")
		unstructured.RemoveNestedField(set.Object, "spec", "updateStrategy", "rollingUpdate")
	}, func(ctx context.Context, k client.Client, set *unstructured.Unstructured) error {
		return k.Update(ctx, set, client.DryRunAll)
	})
}

func (s *site) createPod(meta metav1.ObjectMeta) attempt {
	meta.Namespace, meta.Name = s.namespace, "born"
	return func(ctx context.Context, k client.Client) error {
		return k.Create(ctx, &corev1.Pod{
			ObjectMeta: meta,
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "alpine:3.18.2"}}},
		}, client.DryRunAll)
	}
}

// plan upgrades the targets; secret may be empty.
func (s *site) plan(name string, targets []string, secret string) *unstructured.Unstructured {
	list := make([]any, 0, len(targets))
	for _, t := range targets {
		list = append(list, map[string]any{"name": t})
	}
	arbiter := map[string]any{"group": "g"}
	if secret != "" {
		arbiter["tls"] = map[string]any{"secretName": secret}
	}
	u := s.named("offduty.dev", "v1alpha1", "UpgradePlan", name)
	u.Object["spec"] = map[string]any{"targets": list, "arbiter": arbiter}
	return u
}

// createRoster creates an observed roster whose tls names an object.
func (s *site) createRoster(field, name string) attempt {
	return func(ctx context.Context, k client.Client) error {
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "offduty.dev/v1alpha1", "kind": "Roster", "spec": map[string]any{
			"members": map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"a": "b"}}}, "floor": map[string]any{"minServing": int64(1)},
			"observed": map[string]any{"http": map[string]any{
				"port": int64(80), "path": "/", "scheme": "HTTPS", "tls": map[string]any{field: name},
			}},
		}}}
		o.SetNamespace(s.namespace)
		o.SetName("tried")
		return k.Create(ctx, o, client.DryRunAll)
	}
}

func (s *site) createPlan(targets []string, secret string) attempt {
	return func(ctx context.Context, k client.Client) error {
		return k.Create(ctx, s.plan("tried", targets, secret), client.DryRunAll)
	}
}
