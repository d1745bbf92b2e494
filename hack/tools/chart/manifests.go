package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// object is one manifest.
type object struct {
	kind, name string
	node       *yaml.Node
}

// build renders a kustomization folder.
func build(folder string) ([]*object, error) {
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return nil, fmt.Errorf("kustomize build %s: %w", folder, err)
	}
	var all []*object
	for _, r := range rendered.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", r.CurId(), folder, err)
		}
		node, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", r.CurId(), folder, err)
		}
		all = append(all, &object{kind: r.GetKind(), name: r.GetName(), node: node})
	}
	return all, nil
}

// parse returns the map that is in a document.
func parse(text []byte) (*yaml.Node, error) {
	var document yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&document); err != nil {
		return nil, err
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("want one document")
	}
	return document.Content[0], nil
}

// is says whether the object is named by pattern, Kind/name.
func (o *object) is(pattern string) bool {
	kind, name, _ := strings.Cut(pattern, "/")
	return kind == o.kind && matches(name, o.name)
}

// matches compares with a pattern that may end with a star.
func matches(pattern, s string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(s, prefix)
	}
	return pattern == s
}

// takes says whether the file is for the object.
func (f *file) takes(o *object) bool {
	if len(f.Kinds) > 0 && !slices.Contains(f.Kinds, o.kind) {
		return false
	}
	named := func(pattern string) bool { return matches(pattern, o.name) }
	return len(f.Names) == 0 || slices.ContainsFunc(f.Names, named)
}

// find walks along path as far as there is something, and returns the last node, and the
// steps that are left.
func find(node *yaml.Node, path string) (*yaml.Node, []string) {
	steps := strings.Split(path, "/")
	// An argument may hold slashes; it is always the last step.
	if i := strings.Index(path, "/[--"); i >= 0 {
		steps = append(strings.Split(path[:i], "/"), path[i+1:])
	}
	for i, step := range steps {
		next := child(node, step)
		if next == nil {
			return node, steps[i:]
		}
		node = next
	}
	return node, nil
}

func child(node *yaml.Node, step string) *yaml.Node {
	inner, bracketed := strings.CutPrefix(step, "[")
	inner = strings.TrimSuffix(inner, "]")
	if !bracketed {
		return field(node, step)
	}
	if node.Kind != yaml.SequenceNode {
		return nil
	}
	for _, element := range node.Content {
		if element.Kind == yaml.ScalarNode && matches(inner, element.Value) {
			return element
		}
		if element.Kind != yaml.MappingNode {
			continue
		}
		key, want, _ := strings.Cut(inner, "=")
		if f := field(element, key); f != nil && f.Value == want {
			return element
		}
	}
	return nil
}

func field(node *yaml.Node, key string) *yaml.Node {
	if node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}
