package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"offduty.dev/arbiter/conformance"
)

// exitError is an error with an exit status of its own.
type exitError struct {
	status int
	text   string
}

func (e *exitError) Error() string { return e.text }

// The exit statuses of conformance; 1 is that of any error.
const (
	statusFailed  = 2
	statusSkipped = 3
)

// conformanceOptions are the flags of conformance.
type conformanceOptions struct {
	clientOptions
	level, hook, output, artifacts string
	// Further clients, where one certificate may not do everything.
	admin, attendant, outsider clientFiles
	attend, only               []string
	settle                     time.Duration
}

// clientFiles are the certificate of a further client; empty: there is none.
type clientFiles struct{ cert, key string }

func (c *clientFiles) flags(f *pflag.FlagSet, name, what string) {
	f.StringVar(&c.cert, name+"-cert", "", "certificate of a client that "+what+", PEM")
	f.StringVar(&c.key, name+"-key", "", "its key, PEM")
}

const conformanceLong = `Conformance tries an arbiter, over the wire, with what upgraders, crashes and impatient
clients do to it, and says which clauses of docs/arbiter/SPEC.md it does not keep to.

It needs a group of its own, that nobody else leases. All cases run on five replicas that
serve, one of which works, with floor 3 and max_leased 3.

What cannot be asked of an arbiter is done by a program, --exec-hook:

  PROGRAM verbs                             prints the verbs that it has, one per line
  PROGRAM set-duty REPLICA working|idle     the replica works, even though it is leased; takes that back
  PROGRAM set-serving REPLICA true|false    the replica can serve, or cannot
  PROGRAM recreate REPLICA                  another instance (pod) gets the replica's name
  PROGRAM restart SECONDS                   kills the arbiter's process and starts it on its record,
                                            with a clock that is SECONDS off

It exits with 0 when that has begun, with 3 when the arbiter keeps the application from it
(set-duty), with 4 when it cannot do it after all, else with the reason on its standard error.

With --attend the kit plays the named replicas at an arbiter that serves AttendanceService,
and has every verb but restart.

Exit status: 0: every case passed. 2: a case failed. 3: none failed, but some were skipped,
each named with its reason. 1: the kit could not do its part, so nothing is said.`

func conformanceCommand() *cobra.Command {
	var o conformanceOptions
	cmd := &cobra.Command{
		Use: "conformance", Short: "Try whether an arbiter keeps to its specification", Long: conformanceLong, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.level, "level", "declared", "how far to try: listing, leasing, handover, or what the arbiter declares")
	f.StringVar(&o.hook, "exec-hook", "", "a program that does what the wire cannot; see above")
	f.StringSliceVar(&o.attend, "attend", nil, "replicas that the kit attends as, REPLICA or REPLICA=INSTANCE, such as prod/voter-0,prod/voter-1")
	o.admin.flags(f, "admin", "may release by force, if that of --tls-cert may not")
	o.attendant.flags(f, "attendant", "may attend, if that of --tls-cert may not")
	o.outsider.flags(f, "outsider", "may not lease")
	f.StringSliceVar(&o.only, "only", nil, "ids of the cases to try; \"arbiter conformance cases\" lists them")
	f.DurationVar(&o.settle, "settle", 10*time.Second, "how long what the hook did may take to be seen")
	f.StringVar(&o.output, "output", "human", "human or json")
	f.StringVar(&o.artifacts, "artifacts", "", "folder for a picture of a history that has no order")
	cmd.AddCommand(&cobra.Command{
		Use: "cases", Short: "List the cases and the clauses that they check", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return listCases(cmd.OutOrStdout()) },
	})
	return cmd
}

func listCases(out io.Writer) error {
	var err error
	for _, c := range conformance.Cases() {
		_, e := fmt.Fprintf(out, "%-9s %-18s %s %v", c.Level, c.ID, c.Tells, c.Clauses)
		err = errors.Join(err, e)
		for _, n := range c.Needs {
			_, e = fmt.Fprintf(out, " needs %s", n)
			err = errors.Join(err, e)
		}
		_, e = fmt.Fprintln(out)
		err = errors.Join(err, e)
	}
	return err
}

// patience makes connections come back as soon as an arbiter does.
func patience() grpc.DialOption {
	b := backoff.DefaultConfig
	b.MaxDelay = time.Second
	return grpc.WithConnectParams(grpc.ConnectParams{Backoff: b, MinConnectTimeout: 2 * time.Second})
}

func (o *conformanceOptions) run(ctx context.Context, out io.Writer) error {
	if o.output != "human" && o.output != "json" {
		return fmt.Errorf("--output %q: want human or json", o.output)
	}
	level, err := conformance.ParseLevel(o.level)
	if err != nil {
		return fmt.Errorf("--level: %w", err)
	}
	conns, err := o.connect()
	defer conns.close()
	if err != nil {
		return err
	}
	target := conformance.Target{
		Conn: conns.own, Admin: conns.admin, Group: o.group, Level: level,
		Settle: o.settle, Timeout: o.timeout, Only: o.only, Dir: o.artifacts,
	}
	if o.outsider.cert != "" {
		target.Outsider = conns.outsider
	}
	if len(o.attend) > 0 {
		app := conformance.Attend(ctx, conns.attendant, o.group, o.instances())
		defer app.Close()
		target.Driver = app.Driver()
	}
	if o.hook != "" {
		d, err := conformance.Hook(ctx, o.hook)
		if err != nil {
			return fmt.Errorf("--exec-hook: %w", err)
		}
		target.Driver = target.Driver.Over(d)
	}
	return o.report(ctx, target, out)
}

// connections are those of all clients.
type connections struct{ own, admin, attendant, outsider *grpc.ClientConn }

func (c *connections) close() {
	for _, conn := range []*grpc.ClientConn{c.own, c.admin, c.attendant, c.outsider} {
		if conn != nil {
			_ = conn.Close() // it carries nothing any more
		}
	}
}

// connect connects as every client; one that has no certificate of its own has that of --tls-cert.
func (o *conformanceOptions) connect() (connections, error) {
	var c connections
	var errs []error
	for _, x := range []struct {
		conn  **grpc.ClientConn
		files clientFiles
	}{{&c.own, clientFiles{}}, {&c.admin, o.admin}, {&c.attendant, o.attendant}, {&c.outsider, o.outsider}} {
		who := o.clientOptions
		if x.files.cert != "" {
			who.cert, who.key = x.files.cert, x.files.key
		}
		var err error
		*x.conn, err = who.dial(patience())
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

// instances are those that the kit attends as.
func (o *conformanceOptions) instances() map[string]string {
	out := map[string]string{}
	for _, x := range o.attend {
		replica, instance, ok := strings.Cut(x, "=")
		if !ok {
			instance = "attends-as-" + replica
		}
		out[replica] = instance
	}
	return out
}

// report tries the target and tells what was seen.
func (o *conformanceOptions) report(ctx context.Context, target conformance.Target, out io.Writer) error {
	each := func(r conformance.Result) { fmt.Fprintln(out, r.Line()) }
	if o.output == "json" {
		each = nil
	}
	report, err := conformance.Check(ctx, target, time.Now, each)
	if err != nil {
		return err
	}
	if o.output == "json" {
		err = report.WriteJSON(out)
	} else {
		err = report.WriteSummary(out)
	}
	if err != nil {
		return err
	}
	failed, skipped, broken := report.Count(conformance.Failed), report.Count(conformance.Skipped), report.Count(conformance.Broken)
	switch {
	case failed > 0:
		return &exitError{statusFailed, fmt.Sprintf("%d of %d cases failed", failed, len(report.Results))}
	case broken > 0:
		return fmt.Errorf("in %d of %d cases the kit could not do its part", broken, len(report.Results))
	case skipped > 0:
		return &exitError{statusSkipped, fmt.Sprintf("none of %d cases failed, but %d were skipped", len(report.Results), skipped)}
	}
	return nil
}
