package rediscache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

func TestStore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		cachetest.Run(t, func(t *testing.T) cache.Store {
			return rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)})
		})
	})
}

func fill(t *testing.T, s cache.Store, key string, token uint64, data string) bool {
	t.Helper()
	return fillWith(t, s, key, token, cache.Entry{Kind: cache.Value, Data: []byte(data), TTL: time.Minute})
}

func fillWith(t *testing.T, s cache.Store, key string, token uint64, e cache.Entry) bool {
	t.Helper()
	stored, err := s.Fill(t.Context(), key, begin(t, s, key, token), e)
	require.NoError(t, err)
	return stored
}

func begin(t *testing.T, s cache.Store, key string, token uint64) cache.Ticket {
	t.Helper()
	b, err := s.Begin(t.Context(), key, cache.Filling{Token: token, TTL: time.Minute})
	require.NoError(t, err)
	require.Equal(t, cache.Begun, b.Outcome)
	return b.Ticket
}

func purge(t *testing.T, s cache.Store, p cache.Purge) {
	t.Helper()
	require.NoError(t, s.Purge(t.Context(), p))
}

// get returns the data under key, or nothing.
func get(t *testing.T, s cache.Store, key string) string {
	t.Helper()
	e, ok, err := s.Get(t.Context(), key)
	require.NoError(t, err)
	if !ok {
		return ""
	}
	return string(e.Data)
}

// entryKey returns the Redis key of the only entry under prefix.
func entryKey(t *testing.T, rdb *redis.Client, prefix string) string {
	t.Helper()
	var found []string
	for _, k := range keysOf(t, rdb, prefix) {
		if strings.HasSuffix(k, "}") && !strings.HasSuffix(k, "{purges}") {
			found = append(found, k)
		}
	}
	require.Len(t, found, 1)
	return found[0]
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
		s = rediscache.New(rdb, &rediscache.Options{Prefix: prefix, TierBytes: -1})
		require.True(t, fillWith(t, s, "key", 1, cache.Entry{
			Kind: cache.Value, Data: []byte("some data"), TTL: time.Minute, StaleFor: time.Minute, Tags: []string{"tag"},
		}))
		redisKey = entryKey(t, rdb, prefix)
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
			e, ok, err := s.Get(t.Context(), "key")
			require.NoError(t, err)
			require.False(t, ok)
			require.Equal(t, cache.Entry{Damaged: true}, e)
			require.True(t, fill(t, s, "key", 2, "new data"), "damage must not be in the way of the next fill")
			e, ok, err = s.Get(t.Context(), "key")
			require.NoError(t, err)
			require.True(t, ok)
			assert.Equal(t, "new data", string(e.Data))
		})
	}
}

// Somebody has taken the TTL of an entry away. It ends when it says.
func TestAnEntryWithoutATTL(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	s := rediscache.New(rdb, &rediscache.Options{Prefix: prefix, TierBytes: -1})
	require.True(t, fillWith(t, s, "key", 1, cache.Entry{Kind: cache.Value, Data: []byte("old"), TTL: 300 * time.Millisecond}))
	require.NoError(t, rdb.Persist(t.Context(), entryKey(t, rdb, prefix)).Err())
	require.Eventually(t, func() bool {
		e, ok, err := s.Get(t.Context(), "key")
		require.NoError(t, err)
		require.False(t, e.Damaged)
		require.LessOrEqual(t, e.TTL, 300*time.Millisecond)
		return !ok
	}, atLongest, 10*time.Millisecond)
	require.True(t, fill(t, s, "key", 2, "new"))
	e, ok, err := s.Get(t.Context(), "key")
	require.NoError(t, err)
	require.True(t, ok)
	assert.Equal(t, "new", string(e.Data))
}

// The server's clock, as it is told from here, may be ahead. What Redis has is not over.
func TestAnEntryDoesNotEndBeforeItsTime(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t) // whose clock is this process's
	s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t), TierBytes: -1})
	for range 5 {
		began := time.Now()
		require.True(t, fillWith(t, s, "key", uint64(began.UnixMicro()), cache.Entry{Kind: cache.Value, Data: []byte("x"), TTL: 100 * time.Millisecond}))
		s.PutClockAhead(10 * time.Millisecond)
		for {
			asked := time.Now()
			_, ok, err := s.Get(t.Context(), "key")
			require.NoError(t, err)
			if !ok {
				require.GreaterOrEqual(t, time.Since(began), 100*time.Millisecond)
				break
			}
			require.Less(t, asked.Sub(began), 20*time.Second)
		}
	}
}

// Two keys whose digests collide must not be mixed up. No such pair is known,
// so the entry of one is put where the other's belongs.
func TestAnEntryOfAnotherKeyIsAMiss(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	s := rediscache.New(rdb, &rediscache.Options{Prefix: prefix, TierBytes: -1})
	require.True(t, fill(t, s, "mine", 1, "my data"))
	mine := entryKey(t, rdb, prefix)
	bytes, err := rdb.Get(t.Context(), mine).Bytes()
	require.NoError(t, err)
	purge(t, s, cache.Purge{Keys: []string{"mine"}})
	require.True(t, fill(t, s, "theirs", 1, "their data"))
	theirs := entryKey(t, rdb, prefix)
	require.NoError(t, rdb.Rename(t.Context(), theirs, mine).Err())
	require.NoError(t, rdb.Set(t.Context(), theirs, bytes, time.Minute).Err())
	assert.Empty(t, get(t, s, "mine"))
	assert.Empty(t, get(t, s, "theirs"))
}

func TestEveryKeyHasATTL(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	s := rediscache.New(rdb, &rediscache.Options{Prefix: prefix, ChunkBytes: 1 << 10, CompressAbove: -1})
	require.True(t, fill(t, s, "filled", 1, "data"))
	purge(t, s, cache.Purge{Keys: []string{"filled"}, Tags: []string{"tag"}, Prefixes: []string{"p"}, All: true})
	require.True(t, fill(t, s, "filled", 2, strings.Repeat("data", 1000)))
	begin(t, s, "begun", 1)
	_, err := s.BeginWrite(t.Context(), "begun", time.Minute)
	require.NoError(t, err)
	begin(t, s, "begun", 2)
	w, err := s.CreateBody(t.Context(), "body", time.Minute)
	require.NoError(t, err)
	_, err = w.Write(make([]byte, 1500))
	require.NoError(t, err)
	_, err = w.Finish()
	require.NoError(t, err)
	keys := keysOf(t, rdb, prefix)
	require.Len(t, keys, 11, "an entry and its 4 chunks, a fill, a write, the head and the log, 2 chunks of a body: %q", keys)
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
	// So seldom that the feed's own questions do not come in between.
	s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t), TierBytes: -1, Staleness: time.Hour})
	write := func() {
		w, err := s.BeginWrite(t.Context(), "key", time.Minute)
		require.NoError(t, err)
		_, err = s.Write(t.Context(), "key", w, cache.Entry{Kind: cache.Value, TTL: time.Minute})
		require.NoError(t, err)
	}
	purgeAll := func() { purge(t, s, cache.Purge{Keys: []string{"key", "other"}, Tags: []string{"t"}, All: true}) }
	// Once for the connections, the feed and the scripts.
	warm(t, s)
	require.True(t, fill(t, s, "key", 1, "data"))
	get(t, s, "key")
	write()
	purgeAll()

	count := func(step func()) int64 {
		before := proxy.Stats().RoundTrips
		step()
		return proxy.Stats().RoundTrips - before
	}
	many := func() { _, _ = s.GetMany(t.Context(), []string{"key", "a", "b", "c"}) }
	assert.EqualValues(t, 2, count(func() { fill(t, s, "key", 2, "data") }), "begin and fill")
	assert.EqualValues(t, 1, count(func() { get(t, s, "key") }), "get")
	assert.EqualValues(t, 1, count(many), "get many")
	assert.EqualValues(t, 2, count(write), "begin write and write")
	// The message about the own purge comes down on another connection.
	assert.EqualValues(t, 1, count(purgeAll), "purge")
}

// Every step ends with its context, which is earlier than the client's timeouts.
func TestAStoppedRedisEndsWithTheContext(t *testing.T) {
	server := redistest.NewStandalone(t)
	s := rediscache.New(rdbOf(t, server), &rediscache.Options{TierBytes: -1, ChunkBytes: 1 << 10, CompressAbove: -1})
	long := cache.Entry{Kind: cache.Value, Data: make([]byte, 5000), TTL: time.Minute}
	require.True(t, fillWith(t, s, "key", 1, long))
	body := writeBody(t, s, "body", make([]byte, 5000))
	purge(t, s, cache.Purge{Keys: []string{"another"}})
	w, err := s.BeginWrite(t.Context(), "another", time.Minute)
	require.NoError(t, err)
	f := begin(t, s, "another", 1)
	steps := map[string]func(ctx context.Context) error{
		"Get":        func(ctx context.Context) error { _, _, err := s.Get(ctx, "key"); return err },
		"GetMany":    func(ctx context.Context) error { _, err := s.GetMany(ctx, []string{"key", "another"}); return err },
		"Begin":      func(ctx context.Context) error { _, err := s.Begin(ctx, "key", cache.Filling{Token: 2}); return err },
		"Fill":       func(ctx context.Context) error { _, err := s.Fill(ctx, "another", f, long); return err },
		"BeginWrite": func(ctx context.Context) error { _, err := s.BeginWrite(ctx, "key", time.Minute); return err },
		"Write":      func(ctx context.Context) error { _, err := s.Write(ctx, "another", w, long); return err },
		"Purge":      func(ctx context.Context) error { return s.Purge(ctx, cache.Purge{Keys: []string{"key"}, All: true}) },
		"OpenBody":   func(ctx context.Context) error { _, err := s.OpenBody(ctx, "body", body); return err },
		"Watch": func(ctx context.Context) error {
			_, stop, err := s.Watch(ctx, "key")
			if err == nil {
				stop()
			}
			return err
		},
	}
	server.Stop(t)
	defer server.Continue(t)
	for name, step := range steps {
		tries(t, func(m *measurement) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			began := time.Now()
			require.ErrorIs(t, step(ctx), context.DeadlineExceeded, name)
			m.within(250*time.Millisecond, time.Since(began), name)
		})
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{})
	defer rdb.Close()
	for _, none := range []rediscache.Client{nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)} {
		assert.PanicsWithValue(t, "rediscache: New needs a client, such as that of redis.NewUniversalClient or redisconn.Open", func() {
			rediscache.New(none, nil)
		})
	}
	for name, o := range map[string]rediscache.Options{
		"braces":          {Prefix: "a{b}"},
		"staleness":       {Staleness: -1},
		"short staleness": {Staleness: time.Millisecond},
		"retention":       {Retention: time.Second},
		"small chunks":    {ChunkBytes: 1},
		"large chunks":    {ChunkBytes: 1 << 30},
	} {
		assert.Panics(t, func() { rediscache.New(rdb, &o) }, name)
	}
}

// An entry is as old as it was when Redis answered, and not as when it was asked.
func TestTheAgeOfWhatCameLate(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	s := rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t), TierBytes: -1})
	require.True(t, fillWith(t, s, "key", 1, cache.Entry{Kind: cache.Value, Data: []byte("old"), TTL: time.Minute}))
	_, ok, err := s.Get(t.Context(), "key") // it knows the time from here on
	require.NoError(t, err)
	require.True(t, ok)
	const pause = 300 * time.Millisecond
	require.NoError(t, rdb.ClientPause(t.Context(), pause).Err())
	e, ok, err := s.Get(t.Context(), "key")
	require.NoError(t, err)
	require.True(t, ok)
	assert.GreaterOrEqual(t, e.Age, pause-10*time.Millisecond)
}
