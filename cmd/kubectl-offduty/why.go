package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/view"
)

const whyLong = `Say why a plan is where it is: its reason and those of its targets and replicas, what to do
about each, and who holds which lease. PLAN may be left out where there is only one.`

func whyCommand(o *options) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "why [PLAN]", Short: "Say what a plan waits for, and what to do about it", Long: whyLong,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: o.completePlan,
		RunE: func(cmd *cobra.Command, args []string) error { return o.why(cmd.Context(), args, output) },
	}
	outputFlag(cmd, &output, "json", "yaml")
	return cmd
}

func (o *options) why(ctx context.Context, args []string, output string) error {
	k, namespace, err := o.connect()
	if err != nil {
		return err
	}
	up, err := o.only(ctx, k, namespace, args)
	if err != nil {
		return err
	}
	ro, unseen := roster(ctx, k, up)
	var plans v1alpha1.UpgradePlanList
	if err := k.List(ctx, &plans, client.InNamespace(namespace)); err != nil {
		return err
	}
	a := view.Why(up, ro, unseen, plans.Items, time.Now())
	if done, err := encode(o.streams.Out, output, a); done {
		return err
	}
	return a.Print(o.streams.Out)
}
