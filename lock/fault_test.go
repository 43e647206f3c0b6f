package lock_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/lock"
	"github.com/stretchr/testify/require"
)

var errDown = errors.New("the store is down")

// faulty is a store whose steps a test can change. A nil func means the step of
// the store beneath.
type faulty struct {
	lock.Store
	steps

	mu sync.Mutex // guards steps once others use the store
}

type steps struct {
	try     func(context.Context, lock.Request) (lock.Grant, error)
	extend  func(context.Context, lock.Request) (bool, error)
	release func(context.Context, lock.Request) (bool, error)
	watch   func(ctx context.Context, name, owner string) (<-chan struct{}, func(), error)
}

// change changes steps while others use the store.
func (f *faulty) change(to func(*steps)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	to(&f.steps)
}

// now returns what step is at present.
func now[F any](f *faulty, step *F) F {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *step
}

func (f *faulty) TryAcquire(ctx context.Context, req lock.Request) (lock.Grant, error) {
	if try := now(f, &f.try); try != nil {
		return try(ctx, req)
	}
	return f.Store.TryAcquire(ctx, req)
}

func (f *faulty) Extend(ctx context.Context, req lock.Request) (bool, error) {
	if extend := now(f, &f.extend); extend != nil {
		return extend(ctx, req)
	}
	return f.Store.Extend(ctx, req)
}

func (f *faulty) Release(ctx context.Context, req lock.Request) (bool, error) {
	if release := now(f, &f.release); release != nil {
		return release(ctx, req)
	}
	return f.Store.Release(ctx, req)
}

func (f *faulty) Watch(ctx context.Context, name, owner string) (<-chan struct{}, func(), error) {
	if watch := now(f, &f.watch); watch != nil {
		return watch(ctx, name, owner)
	}
	return f.Store.Watch(ctx, name, owner)
}

func newFaulty(t *testing.T) (*faulty, *lock.Locker) {
	t.Helper()
	f := &faulty{Store: lock.NewMemoryStore()}
	return f, newLocker(t, f)
}

func newLocker(t *testing.T, store lock.Store) *lock.Locker {
	t.Helper()
	l, err := lock.New(store, nil)
	require.NoError(t, err)
	return l
}

// reliable is what a Locker counts on of a TTL.
func reliable(ttl time.Duration) time.Duration { return ttl - ttl/100 - 2*time.Millisecond }

// occupy lets somebody hold the lease who does not renew it, as one who died.
func occupy(t *testing.T, store lock.Store, ttl time.Duration) {
	t.Helper()
	grant, err := store.TryAcquire(t.Context(), lock.Request{Name: "n", Owner: "the dead", TTL: ttl})
	require.NoError(t, err)
	require.True(t, grant.Acquired)
}
