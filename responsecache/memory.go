package responsecache

import (
	"sync"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
)

// memory is what a process remembers for a while of some pages, to save itself
// work. It is bounded: what has no room is forgotten. The zero value is ready.
type memory[V any] struct {
	mu      sync.Mutex
	entries *ttlmap.Map[string, V]
}

const memorySize = 10_000

func (m *memory[V]) get(key string) (value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries == nil {
		return value, false
	}
	value, _, ok = m.entries.Get(key)
	return value, ok
}

func (m *memory[V]) set(key string, value V, ttl time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries == nil {
		m.entries = ttlmap.New[string, V]()
	}
	if m.entries.Len() >= memorySize {
		return
	}
	m.entries.Set(key, value, ttl)
}
