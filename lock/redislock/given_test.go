package redislock_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// givable returns the request of a waiter who may be given the lease.
func givable(owner string) lock.Request {
	return lock.Request{Name: "n", Owner: owner, TTL: time.Minute, Tokens: 64, Place: 1900 * time.Millisecond, Give: true}
}

// ask asks for a lease that somebody holds.
func ask(t *testing.T, store *redislock.Store, req lock.Request) {
	t.Helper()
	grant, err := store.TryAcquire(t.Context(), req)
	require.NoError(t, err)
	require.False(t, grant.Acquired)
	require.True(t, grant.Queued)
}

// watchFor watches req's turn for the rest of the test.
func watchFor(t *testing.T, store *redislock.Store, req lock.Request) <-chan struct{} {
	t.Helper()
	turn, stop, err := store.Watch(within(t), req.Name, req.Owner)
	require.NoError(t, err)
	t.Cleanup(stop)
	return turn
}

func acquireNow(t *testing.T, store *redislock.Store, req lock.Request) lock.Grant {
	t.Helper()
	grant, err := store.TryAcquire(t.Context(), req)
	require.NoError(t, err)
	require.True(t, grant.Acquired)
	return grant
}

func releaseHeld(t *testing.T, store *redislock.Store, req lock.Request) {
	t.Helper()
	held, err := store.Release(t.Context(), req)
	require.NoError(t, err)
	require.True(t, held)
}

// The release gives the lease to the first in the queue, for as long as its place would
// have been kept, and the message is all that it needs.
func TestTheFirstInTheQueueIsGivenTheLease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		store, waiters := storeOn(rdb, prefix), storeOn(another(t, rdb), prefix)
		holder, first, second := givable("h.1"), givable("p.1"), givable("p.2")
		held := acquireNow(t, store, holder)
		turn := watchFor(t, waiters, first)
		before := time.Now()
		ask(t, waiters, first)
		after := time.Now()
		ask(t, waiters, second)
		holder.Tokens, holder.Unused = 3, 61
		releaseHeld(t, store, holder)
		<-turn
		owner, left := holderAt(t, rdb, prefix+"{n}")
		assert.Equal(t, first.Owner, owner)
		assert.LessOrEqual(t, left, first.Place-time.Since(after)+10*time.Millisecond)
		assert.Greater(t, left, time.Duration(0))

		ended, cancel := context.WithCancel(t.Context())
		cancel() // nothing can be asked
		grant, err := waiters.TryAcquire(ended, first)
		require.NoError(t, err)
		assert.True(t, grant.Acquired)
		assert.Greater(t, grant.Token, held.Token+2, "after those that were used")
		assert.Equal(t, first.Place, grant.TTL)
		assert.False(t, grant.Since.Before(before))
		assert.False(t, grant.Since.After(after))

		ask(t, waiters, second) // it is taken, and nobody else has it
		again := acquireNow(t, waiters, first)
		assert.Zero(t, again.TTL, "the message is good for once")
		assert.Greater(t, again.Token, grant.Token+63)
		assert.Equal(t, []string{"x64:" + second.Owner}, rdb.ZRange(t.Context(), prefix+"{n}:queue", 0, -1).Val())
	})
}

// Whose place is over is not given the lease.
func TestTheFirstInTheQueueThatIsAliveIsGivenTheLease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		store := storeOn(rdb, prefix)
		holder, dead, alive := givable("h.1"), givable("p.1"), givable("p.2")
		dead.Place, alive.Place = 50*time.Millisecond, time.Minute
		acquireNow(t, store, holder)
		ask(t, store, dead)
		ask(t, store, alive)
		end := int64(rdb.ZScore(t.Context(), prefix+"{n}:places", "x64:"+dead.Owner).Val())
		eventually(t, patience, "the place is over", func() bool { return rdb.Time(t.Context()).Val().UnixMilli() > end })
		releaseHeld(t, store, holder)
		owner, _ := holderAt(t, rdb, prefix+"{n}")
		assert.Equal(t, alive.Owner, owner)
		assert.Zero(t, rdb.Exists(t.Context(), prefix+"{n}:queue", prefix+"{n}:places").Val())
	})
}

// The token is kept for a day beyond a lease that was given, too.
func TestTheTokenOutlivesALeaseThatIsGiven(t *testing.T) {
	rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
	store, holder, waiter := storeOn(rdb, prefix), givable("h.1"), givable("p.1")
	waiter.Place = 48 * time.Hour
	acquireNow(t, store, holder)
	ask(t, store, waiter)
	releaseHeld(t, store, holder)
	assert.Greater(t, rdb.PTTL(t.Context(), prefix+"{n}").Val(), waiter.Place+24*time.Hour-time.Minute)
}

// Tokens that were not used are given out again, and those that were are not, also while
// they are ahead of the clock.
func TestTokensThatWereNotUsed(t *testing.T) {
	given, woken := givable("w.1"), givable("w.1")
	woken.Give = false
	for _, tt := range []struct {
		name         string
		waiter       lock.Request
		waits, relay bool
	}{
		{"nobody waits", given, false, false},
		{"the next one is given the lease", given, true, false},
		{"the next one is woken", woken, true, false},
		{"the next one asks with it", given, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store := storeOn(redistest.Standalone(t).Client(t), redistest.Prefix(t))
			ahead := givable("a.1")
			ahead.Tokens = 1 << 40 // microseconds
			acquireNow(t, store, ahead)
			releaseHeld(t, store, ahead)
			holder := givable("h.1")
			first := acquireNow(t, store, holder).Token
			if tt.waits {
				ask(t, store, tt.waiter)
			}
			holder.Tokens, holder.Unused = 3, 61
			if tt.relay {
				held, grant, err := store.Relay(t.Context(), holder, tt.waiter)
				require.NoError(t, err)
				require.True(t, held && grant.Acquired)
			} else {
				releaseHeld(t, store, holder)
			}
			// If it has the lease it asks as one whose answer was lost, and gets a new token.
			second := acquireNow(t, store, tt.waiter).Token
			assert.Contains(t, []uint64{first + 3, first + 3 + 64}, second)
			releaseHeld(t, store, tt.waiter)
			assert.Equal(t, second+64, acquireNow(t, store, givable("z.1")).Token)
		})
	}
}

// A place that was taken ahead of a release, and that Redis has lost, holds up nobody.
func TestAPlaceAheadThatRedisHasLost(t *testing.T) {
	const work = 15 * time.Millisecond // of a holder; a process gives the lease back after two
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	a, b := newLocker(t, server.Addr(), "p:"), newLocker(t, server.Addr(), "p:")
	isPlace := func(within time.Duration) bool {
		for end := time.Now().Add(within); time.Now().Before(end); {
			if rdb.ZCard(t.Context(), "p:{n}:queue").Val() > 0 {
				return true
			}
		}
		return false
	}
	// A process does not always enter ahead, and a busy machine may keep it from that.
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		first, err := a.Acquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		got := make(chan *lock.Lease, 3)
		for range cap(got) {
			go func() {
				lease, err := b.Acquire(t.Context(), "n", time.Minute)
				assert.NoError(t, err)
				got <- lease
			}()
		}
		require.True(t, isPlace(10*time.Second), "one of them waits in Redis")
		require.NoError(t, first.Release(t.Context()))
		lease := <-got
		time.Sleep(work)
		require.NoError(t, lease.Release(t.Context())) // handed on, for the last time
		lease = <-got
		ahead := isPlace(100 * time.Millisecond)
		time.Sleep(work) // and so this one is not handed on
		require.NoError(t, rdb.FlushAll(t.Context()).Err())
		released := time.Now()
		require.ErrorIs(t, lease.Release(t.Context()), lock.ErrLost)
		lease = <-got
		took := time.Since(released)
		require.NoError(t, lease.Release(t.Context()))
		if ahead {
			assert.Less(t, took, 600*time.Millisecond)
			return
		}
	}
	t.Error("nobody has ever entered ahead")
}

// Without the message, whoever asks has the lease: the message is lost where nobody
// listens, as in a reconnection.
func TestAGivenLeaseWhoseMessageIsLost(t *testing.T) {
	store := storeOn(redistest.Standalone(t).Client(t), redistest.Prefix(t))
	holder, waiter := givable("h.1"), givable("p.1")
	held := acquireNow(t, store, holder)
	ask(t, store, waiter)
	releaseHeld(t, store, holder)
	grant := acquireNow(t, store, waiter)
	assert.Greater(t, grant.Token, held.Token)
	assert.Zero(t, grant.TTL, "it lasts for its TTL")
	releaseHeld(t, store, waiter)
	requireFree(t, store)
}

// requireFree shows that the lease is free, and that nobody stands in the queue.
func requireFree(t *testing.T, store *redislock.Store) {
	t.Helper()
	somebody := request(fmt.Sprint("somebody", rand.Int64()))
	acquireNow(t, store, somebody)
	releaseHeld(t, store, somebody)
}

// A message that was held up tells of a lease that is over:
//
//	A: asks, has a place                      asks again, has a place at the end
//	B:                   gives A the lease
//	C:                                         acquires it when it has ended
//	A:                                                                       the message
func TestAMessageOfALeaseThatIsOver(t *testing.T) {
	rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
	store := storeOn(rdb, prefix)
	holder, waiter, other := givable("h.1"), givable("p.1"), request("c.1")
	waiter.Place = 100 * time.Millisecond
	held := acquireNow(t, store, holder)
	ask(t, store, waiter)
	end := rdb.ZScore(t.Context(), prefix+"{n}:places", "x64:"+waiter.Owner).Val()
	releaseHeld(t, store, holder) // nobody listens yet
	turn := watchFor(t, store, waiter)
	eventually(t, patience, "the lease is over", func() bool { return !isHeld(t, rdb, prefix+"{n}") })
	acquireNow(t, store, other)
	waiter.Place = time.Minute
	ask(t, store, waiter)
	for _, until := range []float64{end, end + 1, end + 1e6} { // nor any other that is not of its place
		require.NoError(t, rdb.Publish(t.Context(), prefix+"{n}:turn:p", fmt.Sprintf("%s %d %.0f", waiter.Owner, held.Token+64, until)).Err())
		<-turn
		ask(t, store, waiter)
	}
}

// The place of a waiter that asks late, because it was stopped, is over. So is the
// lease that it was given meanwhile.
func TestWhoIsGivenALeaseAndComesTooLate(t *testing.T) {
	store := storeOn(redistest.Standalone(t).Client(t), redistest.Prefix(t))
	holder, waiter, other := givable("h.1"), givable("p.1"), request("c.1")
	waiter.Place = 100 * time.Millisecond
	acquireNow(t, store, holder)
	turn := watchFor(t, store, waiter)
	ask(t, store, waiter)
	releaseHeld(t, store, holder)
	<-turn
	eventually(t, patience, "the lease is over", func() bool {
		grant, err := store.TryAcquire(t.Context(), other)
		return err == nil && grant.Acquired
	})
	ask(t, store, waiter)
}

// What a step did counts, however often it arrives.
func TestGivingALeaseTwice(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		for _, relay := range []bool{false, true} {
			prefix := redistest.Prefix(t)
			store := storeOn(rdb, prefix)
			holder, waiter, next := givable("h.1"), givable("p.1"), givable("h.2")
			acquireNow(t, store, holder)
			turn := watchFor(t, store, waiter)
			ask(t, store, waiter)
			for range 2 {
				if relay {
					held, grant, err := store.Relay(t.Context(), holder, next)
					require.NoError(t, err)
					assert.True(t, held)
					assert.False(t, grant.Acquired)
					assert.True(t, grant.Queued)
					assert.Greater(t, grant.HeldFor, time.Duration(0))
					assert.LessOrEqual(t, grant.HeldFor, waiter.Place)
				} else {
					releaseHeld(t, store, holder)
				}
			}
			<-turn
			grant := acquireNow(t, store, waiter)
			assert.NotZero(t, grant.TTL)
			late := givable("p.1")
			_, err := store.Extend(t.Context(), late)
			require.NoError(t, err)
			releaseHeld(t, store, waiter)
			held, err := store.Extend(t.Context(), late)
			require.NoError(t, err)
			assert.False(t, held, "a lease that has ended is never taken again")
			if relay {
				acquireNow(t, store, next)
				releaseHeld(t, store, next)
			}
			requireFree(t, store)
			assert.False(t, isHeld(t, rdb, prefix+"{n}"))
			assert.Zero(t, rdb.Exists(t.Context(), prefix+"{n}:queue", prefix+"{n}:places").Val())
		}
	})
}

// A waiter that died is given the lease as well, and is in the way of others for no
// longer than its place would have been.
func TestADeadWaiterThatIsGivenTheLease(t *testing.T) {
	server := redistest.Standalone(t)
	rdb, prefix := server.Client(t), redistest.Prefix(t)
	const target = 2 * time.Second
	holder, dead := startProcess(t, server.Addr(), prefix), startProcess(t, server.Addr(), prefix)
	next := newLocker(t, server.Addr(), prefix)
	o := Order{Name: "n", TTL: time.Minute}
	holder.acquire(t, o)
	dead.acquireSoon(o)
	queued := func(n int64) func() bool {
		return func() bool { return rdb.ZCard(t.Context(), prefix+"{n}:queue").Val() == n }
	}
	eventually(t, patience, "the one that dies waits", queued(1))
	waiting := acquireSoon(t, next)
	eventually(t, patience, "another one waits", queued(2))
	worst := stalls(t)
	dead.signal(t, syscall.SIGKILL)
	released := holder.release(t, "n")
	eventually(t, patience, "the dead has the lease", func() bool { return isHeld(t, rdb, prefix+"{n}") })
	lease := leaseOfAny(t, []<-chan acquired{waiting})
	took := time.Since(released)
	t.Logf("a dead waiter was in the way for %v, target: %v; this machine stalls for up to %v", took, target, worst())
	assert.LessOrEqual(t, took, target+worst())
	require.NoError(t, lease.Release(t.Context()))
}

// A waiter that is stopped as it is given the lease does not believe the message when
// it runs again, if that is over.
func TestAWaiterThatIsStoppedAsItIsGivenTheLease(t *testing.T) {
	server := redistest.Standalone(t)
	rdb, prefix := server.Client(t), redistest.Prefix(t)
	holder, waiter := startProcess(t, server.Addr(), prefix), startProcess(t, server.Addr(), prefix)
	other := newLocker(t, server.Addr(), prefix)
	o := Order{Name: "n", TTL: time.Minute}
	for range 3 {
		holder.acquire(t, o)
		waiting := waiter.acquireSoon(o)
		eventually(t, patience, "it waits", func() bool { return rdb.ZCard(t.Context(), prefix+"{n}:queue").Val() == 1 })
		time.Sleep(rand.N(100 * time.Millisecond))
		waiter.signal(t, syscall.SIGSTOP)
		var status syscall.WaitStatus
		_, err := syscall.Wait4(waiter.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		require.NoError(t, err)
		require.True(t, status.Stopped()) // all of its threads
		holder.release(t, "n")
		lease, err := other.Acquire(within(t), "n", time.Minute)
		require.NoError(t, err)
		waiter.signal(t, syscall.SIGCONT)
		require.Never(t, func() bool { return len(waiting) > 0 }, 200*time.Millisecond, 5*time.Millisecond, "two hold the lease")
		require.NoError(t, lease.Context().Err())
		require.NoError(t, lease.Release(t.Context()))
		second := held(t, waiting)
		assert.Greater(t, second.Token, lease.Token())
		waiter.release(t, "n")
	}
}

// Waiters that leave at about the moment at which they are given the lease give it back
// at once.
func TestAWaiterThatLeavesAsItIsGivenTheLease(t *testing.T) {
	server := redistest.Standalone(t)
	prefix := redistest.Prefix(t)
	holder, waiter, last := newLocker(t, server.Addr(), prefix), newLocker(t, server.Addr(), prefix), newLocker(t, server.Addr(), prefix)
	for _, kind := range []func(*lock.Locker) *lock.Locker{exclusive, (*lock.Locker).Fair} {
		for range 100 {
			lease, err := holder.Acquire(within(t), "n", time.Minute)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan acquired, 1)
			go func() {
				lease, err := kind(waiter).Acquire(ctx, "n", time.Minute)
				got <- acquired{lease, err}
			}()
			time.Sleep(rand.N(3 * time.Millisecond))
			go cancel()
			require.NoError(t, lease.Release(t.Context()))
			if w := <-got; w.err == nil {
				require.NoError(t, w.lease.Release(t.Context()))
			} else {
				require.ErrorIs(t, w.err, context.Canceled)
			}
			began := time.Now()
			next, err := last.Acquire(within(t), "n", time.Minute)
			require.NoError(t, err)
			require.Less(t, time.Since(began), 900*time.Millisecond+slack, "it waited for something to end")
			require.NoError(t, next.Release(t.Context()))
		}
	}
}

// The release may race the first renewal.
func TestAGivenLeaseThatIsReleasedAsItIsRenewed(t *testing.T) {
	server := redistest.Standalone(t)
	rdb, prefix := server.Client(t), redistest.Prefix(t)
	lockers := []*lock.Locker{newLocker(t, server.Addr(), prefix), newLocker(t, server.Addr(), prefix)}
	watches := func() bool { return len(rdb.PubSubChannels(t.Context(), prefix+"{n}:turn:*").Val()) > 0 }
	lease, err := lockers[0].Acquire(within(t), "n", time.Minute)
	require.NoError(t, err)
	renewed := 0
	for i := range 50 {
		waiting := acquireSoon(t, lockers[1-i%2])
		eventually(t, patience, "it waits", func() bool { return rdb.ZCard(t.Context(), prefix+"{n}:queue").Val() == 1 })
		eventually(t, patience, "it watches", watches)
		token := lease.Token()
		require.NoError(t, lease.Release(t.Context()))
		lease = leaseOfAny(t, []<-chan acquired{waiting})
		require.Greater(t, lease.Token(), token)
		time.Sleep(49*time.Millisecond + rand.N(3*time.Millisecond))
		if _, left := holderAt(t, rdb, prefix+"{n}"); left > 2*time.Second {
			renewed++
		}
	}
	t.Logf("%d of 50 were renewed when they were released", renewed)
	require.NoError(t, lease.Release(t.Context()))
	assert.False(t, isHeld(t, rdb, prefix+"{n}"))
	assert.Zero(t, rdb.Exists(t.Context(), prefix+"{n}:queue", prefix+"{n}:places").Val())

	// One that lasts is renewed for all of its TTL.
	lease, err = lockers[0].Acquire(within(t), "n", time.Minute)
	require.NoError(t, err)
	waiting := acquireSoon(t, lockers[1])
	eventually(t, patience, "it waits", func() bool { return rdb.ZCard(t.Context(), prefix+"{n}:queue").Val() == 1 })
	eventually(t, patience, "it watches", watches)
	require.NoError(t, lease.Release(t.Context()))
	lease = leaseOfAny(t, []<-chan acquired{waiting})
	eventually(t, time.Second, "it is renewed", func() bool {
		_, left := holderAt(t, rdb, prefix+"{n}")
		return left > 50*time.Second
	})
	require.NoError(t, lease.Release(t.Context()))
}

// A Redis that is full lets leases go all the same, and to whoever waits.
func TestAFullRedisGivesLeases(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	store := storeOn(rdb, "p:")
	holder, waiter := givable("h.1"), givable("p.1")
	acquireNow(t, store, holder)
	turn := watchFor(t, store, waiter)
	ask(t, store, waiter)
	require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	releaseHeld(t, store, holder)
	<-turn
	assert.NotZero(t, acquireNow(t, store, waiter).TTL)
	releaseHeld(t, store, waiter)
}
