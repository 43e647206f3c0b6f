package rediscache_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func rdbOf(t *testing.T, server *redistest.Server) *redis.Client {
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

func engineOn(t *testing.T, rdb *redis.Client, s *rediscache.Store, o cache.Options) *cache.Engine {
	locker, err := lock.New(redislock.New(rdb, nil), nil)
	require.NoError(t, err)
	o.Locker = locker
	o.Logger = slog.New(slog.DiscardHandler)
	e, err := cache.New(s, &o)
	require.NoError(t, err)
	return e
}

// Each of its keys has a lease, a fill and a budget of its own.
func TestAColdBatchIsStored(t *testing.T) {
	server := redistest.Standalone(t)
	rdb := rdbOf(t, server)
	for _, count := range []int{50, 200, 1000} {
		tries(t, func(m *measurement) {
			s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)})
			e := engineOn(t, rdb, s, cache.Options{StoreTimeout: 500 * time.Millisecond, LeaseTTL: 10 * time.Second})
			n, err := cache.For[string](e, "n", cache.Policy{TTL: time.Minute})
			require.NoError(t, err)
			keys := make([]string, count)
			for i := range keys {
				keys[i] = fmt.Sprint("k", i)
			}
			var loads atomic.Int32
			load := func(_ context.Context, keys []string) (map[string]string, error) {
				loads.Add(1)
				values := map[string]string{}
				for _, k := range keys {
					values[k] = "v"
				}
				return values, nil
			}
			began := time.Now()
			got, err := n.GetMany(t.Context(), keys, load)
			took := time.Since(began)
			require.NoError(t, err)
			require.Len(t, got, count)
			full := make([]string, count)
			for i, key := range keys {
				full[i] = "n:" + key
			}
			found, err := s.GetMany(t.Context(), full)
			require.NoError(t, err)
			stored := 0
			for _, f := range found {
				if f.Kind != 0 {
					stored++
				}
			}
			m.check(stored >= count*9/10, "%d of %d stored", stored, count)
			t.Logf("%d keys: %v, %d calls of load, %d stored, store errors %d, breaker open %v", count, took, loads.Load(), stored, e.Stats().StoreErrors, e.Stats().BreakerOpen)
		})
	}
}

// Storing has its budget, however many chunks the value has.
func TestRedisStopsDuringALoad(t *testing.T) {
	for _, size := range []int{10, 1 << 20} {
		server := redistest.NewStandalone(t)
		rdb := rdbOf(t, server)
		s := rediscache.New(rdb, &rediscache.Options{CompressAbove: -1})
		e := engineOn(t, rdb, s, cache.Options{})
		n, err := cache.For[[]byte](e, "n", cache.Policy{TTL: time.Minute})
		require.NoError(t, err)
		var ended time.Time
		_, err = n.Get(t.Context(), "k", func(context.Context, string) ([]byte, error) {
			server.Stop(t)
			ended = time.Now()
			return make([]byte, size), nil
		})
		took := time.Since(ended)
		server.Continue(t)
		require.NoError(t, err)
		// The client's own ReadTimeout is 3 s.
		assert.Less(t, took, 2*time.Second, "%d bytes: held up after the load by a store with a StoreTimeout of 50 ms", size)
	}
}

// Foreign types and bytes.
func TestWhatIsNotOursIsInNobodysWay(t *testing.T) {
	server := redistest.Standalone(t)
	rdb := rdbOf(t, server)
	t.Run("head", func(t *testing.T) {
		s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)})
		require.NoError(t, rdb.Set(t.Context(), s.HeadName(), "x", time.Minute).Err())
		_, _, err := s.Get(t.Context(), "key")
		assert.NoError(t, err)
	})
	t.Run("log", func(t *testing.T) {
		s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)})
		require.NoError(t, rdb.Set(t.Context(), s.HeadName()+":log", "x", time.Minute).Err())
		_, _, err := s.Get(t.Context(), "key")
		assert.NoError(t, err)
	})
	t.Run("write", func(t *testing.T) {
		s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)})
		require.NoError(t, rdb.HSet(t.Context(), s.EntryName("key")+":write", "v", "x", "w:x", "x").Err())
		assert.NoError(t, s.Purge(t.Context(), cache.Purge{Keys: []string{"key"}}))
		b, err := s.Begin(t.Context(), "key", cache.Filling{Token: 1, TTL: time.Minute})
		assert.NoError(t, err)
		_, err = s.Fill(t.Context(), "key", b.Ticket, tagged("v"))
		assert.NoError(t, err)
	})
	t.Run("write type", func(t *testing.T) {
		s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)})
		require.NoError(t, rdb.Set(t.Context(), s.EntryName("key")+":write", "v", time.Minute).Err())
		assert.NoError(t, s.Purge(t.Context(), cache.Purge{Keys: []string{"key"}}))
		b, err := s.Begin(t.Context(), "key", cache.Filling{Token: 1, TTL: time.Minute})
		assert.NoError(t, err)
		_, err = s.Fill(t.Context(), "key", b.Ticket, tagged("v"))
		assert.NoError(t, err)
		w, err := s.BeginWrite(t.Context(), "key", time.Minute)
		assert.NoError(t, err)
		_, err = s.Write(t.Context(), "key", w, tagged("v"))
		assert.NoError(t, err)
	})
}

// Also after another one.
func TestABeginWriteThatArrivesTwice(t *testing.T) {
	server := redistest.Standalone(t)
	rdb := rdbOf(t, server)
	s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)})
	for _, id := range []string{"A", "B", "A"} {
		_, err := s.BeginWriteWith(t.Context(), "key", id)
		require.NoError(t, err)
	}
	assert.EqualValues(t, 3, rdb.HLen(t.Context(), s.EntryName("key")+":write").Val(), "the number, and two writes")
}

// During an upgrade.
func TestRecordsOfANewerVersionHideNoOthers(t *testing.T) {
	server := redistest.Standalone(t)
	rdb := rdbOf(t, server)
	o := &rediscache.Options{Prefix: redistest.Prefix(t), TierBytes: -1}
	one := rediscache.New(rdb, o)
	two := rediscache.New(rdb, o)
	two.SetLog(1000, 2)
	purge(t, one, cache.Purge{Tags: []string{"first"}})
	e1 := one.Known()
	require.NoError(t, rdb.ZAdd(t.Context(), one.HeadName()+":log", redis.Z{Score: float64(e1 + 1), Member: "newer1"}, redis.Z{Score: float64(e1 + 2), Member: "newer2"}, redis.Z{Score: float64(e1 + 3), Member: "newer3"}).Err())
	time.Sleep(10 * time.Millisecond)
	purge(t, one, cache.Purge{Tags: []string{"other"}}) // an epoch after them
	require.True(t, fillWith(t, one, "key", 1, tagged("old")))
	purge(t, one, cache.Purge{Tags: []string{"tag"}})
	require.Empty(t, get(t, one, "key"))
	assert.Empty(t, get(t, two, "key"), "its tag has been purged")
}
