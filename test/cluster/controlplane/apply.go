package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/binaries"
)

// fieldManager owns what Apply writes.
const fieldManager = "offduty-test"

// Kustomize renders a kustomization folder, for Apply.
func (c *Cluster) Kustomize(ctx context.Context, dir string) ([]byte, error) {
	return binaries.Kustomize(ctx, c.binaries, dir)
}

// Apply applies YAML documents as admin, server-side and by force: namespaces
// and CRDs first, then the rest in the given order. Objects of a namespaced
// kind without a namespace go to "default".
func (c *Cluster) Apply(ctx context.Context, manifests ...[]byte) error {
	var objects []*unstructured.Unstructured
	for _, manifest := range manifests {
		decoded, err := Decode(manifest)
		if err != nil {
			return err
		}
		objects = append(objects, decoded...)
	}
	return c.ApplyObjects(ctx, objects...)
}

// ApplyFiles is Apply for the content of files.
func (c *Cluster) ApplyFiles(ctx context.Context, paths ...string) error {
	var manifests [][]byte
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read a manifest: %w", err)
		}
		manifests = append(manifests, data)
	}
	return c.Apply(ctx, manifests...)
}

// ApplyObjects is Apply for decoded objects, which it does not change.
func (c *Cluster) ApplyObjects(ctx context.Context, objects ...*unstructured.Unstructured) error {
	admin, err := c.Client(ctx, Admin(), nil)
	if err != nil {
		return err
	}
	first, rest := partition(objects)
	for _, object := range first {
		if err := applyObject(ctx, admin, object); err != nil {
			return err
		}
	}
	for _, object := range first {
		if err := awaitEstablished(ctx, admin, object); err != nil {
			return err
		}
	}
	for _, object := range rest {
		if err := applyObject(ctx, admin, object); err != nil {
			return err
		}
	}
	return nil
}

// partition puts apart what others need to exist before them.
func partition(objects []*unstructured.Unstructured) (first, rest []*unstructured.Unstructured) {
	for _, object := range objects {
		if kind := object.GetKind(); kind == "Namespace" || kind == "CustomResourceDefinition" {
			first = append(first, object)
		} else {
			rest = append(rest, object)
		}
	}
	return first, rest
}

func applyObject(ctx context.Context, admin client.Client, object *unstructured.Unstructured) error {
	object = object.DeepCopy()
	mapping, err := admin.RESTMapper().RESTMapping(object.GroupVersionKind().GroupKind(), object.GroupVersionKind().Version)
	if err != nil {
		return fmt.Errorf("apply %s: the API server does not know its kind: %w", describe(object), err)
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace && object.GetNamespace() == "" {
		object.SetNamespace(metav1.NamespaceDefault)
	}
	err = admin.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(fieldManager), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("apply %s: %w", describe(object), err)
	}
	return nil
}

// awaitEstablished waits until the API server serves the CRD object; other kinds pass.
func awaitEstablished(ctx context.Context, admin client.Client, object *unstructured.Unstructured) error {
	if object.GetKind() != "CustomResourceDefinition" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return Until(ctx, describe(object)+" is established", func(ctx context.Context) error {
		var crd unstructured.Unstructured
		crd.SetGroupVersionKind(object.GroupVersionKind())
		if err := admin.Get(ctx, client.ObjectKeyFromObject(object), &crd); err != nil {
			return err
		}
		conditions, _, err := unstructured.NestedSlice(crd.Object, "status", "conditions")
		if err != nil {
			return err // they are null until the API server has looked at it first
		}
		established := slices.ContainsFunc(conditions, func(condition any) bool {
			fields, ok := condition.(map[string]any)
			return ok && fields["type"] == "Established" && fields["status"] == "True"
		})
		if !established {
			return fmt.Errorf("its conditions are %v", conditions)
		}
		return nil
	})
}

// Delete deletes the objects of YAML documents as admin, the last one first.
// What is not there is not an error; it does not wait until they are gone.
func (c *Cluster) Delete(ctx context.Context, manifests ...[]byte) error {
	admin, err := c.Client(ctx, Admin(), nil)
	if err != nil {
		return err
	}
	var objects []*unstructured.Unstructured
	for _, manifest := range manifests {
		decoded, err := Decode(manifest)
		if err != nil {
			return err
		}
		objects = append(objects, decoded...)
	}
	for _, object := range slices.Backward(objects) {
		if object.GetNamespace() == "" {
			object.SetNamespace(metav1.NamespaceDefault) // ignored where the kind has none
		}
		err := admin.Delete(ctx, object, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if err != nil && !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err) {
			return fmt.Errorf("delete %s: %w", describe(object), err)
		}
	}
	return nil
}

// Decode reads YAML or JSON documents; empty ones are left out, lists are not
// taken apart.
func Decode(manifest []byte) ([]*unstructured.Unstructured, error) {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096)
	var objects []*unstructured.Unstructured
	for {
		var fields map[string]any
		err := decoder.Decode(&fields)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("decode document %d of a manifest: %w", len(objects)+1, err)
		}
		if len(fields) == 0 {
			continue
		}
		object := &unstructured.Unstructured{Object: fields}
		if object.GroupVersionKind() == (schema.GroupVersionKind{}) || object.GetName() == "" {
			return nil, fmt.Errorf("decode document %d of a manifest: it has no apiVersion, kind or name", len(objects)+1)
		}
		objects = append(objects, object)
	}
}

func describe(object *unstructured.Unstructured) string {
	if object.GetNamespace() == "" {
		return object.GetKind() + " " + object.GetName()
	}
	return object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
}
