package harness

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	arbiter "offduty.dev/arbiter/client"
	"offduty.dev/test/cluster/controlplane"
)

// Group is the name of the roster, the set and the plan on a stage.
const Group = "sample"

// Stage is one namespace with an application under observation.
type Stage struct {
	*System
	Namespace  string
	History    *History
	Attendants *Attendants

	arbiter *arbiter.Client
	mark    controlplane.AuditMark
}

// NewStage observes a namespace, which must exist, and lets an application attend in it.
// onShift, if not nil, is told of each beginning and end of a shift.
func (s *System) NewStage(ctx context.Context, namespace string, onShift func(Shift)) (*Stage, error) {
	mark, err := s.Cluster.AuditMark()
	if err != nil {
		return nil, err
	}
	h, err := Record(ctx, s.Cluster, namespace)
	if err != nil {
		return nil, err
	}
	k, err := s.Arbiter("attendant")
	if err != nil {
		h.Stop()
		return nil, err
	}
	return &Stage{
		System: s, Namespace: namespace, History: h, arbiter: k, mark: mark,
		Attendants: Attend(ctx, h, k, namespace, Group, onShift),
	}, nil
}

// Close ends the application and the observation.
func (s *Stage) Close() error {
	s.Attendants.Stop()
	s.History.Stop()
	return s.arbiter.Close()
}

// Apply is kubectl apply in the stage's namespace. Whoever awaits something of the history
// afterwards sees nothing that is older.
func (s *Stage) Apply(ctx context.Context, manifest string) error {
	out, err := s.Kubectl(ctx, manifest, "apply", "--namespace", s.Namespace, "--filename", "-", "--output", "json")
	return errors.Join(err, s.due(out))
}

// Patch is kubectl patch in the stage's namespace with a merge patch in JSON, and like Apply.
func (s *Stage) Patch(ctx context.Context, kind, name, patch string) error {
	out, err := s.Kubectl(ctx, "", "patch", "--namespace", s.Namespace, kind, name, "--type", "merge", "--patch", patch, "--output", "json")
	return errors.Join(err, s.due(out))
}

// due makes the history wait for the objects that kubectl printed, one or a list.
func (s *Stage) due(printed string) error {
	if printed == "" {
		return nil // it failed
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON([]byte(printed)); err != nil {
		return fmt.Errorf("read what kubectl printed: %w", err)
	}
	if !u.IsList() {
		s.History.Due(u)
		return nil
	}
	return u.EachListItem(func(o runtime.Object) error {
		s.History.Due(o.(*unstructured.Unstructured))
		return nil
	})
}

// Assign gives the roster other workers; assigned is that of Named or Slots.
func (s *Stage) Assign(ctx context.Context, assigned string) error {
	other := "workers"
	if strings.Contains(assigned, other) {
		other = "working"
	}
	return s.Patch(ctx, "roster", Group, fmt.Sprintf(`{"spec": {"assigned": {%q: null, %s}}`, other, strings.TrimPrefix(assigned, "{")))
}

// Evidence is everything that is known of what happened on a stage.
type Evidence struct {
	Pods    []Pod
	Sets    []Set
	Plans   []Plan
	Rosters []Roster
	Shifts  []Shift
	// Gaps are where versions may be missing from all of these. What was written there is not
	// held against promises that speak of what there was.
	Gaps []Gap
	// Writes to pods and sets by anybody, in the order in which they ended.
	Writes []Write
}

// Evidence waits until the audit log and the history are complete, and returns everything.
func (s *Stage) Evidence(ctx context.Context) (Evidence, error) {
	if err := s.settleAudit(ctx); err != nil {
		return Evidence{}, err
	}
	var e Evidence
	var err error
	if err := s.catchUp(ctx); err != nil {
		return e, err
	}
	e.Pods, e.Sets, e.Plans, e.Rosters, err = s.History.Record()
	if err != nil {
		return e, fmt.Errorf("the history of namespace %s is not complete: %w", s.Namespace, err)
	}
	e.Shifts, e.Gaps = s.Attendants.Shifts(), s.History.Gaps()
	events, err := s.Cluster.AuditSince(s.mark, func(a controlplane.AuditEvent) bool {
		return a.Namespace == s.Namespace && a.Write() && (a.Resource == "pods" || a.Resource == "statefulsets" || a.Resource == "upgradeplans")
	})
	if err != nil {
		return e, err
	}
	for _, a := range events {
		w, err := writeOf(a)
		if err != nil {
			return e, err
		}
		e.Writes = append(e.Writes, w)
	}
	return e, nil
}

// catchUp waits until the history has what the audit log has. In a namespace whose kinds are
// gone there is nothing more to come.
func (s *Stage) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := s.History.CatchUp(ctx); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// settleAudit makes a request of its own and waits until the audit log has it: then it
// has everything that was answered before.
func (s *Stage) settleAudit(ctx context.Context) error {
	k, err := s.Cluster.Client(ctx, Observer, nil)
	if err != nil {
		return err
	}
	mark, err := s.Cluster.AuditMark()
	if err != nil {
		return err
	}
	name := "settled-" + rand.Text()
	if err := client.IgnoreNotFound(k.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: name}, &corev1.ConfigMap{})); err != nil {
		return fmt.Errorf("make a request that the audit log shows: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return controlplane.Until(ctx, "the audit log is complete", func(context.Context) error {
		events, err := s.Cluster.AuditSince(mark, func(a controlplane.AuditEvent) bool { return a.Name == name })
		if err == nil && len(events) == 0 {
			err = errors.New("it lacks the latest request")
		}
		return err
	})
}
