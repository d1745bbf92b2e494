package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"offduty.dev/test/cluster/binaries"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/cluster/standing"
)

func main() {
	log.SetLogger(logr.Discard()) // without one, controller-runtime prints a stack trace after 30 s
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	cancel()
	if failed, ok := errors.AsType[kubectlError](err); ok {
		os.Exit(failed.code)
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

func up(ctx context.Context, options controlplane.Options, out io.Writer) error {
	place, err := standing.Claim()
	if err != nil {
		return err
	}
	defer place.Release()
	options.Dir = place.Dir
	c, err := controlplane.Start(ctx, options)
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted while it was starting; nothing is left running")
	}
	if err != nil {
		return err
	}
	hints, err := standing.Hints(ctx, c)
	if err != nil {
		return errors.Join(err, c.Stop())
	}
	fmt.Fprintf(out, "\n%s", hints)
	<-ctx.Done()
	fmt.Fprintf(out, "stopping; the logs stay in %s\n", c.LogDir())
	return c.Stop()
}

func down(ctx context.Context, out io.Writer) error {
	err := standing.Down(ctx)
	if errors.Is(err, standing.ErrNone) {
		_, err := fmt.Fprintln(out, "no control plane is up")
		return err
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, "stopped")
	return err
}

func kubectl(ctx context.Context, args []string) error {
	env, err := standing.KubectlEnv()
	if err != nil {
		return err
	}
	set, err := binaries.Ensure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, set.Kubectl, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return kubectlError{exit.ExitCode()}
	}
	return err
}

// kubectlError passes kubectl's exit code on; kubectl has said why.
type kubectlError struct{ code int }

func (e kubectlError) Error() string { return fmt.Sprintf("kubectl ended with exit code %d", e.code) }
