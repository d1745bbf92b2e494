package source_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"offduty.dev/arbiter/roster"
	"offduty.dev/arbiter/source"
)

func pod(labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "prod", Name: "pg-0", UID: "u0", Labels: labels,
			CreationTimestamp: metav1.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
			Annotations:       map[string]string{"status": `{"role":"replica","state":"streaming"}`},
		},
		Spec: corev1.PodSpec{NodeName: "n1", Hostname: "h"},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.7",
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "pg", Ready: true, RestartCount: 2, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			}},
		},
	}
}

func TestAnExpressionSaysWhetherAPodWorks(t *testing.T) {
	for name, tt := range map[string]struct {
		expression string
		labels     map[string]string
		want       roster.Duty
		why        string
	}{
		"the label says so":             {`has(object.metadata.labels.role) && object.metadata.labels.role == "primary"`, map[string]string{"role": "primary"}, roster.Working, ""},
		"the label says something else": {`has(object.metadata.labels.role) && object.metadata.labels.role == "primary"`, map[string]string{"role": "replica"}, roster.Idle, ""},
		"has allows for a label that is not there": {
			`has(object.metadata.labels.role) && object.metadata.labels.role == "primary"`, nil, roster.Idle, "",
		},
		"a label that is not there, without has": {`object.metadata.labels.role == "primary"`, nil, roster.Unknown, "its expression fails: no such key: role"},
		"a label with a dot in its name":         {`object.metadata.labels["kubeblocks.io/role"] in ["leader", "primary"]`, map[string]string{"kubeblocks.io/role": "leader"}, roster.Working, ""},
		"an optional label":                      {`object.metadata.labels[?"role"].orValue("primary") == "primary"`, nil, roster.Working, ""},
		"a condition":                            {`object.status.conditions.exists(c, c.type == "Ready" && c.status == "True")`, nil, roster.Working, ""},
		"a container":                            {`object.status.containerStatuses.all(c, c.ready && c.restartCount > 2)`, nil, roster.Idle, ""},
		"an annotation, by the string functions": {`object.metadata.annotations.status.lowerAscii().contains('"role":"replica"')`, nil, roster.Working, ""},
		"a time":                                 {`timestamp(object.metadata.creationTimestamp) < timestamp("2026-01-02T03:04:06Z")`, nil, roster.Working, ""},
		"what a pod does not have is empty":      {`object.metadata.deletionTimestamp == "" && !has(object.metadata.deletionTimestamp)`, nil, roster.Working, ""},
		"its address and its node":               {`object.status.podIP == "10.0.0.7" && object.spec.nodeName == "n1" && object.status.phase == "Running"`, nil, roster.Working, ""},
		"one that costs too much": {
			`[1,2,3,4,5,6,7,8,9,0].all(a, [1,2,3,4,5,6,7,8,9,0].all(b, [1,2,3,4,5,6,7,8,9,0].all(c, [1,2,3,4,5,6,7,8,9,0].all(d, [1,2,3,4,5,6,7,8,9,0].all(e, a+b+c+d+e < 99)))))`,
			nil, roster.Unknown, "its expression fails: operation cancelled: actual cost limit exceeded",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := source.NewPods(tt.expression)
			if err != nil {
				t.Fatal(err)
			}
			want := roster.Sight{Instance: "u0", Duty: tt.want, Why: tt.why}
			if got := s.See(pod(tt.labels)); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			stripped := pod(tt.labels)
			source.Strip(stripped)
			if got := s.See(stripped); got != want {
				t.Errorf("of a pod as the cache keeps it: got %+v, want %+v", got, want)
			}
		})
	}
}

func TestAnExpressionThatIsWrongIsRefusedWithItsPlace(t *testing.T) {
	for expression, want := range map[string]string{
		`object.metadata.lables.role == "primary"`:                   "line 1, column 16: undefined field 'lables'",
		`object.metadata.labels.role == 1`:                           "line 1, column 29: found no matching overload for '_==_' applied to '(string, int)'",
		`object.metadata.labels.role`:                                "it is of type string, and must be bool",
		"true &&\n  pod.metadata.name == \"a\"":                      "line 2, column 3: undeclared reference to 'pod' (in container '')",
		`object.metadata.labels.role == "primary`:                    "line 1, column 32: Syntax error: token recognition error at: '\"primary' (and 1 more)",
		`object.spec.containers.size() > 0`:                          "line 1, column 12: undefined field 'containers'",
		``:                                                           "line 1, column 1: Syntax error: mismatched input '<EOF>'",
		strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200): "expression recursion limit exceeded: 50",
	} {
		_, err := source.NewPods(expression)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n got %v\nwant %s", expression, err, want)
		}
	}
}

func TestNoExpressionBreaksIt(t *testing.T) {
	// What a fuzzer would try; an error is an answer, a panic is not.
	for _, e := range []string{"object", "object.metadata", "object == object", "null", "[][0]", "{}", "object.status.conditions[9].type == 'a'", "source.Object{}.metadata.name == ''"} {
		s, err := source.NewPods(e)
		if err == nil {
			_ = s.See(&corev1.Pod{})
		}
	}
}
