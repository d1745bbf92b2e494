package kruise

import (
	"encoding/json"
	"fmt"

	appspub "github.com/openkruise/kruise-api/apps/pub"
	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"offduty.dev/api/v1alpha1"
)

// ProtocolVersion is the version of the armed annotation that this program writes. It
// refuses to touch a set with a newer one.
const ProtocolVersion = 1

// Armed is the value of the annotation offduty.dev/armed on a set: who has it, and what
// it was like before.
type Armed struct {
	Version int `json:"version"`
	// Plan is the UID of the UpgradePlan.
	Plan string `json:"plan"`
	// Term is the leadership term of the upgrader that wrote it last. A new leader writes
	// its own before anything else, so that what its predecessor still has under way
	// conflicts.
	Term int64 `json:"term"`
	// Generation is the set's before the hook was written to it: Kruise knows the hook
	// when it has observed a later one.
	Generation int64 `json:"generation"`
	// ImagesGeneration is the generation of the plan whose images were written; 0: none.
	ImagesGeneration int64    `json:"imagesGeneration,omitempty"`
	Original         Original `json:"original"`
}

// Original is what arming replaced.
type Original struct {
	Type                  appsv1.StatefulSetUpdateStrategyType   `json:"type,omitempty"`
	Partition             *int32                                 `json:"partition,omitempty"`
	MaxUnavailable        *intstr.IntOrString                    `json:"maxUnavailable,omitempty"`
	PodUpdatePolicy       kruisev1beta1.PodUpdateStrategyType    `json:"podUpdatePolicy,omitempty"`
	UnorderedUpdate       *kruisev1beta1.UnorderedUpdateStrategy `json:"unorderedUpdate,omitempty"`
	InPlaceUpdateStrategy *appspub.InPlaceUpdateStrategy         `json:"inPlaceUpdateStrategy,omitempty"`
}

// ParseArmed reads the annotation of a set; nil when there is none.
func ParseArmed(set *kruisev1beta1.StatefulSet) (*Armed, error) {
	v, ok := set.Annotations[v1alpha1.ArmedAnnotation]
	if !ok {
		return nil, nil //nolint:nilnil // no annotation is no error
	}
	var a Armed
	if err := json.Unmarshal([]byte(v), &a); err != nil {
		return nil, fmt.Errorf("read annotation %s of StatefulSet %s/%s: %w; restore it, or remove it to take the set over at its present state",
			v1alpha1.ArmedAnnotation, set.Namespace, set.Name, err)
	}
	if a.Version < 1 || a.Version > ProtocolVersion {
		return nil, fmt.Errorf("annotation %s of StatefulSet %s/%s has version %d, this upgrader knows 1 to %d: run a newer upgrader",
			v1alpha1.ArmedAnnotation, set.Namespace, set.Name, a.Version, ProtocolVersion)
	}
	return &a, nil
}

// NewArmed notes the present state of a set.
func NewArmed(set *kruisev1beta1.StatefulSet, planUID string, term int64) *Armed {
	a := &Armed{Version: ProtocolVersion, Plan: planUID, Term: term, Generation: set.Generation}
	a.Original.Type = set.Spec.UpdateStrategy.Type
	if ru := set.Spec.UpdateStrategy.RollingUpdate; ru != nil {
		a.Original.Partition = ru.Partition
		a.Original.MaxUnavailable = ru.MaxUnavailable
		a.Original.PodUpdatePolicy = ru.PodUpdatePolicy
		a.Original.UnorderedUpdate = ru.UnorderedUpdate
		a.Original.InPlaceUpdateStrategy = ru.InPlaceUpdateStrategy
	}
	return a
}

// String returns the annotation's value.
func (a *Armed) String() string {
	b, err := json.Marshal(a)
	if err != nil { // every field has a JSON form
		panic("armed annotation: " + err.Error())
	}
	return string(b)
}
