package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"offduty.dev/arbiter/duty"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// attendanceService implements offduty.arbiter.v1.AttendanceService.
type attendanceService struct {
	arbiterv1.UnimplementedAttendanceServiceServer
	groups Groups
}

type attendStream = grpc.BidiStreamingServer[arbiterv1.AttendRequest, arbiterv1.AttendResponse]

// Attend is one conversation with one replica.
func (s *attendanceService) Attend(stream attendStream) error {
	first, err := stream.Recv()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return fmt.Errorf("receive the first request: %w", err)
	}
	ctx := stream.Context()
	g, name, err := s.find(ctx, first)
	if err != nil {
		return err
	}
	session, err := g.Attend(ctx, name, first.GetInstance())
	if err != nil {
		return toStatus(err)
	}
	defer func() {
		// The group must learn of the end even though the stream's context is done. An
		// error means that the group is gone, and the conversation with it.
		_ = session.Close(context.WithoutCancel(ctx))
	}()
	a := &attending{stream: stream, group: g, session: session, first: first}
	return a.run(ctx)
}

func (s *attendanceService) find(ctx context.Context, r *arbiterv1.AttendRequest) (*duty.Group, string, error) {
	var c checks
	c.text("group", r.GetGroup(), maxName)
	c.text("replica", r.GetReplica(), 2*maxName)
	c.text("instance", r.GetInstance(), maxName)
	c.grows("sequence", r.GetSequence(), 0)
	if err := c.err(); err != nil {
		return nil, "", err
	}
	if err := IdentityFrom(ctx).mayAttend(r.GetReplica(), r.GetInstance()); err != nil {
		return nil, "", err
	}
	g, err := s.groups.Group(ctx, r.GetGroup())
	if err != nil {
		return nil, "", toStatus(err)
	}
	name, ok := strings.CutPrefix(r.GetReplica(), g.Prefix())
	if !ok {
		return nil, "", status.Errorf(codes.NotFound, "%s is not a replica of group %s", r.GetReplica(), g.Key())
	}
	return g, name, nil
}

// attending is one conversation under way.
type attending struct {
	stream  attendStream
	group   *duty.Group
	session *duty.Session
	first   *arbiterv1.AttendRequest
	// sequence is that of the last request that was received; 0 before the first.
	sequence int64
	// told is the generation that the replica was told last.
	told int64
}

// run answers every request, and speaks up when the duty changes.
func (a *attending) run(ctx context.Context) error {
	requests, failed := a.receive(ctx)
	if err := a.answer(ctx, a.first); err != nil {
		return err
	}
	for {
		v, err := a.catchUp(ctx)
		if err != nil {
			return err
		}
		select {
		case <-v.Superseded():
		case r := <-requests:
			if err := a.answer(ctx, r); err != nil {
				return err
			}
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("receive from %s: %w", a.session.Name(), err)
		case <-a.group.Stopped():
			return toStatus(fmt.Errorf("group %s: %w: it is being stopped", a.group.Key(), duty.ErrUnavailable))
		case <-ctx.Done():
			return toStatus(ctx.Err())
		}
	}
}

// catchUp tells the replica a duty that has changed, and returns the view it has read.
func (a *attending) catchUp(ctx context.Context) (*duty.View, error) {
	v := a.group.View()
	if v == nil {
		return nil, toStatus(fmt.Errorf("group %s: %w", a.group.Key(), duty.ErrUnavailable))
	}
	if v.Record.Roster.Members[a.session.Name()].Generation != a.told {
		return v, a.answer(ctx, nil)
	}
	return v, nil
}

// receive reads requests until the stream ends; its goroutine ends with the stream.
func (a *attending) receive(ctx context.Context) (<-chan *arbiterv1.AttendRequest, <-chan error) {
	requests, failed := make(chan *arbiterv1.AttendRequest), make(chan error, 1)
	go func() {
		for {
			r, err := a.stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	return requests, failed
}

// answer tells the replica its duty: after a report of its own, or, with nil, unasked.
func (a *attending) answer(ctx context.Context, r *arbiterv1.AttendRequest) error {
	answer, err := a.decide(ctx, r)
	if err != nil {
		return err
	}
	out := &arbiterv1.AttendResponse{
		Duty: arbiterv1.Duty_DUTY_IDLE, Generation: answer.Generation, Lifetime: durationpb.New(answer.Lifetime),
		// Only this goroutine sets it, so it had come before the duty was decided: the
		// replica counts from no later than the group does.
		Sequence: a.sequence,
	}
	if answer.Working {
		out.Duty = arbiterv1.Duty_DUTY_WORKING
	}
	if err := a.stream.Send(out); err != nil {
		return fmt.Errorf("send duty to %s: %w", a.session.Name(), err)
	}
	a.told = answer.Generation
	if answer.Working {
		return toStatus(a.session.Sent(ctx))
	}
	return nil
}

func (a *attending) decide(ctx context.Context, r *arbiterv1.AttendRequest) (duty.Answer, error) {
	if r == nil {
		answer, err := a.session.Answer(ctx)
		return answer, toStatus(err)
	}
	if r.GetGroup() != a.first.GetGroup() || r.GetReplica() != a.first.GetReplica() || r.GetInstance() != a.first.GetInstance() {
		return duty.Answer{}, status.Error(codes.InvalidArgument,
			"group, replica and instance must stay the same in one conversation: begin another one")
	}
	var c checks
	c.grows("sequence", r.GetSequence(), a.sequence)
	if err := c.err(); err != nil {
		return duty.Answer{}, err
	}
	a.sequence = r.GetSequence()
	answer, err := a.session.Report(ctx, duty.Report{
		Acked: r.GetAcknowledgedGeneration(), Duty: fromDuty(r.GetDuty()), Health: fromHealth(r.GetHealth()),
	})
	return answer, toStatus(err)
}
