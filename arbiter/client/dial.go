package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

const (
	defaultTimeout = 10 * time.Second

	// A connection that broke without a word is noticed after the sum of the two.
	// Below 30 s a strict server would hang up on us (grpc, "too_many_pings").
	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 10 * time.Second

	// The longest time between two attempts to connect: an arbiter that is back is
	// found again within this time.
	maxConnectBackoff = 5 * time.Second

	// A state of 10,000 replicas with leases takes about 4 MiB, grpc's default limit.
	maxMessageBytes = 64 << 20
)

// Every call is idempotent, so that repeating is safe; three attempts take less than a
// second, after which the caller should know. Attendance is not repeated: Attendant has
// its own way.
const serviceConfig = `{"methodConfig": [{
	"name": [{"service": "offduty.arbiter.v1.ArbiterService"}],
	"waitForReady": false,
	"retryPolicy": {
		"maxAttempts": 3,
		"initialBackoff": "0.1s",
		"maxBackoff": "0.4s",
		"backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`

// Config says which arbiter, and how to talk to it.
type Config struct {
	// Address is host:port.
	Address string
	// TLS must be set unless Insecure is.
	TLS *TLS
	// Insecure talks without TLS, to this machine only.
	Insecure bool
	// TokenFile holds a bearer token that goes with each call, and is read for each, so that
	// a rotated one is used at once. It needs TLS: a token must be seen by nobody else.
	TokenFile string
	// Permit, if not nil, is asked before each connection with the IP address to which the
	// name has led, and may refuse it. Such connections use no proxy: it would hide that.
	Permit func(netip.AddrPort) error
	// Timeout of one call; 0: 10 s.
	Timeout time.Duration
	// Dialer replaces TCP, for tests and tunnels.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// Options are further ones of the connection: what times and traces calls.
	Options []grpc.DialOption
}

// Client is one connection to an arbiter. Its methods may be called at the same time.
// What they say of errors holds for all: *Error, see ErrInvalid and the others.
type Client struct {
	address    string
	secure     bool
	timeout    time.Duration
	conn       *grpc.ClientConn
	arbiter    arbiterv1.ArbiterServiceClient
	attendance arbiterv1.AttendanceServiceClient

	closing func() error // closes conn, once
	dialer  *guardedDialer

	mu     sync.Mutex
	feeds  map[string]*feed // by group; nil: closed
	ending sync.WaitGroup   // feeds that have not ended yet
}

// Dial checks cfg and returns a client. It does not wait for the connection: an arbiter
// that cannot be reached is reported by the first call. Errors: ErrInvalid.
func Dial(cfg Config) (*Client, error) {
	host, err := checkAddress(cfg.Address)
	if err != nil {
		return nil, invalid("arbiter address %q must be host:port: %w", cfg.Address, err)
	}
	creds, err := transport(cfg, host)
	if err != nil {
		return nil, invalid("arbiter %s: %w", cfg.Address, err)
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	target, opts := "dns:///"+cfg.Address, []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultServiceConfig(serviceConfig),
		// A service config from DNS would override waitForReady.
		grpc.WithDisableServiceConfig(),
		// An idle connection would be closed and be slow at the moment it is needed.
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxConnectBackoff,
			},
			// Less than the timeout, so that a call learns that there is no way there.
			MinConnectTimeout: max(time.Second, cfg.Timeout/2),
		}),
	}
	opts = append(opts, cfg.Options...)
	guarded := &guardedDialer{permit: cfg.Permit}
	switch {
	case cfg.Dialer != nil:
		target = "passthrough:///" + cfg.Address
		opts = append(opts, grpc.WithContextDialer(cfg.Dialer))
	case cfg.Permit != nil:
		opts = append(opts, grpc.WithContextDialer(guarded.dial))
	}
	if cfg.TokenFile != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(tokenFile(cfg.TokenFile)))
	}
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, invalid("arbiter %s: %w", cfg.Address, err)
	}
	return &Client{
		address:    cfg.Address,
		secure:     cfg.TLS != nil,
		timeout:    cfg.Timeout,
		conn:       conn,
		arbiter:    arbiterv1.NewArbiterServiceClient(conn),
		attendance: arbiterv1.NewAttendanceServiceClient(conn),
		closing:    sync.OnceValue(conn.Close),
		dialer:     guarded,
		feeds:      map[string]*feed{},
	}, nil
}

// Address returns the host:port that was dialled.
func (c *Client) Address() string { return c.address }

// Close ends all watches, waits for them and closes the connection. It may be called twice.
func (c *Client) Close() error {
	c.mu.Lock()
	for _, f := range c.feeds {
		f.cancel()
	}
	c.feeds = nil
	c.mu.Unlock()
	c.ending.Wait()
	return c.closing()
}

func checkAddress(address string) (host string, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", fmt.Errorf("%q is not a port number", port)
	}
	if host == "" {
		return "", errors.New("the host is missing")
	}
	return host, nil
}

func transport(cfg Config, host string) (credentials.TransportCredentials, error) {
	switch {
	case cfg.TLS != nil && cfg.Insecure:
		return nil, errors.New("either TLS or insecure, not both")
	case cfg.Insecure && cfg.TokenFile != "":
		return nil, errors.New("a token is sent with TLS only: leave out the token or give the CA of the arbiter's certificate")
	case cfg.TLS != nil:
		return newReloading(*cfg.TLS)
	case !cfg.Insecure:
		return nil, errors.New("TLS is needed: give at least the CA of the arbiter's certificate")
	case !loopback(host):
		return nil, errors.New("without TLS only an arbiter on this machine (localhost, 127.0.0.1, ::1) is talked to")
	}
	return insecure.NewCredentials(), nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

func invalid(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Kinds: []error{ErrInvalid}, cause: err, text: err.Error()}
}
