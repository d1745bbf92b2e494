package view

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"testing"

	"offduty.dev/upgrader/plan"
)

// declared reads from Go files the strings that pick finds in them.
func declared(t *testing.T, pattern string, pick func(ast.Node, func(ast.Expr))) map[plan.Reason]bool {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatal("no files at", pattern, err)
	}
	found := map[plan.Reason]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			pick(n, func(e ast.Expr) {
				s, err := strconv.Unquote(e.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				found[plan.Reason(s)] = true
			})
			return true
		})
	}
	if len(found) == 0 {
		t.Fatal("nothing found in", pattern)
	}
	return found
}

// constants of the type Reason.
func constants(n ast.Node, found func(ast.Expr)) {
	spec, ok := n.(*ast.ValueSpec)
	if !ok {
		return
	}
	if id, ok := spec.Type.(*ast.Ident); ok && id.Name == "Reason" {
		for _, v := range spec.Values {
			found(v)
		}
	}
}

// hopeless are the keys of the map of that name: the kubelet's words.
func hopeless(n ast.Node, found func(ast.Expr)) {
	spec, ok := n.(*ast.ValueSpec)
	if !ok || len(spec.Names) != 1 || spec.Names[0].Name != "hopeless" {
		return
	}
	for _, e := range spec.Values[0].(*ast.CompositeLit).Elts {
		found(e.(*ast.KeyValueExpr).Key)
	}
}

func TestEveryReasonHasARemedyAndEveryRemedyAReason(t *testing.T) {
	reasons := declared(t, "../plan/*.go", constants)
	for r := range declared(t, "../kruise/*.go", hopeless) {
		reasons[r] = true
	}
	reasons[NotObserved], reasons[WriteFailed] = true, true
	for r := range reasons {
		if Remedies[r].Means == "" {
			t.Errorf("reason %s is not explained in Remedies", r)
		}
	}
	for r := range Remedies {
		if !reasons[r] {
			t.Errorf("Remedies explains %s, which nothing says", r)
		}
	}
}

func TestTheDocumentedReasonsAreThese(t *testing.T) {
	golden(t, "../../docs/reasons.md", "# Every reason, and what to do about it\n\n"+
		"A plan, a target or a replica shows one of these in its status; `kubectl offduty why` prints them\n"+
		"with their remedies; [stuck.md](stuck.md) has more on each that can last. This page is made from\n"+
		"that same table (`go test ./upgrader/view -update`).\n\n"+RemediesMarkdown())
}
