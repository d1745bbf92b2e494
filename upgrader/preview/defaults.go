package preview

import (
	"k8s.io/apimachinery/pkg/util/intstr"

	"offduty.dev/api/v1alpha1"
)

// Default fills in what the API server would, by the defaults in the schema (a test holds
// the two against each other).
func Default(up *v1alpha1.UpgradePlan) {
	s := &up.Spec.Strategy
	or(&up.Spec.Arbiter.TimeoutSeconds, 10)
	or(&up.Spec.WorkingLabel, v1alpha1.DefaultWorkingLabel)
	if s.MaxUnavailable == nil {
		s.MaxUnavailable = new(intstr.FromInt32(1))
	}
	or(&s.Handover, v1alpha1.HandoverRequest)
	or(&s.Drain.Gate, v1alpha1.InServiceGate)
	or(&s.Drain.TimeoutSeconds, 300)
	or(&s.Verify.TimeoutSeconds, 600)
	or(&s.ProgressDeadlineSeconds, 600)
}

// or sets what is not set.
func or[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
