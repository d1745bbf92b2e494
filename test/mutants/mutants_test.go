// Package mutants proves that the simulation bites. It makes deliberate faults in our own
// logic, one at a time, and demands that test/sim catches each: a simulation that finds
// nothing then would find nothing ever.
//
// A fault is a text in one of our functions and another text in its place. The sources in
// the repository are not touched: all faults are woven into copies, which go build is given
// as an overlay, so that one program has them all (weave_test.go).
package mutants

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	// What the program is made of, so that a cached result is one of the present code.
	_ "offduty.dev/test/sim"
)

var (
	only  = flag.String("fault", "", "only the faults whose name, or file, matches this expression")
	seeds = flag.Int("seeds", 400, "seeds that are played at most with each fault")
)

// outcome is what the program prints (run/main.go).
type outcome struct {
	Broken, Promise, Scenario string
	Seed                      uint64
	Seeds, Steps, Reached     int
}

// TestEveryFaultIsCaught plays seeds with each fault until one of its promises breaks. Without
// a fault none does.
func TestEveryFaultIsCaught(t *testing.T) {
	wanted := regexp.MustCompile(*only)
	program := build(t)
	outcomes := make([]outcome, len(faults)+1) // the first is without a fault
	numbers := make(chan int)
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for no := range numbers {
				var err error
				if outcomes[no], err = play(t, program, no); err != nil {
					t.Errorf("%s: %v", name(no), err)
				}
			}
		})
	}
	for no := range outcomes {
		if matches(wanted, no) {
			numbers <- no
		}
	}
	close(numbers)
	all.Wait()
	for no, o := range outcomes {
		if o.played() {
			judge(t, no, o)
		}
	}
	t.Log(table(outcomes))
}

func (o outcome) played() bool { return o.Seeds > 0 || o.Scenario != "" }

func matches(wanted *regexp.Regexp, no int) bool {
	return wanted.MatchString(name(no)) || no > 0 && wanted.MatchString(faults[no-1].edits[0].file)
}

func name(no int) string {
	if no == 0 {
		return "without a fault"
	}
	return faults[no-1].name
}

func judge(t *testing.T, no int, o outcome) {
	t.Helper()
	switch {
	case no == 0 && o.Broken != "":
		t.Errorf("without a fault, at seed %d %s: %s", o.Seed, o.Scenario, o.Broken)
	case no == 0:
	case o.Broken == "":
		t.Errorf("%s: %d seeds, %d steps, and every promise holds all the same; the faulty code ran %d times: "+
			"if no promise can break by it, drop it; else the models or the promises of test/sim are too weak",
			name(no), o.Seeds, o.Steps, o.Reached)
	case !slices.Contains(faults[no-1].promises, o.Promise):
		t.Errorf("%s: promises %v may catch it, and what broke at seed %d %s is %s", name(no), faults[no-1].promises, o.Seed, o.Scenario, o.Broken)
	}
}

// table lists what was caught, by which promise and how soon.
func table(outcomes []outcome) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "\nFAULT\tIN\tPROMISE\tAFTER")
	caught := 0
	for no, o := range outcomes {
		if no == 0 || !o.played() {
			continue
		}
		promise, after := "-", fmt.Sprintf("%d seeds, %d steps", o.Seeds, o.Steps)
		if o.Broken != "" {
			promise = o.Promise
			caught++
		}
		if o.Scenario != "" {
			after = "scenario " + o.Scenario
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", name(no), faults[no-1].edits[0].file, promise, after)
	}
	_ = w.Flush() // to memory
	_, _ = fmt.Fprintf(&out, "%d faults caught; without a fault: %d seeds, %d steps", caught, outcomes[0].Seeds, outcomes[0].Steps)
	return out.String()
}

// play runs the program with one fault.
func play(t *testing.T, program string, no int) (o outcome, err error) {
	t.Helper()
	n := *seeds
	if no == 0 {
		n = min(n, 50) // test/sim plays enough of these
	}
	args := []string{"-fault", strconv.Itoa(no), "-seeds", strconv.Itoa(n)}
	if no > 0 && faults[no-1].seed != 0 {
		args = append(args, "-first", strconv.FormatUint(faults[no-1].seed, 10))
	}
	if no > 0 && faults[no-1].isReal {
		args = append(args, "-real")
	} else {
		args = append(args, "testdata", "../sim/testdata/scenarios")
	}
	out, err := exec.CommandContext(t.Context(), program, args...).Output()
	if err != nil {
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w\n%s", err, failed.Stderr)
		}
		return o, err
	}
	return o, json.Unmarshal(out, &o)
}

// build builds the program with all faults in it, and none switched on.
func build(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]bool{}
	for _, f := range faults {
		for _, e := range f.edits {
			files[e.file] = true
		}
	}
	dir := t.TempDir()
	replace := map[string]string{}
	for file := range files {
		path := filepath.Join(root, file)
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		woven, err := weave(file, src, faults)
		if err != nil {
			t.Error(err)
			continue
		}
		replace[path] = filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(replace[path], woven, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	if t.Failed() {
		t.FailNow()
	}
	program := filepath.Join(dir, "run")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, "./run")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the program with all faults: %v\n%s", err, out)
	}
	return program
}
