package source

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"offduty.dev/arbiter/roster"
)

// wellSaid demands what holds for whatever any source sees: who is not known for certain is said
// to be unknown, and why.
func wellSaid(t *testing.T, s roster.Sight) {
	t.Helper()
	if s.Duty != roster.Working && s.Duty != roster.Idle && s.Why == "" {
		t.Errorf("%+v: nobody is told why", s)
	}
}

// FuzzExpression compiles any expression and evaluates it over any pod.
func FuzzExpression(f *testing.F) {
	pod := []byte(`{"metadata":{"name":"a","labels":{"role":"master"},"creationTimestamp":"2026-01-01T00:00:00Z"},"status":{"conditions":[{"type":"x","status":"True"}]}}`)
	for _, e := range []string{
		`object.metadata.labels["role"] == "master"`, `object.metadata.?labels.role.orValue("") == "x"`, `true`, `1 / 0 == 1`,
		`object.status.conditions.exists(c, c.type == "x" && c.status == "True")`, `timestamp(object.metadata.creationTimestamp) > timestamp("x")`,
		`"a".matches("(a+)+$")`, `[1,2].map(x, x)`, `(`, ``,
	} {
		f.Add(e, pod)
	}
	f.Fuzz(func(t *testing.T, expression string, data []byte) {
		var p corev1.Pod
		if json.Unmarshal(data, &p) != nil {
			return
		}
		s, err := NewPods(expression)
		if err != nil {
			if s != nil || err.Error() == "" {
				t.Errorf("%q: %v, %v", expression, s, err)
			}
			return
		}
		Strip(&p)
		got := s.See(&p)
		wellSaid(t, got)
		if again := s.See(&p); again.Duty != got.Duty {
			t.Errorf("%q: %v, then %v", expression, got, again)
		}
	})
}

// FuzzHolder looks some times at a Lease that anybody may write: one replica works at most, and
// nobody is idle by a Lease that says nothing.
func FuzzHolder(f *testing.F) {
	f.Add("a-0_1f2e", "a-1", int32(15), int64(5), int64(10))
	f.Add("", "a-0", int32(0), int64(-5), int64(1))
	f.Add("_", "stranger_x", int32(-1), int64(0), int64(0))
	f.Fuzz(func(t *testing.T, first, second string, seconds int32, renewed, later int64) {
		pods := map[string]*corev1.Pod{"a-0": {}, "a-1": {}}
		now := time.Unix(1_800_000_000, 0)
		var s Lease
		for i, holder := range []string{first, first, second, second} {
			l := &coordinationv1.Lease{}
			l.Name = "l"
			l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds = &holder, &seconds
			at := time.Unix(renewed%4_000_000_000+int64(i), 0)
			l.Spec.RenewTime = &metav1.MicroTime{Time: at}
			sights := s.See(l, pods, now)
			if n := count(t, sights, roster.Working); n > 1 {
				t.Errorf("%d work by one Lease", n)
			}
			if count(t, sights, roster.Idle) > 0 && (holder == "" || seconds <= 0) {
				t.Errorf("idle by a Lease of %q for %d seconds: %+v", holder, seconds, sights)
			}
			now = now.Add(time.Duration(later%100) * time.Second)
		}
	})
}

// count says how many have a duty; each must be well said.
func count(t *testing.T, sights map[string]roster.Sight, d roster.Duty) int {
	t.Helper()
	n := 0
	for _, s := range sights {
		wellSaid(t, s)
		if s.Duty == d {
			n++
		}
	}
	return n
}

// FuzzEtcdAnswers judges what five etcds may answer: one leads at most, and nobody is idle while
// nobody does.
func FuzzEtcdAnswers(f *testing.F) {
	f.Add([]byte{1, 3, 1, 9, 1, 3, 1, 9, 1, 3, 1, 9})
	f.Add([]byte{1, 1, 1, 9, 1, 2, 2, 9, 1, 0, 3, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		answers := fiveEtcds()
		for i := 0; len(data) >= 4 && i < 5; i, data = i+1, data[4:] {
			answers.set(func(a *etcdAnswer) {
				a.cluster, a.leader, a.term = uint64(data[0]%2), uint64(data[1]%7), uint64(data[2]%4)
				a.committed, a.applied = uint64(data[3]), uint64(data[3]/2)
			}, fmt.Sprintf("db-%d", i))
		}
		sights := judgeEtcd(fiveMembers(), answers, 100)
		working, idle := count(t, sights, roster.Working), count(t, sights, roster.Idle)
		if working > 1 || idle > 0 && working == 0 {
			t.Errorf("%d lead and %d are idle: %+v", working, idle, answers)
		}
	})
}
