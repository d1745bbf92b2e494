package sim

import "time"

// moreIncidents are sentences about what more.go has.
var moreIncidents = []form{
	among("the clock of <host> is <time> ahead", hostForm, func(d *director, w words) error { d.s.setClock(w[0], span(w[1])); return nil }),
	among("the clock of <host> is <time> behind", hostForm, func(d *director, w words) error { d.s.setClock(w[0], -span(w[1])); return nil }),
}

// setClock makes the clock of a host wrong.
func (s *Sim) setClock(host string, skew time.Duration) {
	for _, h := range s.hosts() {
		if h.name == host {
			*h.skew = skew
		}
	}
}
