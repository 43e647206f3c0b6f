package lock_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/lock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// relaying is a faulty store that is a lock.Relay.
type relaying struct {
	*faulty
	relay func(ctx context.Context, from, to lock.Request) (bool, lock.Grant, error)
}

func (s *relaying) Relay(ctx context.Context, from, to lock.Request) (bool, lock.Grant, error) {
	return s.relay(ctx, from, to)
}

// newRelaying returns a store that relays, and Lockers on it that are as good as
// processes.
func newRelaying(t *testing.T, processes int) (*relaying, []*lock.Locker) {
	t.Helper()
	memory := lock.NewMemoryStore()
	store := &relaying{faulty: &faulty{Store: memory}, relay: memory.Relay}
	var lockers []*lock.Locker
	for range processes {
		lockers = append(lockers, newLocker(t, store))
	}
	return store, lockers
}

// contend has goroutines of all processes take the lease in turn, so many times
// together, and looks that it excludes them and that tokens grow.
func contend(t *testing.T, lockers []*lock.Locker, times int) {
	t.Helper()
	last := uint64(0) // guarded by the lease alone: the race detector looks on
	var taken atomic.Int64
	var wg sync.WaitGroup
	for _, locker := range lockers {
		for range 17 {
			wg.Go(func() {
				for taken.Add(1) <= int64(times) {
					lease, err := locker.Acquire(t.Context(), "n", time.Minute)
					if !assert.NoError(t, err) {
						return
					}
					assert.Greater(t, lease.Token(), last)
					last = lease.Token()
					time.Sleep(time.Millisecond)
					_ = lease.Release(t.Context())
				}
			})
		}
	}
	wg.Wait()
}

// Releasing, and entering the queue for those who still wait, are one step; to be
// granted the lease is the other one.
func TestATurnOfAProcessIsTwoSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, lockers := newRelaying(t, 3)
		var asked, relayed atomic.Int64
		store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
			asked.Add(1)
			return store.Store.TryAcquire(ctx, req)
		}
		store.release = func(ctx context.Context, req lock.Request) (bool, error) {
			asked.Add(1)
			return store.Store.Release(ctx, req)
		}
		relay := store.relay
		store.relay = func(ctx context.Context, from, to lock.Request) (bool, lock.Grant, error) {
			asked.Add(1)
			relayed.Add(1)
			return relay(ctx, from, to)
		}
		const times, turns = 2500, 2500 / 25
		contend(t, lockers, times)
		assert.LessOrEqual(t, asked.Load(), int64(2*turns+20))
		assert.GreaterOrEqual(t, relayed.Load(), int64(turns-20))
		free(t, lockers[0])
	})
}

// Where nobody else waits, the next one is granted the lease with the release of
// the one before.
func TestATurnOfAProcessAloneIsOneStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, lockers := newRelaying(t, 1)
		var relayed, tried atomic.Int64
		store.try = func(ctx context.Context, req lock.Request) (lock.Grant, error) {
			tried.Add(1)
			return store.Store.TryAcquire(ctx, req)
		}
		relay := store.relay
		store.relay = func(ctx context.Context, from, to lock.Request) (bool, lock.Grant, error) {
			relayed.Add(1)
			return relay(ctx, from, to)
		}
		contend(t, lockers, 500)
		assert.LessOrEqual(t, tried.Load(), int64(3))
		assert.GreaterOrEqual(t, relayed.Load(), int64(17))
		free(t, lockers[0])
	})
}

// A relay may have happened or not when it fails. Others get on in any case, and
// nothing is left of it.
func TestARelayThatFails(t *testing.T) {
	for name, happens := range map[string]bool{"it has happened": true, "it has not": false} {
		for name2, processes := range map[string]int{"others wait": 3, "nobody else waits": 1} {
			t.Run(name+", "+name2, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store, lockers := newRelaying(t, processes)
					relay := store.relay
					var n atomic.Int64
					store.relay = func(ctx context.Context, from, to lock.Request) (held bool, grant lock.Grant, err error) {
						if n.Add(1)%3 != 0 {
							return relay(ctx, from, to)
						}
						if happens {
							_, _, _ = relay(ctx, from, to)
						}
						return false, lock.Grant{}, errDown
					}
					last, began := uint64(0), time.Now()
					var wg sync.WaitGroup
					for _, locker := range lockers {
						for range 17 {
							wg.Go(func() {
								for range 20 {
									assert.NoError(t, locker.Do(t.Context(), "n", time.Minute, func(_ context.Context, token uint64) error {
										assert.Greater(t, token, last)
										last = token
										time.Sleep(time.Millisecond)
										return nil
									}))
								}
							})
						}
					}
					wg.Wait()
					assert.Greater(t, n.Load(), int64(3))
					assert.Less(t, time.Since(began), 2*time.Second, "nobody waits for a place or a lease to end")
					time.Sleep(time.Second) // what is left to the background
					free(t, lockers[0])
				})
			})
		}
	}
}

// A release tells its caller what became of the lease, also if it was a relay.
func TestWhatAReleaseSaysThatIsARelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tests := []struct {
			name  string
			relay func(relay func() (bool, lock.Grant, error)) (bool, lock.Grant, error)
			want  error
		}{
			{"held", func(relay func() (bool, lock.Grant, error)) (bool, lock.Grant, error) { return relay() }, nil},
			{"gone", func(relay func() (bool, lock.Grant, error)) (bool, lock.Grant, error) {
				_, grant, err := relay()
				return false, grant, err
			}, lock.ErrLost},
			{"nobody knows", func(func() (bool, lock.Grant, error)) (bool, lock.Grant, error) { return false, lock.Grant{}, errDown }, errDown},
		}
		for _, tt := range tests {
			store, lockers := newRelaying(t, 1)
			locker, relay := lockers[0], store.relay
			store.relay = func(ctx context.Context, from, to lock.Request) (bool, lock.Grant, error) {
				return tt.relay(func() (bool, lock.Grant, error) { return relay(ctx, from, to) })
			}
			second, waiting := secondInLine(t, locker)
			err := second.Release(t.Context())
			if tt.want == nil {
				require.NoError(t, err, tt.name)
			} else {
				require.ErrorIs(t, err, tt.want, tt.name)
				assert.Equal(t, errors.Is(tt.want, lock.ErrLost), errors.Is(err, lock.ErrLost))
			}
			if errors.Is(err, errDown) {
				require.NoError(t, second.Release(t.Context()), "it may be tried again")
			}
			third := <-waiting
			require.NoError(t, third.Context().Err())
			require.NoError(t, third.Release(t.Context()))
			free(t, locker)
		}
	})
}

// An answer that comes when the lease is over already gives it to nobody.
func TestARelayThatIsAnsweredTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, lockers := newRelaying(t, 1)
		second, waiting := secondInLine(t, lockers[0])
		relay := store.relay
		store.relay = func(ctx context.Context, from, to lock.Request) (bool, lock.Grant, error) {
			held, grant, err := relay(ctx, from, to)
			time.Sleep(2 * time.Minute)
			return held, grant, err
		}
		require.NoError(t, second.Release(t.Context()))
		third := <-waiting
		require.NoError(t, third.Context().Err())
		require.NoError(t, third.Release(t.Context()))
	})
}

// secondInLine returns a lease that was waited for, so that its release is a relay,
// and where the lease will be of another one who waits.
func secondInLine(t *testing.T, locker *lock.Locker) (second *lock.Lease, waiting <-chan *lock.Lease) {
	t.Helper()
	first := <-acquiring(t, locker)
	next := acquiring(t, locker)
	time.Sleep(time.Second) // it is not handed on
	require.NoError(t, first.Release(t.Context()))
	second = <-next
	waiting = acquiring(t, locker)
	time.Sleep(time.Second)
	return second, waiting
}

// acquiring returns where the lease will be of one who has begun to wait for it.
func acquiring(t *testing.T, locker *lock.Locker) <-chan *lock.Lease {
	t.Helper()
	got := make(chan *lock.Lease, 1)
	go func() {
		lease, err := locker.Acquire(t.Context(), "n", time.Minute)
		assert.NoError(t, err)
		got <- lease
	}()
	synctest.Wait()
	return got
}

// While the store hangs in a relay, those who wait leave at their deadlines. What it
// has done in their name is taken back.
func TestWhoLeavesDuringARelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, others := range []bool{false, true} {
			store, lockers := newRelaying(t, 2)
			relay := store.relay
			store.relay = func(ctx context.Context, from, to lock.Request) (bool, lock.Grant, error) {
				time.Sleep(time.Second)
				return relay(ctx, from, to)
			}
			second, _ := secondInLineLeaving(t, lockers[0], 1500*time.Millisecond)
			other := make(chan *lock.Lease, 1)
			if others {
				go func() {
					lease, err := lockers[1].Acquire(t.Context(), "n", time.Minute)
					assert.NoError(t, err)
					other <- lease
				}()
				synctest.Wait()
			}
			require.NoError(t, second.Release(t.Context()))
			if others {
				lease := <-other
				require.NoError(t, lease.Release(t.Context()))
			}
			synctest.Wait()
			free(t, lockers[1]) // nobody stands in the queue, and nobody holds the lease
		}
	})
}

// Whoever gives up a place that a relay has brought is in nobody's way.
func TestWhoGivesUpAPlaceOfARelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, lockers := newRelaying(t, 3)
		second, left := secondInLineLeaving(t, lockers[0], 1500*time.Millisecond)
		other := make(chan *lock.Lease, 1)
		go func() {
			lease, err := lockers[1].Acquire(t.Context(), "n", time.Minute)
			assert.NoError(t, err)
			other <- lease
		}()
		synctest.Wait()
		require.NoError(t, second.Release(t.Context())) // the one who leaves gets a place
		holder := <-other
		_, err := lockers[2].TryAcquire(t.Context(), "n", time.Minute)
		require.ErrorIs(t, err, lock.ErrNotAcquired)
		<-left
		require.NoError(t, holder.Release(t.Context()))
		free(t, lockers[2])
	})
}

// secondInLineLeaving is secondInLine, but the other one who waits leaves.
func secondInLineLeaving(t *testing.T, locker *lock.Locker, leaves time.Duration) (second *lock.Lease, left <-chan struct{}) {
	t.Helper()
	first, err := locker.Acquire(t.Context(), "n", time.Minute)
	require.NoError(t, err)
	next := make(chan *lock.Lease, 1)
	go func() {
		lease, err := locker.Acquire(t.Context(), "n", time.Minute)
		assert.NoError(t, err)
		next <- lease
	}()
	time.Sleep(time.Second)
	require.NoError(t, first.Release(t.Context()))
	second = <-next
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		ctx, cancel := context.WithTimeout(t.Context(), leaves)
		defer cancel()
		began := time.Now()
		_, err := locker.Acquire(ctx, "n", time.Minute)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.LessOrEqual(t, time.Since(began), leaves+20*time.Millisecond)
	}()
	time.Sleep(time.Second)
	return second, gone
}

// Nothing is watched any more when nobody waits.
func TestARelayLeavesNoWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, lockers := newRelaying(t, 2)
		var watches atomic.Int64
		store.watch = func(ctx context.Context, name, owner string) (<-chan struct{}, func(), error) {
			turn, stop, err := store.Store.Watch(ctx, name, owner)
			watches.Add(1)
			return turn, sync.OnceFunc(func() { watches.Add(-1); stop() }), err
		}
		contend(t, lockers, 1000)
		second, waiting := secondInLine(t, lockers[0])
		require.NoError(t, second.Release(t.Context()))
		third := <-waiting
		assert.Equal(t, int64(1), watches.Load(), "for who would come after it")
		time.Sleep(time.Minute)
		assert.Zero(t, watches.Load(), "it is renewed: it need not be fast")
		require.NoError(t, third.Release(t.Context()))
		store.change(func(s *steps) { s.extend = func(context.Context, lock.Request) (bool, error) { return false, nil } })
		second, waiting = secondInLine(t, lockers[0])
		time.Sleep(time.Minute)
		require.ErrorIs(t, second.Release(t.Context()), lock.ErrLost)
		third = <-waiting
		time.Sleep(time.Minute)
		assert.Zero(t, watches.Load())
		require.ErrorIs(t, third.Release(t.Context()), lock.ErrLost)
	})
}
