package controller

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"offduty.dev/api/v1alpha1"
	"offduty.dev/arbiter/lease"
)

// FuzzToPod reads whatever a pod may have: no token is believed that nobody can have given, and
// none hides another.
func FuzzToPod(f *testing.F) {
	f.Add([]byte(`{}`), "e-1/7", "7", "Normal")
	f.Add([]byte(`{"status":{"conditions":[{"type":"Ready","status":"True"}],"containerStatuses":[{"state":{"running":{}}}]}}`), "e/x-2/9223372036854775807", "5", "Updated")
	f.Add([]byte(`{"metadata":{"uid":"u"}}`), "/", "-1", "")
	f.Fuzz(func(t *testing.T, data []byte, note, fenced, state string) {
		var p corev1.Pod
		if json.Unmarshal(data, &p) != nil {
			return
		}
		p.Labels = map[string]string{v1alpha1.HoldLabel: "true", stateLabel: state}
		p.Annotations = map[string]string{v1alpha1.LeaseAnnotation: note, v1alpha1.FencedAnnotation: fenced}
		got := toPod(&p)
		if got.Token < 0 || got.Token > lease.MaxToken || got.Fenced < 0 || got.Token < got.Fenced {
			t.Errorf("note %q, fenced %q: token %d, fenced %d", note, fenced, got.Token, got.Fenced)
		}
		if got.LeaseID == "" && note != "" && note[0] != '/' {
			t.Errorf("note %q names no lease", note)
		}
		if got.Held && state != "Normal" && state != "PreparingUpdate" {
			t.Errorf("held in state %q", state)
		}
	})
}
