// Command chart makes the Helm chart from the kustomize bases, so that there is one source
// of what is installed. hack/chart/chart.yaml says which values the chart has and where in
// the manifests each of them goes; templates, values.yaml, its schema and the table in the
// README are made from that. The default of a value is what the manifests say.
//
//	hack/tool chart hack/chart config/chart
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: chart FOLDER-OF-chart.yaml FOLDER-OF-THE-CHART, in the root of the repository")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

// run makes the chart in folder out anew from folder in.
func run(in, out string) error {
	c, err := readConfig(filepath.Join(in, "chart.yaml"))
	if err != nil {
		return err
	}
	objects, err := build(c.Source)
	if err != nil {
		return err
	}
	t := &templater{config: c, objects: objects}
	if err := t.apply(); err != nil {
		return err
	}
	files, err := t.files()
	if err != nil {
		return err
	}
	if files["values.yaml"], err = valuesYAML(c.Values); err != nil {
		return err
	}
	if files["values.schema.json"], err = schema(c.Values, c.Rules); err != nil {
		return err
	}
	if err := addStatic(files, in, readmeTable(c.Values)); err != nil {
		return err
	}
	return replace(out, files)
}

// replace makes dir hold exactly files.
func replace(dir string, files map[string][]byte) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	var problems []error
	for name, data := range files {
		path := filepath.Join(dir, name)
		problems = append(problems, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644))
	}
	return errors.Join(problems...)
}
