package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/test/cluster/controlplane"
	"offduty.dev/test/e2e/harness"
)

// A namespace with a plan at work goes when it is deleted, whatever of it goes first: its
// finalizer is the last thing in it, and nothing that the plan needs can be made again.
func TestDeletingTheNamespaceOfAPlan(t *testing.T) {
	own := func(s *stage) string {
		s.apply(secret("arbiter", s.files("upgrader")))
		return strings.Replace(harness.PlanManifest(harness.NewImage, "{maxUnavailable: 2, progressDeadlineSeconds: 5}"),
			"group: sample", "group: sample\n    address: "+s.ArbiterAddress+"\n    tls: {secretName: arbiter}", 1)
	}
	usual := func(*stage) string { return harness.PlanManifest(harness.NewImage, crashStrategy) }
	for _, c := range []struct {
		name string
		plan func(*stage) string
		at   string
		// first is what is done before the namespace is deleted.
		first func(*stage)
	}{
		{name: "while a replica is past the point of no return", plan: usual, at: "released"},
		{name: "whose arbiter needs a secret that goes first, with roster, set and pods", plan: own, at: "released", first: func(s *stage) {
			s.must(s.remove("secret/arbiter", "roster/sample", "asts/sample", "pods"))
		}},
		{name: "whose secret is gone when a new upgrader comes", plan: own, at: "selected", first: func(s *stage) {
			s.must(s.Kill(harness.UpgraderA))
			s.must(s.remove("secret/arbiter"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			s.begin(harness.Slots(3), 3, v1alpha1.InServiceGate)
			at := harness.StepOf(c.at)
			seen := s.History.When(func(n harness.Now) bool { _, ok := at.Seen(n, harness.NewImage); return ok }, func() {})
			s.apply(c.plan(s))
			s.wait("the step "+at.Name+" comes", seen)
			if c.first != nil {
				c.first(s)
			}
			s.must(s.remove("namespace/" + s.Namespace))
			if p, err := s.Cluster.Process(harness.UpgraderA); err != nil || !p.Running() {
				s.must(errors.Join(err, s.Restart(t.Context(), harness.UpgraderA)))
			}
			s.gone()
			s.calm()
		})
	}
}

// remove is kubectl delete, without waiting; "pods" are all pods.
func (s *stage) remove(what ...string) error {
	for _, w := range what {
		args := []string{"delete", w, "--namespace", s.Namespace, "--wait=false", "--ignore-not-found"}
		if !strings.Contains(w, "/") {
			args = append(args, "--all")
		}
		if _, err := s.Kubectl(s.t.Context(), "", args...); err != nil {
			return err
		}
	}
	return nil
}

// gone waits until there is no such namespace any more.
func (s *stage) gone() {
	s.t.Helper()
	k, err := s.Cluster.Client(s.t.Context(), controlplane.Admin(), nil)
	s.must(err)
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(controlplane.Until(ctx, "the namespace is gone", func(ctx context.Context) error {
		namespace := &corev1.Namespace{}
		err := k.Get(ctx, client.ObjectKey{Name: s.Namespace}, namespace)
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		}
		return fmt.Errorf("%+v", namespace.Status.Conditions)
	}))
}

// calm wants the upgrader to have logged no more than a few errors about the namespace.
// Events cannot be written there any more, and each is tried once.
func (s *stage) calm() {
	s.t.Helper()
	log, err := os.Open(filepath.Join(s.Cluster.LogDir(), harness.UpgraderA+".log"))
	s.must(err)
	defer log.Close()
	var events, errors []string
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		switch l := lines.Text(); {
		case !strings.Contains(l, `"level":"error"`) || !strings.Contains(l, s.Namespace):
		case strings.Contains(l, "Server rejected event (will not retry!)"):
			events = append(events, l)
		default:
			errors = append(errors, l)
		}
	}
	s.must(lines.Err())
	if len(errors) > 5 || len(events) > 100 {
		s.t.Errorf("the upgrader logged %d errors about the namespace, and %d rejected events:\n%s", len(errors), len(events), strings.Join(errors, "\n"))
	}
}
