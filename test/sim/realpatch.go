package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// This file is what the API server does with a patch, as far as an upgrader can tell: the
// bytes are applied to the object as it is then.

// patched applies a patch to an object and reads the result into the same type. Errors are
// those of the API server (k8s.io/apiserver, pkg/endpoints/handlers/patch.go).
func patched[T any](kind string, live *T, t types.PatchType, patch []byte) (*T, error) {
	old, err := json.Marshal(live)
	if err != nil {
		return nil, err
	}
	var next []byte
	switch t { //nolint:exhaustive // server-side apply has a call of its own
	case types.JSONPatchType:
		p, err := jsonpatch.DecodePatch(patch)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if next, err = p.Apply(old); err != nil {
			return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
		}
	case types.MergePatchType:
		if next, err = jsonpatch.MergePatch(old, patch); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	case types.StrategicMergePatchType:
		if next, err = strategicpatch.StrategicMergePatch(old, patch, *live); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("patch type %s of %s", t, kind))
	}
	return decoded[T](next)
}

func decoded[T any](b []byte) (*T, error) {
	o := new(T)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(o); err != nil {
		return nil, apierrors.NewBadRequest("strict decoding: " + err.Error())
	}
	return o, nil
}

// conflict is what the API server says when a precondition in metadata does not hold.
func conflict(kind, name, what string) error {
	return apierrors.NewConflict(schema.GroupResource{Resource: kind}, name, fmt.Errorf("%s: %w", what, errConflict))
}

// unknown says what of an object the model has no field for; "": nothing. got is the object
// as it was patched, back as the model keeps it.
func unknown(got, back any) string {
	a, b := tree(got), tree(back)
	if reflect.DeepEqual(a, b) {
		return ""
	}
	return strings.Join(differ("", a, b), "; ")
}

// tree is the JSON of an object, with lists of conditions in the order of their types.
func tree(o any) any {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		panic(err)
	}
	return sorted(v)
}

func sorted(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if k == "resourceVersion" || k == "generation" {
				delete(v, k)
				continue
			}
			v[k] = sorted(e)
		}
	case []any:
		slices.SortStableFunc(v, func(a, b any) int { return strings.Compare(typeOf(a), typeOf(b)) })
	}
	return v
}

func typeOf(v any) string {
	m, _ := v.(map[string]any)
	t, _ := m["type"].(string)
	return t
}

func differ(path string, a, b any) []string {
	x, ok := a.(map[string]any)
	y, also := b.(map[string]any)
	if !ok || !also {
		if reflect.DeepEqual(a, b) {
			return nil
		}
		return []string{fmt.Sprintf("%s is %v, the model has %v", path, a, b)}
	}
	all := maps.Clone(x)
	maps.Copy(all, y)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		out = append(out, differ(path+"."+k, x[k], y[k])...)
	}
	return out
}

// owned is what a manager's last server-side apply set, by path. What it does not set any
// more is removed, unless somebody else had set it too (k8s.io/apimachinery,
// pkg/util/managedfields). A value that was changed since by somebody else is not its own
// any more. It is kept as text, so that a Set can be compared.
type owned map[string]leaf

type leaf struct {
	Value any `json:"v"`
	// Shared: it had that value before.
	Shared bool `json:"s,omitempty"`
}

func ownedFrom(text string) owned {
	o := owned{}
	if text != "" {
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			panic(err)
		}
	}
	return o
}

func (o owned) String() string {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// serverSideApply merges a configuration into an object by force. Lists are atomic: none
// of those that are applied to a set has a key in Kruise's CRD.
func serverSideApply(live, config map[string]any, was owned) owned {
	next := owned{}
	leaves(nil, config, func(path []string, value any) {
		key := strings.Join(path, "\x00")
		present, ok := lookup(live, path)
		same := ok && reflect.DeepEqual(present, value)
		old, mine := was[key]
		next[key] = leaf{Value: value, Shared: same && (!mine || old.Shared || !reflect.DeepEqual(old.Value, present))}
		assign(live, path, value)
	})
	for key, l := range was {
		if _, still := next[key]; still || l.Shared {
			continue
		}
		path := strings.Split(key, "\x00")
		if v, ok := lookup(live, path); ok && reflect.DeepEqual(v, l.Value) {
			remove(live, path)
		}
	}
	return next
}

func leaves(path []string, v any, visit func([]string, any)) {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 {
		visit(path, v)
		return
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		leaves(append(slices.Clone(path), k), m[k], visit)
	}
}

func lookup(m map[string]any, path []string) (any, bool) {
	v, ok := m[path[0]]
	if !ok || len(path) == 1 {
		return v, ok
	}
	next, ok := v.(map[string]any)
	if !ok {
		return nil, false
	}
	return lookup(next, path[1:])
}

func assign(m map[string]any, path []string, v any) {
	if len(path) == 1 {
		m[path[0]] = v
		return
	}
	next, ok := m[path[0]].(map[string]any)
	if !ok {
		next = map[string]any{}
		m[path[0]] = next
	}
	assign(next, path[1:], v)
}

// remove also removes the maps that are empty then.
func remove(m map[string]any, path []string) {
	if len(path) == 1 {
		delete(m, path[0])
		return
	}
	if next, ok := m[path[0]].(map[string]any); ok {
		if remove(next, path[1:]); len(next) == 0 {
			delete(m, path[0])
		}
	}
}

// versionOf reads a resourceVersion; 0 is none.
func versionOf(rv string) int {
	n, _ := strconv.Atoi(rv)
	return n
}
