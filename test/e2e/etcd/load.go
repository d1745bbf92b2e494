package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"offduty.dev/test/cluster/controlplane"
)

const (
	// writers is how many clients write at the same time, each its own keys one after the other.
	writers = 4
	// pause is between two writes of one writer.
	pause = 5 * time.Millisecond
	// attempt bounds one try, Patience all tries of one write.
	attempt  = 500 * time.Millisecond
	Patience = 2 * time.Second
)

// Load are clients that write to the cluster until Stop. Each write is a key of its own, so that
// it can be repeated without harm, and lost ones are found.
type Load struct {
	kubelet *Kubelet
	prefix  string
	began   time.Time
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu sync.Mutex
	r  Report
	// last is when a write was acknowledged last.
	last time.Time
}

// Report is what became of the writes.
type Report struct {
	For time.Duration
	// Acked writes; Raw tries that failed, by what they said.
	Acked int
	Raw   map[string]int
	// Failed are writes that were not acknowledged within Patience although they were repeated.
	Failed []string
	// Longest is how long a write took with all its tries, Stall for how long no write of
	// anybody was acknowledged.
	Longest, Stall time.Duration

	acked map[string]bool
}

// Errors is how many tries failed.
func (r Report) Errors() int {
	n := 0
	for _, of := range r.Raw {
		n += of
	}
	return n
}

// Kinds says of what kinds the errors are.
func (r Report) Kinds() string {
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(r.Raw)) {
		out = append(out, fmt.Sprintf("%d x %s", r.Raw[kind], kind))
	}
	return strings.Join(out, "; ")
}

func (b *Kubelet) connect(members ...*member) (*clientv3.Client, error) {
	var endpoints []string
	for _, m := range members {
		endpoints = append(endpoints, url(m.address(), b.port))
	}
	k, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: askTimeout, Logger: zap.NewNop()})
	if err != nil {
		return nil, fmt.Errorf("make a client of etcd: %w", err)
	}
	return k, nil
}

// Write begins to write keys below prefix.
func (b *Kubelet) Write(ctx context.Context, prefix string) (*Load, error) {
	l := &Load{kubelet: b, prefix: prefix, began: time.Now(), last: time.Now(), r: Report{Raw: map[string]int{}, acked: map[string]bool{}}}
	ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for w := range writers {
		k, err := b.connect(b.members...)
		if err != nil {
			l.cancel()
			return nil, err
		}
		l.done.Go(func() {
			defer k.Close()
			for i := 0; ctx.Err() == nil; i++ {
				// A write that has begun is brought to its end.
				l.write(context.WithoutCancel(ctx), k, fmt.Sprintf("%s/%d/%d", prefix, w, i))
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	return l, nil
}

// write tries until the write is acknowledged or Patience has passed. One that was begun is
// brought to its end.
func (l *Load) write(ctx context.Context, k *clientv3.Client, key string) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	var err error
	for ctx.Err() == nil {
		try, done := context.WithTimeout(ctx, attempt)
		_, err = k.Put(try, key, key)
		done()
		if err == nil {
			l.acknowledged(key, began)
			return
		}
		l.mu.Lock()
		l.r.Raw[err.Error()]++
		l.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r.Failed = append(l.r.Failed, fmt.Sprintf("%s, begun %s after the first: %v", key, began.Sub(l.began).Round(time.Millisecond), err))
}

func (l *Load) acknowledged(key string, began time.Time) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r.Acked++
	l.r.acked[key] = true
	l.r.Longest, l.r.Stall = max(l.r.Longest, now.Sub(began)), max(l.r.Stall, now.Sub(l.last))
	l.last = now
}

// Stop ends the writing, and tells what became of it.
func (l *Load) Stop() Report {
	l.cancel()
	l.done.Wait()
	l.r.For = time.Since(l.began)
	return l.r
}

// Lost reads from each member what it has itself, and returns the acknowledged writes that any
// of them lacks. All of them must be up; they are given time to apply what the leader has.
func (l *Load) Lost(ctx context.Context) ([]string, error) {
	all, err := l.kubelet.connect(l.kubelet.members...)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	now, err := all.Get(ctx, l.prefix)
	if err != nil {
		return nil, fmt.Errorf("ask etcd for its revision: %w", err)
	}
	var lost []string
	for _, m := range l.kubelet.members {
		has, err := m.keys(ctx, l.prefix, now.Header.GetRevision())
		if err != nil {
			return nil, err
		}
		for key := range l.r.acked {
			if !has[key] {
				lost = append(lost, m.name+" lacks "+key)
			}
		}
	}
	slices.Sort(lost)
	return lost, nil
}

// keys are those below prefix that one member has at a revision, with the value of a write.
func (m *member) keys(ctx context.Context, prefix string, revision int64) (map[string]bool, error) {
	k, err := m.connect(m)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	var got *clientv3.GetResponse
	err = controlplane.Until(ctx, m.name+" has revision "+strconv.FormatInt(revision, 10), func(ctx context.Context) error {
		got, err = k.Get(ctx, prefix+"/", clientv3.WithPrefix(), clientv3.WithSerializable())
		if err == nil && got.Header.GetRevision() < revision {
			err = fmt.Errorf("it has revision %d", got.Header.GetRevision())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	has := make(map[string]bool, len(got.Kvs))
	for _, kv := range got.Kvs {
		has[string(kv.GetKey())] = string(kv.GetKey()) == string(kv.GetValue())
	}
	return has, nil
}

// State is what all members say of the cluster.
type State struct {
	// Leader is a pod's name, Term the raft term.
	Leader string
	Term   uint64
}

// State asks all members; they must agree.
func (b *Kubelet) State(ctx context.Context) (State, error) {
	k, err := b.connect(b.members...)
	if err != nil {
		return State{}, err
	}
	defer k.Close()
	var out State
	var problems []error
	ids := map[uint64]string{}
	leaders := map[uint64]bool{}
	for _, m := range b.members {
		s, err := k.Status(ctx, url(m.address(), b.port))
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", m.name, err))
			continue
		}
		ids[s.Header.GetMemberId()] = m.name
		leaders[s.Leader] = true
		if out.Term != 0 && s.RaftTerm != out.Term {
			problems = append(problems, fmt.Errorf("%s is in term %d, not %d", m.name, s.RaftTerm, out.Term))
		}
		out.Term = s.RaftTerm
	}
	if len(leaders) != 1 {
		problems = append(problems, fmt.Errorf("they follow %v", leaders))
	}
	for id := range leaders {
		out.Leader = ids[id]
	}
	if out.Leader == "" && len(problems) == 0 {
		problems = append(problems, errors.New("nobody leads"))
	}
	return out, errors.Join(problems...)
}
