package controlplane

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"

	"offduty.dev/test/cluster/pki"
)

//go:embed audit-policy.yaml
var auditPolicy []byte

// file is a path below the folder of this cluster.
func (c *Cluster) file(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

// writePKI makes the authority and writes what the daemons read from files.
func (c *Cluster) writePKI() error {
	ca, err := pki.NewAuthority("offduty-test", time.Now())
	if err != nil {
		return err
	}
	c.ca = ca
	if _, _, err := ca.Write(c.file("pki"), "ca"); err != nil {
		return err
	}
	servers := map[string][]string{
		"kube-apiserver": {"127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.96.0.1"},
		"etcd":           {"127.0.0.1", "localhost"},
	}
	if c.node != "" {
		servers["kube-apiserver"] = append(servers["kube-apiserver"], c.node)
	}
	for name, hosts := range servers {
		pair, err := ca.Server(name, hosts...)
		if err != nil {
			return err
		}
		if _, _, err := pair.Write(c.file("pki"), name); err != nil {
			return err
		}
	}
	kubelet, err := ca.Client("kube-apiserver-kubelet-client", "system:masters")
	if err != nil {
		return err
	}
	if _, _, err := kubelet.Write(c.file("pki"), "kubelet-client"); err != nil {
		return err
	}
	key, err := pki.SigningKey()
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(c.file("pki", "tokens.key"), key, 0o600),
		os.WriteFile(c.file("audit-policy.yaml"), auditPolicy, 0o600),
	)
}

// startAPIServer starts etcd and the API server together; the latter waits for
// the former by itself.
func (c *Cluster) startAPIServer(ctx context.Context) error {
	etcd := c.spec(Etcd, c.binaries.Kubernetes, c.etcdFlags()...)
	if _, err := c.launch(etcd, healthy("http://"+local(c.listen.etcdHealth)+"/health")); err != nil {
		return err
	}
	ready, err := c.apiServerReady(ctx)
	if err != nil {
		return err
	}
	if _, err := c.launch(c.spec(APIServer, c.binaries.Kubernetes, c.apiServerFlags()...), ready); err != nil {
		return err
	}
	if err := c.awaitReady(ctx, Etcd); err != nil {
		return err
	}
	return c.awaitReady(ctx, APIServer)
}

func (c *Cluster) etcdFlags() []string {
	client, peer := "https://"+local(c.listen.etcd), "https://"+local(c.listen.etcdPeer)
	return []string{
		"--name=etcd",
		"--data-dir=" + c.file("etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=etcd=" + peer,
		"--listen-metrics-urls=http://" + local(c.listen.etcdHealth),
		"--cert-file=" + c.file("pki", "etcd.crt"),
		"--key-file=" + c.file("pki", "etcd.key"),
		"--trusted-ca-file=" + c.file("pki", "ca.crt"),
		"--client-cert-auth",
		"--peer-cert-file=" + c.file("pki", "etcd.crt"),
		"--peer-key-file=" + c.file("pki", "etcd.key"),
		"--peer-trusted-ca-file=" + c.file("pki", "ca.crt"),
		"--peer-client-cert-auth",
		// The data is thrown away with the cluster. A killed etcd loses
		// nothing, as its writes are in the page cache.
		"--unsafe-no-fsync",
		"--log-level=warn",
	}
}

func (c *Cluster) apiServerFlags() []string {
	flags := []string{
		"--etcd-servers=https://" + local(c.listen.etcd),
		"--etcd-cafile=" + c.file("pki", "ca.crt"),
		"--etcd-certfile=" + c.file("pki", "etcd.crt"),
		"--etcd-keyfile=" + c.file("pki", "etcd.key"),
		fmt.Sprintf("--secure-port=%d", c.listen.apiServer),
		"--tls-cert-file=" + c.file("pki", "kube-apiserver.crt"),
		"--tls-private-key-file=" + c.file("pki", "kube-apiserver.key"),
		"--client-ca-file=" + c.file("pki", "ca.crt"),
		"--service-account-key-file=" + c.file("pki", "tokens.key"),
		"--service-account-signing-key-file=" + c.file("pki", "tokens.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--max-requests-inflight=3000",
		"--max-mutating-requests-inflight=1000",
		"--audit-policy-file=" + c.file("audit-policy.yaml"),
		"--audit-log-path=" + c.auditLogPath(),
		"--audit-log-maxsize=100000", // MB; a rotated log could not be counted
	}
	if c.node == "" {
		// There are no pods that could reach an address.
		return append(flags, "--bind-address=127.0.0.1", "--endpoint-reconciler-type=none")
	}
	return append(flags,
		"--bind-address=0.0.0.0",
		"--advertise-address="+c.node,
		"--kubelet-client-certificate="+c.file("pki", "kubelet-client.crt"),
		"--kubelet-client-key="+c.file("pki", "kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
	)
}

// apiServerReady asks /readyz as a user that needs no rights for it.
func (c *Cluster) apiServerReady(ctx context.Context) (func(context.Context) error, error) {
	config, err := c.RESTConfig(ctx, User("readiness"))
	if err != nil {
		return nil, err
	}
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make a client for /readyz: %w", err)
	}
	transport.Timeout = probeTimeout
	return probe(transport, config.Host+"/readyz"), nil
}

// startControllers starts the controller manager and the scheduler. The request
// limits are raised: at the defaults the start takes twice as long.
func (c *Cluster) startControllers(ctx context.Context) error {
	config, err := c.Kubeconfig(ctx, User("system:kube-controller-manager"))
	if err != nil {
		return err
	}
	manager := c.spec(ControllerManager, c.binaries.Kubernetes, append(controllerFlags(config, c.listen.controllerManager),
		"--use-service-account-credentials",
		"--service-account-private-key-file="+c.file("pki", "tokens.key"),
		"--root-ca-file="+c.file("pki", "ca.crt"),
		"--concurrent-gc-syncs=10",
		// Simulated nodes send no heartbeats and must not be taken for lost.
		"--node-monitor-grace-period=1000h",
		// Switched off: what needs a metrics server, a token bootstrap or a signer of certificates.
		"--controllers=*,-horizontal-pod-autoscaler-controller,-bootstrap-signer-controller,-token-cleaner-controller,-certificatesigningrequest-signing-controller",
	)...)
	if _, err := c.launch(manager, healthy("https://"+local(c.listen.controllerManager)+"/healthz")); err != nil {
		return err
	}
	if config, err = c.Kubeconfig(ctx, User("system:kube-scheduler")); err != nil {
		return err
	}
	scheduler := c.spec(Scheduler, c.binaries.Kubernetes, controllerFlags(config, c.listen.scheduler)...)
	if _, err := c.launch(scheduler, healthy("https://"+local(c.listen.scheduler)+"/healthz")); err != nil {
		return err
	}
	return errors.Join(c.awaitReady(ctx, ControllerManager), c.awaitReady(ctx, Scheduler))
}

func controllerFlags(kubeconfig string, port int) []string {
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port),
		// One instance each: without an election they take up work at once after a restart.
		"--leader-elect=false",
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
	}
}

// probeTimeout bounds one question; a frozen daemon accepts connections and is silent.
const probeTimeout = 5 * time.Second

// healthy asks a health page on this machine. Certificates are not checked: the
// daemons make their own for these pages.
func healthy(url string) func(context.Context) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true} //nolint:gosec // loopback health pages only
	return probe(&http.Client{Transport: transport, Timeout: probeTimeout}, url)
}

func probe(transport *http.Client, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return Permanent(err)
		}
		response, err := transport.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(io.LimitReader(response.Body, 500))
			return fmt.Errorf("%s answers %s: %s", url, response.Status, body)
		}
		return nil
	}
}
