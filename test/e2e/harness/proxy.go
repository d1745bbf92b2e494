package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Fault is what is wrong with the way to a server.
type Fault int

// Faults of a Proxy.
const (
	// NoFault: everything passes at once.
	NoFault Fault = iota
	// Cut: there are no connections. Those that there were are reset, new ones as soon as
	// they are made.
	Cut
	// Delayed: everything arrives, in its order and late; also what was sent before the
	// fault ended.
	Delayed
	// HalfOpen: requests arrive, answers are lost, and no connection ends. Those that lost
	// something are reset when the fault ends.
	HalfOpen
)

// Proxy is the way to a TCP server, on which something can be wrong. There are libraries for
// this; what we need of them is less than what they would bring along.
type Proxy struct {
	listener net.Listener
	to       string
	running  sync.WaitGroup

	mu     sync.Mutex
	fault  Fault
	delay  time.Duration
	links  map[*link]bool
	closed bool
}

// link is one connection through the proxy.
type link struct {
	client, server *net.TCPConn
	// ended is closed with the connection.
	ended chan struct{}
	once  sync.Once
	// lost: an answer of it was not passed on, so that none may be any more.
	lost bool // guarded by Proxy.mu
}

// NewProxy leads from a free port of the cluster to an address, at first without any fault.
func (s *System) NewProxy(to string) (*Proxy, error) {
	port, err := s.Cluster.FreePort()
	if err != nil {
		return nil, err
	}
	return listen(fmt.Sprintf("127.0.0.1:%d", port), to)
}

func listen(on, to string) (*Proxy, error) {
	l, err := net.Listen("tcp", on)
	if err != nil {
		return nil, fmt.Errorf("make a proxy to %s: %w", to, err)
	}
	p := &Proxy{listener: l, to: to, links: map[*link]bool{}}
	p.running.Go(p.accept)
	return p, nil
}

// Address is where to connect to.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Set makes something wrong, or with NoFault nothing any more. delay is that of Delayed.
func (p *Proxy) Set(fault Fault, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.delay = fault, delay
	for l := range p.links {
		if fault == Cut || l.lost && fault != HalfOpen {
			l.reset()
		}
	}
}

// Close resets all connections, and takes no more.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	for l := range p.links {
		l.reset()
	}
	p.mu.Unlock()
	err := p.listener.Close()
	p.running.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // that client has gone again
		}
		p.running.Go(func() { p.connect(c.(*net.TCPConn)) })
	}
}

// connect leads one client to the server.
func (p *Proxy) connect(client *net.TCPConn) {
	l := &link{client: client, ended: make(chan struct{})}
	if server, err := net.DialTimeout("tcp", p.to, 5*time.Second); err == nil {
		l.server = server.(*net.TCPConn)
	}
	p.mu.Lock()
	ok := l.server != nil && p.fault != Cut && !p.closed
	if ok {
		p.links[l] = true
		p.running.Go(func() { p.pump(l, l.server, l.client, false) })
		p.running.Go(func() { p.pump(l, l.client, l.server, true) })
	}
	p.mu.Unlock()
	if !ok {
		l.reset()
	}
}

// pump passes on what comes from one side.
func (p *Proxy) pump(l *link, to, from *net.TCPConn, answers bool) {
	defer func() {
		l.reset()
		p.mu.Lock()
		delete(p.links, l)
		p.mu.Unlock()
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && p.lets(l, answers) {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// lets waits as long as the fault demands, and says whether what came may be passed on.
func (p *Proxy) lets(l *link, answers bool) bool {
	p.mu.Lock()
	wait := time.Duration(0)
	if p.fault == Delayed {
		wait = p.delay
	}
	p.mu.Unlock()
	if wait > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		select {
		case <-ctx.Done():
		case <-l.ended:
		}
		cancel()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if answers && p.fault == HalfOpen {
		l.lost = true
	}
	return !answers || !l.lost
}

// reset ends both sides at once, as a machine does that knows nothing of the connection.
func (l *link) reset() {
	l.once.Do(func() {
		close(l.ended)
		for _, c := range []*net.TCPConn{l.client, l.server} {
			if c != nil {
				// Not being able to say it rudely is no reason not to say it.
				_ = c.SetLinger(0)
				_ = c.Close()
			}
		}
	})
}
