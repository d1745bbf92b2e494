package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Windows are the times in which no upgrade begins.
type Windows []Window

// Window is one that comes again and again: it opens by a schedule and has a length.
type Window struct {
	name     string
	schedule cron.Schedule
	length   time.Duration
	zone     *time.Location
}

// scheduleParser reads cron's five fields, and names such as @daily.
var scheduleParser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// NewWindow returns the window that opens at each time of a schedule in cron's format, of five
// fields or a name such as "@daily", in an IANA time zone (empty: UTC). The error says which of
// them cannot be read, and why.
func NewWindow(schedule string, length time.Duration, timeZone string) (Window, error) {
	zone, err := time.LoadLocation(timeZone)
	if err != nil {
		return Window{}, fmt.Errorf("timeZone: %w", err)
	}
	if zone == time.Local {
		return Window{}, fmt.Errorf("timeZone: %q depends on the machine: name one, such as Europe/Berlin", timeZone)
	}
	if strings.Contains(schedule, "=") {
		return Window{}, fmt.Errorf("schedule: %q: a time zone belongs into timeZone", schedule)
	}
	s, err := scheduleParser.Parse(schedule)
	if err != nil {
		return Window{}, fmt.Errorf("schedule: %q: %w", schedule, err)
	}
	if _, every := s.(cron.ConstantDelaySchedule); every {
		return Window{}, fmt.Errorf("schedule: %q says how often and not when", schedule)
	}
	return Window{name: fmt.Sprintf("%q for %s (%s)", schedule, length, zone), schedule: s, length: length, zone: zone}, nil
}

// Freeze is a window that is open; the zero value: none is.
type Freeze struct {
	// Window says which one, for people.
	Window string
	// Until is when it closes, unless another one has opened by then.
	Until time.Time
}

// At returns the freeze at a time, of several the one that ends last, and when that may change;
// zero: never.
func (ws Windows) At(now time.Time) (in Freeze, change time.Time) {
	for _, w := range ws {
		opened, next := w.around(now)
		if until := opened.Add(w.length); !opened.IsZero() && until.After(in.Until) {
			in = Freeze{Window: w.name, Until: until}
		}
		if !next.IsZero() && (change.IsZero() || next.Before(change)) {
			change = next
		}
	}
	if in.Window != "" && (change.IsZero() || in.Until.Before(change)) {
		change = in.Until
	}
	return in, change
}

// around returns when the window opened last, zero if that one has closed again, and when it
// opens next, zero if it never does.
func (w Window) around(now time.Time) (opened, next time.Time) {
	after := func(t time.Time) time.Time { return w.schedule.Next(t.In(w.zone)) }
	next = after(now)
	// One that opened before that has closed.
	opened = after(now.Add(-w.length))
	if opened.IsZero() || opened.After(now) {
		return time.Time{}, next
	}
	// The last time lies between this one and now: a schedule may open every minute of a week.
	for high := now; high.Sub(opened) > time.Second; {
		middle := opened.Add(high.Sub(opened) / 2)
		if t := after(middle); !t.IsZero() && !t.After(now) {
			opened = t
		} else {
			high = middle
		}
	}
	return opened, next
}
