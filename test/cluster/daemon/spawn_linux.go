package daemon

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// attributes makes the child lead its own process group and die with the
// thread that started it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

type request struct {
	cmd   *exec.Cmd
	reply chan error
}

// starter is the one thread that starts all children. The death signal is sent
// when the starting *thread* ends, not the process, and the Go runtime ends
// threads at will: so this goroutine keeps its thread for good.
var starter = sync.OnceValue(func() chan<- request {
	requests := make(chan request)
	go func() {
		runtime.LockOSThread()
		for r := range requests {
			r.reply <- r.cmd.Start()
		}
	}()
	return requests
})

func spawn(cmd *exec.Cmd) error {
	r := request{cmd: cmd, reply: make(chan error, 1)}
	starter() <- r
	return <-r.reply
}

// awaitFrozen waits until every thread of the process stands still: SIGSTOP is
// delivered asynchronously, and a test must not go on while one thread runs.
func (p *Process) awaitFrozen() error {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		if !p.Running() {
			return fmt.Errorf("freeze %s: it ended meanwhile", p.spec.Name)
		}
		frozen, err := frozen(p.PID())
		if err != nil || frozen {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("freeze %s (process %d): it still runs 5 s after SIGSTOP", p.spec.Name, p.PID())
}

func frozen(pid int) (bool, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return false, fmt.Errorf("list the threads of process %d: %w", pid, err)
	}
	for _, task := range tasks {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, task.Name()))
		if os.IsNotExist(err) {
			continue // this thread ended
		}
		if err != nil {
			return false, fmt.Errorf("read the state of thread %s: %w", task.Name(), err)
		}
		// The state follows the command, which is in parentheses and may hold any character.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) == 0 || (fields[0][0] != 'T' && fields[0][0] != 't') {
			return false, nil
		}
	}
	return true, nil
}
