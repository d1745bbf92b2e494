package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"offduty.dev/test/cluster/binaries"
	"offduty.dev/test/cluster/node"
)

func TestMain(m *testing.M) { node.Main(m, images) }

// images builds what runs as pods: Offduty's own images, and an application
// in two versions that differ in one file, and in one that crashes.
func images(ctx context.Context, busybox, dir string) (err error) {
	work, err := os.MkdirTemp("", "offduty-images-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	attend := filepath.Join(work, "attend")
	err = errors.Join(offdutyImages(ctx, filepath.Join(work, "offduty")), binaries.Package(ctx, "./test/node/attend", attend))
	if err != nil {
		return err
	}
	problems := []error{os.Rename(filepath.Join(work, "offduty", "images"), filepath.Join(dir, "offduty"))}
	broken := node.Image{
		Name: crashes, Programs: map[string]string{"/bin/busybox": busybox}, Entrypoint: []string{"/bin/busybox", "false"},
	}
	problems = append(problems, broken.Write(filepath.Join(dir, "replica-crashes.tar")))
	for _, version := range []string{"v1", "v2"} {
		problems = append(problems, node.Image{
			Name:       "offduty.test/replica:" + version,
			Programs:   map[string]string{"/attend": attend, "/bin/busybox": busybox},
			Files:      map[string]string{"/version": version + "\n"},
			Entrypoint: []string{"/attend"},
		}.Write(filepath.Join(dir, "replica-"+version+".tar")))
	}
	return errors.Join(problems...)
}

// offdutyImages builds what make images would, with the tag of testdata/install.
func offdutyImages(ctx context.Context, out string) error {
	cmd := exec.CommandContext(ctx, filepath.Join("..", "..", "hack", "images"))
	cmd.Env = append(os.Environ(), "OUT="+out, "VERSION=test", "PLATFORMS=linux/"+runtime.GOARCH)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the images: %w", err)
	}
	return nil
}
