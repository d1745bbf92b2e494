package session

import (
	"context"

	"offduty.dev/arbiter/client"
)

// Arbiter is what a conversation needs of an arbiter. The methods are those of
// client.Client.
type Arbiter interface {
	Capabilities(ctx context.Context, group string) (client.Capabilities, error)
	Adopt(ctx context.Context, group, holder string, term int64, identity string, known []client.Lease) (client.Adopted, *client.Refusal, error)
	Acquire(ctx context.Context, r client.AcquireRequest) (client.AcquireResult, *client.Refusal, error)
	Renew(ctx context.Context, group string, refs []client.LeaseRef) ([]client.RenewResult, error)
	Pin(ctx context.Context, group string, ref client.LeaseRef, instance string) (client.Lease, *client.Refusal, error)
	Release(ctx context.Context, group string, ref client.LeaseRef, outcome client.Outcome, version string) (*client.Refusal, error)
	Retire(ctx context.Context, group, holder string, token int64) (*client.Refusal, error)
	Handover(ctx context.Context, r client.HandoverRequest) (successor string, refusal *client.Refusal, err error)
	Watch(ctx context.Context, group string, notify func()) Watcher
	Close() error
}

// Watcher follows a group; a *client.Watcher.
type Watcher interface {
	State() (state client.GroupState, live bool, err error)
	Stop()
}

// Dial opens a connection over the network. Errors: client.ErrInvalid.
func Dial(cfg client.Config) (Arbiter, error) {
	c, err := client.Dial(cfg)
	if err != nil {
		return nil, err
	}
	return dialled{c}, nil
}

type dialled struct{ *client.Client }

func (d dialled) Watch(ctx context.Context, group string, notify func()) Watcher {
	return d.Client.Watch(ctx, group, notify)
}
