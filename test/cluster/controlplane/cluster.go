package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"offduty.dev/test/cluster/binaries"
	"offduty.dev/test/cluster/daemon"
	"offduty.dev/test/cluster/pki"
)

// Names of the daemons, for Kill, Freeze, Thaw, Restart and Process.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Kwok              = "kwok"
	Kruise            = "kruise-manager"
)

// Options says what to start. The zero value is a good default.
type Options struct {
	// Nodes is the number of simulated nodes; 3 if 0.
	Nodes int
	// Dir holds the logs, the data, the kubeconfigs. It is made if missing and
	// must otherwise be empty. If not given, it is a new temporary folder.
	Dir string
	// Log gets one line per phase of the start; nil: nothing.
	Log io.Writer
	// KeepLogs keeps Dir/logs when the cluster stops.
	KeepLogs bool
	// WithoutKruise leaves Kruise out.
	WithoutKruise bool
	// NodeAddress is the address of a real node that the caller runs on this machine
	// (package node). Then no node is simulated, and the API server listens on all
	// interfaces, where the Service kubernetes leads pods to.
	NodeAddress string
}

// Cluster is a running control plane. Its methods may be called from any goroutine.
type Cluster struct {
	dir      string
	log      io.Writer
	binaries binaries.Set
	ca       *pki.Authority
	ports    *portBlock
	listen   listeners
	// node is Options.NodeAddress.
	node string

	mu       sync.Mutex
	keepLogs bool
	daemons  map[string]*managed
	order    []string // names in the order of their start
	// kubeconfigs says whose each written file is, built where each binary of Build is.
	kubeconfigs map[string]string
	built       map[string]string
	stopped     bool
}

// managed is a daemon together with how to start it again.
type managed struct {
	spec    daemon.Spec
	process *daemon.Process
	// ready answers nil when the daemon serves; nil for foreign processes.
	ready func(ctx context.Context) error
	// kept says that it is started again when it ends by itself.
	kept bool
}

// startTimeout bounds each wait of the start; a loaded machine needs much
// longer than the usual few seconds.
const startTimeout = 3 * time.Minute

// Start builds what is missing (minutes, the first time ever), starts the
// control plane and returns when pods and Kruise's sets can be created.
//
// If it fails nothing is left running; the error names the daemon, quotes the
// end of its log and says where the logs are.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	log := options.Log
	if log == nil {
		log = io.Discard
	}
	log = &lineWriter{out: log}
	set, err := binaries.Ensure(ctx, log)
	if err != nil {
		return nil, fmt.Errorf("build the control plane: %w", err)
	}
	dir, err := makeRunDir(options.Dir)
	if err != nil {
		return nil, err
	}
	ports, err := claimPorts()
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		dir: dir, log: log, binaries: set, ports: ports, node: options.NodeAddress, keepLogs: options.KeepLogs,
		daemons: map[string]*managed{}, kubeconfigs: map[string]string{}, built: map[string]string{},
	}
	if err := c.start(ctx, options); err != nil {
		c.KeepLogs()
		return nil, errors.Join(fmt.Errorf("start the control plane: %w (all logs: %s)", err, c.LogDir()), c.Stop())
	}
	return c, nil
}

func makeRunDir(dir string) (string, error) {
	if dir == "" {
		temporary, err := os.MkdirTemp("", "offduty-cluster-")
		if err != nil {
			return "", fmt.Errorf("make a folder for the cluster: %w", err)
		}
		dir = temporary
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("make a folder for the cluster: %w", err)
	}
	if entries, err := os.ReadDir(absolute); err == nil && len(entries) > 0 {
		return "", fmt.Errorf("the folder %s is not empty: give another one, or remove it if no cluster runs in it", absolute)
	}
	for _, sub := range []string{"logs", "pki", "kubeconfig", "bin", "tmp"} {
		if err := os.MkdirAll(filepath.Join(absolute, sub), 0o700); err != nil {
			return "", fmt.Errorf("make a folder for the cluster: %w", err)
		}
	}
	return absolute, nil
}

// Dir is the folder of this cluster.
func (c *Cluster) Dir() string { return c.dir }

// LogDir is the folder with one log per daemon and the audit log.
func (c *Cluster) LogDir() string { return filepath.Join(c.dir, "logs") }

// KeepLogs makes Stop leave LogDir where it is.
func (c *Cluster) KeepLogs() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keepLogs = true
}

// PIDs are the process ids of all daemons that run, by name.
func (c *Cluster) PIDs() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := map[string]int{}
	for name, m := range c.daemons {
		if m.process.Running() {
			pids[name] = m.process.PID()
		}
	}
	return pids
}

// stopGrace is how long processes of StartProcess have to end by themselves.
const stopGrace = 5 * time.Second

// Stop ends all daemons and removes the folder, but for the logs if they are to
// be kept. It returns when no process is left. A second call does nothing.
//
// Processes of StartProcess are asked first (SIGTERM) while the API server
// still answers; the control plane itself is killed, as its data is thrown away.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil
	}
	c.stopped = true
	var problems []error
	for _, name := range slices.Backward(c.order) {
		m := c.daemons[name]
		if m.ready == nil {
			problems = append(problems, m.process.Stop(stopGrace))
		} else {
			problems = append(problems, m.process.Kill())
		}
	}
	c.ports.release()
	problems = append(problems, c.removeDir())
	return errors.Join(problems...)
}

func (c *Cluster) removeDir() error {
	if !c.keepLogs {
		return os.RemoveAll(c.dir)
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("clear the folder of the cluster: %w", err)
	}
	var problems []error
	for _, entry := range entries {
		if entry.Name() != "logs" {
			problems = append(problems, os.RemoveAll(filepath.Join(c.dir, entry.Name())))
		}
	}
	return errors.Join(problems...)
}

// Process is the process that runs now under name, or ran last.
func (c *Cluster) Process(name string) (*daemon.Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.managed(name)
	if err != nil {
		return nil, err
	}
	return m.process, nil
}

// managed finds a daemon. The caller holds mu.
func (c *Cluster) managed(name string) (*managed, error) {
	m, ok := c.daemons[name]
	if !ok {
		known := slices.Sorted(maps.Keys(c.daemons))
		return nil, fmt.Errorf("no daemon is called %q; there are %v", name, known)
	}
	return m, nil
}

// Kill ends the daemon with SIGKILL and returns when it is gone.
func (c *Cluster) Kill(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.managed(name)
	if err != nil {
		return err
	}
	return m.process.Kill()
}

// KeepRunning makes daemons start again when they end by themselves, as the kubelet does:
// an upgrader that a slow machine cost its lead ends. What was killed stays down.
func (c *Cluster) KeepRunning(names ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		m, err := c.managed(name)
		if err != nil {
			return err
		}
		m.kept = true
	}
	return nil
}

// Freeze stops the daemon where it is and returns when it stands. While Kruise
// is frozen no pod and no set of Kruise's can be created or changed.
func (c *Cluster) Freeze(name string) error {
	p, err := c.Process(name)
	if err != nil {
		return err
	}
	return p.Freeze()
}

// Thaw lets a frozen daemon go on.
func (c *Cluster) Thaw(name string) error {
	p, err := c.Process(name)
	if err != nil {
		return err
	}
	return p.Thaw()
}

// Restart kills the daemon if it runs, starts it with the same arguments and,
// for the daemons of the control plane, returns when it is ready. The others
// need some time more to notice and connect again.
func (c *Cluster) Restart(ctx context.Context, name string) error {
	ready, err := c.replace(name)
	if err != nil || !ready {
		return err
	}
	return c.awaitReady(ctx, name)
}

// replace kills the daemon and starts it again, and says whether it tells when it is ready.
func (c *Cluster) replace(name string) (ready bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.managed(name)
	if err != nil {
		return false, err
	}
	if err := m.process.Kill(); err != nil {
		return false, err
	}
	_, err = c.launchLocked(m.spec, m.ready)
	return m.ready != nil, err
}

// StartProcess starts a further daemon, for example one of Build, and returns
// at once; argv[0] is the path of its binary. It lives until it ends, is killed, or the cluster stops; Kill,
// Freeze, Thaw and Restart know it by name. Its log is LogDir()/name.log. env
// (KEY=value) is added to a minimal environment. A name can be used again once
// its process has ended.
func (c *Cluster) StartProcess(name string, argv []string, env ...string) (*daemon.Process, error) {
	if len(argv) == 0 {
		return nil, fmt.Errorf("start %s: no command given", name)
	}
	spec := c.spec(name, argv[0], argv[1:]...)
	spec.Argv[0] = argv[0]
	spec.Env = append(spec.Env, env...)
	return c.launch(spec, nil)
}

// spec fills in what all daemons have in common. argv[0] is the name, which
// chooses the program in the Kubernetes binary and is what ps shows.
func (c *Cluster) spec(name, path string, args ...string) daemon.Spec {
	return daemon.Spec{
		Name: name,
		Path: path,
		Argv: append([]string{name}, args...),
		Env: []string{
			"PATH=" + os.Getenv("PATH"),
			"HOME=" + filepath.Join(c.dir, "tmp"),
			"TMPDIR=" + filepath.Join(c.dir, "tmp"),
		},
		Dir: c.dir,
		Log: filepath.Join(c.LogDir(), name+".log"),
	}
}

func (c *Cluster) launch(spec daemon.Spec, ready func(context.Context) error) (*daemon.Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.launchLocked(spec, ready)
}

// launchLocked is launch for a caller that holds mu.
func (c *Cluster) launchLocked(spec daemon.Spec, ready func(context.Context) error) (*daemon.Process, error) {
	if c.stopped {
		return nil, fmt.Errorf("start %s: the cluster was stopped", spec.Name)
	}
	old, known := c.daemons[spec.Name]
	if known && old.process.Running() {
		return nil, fmt.Errorf("start %s: it runs already; kill it first", spec.Name)
	}
	p, err := daemon.Start(spec)
	if err != nil {
		return nil, err
	}
	if !known {
		c.order = append(c.order, spec.Name)
	}
	c.daemons[spec.Name] = &managed{spec: spec, process: p, ready: ready, kept: known && old.kept}
	go c.report(p)
	return p, nil
}

// report says it when a daemon ends that nobody ended, and has it started again if it is to
// be kept.
func (c *Cluster) report(p *daemon.Process) {
	err := p.Wait()
	if p.Expected() {
		return
	}
	fmt.Fprintf(c.log, "%s ended by itself (%v); its log is %s\n", p.Name(), err, p.Log())
	time.AfterFunc(reviveDelay, func() { c.revive(p) })
}

// reviveDelay keeps a daemon that cannot start from being started all the time.
const reviveDelay = time.Second

// revive starts a daemon again that is to be kept, unless somebody killed or started it
// meanwhile.
func (c *Cluster) revive(p *daemon.Process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.daemons[p.Name()]
	if c.stopped || !m.kept || m.process != p || p.Expected() {
		return
	}
	if _, err := c.launchLocked(m.spec, m.ready); err != nil {
		fmt.Fprintln(c.log, err)
	}
}

// lineWriter lets several goroutines write lines to one writer.
type lineWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}

// awaitReady waits until the daemon serves; it fails early if the daemon ends.
func (c *Cluster) awaitReady(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c.mu.Lock()
	m := c.daemons[name]
	c.mu.Unlock()
	err := Until(ctx, name+" is ready", func(ctx context.Context) error {
		if !m.process.Running() {
			return Permanent(fmt.Errorf("it ended: %w", m.process.Wait()))
		}
		return m.ready(ctx)
	})
	if err != nil {
		return fmt.Errorf("%w; the end of %s:\n%s", err, m.process.Log(), m.process.LogTail(15))
	}
	return nil
}
