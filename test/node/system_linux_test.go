package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/cluster/node"
	"offduty.dev/test/e2e/harness"
)

// patience is how long a step may take on a loaded machine.
const patience = 3 * time.Minute

// system is the node with Offduty on it; its methods fail the test.
type system struct {
	*node.Node
	t     *testing.T
	admin client.Client
}

// install puts the manifests onto the node as a user would, and waits for the pods.
func install(t *testing.T) *system {
	t.Helper()
	n := node.Shared(t)
	admin, err := n.Client(t.Context(), controlplane.Admin(), nil)
	s := &system{Node: n, t: t, admin: admin}
	s.must(err)
	s.kubectl("", "apply", "--server-side", "-k", filepath.Join("testdata", "install"))
	for _, name := range []string{"offduty-arbiter", "offduty-upgrader"} {
		s.until(name+" is available", func(ctx context.Context) error { return s.available(ctx, name) })
	}
	t.Logf("Kruise and Offduty run as pods:\n%s", s.kubectl("", "get", "pods", "--all-namespaces", "--output", "wide"))
	return s
}

func (s *system) available(ctx context.Context, name string) error {
	var d appsv1.Deployment
	if err := s.admin.Get(ctx, client.ObjectKey{Namespace: harness.SystemNamespace, Name: name}, &d); err != nil {
		return err
	}
	if d.Status.AvailableReplicas == *d.Spec.Replicas && d.Status.UpdatedReplicas == *d.Spec.Replicas {
		return nil
	}
	var pods corev1.PodList
	if err := s.admin.List(ctx, &pods, client.InNamespace(harness.SystemNamespace), client.MatchingLabels(d.Spec.Selector.MatchLabels)); err != nil {
		return err
	}
	var problems []string
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Waiting != nil {
				problems = append(problems, fmt.Sprintf("%s waits: %s %s", p.Name, c.State.Waiting.Reason, c.State.Waiting.Message))
			}
		}
	}
	return fmt.Errorf("%d of %d are: %s", d.Status.AvailableReplicas, *d.Spec.Replicas, strings.Join(problems, "; "))
}

func (s *system) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *system) until(what string, check func(context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, what, check))
}

// kubectl runs kubectl as administrator and returns what it prints.
func (s *system) kubectl(stdin string, args ...string) string {
	s.t.Helper()
	config, err := s.Kubeconfig(s.t.Context(), controlplane.Admin())
	s.must(err)
	cmd := exec.CommandContext(s.t.Context(), s.Kubectl(), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+config, "KUBECACHEDIR="+filepath.Join(s.Dir(), "kubectl-cache"))
	cmd.Stdin = strings.NewReader(stdin)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, &problems)
	}
	return out.String()
}

// namespace makes a namespace whose pods can attend.
func (s *system) namespace(name string) {
	s.t.Helper()
	s.must(s.admin.Create(s.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	var secret corev1.Secret
	s.must(s.admin.Get(s.t.Context(), client.ObjectKey{Namespace: harness.SystemNamespace, Name: "offduty-attendant-tls"}, &secret))
	s.must(s.admin.Create(s.t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: secret.Name}, Type: secret.Type, Data: secret.Data,
	}))
}

// leader is the pod of the upgrader that leads.
func (s *system) leader(ctx context.Context) (corev1.Pod, error) {
	var pod corev1.Pod
	var lease coordinationv1.Lease
	if err := s.admin.Get(ctx, client.ObjectKey{Namespace: harness.SystemNamespace, Name: "offduty-upgrader"}, &lease); err != nil {
		return pod, err
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return pod, errors.New("nobody leads")
	}
	name, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	err := s.admin.Get(ctx, client.ObjectKey{Namespace: harness.SystemNamespace, Name: name}, &pod)
	return pod, err
}

// shifts are what the replicas of a namespace said on their standard output: since when
// they work, and until when, in all lives of their containers.
func shifts(namespace string) ([]harness.Shift, error) {
	files, err := filepath.Glob(filepath.Join("/var/log/pods", namespace+"_*", "main", "*.log"))
	if err != nil {
		return nil, err
	}
	var all []harness.Shift
	for _, file := range files {
		words := strings.Split(filepath.Base(filepath.Dir(filepath.Dir(file))), "_")
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		said, err := shiftsOf(words[1], words[2], string(data))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		all = append(all, said...)
	}
	slices.SortFunc(all, func(a, b harness.Shift) int { return a.From.Compare(b.From) })
	return all, nil
}

// shiftsOf reads the log of one life of one container, in the format of the CRI: time,
// stream, a tag, and the line.
func shiftsOf(pod, uid, log string) ([]harness.Shift, error) {
	var all []harness.Shift
	for text := range strings.Lines(log) {
		fields := strings.SplitN(text, " ", 4)
		if len(fields) < 4 || fields[1] != "stdout" {
			continue
		}
		var said struct {
			Time    time.Time
			Working bool
		}
		if err := json.Unmarshal([]byte(fields[3]), &said); err != nil {
			return nil, err
		}
		switch {
		case said.Working:
			all = append(all, harness.Shift{Pod: pod, UID: uid, From: said.Time})
		case len(all) > 0:
			all[len(all)-1].To = said.Time
		}
	}
	return all, nil
}

// working are the names of the pods that work now.
func working(namespace string) ([]string, error) {
	all, err := shifts(namespace)
	var names []string
	for _, s := range all {
		if s.To.IsZero() {
			names = append(names, s.Pod)
		}
	}
	slices.Sort(names)
	return names, err
}
