package lock_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/lock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNewReportsAllFaultsAtOnce(t *testing.T) {
	for _, drift := range []float64{-0.1, 0.5, 2, math.NaN(), math.Inf(1)} {
		_, err := lock.New(nil, &lock.Options{DriftFactor: drift})
		require.ErrorContains(t, err, "store")
		require.ErrorContains(t, err, "DriftFactor")
	}
	_, err := lock.New((*lock.MemoryStore)(nil), nil)
	require.ErrorContains(t, err, "New needs a store")
	_, err = lock.New(lock.NewMemoryStore(), &lock.Options{DriftFactor: 0.1})
	require.NoError(t, err)
}

func TestBadArguments(t *testing.T) {
	tests := []struct {
		name, lock string
		ttl        time.Duration
		want       []string
	}{
		{"no name", "", time.Second, []string{"name is empty"}},
		{"a name that is too long", strings.Repeat("n", 513), time.Second, []string{"513 bytes"}},
		{"a TTL that is too short", "n", 10*time.Millisecond - 1, []string{"TTL"}},
		{"no TTL", "n", 0, []string{"TTL"}},
		{"a TTL for ever", "n", math.MaxInt64, []string{"TTL", "100 years"}},
		{"a negative TTL", "n", -time.Second, []string{"TTL"}},
		{"everything", strings.Repeat("n", 10_000), 0, []string{"10000 bytes", "TTL"}},
	}
	locker := newLocker(t, lock.NewMemoryStore())
	never := func(context.Context, uint64) error { t.Error("fn was called"); return nil }
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, tryErr := locker.TryAcquire(t.Context(), tt.lock, tt.ttl)
			_, err := locker.Acquire(t.Context(), tt.lock, tt.ttl)
			for _, err := range []error{tryErr, err, locker.Do(t.Context(), tt.lock, tt.ttl, never), locker.TryDo(t.Context(), tt.lock, tt.ttl, never)} {
				require.NotErrorIs(t, err, lock.ErrNotAcquired)
				for _, want := range tt.want {
					require.ErrorContains(t, err, want)
				}
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		lease, err := locker.TryAcquire(t.Context(), strings.Repeat("\x00", 512), 10*time.Millisecond)
		require.NoError(t, err, "the least that is allowed")
		require.NoError(t, lease.Release(t.Context()))
	})
}

func TestAHeldLeaseIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := lock.NewMemoryStore()
		locker := newLocker(t, store)
		occupy(t, store, time.Minute)
		time.Sleep(20 * time.Second)
		_, err := locker.TryAcquire(t.Context(), "n", time.Second)
		var held *lock.HeldError
		require.ErrorAs(t, err, &held)
		require.ErrorIs(t, err, lock.ErrNotAcquired)
		assert.Equal(t, lock.HeldError{Name: "n", HeldFor: 40 * time.Second}, *held)
		assert.Equal(t, 40*time.Second, held.RetryAfter())
		assert.Contains(t, err.Error(), `"n"`)

		err = locker.TryDo(t.Context(), "n", time.Second, func(context.Context, uint64) error {
			t.Error("fn was called without the lease")
			return nil
		})
		require.ErrorIs(t, err, lock.ErrNotAcquired)
	})
}

func TestAFaultIsNotARefusal(t *testing.T) {
	store, locker := newFaulty(t)
	store.try = func(context.Context, lock.Request) (lock.Grant, error) { return lock.Grant{}, errDown }
	_, tryErr := locker.TryAcquire(t.Context(), "n", time.Second)
	_, err := locker.Acquire(t.Context(), "n", time.Second)
	for _, err := range []error{tryErr, err} {
		require.ErrorIs(t, err, errDown)
		require.NotErrorIs(t, err, lock.ErrNotAcquired)
	}
}

// After an error the store may hold a lease of which nobody knows.
func TestATryThatFailedIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
			_, err := store.Store.TryAcquire(ctx, req)
			require.NoError(t, err)
			<-ctx.Done() // the answer does not come
			return lock.Grant{}, ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := locker.TryAcquire(ctx, "n", time.Minute)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		store.try = nil
		synctest.Wait()
		_, err = locker.TryAcquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
	})
}

func TestAnAnswerThatComesTooLateIsNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
			grant, err := store.Store.TryAcquire(ctx, req)
			time.Sleep(reliable(req.TTL)) // heedless of its context
			return grant, err
		}
		_, err := locker.TryAcquire(t.Context(), "n", time.Second)
		require.ErrorContains(t, err, "longer TTL")
		synctest.Wait()
		store.try = nil
		_, err = locker.TryAcquire(t.Context(), "n", time.Second)
		require.NoError(t, err, "what came too late is released")
	})
}

// With the store hung, tries that fail must not pile up goroutines.
func TestReleasesInTheBackgroundAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		store.try = func(context.Context, lock.Request) (lock.Grant, error) { return lock.Grant{}, errDown }
		var hung, heard atomic.Int32
		store.release = func(ctx context.Context, _ lock.Request) (bool, error) {
			hung.Add(1)
			<-ctx.Done()
			return false, ctx.Err()
		}
		for range 10_000 {
			_, err := locker.TryAcquire(t.Context(), "n", time.Minute)
			require.ErrorIs(t, err, errDown)
		}
		synctest.Wait()
		assert.EqualValues(t, 64, hung.Load(), "at a time")
		store.change(func(s *steps) {
			s.release = func(context.Context, lock.Request) (bool, error) {
				heard.Add(1)
				return false, nil
			}
		})
		time.Sleep(3 * time.Second)
		assert.EqualValues(t, 4096, heard.Load(), "the store is well again, and hears of all that were kept")
		time.Sleep(time.Minute)
		assert.EqualValues(t, 4096, heard.Load())
	})
}

// A store that hangs for longer than one release may take, and comes back.
func TestAReleaseInTheBackgroundIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		back := time.Now().Add(5 * time.Second)
		store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
			_, err := store.Store.TryAcquire(ctx, req)
			assert.NoError(t, err)
			return lock.Grant{}, errDown // its answer is lost
		}
		store.release = func(ctx context.Context, req lock.Request) (bool, error) {
			if time.Now().Before(back) {
				<-ctx.Done()
				return false, ctx.Err()
			}
			return store.Store.Release(ctx, req)
		}
		_, err := locker.TryAcquire(t.Context(), "n", time.Hour)
		require.ErrorIs(t, err, errDown)
		time.Sleep(8 * time.Second)
		free(t, newLocker(t, store.Store))
	})
}

// A store that refuses is in trouble enough. The release is sent, as an earlier copy
// of the request may have been granted, but not again and again.
func TestARefusedAcquireIsReleasedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, locker := newFaulty(t)
		refused := fmt.Errorf("full: %w", lock.ErrRefused)
		store.try = func(context.Context, lock.Request) (lock.Grant, error) { return lock.Grant{}, refused }
		var releases atomic.Int32
		store.release = func(context.Context, lock.Request) (bool, error) {
			releases.Add(1)
			return false, refused
		}
		_, err := locker.TryAcquire(t.Context(), "n", time.Hour)
		require.ErrorIs(t, err, lock.ErrRefused)
		time.Sleep(time.Minute)
		assert.EqualValues(t, 1, releases.Load())
	})
}

// Whoever gives up together with many others leaves nothing behind either.
func TestManyWhoGiveUpTogetherLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := lock.NewMemoryStore()
		locker := newLocker(t, store)
		holder, err := locker.Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() {
				_, err := locker.Fair().Acquire(ctx, "n", time.Minute)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			})
		}
		wg.Wait()
		require.NoError(t, holder.Release(t.Context()))
		free(t, locker)
	})
}

// Unused tokens of a block go back, or tokens would run ahead of the clock, and go
// back themselves when the process is restarted.
func TestTokensOfMemoryStoreDoNotRunAheadOfTheClock(t *testing.T) {
	locker := newLocker(t, lock.NewMemoryStore())
	var last uint64
	for range 20_000 {
		require.NoError(t, locker.Do(t.Context(), "n", time.Minute, func(_ context.Context, token uint64) error {
			assert.Greater(t, token, last)
			last = token
			return nil
		}))
	}
	assert.LessOrEqual(t, last, uint64(time.Now().Add(50*time.Millisecond).UnixMicro()))
}
