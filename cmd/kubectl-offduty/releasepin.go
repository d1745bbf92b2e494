package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	arbiter "offduty.dev/arbiter/client"
	"offduty.dev/upgrader/view"
)

const releasePinLong = `End the lease or pin of a replica by force: a last way out, when the one who holds it cannot.

Make sure first that nothing is upgrading the replica, and mend it: it may get duty right
afterwards. The arbiter records who asked and why (Roster, status.forceReleases). Duty stays
banned until the pod has been fenced against late writes of the holder; asking a second time
ends that ban, too.

The arbiter is reached by a port forward through the API server to its pod (that needs the
right to create pods/portforward in the arbiter's namespace), or directly with --address. The
client certificate is in the Secret offduty-admin-tls of the arbiter's namespace; --tls-cert,
--tls-key and --ca give another.`

const releasePinExample = `  kubectl offduty release-pin sample sample-3 --reason="disk replaced, upgraded by hand"`

type releasePinOptions struct {
	*options

	reason string
	yes    bool

	namespace, secret string
	address, server   string
	cert, key, ca     string
	timeout           time.Duration
}

func releasePinCommand(base *options) *cobra.Command {
	o := releasePinOptions{options: base}
	cmd := &cobra.Command{
		Use: "release-pin PLAN REPLICA --reason=REASON", Short: "End the lease or pin of a replica by force", Long: releasePinLong, Example: releasePinExample,
		Args: cobra.ExactArgs(2), ValidArgsFunction: o.completeReplica,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0], args[1]) },
	}
	f := cmd.Flags()
	f.StringVar(&o.reason, "reason", "", "Why, for the record.")
	f.BoolVarP(&o.yes, "yes", "y", false, "Do not ask for confirmation.")
	f.StringVar(&o.namespace, "arbiter-namespace", "offduty-system", "The namespace of the arbiter and its Secret.")
	f.StringVar(&o.secret, "arbiter-secret", "offduty-admin-tls", "The Secret with the client certificate of an administrator.")
	f.StringVar(&o.address, "address", "", "The arbiter's address, host:port. Default: forward a port to its pod.")
	f.StringVar(&o.server, "arbiter-server-name", "", "The name in the arbiter's certificate. Default: the host of --address, or offduty-arbiter.<namespace>.svc.")
	f.StringVar(&o.cert, "tls-cert", "", "Client certificate, PEM, instead of the Secret's.")
	f.StringVar(&o.key, "tls-key", "", "Client key, PEM, instead of the Secret's.")
	f.StringVar(&o.ca, "ca", "", "Authority that signs the arbiter's certificate, PEM, instead of the Secret's.")
	f.DurationVar(&o.timeout, "timeout", 10*time.Second, "How long to wait for the arbiter's answer.")
	return cmd
}

func (o *releasePinOptions) run(ctx context.Context, planName, replica string) error {
	if o.reason == "" {
		return errors.New("--reason is needed: the arbiter records it")
	}
	k, namespace, err := o.connect()
	if err != nil {
		return err
	}
	up, err := plan(ctx, k, namespace, planName)
	if err != nil {
		return err
	}
	ro, unseen := roster(ctx, k, up)
	answer := view.Why(up, ro, unseen, []v1alpha1.UpgradePlan{*up}, time.Now())
	question, err := answer.Release(replica)
	if err != nil {
		return err
	}
	if err := o.confirm(question + o.elsewhere(up)); err != nil {
		return err
	}
	conn, err := o.dial(ctx, k)
	if err != nil {
		return err
	}
	released, err := conn.ForceRelease(ctx, view.RosterOf(up).String(), namespace+"/"+replica, o.reason)
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("release the pin of %s: %w", replica, err)
	}
	text := "there was no lease on " + replica
	if released != nil {
		text = fmt.Sprintf("released lease %s of holder %s on %s", released.ID, released.Holder, replica)
	}
	_, err = fmt.Fprintln(o.streams.Out, text)
	return err
}

// elsewhere warns that the plan has another arbiter than the one that is about to be asked.
func (o *releasePinOptions) elsewhere(up *v1alpha1.UpgradePlan) string {
	its := up.Spec.Arbiter.Address
	asked, usual := o.address, "offduty-arbiter."+o.namespace+".svc"
	if asked == "" {
		asked = "the one in namespace " + o.namespace
	}
	if its == "" || its == o.address || strings.HasPrefix(its, usual+":") || strings.HasPrefix(its, usual+".") {
		return ""
	}
	return fmt.Sprintf("\nthe plan's arbiter is %s, but this asks %s: a lease there may be another one", its, asked)
}

// confirm asks, unless --yes was given.
func (o *releasePinOptions) confirm(question string) error {
	if o.yes {
		return nil
	}
	f, ok := o.streams.In.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return errors.New(question + "\nnothing was done: confirm with --yes, since standard input is no terminal")
	}
	fmt.Fprintf(o.streams.ErrOut, "%s\nrelease it? (y/N): ", question)
	line, err := bufio.NewReader(o.streams.In).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(line)); err != nil || a != "y" && a != "yes" {
		return errors.New("nothing was done")
	}
	return nil
}

// dial connects to the arbiter.
func (o *releasePinOptions) dial(ctx context.Context, k client.Client) (*arbiter.Client, error) {
	tls, err := o.tls(ctx, k)
	if err != nil {
		return nil, err
	}
	config := arbiter.Config{Address: o.address, TLS: tls, Timeout: o.timeout}
	if o.address == "" {
		if tls.ServerName == "" {
			tls.ServerName = "offduty-arbiter." + o.namespace + ".svc"
		}
		t := &tunnel{config: o.config, namespace: o.namespace}
		if config.Address, err = t.open(ctx); err != nil {
			return nil, err
		}
	}
	return arbiter.Dial(config)
}

// tls is how we identify ourselves: by files, or by the Secret.
func (o *releasePinOptions) tls(ctx context.Context, k client.Client) (*arbiter.TLS, error) {
	t := &arbiter.TLS{ServerName: o.server}
	if o.cert != "" || o.key != "" || o.ca != "" {
		if o.cert == "" || o.key == "" || o.ca == "" {
			return nil, errors.New("--tls-cert, --tls-key and --ca are needed together")
		}
		t.Cert.File, t.Key.File, t.CA.File = o.cert, o.key, o.ca
		return t, nil
	}
	s := &corev1.Secret{}
	if err := k.Get(ctx, client.ObjectKey{Namespace: o.namespace, Name: o.secret}, s); err != nil {
		return nil, fmt.Errorf("read the client certificate of an administrator: %w; give --tls-cert, --tls-key and --ca instead", err)
	}
	t.CA.Bytes, t.Cert.Bytes, t.Key.Bytes = s.Data["ca.crt"], s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]
	if len(t.CA.Bytes) == 0 || len(t.Cert.Bytes) == 0 || len(t.Key.Bytes) == 0 {
		return nil, fmt.Errorf("secret %s/%s lacks one of ca.crt, tls.crt and tls.key", o.namespace, o.secret)
	}
	return t, nil
}

// completeReplica completes the plan, then a replica of it that is leased.
func (o *releasePinOptions) completeReplica(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return o.completePlan(cmd, args, prefix)
	}
	leased := func(ctx context.Context, k client.Client, namespace string) []string {
		up, err := plan(ctx, k, namespace, args[0])
		if err != nil {
			return nil
		}
		var names []string
		for _, r := range up.Status.ReplicaStatuses {
			if r.Lease != "" {
				names = append(names, r.Name)
			}
		}
		return names
	}
	return o.complete(leased, cmd, prefix)
}
