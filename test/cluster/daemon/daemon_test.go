package daemon_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"offduty.dev/test/cluster/daemon"
)

// asParent makes this test binary play the parent that is killed.
const asParent = "OFFDUTY_DAEMON_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asParent); dir != "" {
		p, err := daemon.Start(shell(dir, "exec sleep 600"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(p.PID())
		select {}
	}
	os.Exit(m.Run())
}

func shell(dir, script string) daemon.Spec {
	return daemon.Spec{
		Name: "script", Path: "/bin/sh", Argv: []string{"script", "-c", script},
		Env: []string{"PATH=" + os.Getenv("PATH")}, Dir: dir, Log: filepath.Join(dir, "script.log"),
	}
}

func start(t *testing.T, script string) *daemon.Process {
	t.Helper()
	p, err := daemon.Start(shell(t.TempDir(), script))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// await polls, because another process's progress has no event to wait for.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// counting prints numbers as fast as it can: its log grows while it runs.
const counting = "i=0; while :; do i=$((i+1)); echo $i; done"

func size(t *testing.T, p *daemon.Process) int64 {
	t.Helper()
	info, err := os.Stat(p.Log())
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestAFrozenProcessStandsStillAndGoesOnWhenThawed(t *testing.T) {
	p := start(t, counting)
	await(t, "it has begun", func() bool { return size(t, p) > 0 })
	if err := p.Freeze(); err != nil {
		t.Fatal(err)
	}
	frozen := size(t, p)
	if !p.Running() {
		t.Error("a frozen process counts as ended")
	}
	if again := size(t, p); again != frozen {
		t.Errorf("it wrote %d bytes while it was frozen", again-frozen)
	}
	if err := p.Thaw(); err != nil {
		t.Fatal(err)
	}
	await(t, "it goes on", func() bool { return size(t, p) > frozen })
}

func TestHowAProcessEnds(t *testing.T) {
	for _, test := range []struct {
		name, script string
		frozen       bool
		end          func(*daemon.Process) error
		expected     bool
		want         string // of Wait
	}{
		{"by itself with success", "exit 0", false, nil, false, "<nil>"},
		{"by itself with a failure", "exit 3", false, nil, false, "exit status 3"},
		{"killed", counting, false, (*daemon.Process).Kill, true, "signal: killed"},
		{"killed while frozen", counting, true, (*daemon.Process).Kill, true, "signal: killed"},
		{"stopped, and it listens", "trap 'exit 0' TERM; " + counting, false, stopAfter(20 * time.Second), true, "<nil>"},
		{"stopped while frozen, and it listens", "trap 'exit 0' TERM; " + counting, true, stopAfter(20 * time.Second), true, "<nil>"},
		{"stopped, and it does not listen", "trap '' TERM; " + counting, false, stopAfter(time.Millisecond), true, "signal: killed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := start(t, test.script)
			if test.end != nil {
				await(t, "it has begun", func() bool { return size(t, p) > 0 })
				end(t, p, test.frozen, test.end)
			}
			if got := fmt.Sprint(p.Wait()); got != test.want {
				t.Errorf("Wait answers %q, want %q", got, test.want)
			}
			if p.Expected() != test.expected {
				t.Errorf("that it ended was expected: %t, want %t", p.Expected(), test.expected)
			}
			checkGone(t, p)
		})
	}
}

func end(t *testing.T, p *daemon.Process, frozen bool, how func(*daemon.Process) error) {
	t.Helper()
	if frozen {
		if err := p.Freeze(); err != nil {
			t.Fatal(err)
		}
	}
	if err := how(p); err != nil {
		t.Fatal(err)
	}
}

func checkGone(t *testing.T, p *daemon.Process) {
	t.Helper()
	if p.Running() || !gone(p.PID()) {
		t.Errorf("it has ended, but running says %t and gone %t", p.Running(), gone(p.PID()))
	}
	if p.Freeze() == nil || p.Thaw() == nil {
		t.Error("a process that has ended was frozen or thawed")
	}
	if err := p.Kill(); err != nil {
		t.Errorf("killing it again: %v", err)
	}
}

func stopAfter(grace time.Duration) func(*daemon.Process) error {
	return func(p *daemon.Process) error { return p.Stop(grace) }
}

func TestTheLogIsAppendedToAndItsEndIsQuoted(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		p, err := daemon.Start(shell(dir, "echo one; echo two >&2"))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Fatal(err)
		}
		if got := p.LogTail(2); got != "one\ntwo" {
			t.Errorf("the last two lines are %q", got)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "script.log"))
	if err != nil || strings.Count(string(data), "\n") != 4 {
		t.Errorf("the log of two runs is %q (%v)", data, err)
	}
}

func TestNoChildOutlivesAParentThatIsKilled(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("only Linux has a signal for children whose parent dies")
	}
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), asParent+"="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if gone(child) {
		t.Fatal("the child ended before its parent")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// Wait reports the kill as an error; that it is over is all we ask.
	_ = parent.Wait()
	await(t, "the child has gone", func() bool { return gone(child) || zombie(child) })
}

// zombie says whether only the entry of a dead process is left: where nobody
// reaps orphans (PID 1 of a container may not) it stays.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	return strings.HasPrefix(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " Z")
}
