package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/roster"
)

const (
	// etcdMaxLag is how many entries of its log an idle member may lag behind if nothing else is
	// said: some tenths of a second under load, as the members do not answer at the same instant.
	etcdMaxLag = 1000
	// etcdIdle closes connections that nobody uses any more.
	etcdIdle = time.Minute
	// etcdMaxAnswer bounds what is read of an answer, in bytes.
	etcdMaxAnswer = 1 << 20
)

// Etcd sees in the members' own API who leads an etcd cluster, which is to work, and which
// members are healthy and follow it, which is to be idle. It moves leadership.
//
// Members are asked at their pod's address; no address that etcd names is ever called.
type Etcd struct {
	endpoint    v1alpha1.Endpoint
	maxLag      uint64
	timeout     time.Duration
	credentials Credentials

	mu    sync.Mutex
	conns map[string]etcdConn // by member
}

type etcdConn struct {
	address string
	config  *tls.Config
	conn    *grpc.ClientConn
}

var (
	_ application.Source   = (*Etcd)(nil)
	_ application.Handover = (*Etcd)(nil)
)

// NewEtcd returns a source that has not connected yet. Close ends its connections.
func NewEtcd(spec v1alpha1.EtcdSource, credentials Credentials) *Etcd {
	e := &Etcd{
		endpoint: spec.Endpoint, maxLag: etcdMaxLag, timeout: seconds(spec.Probe.TimeoutSeconds),
		credentials: credentials, conns: map[string]etcdConn{},
	}
	if spec.MaxLagEntries != nil {
		e.maxLag = uint64(max(*spec.MaxLagEntries, 0))
	}
	return e
}

// See implements application.Source.
func (e *Etcd) See(ctx context.Context, members map[string]application.Member) map[string]roster.Sight {
	e.drop(members)
	return judgeEtcd(members, e.askAll(ctx, members), e.maxLag)
}

// HandOver implements application.Handover, by MoveLeader. It is refused, and nothing done, unless
// from leads by its own word and to is a healthy voter that follows it and does not lag.
func (e *Etcd) HandOver(ctx context.Context, from, to application.Member) error {
	answers := e.askAll(ctx, map[string]application.Member{from.Name: from, to.Name: to})
	leader, heir := answers[from.Name], answers[to.Name]
	if why := leader.stranger(from); why != "" {
		return fmt.Errorf("%w: %s: %s", application.ErrRefused, from.Name, why)
	}
	if why := heir.stranger(to); why != "" {
		return fmt.Errorf("%w: %s: %s", application.ErrRefused, to.Name, why)
	}
	switch why := heir.unfit(leader, e.maxLag); {
	case leader.leader != leader.id:
		return fmt.Errorf("%w: %s does not lead", application.ErrRefused, from.Name)
	case heir.contradicts(leader):
		return fmt.Errorf("%w: %s says %s, %s says %s", application.ErrRefused, from.Name, leader.says(), to.Name, heir.says())
	case why != "":
		return fmt.Errorf("%w: %s cannot take over: %s", application.ErrRefused, to.Name, why)
	}
	conn, err := e.connect(ctx, from)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", application.ErrRefused, from.Name, err)
	}
	_, err = pb.NewMaintenanceClient(conn).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: heir.id})
	switch {
	case err == nil:
		return nil
	case slices.Contains(refusals, status.Code(err)):
		return fmt.Errorf("%w: etcd of %s: %s", application.ErrRefused, from.Name, etcdSays(err))
	}
	return fmt.Errorf("move the etcd leader from %s to %s: %w", from.Name, to.Name, err)
}

// askAll asks all members at once.
func (e *Etcd) askAll(ctx context.Context, members map[string]application.Member) map[string]etcdAnswer {
	var (
		mu      sync.Mutex
		all     sync.WaitGroup
		answers = make(map[string]etcdAnswer, len(members))
	)
	for name, m := range members {
		all.Go(func() {
			a := etcdAnswer{err: errors.New("the arbiter had no time to ask it")}
			select {
			case slots <- struct{}{}:
				a = e.ask(ctx, m)
				<-slots
			case <-ctx.Done():
			}
			mu.Lock()
			defer mu.Unlock()
			answers[name] = a
		})
	}
	all.Wait()
	return answers
}

// ask asks one member about itself.
func (e *Etcd) ask(ctx context.Context, m application.Member) etcdAnswer {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	conn, err := e.connect(ctx, m)
	if err != nil {
		return etcdAnswer{err: err}
	}
	s, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return etcdAnswer{err: errors.New(etcdSays(err))}
	}
	// What it knows itself, and not what a majority knows: it answers also when it is alone.
	l, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: false})
	if err != nil {
		return etcdAnswer{err: errors.New(etcdSays(err))}
	}
	a := etcdAnswer{
		cluster: s.GetHeader().GetClusterId(), id: s.GetHeader().GetMemberId(), leader: s.GetLeader(), term: s.GetRaftTerm(),
		committed: s.GetRaftIndex(), applied: s.GetRaftAppliedIndex(), learner: s.GetIsLearner(), troubles: s.GetErrors(),
		list: map[uint64]etcdEntry{},
	}
	for _, member := range l.GetMembers() {
		a.list[member.GetID()] = etcdEntry{
			name: member.GetName(), urls: append(member.GetPeerURLs(), member.GetClientURLs()...), learner: member.GetIsLearner(),
		}
	}
	return a
}

// etcdSays is an error of a call in few words, the same for the same fault: it is shown.
func etcdSays(err error) string {
	switch s := status.Convert(err); {
	case strings.HasPrefix(s.Message(), "etcdserver: "):
		return s.Message()
	case s.Code() == codes.DeadlineExceeded:
		return "no answer in time"
	case strings.Contains(s.Message(), "authentication handshake"):
		return "TLS: " + short(s.Message())
	case s.Code() == codes.Unavailable:
		return "it cannot be reached"
	default:
		return short(s.Message())
	}
}

// connect returns the connection to a member, which is made when it is used.
func (e *Etcd) connect(ctx context.Context, m application.Member) (*grpc.ClientConn, error) {
	address, err := addressOf(m, e.endpoint.Port)
	if err != nil {
		return nil, err
	}
	var config *tls.Config
	secure := insecure.NewCredentials()
	if e.credentials != nil {
		if config, err = e.credentials(ctx); err != nil {
			return nil, err
		}
		secure = credentials.NewTLS(config)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, ok := e.conns[m.Name]
	if ok && c.address == address && c.config == config {
		return c.conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(secure),
		// The address is the pod's, and nobody is to be asked on the way there.
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(etcdIdle),
		// A member that comes back is to be seen soon.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(etcdMaxAnswer)),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", address, err)
	}
	if ok {
		_ = c.conn.Close()
	}
	e.conns[m.Name] = etcdConn{address: address, config: config, conn: conn}
	return conn, nil
}

// drop closes the connections to those that are no members any more.
func (e *Etcd) drop(members map[string]application.Member) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, c := range e.conns {
		if _, still := members[name]; !still {
			_ = c.conn.Close()
			delete(e.conns, name)
		}
	}
}

// Close ends all connections.
func (e *Etcd) Close() { e.drop(nil) }
