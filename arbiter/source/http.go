package source

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/application"
	"offduty.dev/arbiter/roster"
)

// Credentials are how members are recognised, and how the arbiter identifies itself to them, as
// that is at the moment. Nil: without TLS.
type Credentials func(ctx context.Context) (*tls.Config, error)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// HTTP asks each member by HTTP whether it works.
type HTTP struct {
	spec v1alpha1.HTTPSource
	*caller
}

var (
	_ application.Source   = (*HTTP)(nil)
	_ application.Handover = (*HTTP)(nil)
)

// NewHTTP returns a source; credentials are asked for with scheme HTTPS.
func NewHTTP(spec v1alpha1.HTTPSource, credentials Credentials) *HTTP {
	return &HTTP{spec: spec, caller: newCaller(spec.Scheme, spec.Endpoint, seconds(spec.Probe.TimeoutSeconds), credentials)}
}

// See implements application.Source.
func (s *HTTP) See(ctx context.Context, members map[string]application.Member) map[string]roster.Sight {
	return each(ctx, members, func(ctx context.Context, m application.Member) roster.Sight {
		ctx, cancel := context.WithTimeout(ctx, s.timeout)
		defer cancel()
		if s.spec.Path != "" {
			return s.byAnswer(ctx, m)
		}
		return s.byStatus(ctx, m)
	})
}

// HandOver implements application.Handover, for a source with a path for that.
func (s *HTTP) HandOver(ctx context.Context, from, to application.Member) error {
	path := s.spec.Handover.Path
	body, err := json.Marshal(map[string]string{"leader": from.Name, "candidate": to.Name})
	if err != nil {
		return fmt.Errorf("%w: %w", application.ErrRefused, err)
	}
	status, answer, err := s.call(ctx, http.MethodPost, from, path, body)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s did not answer POST %s in time", from.Name, path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: %s: %w", application.ErrRefused, from.Name, err)
	case err != nil:
		return fmt.Errorf("%s: %w", from.Name, err)
	case status >= 200 && status < 300:
		return nil
	}
	err = fmt.Errorf("%s answered POST %s with %d: %s", from.Name, path, status, short(string(answer)))
	if status >= 400 && status < 500 {
		return fmt.Errorf("%w: %w", application.ErrRefused, err)
	}
	return err
}

// duty is the answer of a member.
type duty struct {
	Duty string `json:"duty"`
	// Replica and Instance, if they are there, must be those of the pod that was asked.
	Replica  string `json:"replica"`
	Instance string `json:"instance"`
	// LagBytes is how far it is behind the one that works.
	LagBytes *int64 `json:"lagBytes"`
	// Reason says why the duty is not known, for people.
	Reason string `json:"reason"`
}

func (s *HTTP) byAnswer(ctx context.Context, m application.Member) roster.Sight {
	status, body, err := s.call(ctx, http.MethodGet, m, s.spec.Path, nil)
	if err != nil {
		return unknown("%v", err)
	}
	if status != http.StatusOK {
		return unknown("GET %s was answered with %d", s.spec.Path, status)
	}
	var d duty
	if err := json.Unmarshal(body, &d); err != nil {
		return unknown("GET %s was answered with no JSON of a duty", s.spec.Path)
	}
	return d.sight(m, s.spec.MaxLagBytes)
}

// sight is what an answer says of the member that was asked.
func (d *duty) sight(m application.Member, maxLag *int64) roster.Sight {
	if d.Replica != "" && d.Replica != m.Name || d.Instance != "" && d.Instance != m.Instance {
		return unknown("another replica answered at its address: %s", short(d.Replica+" "+d.Instance))
	}
	out := roster.Sight{Unfit: lagging(d.LagBytes, maxLag)}
	switch strings.ToLower(d.Duty) {
	case "working":
		out.Duty = roster.Working
	case "idle":
		out.Duty = roster.Idle
	case "unknown":
		out.Duty, out.Why = roster.Unknown, "it says that it does not know"
		if d.Reason != "" {
			out.Why += ": " + short(d.Reason)
		}
	default:
		out.Duty, out.Why = roster.Unknown, fmt.Sprintf("it says %q, which is no duty", short(d.Duty))
	}
	return out
}

// short bounds and cleans what a member says, before people read it.
func short(s string) string {
	s = strings.ToValidUTF8(strings.Join(strings.Fields(s), " "), "?")
	if len(s) > 120 {
		s = strings.ToValidUTF8(s[:120], "") + "…"
	}
	return s
}

func (s *HTTP) byStatus(ctx context.Context, m application.Member) roster.Sight {
	working, err := s.answers(ctx, m, s.spec.Working)
	if err != nil {
		return unknown("%v", err)
	}
	idle, err := s.answers(ctx, m, s.spec.Idle)
	if err != nil {
		return unknown("%v", err)
	}
	out := roster.Sight{}
	switch {
	case working && idle:
		return unknown("it contradicts itself: GET %s says that it works, and GET %s that it is idle", s.spec.Working.Path, s.spec.Idle.Path)
	case working:
		out.Duty = roster.Working
	case idle:
		out.Duty = roster.Idle
	default:
		return unknown("neither GET %s was answered with %d, nor GET %s with %d",
			s.spec.Working.Path, s.spec.Working.Status, s.spec.Idle.Path, s.spec.Idle.Status)
	}
	if s.spec.Fit == nil {
		return out
	}
	if fit, err := s.answers(ctx, m, s.spec.Fit); err != nil || !fit {
		out.Unfit = fmt.Sprintf("GET %s was not answered with %d", s.spec.Fit.Path, s.spec.Fit.Status)
	}
	return out
}

func (s *HTTP) answers(ctx context.Context, m application.Member, a *v1alpha1.HTTPAnswer) (bool, error) {
	status, _, err := s.call(ctx, http.MethodGet, m, a.Path, nil)
	return err == nil && status == int(a.Status), err
}

// caller calls members at their own addresses: it follows no redirect, uses no proxy, and keeps
// no cookie.
type caller struct {
	scheme      string
	endpoint    v1alpha1.Endpoint
	timeout     time.Duration
	credentials Credentials

	mu     sync.Mutex
	config *tls.Config
	client *http.Client
}

func newCaller(scheme v1alpha1.HTTPScheme, e v1alpha1.Endpoint, timeout time.Duration, credentials Credentials) *caller {
	c := &caller{scheme: "http", endpoint: e, timeout: timeout}
	if scheme == v1alpha1.SchemeHTTPS {
		c.scheme, c.credentials = "https", credentials
	}
	return c
}

// call asks a member once. The error is short, and the same for the same fault: it is shown.
func (c *caller) call(ctx context.Context, method string, m application.Member, path string, body []byte) (status int, answer []byte, err error) {
	address, err := addressOf(m, c.endpoint.Port)
	if err != nil {
		return 0, nil, err
	}
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return 0, nil, fmt.Errorf("%q is no path", path)
	}
	// Whatever the path says, the member is asked.
	u.Scheme, u.Host, u.User, u.Opaque = c.scheme, address, nil, ""
	client, err := c.connect(ctx)
	if err != nil {
		return 0, nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), strings.NewReader(string(body)))
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	r.Header.Set("User-Agent", "offduty-arbiter")
	r.Header.Set("Accept", "application/json")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, c.fault(ctx, err))
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: read the answer: %w", method, path, c.fault(ctx, err))
	}
	return response.StatusCode, answer, nil
}

// connect returns the client for the credentials of the moment.
func (c *caller) connect(ctx context.Context) (*http.Client, error) {
	var config *tls.Config
	if c.credentials != nil {
		var err error
		if config, err = c.credentials(ctx); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil && c.config == config {
		return c.client, nil
	}
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	dialer := &net.Dialer{}
	c.config, c.client = config, &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: config, ForceAttemptHTTP2: true,
			MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c.client, nil
}

// fault says what went wrong without what differs each time, as the port that was used here.
func (c *caller) fault(ctx context.Context, err error) error {
	var timeout net.Error
	var number syscall.Errno
	var inURL *url.Error
	switch {
	case ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("no answer within %s", c.timeout)
	case errors.As(err, &number):
		return number
	case errors.As(err, &inURL):
		return inURL.Err
	}
	return err
}

// Close ends idle connections.
func (c *caller) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil {
		c.client.CloseIdleConnections()
		c.client = nil
	}
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }
