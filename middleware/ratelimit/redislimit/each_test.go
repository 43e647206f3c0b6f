package redislimit_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/internal/gcra"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
)

func hourly(key string, burst, n int) ratelimit.Request {
	return ratelimit.Request{Checks: []ratelimit.Check{{Key: key, Name: "l", N: n, Limit: ratelimit.Limit{Rate: 1, Period: time.Hour, Burst: burst}}}}
}

// Decisions that go together are exact, about a key that all want, and about each one's
// own; and a key that holds something else is nobody else's trouble.
func TestManyDecisionsAtATime(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	store := redislimit.New(rdb, &redislimit.Options{Prefix: "p:"})
	_, err := store.Take(t.Context(), hourly("foreign", 5, 1))
	require.NoError(t, err)
	keys, err := rdb.Keys(t.Context(), "*foreign*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 1)
	require.NoError(t, rdb.Set(t.Context(), keys[0], "something else", 0).Err())
	require.NoError(t, rdb.ConfigResetStat(t.Context()).Err())
	const goroutines, times, limit = 64, 30, 500
	var shared atomic.Int64
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			var own int
			for range times {
				d, err := store.Take(t.Context(), hourly("shared", limit, 1))
				assert.NoError(t, err)
				if d.Allowed {
					shared.Add(1)
				}
				if g == 7 {
					_, err = store.Take(t.Context(), hourly("foreign", 5, 1))
					assert.ErrorIs(t, err, ratelimit.ErrForeign)
					continue
				}
				d, err = store.Take(t.Context(), hourly(fmt.Sprint("own", g), g%20+1, 1))
				assert.NoError(t, err)
				if d.Allowed {
					own++
				}
			}
			if g != 7 {
				assert.Equal(t, g%20+1, own)
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, limit, shared.Load())
	stats, err := rdb.InfoMap(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	var calls int
	_, err = fmt.Sscanf(stats["Commandstats"]["cmdstat_evalsha"], "calls=%d", &calls)
	require.NoError(t, err)
	assert.Less(t, calls, goroutines*times)
}

// A denial needs no memory, and is one beside decisions that fail for want of it.
func TestDenialsOfAFullRedis(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	store := redislimit.New(rdb, nil)
	const goroutines = 48
	take := func(full bool) {
		var wg sync.WaitGroup
		for i := range goroutines {
			wg.Go(func() {
				for range 50 {
					d, err := store.Take(t.Context(), hourly(fmt.Sprint("k", i), i+1, 1))
					switch {
					case i%3 == 0 && full:
						assert.ErrorContains(t, err, "OOM")
					case !assert.NoError(t, err):
					case i%3 != 0:
						assert.False(t, d.Allowed)
						assert.InDelta(t, time.Duration(i+1)*time.Hour, d.States[0].ResetAfter, float64(time.Minute))
					}
				}
			})
		}
		wg.Wait()
	}
	for i := range goroutines {
		if i%3 != 0 {
			d, err := store.Take(t.Context(), hourly(fmt.Sprint("k", i), i+1, i+1))
			require.NoError(t, err)
			require.True(t, d.Allowed)
		}
	}
	take(false) // they go together from here on
	for i := 0; i < goroutines; i += 3 {
		require.NoError(t, store.Reset(t.Context(), fmt.Sprint("k", i), "l"))
	}
	require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	take(true)
	// What the first owes is more than the new limit has, which cannot be written.
	lower := ratelimit.Check{Key: "k1", Name: "l", Limit: ratelimit.PerSecond(5), N: 1}
	other := ratelimit.Check{Key: "k1", Name: "other", Limit: ratelimit.PerSecond(5), N: 1}
	for _, checks := range [][]ratelimit.Check{{lower}, {lower, other}} {
		d, err := store.Take(t.Context(), ratelimit.Request{Checks: checks})
		require.NoError(t, err)
		require.False(t, d.Allowed)
	}
}

// go-redis leaves a connection for a command that says READONLY, and not for one with that
// somewhere in its answer.
func TestAReplicaRefusesAllDecisions(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	rule, err := gcra.NewRule(1, time.Hour, 1)
	require.NoError(t, err)
	asked := redislimit.Asked(rule, rule.Cost(1))
	script := redis.NewScript(redislimit.OneSource)
	require.NoError(t, script.Load(t.Context(), rdb).Err())
	require.NoError(t, rdb.Do(t.Context(), "REPLICAOF", "127.0.0.1", "1").Err())
	err = script.EvalSha(t.Context(), rdb, []string{"a", "b"}, asked, asked).Err()
	require.True(t, redis.IsReadOnlyError(err), "%v", err)
}
