package conformance

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// noGroup is the key of a group that nobody has.
const noGroup = "conformance/there-is-no-such-group"

func tryCapabilities(c *check) {
	got := call(c, "GetCapabilities", c.api.GetCapabilities, &arbiterv1.GetCapabilitiesRequest{Group: c.target.Group})
	c.want(got.GetListing(), "CAP-1", "listing is not promised")
	fail(c, "ERR-4", "of a group that does not exist", "GetCapabilities", c.api.GetCapabilities, &arbiterv1.GetCapabilitiesRequest{Group: noGroup}, codes.NotFound)
	fail(c, "ERR-4", "of a group that does not exist", "ListReplicas", c.api.ListReplicas, &arbiterv1.ListReplicasRequest{Group: noGroup}, codes.NotFound)
	if got.GetLeases() == arbiterv1.LeaseSupport_LEASE_SUPPORT_UNSPECIFIED {
		a, err := try(c, "AdoptLeases", c.api.AdoptLeases, &arbiterv1.AdoptLeasesRequest{Group: c.target.Group, Holder: c.name, Identity: "i"})
		c.notOffered("AdoptLeases", a.GetRefusal(), err)
	}
	if !got.GetHandover() {
		a, err := try(c, "RequestHandover", c.api.RequestHandover,
			&arbiterv1.RequestHandoverRequest{Group: c.target.Group, Holder: c.name, From: "x", Candidates: []string{"y"}})
		c.notOffered("RequestHandover", a.GetRefusal(), err)
	}
	_, err := c.watch(noGroup).next(c.target.Timeout)
	c.want(status.Code(err) == codes.NotFound, "ERR-4", "WatchReplicas of a group that does not exist was answered %s, want NotFound", status.Code(err))
}

// notOffered wants a call that is not promised to be unimplemented, or refused.
func (c *check) notOffered(method string, r *arbiterv1.Refusal, err error) {
	c.want(status.Code(err) == codes.Unimplemented || err == nil && r != nil, "ERR-5",
		"%s is not promised, and was answered %s without a refusal", method, status.Code(err))
}

func tryState(c *check) {
	s := c.state()
	c.want(len(s.GetReplicas()) > 0, "LIST-1", "the group has no replicas")
	for _, r := range s.GetReplicas() {
		if r.GetDuty() == arbiterv1.Duty_DUTY_UNSPECIFIED {
			c.fails("LIST-2", "the duty of %s is not set: what is not certain is UNKNOWN", r.GetName())
		}
		if idle(r) && r.GetServing() {
			c.want(r.GetInstance() != "", "LIST-6", "%s serves and has no instance", r.GetName())
		}
	}
	c.state()
}

// watch is a WatchReplicas under way. Its end is the case's, or stop.
type watch struct {
	c      *check
	stream grpc.ServerStreamingClient[arbiterv1.WatchReplicasResponse]
	err    error
	stop   context.CancelFunc
	clock  *time.Timer
}

// watch opens one. A message must come within the timeout of a call.
func (c *check) watch(group string) *watch {
	ctx, cancel := context.WithCancel(c.ctx)
	w := &watch{c: c, stop: cancel, clock: time.AfterFunc(c.target.Timeout, cancel)}
	w.stream, w.err = c.api.WatchReplicas(ctx, &arbiterv1.WatchReplicasRequest{Group: group})
	c.atEnd(w.close)
	return w
}

func (w *watch) close() {
	w.clock.Stop()
	w.stop()
}

// next returns the next message, which must come within a time.
func (w *watch) next(within time.Duration) (*arbiterv1.GroupState, error) {
	if w.err != nil {
		return nil, w.err
	}
	w.clock.Reset(within)
	defer w.clock.Stop()
	m, err := w.stream.Recv()
	w.c.note("WatchReplicas", &arbiterv1.WatchReplicasRequest{Group: w.c.target.Group}, m, err)
	return m.GetState(), err
}

// until reads on until ok, within Settle.
func (w *watch) until(clause, what string, ok func(*arbiterv1.GroupState) bool) *arbiterv1.GroupState {
	end := time.AfterFunc(w.c.target.Settle, w.stop)
	defer end.Stop()
	for {
		s, err := w.next(w.c.target.Settle)
		if err != nil {
			w.c.fails(clause, "within %s the watch did not %s: %v", w.c.target.Settle, what, err)
		}
		if ok(s) {
			return s
		}
	}
}

// opened wants the first message of a new watch, which is the whole state.
func (c *check) opened() (*watch, *arbiterv1.GroupState) {
	w := c.watch(c.target.Group)
	first, err := w.next(c.target.Timeout)
	c.want(err == nil, "WATCH-1", "the first message did not come within %s: %v", c.target.Timeout, err)
	c.inOrder(first)
	return w, first
}

func tryWatchFirst(c *check) {
	for range 3 {
		before := c.state()
		w, first := c.opened()
		w.close()
		after := c.state()
		if before.GetRevision() == after.GetRevision() {
			c.want(proto.Equal(first, before), "WATCH-1", "the first message of the watch is not the whole state, which is %s", showState(before))
		}
		c.want(len(first.GetReplicas()) == len(before.GetReplicas()), "WATCH-1", "the first message of the watch has %d of %d replicas",
			len(first.GetReplicas()), len(before.GetReplicas()))
	}
}

// raw sends bytes instead of a message.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, errors.New("this codec sends bytes")
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return errors.New("this codec receives bytes")
	}
	*b = data.Materialize()
	return nil
}

var _ encoding.CodecV2 = raw{}

// send sends bytes to a method.
func (c *check) send(method string, what string, bytes []byte) error {
	ctx, cancel := context.WithTimeout(c.ctx, c.target.Timeout)
	defer cancel()
	var back []byte
	err := c.target.Conn.Invoke(ctx, "/offduty.arbiter.v1.ArbiterService/"+method, bytes, &back, grpc.ForceCodecV2(raw{}))
	came := "an answer without error"
	if err != nil {
		came = err.Error()
	}
	c.exchange = append(c.exchange, "sent "+method+" "+what+"\ncame "+came)
	return err
}

// nonsense are bytes that are no message of ours.
func nonsense() map[string][]byte {
	return map[string][]byte{
		"bytes that are no message":        []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
		"a field that is cut off":          {0x0a, 0x7f, 'x'},
		"a group that is no valid UTF-8":   {0x0a, 0x02, 0xff, 0xfe},
		"more than four megabytes of text": append([]byte{0x0a, 0x80, 0x80, 0x80, 0x03}, strings.Repeat("x", 6<<20)...),
	}
}

func tryListingGarbage(c *check) {
	before := c.state()
	for what, bytes := range nonsense() {
		err := c.send("ListReplicas", what, bytes)
		c.want(err != nil, "ERR-8", "%s was answered as if it were a request", what)
		c.want(status.Code(err) != codes.DeadlineExceeded, "ERR-8", "%s was not answered within %s", what, c.target.Timeout)
	}
	for _, group := range []string{"", strings.Repeat("g", 254)} {
		invalid(c, "group", "ListReplicas", c.api.ListReplicas, &arbiterv1.ListReplicasRequest{Group: group})
	}
	// A field that a newer version may have.
	more, err := proto.Marshal(&arbiterv1.ListReplicasRequest{Group: c.target.Group})
	if err != nil {
		c.broken(err)
	}
	more = protowire.AppendTag(more, 1999, protowire.BytesType)
	more = protowire.AppendString(more, "from the future")
	err = c.send("ListReplicas", "with a field that is not known", more)
	c.want(err == nil, "ERR-7", "a request with a field that is not known failed: %v", err)
	after := c.state()
	c.want(len(after.GetReplicas()) == len(before.GetReplicas()), "ERR-8", "the group has %d replicas after garbage, before %d", len(after.GetReplicas()), len(before.GetReplicas()))
}

// named wants INVALID_ARGUMENT to name a field.
func (c *check) named(err error, field string) {
	for _, d := range status.Convert(err).Details() {
		if b, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range b.GetFieldViolations() {
				if strings.HasPrefix(v.GetField(), field) {
					return
				}
			}
		}
	}
	c.should(false, "ERR-3", "no google.rpc.BadRequest names the field %s", field)
}

func tryFlipSeen(c *check) {
	r := c.idler()
	w, _ := c.opened()
	if !c.setDuty(r.GetName()) {
		c.skip("the driver cannot make %s work", r.GetName())
	}
	c.await("LIST-2", "stop saying that "+r.GetName()+" is idle, which works", func(s *arbiterv1.GroupState) bool { return !idle(find(s, r.GetName())) })
	w.until("WATCH-2", "show that "+r.GetName()+" works", func(s *arbiterv1.GroupState) bool { return !idle(find(s, r.GetName())) })
}

func tryRecreatedSeen(c *check) {
	r := c.recreate(c.idler())
	c.await("LIST-2", "say again that "+r.GetName()+" is idle", func(s *arbiterv1.GroupState) bool { return idle(find(s, r.GetName())) })
}
