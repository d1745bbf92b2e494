package metrics

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
)

// cached is a cache of plans.
type cached struct {
	client.Reader
	plans []v1alpha1.UpgradePlan
}

func (c cached) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	into.(*v1alpha1.UpgradePlanList).Items = c.plans
	return nil
}

// BenchmarkScrape is one scrape with 1,000 complete plans of ten replicas.
func BenchmarkScrape(b *testing.B) {
	const plans = 1000
	c := cached{plans: make([]v1alpha1.UpgradePlan, plans)}
	for i := range c.plans {
		c.plans[i].Namespace, c.plans[i].Name = "shop", fmt.Sprintf("voters-%d", i)
		c.plans[i].Status = v1alpha1.UpgradePlanStatus{
			Replicas: 10, UpgradedReplicas: 10, LastProgressTime: &metav1.Time{Time: time.Unix(0, 0)},
			Conditions:      []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Complete"}},
			ReplicaStatuses: make([]v1alpha1.ReplicaStatus, 10),
		}
		for j := range c.plans[i].Status.ReplicaStatuses {
			c.plans[i].Status.ReplicaStatuses[j].Step = "Upgraded"
		}
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(&Plans{
		Reader: c, Leading: closed(), Context: b.Context(), Leases: func(types.NamespacedName) Leases { return Leases{} },
	})
	b.ReportAllocs()
	for b.Loop() {
		families, err := reg.Gather()
		if err != nil {
			b.Fatal(err)
		}
		out := expfmt.NewEncoder(io.Discard, expfmt.NewFormat(expfmt.TypeTextPlain))
		for _, f := range families {
			if err := out.Encode(f); err != nil {
				b.Fatal(err)
			}
		}
	}
}
