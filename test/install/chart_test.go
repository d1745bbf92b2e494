package install

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestChartPassesHelmLint(t *testing.T) {
	h := newHelm(t)
	h.must(t, "lint", "--strict", "--kube-version", "1.34", chart)
	h.must(t, "lint", "--strict", "--kube-version", "1.34", chart, "--values", everything)
}

// everything sets each value of the chart to something else than its default.
var everything = filepath.Join("testdata", "everything.yaml")

// ofHelm are the labels and annotations that the chart adds to the manifests.
var ofHelm = []string{
	"helm.sh/chart", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version",
	"helm.sh/resource-policy",
}

func TestChartInstallsWhatTheManifestsSay(t *testing.T) {
	h := newHelm(t)
	for name, test := range map[string]struct {
		dir, namespace string
		set            string
	}{
		"by default":               {"config/default", systemNamespace, ""},
		"in another namespace":     {"config/default", "elsewhere", ""},
		"for some namespaces only": {"config/namespaced", systemNamespace, "namespaces={team-a,team-b},tokens.enabled=false"},
		"with everything":          {"hack/chart", systemNamespace, "networkPolicies.enabled=true,monitoring.podMonitor.enabled=true,monitoring.rules.enabled=true"},
	} {
		t.Run(name, func(t *testing.T) {
			want := inNamespace(t, kustomized(t, test.dir), test.namespace)
			delete(want, "Namespace/"+test.namespace) // Helm makes it
			got := h.rendered(t, "--namespace", test.namespace, "--set", test.set)
			if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
				t.Errorf("the chart has other objects than %s (- want, + got):\n%s", test.dir, diff)
			}
			for key, o := range got {
				plain(o)
				if diff := cmp.Diff(want[key], o); diff != "" {
					t.Errorf("%s is not as in %s (- want, + got):\n%s", key, test.dir, diff)
				}
			}
		})
	}
}

// inNamespace returns the objects as they are for another namespace.
func inNamespace(t *testing.T, objects map[string]*unstructured.Unstructured, namespace string) map[string]*unstructured.Unstructured {
	t.Helper()
	var manifests strings.Builder
	for _, o := range objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		manifests.WriteString("---\n" + strings.ReplaceAll(string(text), systemNamespace, namespace))
	}
	return byName(t, []byte(manifests.String()))
}

// plain takes away what Helm adds.
func plain(o *unstructured.Unstructured) {
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	for _, key := range ofHelm {
		delete(labels, key)
		delete(annotations, key)
	}
	if len(labels) == 0 {
		labels = nil
	}
	o.SetLabels(labels)
	if len(annotations) == 0 {
		annotations = nil
	}
	o.SetAnnotations(annotations)
}

func TestChartValues(t *testing.T) {
	h := newHelm(t)
	upgrader := func(objects map[string]*unstructured.Unstructured) string {
		text, err := yaml.Marshal(objects["Deployment/offduty-system/offduty-upgrader"])
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, test := range map[string]struct {
		args  []string
		check func(map[string]*unstructured.Unstructured) bool
	}{
		"the images come from a registry, at a tag": {
			[]string{"--set", "image.registry=registry.example:5000/mirror,image.tag=v1"},
			func(o map[string]*unstructured.Unstructured) bool {
				return strings.Contains(upgrader(o), "image: registry.example:5000/mirror/offduty/upgrader:v1\n")
			},
		},
		"a digest goes before the tag": {
			[]string{"--set", "image.tag=v1,upgrader.image.digest=sha256:" + strings.Repeat("0", 64)},
			func(o map[string]*unstructured.Unstructured) bool {
				return strings.Contains(upgrader(o), "image: offduty/upgrader@sha256:"+strings.Repeat("0", 64)+"\n")
			},
		},
		"another arbiter takes the place of the chart's": {
			[]string{"--set", "arbiter.enabled=false,arbiter.address=voters.example:9443,arbiter.tlsSecretName=voters"},
			func(o map[string]*unstructured.Unstructured) bool {
				for key := range o {
					if strings.Contains(key, "offduty-arbiter") {
						return false
					}
				}
				return strings.Contains(upgrader(o), "- --arbiter-address=voters.example:9443\n") &&
					strings.Contains(upgrader(o), "secretName: voters\n")
			},
		},
		"the definitions can be left to somebody else": {
			[]string{"--set", "crds.install=false"},
			func(o map[string]*unstructured.Unstructured) bool {
				return o["CustomResourceDefinition/upgradeplans.offduty.dev"] == nil
			},
		},
		"the definitions stay when the release goes": {
			nil,
			func(o map[string]*unstructured.Unstructured) bool {
				return o["CustomResourceDefinition/upgradeplans.offduty.dev"].GetAnnotations()["helm.sh/resource-policy"] == "keep"
			},
		},
		"further arguments come last": {
			[]string{"--set", "upgrader.extraArgs={--lease-ttl=1m}"},
			func(o map[string]*unstructured.Unstructured) bool {
				return strings.Contains(upgrader(o), "- --lease-ttl=1m\n        image:")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := h.rendered(t, test.args...); !test.check(got) {
				t.Errorf("the upgrader is\n%s", upgrader(got))
			}
		})
	}
}

func TestChartRefusesBadValues(t *testing.T) {
	h := newHelm(t)
	for name, test := range map[string]struct{ set, want string }{
		"a value that does not exist":       {"upgrader.replica=3", "replica"},
		"no upgrader":                       {"upgrader.replicas=0", "/upgrader/replicas"},
		"a text for a number":               {"upgrader.replicas=many", "/upgrader/replicas"},
		"a pull policy that does not exist": {"image.pullPolicy=Sometimes", "/image/pullPolicy"},
		"a digest that is none":             {"arbiter.image.digest=sha256:123", "/arbiter/image/digest"},
		"an address without a port":         {"arbiter.address=voters.example", "/arbiter/address"},
		"no arbiter at all":                 {"arbiter.enabled=false", "/arbiter"},
		"a namespace that cannot be":        {"namespaces={Team}", "/namespaces/0"},
		"a text for a list":                 {"upgrader.extraArgs=--zap", "/upgrader/extraArgs"},
		"a text for a map":                  {"upgrader.resources=much", "/upgrader/resources"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.run(t.Context(), "template", "offduty", chart, "--kube-version", "1.34", "--set", test.set)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("with %s: %v; want an error that names %s", test.set, err, test.want)
			}
		})
	}
}

// TestEverythingIsTested keeps everything.yaml complete: the API server is asked about it.
func TestEverythingIsTested(t *testing.T) {
	want := valueNames(t, filepath.Join(chart, "values.yaml"))
	if diff := cmp.Diff(want, valueNames(t, everything)); diff != "" {
		t.Errorf("testdata/everything.yaml does not have the values of the chart (- want, + got):\n%s", diff)
	}
}

// valueNames are the names of the values in a file, down to the second level.
func valueNames(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		t.Fatal(err)
	}
	var names []string
	for section, inner := range values {
		fields, ok := inner.(map[string]any)
		if !ok || section == "commonLabels" { // whose keys are anybody's
			fields = map[string]any{"": nil}
		}
		for field := range fields {
			names = append(names, section+"."+field)
		}
	}
	slices.Sort(names)
	return names
}
