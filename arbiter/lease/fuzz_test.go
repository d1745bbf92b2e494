package lease_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/arbiter/lease"
)

// dumb is a second lease table that keeps its leases in a list and does everything the
// long way. It knows only what FuzzTable needs: the judge always says yes.
type dumb struct {
	token   int64
	holders []dumbHolder
	retired []string
	leases  []dumbLease
}

type dumbHolder struct {
	name  string
	term  int64
	token int64
}

type dumbLease struct {
	id, replica, holder, request, instance string
	token                                  int64
	phase                                  lease.Phase
	left                                   time.Duration
}

const dumbTTL = 10 * time.Second

func (d *dumb) holder(name string) *dumbHolder {
	for i := range d.holders {
		if d.holders[i].name == name {
			return &d.holders[i]
		}
	}
	return nil
}

func (d *dumb) at(match func(dumbLease) bool) int { return slices.IndexFunc(d.leases, match) }

func (d *dumb) adopt(name string, term int64) string {
	h := d.holder(name)
	switch {
	case slices.Contains(d.retired, name):
		return "retired"
	case h == nil:
		d.holders = append(d.holders, dumbHolder{name: name})
		h = d.holder(name)
	case term < h.term:
		return "stale"
	case term == h.term:
		d.renewAll(name)
		return fmt.Sprint(h.token)
	}
	d.token++
	h.term, h.token = term, d.token
	for i := range d.leases {
		if d.leases[i].holder == name {
			d.leases[i].token = d.token
		}
	}
	d.renewAll(name)
	return fmt.Sprint(h.token)
}

func (d *dumb) renewAll(holder string) {
	for i := range d.leases {
		if d.leases[i].holder == holder {
			d.leases[i].left = dumbTTL
		}
	}
}

func (d *dumb) acquire(name string, token int64, request, replica string) string {
	h := d.holder(name)
	if h == nil || h.token != token {
		return "stale"
	}
	if i := d.at(func(l dumbLease) bool { return l.replica == replica }); i >= 0 {
		switch l := &d.leases[i]; {
		case l.holder != name:
			return "other"
		case l.phase == lease.Expired:
			return "lost"
		default:
			l.left = dumbTTL
			return l.id
		}
	}
	if d.at(func(l dumbLease) bool { return l.holder == name && l.request == request }) >= 0 {
		return "nothing"
	}
	d.token++
	l := dumbLease{
		id: fmt.Sprintf("e-%d", d.token), replica: replica, holder: name, request: request, instance: "u",
		token: d.token, phase: lease.Leased, left: dumbTTL,
	}
	d.leases = append(d.leases, l)
	return l.id
}

func (d *dumb) retire(name string, token int64) string {
	h := d.holder(name)
	switch {
	case h == nil:
		return "ok"
	case h.token != token:
		return "stale"
	case d.at(func(l dumbLease) bool { return l.holder == name }) >= 0:
		return "leases"
	}
	d.holders = slices.DeleteFunc(d.holders, func(h dumbHolder) bool { return h.name == name })
	d.retired = append(d.retired, name)
	return "ok"
}

// act finds a lease by id and token and does something to it.
func (d *dumb) act(ref lease.Ref, unknown string, f func(i int) string) string {
	i := d.at(func(l dumbLease) bool { return l.id == ref.ID })
	switch {
	case i < 0:
		return unknown
	case d.leases[i].token != ref.Token:
		return "stale"
	}
	return f(i)
}

func (d *dumb) pass(t time.Duration) {
	for i := range d.leases {
		if l := &d.leases[i]; l.phase == lease.Leased {
			if l.left -= t; l.left <= 0 {
				l.phase = lease.Expired
			}
		}
	}
}

func word(r *lease.Refusal) string {
	if r == nil {
		return "ok"
	}
	words := map[lease.Reason]string{lease.StaleToken: "stale", lease.Lost: "lost", lease.LeasedByOther: "other", lease.HolderHasLeases: "leases", lease.HolderRetired: "retired"}
	if w, ok := words[r.Reason]; ok {
		return w
	}
	return fmt.Sprint(r.Reason)
}

// FuzzTable does the same to the table and to dumb and compares every answer and the
// whole state after every step.
func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 3, 0, 4, 0, 5, 0})
	f.Add([]byte{0, 0, 1, 0, 1, 1, 7, 9, 7, 9, 6, 0, 8, 0, 5, 3})
	f.Add([]byte{0, 9, 0, 1, 1, 5, 0, 8, 4, 2, 4, 7, 9, 1, 9, 1, 2, 4})
	f.Fuzz(func(t *testing.T, steps []byte) {
		b, d := newBench(), &dumb{}
		var refs []lease.Ref
		for i := 0; i+1 < len(steps) && i < 400; i += 2 {
			last := b.LastToken
			got, want := both(b, d, &refs, steps[i]%kinds, steps[i+1])
			if got != want {
				t.Fatalf("step %d (%d, %d): %q, and the second implementation says %q", i/2, steps[i]%kinds, steps[i+1], got, want)
			}
			if b.LastToken < last {
				t.Fatalf("step %d: tokens fell from %d to %d", i/2, last, b.LastToken)
			}
			if diff := cmp.Diff(d.state(), stateOf(&b.Table)); diff != "" {
				t.Fatalf("step %d (%d, %d): %s", i/2, steps[i]%kinds, steps[i+1], diff)
			}
		}
	})
}

// kinds is how many kinds of steps both knows.
const kinds = 11

// both does one step; arg chooses holder, replica, lease or time.
//
//nolint:gocognit // one switch over all kinds of steps reads best in one piece
func both(b *bench, d *dumb, refs *[]lease.Ref, kind, arg byte) (got, want string) {
	holder := []string{"g", "h"}[arg%2]
	replica := fmt.Sprintf("web-%d", arg/2%3)
	ref := lease.Ref{ID: "none"}
	if n := len(*refs); n > 0 {
		ref = (*refs)[int(arg)%n]
	}
	switch kind {
	case 0:
		term := int64(arg / 2 % 4)
		token, leases, refusal := b.Adopt(lease.AdoptRequest{Holder: holder, Term: term, Identity: "i"}, false)
		for _, l := range leases {
			b.ages.Renew(l, b.now)
			*refs = append(*refs, lease.Ref{ID: l.ID, Token: l.Token})
		}
		got = fmt.Sprint(token)
		if refusal != nil {
			got = word(refusal)
		}
		return got, d.adopt(holder, term)
	case 1, 2:
		token := b.Holders[holder].Token - int64(arg/128)
		request := fmt.Sprint(arg / 6 % 4)
		a := b.Acquire(lease.AcquireRequest{
			Holder: holder, Token: token, RequestID: request, Max: 1, TTL: dumbTTL,
			Candidates: []lease.Candidate{{Replica: replica, Instance: "u"}},
		}, yes{}, b.now)
		b.ages.Observe(&b.Table, b.now)
		got = "nothing"
		switch {
		case a.Refusal != nil:
			got = word(a.Refusal)
		case len(a.Refused) > 0:
			got = word(a.Refused[0].Refusal)
		case len(a.Leases) > 0:
			got = a.Leases[0].ID
			b.ages.Renew(a.Leases[0], b.now)
			*refs = append(*refs, lease.Ref{ID: a.Leases[0].ID, Token: a.Leases[0].Token})
		}
		return got, d.acquire(holder, token, request, replica)
	case 3:
		l, refusal := b.Renew(ref, &b.ages, b.now)
		if refusal == nil {
			b.ages.Renew(*l, b.now)
		}
		return word(refusal), d.act(ref, "lost", func(i int) string {
			if d.leases[i].phase == lease.Expired {
				return "lost"
			}
			d.leases[i].left = dumbTTL
			return "ok"
		})
	case 4:
		_, refusal := b.Pin(ref, "v", yes{}, &b.ages, b.now)
		b.ages.Observe(&b.Table, b.now)
		return word(refusal), d.act(ref, "lost", func(i int) string {
			if d.leases[i].phase == lease.Expired {
				return "lost"
			}
			d.leases[i].phase, d.leases[i].instance = lease.Pinned, "v"
			return "ok"
		})
	case 5:
		_, refusal := b.Release(ref)
		return word(refusal), d.act(ref, "ok", func(i int) string {
			d.leases = slices.Delete(d.leases, i, i+1)
			return "ok"
		})
	case 6:
		b.ForceRelease(replica)
		i := d.at(func(l dumbLease) bool { return l.replica == replica })
		switch {
		case i >= 0 && d.leases[i].phase == lease.Expired:
			d.leases = slices.Delete(d.leases, i, i+1)
		case i >= 0:
			d.leases[i].phase = lease.Expired
		}
	case 7, 9:
		passed := time.Duration(arg%12) * time.Second
		b.tick(passed)
		d.pass(passed)
	case 8:
		got = fmt.Sprint(b.Fenced(ref.ID))
		i := d.at(func(l dumbLease) bool { return l.id == ref.ID && l.phase == lease.Expired })
		if i >= 0 {
			d.leases = slices.Delete(d.leases, i, i+1)
		}
		return got, fmt.Sprint(i >= 0)
	case 10:
		if arg%8 > 1 {
			break // rarely: it is for ever
		}
		token := b.Holders[holder].Token - int64(arg/128)
		return word(b.Retire(holder, token)), d.retire(holder, token)
	}
	return "", ""
}

// state is what both implementations must agree on.
func (d *dumb) state() []string {
	out := []string{fmt.Sprint("last ", d.token)}
	for _, l := range d.leases {
		out = append(out, fmt.Sprint(l.id, l.replica, l.holder, l.token, l.phase, l.instance))
	}
	slices.Sort(out)
	return out
}

func stateOf(t *lease.Table) []string {
	out := []string{fmt.Sprint("last ", t.LastToken)}
	for _, l := range t.Leases {
		out = append(out, fmt.Sprint(l.ID, l.Replica, l.Holder, l.Token, l.Phase, l.Instance))
	}
	slices.Sort(out)
	return out
}
