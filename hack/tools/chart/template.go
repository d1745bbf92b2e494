package main

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// templater turns manifests into templates. What YAML cannot hold is first put there as a
// mark, and the mark is replaced in the text.
type templater struct {
	config  *config
	objects []*object
	marks   []mark
}

// mark is text of a template; one that is inserted has lines of its own.
type mark struct {
	text     string
	inserted bool
}

func (t *templater) mark(m mark) string {
	t.marks = append(t.marks, m)
	return fmt.Sprintf("<<%d>>", len(t.marks)-1)
}

// apply puts all edits and values into the objects.
func (t *templater) apply() error {
	for _, v := range t.config.Values {
		for _, e := range v.Set {
			if err := t.each(e, func(o *object) error { return t.setValue(o, e, v) }); err != nil {
				return fmt.Errorf("value %s: %w", v.Name, err)
			}
		}
		if v.Default.IsZero() {
			return fmt.Errorf("value %s: the manifests have no default for it: give one", v.Name)
		}
	}
	for _, e := range t.config.Edits {
		if err := t.each(e, func(o *object) error { return t.edit(o, e) }); err != nil {
			return err
		}
	}
	return nil
}

// each calls do for the objects of e, of which there must be one.
func (t *templater) each(e edit, do func(*object) error) error {
	for _, pattern := range e.Objects {
		found := false
		for _, o := range t.objects {
			if !o.is(pattern) {
				continue
			}
			found = true
			if err := do(o); err != nil {
				return fmt.Errorf("%s, %s: %w", pattern, e.Path, err)
			}
		}
		if !found {
			return fmt.Errorf("there is no object %s", pattern)
		}
	}
	return nil
}

// setValue puts a reference to v into o. The manifests are the default.
func (t *templater) setValue(o *object, e edit, v *value) error {
	if e.Template != "" || e.Insert != "" {
		return t.edit(o, e)
	}
	node, left := find(o.node, e.Path)
	switch {
	case len(left) == 0 && v.Default.IsZero():
		v.Default = *node
	case len(left) == 0:
		if want, err := text(&v.Default); err != nil || want != must(text(node)) {
			return fmt.Errorf("the manifests say %s, elsewhere or as default %s (%w)", must(text(node)), want, err)
		}
	}
	reference := ".Values." + v.Name
	if len(left) == 0 && node.Kind == yaml.ScalarNode {
		if node.Tag == "!!str" {
			reference += " | quote"
		}
		*node = yaml.Node{Kind: yaml.ScalarNode, Value: t.mark(mark{text: "{{ " + reference + " }}"})}
		return nil
	}
	if len(left) == 0 {
		// A map or list: with its key, since its lines are below it.
		parent, _ := find(o.node, e.Path[:strings.LastIndex(e.Path, "/")])
		left = []string{e.Path[strings.LastIndex(e.Path, "/")+1:]}
		i := slices.Index(parent.Content, node)
		parent.Content = slices.Delete(parent.Content, i-1, i+1)
		node = parent
	}
	if len(left) != 1 {
		return fmt.Errorf("there is no %s", left[0])
	}
	block := "{{- with " + reference + " }}\n" + left[0] + ":{{ toYaml . | nindent 2 }}\n{{- end }}"
	if v.scalar() {
		block = "{{- with " + reference + " }}\n" + left[0] + ": {{ . | quote }}\n{{- end }}"
	}
	t.insert(node, block)
	return nil
}

// scalar says whether the value is no map and no list.
func (v *value) scalar() bool {
	kind := field(&v.Schema, "type")
	return kind == nil || kind.Value != "object" && kind.Value != "array"
}

func (t *templater) edit(o *object, e edit) error {
	node, left := find(o.node, e.Path)
	if len(left) > 0 {
		return fmt.Errorf("there is no %s", left[0])
	}
	switch {
	case e.Insert != "":
		t.insert(node, strings.TrimSuffix(e.Insert, "\n"))
		return nil
	case e.When != "":
		return t.when(o, e, node)
	}
	if node.Kind != yaml.ScalarNode {
		return fmt.Errorf("a template replaces a scalar only")
	}
	*node = yaml.Node{Kind: yaml.ScalarNode, Value: t.mark(mark{text: e.Template})}
	return nil
}

// when puts a condition around the element node of a list.
func (t *templater) when(o *object, e edit, node *yaml.Node) error {
	list, _ := find(o.node, e.Path[:strings.LastIndex(e.Path, "/[")])
	i := slices.Index(list.Content, node)
	if list.Kind != yaml.SequenceNode || i < 0 {
		return errors.New("a condition is for an element of a list only")
	}
	begin := t.mark(mark{text: "{{- if " + e.When + " }}", inserted: true})
	end := t.mark(mark{text: "{{- end }}", inserted: true})
	list.Content = slices.Insert(list.Content, i+1, &yaml.Node{Kind: yaml.ScalarNode, Value: end})
	list.Content = slices.Insert(list.Content, i, &yaml.Node{Kind: yaml.ScalarNode, Value: begin})
	return nil
}

// insert adds lines at the end of a map or list.
func (t *templater) insert(node *yaml.Node, text string) {
	m := t.mark(mark{text: text, inserted: true})
	node.Style = 0 // not on one line
	node.Content = append(node.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: m})
	if node.Kind == yaml.MappingNode {
		node.Content = append(node.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: ""})
	}
}

// files returns the templates.
func (t *templater) files() (map[string][]byte, error) {
	texts := map[string][]byte{}
	for _, o := range t.objects {
		i := slices.IndexFunc(t.config.Files, func(f file) bool { return f.takes(o) })
		if i < 0 {
			return nil, fmt.Errorf("no file of chart.yaml is for %s %s", o.kind, o.name)
		}
		f := t.config.Files[i]
		if f.Name == "" {
			continue
		}
		text, err := t.render(o, f)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", o.kind, o.name, err)
		}
		name := "templates/" + f.Name
		if texts[name] == nil {
			texts[name] = []byte(generated)
		}
		texts[name] = append(texts[name], text...)
	}
	return texts, nil
}

const generated = "{{- /* Made from the kustomize bases by make generate; see hack/chart. */ -}}\n"

func (t *templater) render(o *object, f file) (string, error) {
	metadata := field(o.node, "metadata")
	const labels = `include "offduty.labels" $`
	if have := field(metadata, "labels"); have != nil {
		t.insert(have, "{{- "+labels+" | nindent 0 }}")
	} else {
		t.insert(metadata, "labels:{{ "+labels+" | nindent 2 }}")
	}
	if namespace := field(metadata, "namespace"); namespace != nil && namespace.Value != t.config.Namespace {
		return "", fmt.Errorf("it is in namespace %s, not in %s", namespace.Value, t.config.Namespace)
	}
	manifest, err := t.document(o)
	if err != nil {
		return "", err
	}
	if f.Tenants != "" {
		tenant, err := t.document(o.forTenant(t.mark(mark{text: "{{ . }}"})))
		if err != nil {
			return "", err
		}
		manifest = "{{- range " + f.Tenants + " }}\n" + tenant + "{{- else }}\n" + manifest + "{{- end }}\n"
	}
	if f.When != "" {
		manifest = "{{- if " + f.When + " }}\n" + manifest + "{{- end }}\n"
	}
	return manifest, nil
}

// forTenant returns a ClusterRole or its binding as that of one namespace.
func (o *object) forTenant(namespace string) *object {
	node := *o.node
	node.Content = slices.Clone(node.Content)
	set := func(parent *yaml.Node, key string, value yaml.Node) {
		child := field(parent, key)
		parent.Content[slices.Index(parent.Content, child)] = &value
	}
	kind := strings.TrimPrefix(o.kind, "Cluster")
	set(&node, "kind", yaml.Node{Kind: yaml.ScalarNode, Value: kind})
	metadata := *field(&node, "metadata")
	metadata.Content = slices.Concat(metadata.Content, []*yaml.Node{
		{Kind: yaml.ScalarNode, Value: "namespace"}, {Kind: yaml.ScalarNode, Value: namespace},
	})
	set(&node, "metadata", metadata)
	if role := field(&node, "roleRef"); role != nil {
		own := *role
		own.Content = slices.Clone(own.Content)
		set(&own, "kind", yaml.Node{Kind: yaml.ScalarNode, Value: "Role"})
		set(&node, "roleRef", own)
	}
	return &object{kind: kind, name: o.name, node: &node}
}

// document is one document of a template.
func (t *templater) document(o *object) (string, error) {
	manifest, err := text(o.node)
	if err != nil {
		return "", err
	}
	manifest = braces.ReplaceAllString(manifest, "{{ `$0` }}")
	manifest = strings.ReplaceAll(manifest, t.config.Namespace, "{{ $.Release.Namespace }}")
	return "---\n" + t.replaceMarks(manifest), nil
}

var (
	// braces are what a template would take for its own.
	braces = regexp.MustCompile(`\{\{.*?\}\}|\{\{|\}\}`)
	// A mark that was inserted has a line of its own, as element or key.
	line   = regexp.MustCompile(`(?m)^( *)(?:- )?<<(\d+)>>(?::.*)?$`)
	inline = regexp.MustCompile(`<<(\d+)>>`)
	indent = regexp.MustCompile(`nindent (\d+)`)
)

func (t *templater) replaceMarks(manifest string) string {
	at := func(number string) mark {
		var i int
		_, _ = fmt.Sscan(number, &i)
		return t.marks[i]
	}
	manifest = line.ReplaceAllStringFunc(manifest, func(found string) string {
		parts := line.FindStringSubmatch(found)
		m := at(parts[2])
		if !m.inserted {
			return found
		}
		var lines []string
		for l := range strings.Lines(m.text) {
			l = strings.TrimSuffix(l, "\n")
			l = indent.ReplaceAllStringFunc(l, func(found string) string {
				var more int
				_, _ = fmt.Sscanf(found, "nindent %d", &more)
				return fmt.Sprintf("nindent %d", len(parts[1])+more)
			})
			lines = append(lines, parts[1]+l)
		}
		return strings.Join(lines, "\n")
	})
	return inline.ReplaceAllStringFunc(manifest, func(found string) string {
		return at(inline.FindStringSubmatch(found)[1]).text
	})
}

// text is YAML as we write it.
func text(node *yaml.Node) (string, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(node); err != nil {
		return "", err
	}
	return out.String(), encoder.Close()
}

func must(s string, err error) string {
	if err != nil {
		return err.Error()
	}
	return s
}
