// Command kubectl-offduty is a kubectl plugin: how far an upgrade is, what it waits for and
// what to do about it, what a plan would do, and the way back.
//
// Called by the name kubectl_complete-offduty it completes a command line, as kubectl
// expects of a program of that name.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"offduty.dev/cmd/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	args := os.Args[1:]
	if strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") == "kubectl_complete-offduty" {
		args = append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	code := run(ctx, args, genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr})
	stop()
	os.Exit(code)
}

// run is the whole program; it returns the exit code.
func run(ctx context.Context, args []string, streams genericiooptions.IOStreams) int {
	root := rootCommand(streams) //nolint:contextcheck // the functions that complete get theirs from cobra
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var v *verdict
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return 130 // as a shell says of a program that was interrupted
	case errors.As(err, &v):
		if v.message != "" {
			fmt.Fprintln(streams.ErrOut, "error:", v.message)
		}
		return v.code
	}
	fmt.Fprintln(streams.ErrOut, "error:", err)
	return 1
}

// verdict is an outcome with an exit code of its own.
type verdict struct {
	code    int
	message string // empty: everything was said
}

func (v *verdict) Error() string { return v.message }

func rootCommand(streams genericiooptions.IOStreams) *cobra.Command {
	root := &cobra.Command{
		Use:   "kubectl-offduty",
		Short: "Watch and steer upgrades that only touch replicas which are off duty",
		Annotations: map[string]string{
			cobra.CommandDisplayNameAnnotation: "kubectl offduty",
		},
		Version:       version.Get(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	o := &options{ConfigFlags: genericclioptions.NewConfigFlags(true), streams: streams}
	o.AddFlags(root.PersistentFlags())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nSee '%s --help' for usage", err, cmd.CommandPath())
	})
	o.completeFlags(root)
	root.AddCommand(
		statusCommand(o), whyCommand(o), previewCommand(o), historyCommand(o),
		pauseCommand(o), resumeCommand(o), undoCommand(o), releasePinCommand(o),
	)
	return root
}
