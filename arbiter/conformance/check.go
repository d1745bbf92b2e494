package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// Finding is one obligation that was not kept, or, as a warning, one SHOULD.
type Finding struct {
	Clause Clause `json:"clause"`
	// Problem is what was wrong.
	Problem string `json:"problem"`
	// Exchange is what was sent and what came back right before, oldest first.
	Exchange []string `json:"exchange,omitempty"`
}

// check is one case at work. Its calls are made one after the other; what runs beside them
// uses the client directly and tells its findings when it has ended.
type check struct {
	ctx    context.Context //nolint:containedctx // of the case; a check ends with it
	target Target
	api    arbiterv1.ArbiterServiceClient
	caps   *arbiterv1.GetCapabilitiesResponse
	// name is unique to the case and the run: holders and requests begin with it.
	name string

	exchange []string
	last     *arbiterv1.GroupState
	// restarted since the last state: revisions may begin anew.
	restarted bool
	holders   []*holder
	undo      []func()
	warnings  []Finding
}

// outcome ends a case early; nothing else panics with it.
type outcome struct {
	finding *Finding
	skip    string
	err     error
}

// stop ends the case.
func (c *check) stop(o outcome) { panic(o) }

// fails ends the case: a clause was not kept.
func (c *check) fails(clause, format string, args ...any) {
	c.stop(outcome{finding: c.finding(clause, fmt.Sprintf(format, args...))})
}

// want ends the case unless ok.
func (c *check) want(ok bool, clause, format string, args ...any) {
	if !ok {
		c.fails(clause, format, args...)
	}
}

// should notes a SHOULD that was not kept, and goes on.
func (c *check) should(ok bool, clause, format string, args ...any) {
	if !ok {
		c.warnings = append(c.warnings, *c.finding(clause, fmt.Sprintf(format, args...)))
	}
}

// skip ends the case: it cannot be run here.
func (c *check) skip(format string, args ...any) { c.stop(outcome{skip: fmt.Sprintf(format, args...)}) }

// broken ends the case: the kit could not do its part.
func (c *check) broken(err error) { c.stop(outcome{err: err}) }

// recent is how many exchanges a finding tells.
const recent = 3

func (c *check) finding(clause, problem string) *Finding {
	return &Finding{
		Clause: Clause{ID: clause, Text: textOf(clause)}, Problem: problem,
		Exchange: slices.Clone(c.exchange[max(0, len(c.exchange)-recent):]),
	}
}

// longest is how much of one message a finding tells.
const longest = 700

func (c *check) note(method string, sent, came proto.Message, err error) {
	back := show(came)
	if err != nil {
		back = err.Error()
	}
	told := fmt.Sprintf("sent %s %s\ncame %s", method, show(sent), back)
	if n := len(c.exchange); n > 0 && c.exchange[n-1] == told {
		return // it looked again
	}
	c.exchange = append(c.exchange, told)
	if len(c.exchange) > 20 {
		c.exchange = slices.Clone(c.exchange[10:])
	}
}

func show(m proto.Message) string {
	if m == nil || !m.ProtoReflect().IsValid() {
		return "nothing"
	}
	if s, ok := m.(interface{ GetState() *arbiterv1.GroupState }); ok {
		return showState(s.GetState())
	}
	// Prototext varies its spaces so that nobody relies on them.
	text := strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(m)), " ")
	if len(text) > longest {
		text = text[:longest] + " …"
	}
	return "{" + text + "}"
}

// showState tells a state in short: a replica per line.
func showState(s *arbiterv1.GroupState) string {
	var b strings.Builder
	fmt.Fprintf(&b, "revision %d, %d serve, floor %d, max_leased %d", s.GetRevision(), s.GetServing(), s.GetFloor(), s.GetMaxLeased())
	for _, r := range s.GetReplicas() {
		serves := "serves"
		if !r.GetServing() {
			serves = "does not serve"
		}
		fmt.Fprintf(&b, "\n%s %s, runs as %q, %s", r.GetName(), strings.TrimPrefix(r.GetDuty().String(), "DUTY_"), r.GetInstance(), serves)
		if l := r.GetLease(); l != nil {
			fmt.Fprintf(&b, ", %s %s of %s, token %d", strings.TrimPrefix(l.GetPhase().String(), "LEASE_PHASE_"), l.GetId(), l.GetHolder(), l.GetToken())
		}
	}
	return b.String()
}

// rpc is one of the calls of the client.
type rpc[Q, A proto.Message] func(context.Context, Q, ...grpc.CallOption) (A, error)

// again is how long the kit waits before it repeats a call, or looks again.
const again = 50 * time.Millisecond

// pause waits, and says whether the case goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// wait lets time pass.
func (c *check) wait(d time.Duration) {
	if !pause(c.ctx, d) {
		c.broken(context.Cause(c.ctx))
	}
}

// try makes a call once and returns what came.
func try[Q, A proto.Message](c *check, method string, f rpc[Q, A], q Q) (A, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.target.Timeout)
	defer cancel()
	a, err := f(ctx, q)
	c.note(method, q, a, err)
	if c.ctx.Err() != nil {
		c.broken(context.Cause(c.ctx))
	}
	return a, err
}

// call makes a call that must be answered. An arbiter that is not available may be asked
// again for a while, with the same request, as a client does.
func call[Q, A proto.Message](c *check, method string, f rpc[Q, A], q Q) A {
	a, err := try(c, method, f, q)
	for waited := time.Duration(0); status.Code(err) == codes.Unavailable && waited < c.target.Settle; waited += again {
		c.wait(again)
		a, err = try(c, method, f, q)
	}
	if err != nil {
		c.fails("ERR-1", "%s is well formed and failed: %s", method, err)
	}
	return a
}

// fail makes a call that must fail with a code.
func fail[Q, A proto.Message](c *check, clause, why, method string, f rpc[Q, A], q Q, want codes.Code) {
	_, err := try(c, method, f, q)
	c.want(status.Code(err) == want, clause, "%s %s was answered %s, want %s", method, why, status.Code(err), want)
}

// invalid makes a call with a field beyond its limit, which the answer should name.
func invalid[Q, A proto.Message](c *check, field, method string, f rpc[Q, A], q Q) {
	_, err := try(c, method, f, q)
	c.want(status.Code(err) == codes.InvalidArgument, "ERR-2", "%s with %s beyond its limit was answered %s, want InvalidArgument", method, field, status.Code(err))
	c.named(err, field)
}

// refused wants a refusal with one of reasons.
func (c *check) refused(clause, what string, r *arbiterv1.Refusal, want ...arbiterv1.RefusalReason) {
	if !slices.Contains(want, r.GetReason()) || r == nil {
		c.fails(clause, "%s was %s, want it refused with %s", what, verdict(r), reasons(want))
	}
}

// granted wants no refusal.
func (c *check) granted(clause, what string, r *arbiterv1.Refusal) {
	if r != nil {
		c.fails(clause, "%s was %s, want it done", what, verdict(r))
	}
}

func verdict(r *arbiterv1.Refusal) string {
	if r == nil {
		return "done"
	}
	return fmt.Sprintf("refused with %s (%s: %s)", reason(r.GetReason()), r.GetRule(), r.GetMessage())
}

func reason(r arbiterv1.RefusalReason) string {
	return strings.TrimPrefix(r.String(), "REFUSAL_REASON_")
}

func reasons(rs []arbiterv1.RefusalReason) string {
	names := make([]string, len(rs))
	for i, r := range rs {
		names[i] = reason(r)
	}
	return strings.Join(names, " or ")
}

// drive does something with a verb of the driver; lacking says whether there is none.
func (c *check) drive(what string, lacking bool, do func() error) {
	if lacking {
		c.skip("the driver has no verb to %s", what)
	}
	switch err := do(); {
	case errors.Is(err, ErrUnsupported):
		c.skip("%s: %s", what, err)
	case err != nil:
		c.broken(fmt.Errorf("%s: %w", what, err))
	}
}

// atEnd runs fn when the case is over, however it ended; the last one first.
func (c *check) atEnd(fn func()) { c.undo = append(c.undo, fn) }

// setDuty makes a replica work until the case ends. It says whether it does: the arbiter's
// ban may have stopped it.
func (c *check) setDuty(replica string) bool {
	d, banned := c.target.Driver.SetDuty, false
	c.drive("set duty", d == nil, func() error {
		err := d(c.ctx, replica, true)
		if banned = errors.Is(err, ErrBanned); banned {
			return nil
		}
		return err
	})
	c.atEnd(func() {
		c.drive("set duty", false, func() error { return d(c.ctx, replica, false) })
		c.linger(func(s *arbiterv1.GroupState) bool { return idle(find(s, replica)) })
	})
	return !banned
}

// setServing makes a replica (un)able to serve; at the end of the case it can.
func (c *check) setServing(replica string, serving bool) {
	d := c.target.Driver.SetServing
	c.drive("set serving", d == nil, func() error { return d(c.ctx, replica, serving) })
	if !serving {
		c.atEnd(func() {
			c.drive("set serving", false, func() error { return d(c.ctx, replica, true) })
			c.linger(func(s *arbiterv1.GroupState) bool {
				return find(s, replica).GetServing() || find(s, replica).GetLease() != nil
			})
		})
	}
}

// recreate puts another instance behind a name, and returns it when it is seen.
func (c *check) recreate(r *arbiterv1.Replica) *arbiterv1.Replica {
	d := c.target.Driver.Recreate
	c.drive("recreate", d == nil, func() error { return d(c.ctx, r.GetName()) })
	var now *arbiterv1.Replica
	c.await("LIST-6", "show another instance of "+r.GetName(), func(s *arbiterv1.GroupState) bool {
		now = find(s, r.GetName())
		return now.GetInstance() != "" && now.GetInstance() != r.GetInstance()
	})
	return now
}

// restart kills the arbiter and waits until it serves again and knows its replicas.
func (c *check) restart(clock time.Duration) {
	d, before := c.target.Driver.Restart, c.state()
	c.drive("restart the arbiter", d == nil, func() error { return d(c.ctx, clock) })
	c.restarted = true
	// Duty may have moved meanwhile, but not to who is leased.
	c.await("DUR-1", "know again who is idle and who runs", func(s *arbiterv1.GroupState) bool {
		more := 0
		for _, r := range before.GetReplicas() {
			now := find(s, r.GetName())
			if r.GetInstance() != now.GetInstance() || idle(r) && !idle(now) && r.GetLease() != nil {
				return false
			}
			more += number(idle(now)) - number(idle(r))
		}
		return more >= 0
	})
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
