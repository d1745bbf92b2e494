package apply

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	kruisev1beta1 "github.com/openkruise/kruise-api/apps/v1beta1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// Writes remembers the versions that our own writes made, so that nothing is decided on
// a cache that does not show them yet, and the templates that were refused.
type Writes struct {
	mu      sync.Mutex
	made    map[types.UID]uint64
	refused map[types.UID]refusal
	// current are the plans of whose objects the cache has shown what earlier leaders wrote.
	current map[types.UID]bool
	now     func() time.Time
}

// refusal is a template that was refused: it is the same again as long as neither the plan
// nor the set has changed.
type refusal struct {
	plan.Blocker
	by                            types.UID // the plan
	planGeneration, setGeneration int64
	again                         time.Time
}

// refusalPatience is after how long a refused template is tried again: what refused it may
// be a webhook or a quota that somebody mends.
const refusalPatience = time.Minute

// NewWrites returns an empty memory.
func NewWrites(now func() time.Time) *Writes {
	return &Writes{made: map[types.UID]uint64{}, refused: map[types.UID]refusal{}, current: map[types.UID]bool{}, now: now}
}

// refuse remembers that the images of up were refused for set.
func (w *Writes) refuse(up *v1alpha1.UpgradePlan, set *kruisev1beta1.StatefulSet, why error) error {
	b := plan.Blocker{Reason: plan.TemplateRefused, Message: fmt.Sprintf("%v: correct spec.targets[].images, or what refuses them", why)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused[set.UID] = refusal{b, up.UID, up.Generation, set.Generation, w.now().Add(refusalPatience)}
	return &plan.Stuck{Blocker: b}
}

// Template says why the images of up were refused for set, and when to try them again; nil:
// they were not.
func (w *Writes) Template(up *v1alpha1.UpgradePlan, set *kruisev1beta1.StatefulSet) (*plan.Blocker, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.refused[set.UID]
	if !ok || r.by != up.UID {
		return nil, time.Time{}
	}
	if r.planGeneration != up.Generation || r.setGeneration != set.Generation {
		delete(w.refused, set.UID)
		return nil, time.Time{}
	}
	return &r.Blocker, r.again
}

// Note remembers the version that a write made.
func (w *Writes) Note(uid types.UID, resourceVersion string) {
	v, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.made[uid] = max(w.made[uid], v)
}

// Seen says whether obj, read from the cache, shows all our writes to it.
func (w *Writes) Seen(obj client.Object) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	made, ok := w.made[obj.GetUID()]
	if !ok {
		return true
	}
	v, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	if err == nil && v < made {
		return false
	}
	delete(w.made, obj.GetUID())
	return true
}

// Forget drops what is remembered of an object that is gone.
func (w *Writes) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.made, uid)
	delete(w.refused, uid)
	delete(w.current, uid)
}
