package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
)

// Kubernetes keeps the record in the status of a Roster; its version is the
// resourceVersion of the object.
type Kubernetes struct {
	reader client.Reader
	writer client.Client
	key    types.NamespacedName

	mu sync.Mutex
	// last is the object as last read or written.
	last *v1alpha1.Roster
}

// NewKubernetes returns the store of the Roster key. reader must read from the API
// server itself: a cache is always behind one's own writes.
func NewKubernetes(reader client.Reader, writer client.Client, key types.NamespacedName) *Kubernetes {
	return &Kubernetes{reader: reader, writer: writer, key: key}
}

// Load implements Store.
func (k *Kubernetes) Load(ctx context.Context) (Record, Version, error) {
	var obj v1alpha1.Roster
	if err := k.reader.Get(ctx, k.key, &obj); err != nil {
		return Record{}, "", wrap("read", k.key, err)
	}
	k.mu.Lock()
	k.last = &obj
	k.mu.Unlock()
	r := fromStatus(&obj.Status)
	r.Lost = r.Leases.Epoch == "" && obj.Annotations[v1alpha1.InitializedAnnotation] != ""
	return r, Version(obj.ResourceVersion), nil
}

// Save implements Store. Before the first status it notes on the object that there will
// be one, so that a status which is lost later is known to be lost.
func (k *Kubernetes) Save(ctx context.Context, r Record, v Version) (Version, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last == nil || k.last.ResourceVersion != string(v) {
		return "", ErrConflict
	}
	if k.last.Annotations[v1alpha1.InitializedAnnotation] == "" {
		if err := k.annotate(ctx); err != nil {
			return "", err
		}
	}
	obj := k.last.DeepCopy()
	obj.Status = toStatus(r, obj.Status.Conditions)
	if err := k.writer.Status().Update(ctx, obj); err != nil {
		return "", wrap("save the status of", k.key, err)
	}
	k.last = obj
	return Version(obj.ResourceVersion), nil
}

func (k *Kubernetes) annotate(ctx context.Context) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": k.last.UID, "resourceVersion": k.last.ResourceVersion,
		"annotations": map[string]string{v1alpha1.InitializedAnnotation: "true"},
	}})
	if err != nil {
		return fmt.Errorf("encode the annotation of roster %s: %w", k.key, err)
	}
	obj := k.last.DeepCopy()
	if err := k.writer.Patch(ctx, obj, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return wrap("annotate", k.key, err)
	}
	k.last = obj
	return nil
}

func wrap(what string, key types.NamespacedName, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s roster %s: %w", what, key, ErrNotFound)
	case apierrors.IsConflict(err):
		return fmt.Errorf("%s roster %s: %w", what, key, ErrConflict)
	}
	return fmt.Errorf("%s roster %s: %w", what, key, err)
}

// toStatus writes a record out. conditions are those of the last status: a transition
// time changes only with its condition.
func toStatus(r Record, conditions []metav1.Condition) v1alpha1.RosterStatus {
	s := v1alpha1.RosterStatus{
		ObservedGeneration: r.Summary.ObservedGeneration,
		Conditions:         mergeConditions(conditions, r.Summary),
		Working:            r.Summary.Working,
		Leased:             r.Summary.Leased,
		Quarantined:        r.Summary.Quarantined,
		Serving:            int32(r.Summary.Serving), //nolint:gosec // at most as many as there are pods
		Floor:              int32(r.Summary.Floor),   //nolint:gosec // at most 10000 by the schema
		Epoch:              r.Leases.Epoch,
		Frozen:             r.Frozen,
		LastToken:          r.Leases.LastToken,
		TrustedRevisions:   r.Roster.Trusted,
		PromisedSeconds:    int32(r.Promised / time.Second), //nolint:gosec // at most 300
	}
	for _, name := range slices.Sorted(maps.Keys(r.Roster.Members)) {
		m := r.Roster.Members[name]
		s.Members = append(s.Members, v1alpha1.MemberRecord{
			Name: name, Assigned: m.Assigned, Generation: m.Generation, Duty: string(m.Duty),
			Attends: m.Attends, UID: m.Instance, Message: m.Message,
		})
	}
	for _, name := range slices.Sorted(maps.Keys(r.Leases.Leases)) {
		s.Leases = append(s.Leases, toLease(r.Leases.Leases[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Leases.Holders)) {
		h := r.Leases.Holders[name]
		s.Holders = append(s.Holders, v1alpha1.HolderRecord{Holder: name, Term: h.Term, Identity: h.Identity, Token: h.Token})
	}
	for _, h := range r.Leases.Retired {
		s.Retired = append(s.Retired, v1alpha1.RetiredRecord{Holder: h.Holder, Term: h.Term})
	}
	for _, a := range r.Roster.Asked {
		s.Handovers = append(s.Handovers, v1alpha1.HandoverRecord{Holder: a.Holder, From: a.From, Revision: a.Revision})
	}
	for _, f := range r.ForceReleases {
		s.ForceReleases = append(s.ForceReleases, v1alpha1.ForceReleaseRecord{
			Time: metav1.NewTime(f.Time), By: f.By, Replica: f.Replica, LeaseID: f.LeaseID, Holder: f.Holder, Reason: f.Reason,
		})
	}
	return s
}

func toLease(l lease.Lease) v1alpha1.LeaseRecord {
	return v1alpha1.LeaseRecord{
		Replica: l.Replica, ID: l.ID, Holder: l.Holder, Token: l.Token, Phase: string(l.Phase),
		Instance: l.Instance, RequestID: l.RequestID, TTLSeconds: int32(l.TTL / time.Second), //nolint:gosec // at most 3600
		NotServing: l.NotServing, GrantedAt: toTime(l.GrantedAt), PinnedAt: toTime(l.PinnedAt),
	}
}

func toTime(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	m := metav1.NewTime(t)
	return &m
}

func mergeConditions(old []metav1.Condition, s Summary) []metav1.Condition {
	conditions := slices.Clone(old)
	want := map[string]bool{}
	for _, c := range s.Conditions {
		if c.Type == "" {
			continue
		}
		want[c.Type] = true
		status := metav1.ConditionFalse
		if c.True {
			status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&conditions, metav1.Condition{
			Type: c.Type, Status: status, ObservedGeneration: s.ObservedGeneration, Reason: c.Reason, Message: c.Message,
		})
	}
	return slices.DeleteFunc(conditions, func(c metav1.Condition) bool { return !want[c.Type] })
}

// fromStatus reads a record back.
func fromStatus(s *v1alpha1.RosterStatus) Record {
	r := Record{
		Frozen: s.Frozen,
		Leases: lease.Table{
			Epoch: s.Epoch, LastToken: s.LastToken,
			Holders: map[string]lease.Holder{}, Leases: map[string]lease.Lease{},
		},
		Roster:   roster.Record{Members: map[string]roster.Member{}, Trusted: slices.Clone(s.TrustedRevisions)},
		Promised: time.Duration(s.PromisedSeconds) * time.Second,
		// The settings under which the record was kept; the rest of the summary is computed.
		Summary: Summary{ObservedGeneration: s.ObservedGeneration},
	}
	for _, m := range s.Members {
		r.Roster.Members[m.Name] = roster.Member{
			Assigned: m.Assigned, Generation: m.Generation, Duty: dutyOf(m.Duty),
			Attends: m.Attends, Instance: m.UID, Message: m.Message,
		}
	}
	for _, l := range s.Leases {
		r.Leases.Leases[l.Replica] = fromLease(l)
		r.Leases.LastToken = max(r.Leases.LastToken, l.Token)
	}
	for _, h := range s.Holders {
		r.Leases.Holders[h.Holder] = lease.Holder{Term: h.Term, Identity: h.Identity, Token: h.Token}
		r.Leases.LastToken = max(r.Leases.LastToken, h.Token)
	}
	for _, h := range s.Retired {
		r.Leases.Retired = append(r.Leases.Retired, lease.Retired{Holder: h.Holder, Term: h.Term})
	}
	for _, a := range s.Handovers {
		r.Roster.Asked = append(r.Roster.Asked, roster.Asked{Holder: a.Holder, From: a.From, Revision: a.Revision})
	}
	for _, f := range s.ForceReleases {
		r.ForceReleases = append(r.ForceReleases, ForceRelease{
			Time: f.Time.UTC(), By: f.By, Replica: f.Replica, LeaseID: f.LeaseID, Holder: f.Holder, Reason: f.Reason,
		})
	}
	return r
}

// dutyOf reads a duty; whatever is not understood is Unknown.
func dutyOf(s string) roster.Duty {
	switch d := roster.Duty(s); d {
	case roster.Working, roster.Idle, roster.Unknown:
		return d
	}
	return roster.Unknown
}

func fromLease(l v1alpha1.LeaseRecord) lease.Lease {
	out := lease.Lease{
		ID: l.ID, Replica: l.Replica, Holder: l.Holder, Token: l.Token, Phase: lease.Phase(l.Phase),
		Instance: l.Instance, RequestID: l.RequestID, TTL: time.Duration(l.TTLSeconds) * time.Second,
		NotServing: l.NotServing,
	}
	if out.Phase != lease.Leased && out.Phase != lease.Expired {
		out.Phase = lease.Pinned // what is not understood must not end by time
	}
	if l.GrantedAt != nil {
		out.GrantedAt = l.GrantedAt.UTC()
	}
	if l.PinnedAt != nil {
		out.PinnedAt = l.PinnedAt.UTC()
	}
	return out
}
