package sim

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// Campaign runs many seeds beside each other: they have nothing in common.
type Campaign struct {
	Case  // Seed is the first
	Seeds uint64
	// Steps, if it is not 0, ends the campaign as soon as so many were made, instead of Seeds.
	Steps int
	// Workers is how many seeds run at a time; 0: one on each processor.
	Workers int
}

// Report is what came of a campaign.
type Report struct {
	First, Seeds   uint64
	Ticks, Steps   int
	Elapsed        time.Duration
	Processor      time.Duration // of all processors
	Workers        int
	Events         map[string]int // steps, by what was delivered
	Kinds          map[string]int // what went wrong, what users did and what is rare
	Checks         map[string]int // at what the promises were checked, besides each tick
	Unheld, Handed int
	// Failed is the first seed at which a promise broke, whatever the order in which they
	// were run.
	Failed *Failure
}

// Failure is a seed at which a promise broke.
type Failure struct {
	Case    Case
	Promise string
	What    string
}

// Run runs the campaign. It ends when a seed fails, after those before it.
func (c Campaign) Run(clock func() time.Time) *Report {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // little lives long here
	began, worked := clock(), processor()
	r := &Report{First: c.Seed, Events: map[string]int{}, Kinds: map[string]int{}, Checks: map[string]int{}, Workers: c.Workers}
	if r.Workers == 0 {
		r.Workers = runtime.GOMAXPROCS(0)
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	// next is the seed that is run next, if there is one.
	next := func() (seed uint64, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if r.Failed != nil || c.Steps == 0 && r.Seeds >= c.Seeds || c.Steps > 0 && r.Steps >= c.Steps {
			return 0, false
		}
		r.Seeds++
		return c.Seed + r.Seeds - 1, true
	}
	for range r.Workers {
		all.Go(func() {
			for seed, ok := next(); ok; seed, ok = next() {
				one := c.Case
				one.Seed = seed
				s := one.Run()
				mu.Lock()
				r.add(one, s)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	r.Elapsed, r.Processor = clock().Sub(began), processor()-worked
	return r
}

func (r *Report) add(c Case, s *Sim) {
	r.Ticks += s.ticks
	r.Steps += s.Steps()
	r.Unheld, r.Handed = r.Unheld+s.unheld, r.Handed+s.foreign
	for i, n := range s.delivered {
		r.Events[events[i].name] += n
	}
	for kind, n := range s.Kinds {
		r.Kinds[kind] += n
	}
	for at, n := range s.Checks {
		r.Checks[at] += n
	}
	if s.err != nil && (r.Failed == nil || c.Seed < r.Failed.Case.Seed) {
		r.Failed = &Failure{Case: c, Promise: Promise(s.err), What: s.err.Error()}
	}
}

// Write says what was run, what was delivered and what is rare.
func (r *Report) Write(w io.Writer) {
	fmt.Fprintf(w, "%d seeds from %d: %d steps (and %d idle ticks) in %.1f s, %d at a time; %.1f million steps in a minute of one processor\n",
		r.Seeds, r.First, r.Steps, r.Ticks-r.Steps, r.Elapsed.Seconds(), r.Workers, float64(r.Steps)/r.Processor.Minutes()/1e6)
	for _, e := range events {
		fmt.Fprintf(w, "%10d %s\n", r.Events[e.name], e.name)
	}
	fmt.Fprintln(w, "promises are checked after each tick, and when:")
	for _, at := range slices.Sorted(maps.Keys(r.Checks)) {
		fmt.Fprintf(w, "%10d %s\n", r.Checks[at], at)
	}
	fmt.Fprintln(w, "trouble, users, foreign tools, and what is rare:")
	for _, kind := range slices.Sorted(maps.Keys(r.Kinds)) {
		fmt.Fprintf(w, "%10d %s\n", r.Kinds[kind], kind)
	}
	fmt.Fprintf(w, "%10d pods updated that were born without a hold\n%10d pods updated that a foreign partition gave to Kruise\n", r.Unheld, r.Handed)
}

// Tell shrinks a failure and writes its story. It says so if the seed does not fail again.
func (f *Failure) Tell(w io.Writer) {
	s, tape := f.Case.Note()
	if s.err == nil || s.err.Error() != f.What {
		fmt.Fprintf(w, "seed %d is not reproducible: %s, then %v\n", f.Case.Seed, f.What, s.err)
		return
	}
	budget := 8_000_000 // ticks: about a minute
	if f.Case.Real {
		budget /= 20 // they take their time
	}
	small := f.Case.Shrink(s.broken, tape, budget)
	again := f.Case.Replay(small, strings.HasPrefix(s.broken, "6"), true)
	fmt.Fprintf(w, "seed %d: %s\n", f.Case.Seed, f.What)
	fmt.Fprintf(w, "shrunk from %d ticks to %d: %v\n", len(tape.Ticks), len(small.Ticks), again.err)
	lines := again.story
	const most = 300
	if len(lines) > most {
		lines = append([]string{lines[0], fmt.Sprintf("... %d lines ...", len(lines)-most)}, lines[len(lines)-most:]...)
	}
	fmt.Fprintf(w, "%s\nrun it again: %s\n", strings.Join(lines, "\n"), f.Case.Command())
}
