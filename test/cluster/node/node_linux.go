package node

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/binaries"
	"offduty.dev/test/cluster/controlplane"
)

// Names of the node's daemons; Kill, Freeze and Restart of controlplane.Cluster know them.
const (
	Containerd = "containerd"
	Kubelet    = "kubelet"
	KubeProxy  = "kube-proxy"
)

const (
	pauseImage  = "offduty.test/pause:1"
	kruiseImage = "openkruise/kruise-manager:test"

	socket = "/run/containerd/containerd.sock"
	// patience bounds each wait of the start, on a loaded machine.
	patience = 3 * time.Minute
)

//go:embed containerd.toml
var containerdConfig string

//go:embed kubelet.yaml
var kubeletConfig string

//go:embed cni.json
var cniConfig string

// Node is a real node together with its control plane.
type Node struct {
	*controlplane.Cluster

	dir      string
	log      io.Writer
	set      binaries.Set
	packages packages
	env      []string
}

// start starts everything and returns when pods run and Kruise's sets can be created.
func start(ctx context.Context, dir string, log io.Writer) (*Node, error) {
	target, err := os.Readlink(packageFolder(dir))
	if err != nil {
		return nil, err
	}
	n := &Node{dir: dir, log: log, packages: packages(target)}
	if n.env, err = n.packages.environment(); err != nil {
		return nil, err
	}
	if n.set, err = binaries.Ensure(ctx, log); err != nil {
		return nil, err
	}
	n.Cluster, err = controlplane.Start(ctx, controlplane.Options{
		Dir: filepath.Join(logs(dir), "cluster"), Log: log, KeepLogs: true, WithoutKruise: true, NodeAddress: Address,
	})
	if err != nil {
		return nil, err
	}
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"containerd, with " + n.version(ctx, "containerd"), n.startContainerd},
		{"images", n.importImages},
		{"kubelet and kube-proxy", n.startKubelet},
		{"Kruise, as a pod", n.startKruise},
	} {
		began := time.Now()
		if err := step.run(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Fprintf(log, "  %-44s %5.1f s\n", step.name, time.Since(began).Seconds())
	}
	return n, nil
}

// version says which version of a Debian package runs.
func (n *Node) version(ctx context.Context, program string) string {
	out, err := n.run(ctx, n.packages.path("usr", "bin", program), "--version")
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out)
}

// run runs one of the Debian programs.
func (n *Node) run(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), n.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(program), err, out)
	}
	return string(out), nil
}

func (n *Node) ctr(ctx context.Context, args ...string) (string, error) {
	return n.run(ctx, n.packages.path("usr", "bin", "ctr"), append([]string{"--address", socket, "--namespace", "k8s.io"}, args...)...)
}

// write writes a configuration with its words in braces replaced, and returns its path.
func (n *Node) write(name, text string) (string, error) {
	text = strings.NewReplacer(
		"{{address}}", Address, "{{ca}}", filepath.Join(n.Dir(), "pki", "ca.crt"), "{{domain}}", domain,
		"{{packages}}", string(n.packages), "{{pause}}", pauseImage, "{{pods}}", pods,
		"{{socket}}", socket, "{{state}}", state(n.dir),
	).Replace(text)
	path := state(n.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// await waits until check answers nil, or the daemon has ended; then it quotes its log.
func (n *Node) await(ctx context.Context, daemon, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p, err := n.Process(daemon)
	if err != nil {
		return err
	}
	err = controlplane.Until(ctx, what, func(ctx context.Context) error {
		if !p.Running() {
			return controlplane.Permanent(fmt.Errorf("%s ended: %w", daemon, p.Wait()))
		}
		return check(ctx)
	})
	if err != nil {
		return fmt.Errorf("%w; the end of %s:\n%s", err, p.Log(), p.LogTail(15))
	}
	return nil
}

func (n *Node) startContainerd(ctx context.Context) error {
	if _, err := n.write("cni/pods.conflist", cniConfig); err != nil {
		return err
	}
	config, err := n.write("containerd.toml", containerdConfig)
	if err != nil {
		return err
	}
	if _, err := n.StartProcess(Containerd, []string{n.packages.path("usr", "bin", "containerd"), "--config", config}, n.env...); err != nil {
		return err
	}
	return n.await(ctx, Containerd, "containerd answers", func(ctx context.Context) error {
		_, err := n.ctr(ctx, "version")
		return err
	})
}

// importImages imports archives of images, and OCI image layouts, which are folders.
func (n *Node) importImages(ctx context.Context) error {
	entries, err := os.ReadDir(imageFolder(n.dir))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		file := filepath.Join(imageFolder(n.dir), entry.Name())
		if entry.IsDir() {
			archive := state(n.dir, entry.Name()+".tar")
			if _, err := n.run(ctx, n.packages.busybox(), "tar", "-c", "-f", archive, "-C", file, "."); err != nil {
				return fmt.Errorf("archive the images of %s: %w", entry.Name(), err)
			}
			file = archive
		}
		if _, err := n.ctr(ctx, "images", "import", file); err != nil {
			return fmt.Errorf("import the images of %s: %w", entry.Name(), err)
		}
	}
	return nil
}

// startKubelet starts the kubelet and what pods need to find each other.
func (n *Node) startKubelet(ctx context.Context) error {
	config, err := n.write("kubelet.yaml", kubeletConfig)
	if err != nil {
		return err
	}
	account, err := n.Kubeconfig(ctx, controlplane.User("system:node:"+Name, "system:nodes"))
	if err != nil {
		return err
	}
	_, err = n.StartProcess(Kubelet, []string{
		n.set.Kubelet, "--config=" + config, "--kubeconfig=" + account, "--hostname-override=" + Name, "--node-ip=" + Address, "--v=2",
		// The logs of containers go with them; by default only the last life's stay.
		"--maximum-dead-containers-per-container=100",
	}, n.env...)
	if err != nil {
		return err
	}
	if err := errors.Join(n.startProxy(ctx), n.startNames(ctx)); err != nil {
		return err
	}
	admin, err := n.Client(ctx, controlplane.Admin(), nil)
	if err != nil {
		return err
	}
	return n.await(ctx, Kubelet, "the node is ready", func(ctx context.Context) error {
		var node corev1.Node
		if err := admin.Get(ctx, client.ObjectKey{Name: Name}, &node); err != nil {
			return err
		}
		if len(node.Spec.Taints) > 0 {
			return fmt.Errorf("it has the taint %s", node.Spec.Taints[0].Key)
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %v", node.Status.Conditions)
	})
}

// startProxy starts kube-proxy, for the addresses of Services. Its limits on tracked
// connections are those of the machine.
func (n *Node) startProxy(ctx context.Context) error {
	account, err := n.Kubeconfig(ctx, controlplane.User("system:kube-proxy"))
	if err != nil {
		return err
	}
	_, err = n.StartProcess(KubeProxy, []string{
		n.set.KubeProxy, "--kubeconfig=" + account, "--hostname-override=" + Name, "--bind-address=" + Address,
		"--proxy-mode=nftables", "--cluster-cidr=" + pods,
		"--conntrack-max-per-core=0", "--conntrack-min=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
	}, n.env...)
	return err
}

func (n *Node) startNames(ctx context.Context) error {
	admin, err := n.Client(ctx, controlplane.Admin(), nil)
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp", Address+":53")
	if err != nil {
		return fmt.Errorf("serve the names of Services: %w", err)
	}
	go names{services: admin, conn: conn}.serve(context.WithoutCancel(ctx))
	return nil
}

// startKruise installs Kruise's own manifests, its Deployment among them. Its daemon is
// left out: it pulls images and restarts containers on demand, which nobody here asks for.
func (n *Node) startKruise(ctx context.Context) error {
	manifests, err := os.ReadFile(n.set.KruiseManifests)
	if err != nil {
		return fmt.Errorf("read Kruise's manifests: %w", err)
	}
	objects, err := controlplane.Decode(manifests)
	if err != nil {
		return err
	}
	var installed []*unstructured.Unstructured
	for _, object := range objects {
		switch object.GetKind() {
		case "DaemonSet":
			continue
		case "Deployment":
			if err := adapt(object); err != nil {
				return fmt.Errorf("adapt Kruise's Deployment: %w", err)
			}
		}
		installed = append(installed, object)
	}
	if err := n.ApplyObjects(ctx, installed...); err != nil {
		return err
	}
	return n.AwaitAdmission(ctx, true)
}

// adapt gives Kruise's manager our image, which cannot be pulled, and the features of a
// cluster without its daemon; alpha features stay off, as in its Helm chart.
func adapt(deployment *unstructured.Unstructured) error {
	containers, _, err := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
	if err != nil {
		return err
	}
	if len(containers) != 1 {
		return fmt.Errorf("it has %d containers, not one", len(containers))
	}
	manager, _ := containers[0].(map[string]any)
	manager["image"], manager["imagePullPolicy"] = kruiseImage, "IfNotPresent"
	manager["args"] = []any{"--enable-leader-election", "--logtostderr=true", "--v=3", "--feature-gates=KruiseDaemon=false"}
	return unstructured.SetNestedSlice(deployment.Object, containers, "spec", "template", "spec", "containers")
}

// KillContainer kills the first process of a container, and so all of them, with SIGKILL;
// the kubelet will notice. id is as in the status of its pod.
func (n *Node) KillContainer(ctx context.Context, id string) error {
	_, err := n.ctr(ctx, "tasks", "kill", "--signal", "SIGKILL", strings.TrimPrefix(id, "containerd://"))
	return err
}
