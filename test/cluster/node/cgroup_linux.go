package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const cgroups = "/sys/fs/cgroup"

// hierarchy is one mounted hierarchy of cgroups.
type hierarchy struct {
	// path is where it is mounted, controllers what it controls ("cpu,cpuacct",
	// "name=systemd"); "" in the one hierarchy of version 2.
	path, controllers string
}

// hierarchies are those in which a process has a place: many in version 1, one in
// version 2. Of a mixture only those of version 1 have controllers, so they count.
func hierarchies() ([]hierarchy, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find the cgroups: %w", err)
	}
	var found []hierarchy
	for line := range strings.Lines(string(data)) {
		_, rest, _ := strings.Cut(line, ":")
		controllers, _, _ := strings.Cut(rest, ":")
		if controllers != "" {
			found = append(found, hierarchy{filepath.Join(cgroups, strings.TrimPrefix(controllers, "name=")), controllers})
		}
	}
	if len(found) == 0 {
		found = []hierarchy{{path: cgroups}}
	}
	for _, h := range found {
		if _, err := os.Stat(filepath.Join(h.path, "cgroup.procs")); err != nil {
			return nil, fmt.Errorf("the cgroups of %q are not mounted where they are expected: %w", h.controllers, err)
		}
		if syscall.Access(h.path, 2) != nil {
			return nil, fmt.Errorf("the cgroups in %s cannot be written", h.path)
		}
	}
	return found, nil
}

// cgroup is a cgroup of the same name in every hierarchy.
type cgroup string

func makeCgroup(name string) (cgroup, error) {
	all, err := hierarchies()
	if err != nil {
		return "", err
	}
	g := cgroup(name)
	for _, h := range all {
		if err := g.makeIn(h); err != nil {
			return "", fmt.Errorf("make a cgroup: %w", errors.Join(err, g.remove()))
		}
	}
	return g, nil
}

func (g cgroup) makeIn(h hierarchy) error {
	dir := filepath.Join(h.path, string(g))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if !slices.Contains(strings.Split(h.controllers, ","), "cpuset") {
		return nil
	}
	// A new cpuset of version 1 has no processors, and takes no process.
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(h.path, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// join moves this process into the cgroup.
func (g cgroup) join() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := os.WriteFile(filepath.Join(h.path, string(g), "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("enter the cgroup: %w", err)
		}
	}
	return nil
}

// remove removes the cgroup and all below it. Its processes have been killed, but it takes
// the kernel a moment to forget them.
func (g cgroup) remove() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	var problems []error
	for _, h := range all {
		problems = append(problems, removeTree(filepath.Join(h.path, string(g))))
	}
	return errors.Join(problems...)
}

func removeTree(root string) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := removeOnce(root)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-time.After(50 * time.Millisecond)
	}
}

// removeOnce removes folders from the leaves up; the files in them go with them.
func removeOnce(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	var problems []error
	for _, dir := range slices.Backward(dirs) {
		if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, fmt.Errorf("remove the cgroup %s: %w", dir, err))
		}
	}
	return errors.Join(problems...)
}

// mountCgroups shows the cgroup namespace of this thread, whose root is our cgroup.
func mountCgroups(all []hierarchy) error {
	if len(all) == 1 && all[0].controllers == "" {
		return mountUnified()
	}
	if err := mount("tmpfs", cgroups, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, h := range all {
		if err := os.MkdirAll(h.path, 0o755); err != nil {
			return err
		}
		options := h.controllers
		if strings.HasPrefix(options, "name=") {
			options = "none," + options
		}
		if err := mount("cgroup", h.path, "cgroup", 0, options); err != nil {
			return err
		}
	}
	return nil
}

// mountUnified mounts the hierarchy of version 2. There a cgroup with processes cannot
// hand controllers down to others: so this process, and with it all that it starts, moves
// into a leaf.
func mountUnified() error {
	if err := mount("cgroup2", cgroups, "cgroup2", 0, ""); err != nil {
		return err
	}
	leaf := filepath.Join(cgroups, "daemons")
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("enter the cgroup of the daemons: %w", err)
	}
	controllers, err := os.ReadFile(filepath.Join(cgroups, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(filepath.Join(cgroups, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			return fmt.Errorf("hand the controller %s down: %w", controller, err)
		}
	}
	return nil
}
