// Command run plays the simulation with one deliberate fault switched on until a promise
// breaks: first the scenarios in the folders that are named, then seeds. It prints the outcome
// as JSON. Built without the overlay of test/mutants it has no faults.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"log"
	"os"
	"path/filepath"
	"strings"

	"offduty.dev/test/mutants/fault"
	"offduty.dev/test/sim"
)

// outcome is what is printed.
type outcome struct {
	// Broken says what broke, Promise which promise that is; both "": nothing.
	Broken, Promise string
	// Scenario or Seed in which it broke.
	Scenario string
	Seed     uint64
	// Seeds that were played, with their steps.
	Seeds, Steps int
	// Reached is how often the faulty code ran.
	Reached int
}

func main() {
	log.SetFlags(0)
	flag.IntVar(&fault.On, "fault", 0, "number of the fault that is switched on; 0: none")
	first := flag.Uint64("first", 0, "a seed that is played before seeds 1, 2, ...; 0: none")
	seeds := flag.Uint64("seeds", 300, "play at most so many seeds")
	isReal := flag.Bool("real", false, "run the real upgraders, and not what mirrors them")
	flag.Parse()
	var out outcome
	for _, folder := range flag.Args() {
		if err := out.stories(folder); err != nil {
			log.Fatalf("run: play the scenarios in %s: %v", folder, err)
		}
	}
	if *first != 0 {
		out.seed(*first, *isReal)
	}
	for seed := range *seeds {
		out.seed(seed+1, *isReal)
	}
	out.Reached = fault.Reached
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatalf("run: print the outcome: %v", err)
	}
}

// stories plays the scenarios until a promise breaks. That a story goes another way does not
// count.
func (o *outcome) stories(folder string) error {
	files, err := filepath.Glob(filepath.Join(folder, "*.md"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if o.Broken != "" {
			break
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		story, err := sim.ReadScenario(file, bytes.NewReader(text))
		if err != nil {
			return err
		}
		if end := story.Run(sim.Nothing, false); end.Promise != "" {
			o.Scenario = strings.TrimSuffix(filepath.Base(file), ".md")
			o.Broken, o.Promise = end.Err.Error(), end.Promise
		}
	}
	return nil
}

// seed plays a seed unless something broke before.
func (o *outcome) seed(seed uint64, isReal bool) {
	if o.Broken != "" {
		return
	}
	s := sim.Case{Seed: seed, Troubled: sim.Troubled, Bound: sim.Bound, Real: isReal}.Run()
	o.Seeds++
	o.Steps += s.Steps()
	if err := s.Err(); err != nil {
		o.Seed, o.Broken, o.Promise = seed, err.Error(), sim.Promise(err)
	}
}
