// Package binaries builds the programs of a test control plane from pinned Go
// modules (test/cluster/tools) with the go command alone, and keeps them in the
// user's cache folder.
//
// A folder of the cache is named after the version and a digest of everything
// that goes into the binary: module files, Go release, platform, flags. What is
// there is complete, because each binary is put there by a rename; so an
// interrupted build goes on where it stopped, and a second build costs nothing.
package binaries

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Set is where the programs are.
type Set struct {
	// Kubernetes is etcd, kube-apiserver, kube-controller-manager,
	// kube-scheduler, kube-proxy, kubelet and kubectl in one: argv[0] chooses.
	Kubernetes string
	// These are symbolic links to Kubernetes, each under its own name.
	Kubectl, Kubelet, KubeProxy string
	Kwok                        string
	Kruise                      string
	// KruiseManifests is one YAML file: Kruise's own config/default.
	KruiseManifests string
}

// tool is one nested module and the binary that is built from it.
type tool struct {
	// dir is below test/cluster/tools; binary is the file's name in the cache.
	dir, binary string
	// pkg is what is built, module is whose version names the cache folder.
	pkg, module string
	// ldflags is given the version of module.
	ldflags func(version string) string
}

func tools() []tool {
	return []tool{
		{dir: "k8s", binary: "kubernetes", pkg: ".", module: "k8s.io/kubernetes", ldflags: kubernetesVersion},
		{dir: "kwok", binary: "kwok", pkg: "sigs.k8s.io/kwok/cmd/kwok", module: "sigs.k8s.io/kwok"},
		{dir: "kruise", binary: "kruise-manager", pkg: "github.com/openkruise/kruise", module: "github.com/openkruise/kruise"},
	}
}

// kubernetesVersion sets the version that the API server reports: clients and
// Kruise choose API versions by it.
func kubernetesVersion(version string) string {
	minor := strings.Split(strings.TrimPrefix(version, "v"), ".")[1]
	flags := []string{
		"-X k8s.io/component-base/version.gitVersion=" + version,
		"-X k8s.io/component-base/version.gitMajor=1",
		"-X k8s.io/component-base/version.gitMinor=" + minor,
		"-X k8s.io/client-go/pkg/version.gitVersion=" + version,
	}
	return strings.Join(flags, " ")
}

// Ensure builds what is missing, one binary after the other, and writes one
// line per binary to progress. It may be called by several processes at once:
// one builds, the others wait. Cold it takes about eight minutes on two cores.
//
// The working directory must be inside this repository. An error names the
// binary and holds the end of what the go command said.
func Ensure(ctx context.Context, progress io.Writer) (Set, error) {
	root, err := ModuleRoot(ctx)
	if err != nil {
		return Set{}, err
	}
	cache, err := CacheDir()
	if err != nil {
		return Set{}, err
	}
	b := builder{tools: filepath.Join(root, "test", "cluster", "tools"), cache: filepath.Join(cache, "bin"), progress: progress}
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return Set{}, fmt.Errorf("make the cache folder: %w", err)
	}
	waiting := func() { fmt.Fprintln(progress, "another build of the control plane is under way, waiting for it") }
	unlock, err := Lock(ctx, filepath.Join(b.cache, "build.lock"), waiting)
	if err != nil {
		return Set{}, fmt.Errorf("take turns building: %w", err)
	}
	defer unlock()
	return b.ensure(ctx)
}

// CacheDir is the folder of this package in the user's cache folder.
func CacheDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache folder (set XDG_CACHE_HOME or HOME): %w", err)
	}
	return filepath.Join(cache, "offduty", "cluster"), nil
}

// ModuleRoot is the folder of this repository's go.mod.
func ModuleRoot(ctx context.Context) (string, error) {
	out, err := goCommand(ctx, "", "list", "-m", "-f", "{{.Dir}}", "offduty.dev")
	if err != nil {
		return "", fmt.Errorf("find the repository; run this inside of it: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Package builds a package of this repository (for example ./cmd/upgrader,
// relative to its root) to the file out.
func Package(ctx context.Context, pkg, out string) error {
	root, err := ModuleRoot(ctx)
	if err != nil {
		return err
	}
	if _, err := goCommand(ctx, root, "build", "-trimpath", "-o", out, pkg); err != nil {
		return fmt.Errorf("build %s: %w", pkg, err)
	}
	return nil
}

type builder struct {
	tools, cache string
	progress     io.Writer
}

func (b builder) ensure(ctx context.Context) (Set, error) {
	paths := map[string]string{}
	all := tools()
	for i, t := range all {
		dir, err := b.dir(ctx, t)
		if err != nil {
			return Set{}, err
		}
		paths[t.dir] = filepath.Join(dir, t.binary)
		if exists(paths[t.dir]) {
			continue
		}
		if err := b.build(ctx, t, dir, fmt.Sprintf("%d of %d", i+1, len(all))); err != nil {
			return Set{}, err
		}
	}
	kubernetes := filepath.Dir(paths["k8s"])
	set := Set{
		Kubernetes:      paths["k8s"],
		Kubectl:         filepath.Join(kubernetes, "kubectl"),
		Kubelet:         filepath.Join(kubernetes, "kubelet"),
		KubeProxy:       filepath.Join(kubernetes, "kube-proxy"),
		Kwok:            paths["kwok"],
		Kruise:          paths["kruise"],
		KruiseManifests: filepath.Join(filepath.Dir(paths["kruise"]), "manifests.yaml"),
	}
	for _, link := range []string{set.Kubectl, set.Kubelet, set.KubeProxy} {
		if err := os.Symlink(filepath.Base(set.Kubernetes), link); err != nil && !errors.Is(err, os.ErrExist) {
			return Set{}, fmt.Errorf("link %s: %w", filepath.Base(link), err)
		}
	}
	if !exists(set.KruiseManifests) {
		if err := b.renderKruise(ctx, set); err != nil {
			return Set{}, err
		}
	}
	return set, nil
}

// build builds t into dir and says so in one line.
func (b builder) build(ctx context.Context, t tool, dir, position string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the cache folder: %w", err)
	}
	version := versionOf(dir)
	fmt.Fprintf(b.progress, "building %s %s (%s, minutes when it is the first time) ... ", t.binary, version, position)
	started := time.Now()
	partial := filepath.Join(dir, "."+t.binary+".partial")
	ldflags := "-s -w"
	if t.ldflags != nil {
		ldflags += " " + t.ldflags(version)
	}
	if _, err := goCommand(ctx, filepath.Join(b.tools, t.dir), "build", "-trimpath", "-ldflags="+ldflags, "-o", partial, t.pkg); err != nil {
		fmt.Fprintln(b.progress, "failed")
		return fmt.Errorf("build %s %s: %w", t.binary, version, err)
	}
	if err := os.Rename(partial, filepath.Join(dir, t.binary)); err != nil {
		return fmt.Errorf("put %s into the cache: %w", t.binary, err)
	}
	fmt.Fprintf(b.progress, "%.1f s\n", time.Since(started).Seconds())
	return nil
}

// renderKruise writes Kruise's config/default into the cache, so that a warm
// start need not look for its module.
func (b builder) renderKruise(ctx context.Context, set Set) error {
	module, err := goCommand(ctx, filepath.Join(b.tools, "kruise"), "list", "-m", "-f", "{{.Dir}}", "github.com/openkruise/kruise")
	if err != nil {
		return fmt.Errorf("find Kruise's manifests: %w", err)
	}
	manifests, err := Kustomize(ctx, set, filepath.Join(strings.TrimSpace(string(module)), "config", "default"))
	if err != nil {
		return err
	}
	partial := set.KruiseManifests + ".partial"
	if err := os.WriteFile(partial, manifests, 0o644); err != nil {
		return fmt.Errorf("write Kruise's manifests into the cache: %w", err)
	}
	return os.Rename(partial, set.KruiseManifests)
}

// Kustomize renders a kustomization folder to YAML documents.
func Kustomize(ctx context.Context, set Set, dir string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, set.Kubectl, "kustomize", dir)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("render %s: %w: %s", dir, err, bytes.TrimSpace(problem.Bytes()))
	}
	return out.Bytes(), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// goCommand runs the go command in dir with settings of its own, so that a
// binary does not depend on whoever builds it.
func goCommand(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off", "GOOS=", "GOARCH=")
	// An interrupt lets the go command end its compilers, a kill does not.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", args[0], errors.Join(ctx.Err(), err), tail(problem.String(), 20))
	}
	return out.Bytes(), nil
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
