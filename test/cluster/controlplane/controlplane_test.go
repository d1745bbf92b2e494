package controlplane_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"offduty.dev/test/cluster/clustertest"
	"offduty.dev/test/cluster/controlplane"
)

// outcome is what an in-place update may or may not change of a pod.
type outcome struct {
	Name, UID, Image string
	SameImageID      bool
	Restarts         int32
}

func outcomes(before, after []corev1.Pod) []outcome {
	var result []outcome
	for i, pod := range after {
		status := pod.Status.ContainerStatuses[0]
		result = append(result, outcome{
			Name: pod.Name, UID: string(pod.UID), Image: status.Image, Restarts: status.RestartCount,
			SameImageID: status.ImageID == before[i].Status.ContainerStatuses[0].ImageID,
		})
	}
	return result
}

func TestExactlyTheTwoIdlePodsChangeInPlace(t *testing.T) {
	s := newSet(t, 5)
	for _, pod := range []string{"sample-1", "sample-3"} {
		if err := s.label(pod, "false"); err != nil {
			t.Fatal(err)
		}
	}
	before := s.await("nothing, only to read", func([]corev1.Pod) error { return nil })
	s.update("example.com/sample:v2", 3)
	after := s.await("pods 1 and 3 run v2", func(pods []corev1.Pod) error {
		return errors.Join(running("example.com/sample:v2", 1)(pods[1]), running("example.com/sample:v2", 1)(pods[3]))
	})
	var want []outcome
	for i, pod := range before {
		o := outcome{Name: fmt.Sprintf("sample-%d", i), UID: string(pod.UID), Image: "example.com/sample:v1", SameImageID: true}
		if i == 1 || i == 3 {
			o.Image, o.SameImageID, o.Restarts = "example.com/sample:v2", false, 1
		}
		want = append(want, o)
	}
	if diff := cmp.Diff(want, outcomes(before, after)); diff != "" {
		t.Errorf("the pods after the update (-want +got):\n%s", diff)
	}
}

func TestImageTagsSayHowAContainerFails(t *testing.T) {
	s := newSet(t, 1)
	one := func(check func(corev1.Pod) error) func([]corev1.Pod) error {
		return func(pods []corev1.Pod) error { return all(pods, 1, check) }
	}
	s.update("example.com/sample:broken-v2", 0)
	s.await("the image cannot be pulled", one(waiting("ImagePullBackOff")))
	s.update("example.com/sample:v3", 0)
	s.await("a good image gets it going", one(running("example.com/sample:v3", 1)))
	s.update("example.com/sample:crash-v4", 0)
	s.await("the container crashes", one(waiting("CrashLoopBackOff")))
	s.update("example.com/sample:v5", 0)
	before := s.await("a good image gets it going again", one(running("example.com/sample:v5", 3)))

	s.update("example.com/sample:samedigest-v6", 0)
	after := s.await("the container was restarted from the same image", one(func(pod corev1.Pod) error {
		status := pod.Status.ContainerStatuses[0]
		if status.RestartCount != 4 || status.State.Running == nil {
			return fmt.Errorf("%d restarts, state %v", status.RestartCount, status.State)
		}
		return condition(pod, "InPlaceUpdateReady", corev1.ConditionFalse)
	}))
	if !outcomes(before, after)[0].SameImageID {
		t.Error("the same image under another tag has got another imageID")
	}
	s.update("example.com/sample:v5", 0)
	s.await("back at the image from before", one(running("example.com/sample:v5", 5)))
}

func TestAFrozenKruiseBlocksPodWritesUntilItIsThawed(t *testing.T) {
	s := newSet(t, 1)
	c := clustertest.Shared(t)
	if err := c.Freeze(controlplane.Kruise); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := s.labelWithin(ctx, "sample-0", "false"); err == nil {
		t.Error("a pod was changed while Kruise's webhook could not answer")
	}
	if err := c.Thaw(controlplane.Kruise); err != nil {
		t.Fatal(err)
	}
	s.retry("the label is written", func(ctx context.Context) error { return s.labelWithin(ctx, "sample-0", "false") })
}

func TestEveryDaemonCanBeKilledAndStartedAgain(t *testing.T) {
	for _, name := range []string{
		controlplane.Kruise, controlplane.Kwok, controlplane.ControllerManager,
		controlplane.Scheduler, controlplane.APIServer, controlplane.Etcd,
	} {
		t.Run("an update and a new pod come through after "+name+" was killed", func(t *testing.T) {
			s := newSet(t, 2)
			c := clustertest.Shared(t)
			if err := c.Kill(name); err != nil {
				t.Fatal(err)
			}
			started := time.Now()
			if err := c.Restart(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s was ready again after %s", name, time.Since(started).Round(time.Millisecond))
			s.update("example.com/sample:v2", 0)
			s.await("both pods run v2", func(pods []corev1.Pod) error {
				return all(pods, 2, running("example.com/sample:v2", 1))
			})
			victim := &corev1.Pod{}
			victim.Namespace, victim.Name = s.namespace, "sample-0"
			s.retry("a pod is deleted", func(ctx context.Context) error { return client.IgnoreNotFound(s.k.Delete(ctx, victim)) })
			s.await("the deleted pod is back", func(pods []corev1.Pod) error {
				return errors.Join(all(pods, 2, ready), running("example.com/sample:v2", 0)(pods[0]))
			})
			t.Logf("everything worked again after %s", time.Since(started).Round(time.Millisecond))
		})
	}
}

func TestRightsAreThoseOfTheIdentity(t *testing.T) {
	c := clustertest.Shared(t)
	namespace := clustertest.Namespace(t)
	err := c.Apply(t.Context(), fmt.Appendf(nil, rights, namespace))
	if err != nil {
		t.Fatal(err)
	}
	for name, who := range map[string]controlplane.Identity{
		"a user may do what its group may":        controlplane.User("alice", "developers"),
		"a service account may do what it may":    controlplane.ServiceAccount(namespace, "robot"),
		"a user without rights may do nothing":    controlplane.User("mallory"),
		"an account without rights may not do it": controlplane.ServiceAccount(namespace, "default"),
	} {
		t.Run(name, func(t *testing.T) {
			k, err := c.Client(t.Context(), who, nil)
			if err != nil {
				t.Fatal(err)
			}
			allowed := who.Username() == "alice" || who.Username() == "system:serviceaccount:"+namespace+":robot"
			got := k.List(t.Context(), &corev1.ConfigMapList{}, client.InNamespace(namespace))
			if allowed && got != nil || !allowed && !apierrors.IsForbidden(got) {
				t.Errorf("%s lists config maps: %v", who.Username(), got)
			}
			if got := k.List(t.Context(), &corev1.SecretList{}, client.InNamespace(namespace)); !apierrors.IsForbidden(got) {
				t.Errorf("%s lists secrets, which nobody here may: %v", who.Username(), got)
			}
		})
	}
}

const rights = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: keeper, namespace: %[1]s}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [list, create, patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: keeper, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: keeper}
subjects:
- {kind: Group, apiGroup: rbac.authorization.k8s.io, name: developers}
- {kind: ServiceAccount, namespace: %[1]s, name: robot}
`

func TestWritesAreCountedFromTheAuditLog(t *testing.T) {
	c := clustertest.Shared(t)
	namespace := clustertest.Namespace(t)
	if err := c.Apply(t.Context(), fmt.Appendf(nil, rights, namespace)); err != nil {
		t.Fatal(err)
	}
	who := controlplane.User("counted-"+namespace, "developers")
	k, err := c.Client(t.Context(), who, nil)
	if err != nil {
		t.Fatal(err)
	}
	mark, err := c.AuditMark()
	if err != nil {
		t.Fatal(err)
	}
	object := &corev1.ConfigMap{}
	object.Namespace, object.Name = namespace, "counted"
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"data":{"a":"b"}}`))
	denied := k.Delete(t.Context(), object.DeepCopy())
	if err := errors.Join(k.Create(t.Context(), object), k.Patch(t.Context(), object, patch), k.Patch(t.Context(), object, patch)); err != nil {
		t.Fatal(err)
	}
	if !apierrors.IsForbidden(denied) {
		t.Fatalf("the user may not delete, but got %v", denied)
	}
	type count struct{ Verb, Resource, Name string }
	var got []count
	err = controlplane.Until(t.Context(), "three writes are logged", func(context.Context) error {
		events, err := c.AuditSince(mark, func(e controlplane.AuditEvent) bool { return e.User == who.Username() && e.Write() })
		got = nil
		for _, e := range events {
			got = append(got, count{e.Verb, e.Resource, e.Name})
		}
		if len(got) < 3 {
			return errors.Join(err, fmt.Errorf("%d are", len(got)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []count{{"create", "configmaps", "counted"}, {"patch", "configmaps", "counted"}, {"patch", "configmaps", "counted"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("writes in the audit log (-want +got):\n%s", diff)
	}
}

func TestStopLeavesNoProcessBehind(t *testing.T) {
	clustertest.Shared(t) // takes this binary's turn, so that at most one more control plane runs
	c, err := controlplane.Start(t.Context(), controlplane.Options{Dir: t.TempDir(), WithoutKruise: true, Nodes: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartProcess("sleeper", []string{"/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Freeze(controlplane.Scheduler); err != nil {
		t.Fatal(err)
	}
	pids := c.PIDs()
	if len(pids) != 6 {
		t.Errorf("expected five daemons and the sleeper to run, got %v", pids)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	for name, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("%s (process %d) is still there: %v", name, pid, err)
		}
	}
	if _, err := c.StartProcess("late", []string{"/bin/true"}); err == nil {
		t.Error("a stopped cluster started a process")
	}
}
