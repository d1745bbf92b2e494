package plan

import (
	"testing"
	"time"
)

func TestLeases(t *testing.T) {
	run(t, []test{
		{
			name: "a working replica is never chosen, even when every idle one is refused",
			world: func() *World {
				w := rollout(3)
				w.work(0, 1)
				w.Arbiter.Refused = &Blocker{Reason: WaitingForLease, Message: "below floor", Retry: true}
				w.Arbiter.RefusedFor = []Candidate{{"web-2", "u2"}}
				return w
			},
			reason: WaitingForLease, says: "below floor",
		},
		{
			name: "a replica of unknown duty is never chosen",
			world: func() *World {
				w := rollout(2)
				w.pod(0).Duty, w.pod(1).Duty = Unknown, Unknown
				w.pod(0).Working, w.pod(1).Working = "true", "true"
				return w
			},
			reason: WaitingForDuty, says: "web-0",
		},
		{
			name:  "of the idle ones those that serve nobody go first, then the highest ordinal",
			world: func() *World { w := rollout(4); w.pod(1).Fit = false; w.work(2); return w },
			want:  []string{"acquire 1 of web-1 web-3 web-0"}, reason: AcquiringLeases,
		},
		{
			name: "no more leases are asked for than may be unavailable",
			world: func() *World {
				w := rollout(4)
				w.Policy.MaxUnavailable = 3
				w.pod(0).update().State = StateUpdating
				return w
			},
			want: []string{"acquire 2 of web-3 web-2 web-1"}, reason: Verifying,
		},
		{
			name:   "a used-up budget asks for nothing",
			world:  func() *World { w := rollout(4); w.pod(0).update().State = StateUpdating; return w },
			reason: Verifying,
		},
		{
			name: "two targets share one batch limit",
			world: func() *World {
				w := rollout(2)
				w.addTarget("db", 2)
				w.Policy.MaxUnavailable = 3
				w.pod(0).update().State = StateUpdating
				return w
			},
			want: []string{"acquire 2 of web-1 db-1 db-0"}, reason: Verifying,
		},
		{
			name: "a percentage counts all targets and is rounded down",
			world: func() *World {
				w := rollout(4)
				w.addTarget("db", 3)
				w.Policy.MaxUnavailable, w.Policy.Percent = 30, true
				w.work(0, 1, 2, 3)
				return w
			},
			want: []string{"acquire 2 of db-2 db-1 db-0"}, reason: AcquiringLeases,
		},
		{
			name:  "a percentage is one replica at least",
			world: func() *World { w := rollout(3); w.Policy.MaxUnavailable, w.Policy.Percent = 1, true; return w },
			want:  []string{"acquire 1 of web-2 web-1 web-0"}, reason: AcquiringLeases,
		},
		{
			name:  "a replica that somebody else has leased is left alone",
			world: func() *World { w := rollout(2); w.pod(1).LeasedBy = "other"; return w },
			want:  []string{"acquire 1 of web-0"}, reason: AcquiringLeases,
		},
		{
			name: "a refusal with a time is asked about again then",
			world: func() *World {
				w := rollout(2)
				w.Arbiter.Refused, w.Arbiter.RetryAt = &Blocker{Reason: WaitingForLease, Message: "no"}, now
				w.Arbiter.RefusedFor = []Candidate{{"web-1", "u1"}, {"web-0", "u0"}}
				return w
			},
			want: []string{"acquire 1 of web-1 web-0"}, reason: AcquiringLeases,
		},
		{
			name: "a refusal of other candidates says nothing about these",
			world: func() *World {
				w := rollout(2)
				w.Arbiter.Refused = &Blocker{Reason: WaitingForLease, Message: "another pod runs"}
				w.Arbiter.RefusedFor = []Candidate{{"web-1", "u-before"}, {"web-0", "u0"}}
				return w
			},
			want: []string{"acquire 1 of web-1 web-0"}, reason: AcquiringLeases,
		},
		{
			name:   "a frozen arbiter is not asked",
			world:  func() *World { w := rollout(2); w.Arbiter.Frozen = true; return w },
			reason: ArbiterFrozen,
		},
		{
			name:   "a paused plan asks for nothing",
			world:  func() *World { w := rollout(2); w.Policy.Paused = true; return w },
			reason: Paused, says: "0 of 2",
		},
		{
			name: "a lease on a replica that no target has any more is given back",
			world: func() *World {
				w := rollout(1)
				w.complete()
				w.Arbiter.Orphans = []Lease{{ID: "L9", Replica: "ns/web-9"}}
				return w
			},
			want: []string{"release L9 undone"}, reason: Finishing,
		},
	})
}

func TestAnArbiterThatDoesNotPin(t *testing.T) {
	refused := func(retry bool, left time.Duration) func() *World {
		return func() *World {
			w := rollout(2)
			w.Arbiter.Futile, w.Arbiter.Patience = &Blocker{Reason: PinRefused, Message: "never", Retry: retry}, now.Add(left)
			return w
		}
	}
	run(t, []test{
		{name: "is not asked at once", world: refused(true, time.Second), reason: PinRefused, says: "never"},
		{name: "is asked again in time", world: refused(true, 0), want: []string{"acquire 1 of web-1 web-0"}, reason: PinRefused, says: "never"},
		{name: "stalls the plan in the end, and is asked all the same", world: refused(false, 0), want: []string{"acquire 1 of web-1 web-0"}, reason: PinRefused, stalled: true, says: "never"},
	})
}

func TestAPlanOverAPartOfItsGroupSaysWhoElseCouldWork(t *testing.T) {
	run(t, []test{{
		name: "when all of its own replicas work",
		world: func() *World {
			w := rollout(2)
			w.work(0, 1)
			w.Arbiter.Outside = "ns/db-0"
			return w
		},
		reason: WaitingForDuty, says: "ns/db-0 of the same group is idle, and no target of this plan",
	}})
}

func TestHandover(t *testing.T) {
	// Two upgraded idle replicas, one worker at the old revision.
	world := func(mut func(w *World)) func() *World {
		return func() *World {
			w := rollout(3)
			w.work(0)
			for _, j := range []int{1, 2} {
				w.pod(j).Revision, w.pod(j).Verified = "v2", "v2"
			}
			w.web().Partition = 1
			mut(w)
			return w
		}
	}
	run(t, []test{
		{
			name:  "duty is moved to upgraded replicas when only workers are left",
			world: world(func(*World) {}),
			want:  []string{"handover from web-0 to web-1 web-2"}, reason: WaitingForHandover,
		},
		{
			name:   "with Wait nobody is asked to move",
			world:  world(func(w *World) { w.Policy.RequestHandover = false }),
			reason: WaitingForDuty, says: "web-0",
		},
		{
			name:   "one handover at a time",
			world:  world(func(w *World) { w.Arbiter.HandoverFrom = "web-0" }),
			reason: WaitingForHandover, says: "web-0",
		},
		{
			name: "a refused handover is not repeated",
			world: world(func(w *World) {
				w.Arbiter.HandoverRefused = &Blocker{Reason: HandoverRefused, Message: "named by hand"}
				w.Arbiter.HandoverRefusedFor = Handover{"web-0", []string{"web-1", "web-2"}}
			}),
			reason: HandoverRefused, says: "named by hand",
		},
		{
			name: "a handover that was refused is asked for again when others can take over",
			world: world(func(w *World) {
				w.Arbiter.HandoverRefused = &Blocker{Reason: HandoverRefused, Message: "nobody can"}
				w.Arbiter.HandoverRefusedFor = Handover{"web-0", []string{"web-1"}}
			}),
			want: []string{"handover from web-0 to web-1 web-2"}, reason: WaitingForHandover,
		},
		{
			name:   "nobody is moved when nobody fit could take over",
			world:  world(func(w *World) { w.pod(1).Fit, w.pod(2).Unhealthy = false, true }),
			reason: WaitingForDuty, says: "take over from web-0",
		},
		{
			name:   "nor when whoever could is leased by another plan",
			world:  world(func(w *World) { w.pod(1).LeasedBy, w.pod(2).LeasedBy = "another plan", "another plan" }),
			reason: WaitingForDuty, says: "take over from web-0",
		},
		{
			name:  "nobody is moved while another replica is still on its way",
			world: world(func(w *World) { readmitted(w.pod(2)) }),
			want:  []string{"release L-web-2 upgraded v2"}, reason: Readmitting,
		},
	})
}

func TestDeadline(t *testing.T) {
	run(t, []test{
		{
			name: "a plan that has not moved for too long is stalled and still says for whom it waits",
			world: func() *World {
				w := rollout(1)
				w.work(0)
				w.Policy.RequestHandover, w.LastProgress = false, now.Add(-time.Hour)
				return w
			},
			reason: WaitingForDuty, says: "no progress for 1h0m0s", stalled: true,
		},
		{
			name: "a paused plan is not late",
			world: func() *World {
				w := rollout(1)
				w.Policy.Paused, w.LastProgress = true, now.Add(-time.Hour*2)
				return w
			},
			reason: Paused,
		},
	})
	w := rollout(1)
	w.work(0)
	w.Policy.RequestHandover, w.LastProgress = false, now.Add(-50*time.Minute)
	if d := Next(w, now); d.Recheck != 10*time.Minute {
		t.Errorf("it is looked at again after %s, want 10m, when the deadline passes", d.Recheck)
	}
}

func TestWhatTimeAloneChangesIsLookedAtAgain(t *testing.T) {
	for _, c := range []struct {
		name string
		mut  func(w *World)
	}{
		{"an accepted handover that does not come", func(w *World) { w.Arbiter.HandoverFrom, w.Arbiter.HandoverAgain = "web-0", now.Add(time.Second) }},
		{"a handover that was refused for a time", func(w *World) {
			w.Arbiter.HandoverRefused, w.Arbiter.HandoverAgain = &Blocker{Reason: HandoverRefused, Message: "later"}, now.Add(time.Second)
			w.Arbiter.HandoverRefusedFor = Handover{"web-0", []string{"web-1"}}
		}},
		{"an arbiter that cannot serve the plan, which is deleted", func(w *World) {
			w.Policy.Deleting = true
			w.Arbiter = Arbiter{Blocked: &Blocker{Reason: ArbiterNotSupported, Message: "no pins"}, Again: now.Add(time.Second)}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := rollout(2)
			w.work(0)
			w.pod(1).done()
			c.mut(w)
			if d := Next(w, now); d.Recheck != time.Second {
				t.Errorf("looked at again after %s, want 1s: %+v", d.Recheck, d)
			}
		})
	}
}
