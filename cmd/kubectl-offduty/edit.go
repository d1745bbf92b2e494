package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/view"
)

// dryRun is kubectl's flag of that name.
type dryRun struct{ strategy string }

func (d *dryRun) flag(cmd *cobra.Command) {
	const name = "dry-run"
	cmd.Flags().StringVar(&d.strategy, name, "none", `Must be "none", "server", or "client". With client nothing is sent; with server it is sent without being kept.`)
	cmd.Flags().Lookup(name).NoOptDefVal = "client"
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions([]string{"none", "server", "client"}, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that does not exist
}

// patch writes to a plan, or does as if.
func (d *dryRun) patch(ctx context.Context, k client.Client, up *v1alpha1.UpgradePlan, patch client.Patch) error {
	opts := []client.PatchOption{client.FieldOwner(fieldManager)}
	switch d.strategy {
	case "none":
	case "client":
		return nil
	case "server":
		opts = append(opts, client.DryRunAll)
	default:
		return fmt.Errorf(`invalid dry-run value (%s): must be "none", "server", or "client"`, d.strategy)
	}
	return k.Patch(ctx, up, patch, opts...)
}

// note follows what was done.
func (d *dryRun) note() string {
	switch d.strategy {
	case "client":
		return " (dry run)"
	case "server":
		return " (server dry run)"
	}
	return ""
}

func pauseCommand(o *options) *cobra.Command {
	return switchCommand(o, true, "pause PLAN", "Begin nothing further",
		`Pause a plan: nothing further is begun. What can be taken back is taken back; a replica past
the point of no return is finished.`)
}

func resumeCommand(o *options) *cobra.Command {
	return switchCommand(o, false, "resume PLAN", "Go on with a paused plan", "Resume a plan that was paused.")
}

func switchCommand(o *options, paused bool, use, short, long string) *cobra.Command {
	var d dryRun
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.ExactArgs(1), ValidArgsFunction: o.completePlan,
		RunE: func(cmd *cobra.Command, args []string) error {
			k, namespace, err := o.connect()
			if err != nil {
				return err
			}
			up, err := plan(cmd.Context(), k, namespace, args[0])
			if err != nil {
				return err
			}
			done := "resumed"
			if paused {
				done = "paused"
			}
			if up.Spec.Paused == paused {
				return fmt.Errorf("upgradeplans.offduty.dev %q is already %s", up.Name, done)
			}
			patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec": {"paused": %t}}`, paused))
			if err := d.patch(cmd.Context(), k, up, patch); err != nil {
				return err
			}
			_, err = fmt.Fprintln(o.streams.Out, planName+up.Name+" "+done+d.note())
			return err
		},
	}
	d.flag(cmd)
	return cmd
}

const undoLong = `Go back to an earlier revision of the targets: write its images to the plan, which then
upgrades the replicas back under the same protection. Without --to-revision it is the one
before that which the plan asks for now; see "kubectl offduty history" for the numbers.

A target without images in the plan follows its set's template: put the earlier template back
where it comes from. If the plan itself comes from Git or a Helm release, undo it there as
well, or the next synchronisation takes this back.`

type undoOptions struct {
	*options

	dry    dryRun
	to     int64
	target string
}

func undoCommand(base *options) *cobra.Command {
	o := undoOptions{options: base}
	cmd := &cobra.Command{
		Use: "undo PLAN", Short: "Go back to an earlier revision", Long: undoLong,
		Args: cobra.ExactArgs(1), ValidArgsFunction: base.completePlan,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
	}
	cmd.Flags().Int64Var(&o.to, "to-revision", 0, "The revision to go back to; 0: the one before.")
	cmd.Flags().StringVar(&o.target, "target", "", "Only this target.")
	o.dry.flag(cmd)
	return cmd
}

func (o *undoOptions) run(ctx context.Context, name string) error {
	k, namespace, err := o.connect()
	if err != nil {
		return err
	}
	up, err := plan(ctx, k, namespace, name)
	if err != nil {
		return err
	}
	revisions, err := history(ctx, k, up)
	if err != nil {
		return err
	}
	undone, err := view.Undo(up, revisions, o.target, o.to)
	if err != nil {
		return err
	}
	patch, err := undoPatch(up, undone)
	if err != nil {
		return err
	}
	if err := o.dry.patch(ctx, k, up, client.RawPatch(types.JSONPatchType, patch)); err != nil {
		return err
	}
	return view.PrintUndone(o.streams.Out, planName+up.Name, undone, o.dry.note(), time.Now())
}

// undoPatch writes the images under the condition that the plan is the one that was read.
func undoPatch(up *v1alpha1.UpgradePlan, undone []view.Undone) ([]byte, error) {
	type op struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	ops := []op{{"test", "/metadata/resourceVersion", up.ResourceVersion}}
	for _, u := range undone {
		at := fmt.Sprintf("/spec/targets/%d", u.Index)
		ops = append(ops, op{"test", at + "/name", u.Target}, op{"replace", at + "/images", u.Images})
	}
	return json.Marshal(ops)
}
