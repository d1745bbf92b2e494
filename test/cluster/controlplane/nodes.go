package controlplane

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

//go:embed kwok.yaml
var kwokConfiguration string

const (
	defaultNodes = 3
	// simulated marks the nodes that kwok looks after, so that a real kubelet's
	// node could stand beside them.
	simulated = "sim.offduty.dev/node"
)

// expressions are the jq expressions of kwok.yaml. The first defines what the
// others share: whether a container status (the input) is of the image that its
// spec $c names.
func expressions() map[string]string {
	const current = `def current($c): if ((.containerID // "") | startswith("containerd://samedigest"))` +
		` then (.containerID | startswith("containerd://" + ($c.image | split(":") | last) + ".")) else .image == $c.image end; `
	const anyContainer = `. as $p | any(.spec.containers[]; . as $c | `
	const status = `any($p.status.containerStatuses[]?; .name == $c.name and `
	return map[string]string{
		"to stop":  current + anyContainer + status + `.state.running != null and (current($c) | not)))`,
		"to start": anyContainer + `($c.image | test(":(broken|crash)[^/]*$") | not) and ` + status + `.state.running == null))`,
		"to fail":  anyContainer + status + `.state.running == null and (` + unsettledPull + ` or ` + unsettledCrash + `)))`,
		"changing": current + anyContainer + status + `(.state.running == null or (current($c) | not))))`,
		"gates are open": `. as $p | [.spec.readinessGates[]?.conditionType] | ` +
			`all(.[]; . as $gate | any($p.status.conditions[]?; .type == $gate and .status == "True"))`,
	}
}

// A failing container is settled once its status tells of the failure of the
// very image that the spec $c names.
const (
	unsettledPull  = `(($c.image | test(":broken[^/]*$")) and ((.state.waiting.message // "") | contains("\"" + $c.image + "\"") | not))`
	unsettledCrash = `(($c.image | test(":crash[^/]*$")) and (.state.waiting.reason != "CrashLoopBackOff" or .image != $c.image))`
)

// configuration is kwok.yaml with its expressions filled in.
func configuration() []byte {
	var pairs []string
	for name, expression := range expressions() {
		pairs = append(pairs, "<<"+name+">>", expression)
	}
	return []byte(strings.NewReplacer(pairs...).Replace(kwokConfiguration))
}

// startNodes starts kwok and creates n nodes; it returns when all take pods.
func (c *Cluster) startNodes(ctx context.Context, n int) error {
	if n == 0 {
		n = defaultNodes
	}
	if err := os.WriteFile(c.file("kwok.yaml"), configuration(), 0o600); err != nil {
		return fmt.Errorf("write kwok's configuration: %w", err)
	}
	// A user of its own, so that the audit log tells kwok's writes from ours.
	config, err := c.Kubeconfig(ctx, User(Kwok, "system:masters"))
	if err != nil {
		return err
	}
	kwok := c.spec(Kwok, c.binaries.Kwok,
		"--kubeconfig="+config,
		"--config="+c.file("kwok.yaml"),
		"--manage-all-nodes=false",
		"--manage-nodes-with-annotation-selector="+simulated+"=true",
		// No node leases: a kwok that is killed would leave them behind, and its
		// successor would touch no pod until they have run out.
		"--node-lease-duration-seconds=0",
		"--cidr=10.0.0.0/16",
		"--node-ip=10.99.0.2",
		"--server-address="+local(c.listen.kwok),
	)
	if _, err := c.launch(kwok, healthy("http://"+local(c.listen.kwok)+"/healthz")); err != nil {
		return err
	}
	if err := c.awaitReady(ctx, Kwok); err != nil {
		return err
	}
	return c.createNodes(ctx, n)
}

func (c *Cluster) createNodes(ctx context.Context, n int) error {
	admin, err := c.Client(ctx, Admin(), nil)
	if err != nil {
		return err
	}
	for i := range n {
		if err := admin.Create(ctx, node(i)); err != nil {
			return fmt.Errorf("create a simulated node: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return Until(ctx, "all nodes take pods", func(ctx context.Context) error {
		var nodes corev1.NodeList
		if err := admin.List(ctx, &nodes); err != nil {
			return err
		}
		for _, node := range nodes.Items {
			if len(node.Spec.Taints) > 0 {
				return fmt.Errorf("node %s has the taint %s", node.Name, node.Spec.Taints[0].Key)
			}
		}
		return nil
	})
}

func node(i int) *corev1.Node {
	name := fmt.Sprintf("node-%d", i)
	size := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("64"),
		corev1.ResourceMemory: resource.MustParse("256Gi"),
		corev1.ResourcePods:   resource.MustParse("1000"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{simulated: "true"},
			Labels: map[string]string{
				corev1.LabelHostname:   name,
				corev1.LabelOSStable:   "linux",
				corev1.LabelArchStable: "amd64",
			},
		},
		Status: corev1.NodeStatus{Allocatable: size, Capacity: size},
	}
}
