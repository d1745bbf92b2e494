package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	arbiterclient "offduty.dev/arbiter/client"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// listener is a port at which nobody may knock.
type listener struct{ *net.TCPListener }

func listen(t *testing.T) listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return listener{l.(*net.TCPListener)}
}

func (l listener) port() int { return l.Addr().(*net.TCPAddr).Port }

// untouched wants no connection to have been opened: the kernel keeps those not yet accepted.
func (l listener) untouched(t *testing.T) {
	t.Helper()
	if err := l.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if c, err := l.Accept(); err == nil {
		t.Errorf("there was a connection from %s", c.RemoteAddr())
	}
}

func TestNoConnectionIsOpenedToAnArbiterThatAPlanMayNotName(t *testing.T) {
	s := newStage(t)
	before := s.begin(harness.Slots(0), 0)
	s.apply(secret("own", s.files("upgrader")))
	l := listen(t)
	for _, c := range []struct{ name, address, tls, says string }{
		{"a loopback address", fmt.Sprintf("127.0.0.1:%d", l.port()), "own", "is a loopback address"},
		{"a name that leads to one", fmt.Sprintf("localhost:%d", l.port()), "own", "no connection is opened to it: "},
		{"a name that is not listed", fmt.Sprintf("arbiter.example.com:%d", l.port()), "own", "--allowed-arbiters do not have it"},
		{"an allowed name without a secret", fmt.Sprintf("localhost:%d", l.port()), "", "set spec.arbiter.tls"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s.on(t)
			own := "group: sample\n    address: " + c.address
			if c.tls != "" {
				own += "\n    tls: {secretName: " + c.tls + "}"
			}
			_, err := s.Kubectl(t.Context(), "", "delete", "upgradeplan", harness.Group, "--namespace", s.Namespace, "--ignore-not-found")
			s.must(err)
			s.apply(strings.Replace(harness.PlanManifest(harness.NewImage, "{maxUnavailable: 2}"), "group: sample", own, 1))
			s.await("the plan says so", told("Stalled", "True", "ArbiterConfigInvalid", c.address, c.says))
			l.untouched(t)
		})
	}
	s.untouched(before)
}

// account is a service account with a pod, and a token for an audience that is bound to it.
func (s *stage) account(name, audience string) (string, *corev1.Pod) {
	s.t.Helper()
	admin, err := s.Cluster.Client(s.t.Context(), controlplane.Admin(), nil)
	s.must(err)
	meta := metav1.ObjectMeta{Namespace: s.Namespace, Name: name}
	s.must(admin.Create(s.t.Context(), &corev1.ServiceAccount{ObjectMeta: meta}))
	pod := &corev1.Pod{ObjectMeta: *meta.DeepCopy(), Spec: corev1.PodSpec{
		ServiceAccountName: name, Containers: []corev1.Container{{Name: "main", Image: harness.OldImage}},
	}}
	s.must(admin.Create(s.t.Context(), pod))
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences:      []string{audience},
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	s.must(admin.SubResource("token").Create(s.t.Context(), &corev1.ServiceAccount{ObjectMeta: meta}, request))
	path := filepath.Join(s.t.TempDir(), "token")
	s.must(os.WriteFile(path, []byte(request.Status.Token), 0o600))
	return path, pod
}

// byToken is a client of the arbiter that shows a token and no certificate.
func (s *stage) byToken(path string) *arbiterclient.Client {
	s.t.Helper()
	tls := s.TLS("upgrader")
	k, err := arbiterclient.Dial(arbiterclient.Config{Address: s.ArbiterAddress, TokenFile: path, TLS: &arbiterclient.TLS{CA: tls.CA}})
	s.must(err)
	s.t.Cleanup(func() { s.must(k.Close()) })
	return k
}

func TestTheArbiterAcceptsServiceAccountTokens(t *testing.T) {
	s := newStage(t)
	s.begin(harness.Slots(0), 0)
	group := s.Namespace + "/" + harness.Group
	t.Run("the upgrader's own", func(t *testing.T) {
		s := s.on(t)
		path, err := s.SaveToken(t.Context(), harness.UpgraderAccount.Username())
		s.must(err)
		state, err := s.byToken(path).List(t.Context(), group)
		if err != nil || len(state.Replicas) != 5 {
			t.Errorf("got %+v, %v", state, err)
		}
	})
	t.Run("but not one for another audience", func(t *testing.T) {
		s := s.on(t)
		path, _ := s.account("elsewhere", "https://example.com")
		if _, err := s.byToken(path).List(t.Context(), group); !errors.Is(err, arbiterclient.ErrDenied) || !strings.Contains(err.Error(), "the token is refused") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("and a pod's attends as that pod, until the pod is gone", func(t *testing.T) { s.on(t).attendsAsItself(group) })
}

// attendsAsItself makes a pod and shows its token.
func (s *stage) attendsAsItself(group string) {
	s.t.Helper()
	t := s.t
	path, pod := s.account("attendant", "offduty.dev/arbiter")
	k := s.byToken(path)
	if _, err := k.List(t.Context(), group); !errors.Is(err, arbiterclient.ErrDenied) || !strings.Contains(err.Error(), "needs the role upgrader or admin") {
		t.Errorf("it lists: %v", err)
	}
	sample := s.now().Pods["sample-0"]
	if err := s.attend(k, "sample-0", sample.UID); err == nil || !strings.Contains(err.Error(), "attends as itself only") {
		t.Errorf("as another pod: %v", err)
	}
	// It is no member of the group: to be told so, it must have been let in.
	if err := s.attend(k, "attendant", string(pod.UID)); err == nil || errors.Is(err, arbiterclient.ErrDenied) {
		t.Errorf("as itself: %v", err)
	}
	admin, err := s.Cluster.Client(t.Context(), controlplane.Admin(), nil)
	s.must(err)
	s.must(admin.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, "the token is refused", func(ctx context.Context) error {
		if _, err := k.List(ctx, group); err == nil || !strings.Contains(err.Error(), "the token is refused") {
			return fmt.Errorf("it is not: %w", err)
		}
		return nil
	}))
}

// attend tells why the arbiter does not let a replica attend.
func (s *stage) attend(k *arbiterclient.Client, pod, uid string) error {
	s.t.Helper()
	ctx, cancel := context.WithCancelCause(s.t.Context())
	defer cancel(nil)
	timeout := time.AfterFunc(patience, func() { cancel(nil) })
	defer timeout.Stop()
	a, err := arbiterclient.NewAttendant(arbiterclient.AttendantConfig{
		Client: k, Group: s.Namespace + "/" + harness.Group, Replica: s.Namespace + "/" + pod, Instance: uid,
		Now: time.Now, Work: func(ctx context.Context) { <-ctx.Done() }, OnError: func(err error) { cancel(err) },
	})
	s.must(err)
	s.must(a.Run(ctx))
	if why := context.Cause(ctx); !errors.Is(why, context.Canceled) {
		return why
	}
	return nil
}

// An upgrader with nothing but its token carries out a whole plan.
func TestAnUpgradeByTokenAlone(t *testing.T) {
	s := newStage(t)
	before := s.begin(harness.Slots(0), 0)
	s.must(s.Kill(harness.UpgraderA))
	const name = "upgrader-token"
	s.must(s.StartUpgrader(t.Context(), name, "--arbiter-cert", "", "--arbiter-key", ""))
	t.Cleanup(func() {
		s.must(s.Kill(name))
		s.must(s.Restart(context.Background(), harness.UpgraderA))
	})
	s.apply(harness.PlanManifest(harness.NewImage, "{maxUnavailable: 2}"))
	s.await("the plan is ready", settled)
	s.check(before, upgraded(0, 1, 2, 3, 4), parked)
}
