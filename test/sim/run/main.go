// Run runs the simulation on many seeds, tells what was run, and for the first seed at which
// a promise breaks the story, shrunk to what it takes.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"offduty.dev/test/sim"
)

// verdict is what -json prints, in one line.
type verdict struct {
	First uint64 `json:"first"`
	Seeds uint64 `json:"seeds"`
	Steps int    `json:"steps"`
	// Broken: a promise broke, or another check. Promise is its number, if it is one.
	Broken  bool   `json:"broken"`
	Promise string `json:"promise,omitempty"`
	Seed    uint64 `json:"seed,omitempty"`
	What    string `json:"what,omitempty"`
}

func main() {
	c := sim.Campaign{}
	flag.Uint64Var(&c.Seed, "first", 1, "the first seed; 0: from the clock")
	flag.Uint64Var(&c.Seeds, "seeds", 300, "how many seeds")
	flag.IntVar(&c.Steps, "steps", 0, "go on until so many steps were made, instead of -seeds")
	flag.IntVar(&c.Workers, "workers", 0, "how many seeds run at a time; 0: one on each processor")
	flag.IntVar(&c.Troubled, "trouble", sim.Troubled, "ticks in which things go wrong")
	flag.IntVar(&c.Bound, "bound", sim.Bound, "ticks in which the plan must then complete; 0: that is not looked at")
	flag.TextVar(&c.Without, "without", sim.Nothing, "a safeguard that is taken out: "+strings.Join(sim.Safeguards(), ", "))
	scenario := flag.String("scenario", "", "play this document instead of seeds, and tell how it went")
	flag.BoolVar(&c.Real, "real", false, "run the real upgraders, and not what mirrors them: slower")
	flag.BoolVar(&c.Compare, "compare", false, "with -real: what mirrors the upgraders must see what they see")
	line := flag.Bool("json", false, "print one line of JSON and no story")
	flag.Parse()
	if *scenario != "" {
		os.Exit(play(*scenario, c.Without, c.Real))
	}
	if c.Seed == 0 {
		c.Seed = uint64(time.Now().UnixMilli())
	}
	r := c.Run(time.Now)
	if *line {
		v := verdict{First: r.First, Seeds: r.Seeds, Steps: r.Steps}
		if f := r.Failed; f != nil {
			v.Broken, v.Promise, v.Seed, v.What = true, f.Promise, f.Case.Seed, f.What
		}
		_ = json.NewEncoder(os.Stdout).Encode(v)
	} else {
		r.Write(os.Stdout)
	}
	if r.Failed != nil {
		if !*line {
			fmt.Println()
			r.Failed.Tell(os.Stdout)
		}
		os.Exit(1)
	}
}

// play plays a document and tells its story.
func play(file string, without sim.Safeguard, real bool) (exit int) {
	f, err := os.Open(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer f.Close()
	c, err := sim.ReadScenario(file, f)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	end := c.Run(without, real)
	for _, line := range end.Told {
		fmt.Println(line)
	}
	if end.Err != nil {
		fmt.Println(end.Err)
		return 1
	}
	return 0
}
