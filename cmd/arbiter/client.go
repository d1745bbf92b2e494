package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// clientOptions say how to reach an arbiter.
type clientOptions struct {
	address, group        string
	cert, key, ca, server string
	insecure              bool
	timeout               time.Duration
}

func (o *clientOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.address, "address", "127.0.0.1:9443", "the arbiter's address")
	f.StringVar(&o.group, "group", "", "the group, <namespace>/<roster>")
	f.StringVar(&o.cert, "tls-cert", "", "client certificate, PEM")
	f.StringVar(&o.key, "tls-key", "", "client key, PEM")
	f.StringVar(&o.ca, "ca", "", "authority that signs the arbiter's certificate, PEM")
	f.StringVar(&o.server, "server-name", "", "name in the arbiter's certificate (default: the host of --address)")
	f.BoolVar(&o.insecure, "insecure", false, "no TLS; only with a loopback --address")
	f.DurationVar(&o.timeout, "timeout", 10*time.Second, "how long to wait for an answer")
	_ = cmd.MarkFlagRequired("group") // fails only for a flag that does not exist
}

// dial connects to the arbiter.
func (o *clientOptions) dial(opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	creds, err := o.credentials()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(o.address, append(opts, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", o.address, err)
	}
	return conn, nil
}

func (o *clientOptions) credentials() (credentials.TransportCredentials, error) {
	if o.insecure {
		return insecure.NewCredentials(), checkLoopback(o.address)
	}
	if o.cert == "" || o.key == "" || o.ca == "" {
		return nil, errors.New("--tls-cert, --tls-key and --ca are needed, or --insecure on loopback")
	}
	cert, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, fmt.Errorf("read the client certificate: %w", err)
	}
	data, err := os.ReadFile(filepath.Clean(o.ca))
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("read the authority %s: no certificate in it", o.ca)
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: o.server,
	}), nil
}

func statusCommand() *cobra.Command {
	var o clientOptions
	var watch bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show a group: who is on duty, who is leased", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := o.dial()
			if err != nil {
				return err
			}
			err = o.status(cmd.Context(), arbiterv1.NewArbiterServiceClient(conn), watch, cmd.OutOrStdout())
			return errors.Join(err, conn.Close())
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again after each change, until interrupted")
	return cmd
}

func (o *clientOptions) status(ctx context.Context, c arbiterv1.ArbiterServiceClient, watch bool, out io.Writer) error {
	if !watch {
		ctx, cancel := context.WithTimeout(ctx, o.timeout)
		defer cancel()
		r, err := c.ListReplicas(ctx, &arbiterv1.ListReplicasRequest{Group: o.group}, grpc.WaitForReady(true))
		if err != nil {
			return fmt.Errorf("list the replicas of %s: %w", o.group, err)
		}
		return printState(out, r.GetState())
	}
	stream, err := c.WatchReplicas(ctx, &arbiterv1.WatchReplicasRequest{Group: o.group})
	if err != nil {
		return fmt.Errorf("watch the replicas of %s: %w", o.group, err)
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch the replicas of %s: %w", o.group, err)
		}
		if err := printState(out, r.GetState()); err != nil {
			return err
		}
	}
}

// printState writes a group as a table.
func printState(out io.Writer, s *arbiterv1.GroupState) error {
	frozen := ""
	if s.GetFrozen() {
		frozen = "  FROZEN"
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, err := fmt.Fprintf(w, "%s  serving %d, floor %d, at most %d leased%s\n%s\n\nREPLICA\tDUTY\tSERVING\tLEASE\tHOLDER\tMESSAGE\n",
		s.GetGroup(), s.GetServing(), s.GetFloor(), s.GetMaxLeased(), frozen, s.GetMessage())
	for _, r := range s.GetReplicas() {
		phase, holder := "-", "-"
		if l := r.GetLease(); l != nil {
			phase, holder = short(l.GetPhase().String(), "LEASE_PHASE_"), l.GetHolder()
			if l.GetOverdue() {
				phase += " (overdue)"
			}
		}
		_, e := fmt.Fprintf(w, "%s\t%s\t%t\t%s\t%s\t%s\n", r.GetName(), short(r.GetDuty().String(), "DUTY_"), r.GetServing(), phase, holder, r.GetMessage())
		err = errors.Join(err, e)
	}
	return errors.Join(err, w.Flush())
}

func short(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

func forceReleaseCommand() *cobra.Command {
	var o clientOptions
	var replica, reason string
	cmd := &cobra.Command{
		Use: "force-release", Short: "End the lease or pin of a replica, whoever has it", Args: cobra.NoArgs,
		Long: `Force-release ends the lease or pin of a replica whose holder cannot: a last way out.
The arbiter records who asked and why. Duty stays banned until the pod has been fenced
against late writes of the holder; asking a second time ends that ban, too.

Make sure first that nothing is upgrading the replica: it may get duty right afterwards.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := o.dial()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
			defer cancel()
			r, err := arbiterv1.NewArbiterServiceClient(conn).ForceReleaseLease(ctx,
				&arbiterv1.ForceReleaseLeaseRequest{Group: o.group, Replica: replica, Reason: reason}, grpc.WaitForReady(true))
			if err != nil {
				return errors.Join(fmt.Errorf("release %s by force: %w", replica, err), conn.Close())
			}
			text := "there was no lease on " + replica
			if l := r.GetReleased(); l != nil {
				text = fmt.Sprintf("released lease %s of holder %s on %s", l.GetId(), l.GetHolder(), l.GetReplica())
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return errors.Join(err, conn.Close())
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&replica, "replica", "", "the replica, <namespace>/<pod>")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	_ = cmd.MarkFlagRequired("replica") // fails only for a flag that does not exist
	_ = cmd.MarkFlagRequired("reason")
	return cmd
}
