package lock_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/lock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAReleaseLetsAWaiterInAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := lock.NewMemoryStore()
		lease, err := newLocker(t, store).Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		time.AfterFunc(time.Second, func() { assert.NoError(t, lease.Release(t.Context())) })
		began := time.Now()
		next, err := newLocker(t, store).Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		assert.Equal(t, time.Second, time.Since(began))
		assert.Greater(t, next.Token(), lease.Token())
		require.NoError(t, next.Release(t.Context()))
	})
}

func TestTheEndOfADeadHoldersLeaseLetsAWaiterIn(t *testing.T) {
	for _, ttl := range []time.Duration{20 * time.Millisecond, 1500 * time.Millisecond, 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			store := lock.NewMemoryStore()
			locker := newLocker(t, store)
			occupy(t, store, ttl)
			began := time.Now()
			lease, err := locker.Acquire(t.Context(), "n", time.Minute)
			require.NoError(t, err)
			assert.LessOrEqual(t, time.Since(began), ttl+10*time.Millisecond)
			require.NoError(t, lease.Release(t.Context()))
		})
	}
}

// A release between the first try and the watch wakes nobody. The waiter must
// ask again once it watches.
func TestAReleaseBetweenAskingAndWatchingIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		occupy(t, store, time.Minute)
		store.watch = func(ctx context.Context, name, owner string) (<-chan struct{}, func(), error) {
			_, err := store.Store.Release(ctx, lock.Request{Name: name, Owner: "the dead"})
			require.NoError(t, err)
			return store.Store.Watch(ctx, name, owner)
		}
		began := time.Now()
		lease, err := locker.Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		assert.Zero(t, time.Since(began))
		require.NoError(t, lease.Release(t.Context()))
	})
}

func TestWaitingWithoutPushes(t *testing.T) {
	watches := map[string]func(context.Context, string, string) (<-chan struct{}, func(), error){
		"the watch fails": func(context.Context, string, string) (<-chan struct{}, func(), error) { return nil, nil, errDown },
		"the watch hangs": func(ctx context.Context, _, _ string) (<-chan struct{}, func(), error) {
			<-ctx.Done()
			return nil, nil, ctx.Err()
		},
		"the watch never says so": func(context.Context, string, string) (<-chan struct{}, func(), error) {
			return make(chan struct{}), func() {}, nil
		},
	}
	for name, watch := range watches {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, locker := newFaulty(t)
				store.watch = watch
				lease, err := newLocker(t, store.Store).Acquire(t.Context(), "n", time.Minute)
				require.NoError(t, err)
				const hold = 17 * time.Second
				time.AfterFunc(hold, func() { assert.NoError(t, lease.Release(t.Context())) })
				began, tries := time.Now(), 0
				store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
					tries++
					return store.Store.TryAcquire(ctx, req)
				}
				next, err := locker.Acquire(t.Context(), "n", time.Minute)
				require.NoError(t, err)
				assert.LessOrEqual(t, time.Since(began), hold+2*time.Second)
				assert.LessOrEqual(t, tries, 2*int(hold/time.Second), "it must not poll faster because of that")
				require.NoError(t, next.Release(t.Context()))
			})
		})
	}
}

func TestAWaiterDoesNotPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		lease, err := newLocker(t, store.Store).Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		tries := 0
		store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
			tries++
			return store.Store.TryAcquire(ctx, req)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = locker.Acquire(ctx, "n", time.Minute)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.LessOrEqual(t, tries, 70, "one try before watching, one after, one every 0.9 s")
		require.NoError(t, lease.Release(t.Context()))
	})
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		occupy(t, store, time.Hour)
		acquire := func(ctx context.Context) error {
			_, err := locker.Acquire(ctx, "n", time.Minute)
			return err
		}
		do := func(ctx context.Context) error {
			return locker.Do(ctx, "n", time.Minute, func(context.Context, uint64) error { return nil })
		}
		for _, wait := range []func(context.Context) error{acquire, do} {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			began := time.Now()
			err := wait(ctx)
			cancel()
			assert.Equal(t, 200*time.Millisecond, time.Since(began))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, lock.ErrNotAcquired)

			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			err = wait(ctx)
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorIs(t, err, lock.ErrNotAcquired)
			require.ErrorIs(t, wait(ctx), context.Canceled, "a context that has ended before")
		}
		// The same if the context ends within a step of the store.
		store.try = func(ctx context.Context, _ lock.Request) (lock.Grant, error) {
			<-ctx.Done()
			return lock.Grant{}, errDown
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		err := acquire(ctx)
		for _, want := range []error{context.DeadlineExceeded, lock.ErrNotAcquired, errDown} {
			require.ErrorIs(t, err, want)
		}
	})
}

func TestManyTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := lock.NewMemoryStore()
		lockers := []*lock.Locker{newLocker(t, store), newLocker(t, store)}
		inside, turns, last := 0, 0, uint64(0) // guarded by the lease alone: the race detector looks on
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				for range 4 {
					err := lockers[i%2].Do(t.Context(), "n", time.Second, func(_ context.Context, token uint64) error {
						inside++
						assert.Equal(t, 1, inside)
						assert.Greater(t, token, last)
						last = token
						time.Sleep(time.Millisecond)
						inside--
						turns++
						return nil
					})
					assert.NoError(t, err)
				}
			})
		}
		wg.Wait()
		assert.Equal(t, 200, turns)
	})
}
