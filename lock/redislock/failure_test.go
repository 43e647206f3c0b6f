package redislock_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestNeverTwoInside(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		lockers := []*lock.Locker{lockerOn(t, rdb, prefix), lockerOn(t, another(t, rdb), prefix)}
		const goroutines, times = 50, 6
		ctx := within(t)
		inside, turns, last := 0, 0, uint64(0) // guarded by the lease alone: the race detector looks on
		var wg sync.WaitGroup
		for i := range goroutines {
			wg.Go(func() {
				for range times {
					err := lockers[i%2].Do(ctx, "n", 5*time.Second, func(_ context.Context, token uint64) error {
						inside++
						assert.Equal(t, 1, inside)
						assert.Greater(t, token, last)
						last = token
						inside--
						turns++
						return nil
					})
					assert.NoError(t, err)
				}
			})
		}
		wg.Wait()
		assert.Equal(t, goroutines*times, turns)
	})
}

func TestRedisStopped(t *testing.T) {
	server := redistest.NewStandalone(t)
	locker := newLocker(t, server.Addr(), redistest.Prefix(t))
	const ttl = time.Second
	var leases []*lock.Lease
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		lease, err := locker.TryAcquire(t.Context(), name, ttl)
		require.NoError(t, err)
		leases = append(leases, lease)
	}
	time.Sleep(ttl / 2) // some renewals
	stopped := time.Now()
	server.Stop(t)
	defer server.Continue(t)

	for _, lease := range leases {
		<-lease.Context().Done()
		assert.LessOrEqual(t, time.Since(stopped), reliable(ttl)+slack, "no renewal was confirmed after Redis stopped")
		require.ErrorIs(t, context.Cause(lease.Context()), lock.ErrLost)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := locker.Acquire(ctx, "f", time.Minute)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, lock.ErrNotAcquired)
	assert.Less(t, time.Since(began), 200*time.Millisecond+slack, "the client's own timeouts are of seconds")

	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began = time.Now()
	require.ErrorIs(t, leases[0].Release(ctx), lock.ErrLost)
	assert.Less(t, time.Since(began), 200*time.Millisecond+slack)
}

// A try that Redis gets to only after the asker gave up must not leave a lease
// for which nobody is there.
func TestATryThatRedisGetsToLate(t *testing.T) {
	server := redistest.NewStandalone(t)
	prefix := redistest.Prefix(t)
	locker := newLocker(t, server.Addr(), prefix)
	require.NoError(t, locker.TryDo(t.Context(), "n", time.Minute, func(context.Context, uint64) error { return nil }))
	server.Stop(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := locker.TryAcquire(ctx, "n", time.Hour)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	time.Sleep(100 * time.Millisecond) // the release in the background is sent, and stuck as well
	server.Continue(t)

	lease, err := newLocker(t, server.Addr(), prefix).Acquire(within(t), "n", time.Minute)
	require.NoError(t, err)
	require.NoError(t, lease.Release(t.Context()))
}

func TestRedisKilled(t *testing.T) {
	server := redistest.NewStandalone(t)
	locker := newLocker(t, server.Addr(), redistest.Prefix(t))
	const ttl = time.Second
	lease, err := locker.TryAcquire(t.Context(), "n", ttl)
	require.NoError(t, err)
	killed := time.Now()
	server.Kill(t)

	<-lease.Context().Done()
	assert.LessOrEqual(t, time.Since(killed), reliable(ttl)+slack)
	require.ErrorIs(t, context.Cause(lease.Context()), lock.ErrLost)
	_, err = locker.TryAcquire(within(t), "n", ttl)
	require.Error(t, err)
	require.NotErrorIs(t, err, lock.ErrNotAcquired, "a fault is not a refusal")

	// Without persistence the server comes back knowing nothing.
	server.Restart(t)
	next, err := locker.Acquire(within(t), "n", ttl)
	require.NoError(t, err)
	assert.Greater(t, next.Token(), lease.Token())
	require.NoError(t, next.Release(t.Context()))
}

func TestALeaseSurvivesACutConnection(t *testing.T) {
	server := redistest.Standalone(t)
	proxy := redistest.NewProxy(t, server.Addr())
	locker := newLocker(t, proxy.Addr(), redistest.Prefix(t))
	lease, err := locker.TryAcquire(t.Context(), "n", time.Second)
	require.NoError(t, err)
	for range 20 {
		proxy.Cut()
		time.Sleep(100 * time.Millisecond)
	}
	require.NoError(t, lease.Context().Err())
	require.NoError(t, lease.Release(within(t)))
}

func TestAWaiterWhoseConnectionIsCut(t *testing.T) {
	server := redistest.Standalone(t)
	t.Run("and comes back", func(t *testing.T) {
		proxy := redistest.NewProxy(t, server.Addr())
		prefix := redistest.Prefix(t)
		const ttl = 3 * time.Second
		dead := occupy(t, server, prefix, ttl)
		waiting := acquireSoon(t, newLocker(t, proxy.Addr(), prefix))
		time.Sleep(200 * time.Millisecond) // it watches
		proxy.Cut()
		got := <-waiting
		require.NoError(t, got.err)
		assert.LessOrEqual(t, time.Since(dead), ttl+time.Second)
		assert.GreaterOrEqual(t, time.Since(dead), reliable(ttl))
		require.NoError(t, got.lease.Release(within(t)))
	})
	t.Run("and misses the release", func(t *testing.T) {
		proxy := redistest.NewProxy(t, server.Addr())
		prefix := redistest.Prefix(t)
		holder, err := newLocker(t, server.Addr(), prefix).Acquire(within(t), "n", time.Minute)
		require.NoError(t, err)
		waiting := acquireSoon(t, newLocker(t, proxy.Addr(), prefix))
		time.Sleep(200 * time.Millisecond)
		proxy.Cut()
		require.NoError(t, holder.Release(t.Context()))
		released := time.Now()
		got := <-waiting
		require.NoError(t, got.err)
		assert.Less(t, time.Since(released), 3*time.Second)
		require.NoError(t, got.lease.Release(within(t)))
	})
}

// occupy lets somebody hold the lease "n" who does not renew it. It returns the
// time at which it was asked for.
func occupy(t *testing.T, server *redistest.Server, prefix string, ttl time.Duration) time.Time {
	t.Helper()
	asked := time.Now()
	grant, err := storeOn(server.Client(t), prefix).TryAcquire(t.Context(), lock.Request{Name: "n", Owner: "the dead", TTL: ttl})
	require.NoError(t, err)
	require.True(t, grant.Acquired)
	return asked
}

type acquired struct {
	lease *lock.Lease
	err   error
}

func acquireSoon(t *testing.T, locker *lock.Locker) <-chan acquired {
	t.Helper()
	ctx := within(t)
	done := make(chan acquired, 1)
	go func() {
		lease, err := locker.Acquire(ctx, "n", time.Minute)
		done <- acquired{lease, err}
	}()
	return done
}

func TestTheHolderIsKilled(t *testing.T) {
	server := redistest.Standalone(t)
	prefix := redistest.Prefix(t)
	const ttl = time.Second
	process, token := startHolder(t, server.Addr(), prefix, ttl)
	waiting := acquireSoon(t, newLocker(t, server.Addr(), prefix))
	time.Sleep(2 * ttl) // the other process renews
	require.Empty(t, waiting, "the other process still holds the lease")
	require.NoError(t, process.Process.Kill())
	killed := time.Now()
	got := <-waiting
	require.NoError(t, got.err)
	assert.LessOrEqual(t, time.Since(killed), ttl+slack)
	assert.Greater(t, got.lease.Token(), token)
	require.NoError(t, got.lease.Release(within(t)))
}

func TestReleaseRacingRenewal(t *testing.T) {
	server := redistest.Standalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	prefix := redistest.Prefix(t)
	before := goleak.IgnoreCurrent()
	locker := lockerOn(t, rdb, prefix)
	const (
		ttl    = 3 * time.Second // a busy machine must not lose leases here
		leases = 200
	)
	var wg sync.WaitGroup
	for i := range leases {
		wg.Go(func() {
			for range 3 {
				lease, err := locker.TryAcquire(t.Context(), fmt.Sprint(i), ttl)
				if !assert.NoError(t, err, "what was released must be free") {
					return
				}
				// The renewal is due between 4/15 and 5/15 of the TTL.
				time.Sleep(ttl*4/15 + rand.N(ttl/15))
				assert.NoError(t, lease.Release(t.Context()))
			}
		})
	}
	wg.Wait()
	for i := range leases {
		assert.Zero(t, rdb.Exists(t.Context(), fmt.Sprintf("%s{%d}", prefix, i)).Val(), "a key is left")
	}
	require.NoError(t, rdb.Close())
	goleak.VerifyNone(t, before)
}
