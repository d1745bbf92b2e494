package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/controlplane"
)

// Flipper asks for other workers as fast as it can.
type Flipper struct {
	cancel context.CancelFunc
	done   chan struct{}
	flips  int
	errors []error
}

// Flip begins to flip the duty of a stage. Each flip names three of the five replicas, or
// if named is false demands one to three of them.
func (s *Stage) Flip(ctx context.Context, named bool, seed uint64) (*Flipper, error) {
	k, err := s.Cluster.Client(ctx, controlplane.User("e2e-flipper", "system:masters"), nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	f := &Flipper{cancel: cancel, done: make(chan struct{})}
	random := rand.New(rand.NewPCG(seed, seed))
	go func() {
		defer close(f.done)
		for ctx.Err() == nil {
			// Not with ctx: a request that is cut off may have been carried out.
			f.flip(context.WithoutCancel(ctx), k, s.Namespace, wish(random, named))
		}
	}()
	return f, nil
}

// wish is a merge patch of spec.assigned.
func wish(random *rand.Rand, named bool) map[string]any {
	if !named {
		return map[string]any{"workers": 1 + random.IntN(3), "working": nil}
	}
	names := []string{}
	for _, o := range random.Perm(5)[:3] {
		names = append(names, fmt.Sprintf("sample-%d", o))
	}
	return map[string]any{"working": names, "workers": nil}
}

func (f *Flipper) flip(ctx context.Context, k client.Client, namespace string, assigned map[string]any) {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"assigned": assigned}})
	if err == nil {
		roster := &unstructured.Unstructured{}
		roster.SetAPIVersion("offduty.dev/v1alpha1")
		roster.SetKind("Roster")
		roster.SetNamespace(namespace)
		roster.SetName(Group)
		err = k.Patch(ctx, roster, client.RawPatch(types.MergePatchType, patch))
	}
	if err != nil {
		f.errors = append(f.errors, err)
		return
	}
	f.flips++
}

// Stop ends the flipping and says how often duty was flipped, and how often that failed.
func (f *Flipper) Stop() (flips int, errors []error) {
	f.cancel()
	<-f.done
	return f.flips, f.errors
}
