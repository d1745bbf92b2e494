package controlplane

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// listeners are the ports of the daemons on 127.0.0.1.
type listeners struct {
	etcd, etcdPeer, etcdHealth           int
	apiServer                            int
	controllerManager, scheduler, kwok   int
	webhook, kruiseMetrics, kruiseHealth int
}

func (c *Cluster) takePorts() error {
	l := &c.listen
	for _, port := range []*int{
		&l.etcd, &l.etcdPeer, &l.etcdHealth, &l.apiServer, &l.controllerManager, &l.scheduler, &l.kwok,
		&l.webhook, &l.kruiseMetrics, &l.kruiseHealth,
	} {
		taken, err := c.ports.take()
		if err != nil {
			return err
		}
		*port = taken
	}
	return nil
}

func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// start brings everything up: the API server first, then all others at once.
func (c *Cluster) start(ctx context.Context, options Options) error {
	if err := c.takePorts(); err != nil {
		return err
	}
	total := time.Now()
	if err := c.phase("certificates", func() error { return c.writePKI() }); err != nil {
		return err
	}
	if err := c.phase("etcd and kube-apiserver", func() error { return c.startAPIServer(ctx) }); err != nil {
		return err
	}
	group, groupContext := errgroup.WithContext(ctx)
	group.Go(func() error {
		return c.phase("kube-controller-manager and kube-scheduler", func() error { return c.startControllers(groupContext) })
	})
	if c.node == "" {
		group.Go(func() error {
			return c.phase("nodes", func() error { return c.startNodes(groupContext, options.Nodes) })
		})
	}
	if !options.WithoutKruise {
		group.Go(func() error {
			return c.phase("Kruise", func() error { return c.startKruise(groupContext) })
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := c.phase("first pod admitted", func() error { return c.AwaitAdmission(ctx, !options.WithoutKruise) }); err != nil {
		return err
	}
	fmt.Fprintf(c.log, "control plane ready after %.1f s\n", time.Since(total).Seconds())
	return nil
}

// AwaitAdmission waits until a pod and, with Kruise, one of its sets can be created.
func (c *Cluster) AwaitAdmission(ctx context.Context, kruise bool) error {
	admits, err := c.admission(ctx, kruise)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return Until(ctx, "a pod passes admission", admits)
}

func (c *Cluster) phase(name string, run func() error) error {
	started := time.Now()
	if err := run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(c.log, "  %-44s %5.1f s\n", name, time.Since(started).Seconds())
	return nil
}
