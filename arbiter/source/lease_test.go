package source_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/source"
)

// election is a Lease of 15 seconds, and who observes it.
type election struct {
	source source.Lease
	lease  coordinationv1.Lease
	now    time.Time
}

func newElection(holder string) *election {
	e := &election{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	e.lease.Name, e.lease.Spec.LeaseDurationSeconds = "db", new(int32(15))
	return e.renew(holder)
}

// renew renews the Lease for a holder, whose clock is an hour late.
func (e *election) renew(holder string) *election {
	e.lease.Spec.HolderIdentity, e.lease.Spec.RenewTime = &holder, &metav1.MicroTime{Time: e.now.Add(-time.Hour)}
	return e
}

func (e *election) pass(d time.Duration) *election {
	e.now = e.now.Add(d)
	return e
}

// see looks at db-0, db-1 and db-2; what it says is "db-0: Working" or why it is not known.
func (e *election) see() map[string]string {
	pods := map[string]*corev1.Pod{}
	for _, name := range []string{"db-0", "db-1", "db-2"} {
		pods[name] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u"}}
	}
	out := map[string]string{}
	for name, o := range e.source.See(&e.lease, pods, e.now) {
		out[name] = string(o.Duty)
		switch {
		case o.Instance != "u":
			out[name] = "of another instance"
		case o.Duty == roster.Unknown:
			out[name] = o.Why
		}
	}
	return out
}

func all(why string) map[string]string {
	return map[string]string{"db-0": why, "db-1": why, "db-2": why}
}

func TestTheHolderOfALeaseWorks(t *testing.T) {
	zeroWorks := map[string]string{"db-0": "Working", "db-1": "Idle", "db-2": "Idle"}
	for name, tt := range map[string]struct {
		do   func() *election
		want map[string]string
	}{
		"one that was not seen to be renewed tells nothing": {
			func() *election { return newElection("db-0") }, all("lease db was not seen to be renewed yet"),
		},
		"the holder works once it was": {
			func() *election {
				e := newElection("db-0")
				e.see()
				return e.pass(2 * time.Second).renew("db-0")
			}, zeroWorks,
		},
		"an identity begins with the pod's name": {
			func() *election {
				e := newElection("db-0_3f2a")
				e.see()
				return e.pass(2 * time.Second).renew("db-0_3f2a")
			}, zeroWorks,
		},
		"it is believed for its duration from the look before, whatever the holder's clock says": {
			func() *election { return renewed().pass(12 * time.Second) }, zeroWorks,
		},
		"and no longer": {
			func() *election { return renewed().pass(13 * time.Second) }, all("lease db was not renewed in time"),
		},
		"one that was released tells nothing": {
			func() *election { return renewed().pass(time.Second).renew("") }, all("nobody holds lease db"),
		},
		"a holder that is no member tells nothing": {
			func() *election { return renewed().pass(time.Second).renew("db-9") }, all(`lease db is held by "db-9", which is no member`),
		},
		"who held it before may not know yet": {
			func() *election { return renewed().pass(time.Second).renew("db-2") },
			map[string]string{"db-0": "it held the lease until just now", "db-1": "Idle", "db-2": "Working"},
		},
		"and does after a whole duration": {
			func() *election {
				e := renewed().pass(time.Second).renew("db-2")
				e.see()
				e.pass(10 * time.Second).see()
				return e.pass(5 * time.Second).renew("db-2")
			}, map[string]string{"db-0": "Idle", "db-1": "Idle", "db-2": "Working"},
		},
		"also when nobody held it in between": {
			func() *election {
				e := renewed().pass(time.Second).renew("")
				e.see()
				return e.pass(time.Second).renew("db-2")
			}, map[string]string{"db-0": "it held the lease until just now", "db-1": "Idle", "db-2": "Working"},
		},
		"without a duration it tells nothing": {
			func() *election {
				e := renewed()
				e.lease.Spec.LeaseDurationSeconds = nil
				return e
			}, all("lease db has no leaseDurationSeconds"),
		},
		"an empty one tells nothing": {
			func() *election {
				return &election{lease: coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "db"}}}
			},
			all("lease db has no leaseDurationSeconds"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.do().see()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// renewed is an election that db-0 has won, as was just seen.
func renewed() *election {
	e := newElection("db-0")
	e.see()
	e.pass(2 * time.Second).renew("db-0").see()
	return e
}
