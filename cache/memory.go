package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
	"github.com/maypok86/otter/v2"
)

// MemoryStore is a Store in this process. Engines that are to share entries
// share the MemoryStore.
//
// It is bounded in bytes and evicts what is used least. It is safe for
// concurrent use.
type MemoryStore struct {
	mu       sync.Mutex // makes each method one step
	entries  *otter.Cache[string, memoryEntry]
	fills    *ttlmap.Map[string, uint64] // tokens of those that have begun and not ended
	watchers map[string]map[chan struct{}]struct{}
}

// MemoryOptions are the options of a MemoryStore.
type MemoryOptions struct {
	// MaxBytes bounds the keys and the data of all entries together, with a
	// little added for each. Zero means 64 MiB.
	MaxBytes int64
}

const (
	defaultMaxBytes = 64 << 20
	// entryOverhead is roughly what an entry costs beside its key and data.
	entryOverhead = 128
)

type memoryEntry struct {
	Entry
	stored time.Time
}

// NewMemoryStore returns an empty store. Nil options mean the defaults. It panics
// if they are invalid, which is a mistake in the program.
func NewMemoryStore(o *MemoryOptions) *MemoryStore {
	if o == nil {
		o = &MemoryOptions{}
	}
	maxBytes := o.MaxBytes
	if maxBytes == 0 {
		maxBytes = defaultMaxBytes
	}
	if maxBytes < 0 {
		panic(fmt.Sprintf("cache: MemoryOptions.MaxBytes is %d, it must not be negative", maxBytes))
	}
	entries := otter.Must(&otter.Options[string, memoryEntry]{
		MaximumWeight: uint64(maxBytes),
		Weigher: func(key string, e memoryEntry) uint32 {
			return uint32(min(len(key)+len(e.Data)+entryOverhead, math.MaxUint32))
		},
		// In place: a caller sees the bound kept when its call returns.
		Executor: func(fn func()) { fn() },
	})
	return &MemoryStore{
		entries:  entries,
		fills:    ttlmap.New[string, uint64](),
		watchers: make(map[string]map[chan struct{}]struct{}),
	}
}

// Get implements Store.
func (s *MemoryStore) Get(ctx context.Context, key string) (Entry, bool, error) {
	if err := ended(ctx); err != nil {
		return Entry{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.get(key)
	return e, ok, nil
}

func (s *MemoryStore) get(key string) (Entry, bool) {
	e, ok := s.entries.GetIfPresent(key)
	if !ok {
		return Entry{}, false
	}
	age := time.Since(e.stored)
	if age >= e.TTL {
		s.entries.Invalidate(key)
		return Entry{}, false
	}
	e.Age = age
	e.TTL -= age
	return e.Entry, true
}

// Begin implements Store.
func (s *MemoryStore) Begin(ctx context.Context, key string, token uint64, ttl time.Duration) (Beginning, error) {
	if err := ended(ctx); err != nil {
		return Beginning{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.get(key); ok {
		return Beginning{Outcome: Filled, Entry: e}, nil
	}
	if begun, _, ok := s.fills.Get(key); ok && begun > token {
		return Beginning{Outcome: Overtaken}, nil
	}
	s.fills.Set(key, token, ttl)
	return Beginning{Outcome: Begun}, nil
}

// Fill implements Store.
func (s *MemoryStore) Fill(ctx context.Context, key string, token uint64, entry Entry) (bool, error) {
	if err := ended(ctx); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake(key)
	if begun, _, ok := s.fills.Get(key); !ok || begun != token {
		return false, nil
	}
	s.fills.Delete(key)
	if entry.TTL <= 0 {
		return false, nil
	}
	entry.Age = 0
	s.entries.Set(key, memoryEntry{Entry: entry, stored: time.Now()})
	return true, nil
}

// Purge implements Store.
func (s *MemoryStore) Purge(ctx context.Context, key string) error {
	if err := ended(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries.Invalidate(key)
	s.fills.Delete(key)
	s.wake(key)
	return nil
}

// Watch implements Store.
func (s *MemoryStore) Watch(ctx context.Context, key string) (<-chan struct{}, func(), error) {
	if err := ended(ctx); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := make(chan struct{}, 1)
	if s.watchers[key] == nil {
		s.watchers[key] = make(map[chan struct{}]struct{})
	}
	s.watchers[key][changed] = struct{}{}
	stop := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers[key], changed)
		if len(s.watchers[key]) == 0 {
			delete(s.watchers, key)
		}
	}
	return changed, stop, nil
}

func (s *MemoryStore) wake(key string) {
	for w := range s.watchers[key] {
		select {
		case w <- struct{}{}:
		default: // it has a value waiting, which says the same
		}
	}
}

// LeaseName implements Store. The name is made of 128 bits of the key's digest.
func (s *MemoryStore) LeaseName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "cache:" + hex.EncodeToString(sum[:16])
}

// ended returns the error of a context that is over, or nil.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("cache: %w", errors.Join(context.Cause(ctx), ctx.Err()))
}
