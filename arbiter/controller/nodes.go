package controller

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/arbiter/duty"
)

// nodes remembers the labels of the nodes that pods of rosters with spread run on. A cache would
// follow every node of the cluster, each of which changes every few seconds, for labels that
// hardly ever do.
type nodes struct {
	mu   sync.Mutex
	seen map[string]node
}

type node struct {
	labels map[string]string
	at     time.Time
}

// nodesFor is how long the labels of a node are believed.
const nodesFor = time.Minute

// place completes the settings of a roster with spread by the topology domains of its pods' nodes.
// One that may not read nodes leases nothing, and says so.
func (n *nodes) place(ctx context.Context, reader client.Reader, pods map[string]*corev1.Pod, settings *duty.Settings, now time.Time) error {
	key := settings.Spread
	if key == "" {
		return nil
	}
	settings.Domains = map[string]string{}
	for _, p := range pods {
		name := p.Spec.NodeName
		if name == "" || settings.Domains[name] != "" {
			continue
		}
		if key == corev1.LabelHostname {
			settings.Domains[name] = name // one node, one domain: nothing to read
			continue
		}
		labels, err := n.labels(ctx, reader, name, now)
		switch {
		case apierrors.IsForbidden(err):
			settings.Unclear = fmt.Sprintf("spec.spread.topologyKey: read node %s: %v: bind the ClusterRole offduty-arbiter-nodes to the arbiter", name, err)
			return nil
		case err != nil:
			return fmt.Errorf("read the topology domain of node %s: %w", name, err)
		}
		settings.Domains[name] = labels[key]
	}
	return nil
}

// labels are those of a node; none for one that is gone.
func (n *nodes) labels(ctx context.Context, reader client.Reader, name string, now time.Time) (map[string]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l, ok := n.seen[name]; ok && now.Sub(l.at) < nodesFor {
		return l.labels, nil
	}
	var meta metav1.PartialObjectMetadata
	meta.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Node"))
	if err := client.IgnoreNotFound(reader.Get(ctx, types.NamespacedName{Name: name}, &meta)); err != nil {
		return nil, err
	}
	if n.seen == nil {
		n.seen = map[string]node{}
	}
	for name, l := range n.seen {
		if now.Sub(l.at) >= nodesFor {
			delete(n.seen, name)
		}
	}
	n.seen[name] = node{labels: meta.Labels, at: now}
	return meta.Labels, nil
}
