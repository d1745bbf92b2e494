package client_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"offduty.dev/arbiter/client"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// An arbiter that says WORKING may count on the replica having stopped one lifetime after
// it said so for the last time. This is what keeps two replicas from working at once, so
// it is tried against networks that delay each message at their whim.
func TestAnAttendantNeverWorksLongerThanTheArbiterCountsOn(t *testing.T) {
	worked := 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			if ticks := outliveNothing(t, rand.New(rand.NewPCG(seed, 0))); ticks >= 0 {
				worked += ticks
				return
			}
			t.Errorf("seed %d: it worked longer", seed)
		})
	}
	if worked == 0 {
		t.Error("it never worked at all, so nothing was tried")
	}
}

// outliveNothing returns how often the attendant was seen working, -1 when it was seen so
// for too long.
func outliveNothing(t *testing.T, random *rand.Rand) int {
	t.Helper()
	b := &slyBoss{random: rand.New(rand.NewPCG(random.Uint64(), 0)), change: make(chan struct{}, 1)}
	n := listen(t, &double{attend: b.attend})
	slowness := time.Duration(random.IntN(3000)) * time.Millisecond
	c, err := client.Dial(client.Config{
		Address: "127.0.0.1:9443", Insecure: true,
		Dialer: func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := n.listener.DialContext(ctx)
			if err != nil {
				return nil, err
			}
			return slow(conn, slowness, random.Uint64()), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := client.NewAttendant(client.AttendantConfig{
		Client: c, Group: "ns/g", Replica: "ns/a-0", Instance: "uid", Now: time.Now,
		Work: func(ctx context.Context) { <-ctx.Done() },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = a.Run(ctx) })
	defer func() { cancel(); running.Wait(); _ = c.Close(); n.cut() }()
	worked := 0
	for range 1200 { // 2 minutes
		time.Sleep(100 * time.Millisecond)
		b.flip()
		synctest.Wait()
		if !a.Working() {
			continue
		}
		if worked++; !time.Now().Before(b.countedOn()) {
			return -1
		}
	}
	return worked
}

// slyBoss changes its mind now and then, and is free in all that an arbiter may do: a
// change is told at once, or with the next answer.
type slyBoss struct {
	mu         sync.Mutex
	random     *rand.Rand
	change     chan struct{}
	working    bool
	generation int64
	until      time.Time
}

const lifetime = 5 * time.Second

func (b *slyBoss) flip() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.random.IntN(40) > 0 {
		return
	}
	b.working, b.generation = !b.working, b.generation+1
	select {
	case b.change <- struct{}{}:
	default:
	}
}

func (b *slyBoss) countedOn() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.until
}

// say composes what is to be sent now, after the request of that sequence; nil: the
// change has been told.
func (b *slyBoss) say(asked bool, told, sequence int64) *arbiterv1.AttendResponse {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !asked && told == b.generation {
		return nil
	}
	answer := &arbiterv1.AttendResponse{
		Duty: arbiterv1.Duty_DUTY_IDLE, Generation: b.generation, Lifetime: durationpb.New(lifetime), Sequence: sequence,
	}
	if b.working {
		answer.Duty = arbiterv1.Duty_DUTY_WORKING
		b.until = time.Now().Add(lifetime)
	}
	return answer
}

func (b *slyBoss) attend(s attendStream) error {
	requests := make(chan *arbiterv1.AttendRequest)
	go receive(s, requests)
	told, sequence := int64(-1), int64(0)
	for {
		asked := false
		select {
		case r, ok := <-requests:
			if !ok {
				return s.Context().Err()
			}
			asked, sequence = true, r.GetSequence()
		case <-b.change:
		}
		if sequence == 0 {
			continue
		}
		answer := b.say(asked, told, sequence)
		if answer == nil {
			continue
		}
		if err := s.Send(answer); err != nil {
			return err
		}
		told = answer.GetGeneration()
	}
}

// slowConn delays what is written and what is read, each in its order.
type slowConn struct {
	net.Conn
	in  *io.PipeReader
	out chan<- parcel
	end func()
}

type parcel struct {
	due  time.Time
	data []byte
}

// slow delays each piece by up to most.
func slow(conn net.Conn, most time.Duration, seed uint64) net.Conn {
	out, arrived := make(chan parcel, 1000), make(chan parcel, 1000)
	reader, writer := io.Pipe()
	done := make(chan struct{})
	go deliver(out, conn, most, seed, done)
	go deliver(arrived, writer, most, seed+1, done)
	go func() {
		defer close(arrived)
		for {
			data := make([]byte, 1<<15)
			n, err := conn.Read(data)
			if err != nil {
				return
			}
			arrived <- parcel{data: data[:n], due: time.Now()}
		}
	}()
	return &slowConn{Conn: conn, in: reader, out: out, end: sync.OnceFunc(func() {
		close(done)
		_ = reader.Close()
	})}
}

func deliver(from <-chan parcel, to io.WriteCloser, most time.Duration, seed uint64, done <-chan struct{}) {
	defer func() { _ = to.Close() }()
	random := rand.New(rand.NewPCG(seed, 0))
	for {
		select {
		case <-done:
			return
		case p, ok := <-from:
			if !ok {
				return
			}
			select {
			case <-done:
				return
			case <-time.After(time.Until(p.due.Add(time.Duration(random.Int64N(int64(most) + 1))))):
			}
			if _, err := to.Write(p.data); err != nil {
				return
			}
		}
	}
}

func (c *slowConn) Read(p []byte) (int, error) { return c.in.Read(p) }

func (c *slowConn) Write(p []byte) (int, error) {
	c.out <- parcel{data: append([]byte(nil), p...), due: time.Now()}
	return len(p), nil
}

func (c *slowConn) Close() error {
	c.end()
	return c.Conn.Close()
}
