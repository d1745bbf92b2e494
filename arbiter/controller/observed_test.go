package controller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/lease"
)

const byRole = `has(object.metadata.labels.role) && object.metadata.labels.role == "primary"`

// observing is a cluster whose roster is observed; web-0 is the primary.
func observing(t *testing.T, expression string, test func(ctx context.Context, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); synctest.Wait() }()
		c := newCluster(ctx, t)
		ro := c.roster(ctx)
		ro.Spec.Assigned, ro.Spec.Observed = nil, &v1alpha1.ObservedDuty{
			Workers: new(int32(1)), Pods: &v1alpha1.PodsSource{Working: expression},
		}
		must(t, c.Update(ctx, ro))
		c.setRole(ctx, "web-0", "primary")
		c.reconcile(ctx)
		test(ctx, c)
		cancel()
		c.Registry.Wait()
	})
}

func (c *cluster) setRole(ctx context.Context, name, role string) {
	c.t.Helper()
	p := c.pod(ctx, name)
	p.Labels["role"] = role
	must(c.t, c.Update(ctx, p))
}

func (c *cluster) duties(ctx context.Context) map[string]string {
	c.t.Helper()
	out := map[string]string{}
	for _, m := range c.roster(ctx).Status.Members {
		out[m.Name] = m.Duty
	}
	return out
}

func TestAnObservedRosterShowsWhoWorksAndLabelsNobody(t *testing.T) {
	observing(t, byRole, func(ctx context.Context, c *cluster) {
		t := c.t
		if diff := cmp.Diff(map[string]string{"web-0": "Working", "web-1": "Idle", "web-2": "Idle"}, c.duties(ctx)); diff != "" {
			t.Error(diff)
		}
		c.reconcile(ctx)
		if s := c.roster(ctx).Status; s.Working != "web-0" || s.Conditions[0].Reason != duty.ReasonOnDuty || s.Conditions[0].Message != "1 seen on duty" {
			t.Errorf("status: %+v", s)
		}
		for _, name := range []string{"web-0", "web-1", "web-2"} {
			if l, ok := c.pod(ctx, name).Labels[v1alpha1.DutyLabel]; ok {
				t.Errorf("%s was labelled %q", name, l)
			}
		}
		c.setRole(ctx, "web-1", "primary")
		c.reconcile(ctx)
		if diff := cmp.Diff(map[string]string{"web-0": "Working", "web-1": "Working", "web-2": "Unknown"}, c.duties(ctx)); diff != "" {
			t.Error(diff)
		}
		if got := c.roster(ctx).Status.Conditions[0]; got.Reason != duty.ReasonUnsettled ||
			got.Message != "the application is not settled: 2 seen to work, not 1 (web-0, web-1); nobody counts as idle meanwhile" {
			t.Errorf("two primaries: %+v", got)
		}
	})
}

func TestAnExpressionThatDoesNotCompileIsShownAndNobodyIsIdle(t *testing.T) {
	observing(t, `object.metadata.lables.role == "primary"`, func(ctx context.Context, c *cluster) {
		t := c.t
		want := "spec.observed.pods.working: line 1, column 16: undefined field 'lables'; nobody counts as idle"
		if got := c.roster(ctx).Status.Conditions[0]; got.Reason != duty.ReasonInvalidSource || got.Message != want {
			t.Errorf("the condition: %+v", got)
		}
		if diff := cmp.Diff(map[string]string{"web-0": "Unknown", "web-1": "Unknown", "web-2": "Unknown"}, c.duties(ctx)); diff != "" {
			t.Error(diff)
		}
		ro := c.roster(ctx)
		ro.Spec.Observed.Pods.Working = byRole
		must(t, c.Update(ctx, ro))
		c.reconcile(ctx)
		if got := c.duties(ctx)["web-1"]; got != "Idle" {
			t.Errorf("with a corrected expression web-1 is %s", got)
		}
	})
}

// lease gets a lease on web-1 for a holder "h".
func (c *cluster) lease(ctx context.Context) (*duty.Group, lease.Ref) {
	c.t.Helper()
	g := c.Registry.get(c.key)
	token, _, _, err := g.Adopt(ctx, lease.AdoptRequest{Holder: "h", Term: 1, Identity: "i"})
	must(c.t, err)
	got, err := g.Acquire(ctx, lease.AcquireRequest{
		Holder: "h", Token: token, RequestID: "r", Max: 1, TTL: time.Minute,
		Candidates: []lease.Candidate{{Replica: "web-1", Instance: "uid-web-1"}},
	})
	must(c.t, err)
	if len(got.Leases) != 1 {
		c.t.Fatalf("no lease: %+v", got)
	}
	return g, lease.Ref{ID: got.Leases[0].ID, Token: got.Leases[0].Token}
}

// Nothing is reconciled between lease and pin: the cache may be as late as it likes.
func TestAPinIsDecidedOnWhatThePodsShowNow(t *testing.T) {
	for name, tt := range map[string]struct {
		change  func(ctx context.Context, c *cluster)
		refused lease.Reason
	}{
		"nothing has changed":                 {change: func(context.Context, *cluster) {}},
		"the replica itself works now":        {func(ctx context.Context, c *cluster) { c.setRole(ctx, "web-1", "primary") }, lease.NotIdle},
		"there are two primaries, both other": {func(ctx context.Context, c *cluster) { c.setRole(ctx, "web-2", "primary") }, lease.NotIdle},
		"there is no primary":                 {func(ctx context.Context, c *cluster) { c.setRole(ctx, "web-0", "replica") }, lease.NotIdle},
		"duty has moved, and not to it": {change: func(ctx context.Context, c *cluster) {
			c.setRole(ctx, "web-0", "replica")
			c.setRole(ctx, "web-2", "primary")
		}},
		"its pod is gone": {func(ctx context.Context, c *cluster) { must(c.t, c.Delete(ctx, c.pod(ctx, "web-1"))) }, lease.InstanceChanged},
		"it was replaced": {func(ctx context.Context, c *cluster) {
			p := c.pod(ctx, "web-1")
			must(c.t, c.Delete(ctx, p))
			p.UID, p.ResourceVersion = "uid-new", ""
			must(c.t, c.Create(ctx, p))
		}, lease.InstanceChanged},
	} {
		t.Run(name, func(t *testing.T) {
			observing(t, byRole, func(ctx context.Context, c *cluster) {
				g, ref := c.lease(ctx)
				tt.change(ctx, c)
				pinned, refusal, err := g.Pin(ctx, ref, "uid-web-1")
				must(t, err)
				switch {
				case tt.refused == 0 && pinned == nil:
					t.Errorf("refused: %+v", refusal)
				case tt.refused != 0 && (refusal == nil || refusal.Reason != tt.refused):
					t.Errorf("pinned: %+v, refused: %+v", pinned, refusal)
				}
			})
		})
	}
}

// blind is an API server that does not answer lists.
type blind struct{ client.Reader }

func (blind) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("it is down")
}

func TestAPinIsNotDecidedWithoutALook(t *testing.T) {
	observing(t, byRole, func(ctx context.Context, c *cluster) {
		g, ref := c.lease(ctx)
		c.Live = blind{c.Live}
		if pinned, _, err := g.Pin(ctx, ref, "uid-web-1"); pinned != nil || !errors.Is(err, duty.ErrUnavailable) {
			c.t.Errorf("pinned %+v, error %v", pinned, err)
		}
	})
}

func TestALeasedReplicaThatIsCalledToDutyIsShown(t *testing.T) {
	observing(t, byRole, func(ctx context.Context, c *cluster) {
		g, ref := c.lease(ctx)
		_, refusal, err := g.Pin(ctx, ref, "uid-web-1")
		must(c.t, err)
		if refusal != nil {
			c.t.Fatal(refusal)
		}
		c.setRole(ctx, "web-0", "replica")
		c.setRole(ctx, "web-1", "primary")
		c.reconcile(ctx)
		if got := c.roster(ctx).Status.Conditions[0]; got.Reason != duty.ReasonCalledToDuty {
			c.t.Errorf("the condition: %+v", got)
		}
	})
}

func TestAnObservedRosterHandsNothingOverAndNobodyAttends(t *testing.T) {
	observing(t, byRole, func(ctx context.Context, c *cluster) {
		t := c.t
		g := c.Registry.get(c.key)
		if !g.Observed() {
			t.Error("the group does not know that it is observed")
		}
		token, _, _, err := g.Adopt(ctx, lease.AdoptRequest{Holder: "h", Term: 1, Identity: "i"})
		must(t, err)
		_, refusal, err := g.Handover(ctx, "h", token, "web-0", []string{"web-1"})
		must(t, err)
		if refusal == nil || refusal.Reason != lease.DutyIsNamed {
			t.Errorf("a handover: %+v", refusal)
		}
		if _, err := g.Attend(ctx, "web-1", "uid-web-1"); !errors.Is(err, duty.ErrObserved) {
			t.Errorf("attending: %v", err)
		}
	})
}

func TestAnyChangeOfAPodIsLookedAtForObservedRosters(t *testing.T) {
	observing(t, byRole, func(ctx context.Context, c *cluster) {
		obj := &corev1.Pod{}
		obj.Namespace, obj.Name, obj.Labels = "ns", "web-1", map[string]string{"app": "web"}
		want := types.NamespacedName{Namespace: "ns", Name: "web"}
		if got := c.observedRostersOf(ctx, obj); len(got) != 1 || got[0].NamespacedName != want {
			c.t.Errorf("found %v", got)
		}
	})
	inBubble(t, func(ctx context.Context, c *cluster) {
		obj := c.pod(ctx, "web-1")
		if got := c.observedRostersOf(ctx, obj); len(got) != 0 {
			c.t.Errorf("found %v, which is not observed", got)
		}
	})
}

func TestAPodThatDoesNotShowItsDutyYetIsUnknownUntilItDoes(t *testing.T) {
	observing(t, `object.metadata.labels.role == "primary"`, func(ctx context.Context, c *cluster) {
		t := c.t
		c.setRole(ctx, "web-2", "replica")
		c.reconcile(ctx)
		want := "the duty of web-1 is not known: its expression fails: no such key: role"
		if got := c.roster(ctx).Status.Conditions[0]; got.Reason != duty.ReasonDutyUnknown || got.Message != want {
			t.Errorf("the condition: %+v", got)
		}
		c.setRole(ctx, "web-1", "replica")
		c.reconcile(ctx)
		if got := c.roster(ctx).Status.Conditions[0]; got.Reason != duty.ReasonOnDuty {
			t.Errorf("the condition: %+v", got)
		}
	})
}

func TestTheHolderOfALeaseIsSeenAndItsReadersErrorIsShown(t *testing.T) {
	observing(t, byRole, func(ctx context.Context, c *cluster) {
		t := c.t
		ro := c.roster(ctx)
		ro.Spec.Observed = &v1alpha1.ObservedDuty{Lease: &v1alpha1.LeaseSource{Name: "leader"}}
		must(t, c.Update(ctx, ro))
		c.reconcile(ctx)
		want := `the duty of web-0, web-1, web-2 is not known: read lease ns/leader: leases.coordination.k8s.io "leader" not found`
		if got := c.roster(ctx).Status.Conditions[0]; got.Reason != duty.ReasonDutyUnknown || got.Message != want {
			t.Errorf("without a lease: %+v", got)
		}
		l := &coordinationv1.Lease{}
		l.Namespace, l.Name = "ns", "leader"
		l.Spec.LeaseDurationSeconds, l.Spec.HolderIdentity = new(int32(15)), new("web-2_ab")
		must(t, c.Create(ctx, l))
		c.reconcile(ctx)
		c.renew(ctx)
		result, err := c.Reconcile(ctx, ctrl.Request{NamespacedName: c.key})
		must(t, err)
		if diff := cmp.Diff(map[string]string{"web-0": "Idle", "web-1": "Idle", "web-2": "Working"}, c.duties(ctx)); diff != "" {
			t.Error(diff)
		}
		if result.RequeueAfter != time.Second {
			t.Errorf("it is looked at again after %s", result.RequeueAfter)
		}
		g, ref := c.lease(ctx)
		time.Sleep(15 * time.Second) // the bubble's clock
		synctest.Wait()
		if diff := cmp.Diff(map[string]string{"web-0": "Unknown", "web-1": "Unknown", "web-2": "Unknown"}, c.duties(ctx)); diff != "" {
			t.Errorf("when nobody renews it: %s", diff)
		}
		if _, refusal, err := g.Pin(ctx, ref, "uid-web-1"); err != nil || refusal == nil || refusal.Reason != lease.NotIdle {
			t.Errorf("a pin when nobody renews it: %v, %v", refusal, err)
		}
		c.renew(ctx)
		if _, refusal, err := g.Pin(ctx, ref, "uid-web-1"); err != nil || refusal != nil {
			t.Errorf("a pin as soon as it is renewed: %v, %v", refusal, err)
		}
	})
}

// renew renews the Lease "leader".
func (c *cluster) renew(ctx context.Context) {
	c.t.Helper()
	var l coordinationv1.Lease
	must(c.t, c.Get(ctx, types.NamespacedName{Namespace: "ns", Name: "leader"}, &l))
	l.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
	must(c.t, c.Update(ctx, &l))
}

// talking gives the pods addresses on the loopback, at which processes answer that they are
// idle, web-0 that it works; say changes that. It needs the real clock, as it uses the network.
func talking(t *testing.T, test func(ctx context.Context, c *cluster, say func(name, answer string))) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := newCluster(ctx, t)
	c.LoopbackMembers = true
	answers := &sync.Map{}
	var port int32
	for i, name := range []string{"web-0", "web-1", "web-2"} {
		answers.Store(name, `{"duty":"idle"}`)
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.%d:%d", i+1, port))
		if err != nil {
			t.Skipf("this machine does not listen on 127.0.0.%d: %v", i+1, err)
		}
		port = int32(l.Addr().(*net.TCPAddr).Port) //nolint:gosec // a port
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			answer, _ := answers.Load(name)
			fmt.Fprint(w, answer)
		}))
		server.Listener.Close()
		server.Listener = l
		server.Start()
		defer server.Close()
		p := c.pod(ctx, name)
		p.Status.PodIP = fmt.Sprintf("127.0.0.%d", i+1)
		must(t, c.Status().Update(ctx, p))
	}
	answers.Store("web-0", `{"duty":"working"}`)
	ro := c.roster(ctx)
	ro.Spec.Assigned, ro.Spec.Observed = nil, &v1alpha1.ObservedDuty{
		Workers: new(int32(1)), HTTP: &v1alpha1.HTTPSource{
			Endpoint: v1alpha1.Endpoint{Port: intstr.FromInt32(port)}, Scheme: v1alpha1.SchemeHTTP, Path: "/duty",
			Probe: v1alpha1.Probing{PeriodSeconds: 1, TimeoutSeconds: 1, MaxAgeSeconds: 10, SuccessThreshold: 1, FailureThreshold: 1},
		},
	}
	must(t, c.Update(ctx, ro))
	c.reconcile(ctx)
	test(ctx, c, func(name, answer string) { answers.Store(name, answer) })
	cancel()
	c.Registry.Wait()
	c.Wait()
}

// until reconciles whenever that is asked for, until members do what they should.
func (c *cluster) until(ctx context.Context, want map[string]string) {
	c.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		diff := cmp.Diff(want, c.duties(ctx))
		if diff == "" {
			return
		}
		select {
		case <-c.changed:
			c.reconcile(ctx)
		case <-deadline:
			c.t.Fatalf("after 30 s: %s", diff)
		}
	}
}

func TestMembersAreAskedByHTTPAndAPinAsksThemAgain(t *testing.T) {
	talking(t, func(ctx context.Context, c *cluster, say func(name, answer string)) {
		c.until(ctx, map[string]string{"web-0": "Working", "web-1": "Idle", "web-2": "Idle"})
		g, ref := c.lease(ctx)
		say("web-1", `{"duty":"working"}`)
		say("web-0", `{"duty":"idle"}`)
		// Nobody has reconciled.
		if _, refusal, err := g.Pin(ctx, ref, "uid-web-1"); err != nil || refusal == nil || refusal.Reason != lease.NotIdle {
			t.Errorf("a pin of one that works now: %v, %v", refusal, err)
		}
		say("web-1", `{"duty":"idle"}`)
		say("web-0", `{"duty":"working"}`)
		if _, refusal, err := g.Pin(ctx, ref, "uid-web-1"); err != nil || refusal != nil {
			t.Errorf("a pin of one that is idle again: %v, %v", refusal, err)
		}
		say("web-2", `{"duty":"no"}`)
		c.until(ctx, map[string]string{"web-0": "Working", "web-1": "Idle", "web-2": "Unknown"})
		if got, err := c.Reconcile(ctx, ctrl.Request{NamespacedName: c.key}); err != nil || got.RequeueAfter > 5*time.Second || got.RequeueAfter == 0 {
			t.Errorf("it is looked at again after %s: %v", got.RequeueAfter, err)
		}
		must(t, c.Delete(ctx, c.roster(ctx)))
		c.reconcile(ctx)
		c.Wait() // nobody is asked any more
	})
}

func TestWhatMembersAreRecognisedByIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := newCluster(ctx, t)
		get := c.credentials("ns", &v1alpha1.MemberTLS{SecretName: "db", ConfigMapName: "ca", ServerName: "db"})
		wants := func(what string) {
			t.Helper()
			if _, err := get(ctx); err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("got %v, want %q", err, what)
			}
		}
		wants(`secrets "db" not found`)
		ca, err := newAuthority("a", time.Now(), life(time.Hour))
		must(t, err)
		pair, err := newClient(ca, "arbiter", time.Now(), life(time.Hour))
		must(t, err)
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db"}, Data: map[string][]byte{"tls.crt": pair.Cert, "tls.key": ca.Key}}
		must(t, c.Create(ctx, secret))
		wants(`configmaps "ca" not found`)
		must(t, c.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "ca"}, Data: map[string]string{"ca.crt": string(ca.Cert)}}))
		wants("tls.crt and tls.key of the roster's tls")
		secret.Data["tls.key"] = pair.Key
		must(t, c.Update(ctx, secret))
		first, err := get(ctx)
		must(t, err)
		if first.ServerName != "db" || first.RootCAs == nil || len(first.Certificates) != 1 {
			t.Errorf("got %+v", first)
		}
		same := func(why string, want bool) {
			t.Helper()
			if again, err := get(ctx); err != nil || (again == first) != want {
				t.Errorf("%s: it is the same: %t, %v", why, again == first, err)
			}
		}
		time.Sleep(2 * time.Minute) // the bubble's clock
		same("nothing has changed", true)
		pair, err = newClient(ca, "arbiter", time.Now(), life(time.Hour))
		must(t, err)
		secret.Data["tls.crt"], secret.Data["tls.key"] = pair.Cert, pair.Key
		must(t, c.Update(ctx, secret))
		same("within a minute", true)
		time.Sleep(2 * time.Minute) // the bubble's clock
		same("after that", false)
	})
}
