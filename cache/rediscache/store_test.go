package rediscache_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/cachetest"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

func TestStore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		cachetest.Run(t, func(t *testing.T) cache.Store {
			return rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)})
		})
	})
}

func fill(t *testing.T, s cache.Store, key string, token uint64, data string) bool {
	t.Helper()
	b, err := s.Begin(t.Context(), key, token, time.Minute)
	require.NoError(t, err)
	require.Equal(t, cache.Begun, b.Outcome)
	stored, err := s.Fill(t.Context(), key, token, cache.Entry{Kind: cache.Value, Data: []byte(data), TTL: time.Minute})
	require.NoError(t, err)
	return stored
}

// keysOf returns the keys under prefix. Tests may scan; the store never does.
func keysOf(t *testing.T, rdb *redis.Client, prefix string) []string {
	t.Helper()
	keys, err := rdb.Keys(t.Context(), prefix+"*").Result()
	require.NoError(t, err)
	return keys
}

// Whatever lies where an entry should be, readers see a miss, and the next fill
// puts it right.
func TestWhatIsNoEntryIsAMiss(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	whole := func(t *testing.T) (s *rediscache.Store, redisKey string, bytes []byte) {
		prefix := redistest.Prefix(t)
		s = rediscache.New(rdb, &rediscache.Options{Prefix: prefix})
		require.True(t, fill(t, s, "key", 1, "some data"))
		for _, k := range keysOf(t, rdb, prefix) {
			if rdb.StrLen(t.Context(), k).Val() > 20 {
				redisKey = k
			}
		}
		bytes, err := rdb.Get(t.Context(), redisKey).Bytes()
		require.NoError(t, err)
		return s, redisKey, bytes
	}
	_, _, original := whole(t)
	damage := map[string]func(ctx context.Context, key string, b []byte) error{
		"another type": func(ctx context.Context, key string, _ []byte) error {
			return errors.Join(rdb.Del(ctx, key).Err(), rdb.RPush(ctx, key, "x").Err(), rdb.Expire(ctx, key, time.Minute).Err())
		},
		"foreign bytes": func(ctx context.Context, key string, _ []byte) error {
			return rdb.Set(ctx, key, "<html>", time.Minute).Err()
		},
		"empty": func(ctx context.Context, key string, _ []byte) error {
			return rdb.Set(ctx, key, "", time.Minute).Err()
		},
		"without an end": func(ctx context.Context, key string, b []byte) error {
			return rdb.Set(ctx, key, b, 0).Err()
		},
		"longer": func(ctx context.Context, key string, b []byte) error {
			return rdb.Set(ctx, key, append(b, 0), time.Minute).Err()
		},
	}
	for i := range original {
		damage[fmt.Sprintf("byte %02d flipped", i)] = func(ctx context.Context, key string, b []byte) error {
			b[i] ^= 0x10
			return rdb.Set(ctx, key, b, time.Minute).Err()
		}
		damage[fmt.Sprintf("cut after %02d", i)] = func(ctx context.Context, key string, b []byte) error {
			return rdb.Set(ctx, key, b[:i], time.Minute).Err()
		}
	}
	for name, damage := range damage {
		t.Run(name, func(t *testing.T) {
			s, redisKey, bytes := whole(t)
			require.NoError(t, damage(t.Context(), redisKey, bytes))
			_, ok, err := s.Get(t.Context(), "key")
			require.NoError(t, err)
			require.False(t, ok)
			require.True(t, fill(t, s, "key", 2, "new data"), "damage must not be in the way of the next fill")
			e, ok, err := s.Get(t.Context(), "key")
			require.NoError(t, err)
			require.True(t, ok)
			assert.Equal(t, "new data", string(e.Data))
		})
	}
}

// Two keys whose digests collide must not be mixed up. No such pair is known,
// so the entry of one is put where the other's belongs.
func TestAnEntryOfAnotherKeyIsAMiss(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	s := rediscache.New(rdb, &rediscache.Options{Prefix: prefix})
	require.True(t, fill(t, s, "mine", 1, "my data"))
	var mine string
	for _, k := range keysOf(t, rdb, prefix) {
		if rdb.StrLen(t.Context(), k).Val() > 20 {
			mine = k
		}
	}
	require.True(t, fill(t, s, "theirs", 1, "their data"))
	for _, k := range keysOf(t, rdb, prefix) {
		if k != mine && rdb.StrLen(t.Context(), k).Val() > 20 {
			require.NoError(t, rdb.Copy(t.Context(), k, mine, 0, true).Err())
		}
	}
	_, ok, err := s.Get(t.Context(), "mine")
	require.NoError(t, err)
	assert.False(t, ok)
}

func TestEveryKeyHasATTL(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	s := rediscache.New(rdb, &rediscache.Options{Prefix: prefix})
	require.True(t, fill(t, s, "filled", 1, "data"))
	require.NoError(t, s.Purge(t.Context(), "filled"))
	require.True(t, fill(t, s, "filled", 2, "data"))
	_, err := s.Begin(t.Context(), "begun", 1, time.Minute)
	require.NoError(t, err)
	keys := keysOf(t, rdb, prefix)
	require.Len(t, keys, 2, "an entry and a fill")
	for _, key := range keys {
		left, err := rdb.PTTL(t.Context(), key).Result()
		require.NoError(t, err)
		assert.Greater(t, left, time.Duration(0), key)
	}
}

func TestRoundTrips(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)})
	// Once for the connections and the scripts.
	require.True(t, fill(t, s, "key", 1, "data"))
	_, _, err := s.Get(t.Context(), "key")
	require.NoError(t, err)
	require.NoError(t, s.Purge(t.Context(), "key"))

	count := func(step func()) int64 {
		before := proxy.Stats().RoundTrips
		step()
		return proxy.Stats().RoundTrips - before
	}
	assert.EqualValues(t, 2, count(func() { fill(t, s, "key", 2, "data") }), "begin and fill")
	assert.EqualValues(t, 1, count(func() { _, _, _ = s.Get(t.Context(), "key") }), "get")
	assert.EqualValues(t, 1, count(func() { _ = s.Purge(t.Context(), "key") }), "purge")
}

func TestAStoppedRedisEndsWithTheContext(t *testing.T) {
	server := redistest.NewStandalone(t)
	s := rediscache.New(server.Client(t), nil)
	require.True(t, fill(t, s, "key", 1, "data"))
	server.Stop(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err := s.Get(ctx, "key")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	server.Continue(t)
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	assert.Panics(t, func() { rediscache.New(nil, nil) })
	assert.Panics(t, func() {
		rediscache.New(redis.NewClient(&redis.Options{}), &rediscache.Options{Prefix: "a{b}"})
	})
}
