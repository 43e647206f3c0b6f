package redislock_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func storeOn(rdb redislock.Client, prefix string) *redislock.Store {
	return redislock.New(rdb, &redislock.Options{Prefix: prefix})
}

func TestRoundTrips(t *testing.T) {
	server := redistest.Standalone(t)
	proxy := redistest.NewProxy(t, server.Addr())
	prefix := redistest.Prefix(t)
	locker := newLocker(t, proxy.Addr(), prefix)
	acquireAndRelease := func() {
		lease, err := locker.TryAcquire(t.Context(), "n", time.Minute)
		require.NoError(t, err)
		require.NoError(t, lease.Release(t.Context()))
	}
	acquireAndRelease() // connects, and loads the scripts

	proxy.Reset()
	for range 10 {
		acquireAndRelease()
	}
	assert.EqualValues(t, 20, proxy.Stats().RoundTrips, "10 times acquire and release")

	occupy(t, server, prefix, time.Minute)
	proxy.Reset()
	for range 10 {
		_, err := locker.TryAcquire(t.Context(), "n", time.Minute)
		require.ErrorIs(t, err, lock.ErrNotAcquired)
	}
	assert.EqualValues(t, 10, proxy.Stats().RoundTrips, "10 tries that failed: redsync's release after them must not be sent")
}

func TestOneSubscriptionForAllWaiters(t *testing.T) {
	server := redistest.NewStandalone(t)
	prefix := redistest.Prefix(t)
	store := storeOn(server.Client(t), prefix)
	for _, name := range []string{"a", "b", "c"} {
		for range 10 {
			_, stop, err := store.Watch(within(t), name, rand.Text())
			require.NoError(t, err)
			t.Cleanup(stop)
		}
	}
	clients, err := server.Client(t).Do(t.Context(), "CLIENT", "LIST", "TYPE", "pubsub").Text()
	require.NoError(t, err)
	assert.Equal(t, 1, strings.Count(clients, "\n"), clients)
}

// Clients send a command again when its answer was lost.
func TestACommandThatArrivesTwice(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		store := storeOn(rdb, redistest.Prefix(t))
		request := lock.Request{Name: "n", Owner: "a", TTL: time.Minute}
		first, err := store.TryAcquire(t.Context(), request)
		require.NoError(t, err)
		again, err := store.TryAcquire(t.Context(), request)
		require.NoError(t, err)
		assert.True(t, again.Acquired)
		assert.GreaterOrEqual(t, again.Token, first.Token)

		for range 2 {
			held, err := store.Release(t.Context(), lock.Request{Name: "n", Owner: "a"})
			require.NoError(t, err)
			assert.True(t, held, "the second must say what the first did")
		}
		for range 2 {
			held, err := store.Release(t.Context(), lock.Request{Name: "n", Owner: "b"})
			require.NoError(t, err)
			assert.False(t, held, "the second must say what the first did")
		}
	})
}

// An acquire that was stuck on its way can arrive after the release that
// followed it. Nobody would release what it took.
func TestAnAcquireThatArrivesAfterItsRelease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		store := storeOn(rdb, redistest.Prefix(t))
		_, err := store.Release(t.Context(), lock.Request{Name: "n", Owner: "a"})
		require.NoError(t, err)
		grant, err := store.TryAcquire(t.Context(), lock.Request{Name: "n", Owner: "a", TTL: time.Minute})
		require.ErrorContains(t, err, "released")
		assert.Zero(t, grant)
		grant, err = store.TryAcquire(t.Context(), lock.Request{Name: "n", Owner: "b", TTL: time.Minute})
		require.NoError(t, err)
		assert.True(t, grant.Acquired)
	})
}

func TestTokensGrowWhateverHappens(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := server.Client(t)
	prefix := redistest.Prefix(t)
	locker := lockerOn(t, rdb, prefix)
	last := uint64(0)
	grows := func(when string) {
		t.Helper()
		err := locker.Do(within(t), "n", time.Minute, func(_ context.Context, token uint64) error {
			assert.Greater(t, token, last, when)
			last = token
			return nil
		})
		require.NoError(t, err)
	}
	grows("at first")
	grows("then")
	require.NoError(t, rdb.FlushAll(t.Context()).Err())
	grows("after FLUSHALL")
	require.NoError(t, rdb.Del(t.Context(), prefix+"{n}").Err())
	grows("after the end of the key")
	require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
	grows("after SCRIPT FLUSH")
	server.Kill(t)
	server.Restart(t)
	grows("after a restart without persistence")

	// The server's clock is set back by an hour, as far as the last token can tell.
	ahead := time.Now().Add(time.Hour).UnixMicro()
	setToken(t, rdb, prefix+"{n}", ahead)
	last = uint64(ahead)
	grows("after the clock was set back")
	grows("and from there")
	assert.Less(t, last, uint64(ahead)+1000, "one by one, not by the clock")
}

// Whoever may hand a lease on asks for a block of tokens. If what is not used of it
// were lost, tokens could run ahead of the clock, and go back when Redis loses its
// data. Here the clock was set back, so that they do not hide behind it.
func TestTokensThatAreNotUsedAreGivenBack(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	locker := lockerOn(t, rdb, prefix)
	ahead := time.Now().Add(time.Hour).UnixMicro()
	setToken(t, rdb, prefix+"{n}", ahead)
	for i := range 10 {
		lease, err := locker.Acquire(within(t), "n", time.Minute)
		require.NoError(t, err)
		assert.EqualValues(t, ahead+1+int64(i), lease.Token())
		require.NoError(t, lease.Release(within(t)))
	}
	assert.EqualValues(t, ahead+10, stateAt(t, rdb, prefix+"{n}").token)
	assert.Greater(t, rdb.PTTL(t.Context(), prefix+"{n}").Val(), time.Hour)

	// What is lost before the release is not made up, and leaves no key for ever.
	lease, err := locker.Acquire(within(t), "n", time.Minute)
	require.NoError(t, err)
	require.NoError(t, rdb.Del(t.Context(), prefix+"{n}").Err())
	require.ErrorIs(t, lease.Release(within(t)), lock.ErrLost)
	assert.Zero(t, rdb.Exists(t.Context(), prefix+"{n}").Val())
}

// Redis counts in milliseconds, and the one in which a lease begins is cut off. That must
// not make the lease shorter.
func TestALeaseLastsForItsWholeTTL(t *testing.T) {
	store := storeOn(redistest.Standalone(t).Client(t), redistest.Prefix(t))
	const ttl = 5 * time.Millisecond
	for i := range 100 {
		name := fmt.Sprint(i)
		asked := time.Now()
		grant, err := store.TryAcquire(t.Context(), lock.Request{Name: name, Owner: "a", TTL: ttl})
		require.NoError(t, err)
		require.True(t, grant.Acquired)
		eventually(t, patience, "it is over", func() bool {
			grant, err := store.TryAcquire(t.Context(), lock.Request{Name: name, Owner: "b", TTL: time.Minute})
			return err == nil && grant.Acquired
		})
		assert.GreaterOrEqual(t, time.Since(asked), ttl)
	}
}

func TestEveryKeyHasATTL(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	store := storeOn(rdb, "p:")
	all := func(want map[string]time.Duration) {
		t.Helper()
		keys, err := rdb.Keys(t.Context(), "*").Result()
		require.NoError(t, err)
		got := map[string]time.Duration{}
		for _, key := range keys {
			got[key] = rdb.PTTL(t.Context(), key).Val()
		}
		require.Len(t, got, len(want), "%v", got)
		for key, ttl := range want {
			assert.InDelta(t, ttl, got[key], float64(slack), key)
		}
	}
	_, err := store.Release(t.Context(), lock.Request{Name: "never held", Owner: "a"})
	require.NoError(t, err)
	all(map[string]time.Duration{"p:{never held}:ended:": 30 * time.Second})
	require.NoError(t, rdb.FlushAll(t.Context()).Err())

	_, err = store.TryAcquire(t.Context(), lock.Request{Name: "n", Owner: "a", TTL: time.Minute})
	require.NoError(t, err)
	all(map[string]time.Duration{"p:{n}": 25*time.Hour + time.Minute})
	_, err = store.Extend(t.Context(), lock.Request{Name: "n", Owner: "a", TTL: time.Hour})
	require.NoError(t, err)
	all(map[string]time.Duration{"p:{n}": 25*time.Hour + time.Minute})
	_, err = store.Release(t.Context(), lock.Request{Name: "n", Owner: "a"})
	require.NoError(t, err)
	all(map[string]time.Duration{"p:{n}": 25*time.Hour + time.Minute})
	require.NoError(t, rdb.FlushAll(t.Context()).Err())

	for i, ttl := range []time.Duration{time.Minute, time.Hour, time.Minute} {
		_, err = store.TryAcquire(t.Context(), lock.Request{Name: "n", Owner: fmt.Sprint(i), TTL: ttl, Shared: true})
		require.NoError(t, err)
	}
	all(map[string]time.Duration{"p:{n}:shared": time.Hour, "p:{n}": 25*time.Hour + time.Minute})
	_, err = store.Extend(t.Context(), lock.Request{Name: "n", Owner: "2", TTL: 2 * time.Hour, Shared: true})
	require.NoError(t, err)
	all(map[string]time.Duration{"p:{n}:shared": 2 * time.Hour, "p:{n}": 27 * time.Hour})
	for i, place := range []time.Duration{2 * time.Second, 5 * time.Second, 2 * time.Second} {
		grant, err := store.TryAcquire(t.Context(), lock.Request{Name: "n", Owner: fmt.Sprint("w", i), TTL: time.Minute, Place: place})
		require.NoError(t, err)
		require.False(t, grant.Acquired)
	}
	all(map[string]time.Duration{"p:{n}:shared": 2 * time.Hour, "p:{n}": 27 * time.Hour, "p:{n}:queue": 5 * time.Second, "p:{n}:places": 5 * time.Second})
	for i := range 3 {
		for _, shared := range []bool{true, false} {
			owner := fmt.Sprint(i)
			if !shared {
				owner = fmt.Sprint("w", i)
			}
			_, err = store.Release(t.Context(), lock.Request{Name: "n", Owner: owner, Shared: shared})
			require.NoError(t, err)
		}
	}
	ended := map[string]time.Duration{"p:{n}": 27 * time.Hour}
	for _, family := range []string{"", "w"} {
		ended["p:{n}:ended:"+family] = 30 * time.Second
	}
	all(ended)
}

func TestKeysOfOthers(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	locker := lockerOn(t, rdb, prefix)
	tests := []struct {
		name, suffix, want string
		make               func(key string) error
	}{
		{"a list at the lease", "", "WRONGTYPE", func(key string) error { return rdb.LPush(t.Context(), key, "x").Err() }},
		{"a short string at the lease", "", "something else", func(key string) error { return rdb.Set(t.Context(), key, "x", 0).Err() }},
		{"a long string at the lease", "", "something else", func(key string) error { return rdb.Set(t.Context(), key, strings.Repeat("x", 100), 0).Err() }},
		{"a string at the shared leases", ":shared", "WRONGTYPE", func(key string) error { return rdb.Set(t.Context(), key, "x", 0).Err() }},
		{"a string at the queue", ":queue", "WRONGTYPE", func(key string) error { return rdb.Set(t.Context(), key, "x", 0).Err() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.NoError(t, tt.make(prefix+"{"+tt.name+"}"+tt.suffix))
			_, tryErr := locker.TryAcquire(t.Context(), tt.name, time.Minute)
			_, err := locker.Acquire(within(t), tt.name, time.Minute)
			for _, err := range []error{tryErr, err} {
				require.ErrorContains(t, err, tt.want)
				require.NotErrorIs(t, err, lock.ErrNotAcquired)
			}
		})
	}
}

func TestWhatNewCannotUse(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	for _, none := range []redislock.Client{nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)} {
		const want = "redislock: New needs a client, such as that of redis.NewUniversalClient or redisconn.Open"
		require.PanicsWithValue(t, want, func() { redislock.New(none, nil) })
		require.PanicsWithValue(t, want, func() { redislock.NewQuorum([]redislock.Client{rdb, none, rdb}, nil) })
	}
	require.Panics(t, func() { redislock.New(rdb, &redislock.Options{Prefix: "a{b}:"}) })
}
