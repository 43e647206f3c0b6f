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

func TestALeaseIsKeptUntilItIsReleased(t *testing.T) {
	for _, ttl := range []time.Duration{10 * time.Millisecond, time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			locker := newLocker(t, lock.NewMemoryStore())
			lease, err := locker.TryAcquire(t.Context(), "n", ttl)
			require.NoError(t, err)
			for range 20 {
				time.Sleep(ttl)
				require.NoError(t, lease.Context().Err())
				_, err := locker.TryAcquire(t.Context(), "n", ttl)
				require.ErrorIs(t, err, lock.ErrNotAcquired)
			}
			require.NoError(t, lease.Release(t.Context()))
			assert.Equal(t, context.Canceled, context.Cause(lease.Context()))

			next, err := locker.TryAcquire(t.Context(), "n", ttl)
			require.NoError(t, err)
			assert.Greater(t, next.Token(), lease.Token())
			require.NoError(t, next.Release(t.Context()))
		})
	}
}

func TestTheContextEndsAtTheConfirmedDeadlineIfTheStoreNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		hung := make(chan struct{})
		var confirmed time.Time // when the last renewal that was answered was asked for
		renewals := 0
		store.extend = func(ctx context.Context, req lock.Request) (bool, error) {
			if renewals++; renewals > 3 {
				<-hung // not even when its context ends
				return true, nil
			}
			confirmed = time.Now()
			time.Sleep(100 * time.Millisecond) // the answer is slow, and does not count from its coming
			return store.Store.Extend(ctx, req)
		}
		lease, err := locker.TryAcquire(t.Context(), "n", time.Second)
		require.NoError(t, err)
		<-lease.Context().Done()
		synctest.Wait() // the race detector asks for it
		assert.Equal(t, reliable(time.Second), time.Since(confirmed))
		require.ErrorIs(t, context.Cause(lease.Context()), lock.ErrLost)
		close(hung) // the late answer brings nothing back
		synctest.Wait()
		assert.Equal(t, 4, renewals)
		require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLost)
		require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLost)
	})
}

func TestARenewalThatIsNotAnsweredLeavesTimeForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		renewals := 0
		store.extend = func(ctx context.Context, req lock.Request) (bool, error) {
			if renewals++; renewals%2 == 1 {
				<-ctx.Done() // lost on the way
				return false, ctx.Err()
			}
			return store.Store.Extend(ctx, req)
		}
		lease, err := locker.TryAcquire(t.Context(), "n", time.Second)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.NoError(t, lease.Context().Err())
		require.NoError(t, lease.Release(t.Context()))
	})
}

func TestTransientErrorsAreRetriedUntilTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		asked := 0
		healthy := time.Now().Add(900 * time.Millisecond)
		store.extend = func(ctx context.Context, req lock.Request) (bool, error) {
			if asked++; time.Now().Before(healthy) {
				return false, errDown
			}
			return store.Store.Extend(ctx, req)
		}
		lease, err := locker.TryAcquire(t.Context(), "n", time.Second)
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		require.NoError(t, lease.Context().Err(), "a store that is back before the deadline must not cost the lease")
		require.NoError(t, lease.Release(t.Context()))
		synctest.Wait()
		assert.Less(t, asked, 100, "renewals in 10 s of a lease of 1 s")
	})
}

func TestALostLeaseIsNeverTakenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		var owner string
		store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
			owner = req.Owner
			return store.Store.TryAcquire(ctx, req)
		}
		lease, err := locker.TryAcquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		_, err = store.Store.Release(t.Context(), lock.Request{Name: "n", Owner: owner}) // as FLUSHALL does, or a failover
		require.NoError(t, err)

		lost := time.Now()
		<-lease.Context().Done()
		require.ErrorIs(t, context.Cause(lease.Context()), lock.ErrLost)
		assert.LessOrEqual(t, time.Since(lost), 20*time.Second, "the next renewal tells")
		require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLost)
		next, err := locker.TryAcquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		require.NoError(t, next.Release(t.Context()))
	})
}

func TestReleaseSaysWhetherTheLeaseWasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		store.extend = func(context.Context, lock.Request) (bool, error) { return false, errDown }
		lease, err := locker.TryAcquire(t.Context(), "n", time.Second)
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		occupy(t, store.Store, time.Minute)
		for range 3 {
			require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLost)
		}
		_, err = locker.TryAcquire(t.Context(), "n", time.Second)
		require.ErrorIs(t, err, lock.ErrNotAcquired, "the release of a lost lease must not end that of the next holder")
	})
}

func TestReleaseMayBeCalledAtOnceAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		releases := 0
		store.release = func(ctx context.Context, req lock.Request) (bool, error) {
			releases++
			time.Sleep(time.Millisecond)
			return store.Store.Release(ctx, req)
		}
		lease, err := locker.TryAcquire(t.Context(), "n", time.Second)
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { assert.NoError(t, lease.Release(t.Context())) })
		}
		wg.Wait()
		require.NoError(t, lease.Release(t.Context()))
		assert.Equal(t, 1, releases)
	})
}

func TestAReleaseThatFailedCanBeRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		lease, err := locker.TryAcquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		store.release = func(context.Context, lock.Request) (bool, error) { return false, errDown }
		err = lease.Release(t.Context())
		require.ErrorIs(t, err, errDown)
		require.NotErrorIs(t, err, lock.ErrLost)
		require.Error(t, lease.Context().Err(), "the context ends all the same")
		store.release = nil
		require.NoError(t, lease.Release(t.Context()))
		_, err = locker.TryAcquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
	})
}

// defer lease.Release(ctx) with the context of a request that is over is an easy
// mistake. Others should not have to wait for the TTL because of it.
func TestReleaseWithAContextThatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locker := newLocker(t, lock.NewMemoryStore())
		lease, err := locker.TryAcquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, lease.Release(ctx), context.Canceled)
		synctest.Wait()
		next, err := locker.TryAcquire(t.Context(), "n", time.Minute)
		require.NoError(t, err, "the lease is released in the background")
		require.NoError(t, next.Release(t.Context()))
	})
}

func TestReleaseDoesNotWaitForARenewalThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		store.extend = func(ctx context.Context, _ lock.Request) (bool, error) {
			<-ctx.Done()
			return false, ctx.Err()
		}
		lease, err := locker.TryAcquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		time.Sleep(25 * time.Second) // a renewal is under way
		began := time.Now()
		require.NoError(t, lease.Release(t.Context()))
		assert.Zero(t, time.Since(began))
	})
}

type ctxKey struct{}

func TestWhatTheContextOfALeaseHasFromItsMaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locker := newLocker(t, lock.NewMemoryStore())
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), ctxKey{}, "value"))
		lease, err := locker.Acquire(ctx, "n", time.Second)
		require.NoError(t, err)
		cancel()
		time.Sleep(time.Minute)
		require.NoError(t, lease.Context().Err(), "the context of Acquire bounds the call, not the lease")
		assert.Equal(t, "value", lease.Context().Value(ctxKey{}))
		require.NoError(t, lease.Release(t.Context()))
	})
}
