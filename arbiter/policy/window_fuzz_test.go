package policy

import (
	"testing"
	"time"
)

// FuzzWindow reads any schedule and asks it for any moment: what is refused says why, and a freeze
// that is on ends later than now.
func FuzzWindow(f *testing.F) {
	f.Add("0 22 * * 1-5", "Europe/Berlin", int64(3600), int64(1_800_000_000))
	f.Add("@daily", "", int64(1), int64(0))
	f.Add("0 0 30 2 *", "UTC", int64(-5), int64(1))
	f.Add("@every 1s", "Local", int64(1), int64(1))
	f.Fuzz(func(t *testing.T, schedule, zone string, seconds, at int64) {
		w, err := NewWindow(schedule, time.Duration(seconds%1_000_000)*time.Second, zone)
		if err != nil {
			if err.Error() == "" {
				t.Errorf("%q is refused and nobody is told why", schedule)
			}
			return
		}
		now := time.Unix(at%4_000_000_000, 0)
		in, change := Windows{w}.At(now)
		if in.Window != "" && !in.Until.After(now) {
			t.Errorf("%q: frozen at %s until %s", schedule, now, in.Until)
		}
		if !change.IsZero() && !change.After(now) {
			t.Errorf("%q: at %s it may change at %s", schedule, now, change)
		}
	})
}
