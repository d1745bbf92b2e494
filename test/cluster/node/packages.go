package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"offduty.dev/test/cluster/binaries"
)

// debianPackages are what a node needs besides the kubelet: with the libraries that they
// bring, as nothing is installed.
var debianPackages = []string{
	"containerd", "runc", "libseccomp2", "busybox-static", "containernetworking-plugins",
	// For kube-proxy.
	"nftables", "libnftables1", "libnftnl11", "libmnl0", "libxtables12", "libjansson4", "libedit2", "libbsd0", "libmd0",
}

// packages is a folder with the unpacked packages.
type packages string

func (p packages) path(parts ...string) string {
	return filepath.Join(append([]string{string(p)}, parts...)...)
}

func (p packages) busybox() string { return p.path("bin", "busybox") }

// environment lets programs find each other and their libraries in the folder.
func (p packages) environment() ([]string, error) {
	libraries, err := filepath.Glob(p.path("usr", "lib", "*-linux-gnu*"))
	if err != nil {
		return nil, err
	}
	path := []string{p.path("usr", "bin"), p.path("usr", "sbin"), os.Getenv("PATH")}
	return []string{
		"PATH=" + strings.Join(path, ":"),
		"LD_LIBRARY_PATH=" + strings.Join(libraries, ":"),
	}, nil
}

// ensurePackages downloads the packages with apt and unpacks them into a folder of the
// user's cache that is named after their versions. Nothing is installed. Where apt has no
// lists of packages, or old ones, new ones are fetched to the cache, not to where the
// machine has its own.
func ensurePackages(ctx context.Context, progress io.Writer) (packages, error) {
	cache, err := binaries.CacheDir()
	if err != nil {
		return "", err
	}
	a := apt{dir: filepath.Join(cache, "debian"), progress: progress}
	for _, dir := range []string{a.dir, filepath.Join(a.dir, "lists", "partial"), filepath.Join(a.dir, "archives", "partial")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", fmt.Errorf("make the cache folder: %w", err)
		}
	}
	unlock, err := binaries.Lock(ctx, filepath.Join(a.dir, "lock"), nil)
	if err != nil {
		return "", fmt.Errorf("take turns downloading: %w", err)
	}
	defer unlock()
	found, err := a.fetch(ctx)
	if err == nil {
		return found, nil
	}
	a.lists = filepath.Join(a.dir, "lists")
	if found, err := a.fetch(ctx); err == nil {
		return found, nil
	}
	fmt.Fprintf(progress, "fetching lists of Debian packages, as those of this machine do not do (%v)\n", firstLine(err))
	// A source that is not reachable does not matter if the packages come from another.
	_, updating := a.run(ctx, a.dir, "apt-get", "update", "-q")
	found, err = a.fetch(ctx)
	if err != nil {
		return "", fmt.Errorf("download Debian packages; is there a network, and has /etc/apt its sources? %w", errors.Join(updating, err))
	}
	return found, nil
}

// apt downloads packages.
type apt struct {
	dir string
	// lists is where lists of packages are; "": where the machine has them.
	lists    string
	progress io.Writer
}

// fetch returns the folder with the packages as the lists know them.
func (a apt) fetch(ctx context.Context) (packages, error) {
	// One line per package: 'URL' file size digest.
	uris, err := a.run(ctx, a.dir, "apt-get", append([]string{"download", "--print-uris"}, debianPackages...)...)
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256(bytes.Join(sorted(uris), []byte("\n")))
	dir := filepath.Join(a.dir, "packages-"+hex.EncodeToString(digest[:])[:12])
	if _, err := os.Stat(dir); err == nil {
		return packages(dir), nil
	}
	partial := dir + ".partial"
	archives := filepath.Join(partial, "archives")
	if err := errors.Join(os.RemoveAll(partial), os.MkdirAll(archives, 0o755)); err != nil {
		return "", err
	}
	fmt.Fprintf(a.progress, "downloading %d Debian packages, once\n", len(debianPackages))
	if _, err := a.run(ctx, archives, "apt-get", append([]string{"download", "-q"}, debianPackages...)...); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		fmt.Fprintf(a.progress, "  %s\n", strings.TrimSuffix(filepath.Base(file), ".deb"))
		if _, err := a.run(ctx, partial, "dpkg-deb", "--extract", file, partial); err != nil {
			return "", err
		}
	}
	return packages(dir), errors.Join(os.RemoveAll(archives), os.Rename(partial, dir))
}

func sorted(text []byte) [][]byte {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	slices.SortFunc(lines, bytes.Compare)
	return lines
}

// run runs a program of Debian's in dir; apt keeps its hands off the machine's caches.
func (a apt) run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	if name == "apt-get" {
		options := []string{"-o", "Dir::Cache=" + a.dir, "-o", "APT::Sandbox::User=root"}
		if a.lists != "" {
			options = append(options, "-o", "Dir::State::Lists="+a.lists)
		}
		args = append(options, args...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(problem.Bytes()))
	}
	return out.Bytes(), nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
