package client

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
)

// guardedDialer asks for permission when a name has become an IP address, right before the
// connection is opened: whatever the name meant earlier does not matter.
type guardedDialer struct {
	permit func(netip.AddrPort) error
	// refusal is why the latest attempt was not permitted; nil when it was.
	refusal atomic.Pointer[error]
}

func (g *guardedDialer) dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{ControlContext: func(_ context.Context, _, ip string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(ip)
		if err == nil {
			err = g.permit(to)
		}
		if err != nil {
			g.refusal.Store(&err)
			return err
		}
		g.refusal.Store(nil)
		return nil
	}}
	return d.DialContext(ctx, "tcp", address)
}

// refused says why no connection may be opened; nil when that is not the problem.
func (g *guardedDialer) refused() error {
	if err := g.refusal.Load(); err != nil {
		return fmt.Errorf("no connection is opened to it: %w", *err)
	}
	return nil
}
