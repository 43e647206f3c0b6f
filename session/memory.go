package session

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
)

// maxMemorySessions bounds a MemoryStore. With sessions of 1 kB, which is
// large, it then holds about 100 MB.
const maxMemorySessions = 100_000

// MemoryStore is a Store in the memory of one process, for tests, for
// development and for programs that run as one process. It holds 100,000
// sessions at most; a Commit that would begin one more is an error. It is safe
// for concurrent use. Make one with NewMemoryStore.
type MemoryStore struct {
	mu       sync.Mutex
	sessions *ttlmap.Map[string, *memorySession]
}

// memorySession is a session in a MemoryStore.
type memorySession struct {
	digest, superseded Digest
	rotated            bool // superseded is set
	graceEnds          time.Time
	version            uint64
	user               string
	values             map[string][]byte
	size               int
	created            time.Time
	idle, absolute     time.Duration
}

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore {
	return &MemoryStore{sessions: ttlmap.New[string, *memorySession]()}
}

// Load implements Store.
func (m *MemoryStore) Load(ctx context.Context, id string, digest Digest) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, left, ok := m.sessions.Get(id)
	if !ok {
		return Record{}, nil
	}
	state := s.state(digest, time.Now())
	if state == Missing || state == Reused {
		return Record{State: state}, nil
	}
	return Record{
		State:       state,
		Version:     s.version,
		User:        s.user,
		Values:      cloneValues(s.values),
		CreatedAt:   s.created,
		IdleTimeout: s.idle,
		ExpiresIn:   left,
		EndsIn:      max(left, time.Until(s.created.Add(s.absolute))),
	}, nil
}

// Commit implements Store.
func (m *MemoryStore) Commit(ctx context.Context, d Delta) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	s, _, ok := m.sessions.Get(d.ID)
	switch {
	case ok && d.Create && s.digest != d.Digest:
		return Result{Outcome: Exists}, nil
	case !ok && !d.Create, ok && !s.accepts(d, now):
		return Result{Outcome: Gone}, nil
	case !ok:
		if err := m.makeRoom(d.ID); err != nil {
			return Result{}, err
		}
		s = &memorySession{digest: d.Digest, values: make(map[string][]byte), created: now}
	}
	size := s.sizeAfter(d)
	if d.MaxBytes > 0 && size > d.MaxBytes {
		return Result{Outcome: TooLarge}, nil
	}
	s.size = size
	s.apply(d, now)
	ends := s.created.Add(s.absolute).Sub(now)
	expires := min(s.idle, ends)
	m.sessions.Set(d.ID, s, expires)
	return Result{Outcome: Committed, Version: s.version, ExpiresIn: max(expires, 0), EndsIn: max(ends, 0)}, nil
}

// Delete implements Store.
func (m *MemoryStore) Delete(ctx context.Context, id string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions.Delete(id), nil
}

// makeRoom refuses a session too many.
func (m *MemoryStore) makeRoom(id string) error {
	if m.sessions.Len() >= maxMemorySessions {
		m.sessions.Set(id, nil, 0) // there is none; but it clears out dead ones
	}
	if m.sessions.Len() >= maxMemorySessions {
		return fmt.Errorf("session: the memory store is full with %d sessions", maxMemorySessions)
	}
	return nil
}

func (s *memorySession) state(digest Digest, now time.Time) State {
	switch {
	case s.digest == digest:
		return Current
	case !s.rotated || s.superseded != digest:
		return Missing
	case now.Before(s.graceEnds):
		return Superseded
	}
	return Reused
}

func (s *memorySession) accepts(d Delta, now time.Time) bool {
	state := s.state(d.Digest, now)
	return state == Current || state == Superseded || d.Rotate != nil && d.Rotate.Digest == s.digest
}

func (s *memorySession) sizeAfter(d Delta) int {
	size := s.size
	remove := func(name string) {
		if old, ok := s.values[name]; ok {
			size -= len(name) + len(old)
		}
	}
	for name, value := range d.Set {
		remove(name)
		size += len(name) + len(value)
	}
	for _, name := range d.Delete {
		remove(name)
	}
	return size
}

func (s *memorySession) apply(d Delta, now time.Time) {
	s.version++
	maps.Copy(s.values, cloneValues(d.Set))
	for _, name := range d.Delete {
		delete(s.values, name)
	}
	if d.User != nil {
		s.user = *d.User
	}
	if r := d.Rotate; r != nil && r.Digest != s.digest {
		s.superseded, s.graceEnds, s.rotated = s.digest, now.Add(r.Grace), true
		s.digest = r.Digest
	}
	if d.IdleTimeout > 0 {
		s.idle = d.IdleTimeout
	}
	if d.AbsoluteTimeout > 0 {
		s.absolute = d.AbsoluteTimeout
	}
}

func cloneValues(values map[string][]byte) map[string][]byte {
	clone := make(map[string][]byte, len(values))
	for name, value := range values {
		clone[name] = append([]byte{}, value...)
	}
	return clone
}
