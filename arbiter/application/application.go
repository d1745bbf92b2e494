// Package application is what the arbiter asks of an application that decides by itself who
// works: to show who does, and to move duty.
//
// Whoever implements one of these talks to members at their own address and nowhere else, ends
// with the context, and is safe for concurrent use. What may be concluded from an answer is
// decided in package roster; when to ask again, in package duty.
package application

import (
	"context"
	"errors"

	"offduty.dev/arbiter/roster"
)

// Member is one member of a group, as one finds it.
type Member struct {
	// Name of the pod.
	Name string
	// Instance is the pod's UID.
	Instance string
	// Address is the pod's own IP address; empty while it has none.
	Address string
	// Ports are the container ports that have a name.
	Ports map[string]int32
}

// Source sees who works.
type Source interface {
	// See looks at all members anew: what it returns was so after it was called. It returns
	// before ctx is done, with a sight of Duty Unknown, and why, for whoever did not answer.
	// A member that is left out is one of which nothing is said.
	//
	// Sight.Until may be left zero: then the sight ages from the call.
	See(ctx context.Context, members map[string]Member) map[string]roster.Sight
}

// Handover moves duty.
type Handover interface {
	// HandOver asks the application to move duty from one that works to one that is idle. It
	// is called once; whether duty has moved is seen by the source, whatever is returned.
	//
	// Error: ErrRefused when nothing was or will be done; after any other it may have been.
	HandOver(ctx context.Context, from, to Member) error
}

// ErrRefused: the application said no.
var ErrRefused = errors.New("the application refuses")
