package controller

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	r := *c.Reconciler
	r.Registry, r.Now, r.Base, r.changed = &Registry{Reader: c.Client}, now, ctx, make(chan event.GenericEvent)
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

func TestTheArbiterOnKubernetesKeepsToItsSpecification(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := newCluster(ctx, t)
		instances := voters(ctx, c)
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
		app := conformance.Attend(ctx, conn, "ns/web", instances)
		defer app.Close()
		driver := app.Driver().Over(conformance.Driver{
			Recreate: func(ctx context.Context, replica string) error {
				uid, err := c.recreate(ctx, replica[len("ns/"):])
				return errors.Join(err, app.Become(replica, uid))
			},
			Restart: func(_ context.Context, clock time.Duration) error {
				p.end()
				next := beginProcess(c.Base, c, clock) //nolint:contextcheck // a process outlives the call that starts it
				mu.Lock()
				defer mu.Unlock()
				p = next
				return nil
			},
		})
		report, err := conformance.Check(ctx, conformance.Target{Conn: conn, Group: "ns/web", Driver: driver, Settle: 15 * time.Second}, time.Now, nil)
		must(t, err)
		for _, x := range report.Results {
			// Without TLS there are no outsiders.
			if x.Outcome != conformance.Passed && x.ID != "outsider" {
				t.Errorf("%s\n%s", x.Line(), x.Finding)
			}
		}
	})
}

// voters makes five members of the Roster, one of whom works, and returns their instances.
func voters(ctx context.Context, c *cluster) map[string]string {
	ro := c.roster(ctx)
	one, three := int32(1), int32(3)
	ro.Spec.Floor.MinServing, ro.Spec.MaxLeased, ro.Spec.PinOverdueSeconds = &three, three, 3600
	ro.Spec.Assigned = v1alpha1.AssignedDuty{Workers: &one, SettleSeconds: 120, FailoverSeconds: 1, LifetimeSeconds: 1}
	must(c.t, c.Update(ctx, ro))
	for _, name := range []string{"web-3", "web-4"} {
		p := c.pod(ctx, "web-0").DeepCopy()
		p.Name, p.UID, p.ResourceVersion = name, types.UID("uid-"+name), ""
		must(c.t, c.Create(ctx, p))
	}
	instances := map[string]string{}
	for i := range 5 {
		instances[fmt.Sprintf("ns/web-%d", i)] = fmt.Sprintf("uid-web-%d", i)
	}
	return instances
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
