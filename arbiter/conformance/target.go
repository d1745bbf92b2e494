// Package conformance proves that an arbiter keeps to docs/arbiter/SPEC.md. It is a black
// box test: it speaks offduty.arbiter.v1 and knows nothing of the arbiter but what it answers.
//
// In a Go test:
//
//	func TestConformance(t *testing.T) {
//		conformance.Run(t, conformance.Target{Conn: conn, Group: "prod/voters"})
//	}
//
// From elsewhere, the command "arbiter conformance". What cannot be done over the wire
// (duty that flips, a process that dies) is done by a Driver; a case whose verb the driver
// lacks is skipped, and named in the report.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
)

// Level is how far an arbiter goes. Each includes those before it.
type Level int

// The levels, as in the specification.
const (
	// Declared is the level that the arbiter's capabilities promise.
	Declared Level = iota
	Listing
	Leasing
	Handover
)

// ParseLevel reads a level's name, as String writes it.
func ParseLevel(name string) (Level, error) {
	for l := Declared; l <= Handover; l++ {
		if l.String() == name {
			return l, nil
		}
	}
	return 0, fmt.Errorf("level %q: want declared, listing, leasing or handover", name)
}

// String returns the level's name.
func (l Level) String() string {
	switch l {
	case Declared:
		return "declared"
	case Listing:
		return "listing"
	case Leasing:
		return "leasing"
	case Handover:
		return "handover"
	}
	return fmt.Sprintf("level %d", int(l))
}

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Level) UnmarshalText(name []byte) (err error) {
	*l, err = ParseLevel(string(name))
	return err
}

var (
	// ErrUnsupported: the driver cannot do this. The case is skipped.
	ErrUnsupported = errors.New("the driver cannot do this")
	// ErrBanned: the application cannot let the replica work against the arbiter's will,
	// because it is the arbiter who gives duty. Returned by SetDuty alone.
	ErrBanned = errors.New("the arbiter gives this replica no duty")
)

// Driver does to the application and to the arbiter what cannot be done over the wire. A
// verb returns when what it does has begun; the kit waits until it is seen, Target.Settle at
// most. A verb that is nil, or returns ErrUnsupported, skips the cases that need it.
type Driver struct {
	// SetDuty makes the application let an idle replica work, as a failover of its own would,
	// even though the replica is leased; working false takes that back.
	//
	// Errors: ErrBanned where the arbiter alone decides who works, and said no.
	SetDuty func(ctx context.Context, replica string, working bool) error
	// SetServing makes a replica unable to serve, and able again.
	SetServing func(ctx context.Context, replica string, serving bool) error
	// Recreate puts another instance behind a replica's name.
	Recreate func(ctx context.Context, replica string) error
	// Restart ends the arbiter's process without a warning, as by SIGKILL, and starts it
	// again on its record; the clock of the new process differs from the old one's by clock.
	Restart func(ctx context.Context, clock time.Duration) error
}

// Target is the arbiter under test. It needs a group of its own, which nobody else leases.
//
// Every case runs if the group has five replicas that serve, one of which works, floor 3 and
// maxLeased 3; with less, cases are skipped.
type Target struct {
	// Conn leads to the arbiter. It must connect again by itself, as grpc.ClientConn does.
	Conn grpc.ClientConnInterface
	// Group is the key of the group.
	Group string
	// Level is how far to test; Declared: as far as the arbiter says that it goes.
	Level Level
	// Driver, for what the wire cannot do.
	Driver Driver
	// Admin leads to the arbiter as somebody who may release by force; nil: Conn does.
	Admin grpc.ClientConnInterface
	// Outsider, if not nil, leads to the arbiter as somebody who may not lease in the group.
	Outsider grpc.ClientConnInterface
	// Settle is how long what the driver did may take to be seen; 0: 10 s.
	Settle time.Duration
	// Timeout of one call; 0: 5 s.
	Timeout time.Duration
	// Only, if not empty, are the ids of the cases to run.
	Only []string
	// Dir, if not empty, is where the history of a LIN-1 case that failed is drawn.
	Dir string
}

func (t Target) withDefaults() (Target, error) {
	if t.Conn == nil || t.Group == "" {
		return t, errors.New("a target needs Conn and Group")
	}
	if t.Admin == nil {
		t.Admin = t.Conn
	}
	if t.Settle == 0 {
		t.Settle = 10 * time.Second
	}
	if t.Timeout == 0 {
		t.Timeout = 5 * time.Second
	}
	for _, id := range t.Only {
		if !known(id) {
			return t, fmt.Errorf("there is no case %q (Cases lists them)", id)
		}
	}
	return t, nil
}

func known(id string) bool {
	for _, c := range cases {
		if c.ID == id {
			return true
		}
	}
	return false
}
