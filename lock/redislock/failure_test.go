package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
	const ttl = 3 * time.Second
	lease, err := locker.TryAcquire(t.Context(), "n", ttl)
	require.NoError(t, err)
	for acquired := time.Now(); time.Since(acquired) < ttl+ttl/3; {
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

// confirmed is a store that remembers when the last step that it confirmed was
// sent, which is what the deadline of a lease counts from.
type confirmed struct {
	lock.Store

	mu   sync.Mutex
	sent map[string]time.Time // by name
}

func (c *confirmed) TryAcquire(ctx context.Context, req lock.Request) (lock.Grant, error) {
	sent := time.Now()
	grant, err := c.Store.TryAcquire(ctx, req)
	c.confirm(req, sent, err == nil && grant.Acquired)
	return grant, err
}

func (c *confirmed) Extend(ctx context.Context, req lock.Request) (bool, error) {
	sent := time.Now()
	ok, err := c.Store.Extend(ctx, req)
	c.confirm(req, sent, err == nil && ok)
	return ok, err
}

func (c *confirmed) confirm(req lock.Request, sent time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ok {
		c.sent[req.Name] = sent
	}
}

func (c *confirmed) last(name string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent[name]
}

// Whenever Redis stops, and whatever is under way then, no context outlives what
// Redis has confirmed: past the TTL that was confirmed last somebody else could
// have the lease, if Redis were there for them.
func TestRedisStopsAtAnyMoment(t *testing.T) {
	// 1 % of this TTL and 2 ms are more than the 50 ms by which a context may be late.
	const servers, leases, ttl, target = 20, 5, 5 * time.Second, 50 * time.Millisecond
	type run struct {
		store *confirmed
		name  string
		lease *lock.Lease
		ended chan time.Time
	}
	var list []*redistest.Server
	var stores []*confirmed
	for range servers {
		server := redistest.NewStandalone(t)
		list = append(list, server)
		stores = append(stores, &confirmed{Store: storeOn(server.Client(t), "p:"), sent: make(map[string]time.Time)})
	}
	worst := stalls(t)
	var runs []run
	for i := range leases {
		for _, store := range stores {
			r := run{store: store, name: fmt.Sprint("n", i), ended: make(chan time.Time, 1)}
			var err error
			r.lease, err = lockerWith(t, store).TryAcquire(t.Context(), r.name, ttl)
			require.NoError(t, err)
			context.AfterFunc(r.lease.Context(), func() { r.ended <- time.Now() })
			runs = append(runs, r)
			time.Sleep(rand.N(ttl / 3 / servers / leases))
		}
	}
	for _, server := range list {
		time.Sleep(ttl/3/servers + rand.N(ttl/3/servers)) // in all, more than a renewal takes
		server.Stop(t)
	}
	var late []time.Duration
	for _, r := range runs {
		ended := <-r.ended
		require.ErrorIs(t, context.Cause(r.lease.Context()), lock.ErrLost)
		late = append(late, ended.Sub(r.store.last(r.name).Add(reliable(ttl))))
	}
	slices.Sort(late)
	t.Logf("Redis stopped at %d moments; %d contexts ended %v to %v after the confirmed deadline, p50 %v, p99 %v; target: %v; this machine stalls for up to %v",
		servers, len(late), late[0], late[len(late)-1], percentile(late, 50), percentile(late, 99), target, worst())
	assert.LessOrEqual(t, late[len(late)-1], target+worst())
	assert.GreaterOrEqual(t, late[0], -target-worst(), "a lease lasts until its deadline")
}

// The primary dies while some hold leases and others wait for them. The replicas
// have heard of the leases here, so those that last longer than the failover
// survive it.
func TestAFailoverWhileOthersWait(t *testing.T) {
	deployment := redistest.NewSentinels(t)
	prefix := redistest.Prefix(t)
	holders, waiters := lockerOn(t, deployment.Client(t), prefix), lockerOn(t, deployment.Client(t), prefix)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	type contest struct {
		first  *lock.Lease
		second chan *lock.Lease // of whoever waits
		faults int              // that it met meanwhile
		long   bool
	}
	var contests []*contest
	for i, ttl := range []time.Duration{time.Second, time.Minute} {
		for j := range 10 {
			name := fmt.Sprint("n", i, "-", j)
			first, err := holders.Acquire(ctx, name, ttl)
			require.NoError(t, err)
			c := &contest{first: first, second: make(chan *lock.Lease, 1), long: i == 1}
			contests = append(contests, c)
			go func() {
				defer close(c.second)
				for ctx.Err() == nil {
					lease, err := waiters.Acquire(ctx, name, ttl)
					if err == nil {
						c.second <- lease
						return
					}
					c.faults++
					time.Sleep(100 * time.Millisecond) // as one who tries again does
				}
			}()
		}
	}
	rdb := deployment.Client(t).Conn() // whose WAIT is for its own writes
	defer rdb.Close()
	require.NoError(t, rdb.Set(ctx, prefix+"last", 1, time.Minute).Err())
	require.EqualValues(t, 2, rdb.Wait(ctx, 2, patience).Val(), "replicas that are up to date")
	time.Sleep(time.Second)
	primary := deployment.Primary(t)
	killed := time.Now()
	primary.Kill(t)

	lost, survived, lostAgain, faults := 0, 0, 0, 0
	// While the servers change roles the client may still ask the dead one.
	release := func(lease *lock.Lease) error {
		for {
			err := lease.Release(ctx)
			if err == nil || errors.Is(err, lock.ErrLost) || ctx.Err() != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	var longest time.Duration
	got := func(c *contest) {
		lease := <-c.second
		longest = max(longest, time.Since(killed))
		if !assert.NotNil(t, lease, "a waiter is stuck") {
			return
		}
		faults += c.faults
		assert.Greater(t, lease.Token(), c.first.Token())
		err := release(lease)
		if !c.long && errors.Is(err, lock.ErrLost) {
			lostAgain++ // a second is short: a busy machine may have lost the first one before the primary died
			return
		}
		assert.NoError(t, err)
	}
	for _, c := range contests {
		if !c.long {
			<-c.first.Context().Done()
			require.ErrorIs(t, context.Cause(c.first.Context()), lock.ErrLost)
			lost++
			got(c)
		}
	}
	require.Eventually(t, func() bool { return deployment.Primary(t) != primary },
		patience, 10*time.Millisecond, "the Sentinel that is asked hears of the new primary after the one that chose it")
	for _, c := range contests {
		if !c.long {
			continue
		}
		if assert.NoError(t, release(c.first)) {
			survived++
		}
		got(c)
	}
	t.Logf("%d leases lost and %d of the next, %d survived; %d times a waiter met a fault and tried again; the last one had its lease %v after the death of the primary", lost, lostAgain, survived, faults, longest)
}

// Whatever happens to Redis and the way to it: whoever asks again gets a lease,
// its token is larger than all before, and it is the only one whose context has
// not ended, unless Redis forgets its data.
func TestContendersWhileRedisFails(t *testing.T) {
	// The longer the TTL, the longer a lease may stay that was acquired and whose
	// answer was lost.
	const goroutines, names, ttl, lasts = 48, 4, 2 * time.Second, 4 * time.Second
	tests := []struct {
		name    string
		fail    func(t *testing.T, server *redistest.Server, proxy *redistest.Proxy)
		forgets bool
	}{
		{name: "connections are cut", fail: func(_ *testing.T, _ *redistest.Server, proxy *redistest.Proxy) {
			proxy.Cut()
		}},
		{name: "the network swallows everything", fail: func(_ *testing.T, _ *redistest.Server, proxy *redistest.Proxy) {
			proxy.Blackhole(true)
			time.Sleep(rand.N(ttl))
			proxy.Blackhole(false)
		}},
		{name: "Redis stops", fail: func(t *testing.T, server *redistest.Server, _ *redistest.Proxy) {
			server.Stop(t)
			time.Sleep(rand.N(ttl))
			server.Continue(t)
		}},
		{name: "Redis starts again without its data", forgets: true, fail: func(t *testing.T, server *redistest.Server, _ *redistest.Proxy) {
			server.Kill(t)
			time.Sleep(rand.N(ttl / 4))
			server.Restart(t)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := redistest.NewStandalone(t)
			proxy := redistest.NewProxy(t, server.Addr())
			prefix := redistest.Prefix(t)
			// Two processes, of which only one has a bad network, and two kinds.
			var lockers []*lock.Locker
			for _, addr := range []string{proxy.Addr(), server.Addr()} {
				rdb := redis.NewClient(&redis.Options{Addr: addr})
				t.Cleanup(func() { _ = rdb.Close() })
				locker, err := lock.New(storeOn(rdb, prefix), &lock.Options{DriftFactor: timersAreLate})
				require.NoError(t, err)
				lockers = append(lockers, locker, locker.Fair())
			}
			var mu sync.Mutex
			var holders [names]map[*lock.Lease]bool
			var last [names]uint64
			got := func(name int, lease *lock.Lease) {
				mu.Lock()
				defer mu.Unlock()
				if holders[name] == nil {
					holders[name] = make(map[*lock.Lease]bool)
				}
				for other := range holders[name] {
					// In this order: the one that came first ends first.
					if lease.Context().Err() == nil && other.Context().Err() == nil && !tt.forgets {
						assert.Fail(t, "two hold a lease", "tokens %d and %d", other.Token(), lease.Token())
					}
				}
				holders[name][lease] = true
				if lease.Context().Err() == nil {
					assert.Greater(t, lease.Token(), last[name])
					last[name] = lease.Token()
				}
			}
			gone := func(name int, lease *lock.Lease) {
				mu.Lock()
				defer mu.Unlock()
				delete(holders[name], lease)
			}

			over := time.Now().Add(lasts)
			var turns, faults, lost atomic.Int64
			var longest [goroutines]time.Duration
			var wg sync.WaitGroup
			for i := range goroutines {
				wg.Go(func() {
					name := i % names
					locker := lockers[i/names%len(lockers)]
					for asked := time.Now(); asked.Before(over); {
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						lease, err := locker.Acquire(ctx, fmt.Sprint(name), ttl)
						if !assert.NotErrorIs(t, err, lock.ErrNotAcquired, "stuck") {
							cancel()
							return
						}
						if err != nil {
							faults.Add(1)
							cancel()
							time.Sleep(rand.N(20 * time.Millisecond)) // as one who tries again does
							continue
						}
						got(name, lease)
						longest[i] = max(longest[i], time.Since(asked))
						time.Sleep(rand.N(5 * time.Millisecond))
						gone(name, lease)
						if errors.Is(lease.Release(ctx), lock.ErrLost) {
							lost.Add(1)
						}
						cancel()
						turns.Add(1)
						asked = time.Now()
					}
				})
			}
			done := make(chan struct{})
			go func() { wg.Wait(); close(done) }()
			for running := true; running; {
				select {
				case <-done:
					running = false
				case <-time.After(rand.N(ttl / 4)):
					if time.Now().Before(over) {
						tt.fail(t, server, proxy)
					}
				}
			}
			worst := time.Duration(0)
			for _, l := range longest {
				worst = max(worst, l)
			}
			t.Logf("%d turns, %d faults met, %d leases lost; the longest turn took %v", turns.Load(), faults.Load(), lost.Load(), worst)
			assert.Less(t, worst, 15*time.Second)
		})
	}
}
