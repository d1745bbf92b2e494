package calibration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// Input is one line of a story: a verb, ordinals or other words, and values by key.
type Input struct {
	Verb     string
	Ordinals []int
	Words    []string
	Values   map[string]string
}

// Has says whether the input gives key one of values, or any value if none is named.
func (i Input) Has(key string, values ...string) bool {
	v, ok := i.Values[key]
	return ok && (len(values) == 0 || slices.Contains(values, v))
}

// Int is a value that is a number; fallback if it is not given.
func (i Input) Int(key string, fallback int) int {
	if v, err := strconv.Atoi(i.Values[key]); err == nil {
		return v
	}
	return fallback
}

// Step is an input, and what was recorded after it.
type Step struct {
	Input
	Recorded string
}

// Story is one recording.
type Story struct {
	Name, Path string
	Steps      []Step
	// NotModelled says why the model cannot tell this story; "" if it can.
	NotModelled string
}

// Stories reads the recordings in a folder.
func Stories(t *testing.T, folder string) []Story {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*.txt"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("there are no recordings in %s (%v)", folder, err)
	}
	var stories []Story
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s := Story{Name: strings.TrimSuffix(filepath.Base(path), ".txt"), Path: path}
		for line := range strings.Lines(string(text)) {
			if why, ok := strings.CutPrefix(line, "# Not modelled: "); ok {
				s.NotModelled = strings.TrimSpace(why)
			}
		}
		datadriven.RunTestFromString(t, string(text), func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			in, err := parse(d)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			s.Steps = append(s.Steps, Step{in, d.Expected})
			return d.Expected
		})
		stories = append(stories, s)
	}
	return stories
}

// verbs with the keys that each takes.
var verbs = map[string][]string{
	"kruise": {}, "delete": {}, "kubelet": {}, "current": {},
	"create": {"replicas", "image", "partition", "hook", "weights", "unavailable", "grace", "policy", "env", "born"},
	"set":    {"replicas", "image", "partition", "hook", "weights", "unavailable", "grace", "policy", "env"},
	"pod":    {"hold", "grant", "working", "state"},
}

func parse(d *datadriven.TestData) (Input, error) {
	in := Input{Verb: d.Cmd, Values: map[string]string{}}
	keys, ok := verbs[d.Cmd]
	if !ok {
		return in, fmt.Errorf("there is no input %q", d.Cmd)
	}
	for _, arg := range d.CmdArgs {
		if len(arg.Vals) == 0 {
			if n, err := strconv.Atoi(arg.Key); err == nil {
				in.Ordinals = append(in.Ordinals, n)
			} else {
				in.Words = append(in.Words, arg.Key)
			}
			continue
		}
		if !slices.Contains(keys, arg.Key) {
			return in, fmt.Errorf("%s takes no %q, only %v", d.Cmd, arg.Key, keys)
		}
		in.Values[arg.Key] = arg.Vals[0]
	}
	return in, nil
}

// Compare holds what became visible now against the recording. With -rewrite it becomes
// the recording.
func (s Story) Compare(t *testing.T, seen []string) {
	t.Helper()
	i := 0
	datadriven.RunTest(t, s.Path, func(t *testing.T, d *datadriven.TestData) string {
		t.Helper()
		i++
		if i > len(seen) {
			d.Fatalf(t, "the story ended before this input")
		}
		return seen[i-1]
	})
}
