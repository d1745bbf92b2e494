package harness

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	arbiter "offduty.dev/arbiter/client"
	"offduty.dev/test/cluster/controlplane"
)

// SystemNamespace is where config/default puts everything.
const SystemNamespace = "offduty-system"

// Names of the processes.
const (
	ArbiterProcess = "arbiter"
	UpgraderA      = "upgrader-a"
	UpgraderB      = "upgrader-b"
)

// Identities of the manifests.
var (
	UpgraderAccount = controlplane.ServiceAccount(SystemNamespace, "offduty-upgrader")
	ArbiterAccount  = controlplane.ServiceAccount(SystemNamespace, "offduty-arbiter")
)

// LeaseTTL is how long leases last without renewal.
const LeaseTTL = 5 * time.Second

// System is Offduty on a cluster: config/default applied, the arbiter and upgraders as
// processes under its service accounts. Nodes are simulated, so that the Deployments of
// config/default cannot run anything; they are scaled to 0.
type System struct {
	Cluster *controlplane.Cluster
	// ArbiterAddress is where the arbiter serves.
	ArbiterAddress string
	// Options of the installation.
	Options Options
	// Env is the further environment of processes that are started from now on.
	Env []string

	kubeconfig string // of the administrator, for kubectl
	ports      map[string]int
}

// Options of an installation; the zero value is config/default.
type Options struct {
	// Config is the kustomization under config/ that is installed.
	Config string
	// Arbiter and Upgrader are further arguments; the last of two that are alike holds.
	Arbiter, Upgrader []string
	// KeepRunning starts processes again that end by themselves; see Cluster.KeepRunning.
	KeepRunning bool
}

// Install applies the manifests, starts the arbiter and the named upgraders and returns
// when the arbiter serves and, if there are any, an upgrader leads. root is the module's
// folder.
func Install(ctx context.Context, c *controlplane.Cluster, root string, upgraders ...string) (*System, error) {
	return InstallWith(ctx, c, root, Default, upgraders...)
}

// Steady are arguments of an upgrader that a slow machine costs neither its lead nor a lease.
// StartUpgrader's own are for those who wait for the end of both.
var Steady = []string{"--leader-election-lease-duration", "5s", "--leader-election-renew-deadline", "4s", "--lease-ttl", "15s"}

// Default are the options of config/default, with what config/tokens adds to the arbiter.
var Default = Options{Config: "default", Arbiter: []string{
	"--service-account-tokens", "--upgrader-names", "offduty-upgrader," + UpgraderAccount.Username(),
	"--attendant-names", "offduty-attendant,system:serviceaccount:*",
	// Simulated pods have no network: processes of a test answer for them.
	"--loopback-members",
}}

// InstallWith is Install with options.
func InstallWith(ctx context.Context, c *controlplane.Cluster, root string, o Options, upgraders ...string) (*System, error) {
	if err := apply(ctx, c, filepath.Join(root, "config", o.Config)); err != nil {
		return nil, err
	}
	return Run(ctx, c, o, upgraders...)
}

// Run is InstallWith where the manifests were applied in another way.
func Run(ctx context.Context, c *controlplane.Cluster, o Options, upgraders ...string) (*System, error) {
	s := &System{Cluster: c, Options: o, ports: map[string]int{}}
	var err error
	if s.kubeconfig, err = c.Kubeconfig(ctx, controlplane.Admin()); err != nil {
		return nil, err
	}
	if err := s.StartArbiter(ctx); err != nil {
		return nil, err
	}
	for _, name := range upgraders {
		if err := s.StartUpgrader(ctx, name); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func apply(ctx context.Context, c *controlplane.Cluster, dir string) error {
	manifests, err := c.Kustomize(ctx, dir)
	if err != nil {
		return err
	}
	objects, err := controlplane.Decode(manifests)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if o.GetKind() == "Deployment" {
			if err := unstructured.SetNestedField(o.Object, int64(0), "spec", "replicas"); err != nil {
				return err
			}
		}
	}
	return c.ApplyObjects(ctx, objects...)
}

// port returns a port of this machine that stays the same for each use.
func (s *System) port(use string) (int, error) {
	if p, ok := s.ports[use]; ok {
		return p, nil
	}
	p, err := s.Cluster.FreePort()
	s.ports[use] = p
	return p, err
}

// StartArbiter starts the arbiter and returns when it leads and serves, and when its
// client certificates are in files.
func (s *System) StartArbiter(ctx context.Context) error {
	serve, err := s.port("arbiter")
	if err != nil {
		return err
	}
	s.ArbiterAddress = fmt.Sprintf("127.0.0.1:%d", serve)
	argv := []string{
		"serve", "--listen", s.ArbiterAddress,
		"--leader-election-namespace", SystemNamespace,
		"--self-signed-secrets", "--service-dns-names", "127.0.0.1,localhost",
	}
	if err := s.start(ctx, ArbiterProcess, "./cmd/arbiter", ArbiterAccount, append(argv, s.Options.Arbiter...)); err != nil {
		return err
	}
	if err := s.AwaitReady(ctx, ArbiterProcess); err != nil {
		return err
	}
	for _, who := range Clients {
		if err := s.SaveSecret(ctx, who); err != nil {
			return err
		}
	}
	return nil
}

// StartUpgrader starts an upgrader with a quick leader election, and returns when it is
// up: it leads, or waits to.
//
// further arguments come last, and hold where they say otherwise.
func (s *System) StartUpgrader(ctx context.Context, name string, further ...string) error {
	t := s.TLS("upgrader")
	token, err := s.SaveToken(ctx, UpgraderAccount.Username())
	if err != nil {
		return err
	}
	argv := []string{
		"--arbiter-address", s.ArbiterAddress, "--arbiter-ca", t.CA.File, "--arbiter-cert", t.Cert.File, "--arbiter-key", t.Key.File,
		"--leader-election-namespace", SystemNamespace, "--leader-election-lease-duration", "3s",
		"--leader-election-renew-deadline", "2s", "--leader-election-retry-period", "500ms",
		"--lease-ttl", LeaseTTL.String(), "--log-level", "debug",
		"--arbiter-token-file", token,
		// So that plans may name what these tests want to be named.
		"--allowed-arbiters", "*.{namespace}.svc,localhost,127.0.0.1:1",
	}
	if err := s.start(ctx, name, "./cmd/upgrader", UpgraderAccount, slices.Concat(argv, s.Options.Upgrader, further)); err != nil {
		return err
	}
	return s.AwaitReady(ctx, name)
}

func (s *System) start(ctx context.Context, name, pkg string, who controlplane.Identity, args []string) error {
	binary, err := s.Cluster.Build(ctx, pkg)
	if err != nil {
		return err
	}
	kubeconfig, err := s.Cluster.Kubeconfig(ctx, who)
	if err != nil {
		return err
	}
	probes, err := s.port("probes of " + name)
	if err != nil {
		return err
	}
	metrics, err := s.port("metrics of " + name)
	if err != nil {
		return err
	}
	argv := append([]string{binary}, args...)
	argv = append(argv, "--kubeconfig", kubeconfig, "--health-probe-bind-address", fmt.Sprintf("127.0.0.1:%d", probes),
		"--metrics-bind-address", fmt.Sprintf("127.0.0.1:%d", metrics))
	// A process that is started again is a container started again in its pod; see
	// config/manager.
	_, err = s.Cluster.StartProcess(name, argv, append([]string{"POD_UID=" + name}, s.Env...)...)
	if err != nil || !s.Options.KeepRunning {
		return err
	}
	return s.Cluster.KeepRunning(name)
}

// patience is how long a process may take to start on a loaded machine.
const patience = 2 * time.Minute

// AwaitReady waits until a process answers on /readyz.
func (s *System) AwaitReady(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	url := fmt.Sprintf("http://127.0.0.1:%d/readyz", s.ports["probes of "+name])
	p, err := s.Cluster.Process(name)
	if err != nil {
		return err
	}
	err = controlplane.Until(ctx, name+" is ready", func(ctx context.Context) error {
		if p, err = s.Cluster.Process(name); err != nil {
			return controlplane.Permanent(err)
		}
		if !p.Running() {
			err := fmt.Errorf("it ended: %w", p.Wait())
			if !s.Options.KeepRunning {
				err = controlplane.Permanent(err)
			}
			return err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return controlplane.Permanent(err)
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", answer.Status)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w; the end of its log:\n%s", err, p.LogTail(20))
	}
	return nil
}

// Kill ends a process.
func (s *System) Kill(name string) error { return s.Cluster.Kill(name) }

// Freeze stops a process where it is.
func (s *System) Freeze(name string) error { return s.Cluster.Freeze(name) }

// Thaw lets a frozen process go on.
func (s *System) Thaw(name string) error { return s.Cluster.Thaw(name) }

// Restart kills a process, starts it again and waits until it is ready.
func (s *System) Restart(ctx context.Context, name string) error {
	if err := s.Cluster.Restart(ctx, name); err != nil {
		return err
	}
	return s.AwaitReady(ctx, name)
}

// certificates is the folder with the files of one client of the arbiter.
func (s *System) certificates(who string) string {
	return filepath.Join(s.Cluster.Dir(), "certificates", who)
}

// Clients are the kinds of clients for which the arbiter makes certificates.
var Clients = []string{"upgrader", "attendant", "admin"}

// SaveSecret writes the arbiter's secret for one kind of client into files, as a mounted
// volume would have them: all of them change at once.
func (s *System) SaveSecret(ctx context.Context, who string) error {
	admin, err := s.Cluster.Client(ctx, controlplane.Admin(), nil)
	if err != nil {
		return err
	}
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: SystemNamespace, Name: "offduty-" + who + "-tls"}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = controlplane.Until(ctx, "there is the secret "+key.Name, func(ctx context.Context) error {
		return admin.Get(ctx, key, secret)
	})
	if err != nil {
		return err
	}
	link := s.certificates(who)
	dir := link + "." + secret.ResourceVersion
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a folder for certificates: %w", err)
	}
	for name, data := range secret.Data {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return fmt.Errorf("write a certificate: %w", err)
		}
	}
	if err := os.Symlink(filepath.Base(dir), link+".new"); err != nil {
		return fmt.Errorf("point to new certificates: %w", err)
	}
	return os.Rename(link+".new", link)
}

// SaveToken writes a token of a service account (system:serviceaccount:NAMESPACE:NAME) for
// the arbiter into a file, as a projected volume would have it, and returns its path.
func (s *System) SaveToken(ctx context.Context, account string) (string, error) {
	parts := strings.Split(account, ":")
	if len(parts) != 4 {
		return "", fmt.Errorf("%q is not the name of a service account", account)
	}
	token, err := s.Cluster.Token(ctx, parts[2], parts[3], "offduty.dev/arbiter")
	if err != nil {
		return "", err
	}
	dir := s.certificates(parts[3])
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a folder for a token: %w", err)
	}
	path := filepath.Join(dir, "token")
	if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
		return "", fmt.Errorf("write a token: %w", err)
	}
	return path, nil
}

// TLS is how a client of the arbiter (upgrader, attendant or admin) identifies itself.
func (s *System) TLS(who string) arbiter.TLS {
	var t arbiter.TLS
	dir := s.certificates(who)
	t.CA.File, t.Cert.File, t.Key.File = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	return t
}

// Arbiter returns a client of the arbiter.
func (s *System) Arbiter(who string) (*arbiter.Client, error) {
	t := s.TLS(who)
	return arbiter.Dial(arbiter.Config{Address: s.ArbiterAddress, TLS: &t})
}

// KubectlEnv is the environment in which kubectl talks to the cluster as administrator.
func (s *System) KubectlEnv() []string {
	return []string{"KUBECONFIG=" + s.kubeconfig, "KUBECACHEDIR=" + filepath.Join(s.Cluster.Dir(), "kubectl-cache")}
}

// Kubectl runs kubectl as administrator with stdin, and returns what it prints. The
// error quotes what it prints on standard error.
func (s *System) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.Cluster.Kubectl(), args...)
	cmd.Env = append(os.Environ(), s.KubectlEnv()...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(problems.String()))
	}
	return out.String(), nil
}
