package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"offduty.dev/test/cluster/controlplane"
)

// endVariable says how the program that these tests start again is to end.
const endVariable = "OFFDUTY_NODE_TEST_END"

func TestMain(m *testing.M) {
	if dispatch() {
		end(os.Getenv(endVariable))
	}
	if os.Getenv(endVariable) != "" {
		runtime.LockOSThread()
		code, err := enterEmpty(context.Background())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// enterEmpty enters namespaces without images, which take long to build.
func enterEmpty(ctx context.Context) (int, error) {
	debian, err := ensurePackages(ctx, os.Stderr)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "offduty-node-")
	if err != nil {
		return 0, err
	}
	if err := errors.Join(os.Symlink(string(debian), packageFolder(dir)), makeFolders(logs(dir))); err != nil {
		return 0, err
	}
	fmt.Println(dir)
	return enter(dir)
}

// end is what happens inside. A process that outlives its parent and a cgroup with a
// process in it stand for a container.
func end(how string) {
	orphan := exec.Command("/bin/sh", "-c", "sleep 1000 >/dev/null 2>&1 & mkdir /sys/fs/cgroup/*/pod 2>/dev/null; for g in /sys/fs/cgroup/*/pod; do echo $! >$g/cgroup.procs; done; exit 0")
	if out, err := orphan.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %s\n", err, out)
		os.Exit(1)
	}
	fmt.Println("inside")
	switch how {
	case "exit":
		os.Exit(7)
	case "panic":
		panic("as it was told to")
	case "stay":
		select {}
	}
}

func TestNothingIsLeftHoweverItEnds(t *testing.T) {
	if err := Missing(t.Context()); err != nil {
		t.Skipf("a real node cannot run here: %v", err)
	}
	for _, test := range []struct {
		name, end string
		kill      syscall.Signal
		// code is the exit code, 0: any but that.
		code int
	}{
		{name: "the tests end", end: "exit", code: 7},
		{name: "they panic", end: "panic", code: 2},
		{name: "kill -9", end: "stay", kill: syscall.SIGKILL},
		{name: "Ctrl-C", end: "stay", kill: syscall.SIGINT},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, code := run(t, test.end, test.kill)
			if code == 0 || test.code != 0 && code != test.code {
				t.Errorf("it ended with exit code %d, not %d", code, test.code)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := controlplane.Until(ctx, "nothing is left", func(context.Context) error { return left(dir) }); err != nil {
				t.Error(err)
			}
		})
	}
}

// run runs this program in namespaces, and kills the outer process, if it is to, as soon
// as it is inside. It returns the folder and the exit code.
func run(t *testing.T, how string, kill syscall.Signal) (dir string, code int) {
	t.Helper()
	outer := exec.CommandContext(t.Context(), os.Args[0])
	outer.Env = append(os.Environ(), endVariable+"="+how)
	// It must not outlive this test either, whose thread is to stay until then.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	outer.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := outer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := outer.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "inside" {
		dir = lines.Text()
	}
	if err := left(dir); err == nil {
		t.Errorf("there is no trace of %s while it runs: then this test sees nothing", dir)
	}
	if kill != 0 {
		if err := outer.Process.Signal(kill); err != nil {
			t.Fatal(err)
		}
	}
	for lines.Scan() {
		t.Log(lines.Text())
	}
	var exit *exec.ExitError
	if err := outer.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return dir, outer.ProcessState.ExitCode()
}

// left says what is left of the namespaces that had dir as their folder.
func left(dir string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	paths := []string{dir}
	for _, h := range all {
		paths = append(paths, filepath.Join(h.path, filepath.Base(dir)))
	}
	var problems []error
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			problems = append(problems, fmt.Errorf("%s is there", path))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), dir) {
		problems = append(problems, fmt.Errorf("something is mounted in %s", dir))
	}
	return errors.Join(append(problems, processes(dir))...)
}

// processes says which processes have dir in their environment.
func processes(dir string) error {
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return err
	}
	var problems []error
	for _, file := range all {
		if data, err := os.ReadFile(file); err == nil && strings.Contains(string(data), folderVariable+"="+dir) {
			problems = append(problems, fmt.Errorf("process %s runs", filepath.Base(filepath.Dir(file))))
		}
	}
	return errors.Join(problems...)
}
