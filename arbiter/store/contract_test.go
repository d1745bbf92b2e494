package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/lease"
	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/store"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// sample is a record in which everything is set.
func sample() store.Record {
	return store.Record{
		Frozen: true,
		Leases: lease.Table{
			Epoch: "e", LastToken: 9,
			Holders: map[string]lease.Holder{"h": {Term: 3, Identity: "i", Token: 7}},
			Retired: []lease.Retired{{Holder: "gone", Term: 2}},
			Leases: map[string]lease.Lease{
				"web-0": {
					ID: "e-9", Replica: "web-0", Holder: "h", Token: 9, Phase: lease.Pinned, Instance: "u0", RequestID: "r",
					TTL: 30 * time.Second, NotServing: true, GrantedAt: at, PinnedAt: at.Add(time.Minute),
				},
				"web-1": {ID: "e-8", Replica: "web-1", Holder: "h", Token: 8, Phase: lease.Leased, TTL: time.Second, GrantedAt: at},
			},
		},
		Roster: roster.Record{
			Members: map[string]roster.Member{
				"web-0": {Generation: 4, Duty: roster.Idle, Attends: true, Instance: "u0", Message: "m"},
				"web-2": {Assigned: true, Generation: 2, Duty: roster.Working, Instance: "u2"},
			},
			Trusted: []string{"web-b", "web-a"},
			Asked:   []roster.Asked{{Holder: "h", From: "web-2", Revision: "web-a"}},
		},
		Promised:      10 * time.Second,
		ForceReleases: []store.ForceRelease{{Time: at, By: "admin", Replica: "web-4", LeaseID: "e-1", Holder: "g", Reason: "stuck"}},
	}
}

// world is one kind of store: open returns it anew over the same data, as after a restart.
type world struct {
	open func(t *testing.T) store.Store
}

func worlds(t *testing.T) map[string]world {
	t.Helper()
	memory := store.NewMemory()
	path := filepath.Join(t.TempDir(), "state")
	var file *store.File
	c := fakeCluster(t)
	return map[string]world{
		"memory": {open: func(*testing.T) store.Store { return memory }},
		"file": {open: func(t *testing.T) store.Store {
			t.Helper()
			if file != nil {
				must(t, file.Close())
			}
			var err error
			file, err = store.OpenFile(path)
			must(t, err)
			return file.Group("ns/web")
		}},
		"kubernetes": {open: func(*testing.T) store.Store {
			return store.NewKubernetes(c, c, types.NamespacedName{Namespace: "ns", Name: "web"})
		}},
	}
}

func fakeCluster(t *testing.T) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	must(t, v1alpha1.AddToScheme(scheme))
	ro := &v1alpha1.Roster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", Generation: 1}}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(ro).WithStatusSubresource(ro).Build()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	tests := map[string]func(ctx context.Context, t *testing.T, w world){
		"a record that was never begun has no epoch and is not lost": func(ctx context.Context, t *testing.T, w world) {
			t.Helper()
			r, _, err := w.open(t).Load(ctx)
			must(t, err)
			if r.Leases.Epoch != "" || r.Lost {
				t.Errorf("got %+v", r)
			}
		},
		"what was saved is there after a restart": func(ctx context.Context, t *testing.T, w world) {
			t.Helper()
			s := w.open(t)
			_, v, err := s.Load(ctx)
			must(t, err)
			_, err = s.Save(ctx, sample(), v)
			must(t, err)
			got, _, err := w.open(t).Load(ctx)
			must(t, err)
			got.Summary = store.Summary{}
			if diff := cmp.Diff(sample(), got); diff != "" {
				t.Error(diff)
			}
		},
		"two saves in a row need one load": func(ctx context.Context, t *testing.T, w world) {
			t.Helper()
			s := w.open(t)
			_, v, err := s.Load(ctx)
			must(t, err)
			v, err = s.Save(ctx, sample(), v)
			must(t, err)
			next := sample()
			next.Leases.LastToken = 10
			_, err = s.Save(ctx, next, v)
			must(t, err)
		},
		"a save over somebody else's is refused and changes nothing": func(ctx context.Context, t *testing.T, w world) {
			t.Helper()
			s := w.open(t)
			_, v, err := s.Load(ctx)
			must(t, err)
			v2, err := s.Save(ctx, sample(), v)
			must(t, err)
			late := sample()
			late.Leases.LastToken = 99
			if _, err := s.Save(ctx, late, v); !errors.Is(err, store.ErrConflict) {
				t.Errorf("want a conflict, got %v", err)
			}
			got, v3, err := s.Load(ctx)
			must(t, err)
			if got.Leases.LastToken != 9 || v3 != v2 {
				t.Errorf("the late save has changed something: %+v", got.Leases)
			}
		},
		"a record that was handed out does not change with a later save": func(ctx context.Context, t *testing.T, w world) {
			t.Helper()
			s := w.open(t)
			_, v, err := s.Load(ctx)
			must(t, err)
			v, err = s.Save(ctx, sample(), v)
			must(t, err)
			old, _, err := s.Load(ctx)
			must(t, err)
			next := sample()
			delete(next.Leases.Leases, "web-0")
			_, err = s.Save(ctx, next, v)
			must(t, err)
			if len(old.Leases.Leases) != 2 {
				t.Error("it has changed")
			}
		},
	}
	for name, test := range tests {
		for kind, w := range worlds(t) {
			t.Run(kind+": "+name, func(t *testing.T) { test(t.Context(), t, w) })
		}
	}
}

func TestKubernetesKnowsALostStatus(t *testing.T) {
	ctx, c := t.Context(), fakeCluster(t)
	key := types.NamespacedName{Namespace: "ns", Name: "web"}
	s := store.NewKubernetes(c, c, key)
	_, v, err := s.Load(ctx)
	must(t, err)
	_, err = s.Save(ctx, sample(), v)
	must(t, err)

	var ro v1alpha1.Roster
	must(t, c.Get(ctx, key, &ro))
	if ro.Annotations[v1alpha1.InitializedAnnotation] == "" {
		t.Error("the roster does not say that its status was begun")
	}
	ro.Status = v1alpha1.RosterStatus{}
	must(t, c.Status().Update(ctx, &ro))
	got, _, err := s.Load(ctx)
	must(t, err)
	if !got.Lost {
		t.Error("the status was wiped and is not known to be lost")
	}
}

func TestKubernetesSaysThatTheRosterIsGone(t *testing.T) {
	c := fakeCluster(t)
	s := store.NewKubernetes(c, c, types.NamespacedName{Namespace: "ns", Name: "other"})
	if _, _, err := s.Load(t.Context()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestKubernetesConditionsKeepTheirTransitionTime(t *testing.T) {
	ctx, c := t.Context(), fakeCluster(t)
	key := types.NamespacedName{Namespace: "ns", Name: "web"}
	s := store.NewKubernetes(c, c, key)
	_, v, err := s.Load(ctx)
	must(t, err)
	r := sample()
	r.Summary.Conditions = [3]store.Condition{{Type: "Ready", Reason: "A", Message: "a"}, {Type: "Stalled", True: true, Reason: "A", Message: "a"}}
	v, err = s.Save(ctx, r, v)
	must(t, err)
	r.Summary.Conditions = [3]store.Condition{{Type: "Ready", True: true, Reason: "B", Message: "b"}}
	_, err = s.Save(ctx, r, v)
	must(t, err)
	var ro v1alpha1.Roster
	must(t, c.Get(ctx, key, &ro))
	if len(ro.Status.Conditions) != 1 || ro.Status.Conditions[0].Reason != "B" || ro.Status.Conditions[0].Status != metav1.ConditionTrue {
		t.Errorf("got %+v", ro.Status.Conditions)
	}
}

func TestFileRefusesWhatItDoesNotUnderstand(t *testing.T) {
	tests := map[string]string{
		"an empty file":         "",
		"something else":        "hello",
		"a later format":        `{"Format": 2}`,
		"a lease without an id": `{"Format":1,"Groups":{"a/b":{"Version":1,"Record":{"Leases":{"Leases":{"web-0":{"Replica":"web-0"}}}}}}}`,
	}
	for name, content := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			must(t, os.WriteFile(path, []byte(content), 0o600))
			if _, err := store.OpenFile(path); err == nil {
				t.Error("it was opened")
			}
		})
	}
}

func TestFileIsUsedByOneProcessAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	f, err := store.OpenFile(path)
	must(t, err)
	if _, err := store.OpenFile(path); err == nil {
		t.Error("it was opened twice")
	}
	must(t, f.Close())
	f, err = store.OpenFile(path)
	must(t, err)
	must(t, f.Close())
}

func TestFileKeepsGroupsApart(t *testing.T) {
	ctx := t.Context()
	f, err := store.OpenFile(filepath.Join(t.TempDir(), "state"))
	must(t, err)
	defer func() { must(t, f.Close()) }()
	a, b := f.Group("ns/a"), f.Group("ns/b")
	_, v, err := a.Load(ctx)
	must(t, err)
	_, err = a.Save(ctx, sample(), v)
	must(t, err)
	got, _, err := b.Load(ctx)
	must(t, err)
	if got.Leases.Epoch != "" {
		t.Error("group b has the record of group a")
	}
}
