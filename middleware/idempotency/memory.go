package idempotency

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/herdless/herdless/internal/ttlmap"
)

// maxMemoryBytes bounds the responses in a MemoryStore. What is left beyond fullMemoryBytes is
// for the requests that run by then.
const (
	maxMemoryBytes  = 64 << 20
	fullMemoryBytes = 56 << 20
)

// MemoryStore is a Store in the memory of one process, for tests and for
// programs that run as one process. It holds 64 MiB of responses at most. With 56 of
// them it begins nothing until some have expired: forgetting one would run a request
// twice. Of those that run then and find no room, a Guard keeps that they have run, as of a
// response that is longer than Options.MaxResponse. It is safe for concurrent use. Make one
// with NewMemoryStore.
type MemoryStore struct {
	mu       sync.Mutex
	requests *ttlmap.Map[string, *memoryRequest]
	bytes    int
	watchers map[string]map[chan struct{}]struct{}
}

type memoryRequest struct {
	fingerprint Fingerprint
	owner       string
	attempt     int
	leaseEnds   time.Time
	finished    bool
	response    []byte
}

const (
	// requestOverhead is what an entry takes besides its response, about.
	requestOverhead = 400
	// briefResponse is how much of a response requestOverhead has room for: there is always
	// room for one that says no more than that there is one.
	briefResponse = 100
)

var errFull = errors.New("idempotency: the memory store is full; give it less to keep, or use Redis")

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore {
	m := &MemoryStore{requests: ttlmap.New[string, *memoryRequest](), watchers: make(map[string]map[chan struct{}]struct{})}
	m.requests.OnRemove(func(_ string, r *memoryRequest) { m.bytes -= r.size() })
	return m
}

func (r *memoryRequest) size() int { return requestOverhead + beyondBrief(r.response) }

func beyondBrief(response []byte) int { return max(0, len(response)-briefResponse) }

func (m *MemoryStore) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	return nil
}

// Begin implements Store.
func (m *MemoryStore) Begin(ctx context.Context, key string, b Begin) (State, error) {
	if err := m.begin(ctx); err != nil {
		return State{}, err
	}
	defer m.mu.Unlock()
	now := time.Now()
	r, _, ok := m.requests.Get(key)
	switch {
	case !ok:
		if m.bytes >= fullMemoryBytes {
			m.requests.Sweep()
		}
		if m.bytes >= fullMemoryBytes {
			return State{}, errFull
		}
		m.requests.Delete(key) // one whose time is over, and whose bytes count
		r = &memoryRequest{fingerprint: b.Fingerprint}
		m.bytes += r.size()
	case r.fingerprint != b.Fingerprint:
		return State{Phase: Mismatched}, nil
	case r.finished:
		return State{Phase: Finished, Response: bytes.Clone(r.response)}, nil
	case r.owner == b.Owner:
		r.attempt-- // it is the second arrival
	case r.owner != "" && now.Before(r.leaseEnds):
		return State{Phase: Running, Remaining: r.leaseEnds.Sub(now)}, nil
	}
	r.owner, r.leaseEnds = b.Owner, now.Add(b.Lease)
	r.attempt++
	m.requests.Set(key, r, b.TTL)
	return State{Phase: Started, Attempt: r.attempt}, nil
}

// owned returns the request if owner runs it.
func (m *MemoryStore) owned(key, owner string) (r *memoryRequest, ok bool) {
	r, _, ok = m.requests.Get(key)
	return r, ok && r.owner == owner
}

// Extend implements Store.
func (m *MemoryStore) Extend(ctx context.Context, key, owner string, lease time.Duration) (bool, error) {
	if err := m.begin(ctx); err != nil {
		return false, err
	}
	defer m.mu.Unlock()
	r, left, ok := m.requests.Get(key)
	if !ok || r.owner != owner || r.finished {
		return false, nil
	}
	r.leaseEnds = time.Now().Add(lease)
	if left < lease {
		m.requests.Set(key, r, lease)
	}
	return true, nil
}

// Finish implements Store.
func (m *MemoryStore) Finish(ctx context.Context, key, owner string, response []byte, ttl time.Duration) (bool, error) {
	if err := m.begin(ctx); err != nil {
		return false, err
	}
	defer m.mu.Unlock()
	more := beyondBrief(response)
	if m.bytes+more > maxMemoryBytes {
		m.requests.Sweep()
	}
	r, ok := m.owned(key, owner)
	if !ok || r.finished {
		return ok, nil
	}
	if more > 0 && m.bytes+more > maxMemoryBytes {
		return false, errFull
	}
	m.bytes -= r.size()
	r.finished, r.response = true, bytes.Clone(response)
	m.bytes += r.size()
	m.requests.Set(key, r, ttl)
	m.wake(key)
	return true, nil
}

// Abandon implements Store.
func (m *MemoryStore) Abandon(ctx context.Context, key, owner string) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if r, ok := m.owned(key, owner); ok && !r.finished {
		r.owner = ""
		m.wake(key)
	}
	return nil
}

// Watch implements Store.
func (m *MemoryStore) Watch(ctx context.Context, key string) (<-chan struct{}, func(), error) {
	if err := m.begin(ctx); err != nil {
		return nil, nil, err
	}
	defer m.mu.Unlock()
	woken := make(chan struct{}, 1)
	if m.watchers[key] == nil {
		m.watchers[key] = make(map[chan struct{}]struct{})
	}
	m.watchers[key][woken] = struct{}{}
	return woken, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers[key], woken)
		if len(m.watchers[key]) == 0 {
			delete(m.watchers, key)
		}
	}, nil
}

func (m *MemoryStore) wake(key string) {
	for woken := range m.watchers[key] {
		select {
		case woken <- struct{}{}:
		default:
		}
	}
}
