package ratelimit

import (
	"context"

	"github.com/herdless/herdless/internal/ttlmap"
)

var _ PermitStore = (*MemoryStore)(nil)

// permitKey names the permits of a limit of a key.
type permitKey struct{ key, name string }

// held returns the permits of a limit that have not ended.
func (m *MemoryStore) held(p PermitRequest) *ttlmap.Map[string, struct{}] {
	held := m.permits[permitKey{p.Key, p.Name}]
	if held != nil {
		held.Sweep()
	}
	return held
}

// Acquire implements PermitStore.
func (m *MemoryStore) Acquire(ctx context.Context, p PermitRequest) (PermitState, error) {
	if err := ctx.Err(); err != nil {
		return PermitState{}, err
	}
	if err := p.Validate(); err != nil {
		return PermitState{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	held := m.held(p)
	if held == nil {
		held = ttlmap.New[string, struct{}]()
	}
	if _, _, again := held.Get(p.ID); !again && held.Len() >= p.Limit {
		return PermitState{Held: held.Len()}, nil
	}
	held.Set(p.ID, struct{}{}, p.TTL)
	m.permits[permitKey{p.Key, p.Name}] = held
	m.sweepPermits()
	return PermitState{Acquired: true, Held: held.Len()}, nil
}

// sweepPermits drops the limits of a few keys whose permits have all ended without
// being released.
func (m *MemoryStore) sweepPermits() {
	looked := 0
	for key, held := range m.permits { // in an order of the runtime's choice
		if held.Sweep(); held.Len() == 0 {
			delete(m.permits, key)
		}
		if looked++; looked == 2 {
			return
		}
	}
}

// Extend implements PermitStore.
func (m *MemoryStore) Extend(ctx context.Context, p PermitRequest) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	held := m.held(p)
	if held == nil {
		return false, nil
	}
	if _, _, ok := held.Get(p.ID); !ok {
		return false, nil
	}
	held.Set(p.ID, struct{}{}, p.TTL)
	return true, nil
}

// Release implements PermitStore.
func (m *MemoryStore) Release(ctx context.Context, p PermitRequest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if held := m.held(p); held != nil {
		held.Delete(p.ID)
		if held.Len() == 0 {
			delete(m.permits, permitKey{p.Key, p.Name})
		}
	}
	return nil
}
