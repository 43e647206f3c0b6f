package lock_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/lock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type doer func(ctx context.Context, name string, ttl time.Duration, fn func(ctx context.Context, token uint64) error) error

// eachDo runs check for Do and for TryDo, which differ in waiting only.
func eachDo(t *testing.T, check func(t *testing.T, store *faulty, locker *lock.Locker, do doer)) {
	for name, method := range map[string]func(*lock.Locker) doer{
		"Do":    func(l *lock.Locker) doer { return l.Do },
		"TryDo": func(l *lock.Locker) doer { return l.TryDo },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, locker := newFaulty(t)
				check(t, store, locker, method(locker))
			})
		})
	}
}

// free fails the test if somebody holds the lease.
func free(t *testing.T, locker *lock.Locker) {
	t.Helper()
	lease, err := locker.TryAcquire(t.Context(), "n", time.Minute)
	require.NoError(t, err)
	require.NoError(t, lease.Release(t.Context()))
}

func TestDoRunsUnderTheLease(t *testing.T) {
	eachDo(t, func(t *testing.T, _ *faulty, locker *lock.Locker, do doer) {
		var inner context.Context
		err := do(t.Context(), "n", time.Second, func(ctx context.Context, token uint64) error {
			inner = ctx
			assert.NotZero(t, token)
			time.Sleep(10 * time.Second)
			assert.NoError(t, ctx.Err())
			_, err := locker.TryAcquire(ctx, "n", time.Second)
			assert.ErrorIs(t, err, lock.ErrNotAcquired)
			return errDown
		})
		require.Equal(t, errDown, err)
		require.Error(t, inner.Err(), "the context must not be used after fn")
		free(t, locker)
	})
}

func TestDoNeedsAFunction(t *testing.T) {
	eachDo(t, func(t *testing.T, _ *faulty, locker *lock.Locker, do doer) {
		require.ErrorContains(t, do(t.Context(), "n", time.Second, nil), "function to run under the lease is nil")
		_, err := locker.TryAcquire(t.Context(), "n", time.Second)
		require.NoError(t, err, "nobody has the lease")
	})
}

func TestDoSaysThatTheLeaseWasLost(t *testing.T) {
	eachDo(t, func(t *testing.T, store *faulty, locker *lock.Locker, do doer) {
		store.extend = func(context.Context, lock.Request) (bool, error) { return false, errDown }
		err := do(t.Context(), "n", time.Second, func(ctx context.Context, _ uint64) error {
			<-ctx.Done()
			assert.ErrorIs(t, context.Cause(ctx), lock.ErrLost)
			return ctx.Err()
		})
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, lock.ErrLost)
		synctest.Wait()
		free(t, locker)

		err = do(t.Context(), "n", time.Second, func(context.Context, uint64) error {
			time.Sleep(time.Minute) // heedless of its context
			return nil
		})
		require.ErrorIs(t, err, lock.ErrLost)
	})
}

func TestDoReleasesWhateverEndsFn(t *testing.T) {
	eachDo(t, func(t *testing.T, _ *faulty, locker *lock.Locker, do doer) {
		assert.PanicsWithValue(t, "boom", func() {
			_ = do(t.Context(), "n", time.Minute, func(context.Context, uint64) error { panic("boom") })
		})
		free(t, locker)

		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_ = do(t.Context(), "n", time.Minute, func(context.Context, uint64) error { runtime.Goexit(); return nil })
		}()
		<-gone
		free(t, locker)
	})
}

func TestDoKeepsTheLeaseUntilFnReturns(t *testing.T) {
	eachDo(t, func(t *testing.T, _ *faulty, locker *lock.Locker, do doer) {
		errWhy := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		err := do(ctx, "n", time.Second, func(ctx context.Context, _ uint64) error {
			cancel(errWhy)
			<-ctx.Done()
			assert.Equal(t, errWhy, context.Cause(ctx))
			time.Sleep(time.Minute) // clean up
			_, err := locker.TryAcquire(t.Context(), "n", time.Second)
			assert.ErrorIs(t, err, lock.ErrNotAcquired)
			return nil
		})
		require.NoError(t, err)
		free(t, locker)
	})
}

func TestDoDoesNotWaitForAStoreThatHangs(t *testing.T) {
	eachDo(t, func(t *testing.T, store *faulty, _ *lock.Locker, do doer) {
		store.release = func(ctx context.Context, _ lock.Request) (bool, error) { <-ctx.Done(); return false, ctx.Err() }
		began := time.Now()
		err := do(t.Context(), "n", time.Hour, func(context.Context, uint64) error { return nil })
		require.NoError(t, err, "the work was done under the lease, which ends by itself")
		assert.Equal(t, time.Second, time.Since(began))
		time.Sleep(time.Minute) // until it is not tried in the background any more
	})
}

// A store that is away for a moment, just when the work is done, must not keep
// others out for the whole TTL.
func TestDoReleasesAfterAnOutage(t *testing.T) {
	hangs := func(ctx context.Context, _ lock.Request) (bool, error) { <-ctx.Done(); return false, ctx.Err() }
	for name, fails := range map[string]func(context.Context, lock.Request) (bool, error){
		"hangs": hangs,
		"fails": func(context.Context, lock.Request) (bool, error) { return false, errDown },
	} {
		t.Run(name, func(t *testing.T) {
			eachDo(t, func(t *testing.T, store *faulty, locker *lock.Locker, do doer) {
				store.release = fails
				time.AfterFunc(3*time.Second, func() { store.change(func(s *steps) { s.release = nil }) })
				began := time.Now()
				require.NoError(t, do(t.Context(), "n", time.Hour, func(context.Context, uint64) error { return nil }))
				lease, err := locker.Acquire(t.Context(), "n", time.Minute)
				require.NoError(t, err)
				assert.LessOrEqual(t, time.Since(began), 5*time.Second, "soon after the store is back")
				require.NoError(t, lease.Release(t.Context()))
			})
		})
	}
}
