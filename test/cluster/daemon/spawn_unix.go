//go:build unix && !linux

package daemon

import (
	"os/exec"
	"syscall"
)

// attributes makes the child lead its own process group. Without Linux's death
// signal a child survives a kill -9 of this process.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func spawn(cmd *exec.Cmd) error { return cmd.Start() }

func (p *Process) awaitFrozen() error { return nil }
