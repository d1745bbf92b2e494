package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"go.yaml.in/yaml/v3"
)

// config is chart.yaml.
type config struct {
	// Source is the kustomization folder with all that the chart can install.
	Source string `yaml:"source"`
	// Namespace is what the manifests call the namespace of the release.
	Namespace string `yaml:"namespace"`
	// Files says which object goes to which template; the first that matches takes it.
	Files []file `yaml:"files"`
	// Edits change the manifests beside the values.
	Edits []edit `yaml:"edits"`
	// Values are the chart's, in the order of the documentation.
	Values []*value `yaml:"values"`
	// Rules are added to the schema as they are: what one value demands of another.
	Rules yaml.Node `yaml:"rules"`
}

// file takes objects by kind, name (with * at the end: prefix), or both.
type file struct {
	// Name of the template; empty: the chart does not have these objects.
	Name  string   `yaml:"name"`
	Kinds []string `yaml:"kinds"`
	Names []string `yaml:"names"`
	// When is the condition under which they are installed, a template expression.
	When string `yaml:"when"`
	// Tenants is a list of namespaces, a template expression: while it is not empty,
	// each of them gets the Role and RoleBinding in place of these cluster-wide ones.
	Tenants string `yaml:"tenants"`
}

// edit changes one place of some objects.
type edit struct {
	// Objects are Kind/name; there may be a * at the end.
	Objects []string `yaml:"objects"`
	// Path leads to the place. The steps are separated by "/": the key of a map;
	// [key=value] for an element of a list of maps; [text*] for one of a list of strings
	// that begins so.
	Path string `yaml:"path"`
	// Template is put in place of the scalar there, as it is.
	Template string `yaml:"template"`
	// Insert adds this template text to the map or list there.
	Insert string `yaml:"insert"`
	// When is a condition for the element of a list that is there.
	When string `yaml:"when"`
}

// value is one value of the chart. Without a place of its own it is used in edits.
type value struct {
	Name  string `yaml:"name"`
	About string `yaml:"about"`
	// Schema is JSON schema.
	Schema yaml.Node `yaml:"schema"`
	// Default is needed if the manifests have nothing at Set.
	Default yaml.Node `yaml:"default"`
	// Set is where the value goes. What is not in the manifests there is left out
	// while the value is empty.
	Set []edit `yaml:"set"`
}

func readConfig(path string) (*config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	c := &config{}
	if err := decoder.Decode(c); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	for _, v := range c.Values {
		if v.Schema.Kind == yaml.AliasNode {
			v.Schema = *v.Schema.Alias
		}
		if v.Name == "" || v.About == "" || v.Schema.IsZero() {
			return nil, fmt.Errorf("read %s: value %q needs a name, about and schema", path, v.Name)
		}
	}
	if c.Namespace == "" || c.Source == "" {
		return nil, errors.New(path + " names no source or no namespace")
	}
	return c, nil
}
