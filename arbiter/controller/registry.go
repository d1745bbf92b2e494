// Package controller wires the groups to Kubernetes: Rosters and pods go in, the duty
// label and the fence of expired leases come out.
package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/duty"
	"offduty.dev/arbiter/server"
)

// Registry keeps the running groups, by key.
type Registry struct {
	// Reader tells whether a Roster exists that has no group yet.
	Reader client.Reader
	// Namespaces whose Rosters are read; empty: all.
	Namespaces []string

	mu     sync.Mutex
	groups map[types.NamespacedName]*running
	wg     sync.WaitGroup
}

type running struct {
	group  *duty.Group
	uid    types.UID
	cancel context.CancelFunc
}

var _ server.Groups = (*Registry)(nil)

// Group implements server.Groups.
func (r *Registry) Group(ctx context.Context, key string) (*duty.Group, error) {
	name, ok := parseKey(key)
	if !ok {
		return nil, fmt.Errorf("group %q: %w: a group is named <namespace>/<roster>", key, server.ErrNoGroup)
	}
	if g := r.get(name); g != nil {
		return g, nil
	}
	if len(r.Namespaces) > 0 && !slices.Contains(r.Namespaces, name.Namespace) {
		return nil, fmt.Errorf("group %q: %w: this arbiter serves the namespaces %s (its flag --namespaces)",
			key, server.ErrNoGroup, strings.Join(r.Namespaces, ", "))
	}
	var obj v1alpha1.Roster
	switch err := r.Reader.Get(ctx, name, &obj); {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("group %q: %w: create the Roster %s in namespace %s", key, server.ErrNoGroup, name.Name, name.Namespace)
	case err != nil:
		return nil, fmt.Errorf("group %q: %w: read its Roster: %w", key, duty.ErrUnavailable, err)
	}
	return nil, fmt.Errorf("group %q: %w: its Roster is being read in", key, duty.ErrUnavailable)
}

func (r *Registry) get(name types.NamespacedName) *duty.Group {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.groups[name]; g != nil {
		return g.group
	}
	return nil
}

// ensure returns the group of a Roster and starts it if it is not running. A Roster that
// was deleted and made anew is another group.
func (r *Registry) ensure(ctx context.Context, name types.NamespacedName, uid types.UID, make func() *duty.Group, watch func(context.Context, *duty.Group)) *duty.Group {
	r.mu.Lock()
	old := r.groups[name]
	r.mu.Unlock()
	if old != nil && old.uid == uid {
		return old.group
	}
	r.remove(name)
	ctx, cancel := context.WithCancel(ctx)
	g := make()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.groups == nil {
		r.groups = map[types.NamespacedName]*running{}
	}
	r.groups[name] = &running{group: g, uid: uid, cancel: cancel}
	r.wg.Go(func() { g.Run(ctx) })
	r.wg.Go(func() { watch(ctx, g) })
	return g
}

// remove stops the group of a Roster that is gone, and waits for its end.
func (r *Registry) remove(name types.NamespacedName) {
	r.mu.Lock()
	old := r.groups[name]
	delete(r.groups, name)
	r.mu.Unlock()
	if old == nil {
		return
	}
	old.cancel()
	<-old.group.Stopped()
}

// Each calls fn with every group that runs.
func (r *Registry) Each(fn func(*duty.Group)) {
	r.mu.Lock()
	groups := make([]*duty.Group, 0, len(r.groups))
	for _, g := range r.groups {
		groups = append(groups, g.group)
	}
	r.mu.Unlock()
	for _, g := range groups {
		fn(g)
	}
}

// Wait returns when every group has stopped.
func (r *Registry) Wait() { r.wg.Wait() }

func parseKey(key string) (types.NamespacedName, bool) {
	for i := range len(key) {
		if key[i] == '/' && i > 0 && i < len(key)-1 {
			return types.NamespacedName{Namespace: key[:i], Name: key[i+1:]}, true
		}
	}
	return types.NamespacedName{}, false
}
