// Package monitoring holds the alerts of config/monitoring, their runbooks and the metrics
// against each other.
package monitoring

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"sigs.k8s.io/yaml"
)

// Rule is an alert or a recording rule.
type Rule struct {
	Alert       string            `json:"alert"`
	Record      string            `json:"record"`
	Expr        string            `json:"expr"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// Rules reads config/monitoring/rules.yaml; root is the module's folder.
func Rules(root string) ([]Rule, error) {
	text, err := os.ReadFile(filepath.Join(root, "config", "monitoring", "rules.yaml"))
	if err != nil {
		return nil, err
	}
	var file struct {
		Groups []struct {
			Rules []Rule `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("read the rules: %w", err)
	}
	var out []Rule
	for _, g := range file.Groups {
		out = append(out, g.Rules...)
	}
	return out, nil
}

// Names of metrics are what has one of the prefixes of what the daemons serve. That of a
// histogram is followed by the name of one of its series.
var (
	name      = regexp.MustCompile(`\b(?:offduty|controller_runtime|leader_election|workqueue|rest_client)_[a-z0-9_]+`)
	histogram = regexp.MustCompile(`_(?:bucket|sum|count)$`)
)

// Metrics are the names of the metrics in text, once each.
func Metrics(text string) []string {
	var out []string
	for _, n := range name.FindAllString(text, -1) {
		out = append(out, histogram.ReplaceAllString(n, ""))
	}
	slices.Sort(out)
	return slices.Compact(out)
}
