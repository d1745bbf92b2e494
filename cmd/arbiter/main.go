// Command arbiter is the reference arbiter: it decides who works, grants leases on idle
// replicas, and keeps both over restarts.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // freeze windows have time zones, and the image none

	"github.com/spf13/cobra"

	"offduty.dev/cmd/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "arbiter",
		Short:         "Decides which replicas are on duty, and leases idle ones to upgraders",
		Version:       version.Get(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), statusCommand(), forceReleaseCommand(), conformanceCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "arbiter:", err)
		if own, ok := errors.AsType[*exitError](err); ok {
			os.Exit(own.status)
		}
		os.Exit(1)
	}
}
