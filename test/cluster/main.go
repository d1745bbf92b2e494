package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"offduty.dev/test/cluster/binaries"
	"offduty.dev/test/cluster/controlplane"
)

func main() {
	log.SetLogger(logr.Discard()) // without one, controller-runtime prints a stack trace after 30 s
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	cancel()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "cluster",
		Short:         "A real Kubernetes control plane with the real Kruise on this machine; nodes are simulated",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(buildCommand(), upCommand(), downCommand(), kubectlCommand())
	return root
}

func buildCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "Build the binaries into the user's cache; up and the tests do it by themselves",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := binaries.Ensure(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n%s\n", set.Kubernetes, set.Kwok, set.Kruise)
			return err
		},
	}
}

func upCommand() *cobra.Command {
	options := controlplane.Options{KeepLogs: true}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the control plane and stay up until Ctrl-C or down",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options.Log = cmd.ErrOrStderr()
			return up(cmd.Context(), options, cmd.OutOrStdout())
		},
	}
	cmd.Flags().IntVar(&options.Nodes, "nodes", 3, "number of simulated nodes")
	cmd.Flags().BoolVar(&options.WithoutKruise, "without-kruise", false, "leave Kruise out")
	return cmd
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop what up started, and return when it is gone",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return down(cmd.Context(), cmd.OutOrStdout())
		},
	}
}

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [arguments of kubectl]",
		Short:              "Run the kubectl of this control plane against what up started",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return kubectl(cmd.Context(), args)
		},
	}
}

// place is where up keeps its one cluster, so that down and kubectl find it.
type place struct{ dir, lock, pid string }

func findPlace() (place, error) {
	cache, err := binaries.CacheDir()
	if err != nil {
		return place{}, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return place{}, fmt.Errorf("make the cache folder: %w", err)
	}
	return place{dir: filepath.Join(cache, "up"), lock: filepath.Join(cache, "up.lock"), pid: filepath.Join(cache, "up.pid")}, nil
}

// up holds a file lock while the cluster is up: the lock ends with this
// process, however that ends, so it cannot be left over as a file could.
func up(ctx context.Context, options controlplane.Options, out io.Writer) error {
	p, err := findPlace()
	if err != nil {
		return err
	}
	unlock, err := binaries.TryLock(p.lock)
	if errors.Is(err, binaries.ErrLocked) {
		return errors.New("a control plane is up already; stop it with: go run ./test/cluster down")
	}
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.RemoveAll(p.dir); err != nil { // the logs of last time
		return fmt.Errorf("clear the folder of the last cluster: %w", err)
	}
	if err := os.WriteFile(p.pid, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return fmt.Errorf("record the process id: %w", err)
	}
	options.Dir = p.dir
	c, err := controlplane.Start(ctx, options)
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted while it was starting; nothing is left running")
	}
	if err != nil {
		return err
	}
	config, err := c.Kubeconfig(ctx, controlplane.Admin())
	if err != nil {
		return errors.Join(err, c.Stop())
	}
	printHints(out, c, config)
	<-ctx.Done()
	fmt.Fprintf(out, "stopping; the logs stay in %s\n", c.LogDir())
	return c.Stop()
}

func printHints(out io.Writer, c *controlplane.Cluster, config string) {
	fmt.Fprintf(out, `
kubeconfig of the administrator: %[1]s
logs and audit log:              %[2]s

In another terminal:
  go run ./test/cluster kubectl get nodes
or, with the kubectl that belongs to this control plane:
  export KUBECONFIG=%[1]s
  export KUBECACHEDIR=%[3]s
  %[4]s get nodes
Ctrl-C here, or "go run ./test/cluster down", stops it.
`, config, c.LogDir(), filepath.Join(c.Dir(), "kubectl-cache"), c.Kubectl())
}

// down asks the process of up to stop, and waits until it has given back its lock.
func down(ctx context.Context, out io.Writer) error {
	p, err := findPlace()
	if err != nil {
		return err
	}
	unlock, err := binaries.TryLock(p.lock)
	if err == nil {
		unlock()
		_, err := fmt.Fprintln(out, "no control plane is up")
		return err
	}
	if !errors.Is(err, binaries.ErrLocked) {
		return err
	}
	text, err := os.ReadFile(p.pid)
	if err != nil {
		return fmt.Errorf("find the process of up: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("find the process of up in %s: %w", p.pid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("ask process %d to stop: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	unlock, err = binaries.Lock(ctx, p.lock, nil)
	if err != nil {
		return fmt.Errorf("process %d did not stop: %w", pid, err)
	}
	unlock()
	_, err = fmt.Fprintln(out, "stopped")
	return err
}

func kubectl(ctx context.Context, args []string) error {
	p, err := findPlace()
	if err != nil {
		return err
	}
	if unlock, err := binaries.TryLock(p.lock); err == nil {
		unlock()
		return errors.New("no control plane is up; start one with: go run ./test/cluster up")
	}
	config := filepath.Join(p.dir, "kubeconfig", "admin")
	if _, err := os.Stat(config); err != nil {
		return errors.New("the control plane is still starting; try again in a few seconds")
	}
	set, err := binaries.Ensure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, set.Kubectl, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+config, "KUBECACHEDIR="+filepath.Join(p.dir, "kubectl-cache"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
