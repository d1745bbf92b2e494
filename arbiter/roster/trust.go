package roster

import (
	"slices"
	"strings"
)

// maxTrusted bounds the list of revisions that no pod has any more.
const maxTrusted = 32

// SetOf returns the name of the set that a revision "<set>-<hash>" belongs to.
func SetOf(revision string) string {
	if i := strings.LastIndexByte(revision, '-'); i >= 0 {
		return revision[:i]
	}
	return revision
}

// Quarantined says whether a pod may have no duty: an upgrade may be at work, and nobody
// has verified its revision.
func Quarantined(r Record, p Pod, holders bool) bool {
	return holders && p.Revision != "" && !slices.Contains(r.Trusted, p.Revision)
}

// Trust adds a revision that was verified; it becomes the newest.
func (r *Record) Trust(revision string) {
	if revision == "" {
		return
	}
	r.Trusted = slices.DeleteFunc(slices.Clone(r.Trusted), func(t string) bool { return t == revision })
	r.Trusted = append(r.Trusted, revision)
}

// trustSeen trusts the revisions that are there while no holder is registered, and the
// first revision ever seen of a set: nothing can have been upgraded to that.
func (r *Record) trustSeen(pods map[string]Pod, holders bool) {
	if len(r.Trusted) <= maxTrusted && r.trustAll(pods) {
		return
	}
	known := map[string]bool{}
	for _, t := range r.Trusted {
		known[SetOf(t)] = true
	}
	present := map[string]bool{}
	for _, name := range sortedNames(pods) {
		rev := pods[name].Revision
		present[rev] = true
		if rev == "" || slices.Contains(r.Trusted, rev) || holders && known[SetOf(rev)] {
			continue
		}
		r.Trusted = append(r.Trusted, rev)
	}
	for i := 0; len(r.Trusted) > maxTrusted && i < len(r.Trusted); {
		if present[r.Trusted[i]] {
			i++
			continue
		}
		r.Trusted = slices.Delete(slices.Clone(r.Trusted), i, i+1)
	}
}

// trustAll says whether every pod is at a trusted revision: the usual case, made cheap.
func (r *Record) trustAll(pods map[string]Pod) bool {
	for _, p := range pods {
		if p.Revision != "" && !slices.Contains(r.Trusted, p.Revision) {
			return false
		}
	}
	return true
}
