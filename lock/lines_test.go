package lock_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/lock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// counting returns a store that counts what it is asked.
func counting(t *testing.T) (*faulty, *lock.Locker, *atomic.Int64) {
	t.Helper()
	store, locker := newFaulty(t)
	asked := new(atomic.Int64)
	store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
		asked.Add(1)
		return store.Store.TryAcquire(ctx, req)
	}
	store.release = func(ctx context.Context, req lock.Request) (bool, error) {
		asked.Add(1)
		return store.Store.Release(ctx, req)
	}
	return store, locker, asked
}

func TestALeaseIsHandedOnWithinTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, locker, asked := counting(t)
		last := uint64(0) // guarded by the lease alone: the race detector looks on
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				assert.NoError(t, locker.Do(t.Context(), "n", 10*time.Second, func(_ context.Context, token uint64) error {
					assert.Greater(t, token, last)
					last = token
					time.Sleep(time.Millisecond)
					return nil
				}))
			})
		}
		wg.Wait()
		assert.LessOrEqual(t, asked.Load(), int64(22), "commands for 200 times: one to acquire and one to release every 25 ms")
	})
}

// Others wait in the store: a lease does not stay in one process for long.
func TestALeaseIsNotHandedOnForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := lock.NewMemoryStore()
		here, there := newLocker(t, store), newLocker(t, store)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for ctx.Err() == nil {
					_ = here.Do(ctx, "n", time.Minute, func(context.Context, uint64) error {
						time.Sleep(time.Millisecond)
						return nil
					})
				}
			})
		}
		for range 20 {
			began := time.Now()
			lease, err := there.Acquire(t.Context(), "n", time.Minute)
			require.NoError(t, err)
			assert.LessOrEqual(t, time.Since(began), 30*time.Millisecond)
			require.NoError(t, lease.Release(t.Context()))
			time.Sleep(3 * time.Millisecond)
		}
		cancel()
		wg.Wait()
	})
}

// A lease that was handed on must not be used up faster than the store's clock
// makes tokens: the store may lose its data at any time.
func TestTokensAreNotHandedOnFasterThanTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker, asked := counting(t)
		lease, err := locker.Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		waiting := make(chan *lock.Lease)
		go func() {
			next, err := locker.Acquire(t.Context(), "n", time.Minute)
			assert.NoError(t, err)
			waiting <- next
		}()
		synctest.Wait()
		store.Store = lock.NewMemoryStore() // it has lost everything
		_ = lease.Release(t.Context())      // in no time: the clock stands still
		next := <-waiting
		assert.EqualValues(t, 3, asked.Load(), "acquire, release, and acquire: nothing was handed on")
		require.NoError(t, next.Release(t.Context()))
	})
}

func TestAWaiterInLineGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, locker, asked := counting(t)
		lease, err := locker.Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := locker.Acquire(ctx, "n", time.Minute)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.ErrorIs(t, err, lock.ErrNotAcquired)
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, asked.Load(), "the process has the lease: nobody needs to ask for it")
		require.NoError(t, lease.Release(t.Context()))
		free(t, locker)
	})
}

// Whoever leaves the line as its turn comes must hand it on.
func TestALineGoesOnWhoeverGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := lock.NewMemoryStore()
		lockers := []*lock.Locker{newLocker(t, store), newLocker(t, store), newLocker(t, store).Semaphore(2), newLocker(t, store).Semaphore(2)}
		var got, gaveUp atomic.Int64
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%40)*time.Millisecond)
				defer cancel()
				lease, err := lockers[i%4].Acquire(ctx, "n", 20*time.Millisecond)
				if err != nil {
					gaveUp.Add(1)
					return
				}
				got.Add(1)
				time.Sleep(time.Duration(i%3) * time.Millisecond)
				if i%7 != 0 { // or never
					assert.NoError(t, lease.Release(t.Context()))
				} else {
					time.AfterFunc(time.Second, func() { _ = lease.Release(t.Context()) })
				}
			})
		}
		wg.Wait()
		assert.NotZero(t, got.Load())
		assert.NotZero(t, gaveUp.Load())
		time.Sleep(2 * time.Second)
		for _, locker := range lockers {
			lease, err := locker.Acquire(t.Context(), "n", 20*time.Millisecond)
			require.NoError(t, err)
			require.NoError(t, lease.Release(t.Context()))
		}
	})
}

// Each of them would ask the same store in turn, and wait for it.
func TestAFaultOfTheStoreEndsTheWholeLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		store.try = func(context.Context, lock.Request) (lock.Grant, error) {
			time.Sleep(time.Second)
			return lock.Grant{}, errDown
		}
		began := time.Now()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, err := locker.Acquire(t.Context(), "n", time.Minute)
				assert.ErrorIs(t, err, errDown)
				assert.NotErrorIs(t, err, lock.ErrNotAcquired)
			})
		}
		wg.Wait()
		assert.Equal(t, time.Second, time.Since(began))
		store.try = nil
		free(t, locker)
	})
}

func TestALostLeaseLetsTheLineGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		store.extend = func(context.Context, lock.Request) (bool, error) { return false, errDown }
		lease, err := locker.Acquire(t.Context(), "n", time.Second)
		require.NoError(t, err)
		began := time.Now()
		next, err := locker.Acquire(t.Context(), "n", time.Second) // the holder never releases
		require.NoError(t, err)
		assert.LessOrEqual(t, time.Since(began), 1050*time.Millisecond)
		require.ErrorIs(t, context.Cause(lease.Context()), lock.ErrLost)
		require.NoError(t, next.Release(t.Context()))
		require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLost)
	})
}

// A lease that was handed on is a lease like any other.
func TestWhatBecomesOfALeaseThatWasHandedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type keyType struct{}
		store, locker, _ := counting(t)
		first, err := locker.Acquire(t.Context(), "n", time.Second)
		require.NoError(t, err)
		handed := make(chan *lock.Lease)
		go func() {
			second, err := locker.Acquire(context.WithValue(t.Context(), keyType{}, "second's"), "n", time.Second)
			assert.NoError(t, err)
			handed <- second
		}()
		time.Sleep(time.Millisecond)
		require.NoError(t, first.Release(t.Context()))
		second := <-handed
		assert.Equal(t, first.Token()+1, second.Token())
		assert.Equal(t, context.Canceled, context.Cause(first.Context()))
		assert.Equal(t, "second's", second.Context().Value(keyType{}))
		require.NoError(t, first.Release(t.Context()), "once more says the same, and takes nothing from the second")

		renewals := make(chan any, 100)
		store.change(func(s *steps) {
			s.extend = func(ctx context.Context, req lock.Request) (bool, error) {
				renewals <- ctx.Value(keyType{})
				return store.Store.Extend(ctx, req)
			}
		})
		time.Sleep(3 * time.Second)
		require.NoError(t, second.Context().Err(), "it is renewed")
		require.Equal(t, "second's", <-renewals)

		store.change(func(s *steps) {
			s.extend = func(context.Context, lock.Request) (bool, error) { return false, errDown }
		})
		<-second.Context().Done()
		require.ErrorIs(t, context.Cause(second.Context()), lock.ErrLost)
		require.NoError(t, first.Release(t.Context()))
		require.ErrorIs(t, second.Release(t.Context()), lock.ErrLost)
	})
}
