package conformance_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"offduty.dev/arbiter/conformance"
)

// script writes a hook that notes how it was called.
func script(t *testing.T, verbs string) (path, called string) {
	t.Helper()
	called = filepath.Join(t.TempDir(), "called")
	path = filepath.Join(t.TempDir(), "hook")
	text := "#!/bin/sh\nif [ \"$1\" = verbs ]; then echo " + verbs + "; exit; fi\necho \"$@\" >>" + called + `
case "$*" in
"set-duty banned working") exit 3 ;;
"restart 3600") exit 4 ;;
"recreate broken") echo "no such pod" >&2; exit 1 ;;
esac
`
	must(t, os.WriteFile(path, []byte(text), 0o700))
	return path, called
}

func TestAHookIsCalledWithItsVerbs(t *testing.T) {
	path, called := script(t, "set-duty set-serving recreate restart")
	d, err := conformance.Hook(t.Context(), path)
	must(t, err)
	ctx := t.Context()
	must(t, errors.Join(d.SetDuty(ctx, "a", true), d.SetDuty(ctx, "a", false), d.SetServing(ctx, "a", false), d.Recreate(ctx, "a"), d.Restart(ctx, 0)))
	if err := d.SetDuty(ctx, "banned", true); !errors.Is(err, conformance.ErrBanned) {
		t.Errorf("exit status 3 of set-duty: %v", err)
	}
	if err := d.Restart(ctx, time.Hour); !errors.Is(err, conformance.ErrUnsupported) {
		t.Errorf("exit status 4: %v", err)
	}
	if err := d.Recreate(ctx, "broken"); err == nil || errors.Is(err, conformance.ErrUnsupported) {
		t.Errorf("exit status 1: %v", err)
	}
	got, err := os.ReadFile(called)
	must(t, err)
	want := "set-duty a working\nset-duty a idle\nset-serving a false\nrecreate a\nrestart 0\nset-duty banned working\nrestart 3600\nrecreate broken\n"
	if string(got) != want {
		t.Errorf("it was called with\n%swant\n%s", got, want)
	}
}

func TestAHookHasTheVerbsThatItNames(t *testing.T) {
	path, _ := script(t, "recreate")
	d, err := conformance.Hook(t.Context(), path)
	must(t, err)
	if d.Recreate == nil || d.SetDuty != nil || d.SetServing != nil || d.Restart != nil {
		t.Error("it has other verbs than the one that it names")
	}
	path, _ = script(t, "dance")
	if _, err := conformance.Hook(t.Context(), path); err == nil {
		t.Error("a verb that does not exist was taken")
	}
	if _, err := conformance.Hook(t.Context(), path+"-not-there"); err == nil {
		t.Error("a program that does not exist was taken")
	}
}
