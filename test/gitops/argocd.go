// Package gitops runs what delivery tools run on our objects: Argo CD's health scripts in
// the Lua that Argo CD uses. It is apart from test/e2e so that captured objects can be
// judged without a cluster.
package gitops

import (
	"fmt"
	"os"
	"path/filepath"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Customizations is the folder of the health scripts in the module, laid out as in Argo
// CD's own resource_customizations.
const Customizations = "config/gitops/argocd/resource_customizations"

// Health is what a script answers. Status is Healthy, Progressing, Degraded or Suspended.
type Health struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

// Script reads the health script for a kind; root is the module's folder.
func Script(root, group, kind string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, Customizations, group, kind, "health.lua"))
	if err != nil {
		return "", fmt.Errorf("read the health script of %s/%s: %w", group, kind, err)
	}
	return string(b), nil
}

// HealthOf runs a script on an object as Argo CD runs one that comes from argocd-cm: with
// the base and table libraries and nothing else (util/lua/lua.go, runLua; its package and
// os libraries are not needed here).
func HealthOf(script string, obj *unstructured.Unstructured) (Health, error) {
	l := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer l.Close()
	for name, open := range map[string]lua.LGFunction{lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := l.CallByParam(lua.P{Fn: l.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return Health{}, fmt.Errorf("open Lua's library %q: %w", name, err)
		}
	}
	l.SetGlobal("obj", toLua(l, obj.Object))
	if err := l.DoString(script); err != nil {
		return Health{}, fmt.Errorf("run the health script on %s %s: %w", obj.GetKind(), obj.GetName(), err)
	}
	table, ok := l.Get(-1).(*lua.LTable)
	if !ok {
		return Health{}, fmt.Errorf("the health script answers a %s for %s %s, not a table", l.Get(-1).Type(), obj.GetKind(), obj.GetName())
	}
	return Health{Status: lua.LVAsString(table.RawGetString("status")), Message: lua.LVAsString(table.RawGetString("message"))}, nil
}

// toLua turns decoded JSON into Lua's values.
func toLua(l *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case bool:
		return lua.LBool(v)
	case int64:
		return lua.LNumber(v)
	case float64:
		return lua.LNumber(v)
	case string:
		return lua.LString(v)
	case []any:
		t := l.CreateTable(len(v), 0)
		for _, item := range v {
			t.Append(toLua(l, item))
		}
		return t
	case map[string]any:
		t := l.CreateTable(0, len(v))
		for key, item := range v {
			t.RawSetString(key, toLua(l, item))
		}
		return t
	}
	return lua.LNil
}
