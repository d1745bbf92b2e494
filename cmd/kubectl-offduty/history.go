package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/view"
)

const historyLong = `Show the revisions that Kruise keeps of each target: their images, and how many pods are at
each. PLAN may be left out where there is only one.`

func historyCommand(o *options) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "history [PLAN]", Short: "Show the revisions of a plan's targets", Long: historyLong,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: o.completePlan,
		RunE: func(cmd *cobra.Command, args []string) error {
			k, namespace, err := o.connect()
			if err != nil {
				return err
			}
			up, err := o.only(cmd.Context(), k, namespace, args)
			if err != nil {
				return err
			}
			revisions, err := history(cmd.Context(), k, up)
			if err != nil {
				return err
			}
			if done, err := encode(o.streams.Out, output, revisions); done {
				return err
			}
			return view.PrintHistory(o.streams.Out, revisions, time.Now())
		},
	}
	outputFlag(cmd, &output, "json", "yaml")
	return cmd
}

// history reads the revisions of a plan's targets.
func history(ctx context.Context, k client.Client, up *v1alpha1.UpgradePlan) ([]view.Revision, error) {
	var revisions appsv1.ControllerRevisionList
	if err := k.List(ctx, &revisions, client.InNamespace(up.Namespace)); err != nil {
		return nil, err
	}
	var pods corev1.PodList
	if err := k.List(ctx, &pods, client.InNamespace(up.Namespace)); err != nil {
		return nil, err
	}
	return view.History(up, revisions.Items, pods.Items)
}
