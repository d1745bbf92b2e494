package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"offduty.dev/test/e2e/harness"
)

var update = flag.Bool("update", false, "write what the commands of docs/first-plan.md print into it")

const tutorial = root + "/docs/first-plan.md"

// lesson is a block of commands and the block with what they print.
var lesson = regexp.MustCompile("(?s)```sh\n(.*?)```\n\n```text\n(.*?)```")

// end marks the end of a lesson's output.
const end = "---- end of lesson %d"

// TestTheFirstPlan does what docs/first-plan.md tells to do, in one shell, where `make demo`
// ends: the application is there, and its plan is complete.
func TestTheFirstPlan(t *testing.T) {
	page, err := os.ReadFile(tutorial)
	if err != nil {
		t.Fatal(err)
	}
	lessons := lesson.FindAllStringSubmatch(string(page), -1)
	if n := strings.Count(string(page), "```sh"); n == 0 || n != len(lessons) {
		t.Fatalf("%d blocks of commands, %d with their output", n, len(lessons))
	}
	s := newStage(t)
	s.begin(harness.Slots(3), 3)
	s.apply(harness.PlanManifest("alpine:3.19.0", "{handover: Request, maxUnavailable: 2}"))
	s.await("the plan is ready", settled)
	var script strings.Builder
	for i, l := range lessons {
		fmt.Fprintf(&script, "%s\necho '"+end+"'\n", strings.ReplaceAll(l[1], "-n demo", "-n "+s.Namespace), i)
	}
	rest := s.shell(script.String())
	for i, l := range lessons {
		got, after, found := strings.Cut(rest, fmt.Sprintf(end, i)+"\n")
		if !found {
			t.Fatalf("lesson %d did not end: %s", i, rest)
		}
		rest, got = after, trimLines(strings.ReplaceAll(got, s.Namespace, "demo"))
		if *update {
			page = bytes.Replace(page, []byte(l[0]), []byte("```sh\n"+l[1]+"```\n\n```text\n"+got+"```"), 1)
			continue
		}
		if diff := cmp.Diff(gist(l[2]), gist(got)); diff != "" {
			t.Errorf("the page is not what happens; go test ./test/e2e -run %s -update (-page +got):\n%s", t.Name(), diff)
		}
	}
	if *update {
		s.must(os.WriteFile(tutorial, page, 0o600))
	}
}

// shell runs a script in an empty folder, with kubectl and its plugin on the path.
func (s *stage) shell(script string) string {
	s.t.Helper()
	bin := s.t.TempDir()
	plugin, err := s.Cluster.Build(s.t.Context(), "./cmd/kubectl-offduty")
	s.must(err)
	s.must(os.Symlink(plugin, filepath.Join(bin, "kubectl-offduty")))
	s.must(os.Symlink(s.Cluster.Kubectl(), filepath.Join(bin, "kubectl")))
	cmd := exec.CommandContext(s.t.Context(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = s.t.TempDir()
	cmd.Env = append(append(os.Environ(), s.KubectlEnv()...), "PATH="+bin+":"+os.Getenv("PATH"))
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("%v\n%s\n%s", err, out.String(), problems.String())
	}
	return out.String()
}

func trimLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// vary is what differs from run to run: times, revisions, names of replicas, and who of
// them it happens to.
var vary = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`\b(\d+[hms])+\b`), "T"},
	{regexp.MustCompile(`\b[0-9a-f]{8,10}\b`), "R"},
	{regexp.MustCompile(`sample-\d`), "sample-N"},
	{regexp.MustCompile(`[├└]─`), "-"},
	{regexp.MustCompile(`\s+`), " "},
}

// gist is what stays the same from run to run, in no order.
func gist(text string) []string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := range lines {
		for _, v := range vary {
			lines[i] = v.what.ReplaceAllString(lines[i], v.by)
		}
	}
	slices.Sort(lines)
	return lines
}
