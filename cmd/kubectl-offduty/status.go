package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/view"
)

const statusLong = `Show how far a plan is: the plan, its targets, and each replica with its duty, step,
revision and reason. Without PLAN, list the plans of the namespace.

With --watch, stay until the plan is complete, or needs somebody (stalled or paused). The
view is drawn anew on a terminal; otherwise each change is one line. Nothing that the status
says of an earlier generation of the plan is believed, so that a pipeline may run this right
after kubectl apply.

Exit codes, also without --watch when a PLAN is named:
  0  complete: every replica is upgraded and verified
  1  it cannot be told: no connection, no permission, wrong usage
  3  under way, also when the time of --timeout is up
  4  stalled: it does not go on unless somebody does something
  5  paused
  6  there is no such plan, or it was deleted`

const statusExample = `  # How far is it?
  kubectl offduty status sample

  # In a pipeline: apply, and wait until it is done or needs somebody
  kubectl apply -f plan.yaml && kubectl offduty status sample --watch --timeout=10m`

type statusOptions struct {
	*options

	watch, keepWaiting, all bool
	timeout                 time.Duration
	output                  string
	now                     func() time.Time
	warned                  bool
}

func statusCommand(base *options) *cobra.Command {
	o := statusOptions{options: base, now: time.Now}
	cmd := &cobra.Command{
		Use: "status [PLAN]", Short: "Show how far a plan is; wait for its end", Long: statusLong, Example: statusExample,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: base.completePlan,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.watch, "watch", "w", false, "Stay until the plan is complete, or needs somebody.")
	f.DurationVar(&o.timeout, "timeout", 0, "How long --watch may take, such as 10m; 0: for ever.")
	f.BoolVar(&o.keepWaiting, "keep-waiting", false, "With --watch: stay also while the plan is stalled or paused. It goes on when somebody mends or resumes it.")
	f.BoolVarP(&o.all, "all-namespaces", "A", false, "List the plans of all namespaces.")
	outputFlag(cmd, &o.output, "json", "yaml", "name")
	return cmd
}

func (o *statusOptions) run(ctx context.Context, args []string) error {
	switch {
	case (o.timeout != 0 || o.keepWaiting) && !o.watch:
		return errors.New("--timeout and --keep-waiting need --watch")
	case o.timeout < 0:
		return errors.New("--timeout must not be negative")
	case o.watch && len(args) == 0:
		return errors.New("--watch needs the name of a plan")
	case o.all && len(args) > 0:
		return errors.New("a plan cannot be named together with --all-namespaces")
	}
	k, namespace, err := o.connect()
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return o.list(ctx, k, namespace)
	}
	if o.watch {
		return o.follow(ctx, k, namespace, args[0])
	}
	up, err := plan(ctx, k, namespace, args[0])
	if err != nil {
		return err
	}
	p := o.view(ctx, k, up)
	if err := o.print(&p); err != nil {
		return err
	}
	return verdictOn(&p, "")
}

// verdictOn is the error with the exit code of a plan's state.
func verdictOn(p *view.Plan, message string) error {
	if p.State == view.Complete {
		return nil
	}
	return &verdict{p.ExitCode, message}
}

// view reads what the plan's own status cannot tell: whether a set that the plan follows has
// a newer template already.
func (o *statusOptions) view(ctx context.Context, k client.Client, up *v1alpha1.UpgradePlan) view.Plan {
	p := view.Of(up)
	if p.State != view.Complete {
		return p
	}
	for _, name := range view.Followed(up) {
		set, err := setOf(ctx, k, up.Namespace, name)
		if client.IgnoreNotFound(err) != nil && !o.warned {
			o.warned = true
			fmt.Fprintf(o.streams.ErrOut, "warning: whether StatefulSet %s has a newer template cannot be seen: %v\n", name, err)
		}
		if err == nil {
			p.Doubt(set)
		}
	}
	return p
}

func (o *statusOptions) print(p *view.Plan) error {
	if o.output == "name" {
		_, err := fmt.Fprintln(o.streams.Out, planName+p.Name)
		return err
	}
	if done, err := encode(o.streams.Out, o.output, p); done {
		return err
	}
	return p.Tree(o.streams.Out, o.now())
}

func (o *statusOptions) list(ctx context.Context, k client.Client, namespace string) error {
	if o.all {
		namespace = ""
	}
	var list v1alpha1.UpgradePlanList
	if err := k.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return err
	}
	if o.output == "name" {
		for i := range list.Items {
			fmt.Fprintln(o.streams.Out, planName+list.Items[i].Name)
		}
		return nil
	}
	plans := make([]view.Plan, 0, len(list.Items))
	for i := range list.Items {
		plans = append(plans, view.Of(&list.Items[i]))
	}
	if done, err := encode(o.streams.Out, o.output, plans); done {
		return err
	}
	if len(plans) == 0 {
		where := "in namespace " + namespace
		if o.all {
			where = "in any namespace"
		}
		fmt.Fprintln(o.streams.ErrOut, "No upgradeplans found "+where+".")
		return nil
	}
	return view.List(o.streams.Out, list.Items, o.all, o.now())
}
