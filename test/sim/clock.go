package sim

import (
	"time"
	"unsafe"
)

// clocks are how far the clocks of the hosts are ahead of the time that passes, which nobody
// can read; below 0: behind. Each upgrader has one of its own. Applications count their time
// on duty by what passes, as the client does for them (arbiter/client, AttendantConfig.Now).
type clocks struct {
	arbiter, api, kruise, nodes time.Duration
}

// furthest is how many seconds a clock goes wrong at most, either way.
const furthest = 90

// wrong is how far some clock is ahead.
func (s *Sim) wrong() time.Duration {
	if !s.cfg.Clocks || !s.chaos {
		return 0
	}
	v := s.rnd.IntN(2*furthest + 1) // 0 is right
	if v%2 == 0 {
		return -time.Duration(v/2) * time.Second
	}
	return time.Duration(v/2+1) * time.Second
}

// misset sets the clocks wrongly, each by itself. Those of upgraders and the arbiter are set
// when such a process begins.
func (s *Sim) misset() {
	s.clocks.api, s.clocks.kruise, s.clocks.nodes = s.wrong(), s.wrong(), s.wrong()
}

// host is one with a clock of its own.
type host struct {
	name string
	skew *time.Duration
}

func (s *Sim) hosts() []host {
	return []host{
		{"the upgrader", &s.leader.skew},
		{"the arbiter", &s.clocks.arbiter},
		{"the API server", &s.clocks.api},
		{"Kruise", &s.clocks.kruise},
		{"the nodes", &s.clocks.nodes},
	}
}

// jump sets the clock of one host anew: forward or back.
func (s *Sim) jump() bool {
	if !s.cfg.Clocks {
		return false
	}
	hosts := s.hosts()
	h := hosts[s.rnd.IntN(len(hosts))]
	was := *h.skew
	*h.skew = s.wrong()
	s.tell("chaos", "the clock of %s jumps by %v", h.name, *h.skew-was)
	return *h.skew != was
}

// mendClocks sets all clocks right.
func (s *Sim) mendClocks() {
	if !s.cfg.Clocks {
		return
	}
	s.tell("chaos", "all clocks are set right")
	s.clocks, s.leader.skew = clocks{}, 0
	for _, u := range s.frozen {
		u.skew = 0
	}
}

// read is what time.Now returns on a host whose clock is ahead by skew: the wall clock of
// that host, and a monotonic reading that no jump changes. Differences of two such times are
// those of the monotonic readings; who loses it (by UTC, Truncate or a record that is
// written) is left with the wall clock, as in a real process.
func (s *Sim) read(skew time.Duration) time.Time {
	return monotonic(s.now.Add(skew), s.now.Sub(beginning)+time.Hour)
}

// beginning is when every run begins.
var beginning = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// monotonic returns wall with a monotonic reading. No function of package time makes such a
// time; TestMonotonic holds this against what the package says of them.
func monotonic(wall time.Time, reading time.Duration) time.Time {
	const (
		has      = 1 << 63
		nanoBits = 30
		// Seconds from the year 1885, from which on there can be a reading, to 1970.
		to1970 = (1969*365 + 1969/4 - 1969/100 + 1969/400 - (1884*365 + 1884/4 - 1884/100 + 1884/400)) * 24 * 60 * 60
	)
	t := (*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&wall)) //nolint:gosec // see above
	t.wall = has | uint64(wall.Unix()+to1970)<<nanoBits | uint64(wall.Nanosecond()) //nolint:gosec // after 1885
	t.ext = int64(reading)
	return wall
}
