// Package calibration records what the real Kruise does, and compares it with what was
// recorded before: see test/sim/calibration. No upgrader takes part.
package calibration

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/sim/calibration"
)

func TestMain(m *testing.M) { clustertest.Main(m, controlplane.Options{}) }

const (
	// patience is how long one input may take on a loaded machine.
	patience = 90 * time.Second
	// atOnce is how many stories are told beside each other: for the most part they wait.
	atOnce = 8
)

// TestKruiseBehavesAsRecorded tells every story to the real Kruise.
func TestKruiseBehavesAsRecorded(t *testing.T) {
	stories := calibration.Stories(t, "../../sim/calibration/testdata")
	c := clustertest.Shared(t)
	k, err := c.Client(t.Context(), controlplane.Admin(), nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := make([][]string, len(stories))
	room := make(chan struct{}, atOnce)
	var told sync.WaitGroup
	for i := range stories {
		told.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			seen[i] = tell(t, k, c.KruiseVersion(), &stories[i])
		})
	}
	told.Wait()
	for i := range stories {
		t.Run(stories[i].Name, func(t *testing.T) { stories[i].Compare(t, seen[i]) })
	}
}

// tell plays a story, and returns what became visible after each of its inputs. What is not
// as recorded is told again: it counts when it comes out so each time. Under load the
// simulated kubelet has acted on a pod late, and by its name, when that was its successor's.
func tell(t *testing.T, k client.WithWatch, version string, s *calibration.Story) []string {
	t.Helper()
	const tellings = 3
	for telling := 1; ; telling++ {
		seen, as := tellOnce(t.Context(), k, version, s)
		if as || telling == tellings {
			return seen
		}
		n := len(seen)
		t.Logf("%s, telling %d, input %d (%s) came out otherwise than recorded:\n%s", s.Name, telling, n, s.Steps[n-1].Verb, seen[n-1])
	}
}

// tellOnce ends at the first input after which it is not as recorded.
func tellOnce(ctx context.Context, k client.WithWatch, version string, s *calibration.Story) (seen []string, asRecorded bool) {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "story-"}}
	if err := k.Create(ctx, namespace); err != nil {
		return []string{fmt.Sprintf("cannot be recorded: %v\n", err)}, false
	}
	stage, err := newStage(ctx, k, version, namespace.Name)
	if err != nil {
		return []string{fmt.Sprintf("cannot be recorded: %v\n", err)}, false
	}
	defer stage.stop()
	for _, step := range s.Steps {
		now, err := stage.step(ctx, step)
		if err != nil {
			return append(seen, fmt.Sprintf("%scannot be recorded: %v\n", now, err)), false
		}
		if seen = append(seen, now); now != step.Recorded && !recording() {
			return seen, false
		}
	}
	if err := k.Delete(ctx, namespace); err != nil {
		return append(seen, fmt.Sprintf("cannot be ended: %v\n", err)), false
	}
	return seen, true
}
