// Command diagrams makes an SVG of each .dot file of the folders that are named.
// It is Graphviz, compiled to WebAssembly: nothing needs to be installed, and the same
// text gives the same picture everywhere.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/goccy/go-graphviz"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "diagrams:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dirs []string) error {
	g, err := graphviz.New(ctx)
	if err != nil {
		return fmt.Errorf("start Graphviz: %w", err)
	}
	return errors.Join(drawAll(ctx, g, dirs), g.Close())
}

func drawAll(ctx context.Context, g *graphviz.Graphviz, dirs []string) error {
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.dot"))
		if err != nil {
			return err
		}
		if len(files) == 0 {
			return fmt.Errorf("there is no .dot file in %s", dir)
		}
		for _, file := range files {
			if err := draw(ctx, g, file); err != nil {
				return fmt.Errorf("draw %s: %w", file, err)
			}
		}
	}
	return nil
}

// sizes are in points; without a unit a browser takes them for pixels, and the picture
// becomes as large as its text was meant.
var sizes = regexp.MustCompile(`(width|height)="(\d+)pt"`)

func draw(ctx context.Context, g *graphviz.Graphviz, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	graph, err := graphviz.ParseBytes(text)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := errors.Join(g.Render(ctx, graph, graphviz.SVG, &out), graph.Close()); err != nil {
		return err
	}
	svg := sizes.ReplaceAll(out.Bytes(), []byte(`$1="$2"`))
	return os.WriteFile(strings.TrimSuffix(file, ".dot")+".svg", svg, 0o644)
}
