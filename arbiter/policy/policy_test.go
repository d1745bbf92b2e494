package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/policy"
)

// group has n ready, idle replicas web-0.. with the instances u0..; change may differ.
func group(floor, maxLeased int, leased []string, change func(map[string]policy.Replica)) (policy.Rules, *lease.Table) {
	r := policy.Rules{Floor: floor, MaxLeased: maxLeased, Replicas: map[string]policy.Replica{
		"web-0": {Instance: "u0", Idle: true, Ready: true},
		"web-1": {Instance: "u1", Idle: true, Ready: true},
		"web-2": {Instance: "u2", Idle: true, Ready: true},
	}}
	if change != nil {
		change(r.Replicas)
	}
	t := (&lease.Table{}).Clone()
	for _, name := range leased {
		t.Leases[name] = lease.Lease{Replica: name}
	}
	return r, &t
}

// set replaces one replica.
func set(name string, r policy.Replica) func(map[string]policy.Replica) {
	return func(m map[string]policy.Replica) { m[name] = r }
}

func reason(r *lease.Refusal) lease.Reason {
	if r == nil {
		return 0
	}
	return r.Reason
}

func TestMayLease(t *testing.T) {
	const granted = lease.Reason(0)
	tests := map[string]struct {
		floor, maxLeased int
		leased           []string
		change           func(map[string]policy.Replica)
		replica          string
		instance         string
		want             lease.Reason
		wantNotServing   bool
	}{
		"an idle replica above the floor is leased":    {floor: 2, maxLeased: 1, replica: "web-0", instance: "u0", want: granted},
		"a replica that the group needs is not leased": {floor: 3, maxLeased: 1, replica: "web-0", instance: "u0", want: lease.BelowFloor},
		"leased replicas do not serve": {
			floor: 2, maxLeased: 2, leased: []string{"web-1"}, replica: "web-0", instance: "u0", want: lease.BelowFloor,
		},
		"unready replicas do not serve": {
			floor: 2, maxLeased: 2, change: set("web-1", policy.Replica{Instance: "u1", Idle: true}),
			replica: "web-0", instance: "u0", want: lease.BelowFloor,
		},
		"quarantined replicas do not serve": {
			floor: 2, maxLeased: 2, change: set("web-1", policy.Replica{Instance: "u1", Idle: true, Ready: true, Quarantined: true}),
			replica: "web-0", instance: "u0", want: lease.BelowFloor,
		},
		"an unready replica is leased even below the floor": {
			floor: 3, maxLeased: 1, change: set("web-0", policy.Replica{Instance: "u0", Idle: true}),
			replica: "web-0", instance: "u0", want: granted, wantNotServing: true,
		},
		"a quarantined replica is leased even below the floor": {
			floor: 3, maxLeased: 1, change: set("web-0", policy.Replica{Instance: "u0", Idle: true, Ready: true, Quarantined: true}),
			replica: "web-0", instance: "u0", want: granted, wantNotServing: true,
		},
		"a working replica is never leased": {
			maxLeased: 1, change: set("web-0", policy.Replica{Instance: "u0", Ready: true}), replica: "web-0", instance: "u0", want: lease.NotIdle,
		},
		"a working replica is not leased even when it is unready": {
			maxLeased: 1, change: set("web-0", policy.Replica{Instance: "u0"}), replica: "web-0", instance: "u0", want: lease.NotIdle,
		},
		"another instance than the one named is not leased": {maxLeased: 1, replica: "web-0", instance: "old", want: lease.InstanceChanged},
		"a replica without a pod is not leased": {
			maxLeased: 1, change: set("web-0", policy.Replica{Idle: true}), replica: "web-0", want: lease.InstanceChanged,
		},
		"an unknown replica is not leased":         {maxLeased: 1, replica: "db-0", instance: "u0", want: lease.UnknownReplica},
		"no more are leased than the group allows": {maxLeased: 1, leased: []string{"web-1"}, replica: "web-0", instance: "u0", want: lease.MaxLeased},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			rules, table := group(tt.floor, tt.maxLeased, tt.leased, tt.change)
			notServing, refusal := rules.MayLease(table, tt.replica, tt.instance)
			if diff := cmp.Diff([]any{tt.want, tt.wantNotServing}, []any{reason(refusal), notServing}); diff != "" {
				t.Errorf("%s\n%+v", diff, refusal)
			}
		})
	}
}

func TestMayPin(t *testing.T) {
	const pinned = lease.Reason(0)
	tests := map[string]struct {
		floor      int
		frozen     bool
		notServing bool
		change     func(map[string]policy.Replica)
		instance   string
		want       lease.Reason
	}{
		"a leased replica is pinned while the others keep the floor": {floor: 2, instance: "u0", want: pinned},
		"a pin is refused when another has failed since the grant": {
			floor: 2, change: set("web-1", policy.Replica{Instance: "u1", Idle: true}), instance: "u0", want: lease.BelowFloor,
		},
		"a closed gate of its own does not excuse a replica from the floor": {
			floor: 3, change: set("web-0", policy.Replica{Instance: "u0", Idle: true}), instance: "u0", want: lease.BelowFloor,
		},
		"a replica that did not serve when it was leased is pinned below the floor": {
			floor: 3, notServing: true, instance: "u0", want: pinned,
		},
		"a pin is refused when duty came back":        {change: set("web-0", policy.Replica{Instance: "u0", Ready: true}), instance: "u0", want: lease.NotIdle},
		"a pin is refused for another instance":       {instance: "old", want: lease.InstanceChanged},
		"nothing is pinned while the group is frozen": {frozen: true, instance: "u0", want: lease.Frozen},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			rules, table := group(tt.floor, 1, []string{"web-0"}, tt.change)
			rules.Frozen = tt.frozen
			refusal := rules.MayPin(table, lease.Lease{Replica: "web-0", NotServing: tt.notServing}, tt.instance)
			if got := reason(refusal); got != tt.want {
				t.Errorf("got %d, want %d: %+v", got, tt.want, refusal)
			}
		})
	}
}

func TestMayGrantRefusesWhileFrozenOrOverdue(t *testing.T) {
	for want, rules := range map[lease.Reason]policy.Rules{
		0: {}, lease.Frozen: {Frozen: true}, lease.OverduePin: {Overdue: "web-1"},
	} {
		if got := reason(rules.MayGrant(nil)); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
}

func TestQuorumIsTheMajority(t *testing.T) {
	got := map[int]int{}
	for voters := 1; voters <= 5; voters++ {
		got[voters] = policy.Quorum(voters)
	}
	if diff := cmp.Diff(map[int]int{1: 1, 2: 2, 3: 2, 4: 3, 5: 3}, got); diff != "" {
		t.Error(diff)
	}
}
