package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Where things are on the node.
const (
	// Name of the node, and its address, which exists nowhere else.
	Name    = "node-1"
	Address = "10.99.0.1"
	// pods is where pods have their addresses.
	pods = "10.244.0.0/16"
)

// state is a file system in memory below the folder: it goes with the namespaces, and
// images can be laid over each other on it whatever the machine's disk is.
func state(dir string, parts ...string) string {
	return filepath.Join(append([]string{dir, "state"}, parts...)...)
}

// beFirst is process 1: it makes the node's world, runs the tests in it, collects
// whatever is orphaned, and returns the tests' exit code. It runs on one thread.
func beFirst(dir string) (int, error) {
	syscall.CloseOnExec(3) // the pipe to the janitor is this process's alone
	for _, step := range []func(string) error{separate, mounts, sysctls, network} {
		if err := step(dir); err != nil {
			return 0, fmt.Errorf("prepare the node: %w", err)
		}
	}
	tests := again(stageInside, dir)
	if err := tests.Start(); err != nil {
		return 0, err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the tests: %w", err)
		case pid == tests.Process.Pid && status.Signaled():
			return 128 + int(status.Signal()), nil
		case pid == tests.Process.Pid:
			return status.ExitStatus(), nil
		}
	}
}

// separate leaves the machine's cgroups and its name.
func separate(dir string) error {
	if err := cgroup(filepath.Base(dir)).join(); err != nil {
		return err
	}
	if err := syscall.Unshare(syscall.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("leave the machine's cgroups: %w", err)
	}
	return syscall.Sethostname([]byte(Name))
}

// mounts gives the node private, writable views of what it writes to.
func mounts(dir string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	if err := mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	podLogs := filepath.Join(logs(dir), "pods")
	if err := makeFolders(state(dir), podLogs); err != nil {
		return err
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		options              string
		// folders to make on it, for the next ones.
		folders []string
	}{
		{"proc", "/proc", "proc", 0, "", nil},
		{"tmpfs", state(dir), "tmpfs", 0, "mode=755", []string{state(dir, "var"), state(dir, "work"), state(dir, "containerd"), state(dir, "proc")}},
		{"tmpfs", "/run", "tmpfs", 0, "mode=755", []string{"/run/lock", "/run/netns"}},
		{"overlay", "/var", "overlay", 0, fmt.Sprintf("lowerdir=/var,upperdir=%s,workdir=%s", state(dir, "var"), state(dir, "work")), []string{"/var/log/pods"}},
		// Outside of the overlay, to be looked at when all is over.
		{podLogs, "/var/log/pods", "", syscall.MS_BIND, "", nil},
		// The network devices of this namespace, not the machine's.
		{"sysfs", "/sys", "sysfs", syscall.MS_RDONLY, "", nil},
	} {
		if err := mount(m.source, m.target, m.kind, m.flags, m.options); err != nil {
			return err
		}
		if err := makeFolders(m.folders...); err != nil {
			return err
		}
	}
	if err := mountCgroups(all); err != nil {
		return err
	}
	// The kubelet's mounts must reach the containers.
	return mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, "")
}

// sysctls keeps the kubelet from changing what belongs to the whole machine, but for the
// settings of this network namespace. It refuses to start if it cannot set some: these
// are shown to it as it wants them.
func sysctls(dir string) error {
	proc := state(dir, "proc")
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"proc", proc, "proc", 0},
		{"/proc/sys", "/proc/sys", "", syscall.MS_BIND},
		{"", "/proc/sys", "", syscall.MS_BIND | syscall.MS_REMOUNT | syscall.MS_RDONLY},
		{filepath.Join(proc, "sys", "net"), "/proc/sys/net", "", syscall.MS_BIND},
	} {
		if err := mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return err
		}
	}
	for name, value := range map[string]string{
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	} {
		file := state(dir, filepath.Base(name))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := mount(file, filepath.Join("/proc/sys", name), "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

// network gives the node its address, on a bridge without ports: nothing leads out.
func network(dir string) error {
	folder, err := os.Readlink(packageFolder(dir))
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "node0", "type", "bridge"},
		{"addr", "add", Address + "/24", "dev", "node0"},
		{"link", "set", "node0", "up"},
		{"route", "add", "default", "dev", "node0"},
	} {
		if out, err := exec.Command(packages(folder).busybox(), append([]string{"ip"}, args...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	return nil
}

func makeFolders(paths ...string) error {
	for _, path := range paths {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := syscall.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s (%s %s): %w", source, target, kind, options, err)
	}
	return nil
}
