package standing

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestThereIsAtMostOneAndItIsFound(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir()) // what decides on systems without XDG
	if err := Down(t.Context()); !errors.Is(err, ErrNone) {
		t.Errorf("stopping nothing answers %v", err)
	}
	if _, err := KubectlEnv(); !errors.Is(err, ErrNone) {
		t.Errorf("with nothing up, kubectl is told %v", err)
	}
	place, err := Claim()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(); !errors.Is(err, ErrUp) {
		t.Errorf("a second claim answers %v", err)
	}
	if _, err := KubectlEnv(); !errors.Is(err, ErrStarting) {
		t.Errorf("before there is a kubeconfig, kubectl is told %v", err)
	}
	config := filepath.Join(place.Dir, "kubeconfig", "admin")
	if err := errors.Join(os.MkdirAll(filepath.Dir(config), 0o700), os.WriteFile(config, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if env, err := KubectlEnv(); err != nil || env[0] != "KUBECONFIG="+config {
		t.Errorf("kubectl gets %v (%v)", env, err)
	}
	place.Release()
	if _, err := KubectlEnv(); !errors.Is(err, ErrNone) {
		t.Errorf("after the end, kubectl is told %v", err)
	}
	again, err := Claim()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Release()
	if _, err := os.Stat(config); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the last one left is still there: %v", err)
	}
}
