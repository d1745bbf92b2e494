package kruise

import (
	"encoding/json"
	"errors"
	"fmt"

	appspub "github.com/openkruise/kruise-api/apps/pub"
	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"offduty.dev/api/v1alpha1"
)

// ProtocolVersion is the version of the protocol that this program speaks, and writes into
// the annotation of each set that it acts on. It reads all from oldestVersion on, and leaves
// a set with a newer one alone (docs/decisions/0004-protocol-versions.md).
//
//	1: fences were ids of leases; generation may be missing
//	2: fences are tokens; generation is always there
//	3: proven tells at what the set was last at rest
//	4: returning says that the set is given back, before any hold goes
const (
	ProtocolVersion = 4
	oldestVersion   = 1
)

// Armed is the value of the annotation offduty.dev/armed on a set: who has it, and what
// it was like before. Version and Plan mean the same in every version, for ever.
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
	ImagesGeneration int64 `json:"imagesGeneration,omitempty"`
	// Proven is the revision at which the set was last at rest: when it was taken over, or
	// when a rollout had ended; "": it has not been yet. A pod that is created at it needs no
	// proof, one that is created at any other does.
	Proven string `json:"proven,omitempty"`
	// Returning: somebody has begun to give the set back. Whoever finds that goes on with it,
	// and takes it away with the annotation alone, whatever the plan says by then.
	Returning bool     `json:"returning,omitempty"`
	Original  Original `json:"original"`

	// unproven: an older version wrote it, which did not note Proven.
	unproven bool
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

// UnreadableError is the error for an annotation that this program must not act on.
type UnreadableError struct {
	// Plan is the UID of the plan that has the set; "" when not even that can be read.
	Plan string
	// Newer: a newer upgrader wrote it.
	Newer   bool
	message string
}

func (e *UnreadableError) Error() string { return e.message }

// Concerns says whether the set may be the plan's: then the plan has something to give
// back there, and must not go without having done so.
func (e *UnreadableError) Concerns(planUID string) bool { return e.Plan == "" || e.Plan == planUID }

// ParseArmed reads the annotation of a set; nil when there is none. One of an older version
// is returned as one of the present version, and is written so with the next write of the
// set. Errors: *UnreadableError.
func ParseArmed(set *kruisev1beta1.StatefulSet) (*Armed, error) {
	v, ok := set.Annotations[v1alpha1.ArmedAnnotation]
	if !ok {
		return nil, nil //nolint:nilnil // no annotation is no error
	}
	unreadable := func(format string, args ...any) *UnreadableError {
		return &UnreadableError{message: fmt.Sprintf("annotation %s of StatefulSet %s/%s ", v1alpha1.ArmedAnnotation, set.Namespace, set.Name) + fmt.Sprintf(format, args...)}
	}
	// Of a newer version nothing but these two can be relied on.
	var head struct {
		Version int    `json:"version"`
		Plan    string `json:"plan"`
	}
	err := json.Unmarshal([]byte(v), &head)
	if err == nil && head.Version > ProtocolVersion {
		e := unreadable("has protocol version %d, and this upgrader knows %d to %d: nothing is touched; run the newer upgrader again",
			head.Version, oldestVersion, ProtocolVersion)
		e.Plan, e.Newer = head.Plan, true
		return nil, e
	}
	var a Armed
	if err == nil {
		err = json.Unmarshal([]byte(v), &a)
	}
	if err == nil && (a.Version < oldestVersion || a.Plan == "") {
		err = errors.New("it has no version, or no plan")
	}
	if err != nil {
		return nil, unreadable("cannot be read: %v; restore it, or remove it as offduty:break-glass to take the set over at its present state", err)
	}
	a.migrate(set)
	return &a, nil
}

// migrate makes an annotation of an older version one of the present version.
func (a *Armed) migrate(set *kruisev1beta1.StatefulSet) {
	if a.Version == 1 && a.Generation == 0 {
		// When the hook was written is not known: Kruise knows it when it has observed the
		// set as it is now.
		a.Generation = set.Generation - 1
	}
	a.unproven = a.Version < 3
	a.Version = ProtocolVersion
}

// Prove fills in what an older version did not note: revision, the set's current one, if it
// called that verified on any of its pods.
func (a *Armed) Prove(revision string, verified func(revision string) bool) {
	if a.unproven && revision != "" && verified(revision) {
		a.Proven = revision
	}
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
