package lock

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
)

// MemoryStore is a [Store] in this process: for programs of one process, and for
// tests. It does not fail, except with the error of a context that has ended. It
// starts no goroutine and is safe for concurrent use.
type MemoryStore struct {
	mu       sync.Mutex
	locks    *ttlmap.Map[string, *memoryLock]
	watchers map[watcher]map[chan struct{}]struct{}
	// last is the last token given out. One for all names does, and costs no
	// memory for names that are not held.
	last uint64
}

// memoryLock is all that there is of a name: its leases, each with its end, and
// its queue.
type memoryLock struct {
	holders map[string]memoryLease // by owner
	queue   []place
}

type memoryLease struct {
	end         time.Time
	shared      bool
	token, last uint64 // of its block
}

// place is one in the queue.
type place struct {
	req  Request
	kept time.Time // until when
}

type watcher struct{ name, owner string }

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore {
	return &MemoryStore{
		locks:    ttlmap.New[string, *memoryLock](),
		watchers: make(map[watcher]map[chan struct{}]struct{}),
	}
}

// TryAcquire implements [Store].
func (s *MemoryStore) TryAcquire(ctx context.Context, req Request) (Grant, error) {
	if err := ctx.Err(); err != nil {
		return Grant{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	l := s.lock(req.Name, now)
	defer s.keep(req.Name, l)
	return s.acquire(l, req, now), nil
}

func (s *MemoryStore) acquire(l *memoryLock, req Request, now time.Time) Grant {
	if _, repeat := l.holders[req.Owner]; !repeat {
		if until := l.room(req, now); until.After(now) {
			l.enter(req, now)
			return Grant{HeldFor: until.Sub(now), Queued: l.index(req.Owner) >= 0}
		}
	}
	l.leave(req.Owner)
	// The clock lets tokens grow across a restart of the process, for resources
	// that outlive it.
	token := max(s.last+1, uint64(now.UnixMicro()))
	s.last = token + uint64(max(req.Tokens, 1)) - 1
	l.holders[req.Owner] = memoryLease{end: now.Add(req.TTL), shared: req.Shared, token: token, last: s.last}
	if req.Shared {
		s.wake(req.Name, l, now, 1) // leases can end together
	}
	return Grant{Acquired: true, Token: token}
}

// Extend implements [Store].
func (s *MemoryStore) Extend(ctx context.Context, req Request) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	l := s.lock(req.Name, now)
	defer s.keep(req.Name, l)
	lease, ok := l.holders[req.Owner]
	if !ok {
		return false, nil
	}
	lease.end = now.Add(req.TTL)
	l.holders[req.Owner] = lease
	return true, nil
}

// Release implements [Store].
func (s *MemoryStore) Release(ctx context.Context, req Request) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	l := s.lock(req.Name, now)
	defer s.keep(req.Name, l)
	return s.release(l, req, now), nil
}

// Relay implements [Relay].
func (s *MemoryStore) Relay(ctx context.Context, from, to Request) (held bool, grant Grant, err error) {
	if err := ctx.Err(); err != nil {
		return false, Grant{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	l := s.lock(from.Name, now)
	defer s.keep(from.Name, l)
	held = s.release(l, from, now)
	return held, s.acquire(l, to, now), nil
}

func (s *MemoryStore) release(l *memoryLock, req Request, now time.Time) (held bool) {
	lease, held := l.holders[req.Owner]
	if held && lease.last == s.last {
		// What was not used of the block is given out again, or tokens would
		// run ahead of the clock, and go back when the process is restarted.
		s.last = lease.token + uint64(max(req.Tokens, 1)) - 1
	}
	delete(l.holders, req.Owner)
	l.leave(req.Owner)
	s.wake(req.Name, l, now, len(l.queue))
	return held
}

// wake wakes those in the queue for whom there is room, from the front.
func (s *MemoryStore) wake(name string, l *memoryLock, now time.Time, most int) {
	for _, p := range l.queue[:min(most, len(l.queue))] {
		if l.room(p.req, now).After(now) {
			return // it is in the way of those behind it
		}
		for w := range s.watchers[watcher{name, p.req.Owner}] {
			select {
			case w <- struct{}{}:
			default: // it has a value waiting, which says the same
			}
		}
	}
}

// Watch implements [Store].
func (s *MemoryStore) Watch(ctx context.Context, name, owner string) (turn <-chan struct{}, stop func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	key, w := watcher{name, owner}, make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers[key] == nil {
		s.watchers[key] = make(map[chan struct{}]struct{})
	}
	s.watchers[key][w] = struct{}{}
	return w, func() { s.unwatch(key, w) }, nil
}

func (s *MemoryStore) unwatch(key watcher, w chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers[key], w)
	if len(s.watchers[key]) == 0 {
		delete(s.watchers, key)
	}
}

// lock returns what there is of name, without what is over. The step goes by the same
// now: it would take a place that has ended since for one that lets everybody pass.
func (s *MemoryStore) lock(name string, now time.Time) *memoryLock {
	l, _, ok := s.locks.Get(name)
	if !ok {
		return &memoryLock{holders: make(map[string]memoryLease)}
	}
	for owner, lease := range l.holders {
		if !lease.end.After(now) {
			delete(l.holders, owner)
		}
	}
	l.queue = slices.DeleteFunc(l.queue, func(p place) bool { return !p.kept.After(now) })
	return l
}

// keep stores l for as long as anything in it lasts.
func (s *MemoryStore) keep(name string, l *memoryLock) {
	var last time.Time
	for _, lease := range l.holders {
		if lease.end.After(last) {
			last = lease.end
		}
	}
	for _, p := range l.queue {
		if p.kept.After(last) {
			last = p.kept
		}
	}
	s.locks.Set(name, l, time.Until(last))
}

// room returns until when there is no room for req at most, or the zero time.
func (l *memoryLock) room(req Request, now time.Time) time.Time {
	exclusive := !req.Shared
	var first, last time.Time
	for _, lease := range l.holders {
		exclusive = exclusive || !lease.shared
		if first.IsZero() || lease.end.Before(first) {
			first = lease.end
		}
		if lease.end.After(last) {
			last = lease.end
		}
	}
	var until time.Time
	switch {
	case exclusive:
		until = last
	case req.Limit > 0 && len(l.holders) >= req.Limit:
		until = first
	}
	for i, p := range l.queue {
		if p.req.Owner == req.Owner {
			break
		}
		// Shared leases for which there is room together do not wait for one
		// another. What is said is for how long the first one may still come.
		if !req.Shared || !p.req.Shared || req.Limit > 0 && len(l.holders)+i+1 >= req.Limit {
			if kept := l.queue[0].kept; kept.After(until) {
				until = kept
			}
			break
		}
	}
	return until
}

// enter gives req a place in the queue, or keeps the one that it has.
func (l *memoryLock) enter(req Request, now time.Time) {
	if req.Place <= 0 {
		return
	}
	p := place{req: req, kept: now.Add(req.Place)}
	if i := l.index(req.Owner); i >= 0 {
		l.queue[i] = p
		return
	}
	l.queue = append(l.queue, p)
}

// leave takes owner out of the queue.
func (l *memoryLock) leave(owner string) {
	if i := l.index(owner); i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
	}
}

func (l *memoryLock) index(owner string) int {
	return slices.IndexFunc(l.queue, func(p place) bool { return p.req.Owner == owner })
}
