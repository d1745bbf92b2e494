package sim

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// Pod is what matters of a pod object.
type Pod struct {
	Name        string
	Set         string
	UID         string
	RV          int
	Terminating bool

	Revision string
	Image    string // of the spec
	State    plan.State
	Hold     bool
	Grant    bool
	Working  string
	Note     plan.Note
	Verified string
	Fenced   int64

	Gated     bool
	Gate      string // "", "True", "False"
	GateSince time.Time

	// Running is the image that runs; "" while none does. Ran is what the container's status
	// names: the image that runs or ran last, which stays when another tag of it is started.
	Running         string
	Ran             string
	ContainersReady bool
	InPlaceReady    bool
	Ready           bool
	FitSince        time.Time // of the container
	OpenSince       time.Time // of Kruise's condition
	Started         time.Time
	// Record and RecordImage are Kruise's record of the last update: is there one, and
	// what the status named then.
	Record      bool
	RecordImage string
	Recorded    time.Time
	// Named: the container runtime names images as the template does, and not, as containerd
	// does with short names, by registry and library.
	Named bool
	// Waiting is why the container does not run; "": it does, or has not been tried yet.
	Waiting string
	// Failed: the pod has ended for good.
	Failed bool
	// Node on which it is. Nobody but the models knows the rest: how often its container is
	// still to end, and until when its probe fails.
	Node        int
	Crashes     int
	UnwellUntil time.Time
	// Grace is the revision whose image Kruise holds back for the grace period.
	Grace   string
	GraceAt time.Time
}

func (p *Pod) released() bool { return !p.Hold && p.Grant && p.Note.ID != "" }
func (p *Pod) fit() bool      { return p.ContainersReady && p.InPlaceReady && !p.Failed }

// fitSince is kruise.Fit's.
func (p *Pod) fitSince() time.Time {
	if p.OpenSince.After(p.FitSince) {
		return p.OpenSince
	}
	return p.FitSince
}

// completed is Kruise's own rule for one container (pkg/util/inplaceupdate/inplace_update_defaults.go:427):
// the status has another image ID than before, or the very name that is wanted. Nothing
// needs to run.
func (p *Pod) completed() bool {
	return p.Grace == "" && (!p.Record || p.Ran != p.RecordImage || p.Named && p.Ran == p.Image)
}

// updateDone is ours, kruise.UpdateDone: an image that was taken back is believed when it
// runs and Kruise has concluded.
func (p *Pod) updateDone() bool {
	return p.Grace == "" && (!p.Record || p.Ran != "" && (p.Ran != p.RecordImage || p.concluded()))
}

func (p *Pod) concluded() bool {
	return p.Named && p.Ran == p.Image && p.Running != "" && (p.State == plan.StateUpdated || p.State == plan.StateNormal)
}

// same says whether the image runs that is wanted, and Kruise does not see the update end. A
// template that is taken back at once does that, as the kubelet may not have seen the image
// between, and another tag of the same image.
func (p *Pod) same() bool {
	return p.Running != "" && p.Running == p.Image && p.Grace == "" && !p.completed()
}

// Set is what matters of an Advanced StatefulSet.
type Set struct {
	Name       string
	RV         int
	Generation int
	Replicas   int
	Image      string
	Partition  int32
	// Foreign: somebody else than an upgrader wrote the partition last.
	Foreign bool
	// Unhooked: somebody else took the hook off, and no upgrader has put it back yet.
	Unhooked bool

	// Armed carries the hook; Plan is the UID of the plan in the annotation.
	Armed            bool
	Plan             string
	Term             int64
	ArmedGeneration  int
	ImagesGeneration int
	Proven           string
	Returning        bool
	Original         int32
	// Left is the annotation by which a set is barred.
	Left      string
	Originals Settings
	// Owned is what the upgraders' server-side apply has set (realpatch.go, owned).
	Owned string

	Settings

	Observed        int
	CurrentRevision string
	UpdateRevision  string
}

// Settings are the fields of a set's update strategy that a plan takes over, beside the
// partition.
type Settings struct {
	Policy         string // podUpdatePolicy
	MaxUnavailable string
	// Weights are the priorities: "label=value:weight label=value:weight".
	Weights string
	// Grace in seconds; -1: none is set.
	Grace int32
}

// taken are the settings of a set that is armed, as far as the model of Kruise looks at them.
var taken = Settings{Policy: "InPlaceOnly", MaxUnavailable: "100%", Weights: v1alpha1.GrantLabel + "=true:100 working=false:50", Grace: -1}

// applied is kruise.Applied, apart from the grace period, which nobody changes.
func (s *Settings) applied() bool {
	was := *s
	was.Grace = taken.Grace
	return was == taken
}

// most is how many of the replicas may be unavailable: K :598, rounded down, and at least one.
func (s *Set) most() int {
	if s.MaxUnavailable == taken.MaxUnavailable {
		return s.Replicas
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(new(intstr.Parse(s.MaxUnavailable)), s.Replicas, false)
	if err != nil {
		panic(err)
	}
	return max(1, n)
}

// revision is the name of the controller revision of an image in a set: equal templates
// have equal revisions (history.FindEqualRevisions).
func revision(set, image string) string { return set + "-" + image }

func (s *Set) revision() string { return revision(s.Name, s.Image) }

// member is the name of one pod of the set.
func (s *Set) member(ordinal int) string { return s.Name + "-" + strconv.Itoa(ordinal) }

func imageOf(rev string) string { return rev[strings.LastIndexByte(rev, '-')+1:] }

var (
	errConflict = errors.New("conflict")
	errNotFound = errors.New("not found")
	errExists   = errors.New("already exists")
)

// change is one event of a watch.
type change[T any] struct {
	name    string
	object  T
	deleted bool
}

// API is the API server: objects with optimistic concurrency, and the log of changes
// that caches read at their own pace.
type API struct {
	rv     int
	uid    int
	pods   map[string]Pod
	sets   map[string]Set
	podLog []change[Pod]
	setLog []Set
	// numbers of the revisions: the later the template was written, the higher.
	numbers map[string]int
	// second is another API server's view, from which the informers of a new process may be
	// served first (kubernetes 59848).
	second *Cache
}

// Cache is somebody's view of the pods and the sets, each kind late by its own delay.
type Cache struct {
	pods   map[string]Pod
	sets   map[string]Set
	podPos int
	setPos int
}

func newCache(a *API) *Cache {
	c := &Cache{pods: map[string]Pod{}, sets: map[string]Set{}}
	c.list(a)
	return c
}

// list is what a fresh informer starts with.
func (c *Cache) list(a *API) {
	c.listPods(a)
	c.listSets(a)
}

// listPods and listSets are also what an informer does that has lost its watch: it skips
// the versions in between (client-go, tools/cache/reflector.go).
func (c *Cache) listPods(a *API) {
	clear(c.pods)
	maps.Copy(c.pods, a.pods)
	c.podPos = len(a.podLog)
}

func (c *Cache) listSets(a *API) {
	maps.Copy(c.sets, a.sets)
	c.setPos = len(a.setLog)
}

// begin is the first list of an informer in a new process: it may come from an API server
// that is behind the one to which the process before was connected.
func (c *Cache) begin(a *API) {
	clear(c.pods)
	maps.Copy(c.pods, a.second.pods)
	maps.Copy(c.sets, a.second.sets)
	c.podPos, c.setPos = a.second.podPos, a.second.setPos
}

func (c *Cache) behind(a *API) bool { return c.podPos < len(a.podLog) || c.setPos < len(a.setLog) }

// nextPod takes in one change of a pod.
func (c *Cache) nextPod(a *API) bool {
	if c.podPos >= len(a.podLog) {
		return false
	}
	e := a.podLog[c.podPos]
	c.podPos++
	if e.deleted {
		delete(c.pods, e.name)
	} else {
		c.pods[e.name] = e.object
	}
	return true
}

// nextSet takes in one change of a set.
func (c *Cache) nextSet(a *API) bool {
	if c.setPos >= len(a.setLog) {
		return false
	}
	e := a.setLog[c.setPos]
	c.sets[e.Name] = e
	c.setPos++
	return true
}

func (a *API) create(p Pod) error {
	if _, ok := a.pods[p.Name]; ok {
		return errExists
	}
	a.uid++
	a.rv++
	p.UID, p.RV = fmt.Sprintf("uid%d", a.uid), a.rv
	a.pods[p.Name] = p
	a.podLog = append(a.podLog, change[Pod]{name: p.Name, object: p})
	return nil
}

// patchPod changes a pod. uid "" and rv 0 are no preconditions. A patch that changes
// nothing makes no new version, as on a real server.
func (a *API) patchPod(name, uid string, rv int, fn func(*Pod)) (Pod, error) {
	p, ok := a.pods[name]
	switch {
	case !ok:
		return p, errNotFound
	case uid != "" && p.UID != uid, rv != 0 && p.RV != rv:
		return p, errConflict
	}
	was := p
	fn(&p)
	if p == was {
		return p, nil
	}
	a.rv++
	p.RV = a.rv
	a.pods[name] = p
	a.podLog = append(a.podLog, change[Pod]{name: name, object: p})
	return p, nil
}

func (a *API) remove(name string) {
	delete(a.pods, name)
	a.rv++
	a.podLog = append(a.podLog, change[Pod]{name: name, deleted: true})
}

// patchSet changes spec, metadata or status of a set; rv 0 is no precondition.
func (a *API) patchSet(name string, rv int, fn func(*Set)) (Set, error) {
	was := a.sets[name]
	if rv != 0 && rv != was.RV {
		return was, errConflict
	}
	s := was
	fn(&s)
	if s == was {
		return s, nil
	}
	a.rv++
	s.RV = a.rv
	if s.Image != was.Image || s.Partition != was.Partition || s.Armed != was.Armed || s.Settings != was.Settings || s.Replicas != was.Replicas {
		s.Generation++
	}
	if s.Image != was.Image {
		a.numbers[s.revision()] = a.rv
	}
	a.sets[name] = s
	a.setLog = append(a.setLog, s)
	return s, nil
}

// sameDigest is kruise.sameDigest: by the clocks of a node and of Kruise.
func (p *Pod) sameDigest() bool {
	return p.Running != "" && p.Grace == "" && p.Record && p.Ran == p.RecordImage && !p.concluded() && p.Started.After(p.Recorded)
}

// waiting is the kubelet's reason for a container that does not run and will not by itself.
func (p *Pod) waiting() string {
	switch {
	case p.Running != "" || p.Failed:
		return ""
	case p.Waiting == "" && broken(p.Image):
		return imagePull
	}
	return p.Waiting
}
