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

// A process whose turn cost no step enters the queue again before it releases the
// lease, so that its turn is two steps still, and nobody waits for the second one.
func TestATurnThatIsGivenIsTwoSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, lockers, asked := newGiving(t, 3)
		var ahead, relayed atomic.Int64
		relay := store.relay
		store.relay = func(ctx context.Context, from, to lock.Request) (bool, lock.Grant, error) {
			relayed.Add(1)
			return relay(ctx, from, to)
		}
		try := store.try
		store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
			grant, err := try(ctx, req)
			if grant.Queued {
				ahead.Add(1)
			}
			return grant, err
		}
		const times, turns = 2500, 2500 / 25
		contend(t, lockers, times)
		assert.LessOrEqual(t, asked.Load(), int64(2*turns+20))
		assert.GreaterOrEqual(t, ahead.Load(), int64(turns-20), "a turn enters the queue before it is over")
		assert.LessOrEqual(t, relayed.Load(), int64(20), "and has nothing to ask for with the release")
		time.Sleep(time.Second)
		free(t, lockers[0])
	})
}

// A process that is alone again soon needs one step a turn, which gets the lease back.
func TestAProcessThatIsAloneAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, lockers, asked := newGiving(t, 2)
		first, err := lockers[1].Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		time.AfterFunc(50*time.Millisecond, func() { _ = first.Release(t.Context()) }) // and is gone
		const times, turns = 10000, 10000 / 26
		contend(t, lockers[:1], times)
		assert.Less(t, asked.Load(), int64(turns+turns/2))
	})
}

// Whoever gets the place of a release that failed hears of the fault at once.
func TestAFaultAfterEnteringAheadIsHeardOfAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, lockers, _ := newGiving(t, 2)
		var down atomic.Bool
		try, release := store.try, store.release
		store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
			if down.Load() {
				return lock.Grant{}, errDown
			}
			return try(ctx, req)
		}
		store.release = func(ctx context.Context, req lock.Request) (bool, error) {
			if down.Load() {
				return false, errDown
			}
			return release(ctx, req)
		}
		relay := store.relay
		store.relay = func(ctx context.Context, from, to lock.Request) (bool, lock.Grant, error) {
			if down.Load() {
				return false, lock.Grant{}, errDown
			}
			return relay(ctx, from, to)
		}
		first, err := lockers[0].Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		second, third := acquiring(t, lockers[1]), acquiring(t, lockers[1])
		failed := make(chan error, 1)
		go func() {
			_, err := lockers[1].Acquire(t.Context(), "n", time.Minute)
			failed <- err
		}()
		synctest.Wait()
		require.NoError(t, first.Release(t.Context()))
		lease := <-second
		time.Sleep(20 * time.Millisecond)
		require.NoError(t, lease.Release(t.Context()))
		lease = <-third
		time.Sleep(30 * time.Millisecond)
		down.Store(true)
		began := time.Now()
		require.ErrorIs(t, lease.Release(t.Context()), errDown)
		require.ErrorIs(t, <-failed, errDown)
		assert.Zero(t, time.Since(began))
		down.Store(false)
		time.Sleep(2 * time.Minute) // what is left to the background
	})
}

// Entering the queue ahead of a release can go wrong like any other step.
func TestEnteringAheadThatGoesWrong(t *testing.T) {
	tests := map[string]func(try func() (lock.Grant, error)) (lock.Grant, error){
		"it fails, and has not happened": func(func() (lock.Grant, error)) (lock.Grant, error) { return lock.Grant{}, errDown },
		"it fails, and has happened":     func(try func() (lock.Grant, error)) (lock.Grant, error) { _, _ = try(); return lock.Grant{}, errDown },
		"it is slow": func(try func() (lock.Grant, error)) (lock.Grant, error) {
			time.Sleep(100 * time.Millisecond)
			return try()
		},
		"its answer is slow": func(try func() (lock.Grant, error)) (lock.Grant, error) {
			grant, err := try()
			time.Sleep(100 * time.Millisecond)
			return grant, err
		},
	}
	for name, goes := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, lockers, _ := newGiving(t, 3)
				var holding, wrong atomic.Int64
				try := store.try
				store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
					if holding.Load() == 0 || wrong.Load() > 30 {
						return try(ctx, req)
					}
					return goes(func() (lock.Grant, error) { return try(ctx, req) })
				}
				var last uint64
				var wg sync.WaitGroup
				for _, locker := range lockers {
					for range 17 {
						wg.Go(func() {
							for range 20 {
								lease, err := locker.Acquire(t.Context(), "n", time.Minute)
								if err != nil { // it was its own asking that went wrong
									assert.ErrorIs(t, err, errDown)
									continue
								}
								assert.Greater(t, lease.Token(), last)
								last = lease.Token()
								holding.Store(1)
								time.Sleep(time.Millisecond)
								holding.Store(0)
								wrong.Add(1)
								ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
								_ = lease.Release(ctx)
								cancel()
							}
						})
					}
				}
				wg.Wait()
				time.Sleep(5 * time.Second) // what is left to the background
				free(t, lockers[0])
			})
		})
	}
}

// A release after that can go wrong, too, and leaves no place that keeps others out.
func TestAReleaseThatGoesWrongAfterEnteringAhead(t *testing.T) {
	tests := map[string]func(release func() (bool, error)) (bool, error){
		"it fails, and has not happened": func(func() (bool, error)) (bool, error) { return false, errDown },
		"it fails, and has happened":     func(release func() (bool, error)) (bool, error) { _, _ = release(); return false, errDown },
		"its answer is slow": func(release func() (bool, error)) (bool, error) {
			held, err := release()
			time.Sleep(100 * time.Millisecond)
			return held, err
		},
	}
	for name, goes := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, lockers, _ := newGiving(t, 3)
				var entered, wrong atomic.Int64
				try := store.try
				store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
					grant, err := try(ctx, req)
					if grant.Queued {
						entered.Add(1)
					}
					return grant, err
				}
				release := store.release
				store.release = func(ctx context.Context, req lock.Request) (bool, error) {
					if entered.Load() > 6 && wrong.Add(1)%3 == 0 {
						return goes(func() (bool, error) { return release(ctx, req) })
					}
					return release(ctx, req)
				}
				contend(t, lockers, 1000)
				assert.Greater(t, wrong.Load(), int64(20))
				time.Sleep(2 * time.Minute) // what was not released ends
				store.release = release
				free(t, lockers[0])
			})
		})
	}
}

// A step that enters the queue ahead of a release and hangs does not hold that up. What
// it has done in the end is taken back.
func TestEnteringAheadThatComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, lockers, _ := newGiving(t, 2)
		first, err := lockers[0].Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		held := make(chan *lock.Lease, 3)
		for range 3 {
			go func() {
				lease, err := lockers[1].Acquire(t.Context(), "n", time.Minute)
				assert.NoError(t, err)
				held <- lease
			}()
			synctest.Wait()
		}
		require.NoError(t, first.Release(t.Context()))
		lease := <-held
		try, hangs := store.try, make(chan struct{})
		store.change(func(s *steps) {
			s.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
				store.change(func(s *steps) { s.try = try })
				<-hangs
				return try(ctx, req)
			}
		})
		time.Sleep(20 * time.Millisecond)
		require.NoError(t, lease.Release(t.Context())) // handed on, most likely for the last time
		lease = <-held
		time.Sleep(20 * time.Millisecond)
		began := time.Now()
		require.NoError(t, lease.Release(t.Context()))
		lease = <-held
		assert.LessOrEqual(t, time.Since(began), 20*time.Millisecond)
		close(hangs) // it gets a place
		synctest.Wait()
		require.NoError(t, lease.Release(t.Context()))
		synctest.Wait()
		free(t, lockers[0])
	})
}

// A hold that was to be the last of its turn can last for longer than a place in the
// queue is kept. The release asks for it again, and nobody has to find out.
func TestAPlaceAheadThatIsOver(t *testing.T) {
	for _, last := range []time.Duration{400 * time.Millisecond, 1500 * time.Millisecond, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			_, lockers, _ := newGiving(t, 2)
			first, err := lockers[0].Acquire(t.Context(), "n", time.Minute)
			require.NoError(t, err)
			second, third, fourth := acquiring(t, lockers[1]), acquiring(t, lockers[1]), acquiring(t, lockers[1])
			require.NoError(t, first.Release(t.Context()))
			lease := <-second
			other := acquiring(t, lockers[0])
			time.Sleep(20 * time.Millisecond)
			require.NoError(t, lease.Release(t.Context())) // handed on, most likely for the last time
			lease = <-third
			time.Sleep(last)
			require.NoError(t, lease.Release(t.Context()))
			lease = <-other
			time.Sleep(500 * time.Millisecond) // nobody asks meanwhile
			released := time.Now()
			require.NoError(t, lease.Release(t.Context()))
			lease = <-fourth
			assert.Zero(t, time.Since(released), "after a last hold of %v", last)
			require.NoError(t, lease.Release(t.Context()))
		})
	}
}

// Those for whom a place was kept may leave before the lease is released.
func TestAPlaceAheadThatNobodyWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, lockers, _ := newGiving(t, 2)
		first, err := lockers[0].Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		held := make(chan *lock.Lease, 3)
		for range 3 {
			wg.Go(func() {
				if lease, err := lockers[1].Acquire(ctx, "n", time.Minute); err == nil {
					held <- lease
				}
			})
			synctest.Wait()
		}
		require.NoError(t, first.Release(t.Context()))
		lease := <-held
		time.Sleep(20 * time.Millisecond)
		require.NoError(t, lease.Release(t.Context())) // handed on, most likely for the last time
		lease = <-held
		synctest.Wait()
		cancel() // the last one leaves
		wg.Wait()
		require.NoError(t, lease.Release(t.Context()))
		synctest.Wait()
		free(t, lockers[0])
	})
}
