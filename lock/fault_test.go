package lock_test

import (
	"context"
	"errors"
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
	try     func(context.Context, lock.Request) (lock.Grant, error)
	extend  func(ctx context.Context, name, owner string, ttl time.Duration) (bool, error)
	release func(ctx context.Context, name, owner string) (bool, error)
	watch   func(ctx context.Context, name string) (<-chan struct{}, func(), error)
}

func (f *faulty) TryAcquire(ctx context.Context, req lock.Request) (lock.Grant, error) {
	if f.try != nil {
		return f.try(ctx, req)
	}
	return f.Store.TryAcquire(ctx, req)
}

func (f *faulty) Extend(ctx context.Context, name, owner string, ttl time.Duration) (bool, error) {
	if f.extend != nil {
		return f.extend(ctx, name, owner, ttl)
	}
	return f.Store.Extend(ctx, name, owner, ttl)
}

func (f *faulty) Release(ctx context.Context, name, owner string) (bool, error) {
	if f.release != nil {
		return f.release(ctx, name, owner)
	}
	return f.Store.Release(ctx, name, owner)
}

func (f *faulty) Watch(ctx context.Context, name string) (<-chan struct{}, func(), error) {
	if f.watch != nil {
		return f.watch(ctx, name)
	}
	return f.Store.Watch(ctx, name)
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
