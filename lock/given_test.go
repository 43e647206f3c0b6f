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

// placeTTL is for how long a place in the queue is kept.
const placeTTL = 1900 * time.Millisecond

// newGiving returns a store that relays, and Lockers on it. Of the first in the queue
// it says that it was given the lease, for as long as its place lasts, without asking.
// asked counts the steps.
func newGiving(t *testing.T, processes int) (store *relaying, lockers []*lock.Locker, asked *atomic.Int64) {
	t.Helper()
	store, lockers = newRelaying(t, processes)
	asked = new(atomic.Int64)
	var mu sync.Mutex
	placed := map[string]time.Time{}
	place := func(req lock.Request, asked time.Time, grant lock.Grant) {
		mu.Lock()
		defer mu.Unlock()
		if delete(placed, req.Owner); grant.Queued && req.Give {
			placed[req.Owner] = asked
		}
	}
	store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
		began := time.Now()
		grant, err := store.Store.TryAcquire(ctx, req)
		mu.Lock()
		since, given := placed[req.Owner]
		mu.Unlock()
		if place(req, began, grant); given && grant.Acquired {
			grant.Since, grant.TTL = since, placeTTL
			return grant, err
		}
		asked.Add(1)
		return grant, err
	}
	store.release = func(ctx context.Context, req lock.Request) (bool, error) {
		asked.Add(1)
		return store.Store.Release(ctx, req)
	}
	relay := store.relay
	store.relay = func(ctx context.Context, from, to lock.Request) (bool, lock.Grant, error) {
		asked.Add(1)
		began := time.Now()
		held, grant, err := relay(ctx, from, to)
		place(to, began, grant)
		return held, grant, err
	}
	return store, lockers, asked
}

// waitedFor returns a lease that was waited for, so long after it was asked for.
func waitedFor(t *testing.T, holder, waiter *lock.Locker, ttl, wait time.Duration) *lock.Lease {
	t.Helper()
	first, err := holder.TryAcquire(t.Context(), "n", ttl)
	require.NoError(t, err)
	got := make(chan *lock.Lease, 1)
	go func() {
		lease, err := waiter.Acquire(t.Context(), "n", ttl)
		assert.NoError(t, err)
		got <- lease
	}()
	time.Sleep(wait)
	require.NoError(t, first.Release(t.Context()))
	return <-got
}

// A lease that the store has given lasts as long as the waiter's place would have, and
// is promised for no longer, also if the store never answers again.
func TestAGivenLeaseIsPromisedForTheRestOfThePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, lockers, _ := newGiving(t, 2)
		var asks []time.Duration
		began := time.Now()
		store.extend = func(ctx context.Context, _ lock.Request) (bool, error) {
			asks = append(asks, time.Since(began))
			<-ctx.Done()
			return false, ctx.Err()
		}
		const wait = 500 * time.Millisecond
		lease := waitedFor(t, lockers[0], lockers[1], time.Minute, wait)
		<-lease.Context().Done()
		synctest.Wait()
		assert.Equal(t, reliable(placeTTL), time.Since(began), "the place was asked for when the waiting began")
		require.ErrorIs(t, context.Cause(lease.Context()), lock.ErrLost)
		require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLost)
		require.GreaterOrEqual(t, len(asks), 2, "a renewal that is lost leaves time for others")
		assert.Equal(t, wait+50*time.Millisecond, asks[0])
		store.change(func(s *steps) { s.extend = nil })
		free(t, lockers[0])
	})
}

// It is renewed soon, for all of its TTL, and then like any other.
func TestAGivenLeaseIsRenewedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, lockers, _ := newGiving(t, 2)
		renewals := make(chan time.Time, 100)
		var fails atomic.Bool
		store.extend = func(ctx context.Context, req lock.Request) (bool, error) {
			renewals <- time.Now()
			if fails.Load() {
				return false, errDown
			}
			return store.Store.Extend(ctx, req)
		}
		lease := waitedFor(t, lockers[0], lockers[1], time.Minute, time.Second/2)
		given := time.Now()
		time.Sleep(10 * time.Second)
		require.Len(t, renewals, 1)
		renewed := <-renewals
		assert.Equal(t, 50*time.Millisecond, renewed.Sub(given))
		fails.Store(true)
		<-lease.Context().Done()
		assert.Equal(t, renewed.Add(reliable(time.Minute)), time.Now())
		require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLost)
	})
}

// Whoever holds a lease for long need not be fast when it is released.
func TestAGivenLeaseThatLastsLeavesNoWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, lockers, _ := newGiving(t, 2)
		var watches atomic.Int64
		store.watch = func(ctx context.Context, name, owner string) (<-chan struct{}, func(), error) {
			turn, stop, err := store.Store.Watch(ctx, name, owner)
			watches.Add(1)
			return turn, sync.OnceFunc(func() { watches.Add(-1); stop() }), err
		}
		lease := waitedFor(t, lockers[0], lockers[1], 3*time.Second, time.Second/2)
		time.Sleep(500 * time.Millisecond)
		assert.Equal(t, int64(1), watches.Load(), "for who would come after it")
		time.Sleep(time.Second)
		assert.Zero(t, watches.Load())
		require.NoError(t, lease.Release(t.Context()))
	})
}

// A lease that is released before that costs one step.
func TestAGivenLeaseOfAShortTurnIsNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, lockers, asked := newGiving(t, 2)
		store.extend = func(context.Context, lock.Request) (bool, error) {
			t.Error("it is renewed")
			return true, nil
		}
		lease := waitedFor(t, lockers[0], lockers[1], time.Minute, time.Second/2)
		before := asked.Load()
		time.Sleep(49 * time.Millisecond)
		require.NoError(t, lease.Release(t.Context()))
		assert.Equal(t, before+1, asked.Load())
		free(t, lockers[0])
	})
}

// Whoever hears late that it was given a lease, because it or the message was held up,
// asks: the lease may be over, and be somebody else's.
func TestALeaseThatWasGivenLongAgoIsAskedForAgain(t *testing.T) {
	for _, late := range []time.Duration{1500 * time.Millisecond, 3 * time.Second} {
		for _, free := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				store, lockers := newRelaying(t, 1)
				asks := 0
				store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
					switch asks++; {
					case asks == 1:
						return lock.Grant{Acquired: true, Token: 7, Since: time.Now().Add(-late), TTL: placeTTL}, nil
					case asks == 2 && !free:
						return lock.Grant{HeldFor: time.Second, Queued: true}, nil
					}
					return store.Store.TryAcquire(ctx, req)
				}
				lease, err := lockers[0].Acquire(t.Context(), "n", time.Minute)
				require.NoError(t, err)
				assert.NotEqual(t, uint64(7), lease.Token())
				assert.Equal(t, map[bool]int{true: 2, false: 3}[free], asks)
				require.NoError(t, lease.Context().Err())
				require.NoError(t, lease.Release(t.Context()))
			})
		}
	}
}

// No lease is asked for in advance that would outlast its TTL, nor one that others can
// hold at the same time.
func TestWhoMayBeGivenALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, lockers := newRelaying(t, 1)
		var last lock.Request
		store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
			last = req
			return store.Store.TryAcquire(ctx, req)
		}
		l := lockers[0]
		for _, tt := range []struct {
			name   string
			locker *lock.Locker
			ttl    time.Duration
			want   bool
		}{
			{"long", l, placeTTL, true},
			{"short", l, placeTTL - time.Millisecond, false},
			{"fair", l.Fair(), time.Minute, true},
			{"shared", l.Shared(), time.Minute, false},
			{"permit", l.Semaphore(2), time.Minute, false},
		} {
			lease, err := tt.locker.Acquire(t.Context(), "n", tt.ttl)
			require.NoError(t, err)
			require.NoError(t, lease.Release(t.Context()))
			assert.Equal(t, tt.want, last.Give, tt.name)
		}
		lease, err := l.TryAcquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		require.NoError(t, lease.Release(t.Context()))
		assert.False(t, last.Give, "who does not wait")
	})
}

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
