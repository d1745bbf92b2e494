package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"offduty.dev/arbiter/controller"
	"offduty.dev/arbiter/metrics"
	"offduty.dev/arbiter/server"
	"offduty.dev/arbiter/store"
	"offduty.dev/cmd/internal/logs"
	"offduty.dev/cmd/internal/traces"
	"offduty.dev/cmd/internal/version"
)

// serveOptions are the flags of serve.
type serveOptions struct {
	listen   string
	logLevel string

	cert, key, clientCA string
	insecure            bool
	roles               server.Roles
	tokens              bool
	selfSigned          bool
	selfSignedLife      time.Duration
	secretsNamespace    string
	serviceNames        []string

	stateFile, config string

	kubeconfig      string
	namespaces      []string
	metrics, probes string
	leaderElect     bool
	leaderNamespace string
	leaseDuration   time.Duration
	loopback        bool

	// What serves and counts, made by run.
	counts *metrics.Metrics
	grpc   []grpc.ServerOption
}

const serveLong = `Serve runs the arbiter.

In Kubernetes (the default) groups are Roster objects; their records are kept in the
status of the Rosters, and the members are the pods that a Roster selects.

Without Kubernetes, give --state-file and --config. The configuration is YAML, one
document per group, like a Roster, but with the members listed by name. A member is
present while it attends (AttendanceService), and ready when it says that it is healthy:

  apiVersion: offduty.dev/v1alpha1
  kind: Roster
  metadata: {namespace: prod, name: voters}
  spec:
    members: {names: [voter-0, voter-1, voter-2]}
    floor: {type: Quorum, voters: 3}
    assigned: {workers: 1}

The group is then "prod/voters", its replicas "prod/voter-0" and so on. The state file is
synced before each answer. A lease that expires keeps its ban until its holder releases it
or an administrator does: without Kubernetes there is no pod to fence.

Clients are known by the names in their certificates (common name, DNS name or URI), and
with --service-account-tokens by the service account whose token they send as
"authorization: Bearer". A token that is bound to a pod attends as that pod only.`

func serveCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the arbiter", Long: serveLong, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", ":9443", "address for gRPC")
	f.StringVar(&o.logLevel, "log-level", "info", "info or debug")
	f.StringVar(&o.cert, "tls-cert", "", "server certificate, PEM; read again when it changes")
	f.StringVar(&o.key, "tls-key", "", "server key, PEM")
	f.StringVar(&o.clientCA, "client-ca", "", "authority that signs client certificates, PEM")
	f.BoolVar(&o.insecure, "insecure", false, "no TLS, everybody may do everything; only with a loopback --listen")
	f.StringSliceVar(&o.roles.Upgraders, "upgrader-names", []string{"offduty-upgrader"}, "certificate names, and service accounts as system:serviceaccount:NAMESPACE:NAME, that may lease")
	f.StringSliceVar(&o.roles.Attendants, "attendant-names", []string{"offduty-attendant"}, "certificate names that may attend as any replica, and service accounts (the last part may be *) whose pods may attend as themselves")
	f.StringSliceVar(&o.roles.Admins, "admin-names", []string{"offduty-admin"}, "certificate names and service accounts that may release by force")
	f.BoolVar(&o.tokens, "service-account-tokens", false,
		"accept, beside certificates, service-account tokens for the audience "+controller.TokenAudience+"; needs the right to create tokenreviews")
	f.BoolVar(&o.selfSigned, "self-signed-secrets", false,
		"make and renew all certificates and keep them in the Secrets offduty-arbiter-ca, offduty-arbiter-tls, offduty-upgrader-tls, offduty-attendant-tls and offduty-admin-tls")
	f.DurationVar(&o.selfSignedLife, "self-signed-lifetime", controller.DefaultLife,
		"how long these certificates are valid; they are renewed after two thirds of it, their authority after 38 times it, or when the annotation "+controller.RotateAnnotation+" is put on the Secret "+controller.AuthoritySecret)
	f.StringVar(&o.secretsNamespace, "secrets-namespace", "", "namespace of these Secrets (default: --leader-election-namespace)")
	f.StringSliceVar(&o.serviceNames, "service-dns-names", []string{"offduty-arbiter.offduty-system.svc", "localhost", "127.0.0.1"},
		"DNS names and IP addresses of the self-signed server certificate")
	f.StringVar(&o.stateFile, "state-file", "", "run without Kubernetes, with the records in this file")
	f.StringVar(&o.config, "config", "", "groups for --state-file, YAML; see above")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig (default: $KUBECONFIG, then the service account of the pod)")
	f.StringSliceVar(&o.namespaces, "namespaces", nil, "namespaces to watch (default: all)")
	f.StringVar(&o.metrics, "metrics-bind-address", ":8080", `address for /metrics; "0": none`)
	f.StringVar(&o.probes, "health-probe-bind-address", ":8081", `address for /healthz and /readyz; "0": none`)
	f.BoolVar(&o.leaderElect, "leader-elect", true, "be one of several; only the leader serves and is ready")
	f.StringVar(&o.leaderNamespace, "leader-election-namespace", "", "namespace of the Lease offduty-arbiter (default: $POD_NAMESPACE, then the pod's)")
	f.DurationVar(&o.leaseDuration, "leader-election-lease-duration", 15*time.Second,
		"how long a successor waits for a leader that was killed; a leader that cannot reach the API server gives up after two thirds of it. Set POD_UID so that a restarted container need not wait")
	f.BoolVar(&o.loopback, "loopback-members", false,
		"let members of observed rosters that are asked over the network have a loopback address; for tests: whoever may write the status of a pod can then make the arbiter talk to what listens beside it")
	return cmd
}

func (o *serveOptions) run(ctx context.Context) error {
	if err := o.check(); err != nil {
		return err
	}
	log, err := logs.New(os.Stderr, o.logLevel)
	if err != nil {
		return err
	}
	tracing, err := traces.Start(ctx, "offduty-arbiter", version.Get())
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := tracing.Stop(last); err != nil {
			log.Error(err, "traces are lost")
		}
	}()
	o.counts = metrics.New(ctrlmetrics.Registry, time.Now)
	o.grpc = append(tracing.Serve(), grpc.ChainUnaryInterceptor(o.counts.Unary), grpc.ChainStreamInterceptor(o.counts.Stream))
	if o.stateFile != "" {
		return o.runStandalone(logr.NewContext(ctx, log), log)
	}
	return o.runKubernetes(logr.NewContext(ctx, log), log)
}

// check refuses flags that do not go together, before anything is started.
func (o *serveOptions) check() error {
	files := 0
	for _, f := range []string{o.cert, o.key, o.clientCA} {
		if f != "" {
			files++
		}
	}
	ways := 0
	for _, way := range []bool{o.insecure, o.selfSigned, files > 0} {
		if way {
			ways++
		}
	}
	switch {
	case o.leaseDuration < 3*time.Second:
		return fmt.Errorf("--leader-election-lease-duration %s: at least 3s", o.leaseDuration)
	case (o.stateFile == "") != (o.config == ""):
		return errors.New("--state-file and --config are needed together")
	case o.stateFile != "" && o.selfSigned:
		return errors.New("--self-signed-secrets needs Kubernetes: give --tls-cert, --tls-key and --client-ca with --state-file")
	case o.stateFile != "" && o.tokens:
		return errors.New("--service-account-tokens needs Kubernetes: with --state-file clients are known by their certificates")
	case o.insecure && o.tokens:
		return errors.New("--service-account-tokens needs TLS: a token must be seen by nobody else")
	case ways != 1:
		return errors.New("give exactly one of: --tls-cert with --tls-key and --client-ca; --self-signed-secrets; --insecure")
	case o.selfSignedLife < 20*time.Second:
		return fmt.Errorf("--self-signed-lifetime %s: at least 20s", o.selfSignedLife)
	case files > 0 && files < 3:
		return errors.New("--tls-cert, --tls-key and --client-ca are needed together")
	case o.insecure:
		return checkLoopback(o.listen)
	}
	return nil
}

// serveMetrics serves /metrics until ctx is done; with Kubernetes the manager does. What it
// returns waits for the end.
func (o *serveOptions) serveMetrics(ctx context.Context, log logr.Logger) (wait func(), err error) {
	s, err := metricsserver.NewServer(metricsserver.Options{BindAddress: o.metrics}, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	if s == nil {
		return func() {}, nil
	}
	ctrl.SetLogger(log)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Start(ctx); err != nil {
			log.Error(err, "metrics are not served", "address", o.metrics)
		}
	})
	return serving.Wait, nil
}

// checkLoopback refuses plaintext on an address that others can reach.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("--insecure with address %q: plaintext is allowed on a loopback address only, such as 127.0.0.1:9443", address)
}

// files returns the certificates in files, or nil for plaintext.
func (o *serveOptions) files() (server.Certificates, error) {
	if o.insecure {
		return nil, nil //nolint:nilnil // plaintext has no certificates
	}
	c := &server.Files{Cert: o.cert, Key: o.key, ClientCA: o.clientCA}
	if _, _, err := c.Current(); err != nil {
		return nil, err
	}
	return c, nil
}

func (o *serveOptions) runStandalone(ctx context.Context, log logr.Logger) error {
	data, err := os.ReadFile(filepath.Clean(o.config))
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	rosters, err := controller.DecodeStandalone(data)
	if err != nil {
		return fmt.Errorf("read the configuration %s: %w", o.config, err)
	}
	certificates, err := o.files()
	if err != nil {
		return err
	}
	state, err := store.OpenFile(o.stateFile)
	if err != nil {
		return err
	}
	groups := controller.NewStandalone(rosters, state, time.Now, log, o.counts)
	if err := ctrlmetrics.Registry.Register(&metrics.Groups{Each: groups.Each}); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	measured, err := o.serveMetrics(running, log)
	if err != nil {
		stop()
		return errors.Join(err, state.Close())
	}
	defer func() {
		stop()
		groups.Wait()
		measured()
		if err := state.Close(); err != nil {
			log.Error(err, "cannot close the state file", "file", o.stateFile)
		}
	}()
	if err := groups.Start(running); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	log.Info("serving", "address", listener.Addr().String(), "groups", len(rosters))
	return server.New(server.Config{
		Groups: groups, Certificates: certificates, Roles: o.roles, Version: version.Get(), Now: time.Now, Log: log,
		Options: o.grpc,
	}).Serve(ctx, listener)
}
