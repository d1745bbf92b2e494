package monitoring

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	arbiter "offduty.dev/arbiter/metrics"
	upgrader "offduty.dev/upgrader/metrics"
)

const root = "../.."

func rules(t *testing.T) []Rule {
	t.Helper()
	all, err := Rules(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("there are no rules")
	}
	return all
}

// promtool runs the pinned promtool in config/monitoring.
func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	path, err := exec.CommandContext(t.Context(), filepath.Join(root, "hack", "tool"), "--path", "promtool").Output()
	if err != nil {
		t.Fatalf("build promtool: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), strings.TrimSpace(string(path)), args...)
	cmd.Dir = filepath.Join(root, "config", "monitoring")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestPromtoolAcceptsTheRules(t *testing.T) {
	out, err := promtool(t, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAlertsFireWhenTheyShouldAndOnlyThen(t *testing.T) {
	out, err := promtool(t, "test", "rules", "rules_test.yaml")
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	tests, err := os.ReadFile(filepath.Join(root, "config", "monitoring", "rules_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules(t) {
		if r.Alert != "" && !strings.Contains(string(tests), fmt.Sprintf("alertname=%q", r.Alert)) {
			t.Errorf("rules_test.yaml has no series for which %s fires", r.Alert)
		}
	}
}

func TestEachAlertHasARunbookAndEachRunbookAnAlert(t *testing.T) {
	var alerts, pages []string
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		alerts = append(alerts, r.Alert)
		if want := "https://offduty.dev/docs/runbooks/" + r.Alert + ".md"; r.Annotations["runbook_url"] != want {
			t.Errorf("%s names the runbook %q, not %s", r.Alert, r.Annotations["runbook_url"], want)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s has no summary or no description", r.Alert)
		}
		if !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
			t.Errorf("%s has the severity %q", r.Alert, r.Labels["severity"])
		}
	}
	files, err := filepath.Glob(filepath.Join(root, "docs", "runbooks", "Offduty*.md"))
	if err != nil {
		t.Fatal(err)
	}
	index := read(t, "docs/runbooks/README.md")
	for _, f := range files {
		page := strings.TrimSuffix(filepath.Base(f), ".md")
		pages = append(pages, page)
		if !strings.Contains(index, "["+page+"]("+page+".md)") {
			t.Errorf("docs/runbooks/README.md does not list %s", page)
		}
	}
	slices.Sort(alerts)
	if diff := cmp.Diff(alerts, pages); diff != "" {
		t.Errorf("alerts and pages (-alerts +pages):\n%s", diff)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// entry is one row of the reference: name, labels, help.
type entry struct{ Labels, Help string }

// description is how a prometheus.Desc prints itself; it has no other way to be read.
var description = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "(.*?)", (?:unit: "[^"]*", )?constLabels: \{\}, variableLabels: \{(.*)\}\}$`)

// registry registers what it is given and keeps the descriptions.
type registry struct {
	prometheus.Registerer
	t   *testing.T
	all map[string]entry
}

func (r *registry) MustRegister(cs ...prometheus.Collector) {
	r.t.Helper()
	for _, c := range cs {
		ch := make(chan *prometheus.Desc)
		go func() { c.Describe(ch); close(ch) }()
		for d := range ch {
			m := description.FindStringSubmatch(d.String())
			if m == nil {
				r.t.Errorf("cannot read %s", d)
				continue
			}
			r.all[m[1]] = entry{Labels: strings.ReplaceAll(m[3], ",", ", "), Help: strings.ReplaceAll(m[2], `\"`, `"`)}
		}
	}
}

// registered are all metrics of our own.
func registered(t *testing.T) map[string]entry {
	t.Helper()
	r := &registry{t: t, all: map[string]entry{}}
	upgrader.New(r, time.Now)
	arbiter.New(r, time.Now)
	r.MustRegister(&upgrader.Plans{}, &arbiter.Groups{})
	return r.all
}

func TestRulesAndRunbooksNameMetricsThatExist(t *testing.T) {
	all := registered(t)
	exists := func(where, text string) {
		for _, m := range Metrics(text) {
			if _, ok := all[m]; !ok && strings.HasPrefix(m, "offduty_") {
				t.Errorf("%s names %s, which there is not", where, m)
			}
		}
	}
	for _, r := range rules(t) {
		exists(r.Alert+r.Record, r.Expr)
		if !strings.Contains(r.Expr, "offduty:") && len(Metrics(r.Expr)) == 0 {
			t.Errorf("%s names no metric of ours: %s", r.Alert, r.Expr)
		}
	}
	files, err := filepath.Glob(filepath.Join(root, "docs", "runbooks", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		rel, err := filepath.Rel(root, f)
		if err != nil {
			t.Fatal(err)
		}
		exists(rel, read(t, rel))
	}
}

// TestTheReferenceIsThatOfTheRegistries holds the tables of docs/monitoring.md against the
// daemons' own descriptions. When it fails, it prints the rows as they should be.
func TestTheReferenceIsThatOfTheRegistries(t *testing.T) {
	got := map[string]entry{}
	row := regexp.MustCompile("(?m)^\\| `(offduty_[a-z_]+)` \\| (.*?) \\| (.*) \\|$")
	for _, m := range row.FindAllStringSubmatch(read(t, "docs/monitoring.md"), -1) {
		got[m[1]] = entry{Labels: m[2], Help: m[3]}
	}
	want := registered(t)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/monitoring.md (-registry +page):\n%s", diff)
		var rows []string
		for n, e := range want {
			rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |", n, e.Labels, e.Help))
		}
		slices.Sort(rows)
		t.Logf("the rows as they should be:\n%s", strings.Join(rows, "\n"))
	}
}
