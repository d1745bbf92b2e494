// Command images builds the container images of Offduty's commands with ko, used as a
// library, into an OCI image layout on disk. Nothing is pulled from or pushed to a
// registry: the base image is empty, since the commands are static and need no file.
//
// It is started by hack/images, which knows version and time of what is built.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/ko/pkg/build"
)

// user is whom the containers run as; config/manager says the same.
const user = "65532:65532"

// repository is where the images are named in config/manager, without the command.
const repository = "offduty"

// baseName is what image and SBOM call the empty base image.
const baseName = "localhost/empty"

type options struct {
	root, out, sbom   string
	version, revision string
	epoch             int64
	platforms         []string
	packages          []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o, err := parse(os.Args[1:])
	if err == nil {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func parse(args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("images", flag.ContinueOnError)
	fs.StringVar(&o.root, "root", ".", "folder of the module")
	fs.StringVar(&o.out, "out", "", "folder for the OCI image layout; replaced")
	fs.StringVar(&o.sbom, "sbom", "", "folder for the SBOMs (SPDX, one for each image and platform); replaced")
	fs.StringVar(&o.version, "version", "", "tag of the images")
	fs.StringVar(&o.revision, "revision", "", "commit that is built")
	fs.Int64Var(&o.epoch, "epoch", 0, "time of everything in the images, in seconds since 1970")
	platforms := fs.String("platforms", "linux/amd64,linux/arm64", "what to build for")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	o.platforms, o.packages = strings.Split(*platforms, ","), fs.Args()
	if o.out == "" || o.sbom == "" || o.version == "" || o.epoch == 0 || len(o.packages) == 0 {
		return nil, errors.New("--out, --sbom, --version, --epoch and the packages to build are needed; use hack/images")
	}
	return o, nil
}

func run(ctx context.Context, o *options) error {
	log.SetFlags(0) // ko's own messages
	// ko lets these win over what it is told to build.
	for _, name := range []string{"GOOS", "GOARCH", "GOAMD64", "GOARM64", "KOCACHE", "KO_GO_PATH"} {
		if err := os.Unsetenv(name); err != nil {
			return err
		}
	}
	ko, err := o.builder(ctx)
	if err != nil {
		return err
	}
	for _, dir := range []string{o.out, o.sbom} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("replace the images of last time: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	target, err := layout.Write(o.out, empty.Index)
	if err != nil {
		return fmt.Errorf("write the image layout: %w", err)
	}
	for _, pkg := range o.packages {
		digest, err := o.image(ctx, ko, target, pkg)
		if err != nil {
			return fmt.Errorf("image of %s: %w", pkg, err)
		}
		fmt.Printf("%s@%s\n", o.reference(pkg), digest)
	}
	return nil
}

func (o *options) reference(pkg string) string {
	return repository + "/" + path.Base(pkg) + ":" + o.version
}

func (o *options) builder(ctx context.Context) (build.Interface, error) {
	base, err := scratch(o.platforms)
	if err != nil {
		return nil, fmt.Errorf("make the empty base image: %w", err)
	}
	created := v1.Time{Time: time.Unix(o.epoch, 0).UTC()}
	settings := []build.Option{
		build.WithBaseImages(func(context.Context, string) (name.Reference, build.Result, error) {
			reference, err := name.ParseReference(baseName)
			return reference, base, err
		}),
		build.WithPlatforms(o.platforms...),
		build.WithCreationTime(created),
		build.WithKoDataCreationTime(created),
		build.WithUser(user),
		build.WithTrimpath(true),
		// What the go command finds out by itself depends on where it runs.
		build.WithDefaultFlags([]string{"-mod=readonly", "-buildvcs=false"}),
		build.WithDefaultLdflags([]string{"-s", "-w", "-X", "offduty.dev/cmd/internal/version.stamped=" + o.version}),
		build.WithDefaultEnv([]string{"CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off"}),
		build.WithSPDX(o.version),
		build.WithSBOMDir(o.sbom),
	}
	for key, value := range map[string]string{
		"org.opencontainers.image.version":  o.version,
		"org.opencontainers.image.revision": o.revision,
		"org.opencontainers.image.licenses": "Apache-2.0",
	} {
		settings = append(settings, build.WithLabel(key, value), build.WithAnnotation(key, value))
	}
	return build.NewGo(ctx, o.root, settings...)
}

// image builds pkg and adds it to target under its name.
func (o *options) image(ctx context.Context, ko build.Interface, target layout.Path, pkg string) (v1.Hash, error) {
	qualified, err := ko.QualifyImport(pkg)
	if err != nil {
		return v1.Hash{}, err
	}
	result, err := ko.Build(ctx, qualified)
	if err != nil {
		return v1.Hash{}, err
	}
	named := layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": o.reference(pkg),
		// ctr images import takes this one as it is; the kubelet asks for it by this name.
		"io.containerd.image.name": "docker.io/" + o.reference(pkg),
	})
	switch built := result.(type) {
	case v1.ImageIndex:
		err = target.AppendIndex(built, named)
	case v1.Image:
		err = target.AppendImage(built, named)
	default:
		err = fmt.Errorf("ko built a %T", result)
	}
	if err != nil {
		return v1.Hash{}, err
	}
	return result.Digest()
}

// scratch is an index of images without any layer, one for each platform.
func scratch(platforms []string) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range platforms {
		platform, err := v1.ParsePlatform(p)
		if err != nil {
			return nil, err
		}
		image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
		image, err = mutate.ConfigFile(image, &v1.ConfigFile{
			OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
			RootFS: v1.RootFS{Type: "layers"},
		})
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	}
	return index, nil
}
