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

func TestReadersShareAndAWriterExcludes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		writers := newLocker(t, lock.NewMemoryStore())
		readers := writers.Shared()
		var mu sync.Mutex
		reading, most, writing := 0, 0, 0
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				assert.NoError(t, readers.Do(t.Context(), "n", time.Second, func(context.Context, uint64) error {
					mu.Lock()
					reading++
					most = max(most, reading)
					assert.Zero(t, writing, "somebody writes while others read")
					mu.Unlock()
					time.Sleep(3 * time.Second)
					mu.Lock()
					reading--
					mu.Unlock()
					return nil
				}))
			})
			wg.Go(func() {
				assert.NoError(t, writers.Do(t.Context(), "n", time.Second, func(context.Context, uint64) error {
					mu.Lock()
					writing++
					assert.Equal(t, 1, writing)
					assert.Zero(t, reading, "somebody reads while another writes")
					mu.Unlock()
					time.Sleep(time.Millisecond)
					mu.Lock()
					writing--
					mu.Unlock()
					return nil
				}))
			})
		}
		wg.Wait()
		assert.Greater(t, most, 1, "readers come together")
	})
}

// Readers who come all the time would keep a writer out for ever if it had to
// wait until nobody reads.
func TestReadersDoNotStarveAWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		writers := newLocker(t, lock.NewMemoryStore())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 200 * time.Millisecond) // some always overlap
				for ctx.Err() == nil {
					_ = writers.Shared().Do(ctx, "n", time.Minute, func(context.Context, uint64) error {
						time.Sleep(time.Second)
						return nil
					})
				}
			})
		}
		time.Sleep(10 * time.Second)
		began := time.Now()
		lease, err := writers.Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		assert.LessOrEqual(t, time.Since(began), time.Second)
		cancel()
		require.NoError(t, lease.Release(t.Context()))
		wg.Wait()
	})
}

func TestASemaphoreGivesOutNPermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := lock.NewMemoryStore()
		lockers := []*lock.Locker{newLocker(t, store).Semaphore(3), newLocker(t, store).Semaphore(3).Fair()}
		var mu sync.Mutex
		inside, most := 0, 0
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				assert.NoError(t, lockers[i%2].Do(t.Context(), "n", time.Second, func(context.Context, uint64) error {
					mu.Lock()
					inside++
					most = max(most, inside)
					mu.Unlock()
					time.Sleep(10 * time.Second)
					mu.Lock()
					inside--
					mu.Unlock()
					return nil
				}))
			})
		}
		wg.Wait()
		assert.Equal(t, 3, most, "never more, and all of them in use")
		assert.Less(t, time.Since(began), 205*time.Second, "60 times 10 s, 3 at a time")
	})
}

func TestAPermitOfTheDeadIsFreeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := lock.NewMemoryStore()
		locker := newLocker(t, store).Semaphore(2)
		for _, owner := range []string{"dead", "dead too"} {
			_, err := store.TryAcquire(t.Context(), lock.Request{Name: "n", Owner: owner, TTL: 5 * time.Second, Shared: true, Limit: 2})
			require.NoError(t, err)
		}
		began := time.Now()
		lease, err := locker.Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		assert.InDelta(t, 5*time.Second, time.Since(began), float64(20*time.Millisecond))
		require.NoError(t, lease.Release(t.Context()))
	})
}

func TestASemaphoreNeedsAPermit(t *testing.T) {
	assert.Panics(t, func() { newLocker(t, lock.NewMemoryStore()).Semaphore(0) })
}

// Each comes a millisecond after the one before, in any of three processes.
func TestFairServesInTheOrderOfComing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := lock.NewMemoryStore()
		lockers := []*lock.Locker{newLocker(t, store).Fair(), newLocker(t, store).Fair(), newLocker(t, store).Fair()}
		holder, err := lockers[0].Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		var order []int // guarded by the lease
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				assert.NoError(t, lockers[i%3].Do(t.Context(), "n", time.Minute, func(context.Context, uint64) error {
					order = append(order, i)
					time.Sleep(time.Duration(i%5) * 700 * time.Millisecond)
					return nil
				}))
			})
		}
		time.Sleep(5 * time.Second)
		_, err = lockers[1].TryAcquire(t.Context(), "n", time.Minute)
		require.ErrorIs(t, err, lock.ErrNotAcquired)
		require.NoError(t, holder.Release(t.Context()))
		wg.Wait()
		require.Len(t, order, 50)
		assert.IsIncreasing(t, order)
	})
}

func TestADeadWaiterDelaysTheQueueByTwoSecondsAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := lock.NewMemoryStore()
		locker := newLocker(t, store).Fair()
		holder, err := locker.Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		// These die as they wait, all ahead of one who lives.
		dead := make(chan struct{})
		for range 3 {
			go func() {
				s := &faulty{Store: store}
				s.release = func(context.Context, lock.Request) (bool, error) { return false, errDown }
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				_, err := newLocker(t, s).Fair().Acquire(ctx, "n", time.Minute)
				assert.Error(t, err)
				dead <- struct{}{}
			}()
		}
		time.Sleep(time.Second)
		got := make(chan time.Time)
		go func() {
			lease, err := locker.Acquire(t.Context(), "n", time.Minute)
			assert.NoError(t, err)
			at := time.Now()
			assert.NoError(t, lease.Release(t.Context()))
			got <- at
		}()
		for range 3 {
			<-dead
		}
		released := time.Now()
		require.NoError(t, holder.Release(t.Context()))
		assert.LessOrEqual(t, (<-got).Sub(released), 2*time.Second)
		time.Sleep(time.Minute) // until nobody tries to release for the dead any more
	})
}
