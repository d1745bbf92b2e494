package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"offduty.dev/test/cluster/binaries"
)

// shared is the node of this test binary.
var shared struct {
	start sync.Once
	node  *Node
	err   error
}

// Images builds what is to be imported and writes it into dir: archives of images, and
// OCI image layouts as folders. busybox is a static one, for images of its own.
type Images func(ctx context.Context, busybox, dir string) error

// Main is the TestMain of tests that need a real node. It runs the tests in namespaces of
// their own and exits. When a test failed the logs stay, and it prints where. Where a node
// cannot run it says why and fails: ask Missing first.
func Main(m *testing.M, images Images) {
	// Without a logger controller-runtime prints a stack trace after 30 s.
	log.SetLogger(logr.Discard())
	if dispatch() {
		os.Exit(inside(m))
	}
	runtime.LockOSThread()
	code, err := outside(context.Background(), images)
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		code = 1
	}
	os.Exit(code)
}

// outside gets ready what needs a network, and runs this program again in namespaces.
func outside(ctx context.Context, images Images) (int, error) {
	if err := Missing(ctx); err != nil {
		return 0, fmt.Errorf("a real node cannot run here: %w", err)
	}
	dir, err := os.MkdirTemp("", "offduty-node-")
	if err != nil {
		return 0, err
	}
	if err := prepare(ctx, dir, images); err != nil {
		return 0, errors.Join(err, os.RemoveAll(dir))
	}
	return enter(dir)
}

// packageFolder and imageFolder are where prepare leaves things.
func packageFolder(dir string) string { return filepath.Join(dir, "packages") }
func imageFolder(dir string) string   { return filepath.Join(dir, "images") }

func prepare(ctx context.Context, dir string, images Images) error {
	set, err := binaries.Ensure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	debian, err := ensurePackages(ctx, os.Stderr)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Symlink(string(debian), packageFolder(dir)), makeFolders(logs(dir), imageFolder(dir))); err != nil {
		return err
	}
	pause := Image{
		Name: pauseImage, Programs: map[string]string{"/bin/busybox": debian.busybox()},
		Entrypoint: []string{"/bin/busybox", "tail", "-f", "/dev/null"},
	}
	kruise := Image{
		Name: kruiseImage, Programs: map[string]string{"/manager": set.Kruise},
		Folders: []string{"/tmp", "/log"}, Entrypoint: []string{"/manager"},
	}
	return errors.Join(
		pause.Write(filepath.Join(imageFolder(dir), "pause.tar")),
		kruise.Write(filepath.Join(imageFolder(dir), "kruise-manager.tar")),
		images(ctx, debian.busybox(), imageFolder(dir)),
	)
}

// inside runs the tests. What was started need not be stopped: it ends with process 1.
func inside(m *testing.M) int {
	code := m.Run()
	if code == 0 {
		return code
	}
	dir := os.Getenv(folderVariable)
	if err := os.WriteFile(filepath.Join(dir, keepFile), nil, 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "node: keep the logs:", err)
	}
	fmt.Fprintln(os.Stderr, "tests failed; the logs of the node, its control plane and its pods are in", logs(dir))
	return code
}

// Shared is the node of this test binary; the first test that asks for it starts it.
func Shared(tb testing.TB) *Node {
	tb.Helper()
	shared.start.Do(func() { shared.node, shared.err = start(context.Background(), os.Getenv(folderVariable), os.Stderr) })
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.node
}
