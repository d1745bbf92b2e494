package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/yaml"
)

// dumped are the groups whose objects Dump writes in full, besides pods,
// events and leases.
var dumped = []string{"offduty.dev", "apps.kruise.io"}

// Dump writes pods, events, leases and all objects of Kruise and offduty.dev
// to one YAML file.
func (c *Cluster) Dump(ctx context.Context, path string) error {
	kinds := []schema.GroupVersionKind{
		{Version: "v1", Kind: "Pod"},
		{Version: "v1", Kind: "Event"},
		{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease"},
	}
	more, err := c.kindsOf(ctx, dumped...)
	if err != nil {
		return err
	}
	admin, err := c.Client(ctx, Admin(), nil)
	if err != nil {
		return err
	}
	var out strings.Builder
	for _, kind := range append(kinds, more...) {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := admin.List(ctx, list); err != nil {
			fmt.Fprintf(&out, "# %s could not be listed: %v\n", kind.Kind, err)
			continue
		}
		for _, item := range list.Items {
			unstructured.RemoveNestedField(item.Object, "metadata", "managedFields")
			text, err := yaml.Marshal(item.Object)
			if err != nil {
				return fmt.Errorf("encode %s: %w", describe(&item), err)
			}
			out.WriteString("---\n" + string(text))
		}
	}
	return os.WriteFile(path, []byte(out.String()), 0o600)
}

// kindsOf are the kinds that the API server serves in the preferred version of
// the groups, without subresources.
func (c *Cluster) kindsOf(ctx context.Context, groups ...string) ([]schema.GroupVersionKind, error) {
	config, err := c.RESTConfig(ctx, Admin())
	if err != nil {
		return nil, err
	}
	api, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a discovery client: %w", err)
	}
	var kinds []schema.GroupVersionKind
	lists, err := api.ServerPreferredResources()
	if err != nil && len(lists) == 0 {
		return nil, errors.Join(errors.New("ask for the kinds that are served"), err)
	}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("read the kinds that are served: %w", err)
		}
		if !slices.Contains(groups, version.Group) {
			continue
		}
		for _, resource := range list.APIResources {
			kinds = append(kinds, version.WithKind(resource.Kind))
		}
	}
	return kinds, nil
}
