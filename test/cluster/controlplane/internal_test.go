package controlplane

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestUntil(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name   string
		answer func(attempt int) error
		calls  int
		after  time.Duration
		want   []string // parts of the error; none: success
	}{
		{"is over at once when it is so already", func(int) error { return nil }, 1, 0, nil},
		{"asks every 50 ms", func(n int) error { return []error{broken, broken, nil}[n] }, 3, 100 * time.Millisecond, nil},
		{"gives up when it can never be so", func(int) error { return Permanent(broken) }, 1, 0, []string{"wait until it works", "broken"}},
		{"says at the end of its time what was missing", func(int) error { return broken }, 21, time.Second, []string{"wait until it works", "deadline", "broken"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls, after, err := askUntil(t.Context(), test.answer)
				if calls != test.calls || after != test.after {
					t.Errorf("%d calls in %s, want %d in %s", calls, after, test.calls, test.after)
				}
				checkError(t, err, test.want)
			})
		})
	}
}

// askUntil gives Until a little more than a second, and says how often and how
// long it asked, rounded down to 50 ms.
func askUntil(ctx context.Context, answer func(attempt int) error) (calls int, after time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 1010*time.Millisecond)
	defer cancel()
	started := time.Now()
	err = Until(ctx, "it works", func(context.Context) error {
		calls++
		return answer(calls - 1)
	})
	return calls, time.Since(started).Truncate(50 * time.Millisecond), err
}

// checkError wants an error with all parts in its text, or none without parts.
func checkError(t *testing.T, err error, parts []string) {
	t.Helper()
	if parts == nil && err != nil {
		t.Error(err)
	}
	for _, part := range parts {
		if !strings.Contains(fmt.Sprint(err), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
}

func TestReadAudit(t *testing.T) {
	const line = `{"stage":"ResponseComplete","requestURI":"/api/v1/namespaces/n/pods/p/status","verb":"patch","user":{"username":"kwok"},` +
		`"objectRef":{"resource":"pods","subresource":"status","namespace":"n","name":"p"},"responseStatus":{"code":200},"requestObject":{"a":1}}` + "\n"
	patch := AuditEvent{
		User: "kwok", Verb: "patch", Resource: "pods", Subresource: "status", Namespace: "n", Name: "p",
		URI: "/api/v1/namespaces/n/pods/p/status", Code: 200, Body: []byte(`{"a":1}`),
	}
	watch := func(stage string) string {
		return `{"stage":"` + stage + `","verb":"watch","user":{"username":"u"},"objectRef":{"resource":"pods"},"responseStatus":{"code":200}}` + "\n"
	}
	for _, test := range []struct {
		name, log string
		keep      func(AuditEvent) bool
		want      []AuditEvent
		fails     bool
	}{
		{"an empty log has no events", "", nil, nil, false},
		{"a line is an event", line, nil, []AuditEvent{patch}, false},
		{"a line that is still being written is left for later", line + line[:40], nil, []AuditEvent{patch}, false},
		{"a watch counts once", watch("ResponseStarted") + watch("ResponseComplete"), nil, []AuditEvent{{User: "u", Verb: "watch", Resource: "pods", Code: 200}}, false},
		{"what is not wanted is left out", line, func(e AuditEvent) bool { return e.User != "kwok" }, nil, false},
		{"a broken line is an error, not a smaller count", "{\n" + line, nil, nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := readAudit(strings.NewReader(test.log), test.keep)
			if (err != nil) != test.fails {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatCountsAsAWrite(t *testing.T) {
	for _, test := range []struct {
		event AuditEvent
		want  bool
	}{
		{AuditEvent{Verb: "patch", Code: 200}, true},
		{AuditEvent{Verb: "create", Code: 201}, true},
		{AuditEvent{Verb: "create", Code: 409}, false},
		{AuditEvent{Verb: "get", Code: 200}, false},
		{AuditEvent{Verb: "create", Code: 201, URI: "/api/v1/pods?dryRun=All&fieldManager=x"}, false},
	} {
		if got := test.event.Write(); got != test.want {
			t.Errorf("%s answered with %d counts as a write: %t", test.event.Verb, test.event.Code, got)
		}
	}
}

func TestDecode(t *testing.T) {
	for _, test := range []struct {
		name, manifest string
		want           []string
		fails          bool
	}{
		{"nothing", "", nil, false},
		{"comments and empty documents are left out", "# a\n---\n---\n# b\n", nil, false},
		{"documents in their order", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: default}\n---\n{\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"b\"}}\n", []string{"Pod default/a", "Node b"}, false},
		{"no kind", "metadata: {name: a}\n", nil, true},
		{"no name", "apiVersion: v1\nkind: Pod\n", nil, true},
		{"not YAML", "a: [\n", nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			objects, err := Decode([]byte(test.manifest))
			if (err != nil) != test.fails {
				t.Fatal(err)
			}
			var got []string
			for _, object := range objects {
				got = append(got, describe(object))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAllExpressionsAreFilledIn(t *testing.T) {
	for _, mark := range []string{"<<to ", "<<changing", "<<gates"} {
		if strings.Contains(string(configuration()), mark) {
			t.Errorf("kwok's configuration still holds %q", mark)
		}
	}
}

func TestTwoClustersGetDifferentPorts(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	seen := map[int]bool{}
	for range 4 {
		block, err := claimPorts()
		if err != nil {
			t.Fatal(err)
		}
		defer block.release()
		for range 10 {
			port, err := block.take()
			if err != nil {
				t.Fatal(err)
			}
			if seen[port] {
				t.Errorf("port %d was given out twice", port)
			}
			seen[port] = true
		}
	}
}

func TestAMarkIsTheEndOfAWholeLine(t *testing.T) {
	long := strings.Repeat("x", 1<<17)
	for _, test := range []struct {
		name, log string
		want      AuditMark
	}{
		{"nothing is written yet", "", 0},
		{"a first line is being written", "{", 0},
		{"two lines", "{}\n{}\n", 6},
		{"a third one is being written", "{}\n{}\n{", 6},
		{"a long one is being written", "{}\n" + long, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := lastLineEnd(strings.NewReader(test.log), int64(len(test.log)))
			if err != nil || got != test.want {
				t.Errorf("got %d, %v; want %d", got, err, test.want)
			}
		})
	}
}
