package install

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const version = "v0.0.0-test"

// buildImages runs hack/images of the source in dir, and returns where the output is.
func buildImages(t *testing.T, dir string) string {
	t.Helper()
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), filepath.Join("hack", "images"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "OUT="+out, "PLATFORMS=linux/"+runtime.GOARCH,
		"VERSION="+version, "REVISION=0123456789abcdef", "SOURCE_DATE_EPOCH=1700000000")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("hack/images: %v\n%s", err, text)
	}
	return out
}

// index is an index.json, manifest one of an image, and config its configuration: what we
// look at.
type (
	descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Annotations map[string]string `json:"annotations"`
	}
	index struct {
		Manifests []descriptor `json:"manifests"`
	}
	manifest struct {
		Config descriptor   `json:"config"`
		Layers []descriptor `json:"layers"`
	}
	config struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Config       struct {
			Entrypoint []string
			User       string
			Labels     map[string]string
		} `json:"config"`
	}
)

func TestImages(t *testing.T) {
	out := buildImages(t, root)
	images := filepath.Join(out, "images")
	var all index
	decode(t, filepath.Join(images, "index.json"), &all)
	var names []string
	for _, image := range all.Manifests {
		name := image.Annotations["org.opencontainers.image.ref.name"]
		names = append(names, name)
		command := strings.TrimSuffix(strings.TrimPrefix(name, "offduty/"), ":"+version)
		t.Run(command, func(t *testing.T) {
			checkImage(t, images, image, command)
			checkSBOM(t, filepath.Join(out, "sbom", command+"-linux-"+runtime.GOARCH+".spdx.json"), image.Digest)
		})
	}
	if diff := cmp.Diff([]string{"offduty/upgrader:" + version, "offduty/arbiter:" + version}, names); diff != "" {
		t.Errorf("the layout has other images (- want, + got):\n%s", diff)
	}
	t.Run("another folder gives the same", func(t *testing.T) {
		other := buildImages(t, copied(t))
		for _, file := range []string{
			"images/index.json", "sbom/upgrader-linux-" + runtime.GOARCH + ".spdx.json", "sbom/arbiter-linux-" + runtime.GOARCH + ".spdx.json",
		} {
			if diff := cmp.Diff(string(read(t, filepath.Join(out, file))), string(read(t, filepath.Join(other, file)))); diff != "" {
				t.Errorf("%s differs (- here, + there):\n%s", file, diff)
			}
		}
	})
}

// checkImage wants an image of this machine's kind that runs the command as nobody.
func checkImage(t *testing.T, images string, image descriptor, command string) {
	t.Helper()
	if got, want := image.Annotations["io.containerd.image.name"], "docker.io/offduty/"+command+":"+version; got != want {
		t.Errorf("containerd will call it %s, not %s", got, want)
	}
	var m manifest
	decode(t, blob(images, image), &m)
	var c config
	decode(t, blob(images, m.Config), &c)
	if c.OS != "linux" || c.Architecture != runtime.GOARCH || c.Config.User != "65532:65532" {
		t.Errorf("its configuration is %+v", c)
	}
	program := "/ko-app/" + command
	if diff := cmp.Diff([]string{program}, c.Config.Entrypoint); diff != "" {
		t.Error(diff)
	}
	if got := c.Config.Labels["org.opencontainers.image.version"]; got != version {
		t.Errorf("its label says version %q", got)
	}
	files := map[string][]byte{}
	for _, layer := range m.Layers {
		unpack(t, blob(images, layer), files)
	}
	if len(files) != 1 || files[program] == nil {
		t.Fatalf("it has the files %v, not %s alone", slices.Collect(maps.Keys(files)), program)
	}
	checkProgram(t, command, files[program])
}

// copied is a copy of the sources in another folder, without the git repository.
func copied(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "somewhere", "else")
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	list, err := cmd.Output()
	if err != nil {
		t.Fatalf("list the sources: %v", err)
	}
	for name := range strings.SplitSeq(strings.Trim(string(list), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, but not yet in git
		}
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, data, info.Mode().Perm())); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func blob(images string, d descriptor) string {
	return filepath.Join(images, "blobs", filepath.FromSlash(strings.Replace(d.Digest, ":", "/", 1)))
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func decode(t *testing.T, path string, into any) {
	t.Helper()
	if err := json.Unmarshal(read(t, path), into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// unpack adds the files of a layer to files.
func unpack(t *testing.T, layer string, files map[string][]byte) {
	t.Helper()
	zipped, err := gzip.NewReader(bytes.NewReader(read(t, layer)))
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(zipped); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeDir {
			continue
		}
		if files[header.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

// checkProgram wants a static program that runs and knows its version.
func checkProgram(t *testing.T, command string, data []byte) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Error("it is linked dynamically")
		}
	}
	path := filepath.Join(t.TempDir(), command)
	if err := os.WriteFile(path, data, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), version) {
		t.Errorf("%s --version: %v\n%s", command, err, out)
	}
}

// checkSBOM wants an SPDX document about the image that lists our module and the modules
// that are linked in, with the versions of go.mod.
func checkSBOM(t *testing.T, path, digest string) {
	t.Helper()
	var document struct {
		SPDXVersion string `json:"spdxVersion"`
		Packages    []struct {
			Name    string `json:"name"`
			Version string `json:"versionInfo"`
		} `json:"packages"`
	}
	decode(t, path, &document)
	if !strings.HasPrefix(document.SPDXVersion, "SPDX-") {
		t.Errorf("%s is of version %q", path, document.SPDXVersion)
	}
	versions := map[string]string{}
	for _, p := range document.Packages {
		versions[p.Name] = p.Version
	}
	for _, name := range []string{digest, "offduty.dev"} {
		if _, ok := versions[name]; !ok {
			t.Errorf("%s does not name %s", path, name)
		}
	}
	for _, module := range []string{"sigs.k8s.io/controller-runtime", "k8s.io/client-go", "google.golang.org/grpc"} {
		if got, want := versions[module], required(t, module); got != want {
			t.Errorf("%s says %s is at %q, go.mod has %s", path, module, got, want)
		}
	}
}

// required is the version of a module in go.mod.
func required(t *testing.T, module string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Version}}", module)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(fmt.Errorf("version of %s: %w", module, err))
	}
	return strings.TrimSpace(string(out))
}
