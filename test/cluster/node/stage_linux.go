package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
)

// The program runs several times; these variables say as what, and where.
const (
	stageVariable  = "OFFDUTY_NODE_STAGE"
	folderVariable = "OFFDUTY_NODE_DIR"
)

const (
	stageJanitor = "janitor"
	stageInit    = "init"
	stageInside  = "inside"
)

// namespaces are those of process 1. It makes its cgroup namespace by itself, once it is
// in its cgroup.
const namespaces = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC

// keepFile in the folder says that the logs are to stay.
const keepFile = "keep-logs"

func logs(dir string) string { return filepath.Join(dir, "logs") }

// again is the command that runs this program again, as stage.
func again(stage, dir string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stageVariable+"="+stage, folderVariable+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

// enter runs this program again in namespaces of its own, in which dir is its folder, and
// returns its exit code. It returns when all traces but the kept logs are removed. The
// goroutine must be locked to its thread: process 1 is killed when that thread ends.
func enter(dir string) (code int, err error) {
	group, err := makeCgroup(filepath.Base(dir))
	if err != nil {
		return 0, errors.Join(err, os.RemoveAll(dir))
	}
	// Both this process and process 1 hold the writing end: when the janitor reads the
	// end of it, both have ended.
	waiting, alive, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	janitor := again(stageJanitor, dir)
	janitor.Stdin = waiting
	// A Ctrl-C in the terminal is not meant for it.
	janitor.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := janitor.Start(); err != nil {
		return 0, fmt.Errorf("start the janitor: %w", errors.Join(err, group.remove(), os.RemoveAll(dir)))
	}
	waiting.Close()
	first := again(stageInit, dir)
	first.ExtraFiles = []*os.File{alive}
	first.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL}
	ran := first.Run()
	alive.Close()
	if err := janitor.Wait(); err != nil {
		return 0, fmt.Errorf("clean up after the node: %w", err)
	}
	if exit, ok := errors.AsType[*exec.ExitError](ran); ok && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if ran != nil {
		return 0, fmt.Errorf("run in namespaces of its own: %w", ran)
	}
	return 0, nil
}

// sweep is the janitor: it waits until nobody needs the folder and the cgroup any more,
// and removes them.
func sweep(dir string) error {
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return errors.Join(cgroup(filepath.Base(dir)).remove(), tidy(dir))
}

// tidy removes the folder, but for the logs if they are to be kept.
func tidy(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, keepFile)); err != nil {
		return os.RemoveAll(dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var problems []error
	for _, entry := range entries {
		if path := filepath.Join(dir, entry.Name()); path != logs(dir) {
			problems = append(problems, os.RemoveAll(path))
		}
	}
	return errors.Join(problems...)
}

// dispatch does what this process was started for, and returns only where the tests are
// to be prepared (inside is false) or run.
func dispatch() (inside bool) {
	dir := os.Getenv(folderVariable)
	switch os.Getenv(stageVariable) {
	case stageJanitor:
		if err := sweep(dir); err != nil {
			fmt.Fprintln(os.Stderr, "node: clean up:", err)
			os.Exit(1)
		}
		os.Exit(0)
	case stageInit:
		// Namespaces belong to threads: what is started must come from this one.
		runtime.LockOSThread()
		code, err := beFirst(dir)
		if err != nil {
			fmt.Fprintln(os.Stderr, "node:", err)
			os.Exit(1)
		}
		os.Exit(code)
	case stageInside:
		return true
	}
	return false
}

// Missing says what this machine lacks for a real node; nil: nothing.
func Missing(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("it must run as root")
	}
	for _, program := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("containerd and others come as Debian packages, and there is no %s", program)
		}
	}
	if _, err := hierarchies(); err != nil {
		return err
	}
	probe := exec.CommandContext(ctx, "/bin/true")
	probe.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces | syscall.CLONE_NEWCGROUP}
	if err := probe.Run(); err != nil {
		return fmt.Errorf("the kernel does not let it make namespaces: %w", err)
	}
	return nil
}
