package sim

import (
	"testing"
	"time"
)

// TestMonotonic holds the times of the simulation's hosts against what package time says of
// those that time.Now returns.
func TestMonotonic(t *testing.T) {
	s := &Sim{now: beginning.Add(123456789)}
	before, ahead := s.read(0), s.read(time.Hour)
	s.now = s.now.Add(5 * time.Second)
	after := s.read(-time.Hour) // the clock was set back
	for _, tt := range []struct {
		name      string
		got, want any
	}{
		{"the wall clock is read", ahead.Format(time.RFC3339Nano), "2026-01-01T01:00:00.123456789Z"},
		{"what passes is measured by the monotonic reading", after.Sub(before), 5 * time.Second},
		{"a jump does not change the order", before.Before(after), true},
		{"the reading is kept when something is added", after.Add(time.Minute).Sub(before), 65 * time.Second},
		{"without the reading the wall clocks are compared", after.Sub(before.Round(0)), 5*time.Second - time.Hour},
		{"UTC loses the reading", after.UTC().Sub(before), 5*time.Second - time.Hour},
		{"Truncate loses the reading", before.Truncate(time.Second).Equal(beginning), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.got != tt.want {
				t.Errorf("got %v, want %v", tt.got, tt.want)
			}
		})
	}
}
