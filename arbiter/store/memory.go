package store

import (
	"context"
	"strconv"
	"sync"
)

// Memory keeps the record for as long as the process lives: for tests.
type Memory struct {
	mu      sync.Mutex
	record  Record
	version int
}

// NewMemory returns a store without a record.
func NewMemory() *Memory { return &Memory{} }

// Load implements Store.
func (m *Memory) Load(context.Context) (Record, Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record.Clone(), Version(strconv.Itoa(m.version)), nil
}

// Save implements Store. The caller gives r away and never changes it again.
func (m *Memory) Save(_ context.Context, r Record, v Version) (Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v != Version(strconv.Itoa(m.version)) {
		return "", ErrConflict
	}
	m.version++
	r.Lost = false
	m.record = r
	return Version(strconv.Itoa(m.version)), nil
}
