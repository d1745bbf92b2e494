package binaries

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// dir is the cache folder of t, for example <cache>/bin/k8s-v1.34.4-0123456789ab.
func (b builder) dir(ctx context.Context, t tool) (string, error) {
	source := filepath.Join(b.tools, t.dir)
	version, err := moduleVersion(filepath.Join(source, "go.mod"), t.module)
	if err != nil {
		return "", err
	}
	platform, err := goCommand(ctx, source, "env", "GOVERSION", "GOOS", "GOARCH")
	if err != nil {
		return "", fmt.Errorf("ask for the Go release: %w", err)
	}
	digest, err := digest(source, string(platform), t)
	if err != nil {
		return "", fmt.Errorf("digest the sources of %s: %w", t.binary, err)
	}
	return filepath.Join(b.cache, t.dir+"-"+version+"-"+digest), nil
}

// Version is that of the module from which a binary of a Set was built.
func Version(binary string) string { return versionOf(filepath.Dir(binary)) }

// versionOf reads the version back from the name of a cache folder.
func versionOf(dir string) string {
	parts := strings.SplitN(filepath.Base(dir), "-", 2)
	return parts[1][:strings.LastIndexByte(parts[1], '-')]
}

func moduleVersion(gomod, module string) (string, error) {
	data, err := os.ReadFile(gomod)
	if err != nil {
		return "", fmt.Errorf("read a tool module: %w", err)
	}
	match := regexp.MustCompile(`(?m)^\s*(?:require\s+)?` + regexp.QuoteMeta(module) + `\s+(v\S+)`).FindSubmatch(data)
	if match == nil {
		return "", fmt.Errorf("%s does not require %s", gomod, module)
	}
	return string(match[1]), nil
}

// digest covers all that decides the content of the binary of t: 12 hex digits.
func digest(source, platform string, t tool) (string, error) {
	hash := sha256.New()
	fmt.Fprintf(hash, "%s\n%s\n", platform, t.pkg)
	files, err := filepath.Glob(filepath.Join(source, "*"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n", filepath.Base(file), len(data))
		hash.Write(data)
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}
