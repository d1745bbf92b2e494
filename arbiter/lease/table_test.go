package lease_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/arbiter/lease"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// yes is a judge that allows everything but what it is told to refuse.
type yes struct {
	grant   *lease.Refusal
	refuse  map[string]*lease.Refusal
	pin     *lease.Refusal
	notServ bool
}

func (y yes) MayGrant(*lease.Table) *lease.Refusal { return y.grant }
func (y yes) MayLease(_ *lease.Table, replica, _ string) (bool, *lease.Refusal) {
	return y.notServ, y.refuse[replica]
}
func (y yes) MayPin(*lease.Table, lease.Lease, string) *lease.Refusal { return y.pin }

// bench is a table with its ages and a clock of its own.
type bench struct {
	lease.Table
	ages  lease.Ages
	now   time.Time
	judge lease.Judge
}

func newBench() *bench {
	t := lease.Table{Epoch: "e"}
	return &bench{Table: t.Clone(), now: start, judge: yes{}}
}

// tick lets time pass and expires what has to.
func (b *bench) tick(d time.Duration) []lease.Lease {
	b.now = b.now.Add(d)
	out := b.Expire(&b.ages, b.now)
	b.ages.Observe(&b.Table, b.now)
	return out
}

func (b *bench) adopt(holder string, term int64) int64 {
	token, _, _ := b.Adopt(lease.AdoptRequest{Holder: holder, Term: term, Identity: "i"}, false)
	b.ages.Observe(&b.Table, b.now)
	return token
}

func (b *bench) acquire(holder string, token int64, request string, maximum int, replicas ...string) lease.Acquired {
	r := lease.AcquireRequest{Holder: holder, Token: token, RequestID: request, Max: maximum, TTL: 30 * time.Second}
	for _, x := range replicas {
		r.Candidates = append(r.Candidates, lease.Candidate{Replica: x, Instance: "uid-" + x})
	}
	out := b.Acquire(r, b.judge, b.now)
	b.ages.Observe(&b.Table, b.now)
	return out
}

func (b *bench) pin(l lease.Lease, instance string) lease.Reason {
	_, refusal := b.Pin(lease.Ref{ID: l.ID, Token: l.Token}, instance, b.judge, &b.ages, b.now)
	b.ages.Observe(&b.Table, b.now)
	return reason(refusal)
}

func (b *bench) renew(l lease.Lease) lease.Reason {
	got, refusal := b.Renew(lease.Ref{ID: l.ID, Token: l.Token}, &b.ages, b.now)
	if refusal == nil {
		b.ages.Renew(*got, b.now)
	}
	return reason(refusal)
}

func (b *bench) release(l lease.Lease) lease.Reason {
	_, refusal := b.Release(lease.Ref{ID: l.ID, Token: l.Token})
	return reason(refusal)
}

// one acquires a lease on web-0 for holder h.
func (b *bench) one() lease.Lease {
	return b.acquire("h", b.adopt("h", 1), "r", 1, "web-0").Leases[0]
}

func reason(r *lease.Refusal) lease.Reason {
	if r == nil {
		return 0
	}
	return r.Reason
}

func (b *bench) phases() map[string]lease.Phase {
	out := map[string]lease.Phase{}
	for name, l := range b.Leases {
		out[name] = l.Phase
	}
	return out
}

func TestTable(t *testing.T) {
	refused := lease.Refuse(lease.NotIdle, "duty", "no")
	tests := map[string]struct {
		do   func(b *bench) any
		want any
	}{
		"a lease is granted to the holder that has adopted": {
			do:   func(b *bench) any { l := b.one(); return []any{l.ID, l.Token, l.Phase, l.Instance} },
			want: []any{"e-2", int64(2), lease.Leased, "uid-web-0"},
		},
		"nothing is granted to a holder that has not adopted": {
			do:   func(b *bench) any { return reason(b.acquire("h", 1, "r", 1, "web-0").Refusal) },
			want: lease.StaleToken,
		},
		"nothing is granted with the token of an earlier adoption": {
			do: func(b *bench) any {
				old := b.adopt("h", 1)
				b.adopt("h", 2)
				return reason(b.acquire("h", old, "r", 1, "web-0").Refusal)
			},
			want: lease.StaleToken,
		},
		"a repeated request gets the same grants and no more": {
			do: func(b *bench) any {
				token := b.adopt("h", 1)
				first := b.acquire("h", token, "r", 1, "web-0", "web-1")
				again := b.acquire("h", token, "r", 1, "web-0", "web-1")
				return []any{cmp.Equal(first.Leases, again.Leases), again.Granted, len(b.Leases)}
			},
			want: []any{true, 0, 1},
		},
		"another request gets what the holder has and new ones beside it": {
			do: func(b *bench) any {
				token := b.adopt("h", 1)
				b.acquire("h", token, "r", 1, "web-0")
				got := b.acquire("h", token, "s", 2, "web-0", "web-1", "web-2")
				return []any{len(got.Leases), got.Granted}
			},
			want: []any{2, 1},
		},
		"what the holder has among the candidates counts, whichever request it was granted to and wherever it stands": {
			do: func(b *bench) any {
				token := b.adopt("h", 1)
				b.acquire("h", token, "granted late", 1, "web-1")
				got := b.acquire("h", token, "s", 1, "web-0", "web-1")
				return []any{got.Leases[0].Replica, len(got.Leases), got.Granted}
			},
			want: []any{"web-1", 1, 0},
		},
		"one that has run out counts until its replica is fenced": {
			do: func(b *bench) any {
				token := b.adopt("h", 1)
				l := b.acquire("h", token, "granted late", 1, "web-1").Leases[0]
				b.tick(time.Minute)
				before := b.acquire("h", token, "s", 1, "web-0", "web-1")
				b.Fenced(l.ID)
				return []any{before.Granted, reason(before.Refused[0].Refusal), b.acquire("h", token, "s", 1, "web-0", "web-1").Granted}
			},
			want: []any{0, lease.Lost, 1},
		},
		"what the holder has elsewhere does not count": {
			do: func(b *bench) any {
				token := b.adopt("h", 1)
				b.acquire("h", token, "r", 1, "web-1")
				return b.acquire("h", token, "s", 1, "web-0").Granted
			},
			want: 1,
		},
		"a refused candidate does not use up the number asked for": {
			do: func(b *bench) any {
				b.judge = yes{refuse: map[string]*lease.Refusal{"web-0": refused}}
				got := b.acquire("h", b.adopt("h", 1), "r", 1, "web-0", "web-1", "web-2")
				return []any{got.Leases[0].Replica, len(got.Leases), got.Refused[0].Replica, len(got.Refused)}
			},
			want: []any{"web-1", 1, "web-0", 1},
		},
		"a replica is leased by one holder at a time": {
			do: func(b *bench) any {
				b.one()
				return b.acquire("g", b.adopt("g", 1), "r", 1, "web-0").Refused[0].Refusal.Reason
			},
			want: lease.LeasedByOther,
		},
		"a replica that another has released is leased": {
			do: func(b *bench) any {
				b.release(b.one())
				return b.acquire("g", b.adopt("g", 1), "r", 1, "web-0").Granted
			},
			want: 1,
		},
		"a frozen group grants nothing new and still names what the holder has": {
			do: func(b *bench) any {
				b.one()
				b.judge = yes{grant: lease.Refuse(lease.Frozen, "frozen", "no")}
				got := b.acquire("h", b.Holders["h"].Token, "s", 2, "web-0", "web-1")
				return []any{reason(got.Refusal), len(got.Leases)}
			},
			want: []any{lease.Frozen, 1},
		},
		"the same term and identity adopt with the same token": {
			do:   func(b *bench) any { return []int64{b.adopt("h", 1), b.adopt("h", 1)} },
			want: []int64{1, 1},
		},
		"an older term cannot adopt": {
			do: func(b *bench) any {
				b.adopt("h", 5)
				_, _, refusal := b.Adopt(lease.AdoptRequest{Holder: "h", Term: 4, Identity: "i"}, false)
				return reason(refusal)
			},
			want: lease.StaleToken,
		},
		"adoption raises the token of every lease, and the old ones are refused": {
			do: func(b *bench) any {
				old := b.one()
				b.adopt("h", 2)
				return []any{b.renew(old), b.pin(old, "uid-web-0"), b.release(old), b.renew(b.Leases["web-0"])}
			},
			want: []any{lease.StaleToken, lease.StaleToken, lease.StaleToken, lease.Reason(0)},
		},
		"adoption leaves the leases of other holders alone": {
			do: func(b *bench) any {
				l := b.one()
				b.adopt("g", 1)
				return b.renew(l)
			},
			want: lease.Reason(0),
		},
		"known leases are ignored while the record is there": {
			do: func(b *bench) any {
				b.Adopt(lease.AdoptRequest{Holder: "h", Term: 1, Known: []lease.Lease{{ID: "x-9", Replica: "web-0", Token: 9}}}, false)
				return []any{len(b.Leases), b.LastToken}
			},
			want: []any{0, int64(1)},
		},
		"known leases are entered while recovering, and tokens go on above theirs": {
			do: func(b *bench) any {
				token, leases, _ := b.Adopt(lease.AdoptRequest{Holder: "h", Term: 1, Known: []lease.Lease{{ID: "x-9", Replica: "web-0", Token: 9}}}, true)
				return []any{token, leases[0].ID, leases[0].Token, leases[0].Phase}
			},
			want: []any{int64(10), "x-9", int64(10), lease.Pinned},
		},
		"a lease that is not renewed expires and stays until it is fenced": {
			do: func(b *bench) any {
				l := b.one()
				b.tick(30 * time.Second)
				before := b.phases()
				return []any{before, b.renew(l), b.pin(l, "uid-web-0"), b.Fenced(l.ID), len(b.Leases)}
			},
			want: []any{map[string]lease.Phase{"web-0": lease.Expired}, lease.Lost, lease.Lost, true, 0},
		},
		"a renewed lease lives for another TTL": {
			do: func(b *bench) any {
				l := b.one()
				b.tick(29 * time.Second)
				b.renew(l)
				b.tick(29 * time.Second)
				return b.phases()
			},
			want: map[string]lease.Phase{"web-0": lease.Leased},
		},
		"a lease that has overrun cannot be renewed even before anybody noticed": {
			do: func(b *bench) any {
				l := b.one()
				b.now = b.now.Add(30 * time.Second)
				return b.renew(l)
			},
			want: lease.Lost,
		},
		"after a restart the TTL begins anew": {
			do: func(b *bench) any {
				b.one()
				b.now = b.now.Add(time.Hour)
				b.ages = lease.Ages{}
				b.ages.Observe(&b.Table, b.now)
				b.tick(29 * time.Second)
				return b.phases()
			},
			want: map[string]lease.Phase{"web-0": lease.Leased},
		},
		"a pinned lease never expires": {
			do: func(b *bench) any {
				b.pin(b.one(), "uid-web-0")
				b.tick(1000 * time.Hour)
				return b.phases()
			},
			want: map[string]lease.Phase{"web-0": lease.Pinned},
		},
		"a refused pin leaves the lease as it was": {
			do: func(b *bench) any {
				l := b.one()
				b.judge = yes{pin: refused}
				return []any{b.pin(l, "uid-web-0"), b.phases()}
			},
			want: []any{lease.NotIdle, map[string]lease.Phase{"web-0": lease.Leased}},
		},
		"a repeated pin succeeds even when a first one would not": {
			do: func(b *bench) any {
				l := b.one()
				b.pin(l, "uid-web-0")
				b.judge = yes{pin: refused}
				return []any{b.pin(l, "uid-web-0"), b.pin(l, "another")}
			},
			want: []any{lease.Reason(0), lease.NotIdle},
		},
		"a pin is overdue after its limit, by this process's clock": {
			do: func(b *bench) any {
				b.pin(b.one(), "uid-web-0")
				b.tick(59 * time.Second)
				young := b.ages.Overdue(b.Leases["web-0"], time.Minute, b.now)
				b.tick(time.Second)
				return []any{young, b.ages.Overdue(b.Leases["web-0"], time.Minute, b.now)}
			},
			want: []any{false, true},
		},
		"releasing twice succeeds": {
			do:   func(b *bench) any { l := b.one(); return []any{b.release(l), b.release(l), len(b.Leases)} },
			want: []any{lease.Reason(0), lease.Reason(0), 0},
		},
		"the holder itself may release an expired lease": {
			do: func(b *bench) any {
				l := b.one()
				b.tick(time.Minute)
				return []any{b.release(l), len(b.Leases)}
			},
			want: []any{lease.Reason(0), 0},
		},
		"fencing does not end a lease that has not expired": {
			do:   func(b *bench) any { return b.Fenced(b.one().ID) },
			want: false,
		},
		"a lease released by force bans duty until it is fenced, and a second time ends it": {
			do: func(b *bench) any {
				l := b.one()
				b.pin(l, "uid-web-0")
				first := b.ForceRelease("web-0").Phase
				banned := b.phases()
				lost := b.renew(l)
				b.ForceRelease("web-0")
				return []any{first, banned, lost, len(b.Leases), b.ForceRelease("web-0") == nil}
			},
			want: []any{lease.Pinned, map[string]lease.Phase{"web-0": lease.Expired}, lease.Lost, 0, true},
		},
		"a holder with leases cannot be retired": {
			do: func(b *bench) any {
				l := b.one()
				token := b.Holders["h"].Token
				first := reason(b.Retire("h", token))
				b.release(l)
				return []any{first, reason(b.Retire("h", token-1)), reason(b.Retire("h", token)), reason(b.Retire("h", token))}
			},
			want: []any{lease.HolderHasLeases, lease.StaleToken, lease.Reason(0), lease.Reason(0)},
		},
		"a holder that was retired never adopts again, be it in a later term": {
			do: func(b *bench) any {
				b.Retire("h", b.adopt("h", 3))
				_, _, older := b.Adopt(lease.AdoptRequest{Holder: "h", Term: 2, Identity: "i"}, false)
				_, _, later := b.Adopt(lease.AdoptRequest{Holder: "h", Term: 4, Identity: "j"}, true)
				return []any{reason(older), reason(later), b.Retired, len(b.Holders)}
			},
			want: []any{lease.HolderRetired, lease.HolderRetired, []lease.Retired{{Holder: "h", Term: 3}}, 0},
		},
		"as many retired holders are remembered as fit, the newest first": {
			do: func(b *bench) any {
				for i := range lease.MaxRetired + 2 {
					h := fmt.Sprint(i)
					b.Retire(h, b.adopt(h, 1))
				}
				return []any{len(b.Retired), b.Retired[0].Holder, b.Retired[lease.MaxRetired-1].Holder}
			},
			want: []any{lease.MaxRetired, fmt.Sprint(lease.MaxRetired + 1), "2"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.do(newBench())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAgesNextIsTheFirstMomentThatMatters(t *testing.T) {
	b := newBench()
	if got := b.ages.Next(&b.Table, time.Minute, b.now); !got.IsZero() {
		t.Errorf("an empty table has nothing to wait for, got %s", got)
	}
	l := b.one()
	if got, want := b.ages.Next(&b.Table, time.Minute, b.now), start.Add(30*time.Second); !got.Equal(want) {
		t.Errorf("a lease overruns at %s, got %s", want, got)
	}
	b.tick(time.Second)
	b.pin(l, "uid-web-0")
	if got, want := b.ages.Next(&b.Table, time.Minute, b.now), start.Add(61*time.Second); !got.Equal(want) {
		t.Errorf("a pin is overdue at %s, got %s", want, got)
	}
}

func TestEveryReasonHasARemedyOfItsOwn(t *testing.T) {
	seen := map[string]lease.Reason{}
	for r := lease.NotIdle; r <= lease.HolderRetired; r++ {
		remedy := r.Remedy()
		if other, ok := seen[remedy]; ok || remedy == "" || remedy == lease.Reason(0).Remedy() {
			t.Errorf("reason %d has the remedy %q, like reason %d", r, remedy, other)
		}
		seen[remedy] = r
	}
}
