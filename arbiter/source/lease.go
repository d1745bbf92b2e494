package source

import (
	"fmt"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"offduty.dev/arbiter/roster"
)

// Lease sees who works in the holder of a Lease, by the convention of client-go's leader
// election: the identity is the pod's name, or begins with it and "_".
//
// As there, nobody's clock is compared with another's: a lease is valid for its duration from
// the last look at which it was not renewed yet. One that was never seen to be renewed may have
// been left long ago.
type Lease struct {
	mu sync.Mutex
	// holder and renewed are what was seen at the last look, known if there was one; fresh: it
	// was seen to change, which was after since.
	holder  string
	renewed time.Time
	looked  time.Time
	since   time.Time
	known   bool
	fresh   bool
	// former held it before, and may not know yet that it does no more.
	former      string
	formerUntil time.Time
}

// See says of each pod whether it works, by a Lease that was read at now or after.
func (s *Lease) See(l *coordinationv1.Lease, pods map[string]*corev1.Pod, now time.Time) map[string]roster.Sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take(l, now)
	why, until := s.doubt(l, pods, now), s.since.Add(durationOf(l))
	sights := make(map[string]roster.Sight, len(pods))
	for name, p := range pods {
		o := roster.Sight{Instance: string(p.UID), Duty: roster.Idle, Until: until}
		switch {
		case why != "":
			o = roster.Sight{Instance: o.Instance, Duty: roster.Unknown, Why: why}
		case name == s.holder:
			o.Duty = roster.Working
		case name == s.former && s.formerUntil.After(now):
			// Until is when it is to be looked at again: it is idle then.
			o.Duty, o.Why, o.Until = roster.Unknown, "it held the lease until just now", minTime(until, s.formerUntil)
		}
		sights[name] = o
	}
	return sights
}

// take notes what is seen of the Lease.
func (s *Lease) take(l *coordinationv1.Lease, now time.Time) {
	holder, _, _ := strings.Cut(value(l.Spec.HolderIdentity), "_")
	renewed := value(l.Spec.RenewTime).Time
	before := s.looked
	s.looked = now
	if s.known && holder == s.holder && renewed.Equal(s.renewed) {
		return
	}
	if s.known && holder != s.holder && s.holder != "" {
		s.former, s.formerUntil = s.holder, now.Add(durationOf(l))
	}
	s.fresh, s.known = s.known, true
	s.holder, s.renewed, s.since = holder, renewed, before
}

// doubt says why the Lease does not tell who works; empty: it does.
func (s *Lease) doubt(l *coordinationv1.Lease, pods map[string]*corev1.Pod, now time.Time) string {
	_, member := pods[s.holder]
	switch {
	case durationOf(l) <= 0:
		return fmt.Sprintf("lease %s has no leaseDurationSeconds", l.Name)
	case s.holder == "":
		return fmt.Sprintf("nobody holds lease %s", l.Name)
	case !member:
		return fmt.Sprintf("lease %s is held by %q, which is no member", l.Name, s.holder)
	case !s.fresh:
		return fmt.Sprintf("lease %s was not seen to be renewed yet", l.Name)
	case !now.Before(s.since.Add(durationOf(l))):
		return fmt.Sprintf("lease %s was not renewed in time", l.Name)
	}
	return ""
}

func durationOf(l *coordinationv1.Lease) time.Duration {
	return time.Duration(value(l.Spec.LeaseDurationSeconds)) * time.Second
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
