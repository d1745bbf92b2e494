package gitops

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// read decodes numbers as the API machinery does: int64 where they are whole.
func read(t *testing.T, path string) *unstructured.Unstructured {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = yaml.YAMLToJSON(b); err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(b); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return u
}

// scripts lists the folders of the health scripts.
func scripts(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, Customizations, "*", "*", "health.lua"))
	if err != nil || len(files) != 3 {
		t.Fatalf("the health scripts are %v (%v), not three", files, err)
	}
	dirs := make([]string, 0, len(files))
	for _, f := range files {
		dirs = append(dirs, filepath.Dir(f))
	}
	return dirs
}

// table is a health_test.yaml.
type table struct {
	Tests []struct {
		InputPath    string `json:"inputPath"`
		HealthStatus Health `json:"healthStatus"`
	} `json:"tests"`
}

func tableOf(t *testing.T, dir string) table {
	t.Helper()
	var out table
	b, err := os.ReadFile(filepath.Join(dir, "health_test.yaml"))
	if err == nil {
		err = yaml.UnmarshalStrict(b, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "testdata", "*")); len(files) != len(out.Tests) {
		t.Errorf("%s: %d objects, %d tests", dir, len(files), len(out.Tests))
	}
	return out
}

func scriptIn(t *testing.T, dir string) string {
	t.Helper()
	script, err := Script(root, filepath.Base(filepath.Dir(dir)), filepath.Base(dir))
	if err != nil {
		t.Fatal(err)
	}
	return script
}

// The objects in testdata are from a run of TestDeliveryFromGit with -capture.
func TestCapturedObjects(t *testing.T) {
	for _, dir := range scripts(t) {
		script := scriptIn(t, dir)
		for _, tt := range tableOf(t, dir).Tests {
			t.Run(filepath.Base(dir)+"/"+filepath.Base(tt.InputPath), func(t *testing.T) {
				got, err := HealthOf(script, read(t, filepath.Join(dir, tt.InputPath)))
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.HealthStatus, got); diff != "" {
					t.Errorf("health (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// What no plan has: a set as Kruise leads it by itself.
func TestASetWithoutAPlan(t *testing.T) {
	script, err := Script(root, "apps.kruise.io", "StatefulSet")
	if err != nil {
		t.Fatal(err)
	}
	type fields = map[string]any
	rolling := func(f fields) fields {
		return fields{"type": "RollingUpdate", "rollingUpdate": f}
	}
	for _, tt := range []struct {
		name             string
		replicas         any
		strategy, status fields
		want             Health
	}{
		{
			"all updated and ready", int64(5), rolling(fields{"partition": int64(0)}),
			fields{},
			Health{"Healthy", "5 of 5 replicas are ready and updated"},
		},
		{
			"a rollout under way", int64(5), rolling(fields{}),
			fields{"updatedReplicas": int64(2)},
			Health{"Progressing", "2 of 5 replicas are updated"},
		},
		{
			"as far as the partition lets it", int64(5), rolling(fields{"partition": int64(3)}),
			fields{"updatedReplicas": int64(2)},
			Health{"Suspended", "2 of 5 replicas are updated; partition 3 keeps the others back"},
		},
		{
			"not yet as far as the partition lets it", int64(5), rolling(fields{"partition": int64(3)}),
			fields{"updatedReplicas": int64(1)},
			Health{"Progressing", "1 of 2 replicas are updated"},
		},
		{
			"a partition that hides nothing any more", int64(5), rolling(fields{"partition": int64(3)}),
			fields{},
			Health{"Healthy", "5 of 5 replicas are ready and updated"},
		},
		{
			"parked, as a deleted plan may leave it", int64(5), rolling(fields{"partition": int64(2147483647)}),
			fields{"updatedReplicas": int64(4)},
			Health{"Suspended", "4 of 5 replicas are updated; partition 2147483647 keeps the others back"},
		},
		{
			"a paused rollout", int64(5), rolling(fields{"paused": true}),
			fields{"updatedReplicas": int64(1)},
			Health{"Suspended", "1 of 5 replicas are updated; the update is paused"},
		},
		{
			"OnDelete", int64(5),
			fields{"type": "OnDelete"},
			fields{"updatedReplicas": int64(1)},
			Health{"Suspended", "1 of 5 replicas are updated; the others wait to be deleted (OnDelete)"},
		},
		{
			"one replica not ready", int64(5), rolling(fields{}),
			fields{"readyReplicas": int64(4)},
			Health{"Progressing", "4 of 5 replicas are ready"},
		},
		{
			"pods that cannot be created", int64(5), rolling(fields{}),
			fields{"conditions": []any{fields{"type": "FailedCreatePod", "status": "True", "message": "exceeded quota"}}},
			Health{"Degraded", "FailedCreatePod: exceeded quota"},
		},
		{
			"no replicas wanted", int64(0), rolling(fields{}),
			fields{"replicas": nil, "readyReplicas": nil, "updatedReplicas": nil},
			Health{"Healthy", "0 of 0 replicas are ready and updated"},
		},
		{
			"replicas and strategy left to their defaults", nil, nil,
			fields{"replicas": int64(1), "readyReplicas": int64(1), "updatedReplicas": int64(1)},
			Health{"Healthy", "1 of 1 replicas are ready and updated"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status := fields{"observedGeneration": int64(2), "replicas": int64(5), "readyReplicas": int64(5), "updatedReplicas": int64(5)}
			maps.Copy(status, tt.status)
			got, err := HealthOf(script, &unstructured.Unstructured{Object: fields{
				"kind": "StatefulSet", "metadata": fields{"name": "web", "generation": int64(2)},
				"spec": fields{"replicas": tt.replicas, "updateStrategy": tt.strategy}, "status": status,
			}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("health (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheConfigMapHasTheScripts(t *testing.T) {
	got, _, err := unstructured.NestedStringMap(read(t, filepath.Join(root, "config/gitops/argocd/argocd-cm.yaml")).Object, "data")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, dir := range scripts(t) {
		group, kind := filepath.Base(filepath.Dir(dir)), filepath.Base(dir)
		want["resource.customizations.health."+group+"_"+kind] = scriptIn(t, dir)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("argocd-cm.yaml is not what make generate would write (-want +got):\n%s", diff)
	}
}
