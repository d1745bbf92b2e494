package sim

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestScenarios plays every document under testdata/scenarios, and then again without each
// safeguard that it names: what the document says must become of it, so that no story can
// be one that never goes wrong.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/scenarios/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".md"), func(t *testing.T) { play(t, file) })
	}
}

func play(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ReadScenario(file, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, real := range []bool{false, true} {
		if end := c.Run(Nothing, real); end.Err != nil {
			t.Errorf("real upgraders: %t: %v\n%s", real, end.Err, strings.Join(end.Told, "\n"))
		}
	}
	if len(c.Without) == 0 {
		t.Errorf("%s: it names no safeguard without which the story goes wrong", file)
	}
	for _, w := range c.Without {
		end := c.Run(w.Safeguard, false)
		if end.Err == nil || end.Promise != w.Promise {
			t.Errorf("%s:%d: without %s: %v\n%s", file, w.Line, w.Safeguard, end.Err, strings.Join(end.Told, "\n"))
		}
		t.Logf("without %s: %v", w.Safeguard, end.Err)
	}
}

// TestErrorsOfScenarios checks that whoever writes a story wrongly hears where, and what is
// possible there.
func TestErrorsOfScenarios(t *testing.T) {
	const head = "# Title\n\n## Cluster\n- web has 3 replicas\n\n## Story\n"
	for _, tt := range []struct{ name, text, says string }{
		{"a sentence that is none", head + "- web-1 explodes\n", `x.md:7: no sentence of a story: "web-1 explodes"; one is:`},
		{"a condition that is none", head + "- until: web-1 is\n  happy\n", `x.md:7: no condition: "web-1 is happy"; one is:`},
		{"a request that is none", head + "- the upgrader crashes before it eats web-1\n", `x.md:7: "eats web-1": it is one of`},
		{"an actor that is none", head + "- Helm stand still\n", `x.md:7: "Helm": it is one of`},
		{"a section that is none", head + "- all is done\n## Epilogue\n", `x.md:7: no sentence of a story`},
		{"a safeguard that is none", head + "- until: all is done\n## Without\n- luck: promise 1 breaks\n", `x.md:9: there is no safeguard "luck": they are`},
		{"a cluster of which nothing is said", "# Title\n## Story\n- until: all is done\n", "it needs a title"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ReadScenario("x.md", strings.NewReader(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want: %s", err, tt.says)
			}
		})
	}
}
