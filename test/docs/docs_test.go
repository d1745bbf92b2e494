// Package docs checks that the documentation agrees with itself and with the code.
package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const root = "../.."

// pages are all Markdown files, by their path from the module's folder.
func pages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return fs.SkipDir
		}
		// The chart's README is checked where make generate puts it.
		if filepath.Ext(path) != ".md" || strings.HasPrefix(path, root+"/hack/chart/") {
			return nil
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, root+"/")] = string(b)
		return err
	})
	if err != nil || len(out) < 5 {
		t.Fatalf("%d pages: %v", len(out), err)
	}
	return out
}

var (
	fence   = regexp.MustCompile("(?ms)^```.*?^```$")
	code    = regexp.MustCompile("`[^`\n]*`")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
)

// prose is a page without its code.
func prose(page string) string { return code.ReplaceAllString(fence.ReplaceAllString(page, ""), "") }

// anchors are the headings of a page as GitHub names them.
func anchors(page string) []string {
	var out []string
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case strings.ContainsRune("`.,:;!?()[]{}'\"/*…=<>&|“”，。：（）、", r):
				return -1
			}
			return r
		}, strings.ToLower(h[1]))
		for n, base := 1, name; slices.Contains(out, name); n++ {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		out = append(out, name)
	}
	return out
}

// broken says why a link of a page leads nowhere; "" if it does not.
func broken(all map[string]string, from, to string) string {
	if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
		return ""
	}
	path, anchor, _ := strings.Cut(to, "#")
	target := from
	if path != "" {
		target = filepath.Join(filepath.Dir(from), path)
		if _, err := os.Stat(filepath.Join(root, target)); err != nil {
			return "there is no such file"
		}
	}
	if anchor != "" && !slices.Contains(anchors(all[target]), anchor) {
		return fmt.Sprintf("%s has no such heading, but %v", target, anchors(all[target]))
	}
	return ""
}

func TestLinks(t *testing.T) {
	all := pages(t)
	n := 0
	for from, page := range all {
		for _, l := range link.FindAllStringSubmatch(prose(page), -1) {
			n++
			if why := broken(all, from, l[1]); why != "" {
				t.Errorf("%s links to %s: %s", from, l[1], why)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d links were found", n)
	}
}

func TestEveryPageIsInTheIndex(t *testing.T) {
	all := pages(t)
	index := all["docs/README.md"]
	for path := range all {
		if path == "docs/README.md" || filepath.Dir(path) != "docs" {
			continue
		}
		if !strings.Contains(index, "("+filepath.Base(path)+")") {
			t.Errorf("docs/README.md does not link to %s", path)
		}
	}
}

// reasons are the constants of plan.Reason.
func reasons(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), root+"/upgrader/plan/reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if lit, ok := v.Values[0].(*ast.BasicLit); ok {
			name, err := strconv.Unquote(lit.Value)
			if err == nil {
				out = append(out, name)
			}
		}
		return true
	})
	if len(out) < 30 {
		t.Fatalf("only %d reasons were found: %v", len(out), out)
	}
	return out
}

// shape is what two translations of a page have in common: the levels of their headings,
// the blocks of code, the pages that they link to.
type shape struct {
	Levels, Code, Links []string
}

var level = regexp.MustCompile(`(?m)^(#{1,6}) `)

func shapeOf(page string) shape {
	var s shape
	for _, m := range level.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		s.Levels = append(s.Levels, m[1])
	}
	s.Code = fence.FindAllString(page, -1)
	for _, m := range link.FindAllStringSubmatch(prose(page), -1) {
		if !strings.HasPrefix(m[1], "README") {
			s.Links = append(s.Links, m[1])
		}
	}
	return s
}

func TestBothReadmesSayTheSame(t *testing.T) {
	all := pages(t)
	en, zh := all["README.md"], all["README.zh-CN.md"]
	if diff := cmp.Diff(shapeOf(en), shapeOf(zh)); diff != "" {
		t.Errorf("headings, code or links differ (-English +Chinese):\n%s", diff)
	}
	if !strings.Contains(en, "(README.zh-CN.md)") || !strings.Contains(zh, "(README.md)") {
		t.Error("the two do not link to each other")
	}
}

func TestPicturesHaveTheirText(t *testing.T) {
	pictures, err := filepath.Glob(root + "/docs/pictures/*.svg")
	if err != nil || len(pictures) == 0 {
		t.Fatalf("%v (%v)", pictures, err)
	}
	concepts := pages(t)["docs/concepts.md"]
	for _, p := range pictures {
		if _, err := os.Stat(strings.TrimSuffix(p, ".svg") + ".dot"); err != nil {
			t.Errorf("%s is made from nothing: %v", p, err)
		}
		if !strings.Contains(concepts, "(pictures/"+filepath.Base(p)+")") {
			t.Errorf("docs/concepts.md does not show %s", p)
		}
	}
}
