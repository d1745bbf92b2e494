package binaries

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// Lock takes the file lock at path, waiting until ctx ends; waiting, if not
// nil, is called once before it waits. The kernel gives the lock back when this
// process ends, however it ends.
func Lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	return LockAny(ctx, []string{path}, waiting)
}

// LockAny is Lock with the first of several paths that is free.
func LockAny(ctx context.Context, paths []string, waiting func()) (unlock func(), err error) {
	for first := true; ; first = false {
		for _, path := range paths {
			unlock, err := TryLock(path)
			if !errors.Is(err, ErrLocked) {
				return unlock, err
			}
		}
		if first && waiting != nil {
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the lock %s: %w", strings.Join(paths, " or "), context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// ErrLocked says that another process (or another caller in this one) holds a lock.
var ErrLocked = errors.New("locked by another process")

// TryLock takes the file lock at path or fails at once with ErrLocked.
func TryLock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { file.Close() }, nil
}
