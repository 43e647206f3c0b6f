package responsecache

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
)

// memory is what a process remembers for a while of some pages, to save itself
// work. It is bounded: for what has no room, that is forgotten which would end first. The
// zero value is ready.
type memory[K comparable, V any] struct {
	used    atomic.Bool
	mu      sync.RWMutex
	entries *ttlmap.Map[K, V]
}

const memorySize = 10_000

// any reports whether anything was ever remembered.
func (m *memory[K, V]) any() bool { return m.used.Load() }

func (m *memory[K, V]) get(key K) (value V, ok bool) {
	if !m.any() {
		return value, false
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	value, _, ok = m.entries.Get(key)
	return value, ok
}

func (m *memory[K, V]) set(key K, value V, ttl time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries == nil {
		m.entries = ttlmap.New[K, V]()
		m.used.Store(true)
	}
	if _, there := m.entries.Find(key); !there && m.entries.Len() >= memorySize {
		m.entries.Sweep()
		if m.entries.Len() >= memorySize {
			m.entries.DropFirst()
		}
	}
	m.entries.Set(key, value, ttl)
}
