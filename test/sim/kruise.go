package sim

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/upgrader/plan"
)

// kruise is the model of Kruise's controller of Advanced StatefulSets, for a set with
// Parallel, unorderedUpdate and InPlaceOnly, as an armed set is.
// There is one for each set, as there is one sync at a time for each; they share the
// process and its cache.
type kruise struct {
	s     *Sim
	set   string
	cache *Cache
	sync  *proc
	// expect holds back updates until the cache shows the last one
	// (K stateful_set_control.go:542, updateExpectations; theirs are kept by name
	// alone, so that a pod which is updated and removed before Kruise has seen the update
	// stops the set until Kruise restarts: that is not modelled).
	expect map[string]Pod
	grace  time.Duration
}

// restart is a new process: a fresh cache, no expectations.
func (s *Sim) restartKruise() {
	cache := newCache(s.api)
	for _, k := range s.kruises {
		k.sync.kill()
		k.sync, k.expect, k.cache = nil, map[string]Pod{}, cache
	}
}

// now is the wall clock of Kruise's host: it compares it with what stands in objects.
func (k *kruise) now() time.Time { return k.s.read(k.s.clocks.kruise).Round(0) }

// step goes on with the sync that is under way, or begins one.
func (k *kruise) step() {
	if k.sync == nil {
		k.sync = start(k.reconcile)
	}
	if !k.sync.run() {
		k.sync = nil
	}
}

// reconcile is UpdateStatefulSet (K stateful_set_control.go:113). It decides on what the
// cache shows when it begins; each pause is a request that it makes.
func (k *kruise) reconcile(pause func()) {
	set := k.cache.sets[k.set]
	pods := map[string]Pod{}
	for name, p := range k.cache.pods {
		if p.Set == k.set {
			pods[name] = p
		}
	}
	current, update := set.CurrentRevision, set.revision()
	if current == "" {
		current = update
	}
	observed := set
	observed.Observed, observed.CurrentRevision, observed.UpdateRevision = set.Generation, current, update
	created := maps.Clone(pods)
	// A failed creation ends the round, and the status is written all the same (K :152).
	if k.scale(pause, set, pods, current, update) {
		k.roll(pause, set, pods, created, update)
	}
	// A pod that this round has created counts for nothing yet (K :963, isCreated): while
	// the only one that is not updated is missing, the rollout is complete.
	if completed(created, update) {
		observed.CurrentRevision = update
	}
	k.status(pause, set, observed)
}

// scale creates the pods that are missing (K :424, :1120), refreshes the rest (K :1170),
// and deletes those beyond the replicas. It returns false when the round ends here: one pod
// that has failed keeps Kruise from all that come after it, and from any update, until it is
// gone.
func (k *kruise) scale(pause func(), set Set, pods map[string]Pod, current, update string) bool {
	for i := range set.Replicas {
		name := set.member(i)
		p, ok := pods[name]
		if p.Failed { // K :1099: it is removed, and the round ends here
			k.remove(pause, p)
			return false
		}
		if !ok {
			rev := update
			if k.currentNeeded(set, pods, name, update) {
				rev = current
			}
			p = k.s.newborn(set.Name, name, rev)
			k.s.schedule(&p)
			pause()
			if err := k.s.api.create(p); err != nil {
				return false
			}
			k.s.tell("kruise", "creates %s at %s", name, rev)
			pods[name] = p
			continue
		}
		k.refresh(pause, p, set, update) // also one that terminates (K :1162)
	}
	k.condemn(pause, set, pods)
	return true
}

// condemn deletes the pods beyond the replicas (K :1028, processCondemned).
func (k *kruise) condemn(pause func(), set Set, pods map[string]Pod) {
	for _, name := range names(pods) {
		p := pods[name]
		if ordinal(name) < set.Replicas {
			continue
		}
		delete(pods, name)
		k.remove(pause, p)
	}
}

// remove deletes a pod, unless that was done before.
func (k *kruise) remove(pause func(), p Pod) {
	if p.Terminating {
		return
	}
	pause()
	if _, err := k.s.api.patchPod(p.Name, p.UID, 0, func(q *Pod) { q.Terminating = true }); err == nil {
		k.s.tell("kruise", "removes %s", p.Name)
	}
}

func ordinal(pod string) int {
	n, _ := strconv.Atoi(pod[strings.LastIndexByte(pod, '-')+1:])
	return n
}

// currentNeeded is isCurrentRevisionNeeded for an unordered update (K
// stateful_set_utils.go:535).
func (k *kruise) currentNeeded(set Set, pods map[string]Pod, name, update string) bool {
	old := int32(0)
	for n, p := range pods { // those to be removed by a scale-down are not among them (K :396)
		if n != name && ordinal(n) < set.Replicas && p.Revision != update {
			old++
		}
	}
	return old < set.Partition
}

// refresh is refreshPodState (K :772). It returns true when it changed the state. The
// state is patched without any precondition (L :125, UpdatePodLifecycle).
func (k *kruise) refresh(pause func(), p Pod, set Set, update string) bool {
	k.refreshCondition(pause, p)
	state := plan.StateAbsent
	after := func() plan.State {
		if set.Armed && !p.Hold {
			return plan.StateUpdated
		}
		return plan.StateNormal
	}
	switch p.State {
	case plan.StatePreparingUpdate:
		if p.Revision == update { // K :794, kruise 1156
			state = after()
		}
	case plan.StateUpdating:
		if p.completed() { // K :805
			state = after()
		}
	case plan.StateUpdated:
		if !set.Armed || p.Hold { // K :813: the handshake on which arming relies
			state = plan.StateNormal
		}
	case plan.StateAbsent, plan.StateNormal:
	}
	if state == plan.StateAbsent {
		return false
	}
	pause()
	k.setState(p.Name, state)
	return true
}

func (k *kruise) setState(name string, state plan.State) {
	was := k.s.api.pods[name].State
	if _, err := k.s.api.patchPod(name, "", 0, func(q *Pod) { q.State = state }); err == nil && was != state {
		k.s.tell("kruise", "%s becomes %s", name, state)
	}
}

// refreshCondition is inplaceupdate.Refresh (I :119): the grace period first, then the
// condition is True unless an update is unfinished. It re-reads the pod before it writes.
func (k *kruise) refreshCondition(pause func(), p Pod) {
	if p.Grace != "" {
		if k.now().Sub(p.GraceAt) >= k.grace {
			pause()
			k.s.change(p.Name, "kruise", "patches the image after the grace period", func(q *Pod) {
				if q.Grace != "" && q.Grace == q.Revision { // I :194, finishGracePeriod
					q.Image, q.RecordImage = imageOf(q.Revision), q.Ran
				}
				q.Grace = ""
			})
		}
		return
	}
	// That is decided on the pod of when the round began, and written into the pod as it is
	// now (I :174, updateCondition): an update that began in between is opened again.
	if p.Record && !p.completed() || k.s.api.pods[p.Name].InPlaceReady {
		return
	}
	pause()
	_, _ = k.s.api.patchPod(p.Name, "", 0, func(q *Pod) {
		if !q.InPlaceReady {
			q.InPlaceReady, q.OpenSince = true, k.now().Truncate(time.Second)
		}
	})
}

// roll is rollingUpdateStatefulsetPods (K :530).
func (k *kruise) roll(pause func(), set Set, pods, created map[string]Pod, update string) {
	for _, name := range names(pods) { // K :542
		if e, ok := k.expect[name]; ok && e.Revision == update && e.UID == pods[name].UID && pods[name].Revision != update {
			return
		}
		delete(k.expect, name)
	}
	modified := false
	for _, name := range names(created) { // K :547: all are refreshed, then the round ends
		modified = k.refresh(pause, created[name], set, update) || modified
	}
	if modified {
		return
	}
	k.updateInOrder(pause, set, pods, update)
}

// updateInOrder ends the round with those that may be updated, as long as not too many are
// unavailable.
func (k *kruise) updateInOrder(pause func(), set Set, pods map[string]Pod, update string) {
	most, gone := set.most(), map[string]bool(nil)
	if most < set.Replicas {
		gone = unavailable(pods)
	}
	for _, name := range k.order(set, pods, update) {
		p := pods[name]
		if p.Revision == update {
			continue
		}
		if most < set.Replicas {
			if len(gone) >= most && !gone[name] { // K :634: one that serves has to wait, and all after it
				return
			}
			gone[name] = true // K :673
		}
		if !p.Terminating {
			k.update(pause, p, set, update)
		}
	}
}

// unavailable are the pods that count against maxUnavailable (K :583): whatever has a state
// other than Normal among them, also when it serves (K stateful_set_utils.go:394, :449).
func unavailable(pods map[string]Pod) map[string]bool {
	out := map[string]bool{}
	for name, p := range pods {
		if p.State != plan.StateAbsent && p.State != plan.StateNormal || !p.Ready || p.Terminating || !p.completed() {
			out[name] = true
		}
	}
	return out
}

// order is sortPodsToUpdate (K stateful_update_utils.go:27): those that are updated or
// terminating first, then by weight, then by ordinal; the first replicas-partition.
func (k *kruise) order(set Set, pods map[string]Pod, update string) []string {
	most := set.Replicas - int(min(set.Partition, int32(set.Replicas))) //nolint:gosec // a small number
	all := names(pods)
	grants, idle := strings.Contains(set.Weights, v1alpha1.GrantLabel+"=true:"), strings.Contains(set.Weights, "working=false:")
	rank := func(n string) int {
		p := pods[n]
		switch {
		case p.Terminating || p.Revision == update:
			return 0
		case k.s.cfg.Without == Priority:
			return 1
		case grants && p.Grant && idle && p.Working == "false":
			return 1
		case grants && p.Grant:
			return 2
		case idle && p.Working == "false":
			return 3
		}
		return 4
	}
	slices.SortStableFunc(all, func(a, b string) int { return cmp.Or(rank(a)-rank(b), cmp.Compare(b, a)) })
	return all[:max(0, min(most, len(all)))]
}

// update is inPlaceUpdatePod (K :837).
func (k *kruise) update(pause func(), p Pod, set Set, update string) {
	hooked := set.Armed && p.Hold && k.s.cfg.Without != Hold
	switch p.State {
	case plan.StateAbsent, plan.StateNormal:
		if hooked { // K :868
			pause()
			k.setState(p.Name, plan.StatePreparingUpdate)
			return
		}
	case plan.StateUpdated: // K :875: Kruise itself writes the handler's labels
		if set.Armed {
			pause()
			k.s.change(p.Name, "kruise", "holds it again, PreparingUpdate", func(q *Pod) {
				q.Hold, q.State = true, plan.StatePreparingUpdate
			})
		}
		return
	case plan.StatePreparingUpdate:
		if hooked { // K :886
			return
		}
	case plan.StateUpdating: // K :890: the hook is not looked at
	default:
		return
	}
	k.inPlace(pause, p, set, update)
}

// inPlace is inplaceupdate.Update (I :285): the condition False, then the image. Both
// re-read the pod and do not look at the hook again (I :323, updatePodInPlace).
func (k *kruise) inPlace(pause func(), p Pod, set Set, update string) {
	pause()
	k.s.disturbed(set, p, "Kruise takes it out of service")
	if _, err := k.s.api.patchPod(p.Name, "", 0, func(q *Pod) { q.InPlaceReady, q.Ready = false, false }); err != nil {
		return
	}
	pause()
	k.s.disturbed(set, p, "Kruise updates it")
	k.s.change(p.Name, "kruise", "updates it to "+update, func(q *Pod) {
		q.Revision, q.Record, q.Recorded = update, true, k.now().Truncate(time.Second)
		if p.State != plan.StateAbsent {
			q.State = plan.StateUpdating
		}
		if k.grace > 0 {
			q.Grace, q.GraceAt, q.RecordImage = update, k.now(), q.Ran
			return
		}
		q.Grace = ""
		q.RecordImage, q.Image = q.Ran, imageOf(update)
	})
	k.s.broke()
	k.expect[p.Name] = Pod{UID: p.UID, Revision: update}
}

// status is updateStatefulSetStatus (K :924). On a conflict the old status is written
// over the set that the cache has by then (K stateful_set_status_updater.go:54).
func (k *kruise) status(pause func(), set, next Set) {
	if set == next {
		return
	}
	rv := set.RV
	for range 3 {
		pause()
		s, err := k.s.api.patchSet(k.set, rv, func(s *Set) {
			s.Observed, s.CurrentRevision, s.UpdateRevision = next.Observed, next.CurrentRevision, next.UpdateRevision
			if k.s.cfg.Without == Proof && s.Plan != "" {
				s.Proven = s.UpdateRevision
			}
		})
		if err == nil {
			if s.Observed != set.Observed || s.UpdateRevision != set.UpdateRevision || s.CurrentRevision != set.CurrentRevision {
				k.s.tell("kruise", "has observed generation %d of %s, current %s, update %s", s.Observed, k.set, s.CurrentRevision, s.UpdateRevision)
			}
			return
		}
		rv = k.cache.sets[k.set].RV
	}
}

// completed is completeRollingUpdate (K stateful_set_utils.go:673): all that are there are
// updated and ready at once.
func completed(pods map[string]Pod, update string) bool {
	for _, p := range pods {
		if p.Revision != update || p.Terminating || !p.Ready {
			return false
		}
	}
	return true
}

func names(pods map[string]Pod) []string {
	out := make([]string, 0, len(pods))
	for n := range pods {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
