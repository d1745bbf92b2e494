package server

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	arbiterv1 "offduty.dev/proto/offduty/arbiter/v1"
)

// toState writes a view out.
func toState(v *duty.View) *arbiterv1.GroupState {
	s := &arbiterv1.GroupState{
		Group: v.Key, Revision: v.Revision, Epoch: v.Epoch,
		Floor: int32(v.Rules.Floor), MaxLeased: int32(v.Rules.MaxLeased), //nolint:gosec // bounded by the API
		Serving: int32(v.Serving()), //nolint:gosec // at most as many as there are members
		Frozen:  v.Record.Frozen,
		Message: v.Record.Summary.Conditions[0].Message,
	}
	for _, name := range v.Names() {
		s.Replicas = append(s.Replicas, toReplica(v, name))
	}
	return s
}

func toReplica(v *duty.View, name string) *arbiterv1.Replica {
	m, rule := v.Record.Roster.Members[name], v.Rules.Replicas[name]
	r := &arbiterv1.Replica{
		Name: v.Prefix + name, Duty: toDuty(m.Duty), Health: arbiterv1.Health_HEALTH_UNSPECIFIED,
		Instance: rule.Instance, Serving: v.Rules.Serves(&v.Record.Leases, name),
		DutyGeneration: m.Generation, Message: m.Message, Unverified: rule.Quarantined,
	}
	if v.Record.Frozen {
		r.Duty = arbiterv1.Duty_DUTY_UNKNOWN
	}
	if h, ok := v.Health[name]; ok {
		r.Health = toHealth(h)
	}
	if l := v.Lease(name); l != nil {
		r.Lease = toLease(v.Prefix, *l)
		r.Lease.Overdue = v.Overdue[l.ID]
	}
	return r
}

func toDuty(d roster.Duty) arbiterv1.Duty {
	switch d {
	case roster.Working:
		return arbiterv1.Duty_DUTY_WORKING
	case roster.Idle:
		return arbiterv1.Duty_DUTY_IDLE
	case roster.Unknown:
	}
	return arbiterv1.Duty_DUTY_UNKNOWN
}

func toHealth(h roster.Health) arbiterv1.Health {
	switch h {
	case roster.Healthy:
		return arbiterv1.Health_HEALTH_HEALTHY
	case roster.Unhealthy:
		return arbiterv1.Health_HEALTH_UNHEALTHY
	case roster.HealthUnknown:
	}
	return arbiterv1.Health_HEALTH_UNSPECIFIED
}

func fromHealth(h arbiterv1.Health) roster.Health {
	switch h {
	case arbiterv1.Health_HEALTH_HEALTHY:
		return roster.Healthy
	case arbiterv1.Health_HEALTH_UNHEALTHY:
		return roster.Unhealthy
	case arbiterv1.Health_HEALTH_UNSPECIFIED:
	}
	return roster.HealthUnknown
}

// fromDuty reads what a replica says it does; nothing said is Unknown.
func fromDuty(d arbiterv1.Duty) roster.Duty {
	switch d {
	case arbiterv1.Duty_DUTY_WORKING:
		return roster.Working
	case arbiterv1.Duty_DUTY_IDLE:
		return roster.Idle
	case arbiterv1.Duty_DUTY_UNSPECIFIED, arbiterv1.Duty_DUTY_UNKNOWN:
	}
	return roster.Unknown
}

func toLease(prefix string, l lease.Lease) *arbiterv1.Lease {
	return &arbiterv1.Lease{
		Id: l.ID, Replica: prefix + l.Replica, Holder: l.Holder, Token: l.Token, Phase: toPhase(l.Phase),
		Instance: l.Instance, Ttl: durationpb.New(l.TTL), GrantedAt: toTime(l.GrantedAt), PinnedAt: toTime(l.PinnedAt),
	}
}

func toLeases(prefix string, ls []lease.Lease) []*arbiterv1.Lease {
	out := make([]*arbiterv1.Lease, 0, len(ls))
	for _, l := range ls {
		out = append(out, toLease(prefix, l))
	}
	return out
}

func toTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func toPhase(p lease.Phase) arbiterv1.LeasePhase {
	switch p {
	case lease.Leased:
		return arbiterv1.LeasePhase_LEASE_PHASE_LEASED
	case lease.Pinned:
		return arbiterv1.LeasePhase_LEASE_PHASE_PINNED
	case lease.Expired:
		return arbiterv1.LeasePhase_LEASE_PHASE_EXPIRED
	}
	return arbiterv1.LeasePhase_LEASE_PHASE_UNSPECIFIED
}

// fromPhase reads a phase; the table treats what it does not know as pinned.
func fromPhase(p arbiterv1.LeasePhase) lease.Phase {
	switch p {
	case arbiterv1.LeasePhase_LEASE_PHASE_LEASED:
		return lease.Leased
	case arbiterv1.LeasePhase_LEASE_PHASE_EXPIRED:
		return lease.Expired
	case arbiterv1.LeasePhase_LEASE_PHASE_PINNED, arbiterv1.LeasePhase_LEASE_PHASE_UNSPECIFIED:
	}
	return lease.Pinned
}

func toRefusal(r *lease.Refusal) *arbiterv1.Refusal {
	if r == nil {
		return nil
	}
	out := &arbiterv1.Refusal{Reason: toReason(r.Reason), Rule: r.Rule, Message: r.Message}
	if r.RetryAfter > 0 {
		out.RetryAfter = durationpb.New(r.RetryAfter)
	}
	return out
}

func toReason(r lease.Reason) arbiterv1.RefusalReason {
	switch r {
	case lease.NotIdle:
		return arbiterv1.RefusalReason_REFUSAL_REASON_NOT_IDLE
	case lease.BelowFloor:
		return arbiterv1.RefusalReason_REFUSAL_REASON_FLOOR
	case lease.MaxLeased:
		return arbiterv1.RefusalReason_REFUSAL_REASON_MAX_LEASED
	case lease.LeasedByOther:
		return arbiterv1.RefusalReason_REFUSAL_REASON_LEASED_BY_OTHER
	case lease.StaleToken:
		return arbiterv1.RefusalReason_REFUSAL_REASON_STALE_TOKEN
	case lease.Lost:
		return arbiterv1.RefusalReason_REFUSAL_REASON_LEASE_LOST
	case lease.InstanceChanged:
		return arbiterv1.RefusalReason_REFUSAL_REASON_INSTANCE_CHANGED
	case lease.Frozen:
		return arbiterv1.RefusalReason_REFUSAL_REASON_FROZEN
	case lease.OverduePin:
		return arbiterv1.RefusalReason_REFUSAL_REASON_OVERDUE_PIN
	case lease.UnknownReplica:
		return arbiterv1.RefusalReason_REFUSAL_REASON_UNKNOWN_REPLICA
	case lease.NoSuccessor:
		return arbiterv1.RefusalReason_REFUSAL_REASON_NO_SUCCESSOR
	case lease.DutyIsNamed:
		return arbiterv1.RefusalReason_REFUSAL_REASON_DUTY_IS_NAMED
	case lease.HolderHasLeases:
		return arbiterv1.RefusalReason_REFUSAL_REASON_HOLDER_HAS_LEASES
	case lease.HolderRetired:
		return arbiterv1.RefusalReason_REFUSAL_REASON_HOLDER_RETIRED
	case lease.FreezeWindow:
		return arbiterv1.RefusalReason_REFUSAL_REASON_FREEZE_WINDOW
	case lease.Spread:
		return arbiterv1.RefusalReason_REFUSAL_REASON_SPREAD
	}
	return arbiterv1.RefusalReason_REFUSAL_REASON_UNSPECIFIED
}
