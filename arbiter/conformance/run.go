package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// Run tries the target with every case of its level, each a subtest of t. A case that cannot be
// tried is skipped with its reason.
func Run(t *testing.T, target Target) {
	t.Helper()
	r, err := newRun(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range r.cases() {
		t.Run(x.ID, func(t *testing.T) {
			result := r.try(t.Context(), x)
			for _, w := range result.Warnings {
				t.Logf("a SHOULD was not kept:\n%s", &w)
			}
			switch result.Outcome {
			case Passed:
			case Failed:
				t.Errorf("%s\n%s", x.Tells, result.Finding)
			case Skipped:
				t.Skip(result.Reason)
			case Broken:
				t.Errorf("%s\nthe kit could not do its part: %s", x.Tells, result.Reason)
			}
		})
	}
}

// Check tries the target with every case of its level and returns the report; each, if not nil,
// is told a result as soon as there is one. now is the clock for how long cases take.
//
// Errors: the group cannot be tested at all, or ctx ended.
func Check(ctx context.Context, target Target, now func() time.Time, each func(Result)) (*Report, error) {
	r, err := newRun(ctx, target)
	if err != nil {
		return nil, err
	}
	report := &Report{
		Specification: SpecificationVersion, Implementation: r.caps.GetImplementation(), Group: target.Group,
		Level: r.target.Level, Only: target.Only, Began: now().UTC(),
	}
	for _, x := range r.cases() {
		began := now()
		result := r.try(ctx, x)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("try case %s: %w", x.ID, context.Cause(ctx))
		}
		result.Seconds = now().Sub(began).Seconds()
		report.Results = append(report.Results, result)
		if each != nil {
			each(result)
		}
	}
	return report, nil
}

// run is one run of the kit.
type run struct {
	target Target
	api    arbiterv1.ArbiterServiceClient
	caps   *arbiterv1.GetCapabilitiesResponse
	// id is not used by any other run: retired holders never come back.
	id string
	// idle is how many replicas were idle at first.
	idle int
}

func newRun(ctx context.Context, target Target) (*run, error) {
	target, err := target.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &run{target: target, api: arbiterv1.NewArbiterServiceClient(target.Conn), id: runID()}
	// An arbiter that does not know its group yet may not know either what it can do for it.
	state, err := r.rest(ctx)
	if err != nil {
		return nil, err
	}
	deadline, cancel := context.WithTimeout(ctx, target.Timeout)
	defer cancel()
	r.caps, err = r.api.GetCapabilities(deadline, &arbiterv1.GetCapabilitiesRequest{Group: target.Group})
	if err != nil {
		return nil, fmt.Errorf("ask for the capabilities of group %s: %w", target.Group, err)
	}
	if r.target.Level == Declared {
		r.target.Level = declared(r.caps)
	}
	for _, x := range state.GetReplicas() {
		if l := x.GetLease(); l != nil {
			return nil, fmt.Errorf("%s is leased by %s: the kit needs a group of its own, which nobody else leases", x.GetName(), l.GetHolder())
		}
		if idle(x) {
			r.idle++
		}
	}
	return r, nil
}

// steady is how long nothing may change before the first case.
const steady = time.Second

// rest returns the group when nothing has changed in it for a while: the application may be on
// its way in. After Settle it is taken as it is.
func (r *run) rest(ctx context.Context) (*arbiterv1.GroupState, error) {
	var last *arbiterv1.GroupState
	since := time.Duration(0)
	for waited := time.Duration(0); ; waited += again {
		call, cancel := context.WithTimeout(ctx, r.target.Timeout)
		list, err := r.api.ListReplicas(call, &arbiterv1.ListReplicasRequest{Group: r.target.Group})
		cancel()
		if err != nil && waited >= r.target.Settle {
			return nil, fmt.Errorf("list the replicas of group %s: %w", r.target.Group, err)
		}
		s := list.GetState()
		if last == nil || s.GetRevision() != last.GetRevision() {
			last, since = s, waited
		}
		if len(s.GetReplicas()) > 0 && waited-since >= steady || waited >= r.target.Settle {
			return s, nil
		}
		if !pause(ctx, again) {
			return nil, fmt.Errorf("wait for group %s to come to rest: %w", r.target.Group, context.Cause(ctx))
		}
	}
}

// declared is how far an arbiter says that it goes.
func declared(caps *arbiterv1.GetCapabilitiesResponse) Level {
	switch {
	case caps.GetLeases() == arbiterv1.LeaseSupport_LEASE_SUPPORT_UNSPECIFIED:
		return Listing
	case !caps.GetHandover():
		return Leasing
	}
	return Handover
}

// cases are those of the level, or those that were asked for.
func (r *run) cases() []Case {
	var out []Case
	for _, x := range cases {
		if x.Level <= r.target.Level && (len(r.target.Only) == 0 || slices.Contains(r.target.Only, x.ID)) {
			out = append(out, x)
		}
	}
	return out
}

// try runs one case, and ends what it has begun.
func (r *run) try(ctx context.Context, x Case) Result {
	result := Result{Case: x, Outcome: Passed}
	if promised := declared(r.caps); x.Level > promised {
		result.Outcome, result.Reason = Skipped, fmt.Sprintf("the arbiter promises %s, not %s", promised, x.Level)
		return result
	}
	c := &check{ctx: ctx, target: r.target, api: r.api, caps: r.caps, name: r.id + "-" + x.ID}
	// The case, then its end, which counts unless something was found before.
	result.take(c.guarded(func() { c.begin(r.idle) })) //nolint:contextcheck // a check carries the context of its case
	if result.Outcome == Passed {
		result.take(c.guarded(func() { x.run(c) }))
	}
	for _, fn := range slices.Backward(c.undo) {
		result.take(c.guarded(fn))
	}
	result.take(c.guarded(c.tidy))
	result.Warnings = c.warnings
	return result
}

// guarded runs a part of a case; nil is no outcome but success.
func (c *check) guarded(part func()) (o *outcome) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case outcome:
			o = &p
		default:
			panic(p)
		}
	}()
	part()
	return nil
}

// take takes the outcome of a part of a case, unless an earlier part has failed.
func (r *Result) take(o *outcome) {
	switch {
	case o == nil || r.Outcome == Failed || r.Outcome == Broken:
	case o.finding != nil:
		r.Outcome, r.Finding, r.Reason = Failed, o.finding, ""
	case o.err != nil:
		r.Outcome, r.Reason = Broken, o.err.Error()
	case r.Outcome == Passed:
		r.Outcome, r.Reason = Skipped, o.skip
	}
}

var errLeftOver = errors.New("the group has a lease that is not of this case")

// begin waits until the group is as it was at first: nothing leased, as many idle.
func (c *check) begin(wasIdle int) {
	for _, x := range c.state().GetReplicas() {
		if x.GetLease() != nil {
			// A case before has failed. Once ends it, twice ends its ban.
			_, _ = c.force(x.GetName()) // seen below
			_, _ = c.force(x.GetName())
		}
	}
	for waited := time.Duration(0); waited < c.target.Settle; waited += again {
		s, n := c.state(), 0
		for _, x := range s.GetReplicas() {
			if idle(x) {
				n++
			}
		}
		if leases(s) == 0 && n >= wasIdle {
			return
		}
		c.wait(again)
	}
	for _, x := range c.last.GetReplicas() {
		if l := x.GetLease(); l != nil {
			c.broken(fmt.Errorf("%w: %s on %s, of holder %s", errLeftOver, l.GetId(), x.GetName(), l.GetHolder()))
		}
	}
}
