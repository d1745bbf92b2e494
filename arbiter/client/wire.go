package client

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// This file is the only place where the wire and our types meet.

func dutyOf(d arbiterv1.Duty) Duty {
	switch d {
	case arbiterv1.Duty_DUTY_WORKING:
		return DutyWorking
	case arbiterv1.Duty_DUTY_IDLE:
		return DutyIdle
	case arbiterv1.Duty_DUTY_UNSPECIFIED, arbiterv1.Duty_DUTY_UNKNOWN:
	}
	return DutyUnknown
}

func healthOf(h arbiterv1.Health) Health {
	switch h {
	case arbiterv1.Health_HEALTH_HEALTHY:
		return Healthy
	case arbiterv1.Health_HEALTH_UNHEALTHY:
		return Unhealthy
	case arbiterv1.Health_HEALTH_UNSPECIFIED:
	}
	return HealthUnknown
}

func phaseOf(p arbiterv1.LeasePhase) Phase {
	switch p {
	case arbiterv1.LeasePhase_LEASE_PHASE_LEASED:
		return PhaseLeased
	case arbiterv1.LeasePhase_LEASE_PHASE_PINNED:
		return PhasePinned
	case arbiterv1.LeasePhase_LEASE_PHASE_EXPIRED:
		return PhaseExpired
	case arbiterv1.LeasePhase_LEASE_PHASE_UNSPECIFIED:
	}
	return PhaseUnknown
}

func wirePhase(p Phase) arbiterv1.LeasePhase {
	switch p {
	case PhaseLeased:
		return arbiterv1.LeasePhase_LEASE_PHASE_LEASED
	case PhasePinned:
		return arbiterv1.LeasePhase_LEASE_PHASE_PINNED
	case PhaseExpired:
		return arbiterv1.LeasePhase_LEASE_PHASE_EXPIRED
	case PhaseUnknown:
	}
	return arbiterv1.LeasePhase_LEASE_PHASE_UNSPECIFIED
}

func wireOutcome(o Outcome) arbiterv1.LeaseOutcome {
	switch o {
	case Upgraded:
		return arbiterv1.LeaseOutcome_LEASE_OUTCOME_UPGRADED
	case Undone:
		return arbiterv1.LeaseOutcome_LEASE_OUTCOME_UNDONE
	}
	return arbiterv1.LeaseOutcome_LEASE_OUTCOME_UNSPECIFIED
}

func supportOf(s arbiterv1.LeaseSupport) LeaseSupport {
	switch s {
	case arbiterv1.LeaseSupport_LEASE_SUPPORT_TTL:
		return LeasesTTL
	case arbiterv1.LeaseSupport_LEASE_SUPPORT_PINNED:
		return LeasesPinned
	case arbiterv1.LeaseSupport_LEASE_SUPPORT_UNSPECIFIED:
	}
	return NoLeases
}

func reasonOf(r arbiterv1.RefusalReason) RefusalReason {
	switch r {
	case arbiterv1.RefusalReason_REFUSAL_REASON_NOT_IDLE:
		return ReasonNotIdle
	case arbiterv1.RefusalReason_REFUSAL_REASON_FLOOR:
		return ReasonFloor
	case arbiterv1.RefusalReason_REFUSAL_REASON_MAX_LEASED:
		return ReasonMaxLeased
	case arbiterv1.RefusalReason_REFUSAL_REASON_LEASED_BY_OTHER:
		return ReasonLeasedByOther
	case arbiterv1.RefusalReason_REFUSAL_REASON_STALE_TOKEN:
		return ReasonStaleToken
	case arbiterv1.RefusalReason_REFUSAL_REASON_LEASE_LOST:
		return ReasonLeaseLost
	case arbiterv1.RefusalReason_REFUSAL_REASON_INSTANCE_CHANGED:
		return ReasonInstanceChanged
	case arbiterv1.RefusalReason_REFUSAL_REASON_FROZEN:
		return ReasonFrozen
	case arbiterv1.RefusalReason_REFUSAL_REASON_OVERDUE_PIN:
		return ReasonOverduePin
	case arbiterv1.RefusalReason_REFUSAL_REASON_UNKNOWN_REPLICA:
		return ReasonUnknownReplica
	case arbiterv1.RefusalReason_REFUSAL_REASON_NO_SUCCESSOR:
		return ReasonNoSuccessor
	case arbiterv1.RefusalReason_REFUSAL_REASON_DUTY_IS_NAMED:
		return ReasonDutyIsNamed
	case arbiterv1.RefusalReason_REFUSAL_REASON_HOLDER_HAS_LEASES:
		return ReasonHolderHasLeases
	case arbiterv1.RefusalReason_REFUSAL_REASON_HOLDER_RETIRED:
		return ReasonHolderRetired
	case arbiterv1.RefusalReason_REFUSAL_REASON_FREEZE_WINDOW:
		return ReasonFreezeWindow
	case arbiterv1.RefusalReason_REFUSAL_REASON_SPREAD:
		return ReasonSpread
	case arbiterv1.RefusalReason_REFUSAL_REASON_UNSPECIFIED:
	}
	return ReasonUnknown
}

// refusalOf returns nil for nil.
func refusalOf(r *arbiterv1.Refusal) *Refusal {
	if r == nil {
		return nil
	}
	return &Refusal{
		Reason:     reasonOf(r.GetReason()),
		Rule:       r.GetRule(),
		Message:    r.GetMessage(),
		RetryAfter: max(0, r.GetRetryAfter().AsDuration()),
	}
}

// leaseOf refuses a lease that could not be named in a later call.
func leaseOf(l *arbiterv1.Lease) (Lease, error) {
	if l.GetId() == "" || l.GetReplica() == "" || l.GetToken() <= 0 {
		return Lease{}, fmt.Errorf("a lease needs id, replica and a token above 0, not %q, %q and %d",
			l.GetId(), l.GetReplica(), l.GetToken())
	}
	return Lease{
		ID:       l.GetId(),
		Replica:  l.GetReplica(),
		Holder:   l.GetHolder(),
		Token:    l.GetToken(),
		Phase:    phaseOf(l.GetPhase()),
		Instance: l.GetInstance(),
		TTL:      max(0, l.GetTtl().AsDuration()),
		Overdue:  l.GetOverdue(),
	}, nil
}

// leasesOf also refuses leases of another holder.
func leasesOf(wire []*arbiterv1.Lease, holder string) ([]Lease, error) {
	leases := make([]Lease, 0, len(wire))
	for _, w := range wire {
		l, err := leaseOf(w)
		if err != nil {
			return nil, err
		}
		if l.Holder != holder {
			return nil, fmt.Errorf("the lease %s on %s belongs to %q, not to %q", l.ID, l.Replica, l.Holder, holder)
		}
		leases = append(leases, l)
	}
	return leases, nil
}

func wireLease(l Lease) *arbiterv1.Lease {
	return &arbiterv1.Lease{
		Id:       l.ID,
		Replica:  l.Replica,
		Holder:   l.Holder,
		Token:    l.Token,
		Phase:    wirePhase(l.Phase),
		Instance: l.Instance,
		Ttl:      durationpb.New(l.TTL),
	}
}

func wireRef(r LeaseRef) *arbiterv1.LeaseRef {
	return &arbiterv1.LeaseRef{Id: r.ID, Token: r.Token}
}

// stateOf refuses a state of another group, and one in which a name occurs twice: its
// replica could be both working and idle.
func stateOf(s *arbiterv1.GroupState, group string) (GroupState, error) {
	if s.GetGroup() != group {
		return GroupState{}, fmt.Errorf("the state is of group %q, not of %q", s.GetGroup(), group)
	}
	state := GroupState{
		Group:     s.GetGroup(),
		Revision:  s.GetRevision(),
		Epoch:     s.GetEpoch(),
		Replicas:  make([]Replica, 0, len(s.GetReplicas())),
		Floor:     int(s.GetFloor()),
		Serving:   int(s.GetServing()),
		MaxLeased: int(s.GetMaxLeased()),
		Frozen:    s.GetFrozen(),
		Message:   s.GetMessage(),
	}
	seen := make(map[string]struct{}, len(s.GetReplicas()))
	for _, w := range s.GetReplicas() {
		if _, twice := seen[w.GetName()]; twice || w.GetName() == "" {
			return GroupState{}, fmt.Errorf("replica names must be set and unique, %q is not", w.GetName())
		}
		seen[w.GetName()] = struct{}{}
		r, err := replicaOf(w)
		if err != nil {
			return GroupState{}, fmt.Errorf("replica %s: %w", w.GetName(), err)
		}
		state.Replicas = append(state.Replicas, r)
	}
	return state, nil
}

func replicaOf(w *arbiterv1.Replica) (Replica, error) {
	r := Replica{
		Name:       w.GetName(),
		Duty:       dutyOf(w.GetDuty()),
		Health:     healthOf(w.GetHealth()),
		Instance:   w.GetInstance(),
		Serving:    w.GetServing(),
		Generation: w.GetDutyGeneration(),
		Message:    w.GetMessage(),
		Unverified: w.GetUnverified(),
	}
	if w.GetLease() == nil {
		return r, nil
	}
	l, err := leaseOf(w.GetLease())
	if err != nil {
		return Replica{}, err
	}
	if l.Replica != r.Name {
		return Replica{}, fmt.Errorf("its lease %s is on %s", l.ID, l.Replica)
	}
	r.Lease = &l
	return r, nil
}

func wireAcquire(r AcquireRequest) *arbiterv1.AcquireLeasesRequest {
	candidates := make([]*arbiterv1.Candidate, 0, len(r.Candidates))
	for _, c := range r.Candidates {
		candidates = append(candidates, &arbiterv1.Candidate{Replica: c.Replica, Instance: c.Instance})
	}
	return &arbiterv1.AcquireLeasesRequest{
		Group:      r.Group,
		Holder:     r.Holder,
		Token:      r.Token,
		RequestId:  r.RequestID,
		Candidates: candidates,
		Max:        int32(min(max(r.Max, 0), math.MaxInt32)),
		Ttl:        durationpb.New(r.TTL),
	}
}

// lifetimeOf returns how long an attendance answer lasts; one below a second or not
// given at all lasts no time, since nothing can be built on it.
func lifetimeOf(r *arbiterv1.AttendResponse) time.Duration {
	if d := r.GetLifetime().AsDuration(); d >= time.Second {
		return d
	}
	return 0
}
