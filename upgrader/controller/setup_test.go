package controller

import (
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func TestOnePlanThatFailsAllTheTimeMakesItsAlertFire(t *testing.T) {
	const threshold = 0.02 // errors per second: OffdutyReconcileFails in config/monitoring/rules.yaml
	limiter, wait := retries(), time.Duration(0)
	for range 100 {
		wait = limiter.When(reconcile.Request{})
	}
	if rate := 1 / wait.Seconds(); rate <= threshold {
		t.Errorf("in the end it is tried every %s, which is %.3f errors per second: no more than %.3f", wait, rate, threshold)
	}
}
