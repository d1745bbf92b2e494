package controller

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/server"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cluster is a fake API server with a Roster "ns/web" of named workers and three pods,
// and a reconciler whose groups live as long as the test's bubble wants.
type cluster struct {
	client.Client
	*Reconciler
	t   *testing.T
	key types.NamespacedName
}

func newCluster(ctx context.Context, t *testing.T, working ...string) *cluster {
	t.Helper()
	scheme := runtime.NewScheme()
	must(t, clientgoscheme.AddToScheme(scheme))
	must(t, v1alpha1.AddToScheme(scheme))
	floor := int32(1)
	ro := &v1alpha1.Roster{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "r", Generation: 1},
		Spec: v1alpha1.RosterSpec{
			Members: v1alpha1.Members{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
			Floor:   v1alpha1.Floor{Type: v1alpha1.FloorMinServing, MinServing: &floor}, MaxLeased: 2, PinOverdueSeconds: 60,
			Assigned: &v1alpha1.AssignedDuty{Working: working, SettleSeconds: 120, FailoverSeconds: 10, LifetimeSeconds: 10},
		},
	}
	b := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Roster{}, &corev1.Pod{}).WithObjects(ro)
	for _, name := range []string{"web-0", "web-1", "web-2"} {
		b.WithObjects(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "ns", Name: name, UID: types.UID("uid-" + name),
				Labels: map[string]string{"app": "web", revisionLabel: "web-r1"},
			},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		})
	}
	// The real API server lets pods/status change annotations; the fake one does not.
	b.WithInterceptorFuncs(interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, _ ...client.SubResourcePatchOption) error {
		if sub != "status" {
			return fmt.Errorf("a patch of the subresource %q", sub)
		}
		return c.Patch(ctx, obj, patch)
	}})
	c := b.Build()
	return &cluster{Client: c, t: t, key: client.ObjectKeyFromObject(ro), Reconciler: &Reconciler{
		Client: c, Live: c, Registry: &Registry{Reader: c}, Recorder: events.NewFakeRecorder(100),
		Now: time.Now, Base: ctx, changed: make(chan event.GenericEvent, 100),
	}}
}

func (c *cluster) reconcile(ctx context.Context) {
	c.t.Helper()
	_, err := c.Reconcile(ctx, ctrl.Request{NamespacedName: c.key})
	must(c.t, err)
}

// reconcileFrozen does so again when a frozen group may look at its pods again.
func (c *cluster) reconcileFrozen(ctx context.Context) {
	c.t.Helper()
	time.Sleep(lookAgain) // the bubble's clock
	c.reconcile(ctx)
}

func (c *cluster) pod(ctx context.Context, name string) *corev1.Pod {
	c.t.Helper()
	var p corev1.Pod
	must(c.t, c.Get(ctx, types.NamespacedName{Namespace: "ns", Name: name}, &p))
	return &p
}

func (c *cluster) roster(ctx context.Context) *v1alpha1.Roster {
	c.t.Helper()
	var ro v1alpha1.Roster
	must(c.t, c.Get(ctx, c.key, &ro))
	return &ro
}

// Get is the fake client's, not the reconciler's.
func (c *cluster) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	return c.Client.Get(ctx, key, obj, opts...)
}

// inBubble runs a test with a clock of its own and ends the groups it has started.
func inBubble(t *testing.T, test func(ctx context.Context, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := newCluster(ctx, t, "web-0")
		// A new group first waits until nobody can rely any more on duty from one before it.
		c.reconcile(ctx)
		time.Sleep(10 * time.Second) // the bubble's clock
		synctest.Wait()
		test(ctx, c)
		cancel()
		c.Registry.Wait()
	})
}

func TestRosterGivesDutyAndLabelsPods(t *testing.T) {
	inBubble(t, func(ctx context.Context, c *cluster) {
		t := c.t
		c.reconcile(ctx)
		got := map[string]string{}
		for _, name := range []string{"web-0", "web-1", "web-2"} {
			got[name] = c.pod(ctx, name).Labels[v1alpha1.DutyLabel]
		}
		if diff := cmp.Diff(map[string]string{"web-0": "working", "web-1": "idle", "web-2": "idle"}, got); diff != "" {
			t.Error(diff)
		}
		s := c.roster(ctx).Status
		if s.Working != "web-0" || s.Serving != 3 || s.Epoch == "" || s.Conditions[0].Reason != "BestEffort" {
			t.Errorf("status: %+v", s)
		}
	})
}

func TestAnExpiredLeaseEndsAfterItsPodWasFenced(t *testing.T) {
	inBubble(t, func(ctx context.Context, c *cluster) {
		t := c.t
		c.reconcile(ctx)
		g := c.Registry.get(c.key)
		token, _, _, err := g.Adopt(ctx, lease.AdoptRequest{Holder: "h", Term: 1, Identity: "i"})
		must(t, err)
		got, err := g.Acquire(ctx, lease.AcquireRequest{
			Holder: "h", Token: token, RequestID: "r", Max: 1, TTL: 5 * time.Second,
			Candidates: []lease.Candidate{{Replica: "web-1", Instance: "uid-web-1"}},
		})
		must(t, err)
		before := c.pod(ctx, "web-1").ResourceVersion
		time.Sleep(6 * time.Second) // the bubble's clock
		synctest.Wait()
		if l := c.roster(ctx).Status.Leases; len(l) != 1 || l[0].Phase != "Expired" {
			t.Fatalf("leases after the TTL: %+v", l)
		}
		c.reconcile(ctx)
		p := c.pod(ctx, "web-1")
		if p.Annotations[v1alpha1.FencedAnnotation] != strconv.FormatInt(got.Leases[0].Token, 10) || p.ResourceVersion == before {
			t.Errorf("the pod was not fenced: %v", p.Annotations)
		}
		if l := c.roster(ctx).Status.Leases; len(l) != 0 {
			t.Errorf("leases after the fence: %+v", l)
		}
	})
}

func TestAWipedStatusFreezesUntilTheLeasesNotedOnPodsAreAdopted(t *testing.T) {
	inBubble(t, func(ctx context.Context, c *cluster) {
		t := c.t
		c.reconcile(ctx)
		p := c.pod(ctx, "web-1")
		p.Annotations = map[string]string{v1alpha1.LeaseAnnotation: "old-7/9"}
		must(t, c.Update(ctx, p))
		ro := c.roster(ctx)
		ro.Status = v1alpha1.RosterStatus{}
		must(t, c.Status().Update(ctx, ro))
		c.reconcile(ctx)
		if s := c.roster(ctx).Status; !s.Frozen || s.Conditions[0].Reason != "Frozen" {
			t.Fatalf("not frozen: %+v", s)
		}
		c.reconcileFrozen(ctx)
		g := c.Registry.get(c.key)
		token, leases, _, err := g.Adopt(ctx, lease.AdoptRequest{
			Holder: "h", Term: 1, Identity: "i", Known: []lease.Lease{{ID: "old-7", Replica: "web-1", Token: 9}},
		})
		must(t, err)
		if len(leases) != 1 || token <= 9 {
			t.Errorf("adopted with token %d: %+v", token, leases)
		}
		s := c.roster(ctx).Status
		if s.Frozen || s.Working != "web-0" {
			t.Errorf("after adoption: %+v", s)
		}
	})
}

// A lease that is not noted on its pod when the record is lost is known to its holder alone. It
// may be anywhere on its way to the pod: what it has decided conflicts, and what it decides on
// the pod as it is now finds the lease void.
func TestALeaseThatNoPodNamesIsVoidBeforeAFreezeEnds(t *testing.T) {
	inBubble(t, func(ctx context.Context, c *cluster) {
		t := c.t
		c.reconcile(ctx)
		g := c.Registry.get(c.key)
		token, _, _, err := g.Adopt(ctx, lease.AdoptRequest{Holder: "h", Term: 1, Identity: "i"})
		must(t, err)
		got, err := g.Acquire(ctx, lease.AcquireRequest{
			Holder: "h", Token: token, RequestID: "r", Max: 1, TTL: time.Hour, Candidates: []lease.Candidate{{Replica: "web-1", Instance: "uid-web-1"}},
		})
		must(t, err)
		before := c.pod(ctx, "web-1")
		ro := c.roster(ctx)
		ro.Status = v1alpha1.RosterStatus{}
		must(t, c.Status().Update(ctx, ro))
		c.reconcile(ctx)
		if s := c.roster(ctx).Status; !s.Frozen {
			t.Fatalf("nobody was at work as far as the pods show, and the freeze ends before they are fenced: %+v", s)
		}
		c.reconcileFrozen(ctx)
		if s := c.roster(ctx).Status; s.Frozen {
			t.Fatalf("all pods are fenced, and the freeze lasts: %+v", s)
		}
		for _, name := range []string{"web-0", "web-1", "web-2"} {
			p := c.pod(ctx, name)
			if fence := fencedOf(p); fence < got.Leases[0].Token || fence > c.roster(ctx).Status.LastToken {
				t.Errorf("%s is fenced up to %d, the unknown lease has %d", name, fence, got.Leases[0].Token)
			}
		}
		before.Annotations = map[string]string{v1alpha1.LeaseAnnotation: "late"}
		if err := c.Update(ctx, before); !apierrors.IsConflict(err) {
			t.Errorf("the write of a holder that knows nothing of it: %v", err)
		}
	})
}

// lists counts how often pods are read from the API server itself.
type lists struct {
	client.Reader
	n int
}

func (l *lists) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	l.n++
	return l.Reader.List(ctx, list, opts...)
}

func TestAFrozenGroupReadsItsPodsFromTheAPIServerOnceASecondAtMost(t *testing.T) {
	inBubble(t, func(ctx context.Context, c *cluster) {
		t := c.t
		live := &lists{Reader: c.Live}
		c.Live = live
		c.reconcile(ctx)
		began := live.n
		for range 10 {
			c.reconcile(ctx)
		}
		if live.n != began || began > 1 {
			t.Errorf("%d lists to begin, %d by a group that is not frozen", began, live.n-began)
		}
		p := c.pod(ctx, "web-1")
		p.Annotations = map[string]string{v1alpha1.LeaseAnnotation: "old-7/9"}
		must(t, c.Update(ctx, p))
		ro := c.roster(ctx)
		ro.Status = v1alpha1.RosterStatus{}
		must(t, c.Status().Update(ctx, ro))
		live.n = 0
		for range 10 { // seconds, in each of which ten pods change
			for range 10 {
				c.reconcile(ctx)
			}
			time.Sleep(time.Second) // the bubble's clock
		}
		if !c.roster(ctx).Status.Frozen || live.n > 11 || live.n < 9 {
			t.Errorf("%d lists in ten seconds; frozen: %t", live.n, c.roster(ctx).Status.Frozen)
		}
	})
}

func TestADeletedRosterEndsItsGroup(t *testing.T) {
	inBubble(t, func(ctx context.Context, c *cluster) {
		t := c.t
		c.reconcile(ctx)
		must(t, c.Delete(ctx, c.roster(ctx)))
		c.reconcile(ctx)
		if c.Registry.get(c.key) != nil {
			t.Error("the group is still there")
		}
	})
}

func TestSecretsAreMadeKeptAndRenewed(t *testing.T) {
	ctx, now := t.Context(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := newCluster(ctx, t)
	held := &server.Held{}
	s := &Secrets{
		Reader: c.Client, Writer: c.Client, Namespace: "sys", ServiceNames: []string{"arbiter.sys.svc", "127.0.0.1"},
		Clients: map[string]string{"up-tls": "up"}, Held: held, Now: func() time.Time { return now }, Log: logr.Discard(),
	}
	read := func(name string) string {
		t.Helper()
		var obj corev1.Secret
		must(t, c.Get(ctx, types.NamespacedName{Namespace: "sys", Name: name}, &obj))
		return string(obj.Data[corev1.TLSCertKey])
	}
	keep := func() (ca, own, up string) {
		t.Helper()
		if _, err := s.Keep(ctx); err != nil {
			t.Fatal(err)
		}
		return read(AuthoritySecret), read(ServerSecret), read("up-tls")
	}
	ca, own, up := keep()
	if ca2, own2, up2 := keep(); ca2 != ca || own2 != own || up2 != up {
		t.Error("certificates that are young were replaced")
	}
	s.ServiceNames = append(s.ServiceNames, "other.sys.svc")
	if ca2, own2, up2 := keep(); ca2 != ca || own2 == own || up2 != up {
		t.Error("another server name must replace the server's certificate and nothing else")
	}
	now = now.Add(61 * 24 * time.Hour)
	if ca2, own2, up2 := keep(); ca2 != ca || own2 == own || up2 == up {
		t.Error("after two thirds of their life certificates must be replaced, the authority not")
	}
	if _, _, err := held.Current(); err != nil {
		t.Error(err)
	}
}

func TestAnAuthorityIsReplacedWhileEverybodyTrustsEverybody(t *testing.T) {
	ctx, now := t.Context(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := newCluster(ctx, t)
	s := &Secrets{
		Reader: c.Client, Writer: c.Client, Namespace: "sys", ServiceNames: []string{"arbiter"},
		Clients: map[string]string{"up-tls": "up"}, Held: &server.Held{}, Now: func() time.Time { return now }, Log: logr.Discard(),
	}
	type state struct{ bundle, server, client []byte }
	keep := func() state {
		t.Helper()
		_, err := s.Keep(ctx)
		must(t, err)
		var up, own corev1.Secret
		must(t, c.Get(ctx, types.NamespacedName{Namespace: "sys", Name: "up-tls"}, &up))
		must(t, c.Get(ctx, types.NamespacedName{Namespace: "sys", Name: ServerSecret}, &own))
		return state{up.Data["ca.crt"], own.Data[corev1.TLSCertKey], up.Data[corev1.TLSCertKey]}
	}
	accepts := func(bundle, cert []byte, usage x509.ExtKeyUsage) error {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(bundle)
		leaf, err := parseCert(cert)
		must(t, err)
		_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
		return err
	}
	first := keep()
	asked := &corev1.Secret{}
	must(t, c.Get(ctx, types.NamespacedName{Namespace: "sys", Name: AuthoritySecret}, asked))
	asked.Annotations = map[string]string{RotateAnnotation: ""}
	must(t, c.Update(ctx, asked))
	before := first
	authorities := []int{1}
	for range 2 * 90 {
		after := keep()
		// Whoever has not yet read the latest goes on: a server and a client from a day ago.
		for _, err := range []error{
			accepts(after.bundle, before.client, x509.ExtKeyUsageClientAuth), accepts(before.bundle, after.server, x509.ExtKeyUsageServerAuth),
			accepts(before.bundle, after.client, x509.ExtKeyUsageClientAuth), accepts(after.bundle, before.server, x509.ExtKeyUsageServerAuth),
		} {
			if err != nil {
				t.Fatalf("on %s, with %v authorities: %v", now, authorities, err)
			}
		}
		if n := bytes.Count(after.bundle, []byte("BEGIN")); n != authorities[len(authorities)-1] {
			authorities = append(authorities, n)
		}
		before, now = after, now.Add(24*time.Hour)
	}
	if diff := cmp.Diff([]int{1, 2, 1}, authorities); diff != "" {
		t.Errorf("authorities in the bundle (-want +got):\n%s", diff)
	}
	if accepts(first.bundle, before.server, x509.ExtKeyUsageServerAuth) == nil {
		t.Error("the first authority still signs")
	}
	must(t, c.Get(ctx, types.NamespacedName{Namespace: "sys", Name: AuthoritySecret}, asked))
	if _, still := asked.Annotations[RotateAnnotation]; still {
		t.Error("the annotation is still there")
	}
}

func TestAnAuthorityIsReplacedBeforeItExpires(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := life(DefaultLife)
	a, _, err := authorities{}.step(now, l, false)
	must(t, err)
	first := a.signing.Cert
	for range 15 * 365 {
		now = now.Add(24 * time.Hour)
		was := a.signing
		if a, _, err = a.step(now, l, false); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(was.Cert, a.signing.Cert) && !bytes.Equal(a.previous, was.Cert) {
			t.Fatalf("on %s the authority is replaced without an overlap", now)
		}
		if until, _, ok := a.signing.authority(l); !ok || until.Before(now.Add(DefaultLife)) {
			t.Fatalf("on %s the authority lives until %s only", now, until)
		}
	}
	if bytes.Equal(first, a.signing.Cert) {
		t.Error("it was never replaced")
	}
}

// lock is a resource lock whose writes succeed.
type lock struct{ resourcelock.Interface }

func (lock) Identity() string                                                { return "me" }
func (lock) Update(context.Context, resourcelock.LeaderElectionRecord) error { return nil }
func (lock) Create(context.Context, resourcelock.LeaderElectionRecord) error { return nil }

func TestALeaderIsSureOfItselfForOneLeaseDurationAfterItsRenewal(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	term := &Term{Duration: 15 * time.Second, Now: func() time.Time { return now }}
	l := term.Watch(lock{})
	if term.Leading() {
		t.Error("it leads before it was elected")
	}
	must(t, l.Create(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: "me"}))
	now = now.Add(14 * time.Second)
	if !term.Leading() {
		t.Error("it does not lead within the lease")
	}
	now = now.Add(time.Second)
	if term.Leading() {
		t.Error("it leads after the lease, as if it had not been frozen")
	}
	must(t, l.Update(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: "me"}))
	must(t, l.Update(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: ""}))
	if term.Leading() {
		t.Error("it leads after it gave the lease up")
	}
}
