package harness

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/test/cluster/controlplane"
)

// Kruise is who Kruise's manager is in the audit log.
const Kruise = "system:serviceaccount:kruise-system:kruise-manager"

// Write is one successful change of a pod or set, as the audit log has it.
type Write struct {
	// At is when it was answered: it was done then, or a little earlier.
	At   time.Time
	User string
	// Kind is pods, statefulsets or upgradeplans; Sub is the subresource.
	Kind, Sub, Name string
	// Base is the version that it was a change of, 0 if it had no such precondition.
	Base int64
	// UID that it demanded.
	UID string
	// What it set; nil: nothing. Gate is the condition offduty.dev/in-service.
	Hold, Grant, Gate *bool
	Partition         *int32
	// Body as it was sent.
	Body string
}

// Ours says whether the upgrader wrote it.
func (w Write) Ours() bool { return w.User == UpgraderAccount.Username() }

// patchBody is the part of a merge or apply patch that is judged.
type patchBody struct {
	Metadata struct {
		UID             string             `json:"uid"`
		ResourceVersion string             `json:"resourceVersion"`
		Labels          map[string]*string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		UpdateStrategy struct {
			RollingUpdate struct {
				Partition *int32 `json:"partition"`
			} `json:"rollingUpdate"`
		} `json:"updateStrategy"`
	} `json:"spec"`
	Status struct {
		Conditions []v1.Condition `json:"conditions"`
	} `json:"status"`
}

// operation is one of a JSON patch.
type operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value"`
}

func writeOf(e controlplane.AuditEvent) (Write, error) {
	w := Write{At: e.Time, User: e.User, Kind: e.Resource, Sub: e.Subresource, Name: e.Name, Body: string(e.Body)}
	if e.Verb != "patch" || len(e.Body) == 0 {
		return w, nil
	}
	if strings.HasPrefix(strings.TrimSpace(w.Body), "[") {
		return w, w.operations(e.Body)
	}
	var p patchBody
	if err := json.Unmarshal(e.Body, &p); err != nil {
		return w, fmt.Errorf("read the patch of %s %s by %s: %w", e.Resource, e.Name, e.User, err)
	}
	w.UID, w.Partition = p.Metadata.UID, p.Spec.UpdateStrategy.RollingUpdate.Partition
	w.Hold, w.Grant = label(p, v1alpha1.HoldLabel), label(p, v1alpha1.GrantLabel)
	for _, c := range p.Status.Conditions {
		if c.Type == v1alpha1.InServiceGate {
			open := c.Status == v1.ConditionTrue
			w.Gate = &open
		}
	}
	return w, w.base(p.Metadata.ResourceVersion)
}

func label(p patchBody, key string) *bool {
	v, ok := p.Metadata.Labels[key]
	if !ok {
		return nil
	}
	on := v != nil && *v == "true"
	return &on
}

func (w *Write) base(version string) error {
	if version == "" {
		return nil
	}
	var err error
	if w.Base, err = strconv.ParseInt(version, 10, 64); err != nil {
		return fmt.Errorf("read the precondition of a patch of %s: %w", w.Name, err)
	}
	return nil
}

func (w *Write) operations(body json.RawMessage) error {
	var ops []operation
	if err := json.Unmarshal(body, &ops); err != nil {
		return fmt.Errorf("read the patch of %s: %w", w.Name, err)
	}
	for _, o := range ops {
		switch o.Path {
		case "/metadata/resourceVersion":
			var version string
			if err := json.Unmarshal(o.Value, &version); err != nil {
				return fmt.Errorf("read the patch of %s: %w", w.Name, err)
			}
			if err := w.base(version); err != nil {
				return err
			}
		case "/spec/updateStrategy/rollingUpdate/partition":
			if err := json.Unmarshal(o.Value, &w.Partition); err != nil {
				return fmt.Errorf("read the patch of %s: %w", w.Name, err)
			}
		}
	}
	return nil
}
