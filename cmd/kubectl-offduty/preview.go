package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/preview"
)

const previewLong = `Say what a plan would do: which replicas are upgraded, in which order, whether Kruise can do
it in place, which handovers that needs, and where the plan would have to wait.

The real planner decides on the live objects; nothing is written. With --filename the plan is
one that need not be applied yet. What the arbiter knows comes from its Roster.`

const previewExample = `  # What would applying this do?
  kubectl offduty preview -f plan.yaml

  # How does it go on from here?
  kubectl offduty preview sample`

type previewOptions struct {
	*options

	file, output string
}

func previewCommand(base *options) *cobra.Command {
	o := previewOptions{options: base}
	cmd := &cobra.Command{
		Use: "preview [PLAN | -f FILENAME]", Short: "Say what a plan would do, without doing it", Long: previewLong, Example: previewExample,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: base.completePlan,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args) },
	}
	cmd.Flags().StringVarP(&o.file, "filename", "f", "", `A file with an UpgradePlan; "-": standard input.`)
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json") // fails only for a flag that does not exist
	outputFlag(cmd, &o.output, "json", "yaml")
	return cmd
}

func (o *previewOptions) run(ctx context.Context, args []string) error {
	if o.file != "" && len(args) > 0 {
		return errors.New("give either the name of a plan or --filename, not both")
	}
	k, namespace, err := o.connect()
	if err != nil {
		return err
	}
	now := time.Now()
	up, err := o.wanted(ctx, k, namespace, args, now)
	if err != nil {
		return err
	}
	all, err := snapshot(ctx, k, up.Namespace)
	if err != nil {
		return err
	}
	in := preview.Input{Plan: up, Snapshot: all, Now: now}
	in.Roster, in.Unseen = roster(ctx, k, up)
	r, err := preview.Of(ctx, in)
	if err != nil {
		return err
	}
	if done, err := encode(o.streams.Out, o.output, r); done {
		return err
	}
	return r.Print(o.streams.Out)
}

// wanted is the plan to preview.
func (o *previewOptions) wanted(ctx context.Context, k client.Client, namespace string, args []string, now time.Time) (*v1alpha1.UpgradePlan, error) {
	if o.file == "" {
		return o.only(ctx, k, namespace, args)
	}
	up, err := o.read()
	if err != nil {
		return nil, err
	}
	switch {
	case up.Namespace == "":
		up.Namespace = namespace
	case o.Namespace != nil && *o.Namespace != "" && *o.Namespace != up.Namespace:
		return nil, fmt.Errorf("the namespace from the provided object %q does not match the namespace %q: pass '--namespace=%s'", up.Namespace, namespace, up.Namespace)
	}
	live := &v1alpha1.UpgradePlan{}
	err = k.Get(ctx, client.ObjectKeyFromObject(up), live)
	if apierrors.IsNotFound(err) {
		live, err = nil, nil
	}
	return preview.Merge(up, live, now), err
}

// read reads the plan of --filename, with the defaults that the API server would fill in.
func (o *previewOptions) read() (*v1alpha1.UpgradePlan, error) {
	var data []byte
	var err error
	if o.file == "-" {
		data, err = io.ReadAll(o.streams.In)
	} else {
		data, err = os.ReadFile(filepath.Clean(o.file))
	}
	if err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	up := &v1alpha1.UpgradePlan{}
	if err := yaml.UnmarshalStrict(data, up); err != nil {
		return nil, fmt.Errorf("read the plan in %s: %w", o.file, err)
	}
	if up.GroupVersionKind() != v1alpha1.GroupVersion.WithKind("UpgradePlan") {
		return nil, fmt.Errorf("%s holds a %s, not an UpgradePlan of %s", o.file, up.GroupVersionKind(), v1alpha1.GroupVersion)
	}
	if up.Name == "" {
		return nil, fmt.Errorf("the plan in %s has no name", o.file)
	}
	preview.Default(up)
	return up, nil
}

// snapshot reads what plans of a namespace depend on.
func snapshot(ctx context.Context, k client.Client, namespace string) (*preview.Snapshot, error) {
	var (
		plans     v1alpha1.UpgradePlanList
		sets      kruisev1beta1.StatefulSetList
		revisions appsv1.ControllerRevisionList
		pods      corev1.PodList
	)
	for _, list := range []client.ObjectList{&plans, &sets, &revisions, &pods} {
		if err := k.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return nil, err
		}
	}
	return &preview.Snapshot{Plans: plans.Items, Sets: sets.Items, Revisions: revisions.Items, Pods: pods.Items}, nil
}
