// Package standing keeps track of the one control plane per user that was
// started by hand, by "go run ./test/cluster up" or by a demonstration, so that
// "down" and "kubectl" find it.
//
// Whoever starts it holds a file lock as long as it is up. The kernel gives the
// lock back when that process ends, however it ends; so, unlike a file with a
// process id, it cannot be left over.
package standing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"offduty.dev/test/cluster/binaries"
	"offduty.dev/test/cluster/controlplane"
)

// What may be answered instead of a control plane.
var (
	ErrUp       = errors.New("a control plane is up already; stop it with: go run ./test/cluster down")
	ErrNone     = errors.New("no control plane is up; start one with: go run ./test/cluster up")
	ErrStarting = errors.New("the control plane is still starting; try again in a few seconds")
)

// Place is a folder for the control plane, for controlplane.Options.Dir.
type Place struct {
	Dir    string
	unlock func()
}

// Release says that the control plane has been stopped.
func (p *Place) Release() { p.unlock() }

type files struct{ dir, lock, pid string }

func locate() (files, error) {
	cache, err := binaries.CacheDir()
	if err != nil {
		return files{}, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return files{}, fmt.Errorf("make the cache folder: %w", err)
	}
	return files{
		dir:  filepath.Join(cache, "up"),
		lock: filepath.Join(cache, "up.lock"),
		pid:  filepath.Join(cache, "up.pid"),
	}, nil
}

// Claim makes this process the one that has a control plane up, or answers
// ErrUp. It removes what the last one left, its logs too.
func Claim() (*Place, error) {
	f, err := locate()
	if err != nil {
		return nil, err
	}
	unlock, err := binaries.TryLock(f.lock)
	if errors.Is(err, binaries.ErrLocked) {
		return nil, ErrUp
	}
	if err != nil {
		return nil, err
	}
	err = errors.Join(os.RemoveAll(f.dir), os.WriteFile(f.pid, []byte(strconv.Itoa(os.Getpid())), 0o600))
	if err != nil {
		unlock()
		return nil, fmt.Errorf("prepare the folder of the control plane: %w", err)
	}
	return &Place{Dir: f.dir, unlock: unlock}, nil
}

// Down asks the process that has the control plane up to stop (SIGTERM), and
// returns when it has; ErrNone if there is none.
func Down(ctx context.Context) error {
	f, err := locate()
	if err != nil {
		return err
	}
	if err := up(f); err != nil {
		return err
	}
	text, err := os.ReadFile(f.pid)
	if err != nil {
		return fmt.Errorf("find the process to stop: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("find the process to stop in %s: %w", f.pid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("ask process %d to stop: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	unlock, err := binaries.Lock(ctx, f.lock, nil)
	if err != nil {
		return fmt.Errorf("process %d did not stop; end it with kill -9 %d, which takes the control plane with it on Linux: %w", pid, pid, err)
	}
	unlock()
	return nil
}

// up answers ErrNone unless somebody holds the lock.
func up(f files) error {
	unlock, err := binaries.TryLock(f.lock)
	if errors.Is(err, binaries.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	unlock()
	return ErrNone
}

// KubectlEnv are the environment variables by which kubectl reaches the control
// plane as administrator; ErrNone or ErrStarting if it cannot.
func KubectlEnv() ([]string, error) {
	f, err := locate()
	if err != nil {
		return nil, err
	}
	if err := up(f); err != nil {
		return nil, err
	}
	config := filepath.Join(f.dir, "kubeconfig", controlplane.Admin().Username())
	if _, err := os.Stat(config); err != nil {
		return nil, ErrStarting
	}
	return kubectlEnv(f.dir, config), nil
}

// kubectlEnv keeps kubectl's cache of what the server offers out of the home folder.
func kubectlEnv(dir, config string) []string {
	return []string{"KUBECONFIG=" + config, "KUBECACHEDIR=" + filepath.Join(dir, "kubectl-cache")}
}

// Hints tell a person how to look around in c, which runs in a Place.
func Hints(ctx context.Context, c *controlplane.Cluster) (string, error) {
	config, err := c.Kubeconfig(ctx, controlplane.Admin())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(`kubeconfig of the administrator: %s
logs and audit log:              %s

In another terminal:
  go run ./test/cluster kubectl get nodes
or, with the kubectl that belongs to this control plane:
  export %s
  %s get nodes
Ctrl-C here, or "go run ./test/cluster down", stops it.
`, config, c.LogDir(), strings.Join(kubectlEnv(c.Dir(), config), " "), c.Kubectl()), nil
}
