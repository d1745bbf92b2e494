package binaries

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheDigestChangesWithAllThatGoesIntoABinary(t *testing.T) {
	seen := map[string]string{}
	for _, test := range []struct {
		name            string
		gomod, platform string
		tool            tool
		more            bool
	}{
		{"the first", "require a v1", "go1 linux", tool{pkg: "a"}, false},
		{"another version", "require a v2", "go1 linux", tool{pkg: "a"}, false},
		{"another Go release", "require a v1", "go2 linux", tool{pkg: "a"}, false},
		{"another package", "require a v1", "go1 linux", tool{pkg: "b"}, false},
		{"another file", "require a v1", "go1 linux", tool{pkg: "a"}, true},
	} {
		dir := t.TempDir()
		write(t, dir, "go.mod", test.gomod)
		if test.more {
			write(t, dir, "main.go", "package main")
		}
		got, err := digest(dir, test.platform, test.tool)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%q has the digest of %q", test.name, other)
		}
		seen[got] = test.name
		if again, err := digest(dir, test.platform, test.tool); err != nil || again != got {
			t.Errorf("%q: digests %s and %s of the same files (%v)", test.name, got, again, err)
		}
	}
}

func TestTheVersionIsThatOfTheRequirement(t *testing.T) {
	const gomod = `module m
tool example.com/kwok/cmd/kwok
require example.com/one v1.0.0
require (
	example.com/kwok-extra v0.1.0
	example.com/kwok v0.8.0 // indirect
)
replace example.com/one => example.com/other v9.9.9
`
	dir := t.TempDir()
	write(t, dir, "go.mod", gomod)
	for module, want := range map[string]string{
		"example.com/kwok": "v0.8.0", "example.com/one": "v1.0.0", "example.com/absent": "",
	} {
		got, err := moduleVersion(filepath.Join(dir, "go.mod"), module)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("version of %s: %q (%v), want %q", module, got, err, want)
		}
	}
	if got := versionOf("/cache/bin/k8s-v1.34.4-rc.1-0123456789ab"); got != "v1.34.4-rc.1" {
		t.Errorf("the version in the name of a cache folder is %q", got)
	}
}

func TestALockIsHeldByOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("a second lock answers %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Lock(ended, path, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting beyond the end of its context answers %v", err)
	}
	waited := 0
	release := func() { waited++; unlock() }
	unlock, err = Lock(t.Context(), path, release)
	if err != nil || waited != 1 {
		t.Errorf("the lock was given back while another waited (%d times told so), which got %v", waited, err)
	}
	unlock()
}

func TestAnyFreeLockIsTaken(t *testing.T) {
	dir := t.TempDir()
	paths := []string{filepath.Join(dir, "1"), filepath.Join(dir, "2")}
	for range paths {
		unlock, err := LockAny(t.Context(), paths, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
	}
	ended, cancel := context.WithCancel(t.Context())
	if _, err := LockAny(ended, paths, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("a third lock of two answers %v", err)
	}
}
