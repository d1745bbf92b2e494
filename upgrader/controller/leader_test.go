package controller

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func TestTermsOnlyGrow(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := coordinationv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	made := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	term := func(made time.Time, transitions *int32, holder string) (int64, error) {
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "l", CreationTimestamp: metav1.NewTime(made)}}
		lease.Spec.HolderIdentity, lease.Spec.LeaseTransitions = &holder, transitions
		l := &Leader{
			Reader: fake.NewClientBuilder().WithScheme(scheme).WithObjects(lease).Build(),
			Lease:  client.ObjectKeyFromObject(lease), Identity: "me",
		}
		n, _, err := l.Term(t.Context())
		return n, err
	}
	last := int64(0)
	for _, c := range []struct {
		name        string
		made        time.Time
		transitions *int32
	}{
		{"the first leader", made, nil},
		{"its successor", made, new(int32(1))},
		{"much later", made, new(int32(500))},
		{"the first one of a Lease that was made anew", made.Add(time.Hour), new(int32(0))},
	} {
		n, err := term(c.made, c.transitions, "me")
		if err != nil || n <= last {
			t.Errorf("%s: term %d after %d: %v", c.name, n, last, err)
		}
		last = n
	}
	if n, err := term(made, nil, "another"); err == nil {
		t.Errorf("it leads in term %d although another holds the Lease", n)
	}
}
