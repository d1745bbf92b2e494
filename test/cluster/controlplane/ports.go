package controlplane

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"

	"offduty.dev/test/cluster/binaries"
)

// Ports come in blocks of one cluster each, below the range from which the
// kernel takes the ports of outgoing connections (32768 and up on Linux): so the
// port of a killed daemon stays free until it is started again.
const (
	firstPort = 20000
	blockSize = 64
	blocks    = (32000 - firstPort) / blockSize
)

// portBlock is a block that no other cluster on this machine uses: it holds a
// file lock, which ends with this process.
type portBlock struct {
	unlock func()

	mu   sync.Mutex
	next int
	end  int
}

func claimPorts() (*portBlock, error) {
	cache, err := binaries.CacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "ports")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a folder for port locks: %w", err)
	}
	for _, block := range rand.Perm(blocks) {
		first := firstPort + block*blockSize
		unlock, err := binaries.TryLock(filepath.Join(dir, fmt.Sprintf("%d.lock", first)))
		if errors.Is(err, binaries.ErrLocked) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("claim ports: %w", err)
		}
		return &portBlock{unlock: unlock, next: first, end: first + blockSize}, nil
	}
	return nil, fmt.Errorf("claim ports: all %d blocks are used by other clusters; stop some", blocks)
}

func (b *portBlock) release() { b.unlock() }

// take returns a port of the block that it never returned before and on which
// nothing listens.
func (b *portBlock) take() (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.next < b.end {
		port := b.next
		b.next++
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			return 0, fmt.Errorf("probe port %d: %w", port, err)
		}
		return port, nil
	}
	return 0, fmt.Errorf("all %d ports of this cluster are taken; start fewer processes, or reuse their ports", blockSize)
}

// FreePort is a port on 127.0.0.1 for a process of StartProcess. It is not
// given out again, so a process may be restarted on it.
func (c *Cluster) FreePort() (int, error) { return c.ports.take() }
