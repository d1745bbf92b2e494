package sim

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestLanguageIsDocumented holds the language of scenarios against the page about it.
func TestLanguageIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/simulation.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if first, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "` |"); ok && strings.HasPrefix(line, "| `") {
			rows[first] = true
		}
	}
	for _, f := range slices.Concat(setupForms, storyForms, conditionForms) {
		if !rows[f.text] {
			t.Errorf("docs/simulation.md does not say what %q means", f.text)
		}
	}
	for _, g := range Safeguards() {
		if !rows[g] {
			t.Errorf("docs/simulation.md does not say what is without %q", g)
		}
	}
}
