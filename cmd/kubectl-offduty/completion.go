package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
)

// completionTime is how long the cluster may take to answer while somebody types.
const completionTime = 3 * time.Second

type completion func(ctx context.Context, k client.Client, namespace string) []string

// complete asks the cluster; without an answer there is nothing to complete.
func (o *options) complete(ask completion, cmd *cobra.Command, prefix string) ([]string, cobra.ShellCompDirective) {
	k, namespace, err := o.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	var out []string
	for _, name := range ask(ctx, k, namespace) {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completePlan completes the first argument.
func (o *options) completePlan(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.complete(planNames, cmd, prefix)
}

func planNames(ctx context.Context, k client.Client, namespace string) []string {
	var list v1alpha1.UpgradePlanList
	if err := k.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil
	}
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names
}

// completeFlags completes what kubectl completes of the flags that every command has.
func (o *options) completeFlags(root *cobra.Command) {
	for name, ask := range map[string]completion{"namespace": namespaceNames, "context": o.contextNames} {
		// It fails only for a flag that does not exist.
		_ = root.RegisterFlagCompletionFunc(name, func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
			return o.complete(ask, cmd, prefix)
		})
	}
}

func namespaceNames(ctx context.Context, k client.Client, _ string) []string {
	var list corev1.NamespaceList
	if err := k.List(ctx, &list); err != nil {
		return nil
	}
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names
}

func (o *options) contextNames(context.Context, client.Client, string) []string {
	config, err := o.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil
	}
	var names []string
	for name := range config.Contexts {
		names = append(names, name)
	}
	return names
}
