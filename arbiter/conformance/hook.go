package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// How a hook says ErrBanned and ErrUnsupported.
const (
	bannedStatus      = 3
	unsupportedStatus = 4
)

// Hook is a driver whose verbs are done by a program, which is asked for them once:
//
//	PROGRAM verbs                                prints those that it has, one per line
//	PROGRAM set-duty REPLICA working|idle
//	PROGRAM set-serving REPLICA true|false
//	PROGRAM recreate REPLICA
//	PROGRAM restart SECONDS                      SECONDS: how far off the new process's clock is
//
// It exits with 0 when what it was asked for has begun, with 3 when the application cannot let
// the replica work because the arbiter forbids it, with 4 when it cannot do that after all (set
// another clock, say), and with anything else when it has failed.
func Hook(ctx context.Context, program string) (Driver, error) {
	out, err := hook(ctx, program, "verbs")
	if err != nil {
		return Driver{}, err
	}
	var d Driver
	for verb := range strings.FieldsSeq(out) {
		switch verb {
		case verbDuty:
			d.SetDuty = func(ctx context.Context, replica string, working bool) error {
				_, err := hook(ctx, program, verbDuty, replica, duties[working])
				return err
			}
		case verbServing:
			d.SetServing = func(ctx context.Context, replica string, serving bool) error {
				_, err := hook(ctx, program, verbServing, replica, strconv.FormatBool(serving))
				return err
			}
		case verbRecreate:
			d.Recreate = func(ctx context.Context, replica string) error {
				_, err := hook(ctx, program, verbRecreate, replica)
				return err
			}
		case verbRestart:
			d.Restart = func(ctx context.Context, clock time.Duration) error {
				_, err := hook(ctx, program, verbRestart, strconv.Itoa(int(clock/time.Second)))
				return err
			}
		default:
			return d, fmt.Errorf("%s verbs: there is no verb %q; there are %s, %s, %s and %s", program, verb, verbDuty, verbServing, verbRecreate, verbRestart)
		}
	}
	return d, nil
}

var duties = map[bool]string{true: "working", false: "idle"}

// Over returns d with the verbs of over in their places, where it has them.
func (d Driver) Over(over Driver) Driver {
	if over.SetDuty != nil {
		d.SetDuty = over.SetDuty
	}
	if over.SetServing != nil {
		d.SetServing = over.SetServing
	}
	if over.Recreate != nil {
		d.Recreate = over.Recreate
	}
	if over.Restart != nil {
		d.Restart = over.Restart
	}
	return d
}

func hook(ctx context.Context, program string, args ...string) (string, error) {
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // the program that the user named
	cmd.Stdout, cmd.Stderr = &out, &problem
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return out.String(), nil
	case errors.As(err, &exit) && exit.ExitCode() == bannedStatus && slices.Contains(args, verbDuty):
		return "", fmt.Errorf("%s: %w", program, ErrBanned)
	case errors.As(err, &exit) && exit.ExitCode() == unsupportedStatus:
		return "", fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), ErrUnsupported)
	}
	return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(problem.String()))
}
