package node

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
)

// Image is a container image made of a few files.
type Image struct {
	// Name is under which pods ask for it, with a tag.
	Name string
	// Programs are executable files of this machine, by their path in the image.
	Programs map[string]string
	// Files are texts by their path in the image.
	Files map[string]string
	// Folders that anybody may write to.
	Folders    []string
	Entrypoint []string
}

// Write writes the image to a file as docker save would: a layer, a configuration, and a
// list of these. Equal content gives equal digests.
func (i Image) Write(file string) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("make the image %s: %w", i.Name, err)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": i.Entrypoint, "Env": []string{"PATH=/bin"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
	})
	if err != nil {
		return fmt.Errorf("make the image %s: %w", i.Name, err)
	}
	named := digest(config) + ".json"
	manifest, err := json.Marshal([]any{map[string]any{
		"Config": named, "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return fmt.Errorf("make the image %s: %w", i.Name, err)
	}
	archive, err := pack(map[string]entry{"manifest.json": {data: manifest}, named: {data: config}, "layer.tar": {data: layer}})
	if err != nil {
		return fmt.Errorf("make the image %s: %w", i.Name, err)
	}
	return os.WriteFile(file, archive, 0o644)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// layer is the file system of the image.
func (i Image) layer() ([]byte, error) {
	entries := map[string]entry{}
	for _, to := range i.Folders {
		entries[relative(to)+"/"] = entry{mode: 0o1777}
	}
	for to, from := range i.Programs {
		data, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		entries[relative(to)] = entry{mode: 0o755, data: data}
	}
	for to, text := range i.Files {
		entries[relative(to)] = entry{mode: 0o644, data: []byte(text)}
	}
	return pack(entries)
}

func relative(file string) string { return path.Clean(file)[1:] }

// entry is a file, or a folder if its name ends with a slash.
type entry struct {
	mode int64
	data []byte
}

// pack makes a tar archive of entries by name.
func pack(entries map[string]entry) ([]byte, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		e := entries[name]
		// A name that ends with a slash is taken for a folder's.
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: e.mode, Size: int64(len(e.data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	return archive.Bytes(), w.Close()
}
