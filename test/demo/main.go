// Command demo tells the story of Offduty on a real control plane: five replicas of which
// three work, upgraded in place without any of them being disturbed. It brings the
// control plane up, ends by itself and cleans up. KEEP=1 leaves everything running until
// Ctrl-C and says how to look around.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"offduty.dev/test/cluster/binaries"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/cluster/standing"
	"offduty.dev/test/e2e/harness"
)

func main() {
	log.SetLogger(logr.Discard()) // without one, controller-runtime prints a stack trace after 30 s
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Getenv("KEEP") == "1")
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run brings the control plane up, tells the story and takes it down again.
func run(ctx context.Context, out io.Writer, keep bool) (err error) {
	place, err := standing.Claim()
	if err != nil {
		return err
	}
	defer place.Release()
	fmt.Fprintln(out, "Bringing up a Kubernetes API server with the real Kruise; the nodes are simulated.")
	fmt.Fprintln(out, "(The first time the binaries are built from Go modules, which takes some minutes.)")
	c, err := controlplane.Start(ctx, controlplane.Options{Dir: place.Dir, Log: out})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			c.KeepLogs()
			fmt.Fprintln(out, "The logs are in", c.LogDir())
		}
		err = errors.Join(err, c.Stop())
	}()
	stage, teller, err := prepare(ctx, c, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.Close()) }()
	if err := tell(ctx, stage, teller); err != nil {
		return err
	}
	if keep {
		err = stay(ctx, c, out)
	}
	teller.end()
	return err
}

// installTimeout bounds the building and starting of Offduty.
const installTimeout = 10 * time.Minute

// prepare installs Offduty and opens a stage in the namespace "demo".
func prepare(ctx context.Context, c *controlplane.Cluster, out io.Writer) (*harness.Stage, *teller, error) {
	fmt.Fprintln(out, "\nInstalling config/default: CRDs, RBAC, admission policies. Arbiter and upgrader run as")
	fmt.Fprintln(out, "processes of this machine, with the rights of their service accounts.")
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	root, err := binaries.ModuleRoot(ctx)
	if err != nil {
		return nil, nil, err
	}
	system, err := harness.Install(ctx, c, root, harness.UpgraderA)
	if err != nil {
		return nil, nil, fmt.Errorf("install Offduty: %w", err)
	}
	if _, err := system.Kubectl(ctx, "", "create", "namespace", namespace); err != nil {
		return nil, nil, err
	}
	t := newTeller(out)
	stage, err := system.NewStage(ctx, namespace, t.shift)
	if err != nil {
		return nil, nil, err
	}
	stage.History.OnPod(t.pod)
	return stage, t, nil
}

// stay leaves everything running until somebody ends it.
func stay(ctx context.Context, c *controlplane.Cluster, out io.Writer) error {
	hints, err := standing.Hints(ctx, c)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, `
Everything stays up. The application goes on attending: move its duty, or ask for another image.
%s
Try, for example:
  go run ./test/cluster kubectl -n demo get upgradeplans,rosters,asts,pods
  go run ./test/cluster kubectl -n demo get upgradeplan sample -o yaml
  go run ./test/cluster kubectl -n demo get events
  go run ./test/cluster kubectl -n demo patch upgradeplan sample --type merge -p '{"spec":{"targets":[{"name":"sample","images":{"main":"alpine:3.20.0"}}]}}'
  go run ./test/cluster kubectl -n demo label pod sample-0 offduty.dev/hold-      # refused: that is the upgrader's
`, hints)
	<-ctx.Done()
	fmt.Fprintln(out, "stopping")
	return nil
}
