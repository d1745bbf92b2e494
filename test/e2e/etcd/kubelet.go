package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/cluster/daemon"
	"offduty.dev/test/e2e/harness"
)

// Gate is the readiness gate in which the kubelet's probe of the process is shown.
const Gate = "etcd.example.com/serves"

// Members is how many there are; a set must have as many replicas.
const Members = 5

const (
	// probePeriod is how often the kubelet asks the process whether it serves.
	probePeriod = 100 * time.Millisecond
	// stopGrace is how long a process has to end by itself.
	stopGrace = 20 * time.Second
	// retryPeriod is how soon the kubelet tries again what did not succeed.
	retryPeriod = time.Second
)

// Kubelet runs the members of an etcd cluster for the pods of one set.
type Kubelet struct {
	cluster   *controlplane.Cluster
	client    client.WithWatch
	namespace string
	set       string
	binary    string
	// port is that of clients, peers that of members; metrics that of /readyz and /metrics. They
	// are the same at each member's address.
	port, peers, metrics int

	cancel  context.CancelFunc
	running sync.WaitGroup
	members []*member
}

// member is the container of one pod.
type member struct {
	*Kubelet
	name    string
	ordinal int
	// latest is the pod as it was seen last; nil: gone.
	latest chan *corev1.Pod

	mu sync.Mutex
	// container is whose process this is; starts counts them.
	container string
	process   *daemon.Process
	starts    int
	// uid is the pod's.
	uid string
	// shifts are when it said that it leads.
	shifts []harness.Shift
	// changes of the leader, as those have counted them that have ended.
	changes float64
	err     error
}

// Run begins to play the kubelet for the pods of a set. Stop ends it and the processes.
func Run(ctx context.Context, c *controlplane.Cluster, namespace, set string) (*Kubelet, error) {
	// kwok is the rest of the kubelet, and the audit log knows both under one name.
	k, err := c.Client(ctx, controlplane.User(controlplane.Kwok, "system:masters"), nil)
	if err != nil {
		return nil, err
	}
	b := &Kubelet{cluster: c, client: k, namespace: namespace, set: set}
	if b.binary, err = binary(c); err != nil {
		return nil, err
	}
	for _, port := range []*int{&b.port, &b.peers, &b.metrics} {
		if *port, err = c.FreePort(); err != nil {
			return nil, err
		}
	}
	ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for i := range Members {
		m := &member{Kubelet: b, name: fmt.Sprintf("%s-%d", set, i), ordinal: i, latest: make(chan *corev1.Pod, 1)}
		b.members = append(b.members, m)
		b.running.Go(func() { m.run(ctx) })
		b.running.Go(func() { m.lead(ctx) })
	}
	b.running.Go(func() { b.follow(ctx) })
	return b, nil
}

// binary is etcd: the program of all Kubernetes daemons, called by its name.
func binary(c *controlplane.Cluster) (string, error) {
	all, err := filepath.EvalSymlinks(c.Kubectl())
	if err != nil {
		return "", fmt.Errorf("find the program of etcd: %w", err)
	}
	dir := filepath.Join(c.Dir(), "bin", "members")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make a folder for etcd: %w", err)
	}
	link := filepath.Join(dir, "etcd")
	if err := os.Symlink(all, link); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("name the program of etcd: %w", err)
	}
	return link, nil
}

// Port is where the members serve clients, each at its own address.
func (b *Kubelet) Port() int { return b.port }

// Stop ends the kubelet and the processes, and returns what did not succeed last.
func (b *Kubelet) Stop() error {
	b.cancel()
	b.running.Wait()
	var problems []error
	for _, m := range b.members {
		m.mu.Lock()
		if m.process != nil {
			problems = append(problems, m.process.Kill())
		}
		problems = append(problems, m.err)
		m.mu.Unlock()
	}
	return errors.Join(problems...)
}

// Starts is how often the process of each member was started.
func (b *Kubelet) Starts() []int {
	var out []int
	for _, m := range b.members {
		m.mu.Lock()
		out = append(out, m.starts)
		m.mu.Unlock()
	}
	return out
}

// follow watches the pods, and begins anew when the watch breaks off.
func (b *Kubelet) follow(ctx context.Context) {
	for ctx.Err() == nil {
		b.watch(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(probePeriod):
		}
	}
}

func (b *Kubelet) watch(ctx context.Context) {
	w, err := b.client.Watch(ctx, &corev1.PodList{}, client.InNamespace(b.namespace))
	if err != nil {
		return // the API server is down; again soon
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if !ok {
			return
		}
		for _, m := range b.members {
			if m.name != pod.Name {
				continue
			}
			if event.Type == watch.Deleted {
				pod = nil
			}
			m.tell(pod)
			break
		}
	}
}

// tell replaces what the member has not looked at yet.
func (m *member) tell(pod *corev1.Pod) {
	select {
	case <-m.latest:
	default:
	}
	m.latest <- pod
}

// run keeps the process in line with the pod.
func (m *member) run(ctx context.Context) {
	var pod *corev1.Pod
	for {
		wait := time.After(probePeriod)
		if err := m.sync(ctx, pod); err != nil && ctx.Err() == nil {
			m.note(err)
			wait = time.After(retryPeriod)
		} else {
			m.note(nil)
		}
		select {
		case <-ctx.Done():
			return
		case pod = <-m.latest:
		case <-wait:
		}
	}
}

func (m *member) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// sync does what the status says of the container, and shows in the pod what became of it.
func (m *member) sync(ctx context.Context, pod *corev1.Pod) error {
	if m.process != nil && !m.process.Running() {
		return fmt.Errorf("the etcd of %s ended by itself: %w; the end of its log:\n%s", m.name, m.process.Wait(), m.process.LogTail(20))
	}
	want := ""
	if pod != nil {
		want = container(pod)
	}
	if m.container != "" && m.container != want {
		// Unready first, as when the kubelet stops a container.
		if pod != nil {
			if err := m.show(ctx, pod, false); err != nil {
				return err
			}
		}
		return m.stop(ctx)
	}
	if pod == nil || want == "" {
		return nil
	}
	if pod.Status.PodIP != m.address() {
		return m.patch(ctx, pod, map[string]any{"podIP": m.address(), "podIPs": []map[string]string{{"$patch": "replace"}, {"ip": m.address()}}})
	}
	if m.container == "" {
		return m.start(want, pod.UID)
	}
	return m.show(ctx, pod, m.serves(ctx))
}

// container is the id of the container that is to run; empty: none.
func container(pod *corev1.Pod) string {
	for i := range pod.Status.ContainerStatuses {
		if s := &pod.Status.ContainerStatuses[i]; s.State.Running != nil {
			return s.ContainerID
		}
	}
	return ""
}

// address is the pod's own: all of 127/8 is this machine.
func (m *member) address() string { return address(m.ordinal) }

func address(ordinal int) string { return fmt.Sprintf("127.0.84.%d", ordinal+1) }

func url(host string, port int) string { return "http://" + host + ":" + strconv.Itoa(port) }

func (m *member) start(container string, uid types.UID) error {
	client, peer := url(m.address(), m.port), url(m.address(), m.peers)
	var all []string
	for i := range Members {
		all = append(all, fmt.Sprintf("%s-%d=%s", m.set, i, url(address(i), m.peers)))
	}
	p, err := m.cluster.StartProcess(m.namespace+"-"+m.name, []string{
		m.binary, "--name=" + m.name, "--data-dir=" + filepath.Join(m.cluster.Dir(), m.namespace+"-"+m.name),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + strings.Join(all, ","), "--initial-cluster-token=" + m.namespace,
		"--listen-metrics-urls=" + url(m.address(), m.metrics),
		// A machine that is busy for seconds is no reason to elect anybody.
		"--heartbeat-interval=200", "--election-timeout=5000",
		// What is killed is a process and not the machine: its writes are in the page cache.
		"--unsafe-no-fsync",
		"--log-level=warn",
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.container, m.process, m.uid = container, p, string(uid)
	m.starts++
	return nil
}

// stop ends the process as the kubelet does. What it has counted is read before.
func (m *member) stop(ctx context.Context) error {
	changes, err := m.leaderChanges(ctx)
	if err != nil {
		return fmt.Errorf("read the metrics of %s before its end: %w", m.name, err)
	}
	if err := m.process.Stop(stopGrace); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes += changes
	m.container, m.process = "", nil
	return nil
}

// serves is the kubelet's readiness probe.
func (m *member) serves(ctx context.Context) bool {
	answer, err := get(ctx, url(m.address(), m.metrics)+"/readyz")
	return err == nil && answer.status == http.StatusOK
}

// show sets the condition of the gate where it differs.
func (m *member) show(ctx context.Context, pod *corev1.Pod, serves bool) error {
	status := corev1.ConditionFalse
	if serves {
		status = corev1.ConditionTrue
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == Gate && c.Status == status {
			return nil
		}
	}
	err := m.patch(ctx, pod, map[string]any{"conditions": []map[string]any{{"type": Gate, "status": status}}})
	if err != nil {
		return err
	}
	// Until the watch tells of it.
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: Gate, Status: status})
	return nil
}

// patch merges into the status of the very pod.
func (m *member) patch(ctx context.Context, pod *corev1.Pod, status map[string]any) error {
	data, err := marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	target := &corev1.Pod{}
	target.Namespace, target.Name = pod.Namespace, pod.Name
	return m.client.Status().Patch(ctx, target, client.RawPatch(types.StrategicMergePatchType, data))
}
