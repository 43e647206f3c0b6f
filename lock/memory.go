package lock

import (
	"context"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
)

// MemoryStore is a [Store] in this process: for programs of one process, and for
// tests. It does not fail, except with the error of a context that has ended. It
// starts no goroutine and is safe for concurrent use.
type MemoryStore struct {
	mu       sync.Mutex
	leases   *ttlmap.Map[string, memoryLease]
	watchers map[string]map[chan struct{}]struct{}
	// last is the last token given out. One for all names does, and costs no
	// memory for names that are not held.
	last uint64
}

type memoryLease struct {
	owner string
	token uint64
}

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore {
	return &MemoryStore{
		leases:   ttlmap.New[string, memoryLease](),
		watchers: make(map[string]map[chan struct{}]struct{}),
	}
}

// TryAcquire implements [Store].
func (s *MemoryStore) TryAcquire(ctx context.Context, req Request) (Grant, error) {
	if err := ctx.Err(); err != nil {
		return Grant{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	lease, left, ok := s.leases.Get(req.Name)
	if ok && lease.owner != req.Owner {
		return Grant{HeldFor: left}, nil
	}
	if !ok {
		// The clock lets tokens grow across a restart of the process, for
		// resources that outlive it.
		s.last = max(s.last+1, uint64(time.Now().UnixMicro()))
		lease = memoryLease{owner: req.Owner, token: s.last}
	}
	s.leases.Set(req.Name, lease, req.TTL)
	return Grant{Acquired: true, Token: lease.token}, nil
}

// Extend implements [Store].
func (s *MemoryStore) Extend(ctx context.Context, name, owner string, ttl time.Duration) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	lease, _, ok := s.leases.Get(name)
	if !ok || lease.owner != owner {
		return false, nil
	}
	s.leases.Set(name, lease, ttl)
	return true, nil
}

// Release implements [Store].
func (s *MemoryStore) Release(ctx context.Context, name, owner string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if lease, _, ok := s.leases.Get(name); !ok || lease.owner != owner {
		return false, nil
	}
	s.leases.Delete(name)
	for w := range s.watchers[name] {
		select {
		case w <- struct{}{}:
		default: // it has a value waiting, which says the same
		}
	}
	return true, nil
}

// Watch implements [Store].
func (s *MemoryStore) Watch(ctx context.Context, name string) (released <-chan struct{}, stop func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	w := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers[name] == nil {
		s.watchers[name] = make(map[chan struct{}]struct{})
	}
	s.watchers[name][w] = struct{}{}
	return w, func() { s.unwatch(name, w) }, nil
}

func (s *MemoryStore) unwatch(name string, w chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers[name], w)
	if len(s.watchers[name]) == 0 {
		delete(s.watchers, name)
	}
}
