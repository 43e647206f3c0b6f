package redislock_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func request(owner string) lock.Request {
	return lock.Request{Name: "n", Owner: owner, TTL: time.Minute}
}

// turn acquires and releases.
func turn(t *testing.T, store *redislock.Store, owner string) {
	t.Helper()
	grant, err := store.TryAcquire(t.Context(), request(owner))
	require.NoError(t, err)
	require.True(t, grant.Acquired)
	held, err := store.Release(t.Context(), request(owner))
	require.NoError(t, err)
	require.True(t, held)
}

// What is late, is late for others' turns as well:
//
//	A: gives up, releases (its acquire is stuck on another connection)
//	B:                             acquires, releases
//	A:                                                 the acquire arrives
func TestAnAcquireThatArrivesAfterTheTurnsOfOthers(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		store := storeOn(rdb, prefix)
		_, err := store.Release(t.Context(), request("late"))
		require.NoError(t, err)
		for i := range 10 {
			turn(t, store, fmt.Sprint(i))
		}
		_, err = store.TryAcquire(t.Context(), request("late"))
		require.ErrorContains(t, err, "released")

		_, err = store.TryAcquire(t.Context(), request("holder"))
		require.NoError(t, err)
		asker := request("late")
		asker.Place = time.Minute
		_, err = store.TryAcquire(t.Context(), asker)
		require.ErrorContains(t, err, "released")
		assert.Zero(t, rdb.ZCard(t.Context(), prefix+"{n}:queue").Val(), "nobody stands there")
	})
}

// Those who have released are remembered for 30 s, whether others of their family come
// after them, or of another one.
func TestWhoHasReleasedIsRememberedWhateverComes(t *testing.T) {
	rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
	store := storeOn(rdb, prefix)
	_, err := store.Release(t.Context(), request("x.1")) // its acquire is late
	require.NoError(t, err)
	turns := []string{"x.2", "x.3", "y.1", "x.4", "y.2", "z.1", "y.3", "x.5"}
	for _, owner := range turns {
		turn(t, store, owner)
	}
	_, err = store.Release(t.Context(), request("x.6"))
	require.NoError(t, err)
	for _, owner := range append(turns, "x.1", "x.6") {
		_, err := store.TryAcquire(t.Context(), request(owner))
		require.ErrorContains(t, err, "released", owner)
		held, err := store.Release(t.Context(), request(owner))
		require.NoError(t, err)
		assert.Equal(t, owner != "x.1" && owner != "x.6", held, owner)
	}
	for _, family := range []string{"y.", "z."} {
		left := rdb.PTTL(t.Context(), prefix+"{n}:ended:"+family).Val()
		assert.InDelta(t, 30*time.Second, left, float64(slack), family)
	}
}

func TestAReleaseThatArrivesTwiceAfterTheTurnsOfOthers(t *testing.T) {
	store := storeOn(redistest.Standalone(t).Client(t), redistest.Prefix(t))
	turn(t, store, "first")
	for i := range 10 {
		turn(t, store, fmt.Sprint(i))
	}
	held, err := store.Release(t.Context(), request("first"))
	require.NoError(t, err)
	assert.True(t, held, "the second must say what the first did")
}

// Redis remembers owners by their families and last characters. None is taken for
// another one, whether it asks for the lease or is given it.
func TestOwnersThatLookAlike(t *testing.T) {
	owners := []string{"a", "b", "ab", "a*", "a**", "*", "+", "-", "a+", "a-", "+a", "-a", "aa", "a:a", "ü", "aü", "a.", "a.a", "a.+a", "a b", "a\x00", "A", "0", "a0"}
	for _, given := range []bool{false, true} {
		store := storeOn(redistest.Standalone(t).Client(t), redistest.Prefix(t))
		of := func(owner string) lock.Request {
			req := request(owner)
			if given {
				req.Tokens, req.Place, req.Give = 64, time.Minute, true
			}
			return req
		}
		for i, owner := range owners {
			grant, err := store.TryAcquire(t.Context(), of(owner))
			require.NoError(t, err, "%q", owner)
			require.True(t, grant.Acquired, "%q", owner)
			if given && i+1 < len(owners) {
				ask(t, store, of(owners[i+1]))
			}
			for range 2 {
				held, err := store.Release(t.Context(), of(owner))
				require.NoError(t, err)
				require.True(t, held, "%q", owner)
			}
		}
		for _, owner := range owners {
			_, err := store.TryAcquire(t.Context(), of(owner))
			require.ErrorContains(t, err, "released", "%q", owner)
			held, err := store.Release(t.Context(), of(owner))
			require.NoError(t, err)
			require.True(t, held, "%q", owner)
		}
	}
}

// Whose last character is that of the holder, or whose family, is not the holder: also
// if its commands are late.
func TestOwnersThatAreAlmostTheHolder(t *testing.T) {
	rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
	store := storeOn(rdb, prefix)
	acquireNow(t, store, request("a.1"))
	for _, owner := range []string{"b.1", "a.2", "1", "a.", "a.11"} {
		held, err := store.Extend(t.Context(), request(owner))
		require.NoError(t, err)
		require.False(t, held, owner)
		grant, err := store.TryAcquire(t.Context(), request(owner))
		require.NoError(t, err)
		require.False(t, grant.Acquired, owner)
		for range 2 {
			held, err = store.Release(t.Context(), request(owner))
			require.NoError(t, err)
			require.False(t, held, owner)
		}
		holder, _ := holderAt(t, rdb, prefix+"{n}")
		require.Equal(t, "a.1", holder)
	}
	releaseHeld(t, store, request("a.1"))
}

// A relay is a release and an acquire, of two owners, and either can be late:
//
//	A: relays to B (the answer is lost)    B: gives up, releases
//	A:                                                           the relay arrives again
func TestARelayThatArrivesAfterTheTurnsOfOthers(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		store := storeOn(rdb, prefix)
		from, to := request("first"), request("next")
		to.Place = time.Minute
		for _, others := range []bool{false, true} {
			from.Owner, to.Owner = from.Owner+"'", to.Owner+"'"
			grant, err := store.TryAcquire(t.Context(), from)
			require.NoError(t, err)
			require.True(t, grant.Acquired)
			waiter := request(fmt.Sprint("waiter", others))
			waiter.Place = time.Minute
			if others {
				_, err := store.TryAcquire(t.Context(), waiter)
				require.NoError(t, err)
			}
			held, grant, err := store.Relay(t.Context(), from, to)
			require.NoError(t, err)
			require.True(t, held)
			require.Equal(t, !others, grant.Acquired)
			held, _, err = store.Relay(t.Context(), from, to)
			require.NoError(t, err)
			require.True(t, held, "the second must say what the first did")
			held, err = store.Release(t.Context(), to)
			require.NoError(t, err)
			require.Equal(t, !others, held)

			_, _, err = store.Relay(t.Context(), from, to)
			require.ErrorContains(t, err, "released")
			if others {
				_, err = store.Release(t.Context(), waiter)
				require.NoError(t, err)
			}
			assert.False(t, isHeld(t, rdb, prefix+"{n}"), "nobody has it")
			assert.Zero(t, rdb.Exists(t.Context(), prefix+"{n}:queue", prefix+"{n}:places").Val(), "nobody stands there")
			turn(t, store, fmt.Sprint("somebody", others))
		}
	})
}

// Those behind the first know only of him, and no release tells them.
func TestPermitsThatEndTogetherLetInAllWhoFit(t *testing.T) {
	server := redistest.Standalone(t)
	prefix := redistest.Prefix(t)
	store := storeOn(server.Client(t), prefix)
	const ttl, permits = time.Second, 3
	for i := range permits {
		grant, err := store.TryAcquire(t.Context(), lock.Request{Name: "n", Owner: fmt.Sprint(i), TTL: ttl, Shared: true, Limit: permits})
		require.NoError(t, err)
		require.True(t, grant.Acquired)
	}
	died := time.Now()
	inside, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	for range permits {
		locker := newLocker(t, server.Addr(), prefix).Semaphore(permits)
		wg.Go(func() {
			lease, err := locker.Acquire(within(t), "n", time.Minute)
			if assert.NoError(t, err) {
				assert.Less(t, time.Since(died), ttl+slack)
				inside <- struct{}{}
				<-leave // nobody gets in by a release
				assert.NoError(t, lease.Release(t.Context()))
			}
		})
		time.Sleep(50 * time.Millisecond)
	}
	for range permits {
		<-inside
	}
	close(leave)
	wg.Wait()
}

// A release looks at 128 of the queue.
func TestManyReadersComeTogether(t *testing.T) {
	server := redistest.Standalone(t)
	locker := newLocker(t, server.Addr(), redistest.Prefix(t))
	writer, err := locker.Acquire(t.Context(), "n", time.Minute)
	require.NoError(t, err)
	const readers = 500
	var inside, wg sync.WaitGroup
	inside.Add(readers)
	leave := make(chan struct{})
	for range readers {
		wg.Go(func() {
			lease, err := locker.Shared().Acquire(within(t), "n", time.Minute)
			inside.Done()
			if assert.NoError(t, err) {
				<-leave
				assert.NoError(t, lease.Release(within(t)))
			}
		})
	}
	time.Sleep(time.Second)
	require.NoError(t, writer.Release(t.Context()))
	released := time.Now()
	inside.Wait()
	t.Logf("%d readers are in after %v", readers, time.Since(released))
	assert.Less(t, time.Since(released), 900*time.Millisecond+slack, "not in rounds of 0.9 s")
	close(leave)
	wg.Wait()
}

// With maxmemory, Redis may evict any key that has a TTL. Without its place a dead
// waiter would be ahead for ever.
func TestPlacesThatRedisEvicts(t *testing.T) {
	rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
	store := storeOn(rdb, prefix)
	holder, dead := request("holder"), request("dead")
	holder.TTL, dead.Place = time.Second, time.Minute
	for _, req := range []lock.Request{holder, dead} {
		_, err := store.TryAcquire(t.Context(), req)
		require.NoError(t, err)
	}
	waiting := acquireSoon(t, lockerOn(t, rdb, prefix))
	eventually(t, patience, "it waits", func() bool { return rdb.ZCard(t.Context(), prefix+"{n}:queue").Val() == 2 })
	require.NoError(t, rdb.Del(t.Context(), prefix+"{n}:places").Err())
	began := time.Now()
	got := <-waiting
	require.NoError(t, got.err)
	assert.Less(t, time.Since(began), 2*time.Second+slack)
	require.NoError(t, got.lease.Release(t.Context()))
}

func TestAFullRedisLosesNoLease(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	locker := lockerOn(t, rdb, "p:")
	const ttl = 3 * time.Second
	leases := map[string]*lock.Lease{}
	for kind, l := range map[string]*lock.Locker{"exclusive": locker, "shared": locker.Shared(), "permit": locker.Semaphore(2)} {
		lease, err := l.Acquire(t.Context(), kind, ttl)
		require.NoError(t, err)
		leases[kind] = lease
	}
	require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1mb").Err())
	require.ErrorContains(t, rdb.Set(t.Context(), "k", "v", 0).Err(), "OOM")
	time.Sleep(ttl + ttl/3)
	for kind, lease := range leases {
		assert.NoError(t, lease.Context().Err(), kind)
		assert.NoError(t, lease.Release(t.Context()), kind)
	}
}

// redsync goes on when a majority has answered. The others must hear of it too, or
// the next failure finds a lease there that nobody holds.
func TestAQuorumLeavesNothing(t *testing.T) {
	servers := newServers(t, 5)
	locker := onQuorum(t, servers)
	const names = 400
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := g; i < names; i += 8 {
				assert.NoError(t, locker.Do(within(t), fmt.Sprint(i), time.Hour, func(context.Context, uint64) error { return nil }))
			}
		})
	}
	wg.Wait()
	for i, server := range servers {
		rdb := server.Client(t)
		eventually(t, patience, fmt.Sprintf("server %d has no lease", i), func() bool {
			return heldOf(t, rdb, names) == 0
		})
	}
}

// Askers who split the votes must not wait for the server that hangs, each time
// and with what they have got.
func TestAQuorumIsContendedWhileAServerHangs(t *testing.T) {
	servers := newServers(t, 5)
	const turns, timeout = 100, 2 * time.Second
	lockers := make([]*lock.Locker, 3)
	for i := range lockers {
		var err error
		lockers[i], err = lock.New(newQuorum(t, servers, redislock.QuorumOptions{Timeout: timeout}), nil)
		require.NoError(t, err)
	}
	lockAndUnlock(t, lockers[0], 3)
	servers[4].Stop(t)
	defer servers[4].Continue(t)
	var taken atomic.Int64
	began := time.Now()
	var wg sync.WaitGroup
	for _, locker := range lockers {
		wg.Go(func() {
			for taken.Add(1) <= turns {
				assert.NoError(t, locker.Do(within(t), "n", 5*time.Second, func(context.Context, uint64) error { return nil }))
			}
		})
	}
	wg.Wait()
	t.Logf("%d turns in %v", turns, time.Since(began))
	assert.Less(t, time.Since(began), turns*timeout/4, "a wait for each turn would be four times as much")
}

// A server that does not answer in time is no deadline of the caller's.
func TestTheErrorOfAQuorumWithoutAMajority(t *testing.T) {
	servers := newServers(t, 3)
	locker := onQuorum(t, servers)
	for _, server := range servers[:2] {
		server.Stop(t)
		defer server.Continue(t)
	}
	_, err := locker.TryAcquire(t.Context(), "n", time.Minute)
	require.ErrorContains(t, err, "no answer within")
	require.NotErrorIs(t, err, context.DeadlineExceeded)
}

// In a relay whose turn is another one's, somebody who has released already does not take a
// place that nobody would leave.
func TestARelayForOneWhoHasReleased(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		store := storeOn(rdb, prefix)
		_, err := store.TryAcquire(t.Context(), request("holder"))
		require.NoError(t, err)
		waiter, late := request("waiter"), request("late")
		waiter.Place, late.Place = time.Minute, time.Minute
		grant, err := store.TryAcquire(t.Context(), waiter)
		require.NoError(t, err)
		require.True(t, grant.Queued)
		_, err = store.Release(t.Context(), late)
		require.NoError(t, err)

		_, _, err = store.Relay(t.Context(), request("holder"), late)
		require.ErrorContains(t, err, "released")
		members, err := rdb.ZRange(t.Context(), prefix+"{n}:queue", 0, -1).Result()
		require.NoError(t, err)
		assert.Len(t, members, 1, "of the one who waits: %v", members)
	})
}
