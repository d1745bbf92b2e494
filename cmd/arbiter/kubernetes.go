package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/controller"
	"offduty.dev/arbiter/metrics"
	"offduty.dev/arbiter/server"
	"offduty.dev/arbiter/source"
	"offduty.dev/cmd/internal/version"
)

// leaderLease is the name of the leader-election Lease.
const leaderLease = "offduty-arbiter"

// times of leader election, from the time that a successor waits.
func (o *serveOptions) times() (lease, renew, retry *time.Duration) {
	return new(o.leaseDuration), new(o.leaseDuration * 2 / 3), new(o.leaseDuration / 8)
}

func (o *serveOptions) runKubernetes(ctx context.Context, log logr.Logger) error {
	ctrl.SetLogger(log)
	klog.SetLogger(log)
	config, err := restConfig(o.kubeconfig)
	if err != nil {
		return err
	}
	if err := o.resolveNamespaces(); err != nil {
		return err
	}
	term := &controller.Term{Duration: o.leaseDuration, Now: time.Now}
	mgr, err := o.manager(config, log, term)
	if err != nil {
		return err
	}
	var certificates server.Certificates
	if o.selfSigned {
		held := &server.Held{}
		certificates = held
		err = mgr.Add(o.secrets(mgr, held, log))
	} else {
		certificates, err = o.files()
	}
	if err != nil {
		return err
	}
	groups, stop := context.WithCancel(ctx)
	defer stop()
	registry := &controller.Registry{Reader: mgr.GetAPIReader(), Namespaces: o.namespaces}
	reconciler := &controller.Reconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Registry: registry,
		Recorder: mgr.GetEventRecorder("offduty-arbiter"), Now: time.Now, Base: groups,
		Metrics: o.counts, LoopbackMembers: o.loopback,
	}
	if err := ctrlmetrics.Registry.Register(&metrics.Groups{Each: registry.Each}); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	if o.leaderElect {
		reconciler.Leading = term.Leading
	}
	if err := reconciler.Setup(mgr); err != nil {
		return err
	}
	cfg := server.Config{
		Groups: registry, Certificates: certificates, Roles: o.roles, Version: version.Get(), Now: time.Now, Log: log, Options: o.grpc,
	}
	if o.tokens {
		cfg.Tokens = controller.NewTokens(mgr.GetClient(), time.Now)
	}
	serving := &grpcRunnable{
		address: o.listen, log: log,
		server:       server.New(cfg),
		certificates: certificates,
	}
	if err := errors.Join(mgr.Add(serving), mgr.AddHealthzCheck("alive", healthz.Ping), mgr.AddReadyzCheck("serving", serving.ready)); err != nil {
		return fmt.Errorf("set up the manager: %w", err)
	}
	err = mgr.Start(ctx)
	stop()
	registry.Wait()
	reconciler.Wait()
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	return nil
}

// manager makes the controller-runtime manager, with a cache that keeps of pods only what
// groups look at.
func (o *serveOptions) manager(config *rest.Config, log logr.Logger, term *controller.Term) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("register types: %w", err)
	}
	opts := ctrl.Options{
		Scheme: scheme, Logger: log,
		Metrics:                metricsserver.Options{BindAddress: o.metrics},
		HealthProbeBindAddress: o.probes,
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject:         map[client.Object]cache.ByObject{&corev1.Pod{}: {Transform: stripPod}},
		},
		LeaderElection: o.leaderElect, LeaderElectionReleaseOnCancel: true,
		// The lock is our own; this is its name in the metrics, by which alerts look for it.
		LeaderElectionID: leaderLease,
	}
	if len(o.namespaces) > 0 {
		opts.Cache.DefaultNamespaces = map[string]cache.Config{}
		for _, ns := range o.namespaces {
			opts.Cache.DefaultNamespaces[ns] = cache.Config{}
		}
	}
	if o.leaderElect {
		lock, err := o.lock(config)
		if err != nil {
			return nil, err
		}
		opts.LeaderElectionResourceLockInterface = term.Watch(lock)
		opts.LeaseDuration, opts.RenewDeadline, opts.RetryPeriod = o.times()
	}
	mgr, err := ctrl.NewManager(config, opts)
	if err != nil {
		return nil, fmt.Errorf("make the manager: %w", err)
	}
	return mgr, nil
}

func (o *serveOptions) lock(config *rest.Config) (resourcelock.Interface, error) {
	identity, err := identity()
	if err != nil {
		return nil, err
	}
	lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, o.leaderNamespace, leaderLease,
		resourcelock.ResourceLockConfig{Identity: identity}, config, o.leaseDuration/2)
	if err != nil {
		return nil, fmt.Errorf("make the leader-election lock: %w", err)
	}
	return lock, nil
}

// identity names this process for leader election. In a pod it is the pod's UID, so that
// a restarted container goes on at once: its predecessor is certainly dead.
func identity() (string, error) {
	if uid := os.Getenv("POD_UID"); uid != "" {
		return uid, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("find this host's name for leader election: %w", err)
	}
	return host + "_" + controller.NewEpoch(), nil
}

func (o *serveOptions) secrets(mgr ctrl.Manager, held *server.Held, log logr.Logger) *controller.Secrets {
	return &controller.Secrets{
		Reader: mgr.GetAPIReader(), Writer: mgr.GetClient(), Namespace: o.secretsNamespace, ServiceNames: o.serviceNames,
		Clients: map[string]string{
			"offduty-upgrader-tls":  first(o.roles.Upgraders),
			"offduty-attendant-tls": first(o.roles.Attendants),
			"offduty-admin-tls":     first(o.roles.Admins),
		},
		Life: o.selfSignedLife, Held: held, Now: time.Now, Log: log.WithName("certificates"),
	}
}

// first is the first name that a certificate can have.
func first(names []string) string {
	if i := slices.IndexFunc(names, func(n string) bool { return !server.IsAccount(n) }); i >= 0 {
		return names[i]
	}
	return "nobody"
}

// restConfig finds the API server. Priority and fairness there limit us, not the client.
func restConfig(path string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = path
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w: give --kubeconfig, or run in a pod with a service account", err)
	}
	config.QPS = -1
	return config, nil
}

// resolveNamespaces finds the arbiter's own namespace.
func (o *serveOptions) resolveNamespaces() error {
	if o.leaderNamespace == "" {
		o.leaderNamespace = os.Getenv("POD_NAMESPACE")
	}
	if o.leaderNamespace == "" {
		data, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
		if err == nil {
			o.leaderNamespace = strings.TrimSpace(string(data))
		}
	}
	if o.leaderNamespace == "" && (o.leaderElect || o.selfSigned && o.secretsNamespace == "") {
		return errors.New("--leader-election-namespace is needed outside a pod")
	}
	if o.secretsNamespace == "" {
		o.secretsNamespace = o.leaderNamespace
	}
	return nil
}

// stripPod drops what no group looks at: most of a pod.
func stripPod(obj any) (any, error) {
	if p, ok := obj.(*corev1.Pod); ok {
		source.Strip(p)
	}
	return obj, nil
}

// grpcRunnable serves gRPC while this process leads.
type grpcRunnable struct {
	address      string
	server       *server.Server
	certificates server.Certificates
	log          logr.Logger
	up           atomic.Bool
}

// NeedLeaderElection makes the leader alone serve.
func (g *grpcRunnable) NeedLeaderElection() bool { return true }

// Start implements manager.Runnable.
func (g *grpcRunnable) Start(ctx context.Context) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", g.address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	g.log.Info("serving", "address", listener.Addr().String())
	g.up.Store(true)
	defer g.up.Store(false)
	return g.server.Serve(ctx, listener)
}

// ready says whether this process leads, serves and has certificates.
func (g *grpcRunnable) ready(*http.Request) error {
	if !g.up.Load() {
		return errors.New("not the leader, or not serving yet")
	}
	if g.certificates == nil {
		return nil
	}
	_, _, err := g.certificates.Current()
	return err
}
