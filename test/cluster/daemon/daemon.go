// Package daemon runs long-lived child processes for a test control plane and
// lets a test kill, freeze, wake and restart each of them.
//
// On Linux no child outlives this process, however this process ends: the
// kernel kills the children (PR_SET_PDEATHSIG) even after kill -9. Each child
// leads its own process group, so that a Ctrl-C in the terminal reaches only
// this process, which then stops its children in order.
package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Spec says how one daemon is started.
type Spec struct {
	// Name is for people: error texts and the log file.
	Name string
	// Path is the binary. Argv[0] may differ from it.
	Path string
	Argv []string
	// Env is the whole environment, as KEY=value; nothing is inherited.
	Env []string
	Dir string
	// Log is the file that standard output and standard error are appended to.
	Log string
}

// Process is one started daemon. All methods may be called from any goroutine.
type Process struct {
	spec Spec
	cmd  *exec.Cmd
	done chan struct{}

	mu sync.Mutex
	// err is what Wait answers; valid once done is closed.
	err error
	// expected is set before we end the process ourselves.
	expected bool
}

// Start starts the daemon of s and returns at once; it does not wait until the
// daemon is ready.
func Start(s Spec) (*Process, error) {
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", s.Name, err)
	}
	defer log.Close()
	cmd := &exec.Cmd{Path: s.Path, Args: s.Argv, Env: s.Env, Dir: s.Dir, Stdout: log, Stderr: log, SysProcAttr: attributes()}
	if err := spawn(cmd); err != nil {
		return nil, fmt.Errorf("start %s (%s): %w", s.Name, s.Path, err)
	}
	p := &Process{spec: s, cmd: cmd, done: make(chan struct{})}
	go p.reap()
	return p, nil
}

func (p *Process) reap() {
	err := p.cmd.Wait()
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	close(p.done)
}

// Name is the name given in the Spec.
func (p *Process) Name() string { return p.spec.Name }

// PID is the process id, also after the process has ended.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is the path of the log file.
func (p *Process) Log() string { return p.spec.Log }

// Done is closed when the process has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running says whether the process has not ended. A frozen process is running.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Wait waits for the end of the process: nil after exit code 0, else an
// *exec.ExitError.
func (p *Process) Wait() error {
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Expected says whether the end of the process was asked for by Kill or Stop.
func (p *Process) Expected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.expected
}

// Kill ends the process and its group with SIGKILL, frozen or not, and returns
// when it is gone. A process that has ended already is not an error.
func (p *Process) Kill() error {
	if err := p.end(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Stop asks the process to end with SIGTERM, and kills it if it is still there
// after grace. It wakes a frozen process, which could not hear otherwise.
func (p *Process) Stop(grace time.Duration) error {
	if err := errors.Join(p.end(syscall.SIGTERM), p.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		return p.Kill()
	}
}

// Freeze stops the process where it is (SIGSTOP) and returns when it stands.
func (p *Process) Freeze() error {
	if !p.Running() {
		return fmt.Errorf("freeze %s: it has ended; start it first", p.spec.Name)
	}
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return p.awaitFrozen()
}

// Thaw lets a frozen process go on (SIGCONT).
func (p *Process) Thaw() error {
	if !p.Running() {
		return fmt.Errorf("thaw %s: it has ended; start it first", p.spec.Name)
	}
	return p.signal(syscall.SIGCONT)
}

func (p *Process) end(s syscall.Signal) error {
	p.mu.Lock()
	p.expected = true
	p.mu.Unlock()
	return p.signal(s)
}

// signal sends s to the whole process group; once the process was reaped its
// id may belong to another one, so nothing is sent.
func (p *Process) signal(s syscall.Signal) error {
	if !p.Running() {
		return nil
	}
	if err := syscall.Kill(-p.PID(), s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %s to %s (process %d): %w", s, p.spec.Name, p.PID(), err)
	}
	return nil
}

// LogTail is the last n lines of the log, for error texts.
func (p *Process) LogTail(n int) string {
	data, err := os.ReadFile(p.spec.Log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
