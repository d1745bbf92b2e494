package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"offduty.dev/arbiter/conformance"
	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/e2e/harness"
)

// dialAs connects to the arbiter with the certificate of a client.
func dialAs(t *testing.T, s *harness.System, who string) *grpc.ClientConn {
	t.Helper()
	files := s.TLS(who)
	cert, err := tls.LoadX509KeyPair(files.Cert.File, files.Key.File)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(files.CA.File)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatalf("no certificate in %s", files.CA.File)
	}
	b := backoff.DefaultConfig
	b.MaxDelay = time.Second
	conn, err := grpc.NewClient(s.ArbiterAddress, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool,
	})), grpc.WithConnectParams(grpc.ConnectParams{Backoff: b, MinConnectTimeout: 2 * time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// sampleVoters makes the set and a roster with one worker, and returns its pods' UIDs.
func sampleVoters(t *testing.T, s *harness.System, namespace string) map[string]string {
	t.Helper()
	manifest := harness.RosterWith(`{"workers": 1, "lifetimeSeconds": 3, "failoverSeconds": 3}`, 3, 3) + "---\n" + harness.SetManifest()
	if _, err := s.Kubectl(t.Context(), manifest, "apply", "--namespace", namespace, "--filename", "-"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Kubectl(t.Context(), "", "wait", "--namespace", namespace, "--for=create", "--timeout=120s", "pod/sample-4"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Kubectl(t.Context(), "", "wait", "--namespace", namespace, "--for=condition=Ready", "--timeout=120s", "pod", "--selector", "app=sample"); err != nil {
		t.Fatal(err)
	}
	uids := map[string]string{}
	for i := range 5 {
		name := fmt.Sprintf("sample-%d", i)
		uids[namespace+"/"+name] = podUID(t.Context(), s, namespace, name)
	}
	return uids
}

// podUID is empty when there is no such pod.
func podUID(ctx context.Context, s *harness.System, namespace, name string) string {
	out, _ := s.Kubectl(ctx, "", "get", "--namespace", namespace, "pod", name, "--output", "jsonpath={.metadata.uid}")
	return strings.TrimSpace(out)
}

// quick leaves out cases that mostly wait, or send much: arbiter/controller tries them, too, on
// the same store and with a clock of its own.
func quick() []string {
	var out []string
	for _, c := range conformance.Cases() {
		if !slices.Contains([]string{"renew-keeps", "pin-outlives-ttl", "watch-slow", "clock-ahead", "clock-behind"}, c.ID) {
			out = append(out, c.ID)
		}
	}
	return out
}

func TestTheArbiterKeepsToItsSpecification(t *testing.T) {
	s := install(t)
	namespace := clustertest.Namespace(t)
	uids := sampleVoters(t, s, namespace)
	app := conformance.Attend(t.Context(), dialAs(t, s, "attendant"), namespace+"/sample", uids)
	defer app.Close()
	driver := app.Driver().Over(conformance.Driver{
		Recreate: func(ctx context.Context, replica string) error {
			name := strings.TrimPrefix(replica, namespace+"/")
			old := podUID(ctx, s, namespace, name)
			if _, err := s.Kubectl(ctx, "", "delete", "--namespace", namespace, "pod", name); err != nil {
				return err
			}
			_, err := s.Kubectl(ctx, "", "wait", "--namespace", namespace, "--for=create", "--timeout=120s", "pod/"+name)
			fresh := podUID(ctx, s, namespace, name)
			if fresh == old || fresh == "" {
				err = errors.Join(err, fmt.Errorf("pod %s was not created anew: %q, before %q", name, fresh, old))
			}
			return errors.Join(err, app.Become(replica, fresh))
		},
		Restart: func(ctx context.Context, clock time.Duration) error {
			if clock != 0 {
				return conformance.ErrUnsupported // this machine has one clock
			}
			return s.Restart(ctx, harness.ArbiterProcess)
		},
	})
	began := time.Now()
	report, err := conformance.Check(t.Context(), conformance.Target{
		Conn: dialAs(t, s, "upgrader"), Admin: dialAs(t, s, "admin"), Outsider: dialAs(t, s, "attendant"),
		Group: namespace + "/sample", Driver: driver, Settle: 30 * time.Second, Only: quick(),
	}, time.Now, func(x conformance.Result) { t.Logf("%5.1f s %s", x.Seconds, x.Line()) })
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range report.Results {
		if x.Outcome != conformance.Passed {
			t.Errorf("%s\n%s", x.Line(), x.Finding)
		}
	}
	t.Logf("%d cases passed in %.0f s", report.Count(conformance.Passed), time.Since(began).Seconds())
}
