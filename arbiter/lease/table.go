// Package lease is the lease table of one group: who may act on which replica name,
// proved by fencing tokens. It is pure: no I/O, no clock, standard library only.
package lease

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Phase is how far a lease has come.
type Phase string

const (
	// Leased ends by release, or expires when its TTL passes without renewal.
	Leased Phase = "Leased"
	// Pinned ends by release or by force alone; no time ends it.
	Pinned Phase = "Pinned"
	// Expired still bans duty until the replica has been fenced. It can be neither
	// renewed nor pinned.
	Expired Phase = "Expired"
)

// Lease is the promise that a replica's name gets no duty.
type Lease struct {
	// ID is never used again: the table's epoch and the token of the grant.
	ID      string
	Replica string
	Holder  string
	// Token fences late callers. It only ever grows: at the grant and at each adoption.
	Token int64
	Phase Phase
	// Instance is the pod UID of the grant or, once pinned, of the pin.
	Instance  string
	RequestID string
	// TTL is in whole seconds.
	TTL time.Duration
	// NotServing: the replica did not serve when it was leased, so that the floor did
	// not count it then and need not count it at the pin.
	NotServing bool
	// GrantedAt and PinnedAt are wall-clock times for people. No rule compares them.
	GrantedAt time.Time
	PinnedAt  time.Time
}

// Holder is the fence of one holder.
type Holder struct {
	// Term is the leadership term of the last adopter. It never goes back.
	Term     int64
	Identity string
	// Token proves the right to acquire for the holder. Adoption raises it.
	Token int64
}

// Retired is a holder that has gone: a plan's UID, which never comes back.
type Retired struct {
	Holder string
	// Term in which it was retired, for people.
	Term int64
}

// MaxRetired is how many retired holders a table remembers. An upgrader that was frozen for
// longer than it takes to retire that many in its group could adopt for one that is gone.
const MaxRetired = 32

// MaxToken is above any token that a table can come to by counting.
const MaxToken = 1 << 53

// Table is what is recorded. Time is not part of it: see Ages.
//
// Invariants (FuzzTable): at most one lease per replica; LastToken is at least every
// token in the table and never falls; ids are unique for ever within an epoch; a lease
// leaves the phase Pinned only by Release or ForceRelease.
type Table struct {
	// Epoch changes when the record is begun anew. It is part of every lease id.
	Epoch string
	// LastToken is the highest token ever given out, or heard of after a loss.
	LastToken int64
	// Holders by name.
	Holders map[string]Holder
	// Leases by replica.
	Leases map[string]Lease
	// Retired holders, newest first, at most MaxRetired. None of them can adopt: that would
	// be an upgrader that was frozen while its plan went, and nobody would ever retire it
	// again. The slice is replaced, never changed.
	Retired []Retired
}

// Clone returns a table that shares nothing with t.
func (t *Table) Clone() Table {
	c := *t
	c.Holders, c.Leases = maps.Clone(t.Holders), maps.Clone(t.Leases)
	if c.Holders == nil {
		c.Holders = map[string]Holder{}
	}
	if c.Leases == nil {
		c.Leases = map[string]Lease{}
	}
	return c
}

// Ref names a lease and proves the right to act on it.
type Ref struct {
	ID    string
	Token int64
}

// Judge decides what the table cannot know: duty, floor, instances, limits. It sees the
// table as it is at that moment, earlier grants of the same request included.
type Judge interface {
	// MayGrant refuses the whole request when no replica at all may be leased now.
	MayGrant(t *Table) *Refusal
	// MayLease refuses one candidate. notServing tells that the floor does not count it.
	MayLease(t *Table, replica, instance string) (notServing bool, refusal *Refusal)
	// MayPin refuses the pin of l on instance.
	MayPin(t *Table, l Lease, instance string) *Refusal
}

// AdoptRequest makes its caller the only one who acts for Holder.
type AdoptRequest struct {
	Holder   string
	Term     int64
	Identity string
	// Known are leases found on replicas. They are entered only while the table is
	// being recovered, and only for replicas that have no lease.
	Known []Lease
}

// Adopt raises the tokens of the holder and of all its leases. The same term and
// identity again changes nothing and returns the same token. An older term is refused, and
// so is a holder that was retired.
func (t *Table) Adopt(r AdoptRequest, recovering bool) (token int64, leases []Lease, refusal *Refusal) {
	h, known := t.Holders[r.Holder]
	if known && r.Term < h.Term {
		return 0, nil, Refuse(StaleToken, fmt.Sprintf("term: %d of %q is recorded", h.Term, h.Identity),
			"%q in term %d may not act for holder %s", r.Identity, r.Term, r.Holder)
	}
	if i := slices.IndexFunc(t.Retired, func(x Retired) bool { return x.Holder == r.Holder }); i >= 0 {
		return 0, nil, Refuse(HolderRetired, fmt.Sprintf("retired: in term %d", t.Retired[i].Term),
			"%q in term %d may not adopt for holder %s, which has gone", r.Identity, r.Term, r.Holder)
	}
	entered := recovering && t.enter(r)
	if !known || r.Term != h.Term || r.Identity != h.Identity || entered {
		t.LastToken++
		h = Holder{Term: r.Term, Identity: r.Identity, Token: t.LastToken}
		t.Holders[r.Holder] = h
		for replica, l := range t.Leases {
			if l.Holder == r.Holder {
				l.Token = h.Token
				t.Leases[replica] = l
			}
		}
	}
	return h.Token, t.Of(r.Holder), nil
}

// enter takes over leases that a lost record had, and says whether there were any new ones.
// One whose phase is not known is pinned: that is the phase which no time ends.
func (t *Table) enter(r AdoptRequest) bool {
	entered := false
	for _, l := range r.Known {
		if l.Token > MaxToken {
			continue // nobody gave it: it stood in an annotation that anybody may have written
		}
		t.LastToken = max(t.LastToken, l.Token)
		if _, taken := t.Leases[l.Replica]; taken || l.ID == "" || t.byID(l.ID) != nil {
			continue
		}
		l.Holder = r.Holder
		if l.Phase != Leased && l.Phase != Expired || l.TTL <= 0 {
			l.Phase = Pinned
		}
		t.Leases[l.Replica] = l
		entered = true
	}
	return entered
}

// Void is a token that voids no lease of t and, where t was begun anew after a loss, every
// lease of before: t knows only what was adopted since, and adopting gives higher tokens.
func (t *Table) Void() int64 {
	void := t.LastToken
	for _, h := range t.Holders {
		void = min(void, h.Token-1)
	}
	for _, l := range t.Leases {
		void = min(void, l.Token-1)
	}
	return void
}

// Candidate is a replica on which a lease is wanted, with the instance the caller sees.
type Candidate struct {
	Replica  string
	Instance string
}

// AcquireRequest asks for leases on up to Max of Candidates, in their order. Those that the
// holder has already count.
type AcquireRequest struct {
	Holder     string
	Token      int64
	RequestID  string
	Candidates []Candidate
	Max        int
	TTL        time.Duration
}

// CandidateRefusal is the refusal of one candidate.
type CandidateRefusal struct {
	Replica string
	Refusal *Refusal
}

// Acquired is the answer to an AcquireRequest.
type Acquired struct {
	// Leases that the holder now has among the candidates, in their order.
	Leases []Lease
	// Granted says how many of them are new.
	Granted int
	// Refused candidates. Those beyond Max are in neither list.
	Refused []CandidateRefusal
	// Refusal of all new grants.
	Refusal *Refusal
}

// Acquire grants leases. A candidate that the holder has already is returned as it is, and
// counts against Max, whichever request it was granted to: one that came late may have been
// granted after its caller had asked anew. So do grants elsewhere that an earlier request
// with the same RequestID made, and that still last: a repeated request gets no more than
// the first.
func (t *Table) Acquire(r AcquireRequest, judge Judge, now time.Time) Acquired {
	if refusal := t.checkHolder(r.Holder, r.Token); refusal != nil {
		return Acquired{Refusal: refusal}
	}
	var out Acquired
	left := r.Max - t.countOf(r)
	for _, c := range r.Candidates {
		if l, ok := t.Leases[c.Replica]; ok {
			out.addExisting(l, r.Holder)
			continue
		}
		if left <= 0 || out.Refusal != nil {
			continue
		}
		if out.Refusal = judge.MayGrant(t); out.Refusal != nil {
			continue
		}
		notServing, refusal := judge.MayLease(t, c.Replica, c.Instance)
		if refusal != nil {
			out.Refused = append(out.Refused, CandidateRefusal{Replica: c.Replica, Refusal: refusal})
			continue
		}
		out.Leases = append(out.Leases, t.grant(r, c, notServing, now))
		out.Granted++
		left--
	}
	return out
}

// countOf is how many leases that there are count against the Max of a request.
func (t *Table) countOf(r AcquireRequest) int {
	n := 0
	for _, l := range t.Leases {
		if l.Holder == r.Holder && l.RequestID == r.RequestID {
			n++
		}
	}
	for _, c := range r.Candidates {
		if l, ok := t.Leases[c.Replica]; ok && l.Holder == r.Holder && l.RequestID != r.RequestID {
			n++
		}
	}
	return n
}

// addExisting sorts a candidate that is leased already into the answer.
func (a *Acquired) addExisting(l Lease, holder string) {
	switch {
	case l.Holder != holder:
		a.Refused = append(a.Refused, CandidateRefusal{Replica: l.Replica, Refusal: Refuse(LeasedByOther,
			"one lease per replica: "+l.ID, "%s is leased by holder %s", l.Replica, l.Holder)})
	case l.Phase == Expired:
		a.Refused = append(a.Refused, CandidateRefusal{Replica: l.Replica, Refusal: expired(l)})
	default:
		a.Leases = append(a.Leases, l)
	}
}

func (t *Table) grant(r AcquireRequest, c Candidate, notServing bool, now time.Time) Lease {
	t.LastToken++
	l := Lease{
		ID:      fmt.Sprintf("%s-%d", t.Epoch, t.LastToken),
		Replica: c.Replica, Holder: r.Holder, Token: t.LastToken, Phase: Leased,
		Instance: c.Instance, RequestID: r.RequestID, TTL: r.TTL, NotServing: notServing,
		GrantedAt: now,
	}
	t.Leases[c.Replica] = l
	return l
}

// Renew says whether the lease may live on; the caller then sets its age with Ages.Renew.
func (t *Table) Renew(ref Ref, ages *Ages, now time.Time) (*Lease, *Refusal) {
	l, refusal := t.find(ref)
	switch {
	case refusal != nil:
		return nil, refusal
	case l == nil:
		return nil, lost(ref.ID)
	case l.Phase == Expired || ages.Overran(*l, now):
		return nil, expired(*l)
	}
	return l, nil
}

// Pin turns a lease into one that never expires, for instance. Repeating a pin succeeds.
// A refused pin leaves the lease as it was.
func (t *Table) Pin(ref Ref, instance string, judge Judge, ages *Ages, now time.Time) (*Lease, *Refusal) {
	l, refusal := t.find(ref)
	switch {
	case refusal != nil:
		return nil, refusal
	case l == nil:
		return nil, lost(ref.ID)
	case l.Phase == Expired || ages.Overran(*l, now):
		return nil, expired(*l)
	case l.Phase == Pinned && l.Instance == instance:
		return l, nil
	}
	if refusal := judge.MayPin(t, *l, instance); refusal != nil {
		return nil, refusal
	}
	if l.Phase != Pinned {
		l.PinnedAt = now
	}
	l.Phase, l.Instance = Pinned, instance
	t.Leases[l.Replica] = *l
	return l, nil
}

// Release ends a lease in any phase: its holder says that nothing is under way any more.
// It returns the lease that was ended, nil when there was none, which is a success too.
func (t *Table) Release(ref Ref) (*Lease, *Refusal) {
	l, refusal := t.find(ref)
	if l != nil {
		delete(t.Leases, l.Replica)
	}
	return l, refusal
}

// Retire ends a holder that has no leases, for ever. An unknown holder is a success.
func (t *Table) Retire(holder string, token int64) *Refusal {
	h, ok := t.Holders[holder]
	if !ok {
		return nil
	}
	if refusal := t.checkHolder(holder, token); refusal != nil {
		return refusal
	}
	if n := len(t.Of(holder)); n > 0 {
		return Refuse(HolderHasLeases, fmt.Sprintf("leases: %d", n), "holder %s cannot be retired", holder)
	}
	delete(t.Holders, holder)
	t.Retired = append([]Retired{{Holder: holder, Term: h.Term}}, t.Retired[:min(len(t.Retired), MaxRetired-1)]...)
	return nil
}

// ForceRelease ends the lease on a replica whatever its token. A lease or pin becomes
// Expired, so that duty is still banned until the replica has been fenced; one that is
// Expired already ends at once. It returns the lease as it was, nil when there is none.
func (t *Table) ForceRelease(replica string) *Lease {
	l, ok := t.Leases[replica]
	if !ok {
		return nil
	}
	was := l
	if l.Phase == Expired {
		delete(t.Leases, replica)
		return &was
	}
	l.Phase = Expired
	t.Leases[replica] = l
	return &was
}

// Expire moves every lease whose TTL has passed to Expired and returns these.
func (t *Table) Expire(ages *Ages, now time.Time) []Lease {
	var out []Lease
	for replica, l := range t.Leases {
		if ages.Overran(l, now) {
			l.Phase = Expired
			t.Leases[replica] = l
			out = append(out, l)
		}
	}
	sortLeases(out)
	return out
}

// Fenced ends an expired lease whose replica has been fenced. Any other is left alone.
func (t *Table) Fenced(id string) bool {
	l := t.byID(id)
	if l == nil || l.Phase != Expired {
		return false
	}
	delete(t.Leases, l.Replica)
	return true
}

// Of returns the leases of a holder, by replica.
func (t *Table) Of(holder string) []Lease {
	var out []Lease
	for _, l := range t.Leases {
		if l.Holder == holder {
			out = append(out, l)
		}
	}
	sortLeases(out)
	return out
}

// CheckHolder refuses a caller who does not carry the holder's current token.
func (t *Table) CheckHolder(holder string, token int64) *Refusal { return t.checkHolder(holder, token) }

func (t *Table) checkHolder(holder string, token int64) *Refusal {
	h, ok := t.Holders[holder]
	if !ok {
		return Refuse(StaleToken, "token: none is recorded", "holder %s has not adopted", holder)
	}
	if token != h.Token {
		return Refuse(StaleToken, fmt.Sprintf("token: %d is recorded, %d was sent", h.Token, token),
			"somebody else acts for holder %s", holder)
	}
	return nil
}

// find returns a copy of the lease, nil when there is none, or the refusal of a token
// that is not the recorded one.
func (t *Table) find(ref Ref) (*Lease, *Refusal) {
	l := t.byID(ref.ID)
	if l == nil {
		return nil, nil
	}
	if ref.Token != l.Token {
		return nil, Refuse(StaleToken, fmt.Sprintf("token: %d is recorded, %d was sent", l.Token, ref.Token),
			"lease %s on %s was adopted by another", l.ID, l.Replica)
	}
	return l, nil
}

func (t *Table) byID(id string) *Lease {
	for _, l := range t.Leases {
		if l.ID == id {
			return &l
		}
	}
	return nil
}

func lost(id string) *Refusal {
	return Refuse(Lost, "lease: not recorded", "lease %s is gone", id)
}

func expired(l Lease) *Refusal {
	return Refuse(Lost, fmt.Sprintf("ttl: %s without renewal, or released by force", l.TTL),
		"lease %s on %s has ended", l.ID, l.Replica)
}

func sortLeases(ls []Lease) {
	slices.SortFunc(ls, func(a, b Lease) int {
		switch {
		case a.Replica < b.Replica:
			return -1
		case a.Replica > b.Replica:
			return 1
		}
		return 0
	})
}
