package controlplane

import (
	"context"
	"path/filepath"

	"offduty.dev/test/cluster/binaries"
)

// Build builds a package of this repository, for example "./cmd/upgrader", and
// returns the binary's path, for StartProcess. It builds each package once.
func (c *Cluster) Build(ctx context.Context, pkg string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if path, ok := c.built[pkg]; ok {
		return path, nil
	}
	path := c.file("bin", filepath.Base(pkg))
	if err := binaries.Package(ctx, pkg, path); err != nil {
		return "", err
	}
	c.built[pkg] = path
	return path, nil
}

// Kubectl is the path of a kubectl that fits this API server.
func (c *Cluster) Kubectl() string { return c.binaries.Kubectl }
