// Command upgrader is the operator that carries out UpgradePlans.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"offduty.dev/api/v1alpha1"
	arbiter "offduty.dev/arbiter/client"
	"offduty.dev/cmd/internal/logs"
	"offduty.dev/cmd/internal/traces"
	"offduty.dev/cmd/internal/version"
	"offduty.dev/upgrader/apply"
	"offduty.dev/upgrader/controller"
	"offduty.dev/upgrader/metrics"
	"offduty.dev/upgrader/session"
)

const electionName = "offduty-upgrader"

type options struct {
	metrics, probes string
	elect           bool
	namespace       string
	leaseDuration   time.Duration
	renewDeadline   time.Duration
	retryPeriod     time.Duration

	namespaces []string

	arbiter              string
	trusted              []string
	ca, cert, key, token string
	serverName           string
	insecure             bool
	allowed              controller.Allowed
	foreignGroups        bool

	leaseTTL time.Duration
	qps      float64
	logLevel string
}

func parse(args []string) (*options, error) {
	o := &options{}
	fs := flag.CommandLine
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), "upgrader carries out UpgradePlans. upgrader uninstall --help tells how it is removed.\n")
		fs.PrintDefaults()
	}
	fs.StringVar(&o.metrics, "metrics-bind-address", ":8080", "where metrics are served; 0 for not at all")
	fs.StringVar(&o.probes, "health-probe-bind-address", ":8081", "where /healthz and /readyz are served")
	fs.BoolVar(&o.elect, "leader-elect", true, "act only while leading; needed as soon as more than one upgrader runs")
	fs.StringVar(&o.namespace, "leader-election-namespace", "offduty-system", "namespace of the leader-election Lease")
	fs.DurationVar(&o.leaseDuration, "leader-election-lease-duration", 15*time.Second, "how long a leader that is not heard of is waited for")
	fs.DurationVar(&o.renewDeadline, "leader-election-renew-deadline", 10*time.Second, "how long a leader tries to renew before it gives up")
	fs.DurationVar(&o.retryPeriod, "leader-election-retry-period", 2*time.Second, "how long to wait between tries")
	fs.Func("namespaces", "comma-separated namespaces whose plans are carried out; default: all", list(&o.namespaces))
	fs.StringVar(&o.arbiter, "arbiter-address", "", "host:port of the arbiter for plans that name none")
	fs.Func("trusted-arbiters", "comma-separated host:port of further arbiters that are shown --arbiter-cert and the token as well, if a plan names them exactly so", list(&o.trusted))
	fs.StringVar(&o.ca, "arbiter-ca", "", "file with the CA of that arbiter's certificate")
	fs.StringVar(&o.cert, "arbiter-cert", "", "file with the client certificate for that arbiter")
	fs.StringVar(&o.key, "arbiter-key", "", "file with the key of the client certificate")
	fs.StringVar(&o.token, "arbiter-token-file", "", "file with a service-account token for the audience offduty.dev/arbiter; it is sent to --arbiter-address and --trusted-arbiters and to nobody else, and read anew for each call")
	fs.StringVar(&o.serverName, "arbiter-server-name", "", "name in the arbiter's certificate; default: the host of its address")
	fs.BoolVar(&o.insecure, "arbiter-insecure", false, "talk to the arbiter without TLS; only on loopback addresses")
	allowed := controller.DefaultAllowed
	fs.Func("allowed-arbiters", `which other arbiters plans may name, comma-separated: "*", host, *.suffix, an IP address or a network, with or without :port; `+
		"{namespace} is the plan's. Loopback, link-local and metadata addresses must be listed themselves. Empty: none; default: "+strings.Join(allowed, ","), list(&allowed))
	fs.BoolVar(&o.foreignGroups, "foreign-groups", false, "let plans without spec.arbiter.tls name groups of other namespaces")
	fs.DurationVar(&o.leaseTTL, "lease-ttl", 30*time.Second, "how long leases last without renewal; whole seconds, 1s to 1h")
	fs.Float64Var(&o.qps, "kube-api-qps", 100, "requests per second to the API server")
	fs.StringVar(&o.logLevel, "log-level", "info", "info or debug")
	fs.BoolFunc("version", "print the version and end", func(string) error {
		fmt.Println("upgrader version", version.Get())
		os.Exit(0)
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: all options begin with --", fs.Arg(0))
	}
	if o.leaseTTL < time.Second || o.leaseTTL > time.Hour || o.leaseTTL%time.Second != 0 {
		return nil, fmt.Errorf("--lease-ttl %s: give whole seconds from 1s to 1h", o.leaseTTL)
	}
	if o.insecure && o.token != "" {
		return nil, errors.New("--arbiter-token-file needs TLS: leave out --arbiter-insecure, or the token")
	}
	var err error
	o.allowed, err = controller.ParseAllowed(allowed)
	return o, err
}

// list reads a comma-separated list, in place of what was there.
func list(into *[]string) func(string) error {
	return func(text string) error {
		*into = nil
		for entry := range strings.SplitSeq(text, ",") {
			if entry = strings.TrimSpace(entry); entry != "" {
				*into = append(*into, entry)
			}
		}
		return nil
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "uninstall" {
		err := runUninstall(os.Args[2:])
		if err != nil {
			fmt.Fprintln(os.Stderr, "upgrader uninstall:", err)
		}
		os.Exit(exitCode(err))
	}
	o, err := parse(os.Args[1:])
	if err == nil {
		err = observed(ctrl.SetupSignalHandler(), o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "upgrader:", err)
		os.Exit(1)
	}
}

// observed is run with a log and, if the environment asks for them, traces.
func observed(ctx context.Context, o *options) error {
	log, err := logs.New(os.Stderr, o.logLevel)
	if err != nil {
		return err
	}
	ctrl.SetLogger(log)
	klog.SetLogger(log)
	tracing, err := traces.Start(ctx, "offduty-upgrader", version.Get())
	if err != nil {
		return err
	}
	err = run(ctx, o, tracing)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return errors.Join(err, tracing.Stop(last))
}

func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, kruisev1beta1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func run(ctx context.Context, o *options, tracing *traces.Traces) error {
	cfg, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the API server: %w; set --kubeconfig or run in a cluster", err)
	}
	cfg.QPS, cfg.Burst = float32(o.qps), int(2*o.qps)
	scheme, err := newScheme()
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	identity := host + "_" + string(uuid.NewUUID())
	lock, err := election(cfg, o, identity)
	if err != nil {
		return err
	}
	mgr, err := o.manager(cfg, scheme, lock)
	if err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	if err := wire(ctx, mgr, o, tracing, identity); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

func (o *options) manager(cfg *rest.Config, scheme *runtime.Scheme, lock resourcelock.Interface) (ctrl.Manager, error) {
	return ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                              scheme,
		Cache:                               controller.CacheOptions(o.namespaces),
		Metrics:                             metricsserver.Options{BindAddress: o.metrics},
		HealthProbeBindAddress:              o.probes,
		LeaderElection:                      o.elect,
		LeaderElectionResourceLockInterface: lock,
		LeaseDuration:                       &o.leaseDuration,
		RenewDeadline:                       &o.renewDeadline,
		RetryPeriod:                         &o.retryPeriod,
		LeaderElectionReleaseOnCancel:       true,
		// The lock is our own; this is its name in the metrics, by which alerts look for it.
		LeaderElectionID: electionName,
	})
}

// election returns the lock of the leader election under an identity that we know.
func election(cfg *rest.Config, o *options, identity string) (resourcelock.Interface, error) {
	if !o.elect {
		return nil, nil //nolint:nilnil // no election
	}
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = o.renewDeadline / 2
	core, err := corev1client.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	coordination, err := coordinationv1client.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return resourcelock.New(resourcelock.LeasesResourceLock, o.namespace, electionName, core, coordination, resourcelock.ResourceLockConfig{Identity: identity})
}

// arbiters says which arbiters there are, and who we are there.
func (o *options) arbiters() controller.Arbiters {
	own := arbiter.Config{Address: o.arbiter, Insecure: o.insecure, TokenFile: o.token}
	if !o.insecure {
		own.TLS = &arbiter.TLS{ServerName: o.serverName}
		own.TLS.CA.File, own.TLS.Cert.File, own.TLS.Key.File = o.ca, o.cert, o.key
	}
	return controller.Arbiters{Own: own, Trusted: o.trusted, Allowed: o.allowed, ForeignGroups: o.foreignGroups}
}

// dial is session.Dial with options that time and trace calls.
func dial(options []grpc.DialOption) func(arbiter.Config) (session.Arbiter, error) {
	return func(cfg arbiter.Config) (session.Arbiter, error) {
		cfg.Options = options
		return session.Dial(cfg)
	}
}

func wire(ctx context.Context, mgr ctrl.Manager, o *options, tracing *traces.Traces, identity string) error {
	counts := metrics.New(ctrlmetrics.Registry, time.Now)
	leader := &controller.Leader{Reader: mgr.GetAPIReader(), Identity: identity, Fixed: time.Now().Unix()}
	if o.elect {
		leader.Lease = client.ObjectKey{Namespace: o.namespace, Name: electionName}
	}
	notices := &controller.Notices{}
	sessions := session.New(ctx, session.Config{
		Leader: leader.Term, TTL: o.leaseTTL, Now: time.Now, Notify: notices.Notify, Dial: dial(append(tracing.Dial(), grpc.WithChainUnaryInterceptor(counts.Unary))),
		Metrics: counts,
	})
	plans := &metrics.Plans{Reader: mgr.GetClient(), Leading: mgr.Elected(), Leases: sessions.Leases, Context: ctx}
	if err := ctrlmetrics.Registry.Register(plans); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	r := &controller.Reconciler{
		Client: mgr.GetClient(), Secrets: mgr.GetAPIReader(), Sessions: sessions, Leader: leader, Now: time.Now,
		Applier: &apply.Applier{
			Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Writes: apply.NewWrites(time.Now), Metrics: counts, Now: time.Now,
			Recorder: controller.Recorder{EventRecorder: mgr.GetEventRecorder("offduty-upgrader")},
		},
		Arbiters: o.arbiters(),
	}
	if err := r.SetupWithManager(ctx, mgr, notices); err != nil {
		return fmt.Errorf("set up the controller: %w", err)
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	return mgr.AddReadyzCheck("ping", healthz.Ping)
}
