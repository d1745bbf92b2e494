package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"offduty.dev/upgrader/uninstall"
)

// runUninstall is `upgrader uninstall`: it runs as the person who uninstalls, not as the
// operator, which may delete nothing.
func runUninstall(args []string) error {
	o := uninstall.Options{}
	var namespace, kubecontext string
	fs := flag.NewFlagSet("upgrader uninstall", flag.ContinueOnError)
	config.RegisterFlags(fs)
	fs.StringVar(&kubecontext, "context", "", "context of the kubeconfig; default: the current one")
	fs.BoolVar(&o.DeletePlans, "delete-plans", false, "delete all plans, and wait until they have left")
	fs.BoolVar(&o.IgnoreRosters, "ignore-rosters", false, "the duty that rosters give may end")
	fs.DurationVar(&o.Timeout, "timeout", 10*time.Minute, "how long to wait until all plans have left")
	fs.StringVar(&namespace, "leader-election-namespace", "offduty-system", "namespace of the upgrader")
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "upgrader uninstall says whether it is safe to delete the manifests of Offduty, and what to do first.")
		fmt.Fprintln(fs.Output(), "It ends with 0 when it is safe, 3 when it is not yet, and 1 when it cannot tell.")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	o.Election = client.ObjectKey{Namespace: namespace, Name: electionName}
	cfg, err := config.GetConfigWithContext(kubecontext)
	if err != nil {
		return fmt.Errorf("find the API server: %w; set --kubeconfig", err)
	}
	scheme, err := newScheme()
	if err != nil {
		return err
	}
	k, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("reach the API server: %w", err)
	}
	return uninstall.Run(ctrl.SetupSignalHandler(), k, os.Stdout, o)
}

// exitCode of an error; 3: it is not safe yet.
func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, uninstall.ErrUnsafe):
		return 3
	}
	return 1
}
