package mutants

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
)

// A fault is a deliberate mistake in our own logic.
type fault struct {
	name string
	// promises that may break by it, as numbers; "": a check of test/sim that is none of them.
	promises []string
	// seed is one at which that was seen. It is played first, to be quick: any other will do.
	seed uint64
	// isReal: it is in what the upgrader does around the planner, which seeds run on demand
	// and scenarios do not.
	isReal bool
	edits  []edit
}

// edit puts new in the place of old, which is the text of a part of one function.
type edit struct{ file, old, new string }

// weaver makes the faulty copy of one file.
type weaver struct {
	file string
	src  []byte
	tree *ast.File
	fset *token.FileSet
	// edits of each function by the number of their fault, which is its place in faults, from 1.
	edits  map[*ast.FuncDecl]map[int][]edit
	faults []fault
	out    bytes.Buffer
}

// weave returns src with the faults of this file in it. A function that has faults gets a copy
// for each, and asks first whether that one is switched on.
func weave(file string, src []byte, faults []fault) ([]byte, error) {
	w := &weaver{file: file, src: src, fset: token.NewFileSet(), edits: map[*ast.FuncDecl]map[int][]edit{}, faults: faults}
	var err error
	if w.tree, err = parser.ParseFile(w.fset, file, src, parser.SkipObjectResolution); err != nil {
		return nil, err
	}
	var errs []error
	for i := range faults {
		for _, e := range faults[i].edits {
			if e.file == file {
				errs = append(errs, w.place(i+1, e))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	at := w.offset(w.tree.Name.End())
	w.out.Write(src[:at])
	w.out.WriteString(`; import "offduty.dev/test/mutants/fault"`)
	for _, d := range w.tree.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || w.edits[fn] == nil {
			continue
		}
		body, end := w.offset(fn.Body.Lbrace)+1, w.offset(fn.End())
		w.out.Write(src[at:body])
		if err := w.ask(fn); err != nil {
			return nil, err
		}
		w.out.Write(src[body:end])
		w.copies(fn)
		at = end
	}
	w.out.Write(src[at:])
	return w.out.Bytes(), nil
}

func (w *weaver) offset(p token.Pos) int { return w.fset.Position(p).Offset }

// place finds the function that an edit is for.
func (w *weaver) place(no int, e edit) error {
	if n := bytes.Count(w.src, []byte(e.old)); n != 1 {
		return fmt.Errorf("%s: its text stands %d times in %s, and must once: follow the code, or drop the fault if it cannot be made any more:\n%s",
			w.faults[no-1].name, n, w.file, e.old)
	}
	at := bytes.Index(w.src, []byte(e.old))
	for _, d := range w.tree.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil || at < w.offset(fn.Body.Pos()) || at >= w.offset(fn.End()) {
			continue
		}
		if w.edits[fn] == nil {
			w.edits[fn] = map[int][]edit{}
		}
		w.edits[fn][no] = append(w.edits[fn][no], e)
		return nil
	}
	return fmt.Errorf("%s: its text is in no function of %s:\n%s", w.faults[no-1].name, w.file, e.old)
}

func suffix(no int) string { return fmt.Sprintf("Fault%d", no) }

// ask writes what a function asks first.
func (w *weaver) ask(fn *ast.FuncDecl) error {
	name := fn.Name.Name
	if fn.Recv != nil {
		if len(fn.Recv.List[0].Names) == 0 {
			return fmt.Errorf("%s: %s: the receiver needs a name", w.file, name)
		}
		name = fn.Recv.List[0].Names[0].Name + "." + name
	}
	args := arguments(fn)
	if slices.Contains(args, "_") {
		return fmt.Errorf("%s: %s: every parameter needs a name", w.file, name)
	}
	for no := range w.faults {
		if no++; w.edits[fn][no] == nil {
			continue
		}
		call := name + suffix(no) + "(" + strings.Join(args, ", ") + ")"
		if fn.Type.Results == nil {
			fmt.Fprintf(&w.out, " if fault.Is(%d) { %s; return };", no, call)
		} else {
			fmt.Fprintf(&w.out, " if fault.Is(%d) { return %s };", no, call)
		}
	}
	return nil
}

// arguments are the parameters of fn as it hands them on; "_" stands for one without a name.
func arguments(fn *ast.FuncDecl) []string {
	var args []string
	for _, f := range fn.Type.Params.List {
		if len(f.Names) == 0 {
			args = append(args, "_")
			continue
		}
		for _, n := range f.Names {
			args = append(args, n.Name)
		}
		if _, variadic := f.Type.(*ast.Ellipsis); variadic {
			args[len(args)-1] += "..."
		}
	}
	return args
}

// copies writes the faulty copies of a function. The compiler names them by their faults.
func (w *weaver) copies(fn *ast.FuncDecl) {
	name, end := w.offset(fn.Name.End()), w.offset(fn.End())
	for no := range w.faults {
		if no++; w.edits[fn][no] == nil {
			continue
		}
		text := string(w.src[w.offset(fn.Pos()):name]) + suffix(no) + string(w.src[name:end])
		for _, e := range w.edits[fn][no] {
			text = strings.Replace(text, e.old, e.new, 1)
		}
		fmt.Fprintf(&w.out, "\n\n//line %s:1\n%s", w.faults[no-1].name, text)
	}
	fmt.Fprintf(&w.out, "\n\n//line %s:%d\n", w.file, w.fset.Position(fn.End()).Line+1)
}
