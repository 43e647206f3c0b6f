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
