package logs

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLinesAreJSONWithPlainLevels(t *testing.T) {
	var out bytes.Buffer
	log, err := New(&out, "info")
	if err != nil {
		t.Fatal(err)
	}
	log = log.WithValues("plan", "shop/voters")
	log.V(1).Info("decided", "reason", "Draining")
	log.Info("pod written", "replica", "shop/voter-0")
	log.Error(errors.New("no route"), "call failed", "method", "Pin")
	var got []map[string]any
	for d := json.NewDecoder(&out); d.More(); {
		line := map[string]any{}
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if line["time"] == nil {
			t.Errorf("%v has no time", line)
		}
		delete(line, "time")
		got = append(got, line)
	}
	want := []map[string]any{
		{"level": "info", "msg": "pod written", "plan": "shop/voters", "replica": "shop/voter-0"},
		{"level": "error", "msg": "call failed", "plan": "shop/voters", "method": "Pin", "err": "no route"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the lines (-want +got):\n%s", diff)
	}
}

func TestDebugShowsVerboseLines(t *testing.T) {
	var out bytes.Buffer
	log, err := New(&out, "debug")
	if err != nil {
		t.Fatal(err)
	}
	log.V(1).Info("decided")
	if !bytes.Contains(out.Bytes(), []byte(`"level":"debug"`)) {
		t.Errorf("got %s", out.Bytes())
	}
}

func TestAnUnknownLevelIsRefused(t *testing.T) {
	if _, err := New(&bytes.Buffer{}, "loud"); err == nil {
		t.Error("it was taken")
	}
}
