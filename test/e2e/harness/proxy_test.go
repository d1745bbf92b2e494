package harness

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// echo is a server that sends back what it is sent, and notes it.
type echo struct {
	net.Listener
	mu    sync.Mutex
	heard string
	news  chan struct{}
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{Listener: l, news: make(chan struct{}, 100)}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go e.serve(c)
		}
	}()
	return e
}

func (e *echo) serve(c net.Conn) {
	buffer := make([]byte, 100)
	for {
		n, err := c.Read(buffer)
		if err != nil {
			return
		}
		e.mu.Lock()
		e.heard += string(buffer[:n])
		e.mu.Unlock()
		e.news <- struct{}{}
		if _, err := c.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// dial connects through the proxy.
func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// hears reads n bytes within some time; what it got, and why no more.
func hears(t *testing.T, c net.Conn, n int, within time.Duration) (string, error) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, n)
	got, err := io.ReadFull(c, buffer)
	return string(buffer[:got]), err
}

const long = 10 * time.Second

// proxied is a server behind a proxy, and a connection that has been used.
func proxied(t *testing.T) (*Proxy, *echo, net.Conn) {
	t.Helper()
	e := newEcho(t)
	p, err := listen("127.0.0.1:0", e.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	c := dial(t, p)
	say(t, c, "a")
	wantHeard(t, c, "a")
	<-e.news
	return p, e, c
}

func wantHeard(t *testing.T, c net.Conn, want string) {
	t.Helper()
	if got, err := hears(t, c, len(want), long); got != want {
		t.Errorf("heard %q, not %q: %v", got, want, err)
	}
}

// wantEnded wants a connection to end without another word.
func wantEnded(t *testing.T, c net.Conn) {
	t.Helper()
	if got, err := hears(t, c, 1, long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection lives: heard %q, %v", got, err)
	}
}

func TestACutResetsWhatIsConnectedAndWhatConnects(t *testing.T) {
	p, _, c := proxied(t)
	p.Set(Cut, 0)
	wantEnded(t, c)
	// The reset may come while it connects, or then.
	if next, err := net.Dial("tcp", p.Address()); err == nil {
		wantEnded(t, next)
		next.Close()
	}
	p.Set(NoFault, 0)
	c = dial(t, p)
	say(t, c, "b")
	wantHeard(t, c, "b")
}

func TestWhatIsDelayedArrivesLateAndInItsOrder(t *testing.T) {
	p, _, c := proxied(t)
	p.Set(Delayed, 50*time.Millisecond)
	begun := time.Now()
	say(t, c, "b")
	say(t, c, "c")
	wantHeard(t, c, "bc")
	if took := time.Since(begun); took < 100*time.Millisecond {
		t.Errorf("there and back in %s", took)
	}
}

func TestHalfOpenLosesAnswersAndEndsWithAReset(t *testing.T) {
	p, e, c := proxied(t)
	p.Set(HalfOpen, 0)
	say(t, c, "b")
	<-e.news
	if got, err := hears(t, c, 1, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("heard %q: %v", got, err)
	}
	p.Set(NoFault, 0)
	wantEnded(t, c)
	if e.heard != "ab" {
		t.Errorf("the server heard %q", e.heard)
	}
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}
