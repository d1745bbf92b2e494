package controller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/conformance"
	"offduty.dev/arbiter/server"
)

// arbiterProcess is a process of the arbiter on a fake API server: it reconciles and serves.
type arbiterProcess struct {
	*cluster
	listener *bufconn.Listener
	end      func()
}

// beginProcess begins one whose clock is skewed.
func beginProcess(parent context.Context, c *cluster, skew time.Duration) *arbiterProcess {
	ctx, cancel := context.WithCancel(parent)
	now := func() time.Time { return time.Now().Add(skew) }
	r := &Reconciler{
		Client: c.Client, Live: c.Client, Registry: &Registry{Reader: c.Client}, Recorder: c.Recorder,
		Now: now, Base: ctx, changed: make(chan event.GenericEvent),
	}
	p := &arbiterProcess{cluster: c, listener: bufconn.Listen(1 << 20)}
	var all sync.WaitGroup
	all.Go(func() {
		often := time.NewTicker(time.Second)
		defer often.Stop()
		for ctx.Err() == nil {
			if _, err := r.Reconcile(ctx, ctrl.Request{NamespacedName: c.key}); err != nil && ctx.Err() == nil {
				c.t.Error(err)
			}
			select {
			case <-ctx.Done():
			case <-r.changed:
			case <-often.C:
			}
		}
	})
	s := server.New(server.Config{Groups: r.Registry, Version: "test", Now: now, Log: logr.Discard()})
	all.Go(func() {
		if err := s.Serve(ctx, p.listener); err != nil {
			c.t.Error(err)
		}
	})
	p.end = func() {
		cancel()
		all.Wait()
		r.Registry.Wait()
	}
	return p
}

// conforms tries the arbiter on a roster of five pods, ns/web-0 and so on, with what drive can
// do beside restarting it; apart are cases that may be skipped.
func conforms(t *testing.T, spec func(*v1alpha1.RosterSpec), drive func(*cluster, *grpc.ClientConn) (conformance.Driver, func()), apart ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := newCluster(ctx, t)
		ro := c.roster(ctx)
		ro.Spec.Floor.MinServing, ro.Spec.MaxLeased, ro.Spec.PinOverdueSeconds = new(int32(3)), 3, 3600
		spec(&ro.Spec)
		must(t, c.Update(ctx, ro))
		for _, name := range []string{"web-3", "web-4"} {
			p := c.pod(ctx, "web-0").DeepCopy()
			p.Name, p.UID, p.ResourceVersion = name, types.UID("uid-"+name), ""
			must(t, c.Create(ctx, p))
		}
		var mu sync.Mutex
		p := beginProcess(ctx, c, 0)
		defer func() { p.end() }()
		conn, err := grpc.NewClient("passthrough:bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				mu.Lock()
				l := p.listener
				mu.Unlock()
				return l.DialContext(ctx)
			}))
		must(t, err)
		defer func() { must(t, conn.Close()) }()
		driver, stop := drive(c, conn)
		defer stop()
		driver.Restart = func(_ context.Context, clock time.Duration) error {
			p.end()
			next := beginProcess(c.Base, c, clock) //nolint:contextcheck // a process outlives the call that starts it
			mu.Lock()
			defer mu.Unlock()
			p = next
			return nil
		}
		report, err := conformance.Check(ctx, conformance.Target{Conn: conn, Group: "ns/web", Driver: driver, Settle: 15 * time.Second}, time.Now, nil)
		must(t, err)
		for _, x := range report.Results {
			if x.Outcome != conformance.Passed && (x.Outcome != conformance.Skipped || !slices.Contains(apart, x.ID)) {
				t.Errorf("%s\n%s", x.Line(), x.Finding)
			}
		}
	})
}

// Without TLS there are no outsiders: test/e2e has some.
const noOutsider = "outsider"

func TestTheArbiterThatAssignsKeepsToItsSpecification(t *testing.T) {
	conforms(t, func(s *v1alpha1.RosterSpec) {
		s.Assigned = &v1alpha1.AssignedDuty{Workers: new(int32(1)), SettleSeconds: 120, FailoverSeconds: 1, LifetimeSeconds: 1}
	}, func(c *cluster, conn *grpc.ClientConn) (conformance.Driver, func()) {
		instances := map[string]string{}
		for i := range 5 {
			instances[fmt.Sprintf("ns/web-%d", i)] = fmt.Sprintf("uid-web-%d", i)
		}
		app := conformance.Attend(c.Base, conn, "ns/web", instances)
		d := app.Driver()
		d.Recreate = func(ctx context.Context, replica string) error {
			uid, err := c.recreate(ctx, strings.TrimPrefix(replica, "ns/"))
			return errors.Join(err, app.Become(replica, uid))
		}
		return d, app.Close
	}, noOutsider)
}

func TestTheArbiterThatObservesKeepsToItsSpecification(t *testing.T) {
	conforms(t, func(s *v1alpha1.RosterSpec) {
		s.Assigned, s.Observed = nil, &v1alpha1.ObservedDuty{
			Workers: new(int32(1)), Pods: &v1alpha1.PodsSource{Working: byRole + ` || !has(object.metadata.labels.role) && object.metadata.name == "web-0"`},
		}
	}, func(c *cluster, _ *grpc.ClientConn) (conformance.Driver, func()) {
		return conformance.Driver{
			// web-0 works unless another one does.
			SetDuty: func(ctx context.Context, replica string, working bool) error {
				old, now := map[bool]string{true: "replica", false: "primary"}, map[bool]string{true: "primary", false: "replica"}
				return errors.Join(c.relabel(ctx, "web-0", old[working]), c.relabel(ctx, strings.TrimPrefix(replica, "ns/"), now[working]))
			},
			SetServing: c.setReady,
			Recreate: func(ctx context.Context, replica string) error {
				_, err := c.recreate(ctx, strings.TrimPrefix(replica, "ns/"))
				return err
			},
		}, func() {}
	}, noOutsider, "handover", "handover-leased", "handover-refused")
}

// relabel gives a pod a role, whatever else is written to it.
func (c *cluster) relabel(ctx context.Context, name, role string) error {
	var p corev1.Pod
	if err := c.Get(ctx, types.NamespacedName{Namespace: "ns", Name: name}, &p); err != nil {
		return err
	}
	before := p.DeepCopy()
	p.Labels["role"] = role
	return c.Patch(ctx, &p, client.MergeFrom(before))
}

func (c *cluster) setReady(ctx context.Context, replica string, ready bool) error {
	var p corev1.Pod
	if err := c.Get(ctx, types.NamespacedName{Namespace: "ns", Name: strings.TrimPrefix(replica, "ns/")}, &p); err != nil {
		return err
	}
	p.Status.Conditions[0].Status = map[bool]corev1.ConditionStatus{true: corev1.ConditionTrue, false: corev1.ConditionFalse}[ready]
	return c.Status().Update(ctx, &p)
}

// recreate puts another pod behind a name.
func (c *cluster) recreate(ctx context.Context, name string) (uid string, err error) {
	var old corev1.Pod
	if err := c.Get(ctx, types.NamespacedName{Namespace: "ns", Name: name}, &old); err != nil {
		return "", err
	}
	fresh := old.DeepCopy()
	fresh.UID, fresh.ResourceVersion, fresh.Annotations = old.UID+"'", "", nil
	return string(fresh.UID), errors.Join(c.Delete(ctx, &old), c.Create(ctx, fresh))
}
