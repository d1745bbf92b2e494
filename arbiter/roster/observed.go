package roster

import (
	"fmt"
	"time"
)

// Observed is how duty is seen where the application decides who works.
type Observed struct {
	// Workers is how many members work while the application is settled; 0: any number.
	Workers int
	// HandsOver: the application can be asked to move duty.
	HandsOver bool
}

// Sight is what a source of duty says of one member.
type Sight struct {
	// Instance is that of which it was said; empty: nothing was said.
	Instance string
	// Duty that it has; whatever is neither Working nor Idle is Unknown.
	Duty Duty
	// Why says why it is Unknown, for people.
	Why string
	// Until is when the sight is too old to be believed; zero: it does not age.
	Until time.Time
	// Unfit says why it can take over no duty, as that it lags behind; empty: it can.
	Unfit string
}

// Messages of members of an observed roster.
const (
	msgSeenWorking = "it is seen to work"
	msgSeenIdle    = "it is seen to be idle"
	msgUnseen      = "the source says nothing of it"
	msgSeenOther   = "the source has seen an earlier instance"
	msgSeenLongAgo = "it was seen too long ago"
	msgSeenNoPod   = "it has no pod"
)

// observe takes over what was seen. Nobody is Idle while the number of those that work is
// not what the administrator expects: whoever is elected next may be anybody.
//
// Invariant (FuzzStep): Idle only by a sight of the running instance that is not too old,
// and only while Workers members, if that is given, are seen to work.
func (s *step) observe() {
	seen, working := make(map[string]Sight, len(s.r.Members)), 0
	for name := range s.r.Members {
		seen[name] = s.seen(name)
		if seen[name].Duty == Working {
			working++
		}
	}
	s.unsettled = s.in.Config.Observed.unsettled(working)
	for name, mem := range s.r.Members {
		o := seen[name]
		if s.unsettled != "" && o.Duty == Idle {
			o = Sight{Duty: Unknown, Why: s.unsettled}
		}
		// One that is not known any more may still do what it did.
		has := o.Duty == Working || o.Duty == Unknown && mem.Assigned
		if has != mem.Assigned {
			mem.Generation++
		}
		mem.Assigned, mem.Duty, mem.Message = has, o.Duty, o.Why
		s.r.Members[name] = mem
	}
	s.expectHandover()
}

// unsettled says why nobody is idle when so many members work; empty: they are as many as
// there should be.
func (o *Observed) unsettled(working int) string {
	if o.Workers == 0 || working == o.Workers {
		return ""
	}
	return fmt.Sprintf("the application is not settled: %d seen to work, not %d", working, o.Workers)
}

// seen is what may be believed of a member now.
func (s *step) seen(name string) Sight {
	unknown := func(why string) Sight { return Sight{Duty: Unknown, Why: why} }
	p, exists := s.in.Pods[name]
	o := p.Sight
	switch {
	case !exists:
		return unknown(msgSeenNoPod)
	case o.Instance == "":
		return unknown(msgUnseen)
	case o.Instance != p.Instance:
		return unknown(msgSeenOther)
	case !o.Until.IsZero() && !o.Until.After(s.in.Now):
		return unknown(msgSeenLongAgo)
	}
	s.at(o.Until)
	switch o.Duty {
	case Working:
		return Sight{Duty: Working, Why: msgSeenWorking}
	case Idle:
		return Sight{Duty: Idle, Why: msgSeenIdle}
	case Unknown:
	}
	if o.Why == "" {
		return unknown(msgUnseen)
	}
	return unknown(o.Why)
}

// noteObserved notes what an administrator should know of an observed roster.
func (s *step) noteObserved(n *Notes) {
	n.Unsettled = s.unsettled
	for _, name := range sortedNames(s.r.Members) {
		mem := s.r.Members[name]
		switch {
		case mem.Duty == Working && s.in.Leased(name):
			n.Called = append(n.Called, name)
		case mem.Duty == Unknown && len(n.Unknown) == 0:
			n.WhyUnknown = mem.Message
			fallthrough
		case mem.Duty == Unknown:
			n.Unknown = append(n.Unknown, name)
		}
		if mem.Duty == Working {
			n.Working = append(n.Working, name)
		}
		s.noteBanned(n, name, mem, s.in.Pods[name])
	}
	n.Assigned, n.Unheld = len(n.Working), nil
	n.Wanted = max(s.in.Config.Observed.Workers, 0)
}
