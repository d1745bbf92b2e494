package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// valuesYAML is values.yaml, with what each value is about as its comment.
func valuesYAML(values []*value) ([]byte, error) {
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, v := range values {
		steps := strings.Split(v.Name, ".")
		parent := root
		for _, step := range steps[:len(steps)-1] {
			next := field(parent, step)
			if next == nil {
				next = &yaml.Node{Kind: yaml.MappingNode}
				add(parent, step, "", next)
			}
			parent = next
		}
		standard := v.Default
		if empty(&standard) {
			standard.Style = yaml.FlowStyle // {} and [], not nothing
		}
		add(parent, steps[len(steps)-1], wrap(v.About), &standard)
	}
	body, err := text(root)
	return []byte("# Made by make generate from hack/chart/chart.yaml and the kustomize bases.\n" + body), err
}

func add(parent *yaml.Node, key, comment string, child *yaml.Node) {
	parent.Content = append(parent.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key, HeadComment: comment}, child)
}

func empty(node *yaml.Node) bool { return node.Kind != yaml.ScalarNode && len(node.Content) == 0 }

// wrap breaks text into lines of a comment.
func wrap(text string) string {
	var lines []string
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > 90 {
			lines = append(lines, line)
			line = "#"
		}
		line += " " + word
	}
	return strings.Join(append(lines, line), "\n")
}

// schema is values.schema.json.
func schema(values []*value, rules yaml.Node) ([]byte, error) {
	root := closedObject()
	for _, v := range values {
		steps := strings.Split(v.Name, ".")
		parent := root
		for _, step := range steps[:len(steps)-1] {
			properties, _ := parent["properties"].(map[string]any)
			next, ok := properties[step].(map[string]any)
			if !ok {
				next = closedObject()
				properties[step] = next
			}
			parent = next
		}
		own := map[string]any{}
		if err := v.Schema.Decode(&own); err != nil {
			return nil, fmt.Errorf("schema of value %s: %w", v.Name, err)
		}
		own["description"] = strings.Join(strings.Fields(v.About), " ")
		properties, _ := parent["properties"].(map[string]any)
		properties[steps[len(steps)-1]] = own
	}
	properties, _ := root["properties"].(map[string]any)
	properties["global"] = map[string]any{"type": "object", "description": "Helm's own, where this chart is part of another."}
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	if !rules.IsZero() {
		var all []any
		if err := rules.Decode(&all); err != nil {
			return nil, fmt.Errorf("rules: %w", err)
		}
		root["allOf"] = all
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(root)
	return out.Bytes(), err
}

func closedObject() map[string]any {
	return map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{}}
}

// readmeTable is the table of the values.
func readmeTable(values []*value) string {
	var table strings.Builder
	table.WriteString("| value | default | what it is |\n|---|---|---|\n")
	for _, v := range values {
		standard := "see values.yaml"
		if v.Default.Kind == yaml.ScalarNode || empty(&v.Default) {
			node := v.Default
			node.Style, node.HeadComment, node.LineComment = 0, "", ""
			if empty(&node) {
				node.Style = yaml.FlowStyle
			}
			standard = "`" + strings.TrimSpace(must(text(&node))) + "`"
		}
		about := strings.ReplaceAll(strings.Join(strings.Fields(v.About), " "), "|", "\\|")
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", v.Name, standard, about)
	}
	return table.String()
}

// valuesMark is where the table goes in the README.
const valuesMark = "<!-- values -->\n"

// addStatic adds what is written by hand: all of in/static.
func addStatic(files map[string][]byte, in, table string) error {
	root := filepath.Join(in, "static")
	return filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if name == "README.md" {
			if !slices.Contains(strings.SplitAfter(string(data), "\n"), valuesMark) {
				return errors.New("README.md has no line " + strings.TrimSpace(valuesMark) + ", where the table of values goes")
			}
			data = []byte(strings.Replace(string(data), valuesMark, table, 1))
		}
		files[filepath.ToSlash(name)] = data
		return nil
	})
}
