package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// fileFormat is the version of the file's format.
const fileFormat = 1

// File keeps the records of several groups in one file. Every save writes a new file,
// syncs it, renames it over the old one and syncs the folder.
type File struct {
	mu   sync.Mutex
	path string
	lock *os.File
	// groups is what the file says now.
	groups map[string]fileGroup
}

type fileGroup struct {
	Version int64
	Record  Record
}

type fileContent struct {
	Format int
	Groups map[string]fileGroup
}

// OpenFile opens the state file at path, which need not exist yet, and locks it for this
// process ("<path>.lock"). A file that cannot be understood is an error: a record is
// never begun anew over an old one.
func OpenFile(path string) (*File, error) {
	lock, err := os.OpenFile(filepath.Clean(path)+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of state file %s: %w", path, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock state file %s: another arbiter uses it: %w", path, err), lock.Close())
	}
	f := &File{path: path, lock: lock, groups: map[string]fileGroup{}}
	data, err := os.ReadFile(filepath.Clean(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, nil
	case err == nil:
		f.groups, err = decodeFile(data)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read state file %s: %w", path, err), lock.Close())
	}
	return f, nil
}

// decodeFile reads the content of a state file.
func decodeFile(data []byte) (map[string]fileGroup, error) {
	var c fileContent
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if c.Format != fileFormat {
		return nil, fmt.Errorf("decode: format %d is not %d, the one this version understands", c.Format, fileFormat)
	}
	if c.Groups == nil {
		c.Groups = map[string]fileGroup{}
	}
	for _, g := range c.Groups {
		for replica, l := range g.Record.Leases.Leases {
			if l.Replica != replica || l.ID == "" {
				return nil, fmt.Errorf("decode: the lease of %q is recorded as %q of %q", replica, l.ID, l.Replica)
			}
		}
	}
	return c.Groups, nil
}

// Close gives the file free for another process.
func (f *File) Close() error { return f.lock.Close() }

// Group returns the store of one group.
func (f *File) Group(key string) Store { return &fileStore{file: f, key: key} }

type fileStore struct {
	file *File
	key  string
}

// Load implements Store.
func (s *fileStore) Load(context.Context) (Record, Version, error) {
	s.file.mu.Lock()
	defer s.file.mu.Unlock()
	g := s.file.groups[s.key]
	return g.Record.Clone(), Version(strconv.FormatInt(g.Version, 10)), nil
}

// Save implements Store.
func (s *fileStore) Save(_ context.Context, r Record, v Version) (Version, error) {
	s.file.mu.Lock()
	defer s.file.mu.Unlock()
	old, existed := s.file.groups[s.key]
	if v != Version(strconv.FormatInt(old.Version, 10)) {
		return "", ErrConflict
	}
	r.Lost = false
	s.file.groups[s.key] = fileGroup{Version: old.Version + 1, Record: r.Clone()}
	if err := s.file.write(); err != nil {
		// Whether the file has changed is unknown, but memory is what Load returns and
		// what the next write writes.
		s.file.groups[s.key] = old
		if !existed {
			delete(s.file.groups, s.key)
		}
		return "", fmt.Errorf("save group %s: %w", s.key, err)
	}
	return Version(strconv.FormatInt(old.Version+1, 10)), nil
}

func (f *File) write() error {
	data, err := json.Marshal(fileContent{Format: fileFormat, Groups: f.groups})
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	dir := filepath.Dir(f.path)
	tmp, err := os.CreateTemp(dir, filepath.Base(f.path)+".*")
	if err != nil {
		return fmt.Errorf("make a new file beside %s: %w", f.path, err)
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", f.path, err), os.Remove(tmp.Name()))
	}
	return syncDir(dir)
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return fmt.Errorf("open %s to sync it: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
