package redislock_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock/fence"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFencedSet(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		key := redistest.Prefix(t) + "ledger"
		steps := []struct {
			name   string
			value  string
			token  uint64
			stale  bool
			stands string
		}{
			{"the first", "a", 33, false, "a"},
			{"the same holder again", "b", 33, false, "b"},
			{"the same again, the same value", "b", 33, false, "b"},
			{"the next holder", "c", 34, false, "c"},
			{"the first, late", "d", 33, true, "c"},
			{"the next holder goes on", "", 34, false, ""},
			{"long ago", "e", 1, true, ""},
			{"a real token", "f\x00\xff\r\n", 1767225600000000, false, "f\x00\xff\r\n"},
		}
		last := uint64(0)
		for _, tt := range steps {
			err := redislock.FencedSet(t.Context(), rdb, key, tt.value, tt.token, time.Minute)
			if tt.stale {
				require.ErrorIs(t, err, fence.ErrStale, tt.name)
				stale := new(fence.StaleError)
				require.ErrorAs(t, err, &stale, tt.name)
				assert.Equal(t, fence.StaleError{Token: tt.token, Largest: last}, *stale, tt.name)
			} else {
				require.NoError(t, err, tt.name)
				last = tt.token
			}
			value, token, err := redislock.FencedGet(t.Context(), rdb, key)
			require.NoError(t, err, tt.name)
			assert.Equal(t, tt.stands, value, tt.name)
			assert.Equal(t, last, token, tt.name)
		}
	})
}

// Numbers of Lua are exact to 2^53 only, and text of different length is not in
// the order of the numbers.
func TestFencedTokensOfAnySize(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	tokens := []uint64{
		1, 2, 9, 10, 11, 99, 100, 1e15 - 1, 1e15, 9e15, 1<<53 - 1, 1 << 53, 1<<53 + 1, 1<<53 + 2,
		1<<63 - 1, 1 << 63, 1<<63 + 1, 9999999999999999999, 10000000000000000000, math.MaxUint64 - 1, math.MaxUint64,
	}
	for range 10 {
		tokens = append(tokens, 1+rand.Uint64N(math.MaxUint64)>>rand.IntN(64))
	}
	for i, a := range tokens {
		for j, b := range tokens {
			key := fmt.Sprint(prefix, i, "-", j) // some may be equal
			require.NoError(t, redislock.FencedSet(t.Context(), rdb, key, "a", a, time.Minute))
			err := redislock.FencedSet(t.Context(), rdb, key, "b", b, time.Minute)
			if b < a {
				require.ErrorIs(t, err, fence.ErrStale, "%d after %d", b, a)
			} else {
				require.NoError(t, err, "%d after %d", b, a)
			}
			_, token, err := redislock.FencedGet(t.Context(), rdb, key)
			require.NoError(t, err)
			require.Equal(t, max(a, b), token)
		}
	}
}

func TestManyFencedWriters(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		key := redistest.Prefix(t) + "ledger"
		largest := uint64(0)
		var wg sync.WaitGroup
		for range 100 {
			token := 1 + rand.Uint64N(1<<60)
			largest = max(largest, token)
			wg.Go(func() {
				for range 3 {
					err := redislock.FencedSet(t.Context(), rdb, key, token, token, time.Minute)
					if err != nil {
						assert.ErrorIs(t, err, fence.ErrStale)
					}
				}
			})
			wg.Go(func() {
				value, token, err := redislock.FencedGet(t.Context(), rdb, key)
				if errors.Is(err, redis.Nil) {
					return // before the first write
				}
				assert.NoError(t, err)
				assert.Equal(t, strconv.FormatUint(token, 10), value, "value and token are of one write")
			})
		}
		wg.Wait()
		value, token, err := redislock.FencedGet(t.Context(), rdb, key)
		require.NoError(t, err)
		assert.Equal(t, largest, token)
		assert.Equal(t, strconv.FormatUint(largest, 10), value)
	})
}

func TestFencedKeysOfAnyName(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		for i, name := range []string{
			"", "{", "}", "{}", "{a}{b}", "a{b", "a}b", "}{", "\x00", "\xff\xfe", "a b\r\n$5\r\n", "' .. redis.call('FLUSHALL') .. '",
			"%d%s", "ключ", strings.Repeat("k", 10_000),
		} {
			key := prefix + name
			value := fmt.Sprint("value ", i)
			require.NoError(t, redislock.FencedSet(t.Context(), rdb, key, value, 34, time.Minute), "%.64q", key)
			require.ErrorIs(t, redislock.FencedSet(t.Context(), rdb, key, "late", 33, time.Minute), fence.ErrStale, "%.64q", key)
		}
		for _, name := range []string{"", "{", "\x00", "{a}{b}"} {
			value, token, err := redislock.FencedGet(t.Context(), rdb, prefix+name)
			require.NoError(t, err)
			assert.Contains(t, value, "value ")
			assert.EqualValues(t, 34, token)
		}
	})
}

func TestFencedValues(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	tests := []struct {
		name  string
		value any
		want  string
	}{
		{"text", "text", "text"},
		{"bytes", []byte{0, 1, 255}, "\x00\x01\xff"},
		{"a number", 42, "42"},
		{"a marshaler", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "2026-01-02T03:04:05Z"},
		{"nil is empty", nil, ""},
		{"what looks like a part of the script", "ARGV[1]", "ARGV[1]"},
		{"large", strings.Repeat("x", 1<<20), strings.Repeat("x", 1<<20)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key := redistest.Prefix(t)
			require.NoError(t, redislock.FencedSet(t.Context(), rdb, key, tt.value, 1, time.Minute))
			value, _, err := redislock.FencedGet(t.Context(), rdb, key)
			require.NoError(t, err)
			assert.Equal(t, tt.want, value)
		})
	}
	t.Run("one that go-redis does not take", func(t *testing.T) {
		key := redistest.Prefix(t)
		require.Error(t, redislock.FencedSet(t.Context(), rdb, key, struct{}{}, 1, time.Minute))
		assert.Zero(t, rdb.Exists(t.Context(), key).Val())
	})
}

func TestFencedTTL(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		key := redistest.Prefix(t) + "ledger"
		left := func() time.Duration { return rdb.PTTL(t.Context(), key).Val() }
		set := func(token uint64, ttl time.Duration) error {
			return redislock.FencedSet(t.Context(), rdb, key, "v", token, ttl)
		}
		const forEver = time.Duration(-1)

		require.NoError(t, set(33, time.Hour))
		assert.InDelta(t, time.Hour, left(), float64(slack))
		require.NoError(t, set(33, time.Minute))
		assert.InDelta(t, time.Minute, left(), float64(slack), "the last write decides")
		require.ErrorIs(t, set(32, time.Hour), fence.ErrStale)
		assert.LessOrEqual(t, left(), time.Minute, "a write that was refused changes nothing")
		require.NoError(t, set(34, 0))
		assert.Equal(t, forEver, left(), "zero is no TTL")
		require.ErrorIs(t, set(33, time.Hour), fence.ErrStale)
		assert.Equal(t, forEver, left(), "a write that was refused changes nothing")
		require.Error(t, set(35, -time.Nanosecond))
		require.NoError(t, set(34, time.Hour))
		assert.InDelta(t, time.Hour, left(), float64(slack))

		require.NoError(t, set(34, time.Nanosecond), "rounded up, not down to no TTL")
		require.Eventually(t, func() bool { return rdb.Exists(t.Context(), key).Val() == 0 }, 10*time.Second, time.Millisecond)
		require.NoError(t, set(33, time.Hour), "with the key the token is forgotten")
	})
}

func TestFencedKeysOfOthers(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	ctx := t.Context()
	tests := []struct {
		name, want string
		make       func(key string) error
	}{
		{"a string", "WRONGTYPE", func(key string) error { return rdb.Set(ctx, key, "theirs", time.Hour).Err() }},
		{"a list", "WRONGTYPE", func(key string) error { return rdb.LPush(ctx, key, "theirs").Err() }},
		{"a hash", "no fencing token", func(key string) error { return rdb.HSet(ctx, key, "value", "theirs").Err() }},
		{"a hash with another fence", "no fencing token", func(key string) error { return rdb.HSet(ctx, key, "fence", "garden", "value", "theirs").Err() }},
		{"a fraction", "no fencing token", func(key string) error { return rdb.HSet(ctx, key, "fence", "1.5", "value", "theirs").Err() }},
		{"a negative number", "no fencing token", func(key string) error { return rdb.HSet(ctx, key, "fence", "-5", "value", "theirs").Err() }},
		{"nothing", "no fencing token", func(key string) error { return rdb.HSet(ctx, key, "fence", "", "value", "theirs").Err() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key := redistest.Prefix(t) + "theirs"
			require.NoError(t, tt.make(key))
			before, ttl := rdb.Dump(ctx, key).Val(), rdb.PTTL(ctx, key).Val()
			err := redislock.FencedSet(ctx, rdb, key, "ours", math.MaxUint64, time.Minute)
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, err, key)
			require.NotErrorIs(t, err, fence.ErrStale)
			assert.Equal(t, before, rdb.Dump(ctx, key).Val(), "what is theirs stays as it is")
			assert.InDelta(t, ttl, rdb.PTTL(ctx, key).Val(), float64(slack))

			_, token, err := redislock.FencedGet(ctx, rdb, key)
			require.ErrorContains(t, err, tt.want)
			require.NotErrorIs(t, err, redis.Nil)
			assert.Zero(t, token)
		})
	}
}

func TestFencedGetOfNothing(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		key := redistest.Prefix(t)
		_, token, err := redislock.FencedGet(t.Context(), rdb, key)
		require.ErrorIs(t, err, redis.Nil)
		assert.Zero(t, token)

		raise := redislock.NewFencedScript(`return 1`)
		require.NoError(t, raise.Run(t.Context(), rdb, key, 34, time.Minute, nil).Err())
		_, token, err = redislock.FencedGet(t.Context(), rdb, key)
		require.ErrorIs(t, err, redis.Nil)
		assert.EqualValues(t, 34, token)
		require.ErrorIs(t, redislock.FencedSet(t.Context(), rdb, key, "late", 33, time.Minute), fence.ErrStale)
	})
}

func TestFencedScript(t *testing.T) {
	add := redislock.NewFencedScript(`
		redis.call('RPUSH', KEYS[2], ARGV[3] .. ' ' .. ARGV[1] .. ' ' .. ARGV[2])
		return redis.call('HINCRBY', KEYS[1], 'count', ARGV[4])`)
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		key := redistest.Prefix(t) + "{t}"
		run := func(token uint64) *redis.Cmd {
			return add.Run(t.Context(), rdb, key, token, time.Minute, []string{key + ":log"}, "entry", 5)
		}
		count, err := run(33).Int()
		require.NoError(t, err)
		assert.Equal(t, 5, count)
		count, err = run(34).Int()
		require.NoError(t, err)
		assert.Equal(t, 10, count)
		_, err = run(33).Int()
		require.ErrorIs(t, err, fence.ErrStale)
		assert.Equal(t, []string{"entry 33 60000", "entry 34 60000"}, rdb.LRange(t.Context(), key+":log", 0, -1).Val(), "a stale one has not run")
		assert.Equal(t, map[string]string{"fence": "34", "count": "10"}, rdb.HGetAll(t.Context(), key).Val())
		assert.InDelta(t, time.Minute, rdb.PTTL(t.Context(), key).Val(), float64(slack))
	})
}

func TestAFencedScriptThatFails(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	tests := []struct{ name, body, want string }{
		{"raises", `redis.call('HSET', KEYS[1], 'value', 'half') error('on the way')`, "on the way"},
		{"a command that fails", `return redis.call('HINCRBY', KEYS[1], 'fence', 'x')`, "not an integer"},
		{"answers an error", `return redis.error_reply('MINE of its own')`, "MINE of its own"},
		{"answers nothing", ``, redis.Nil.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key := redistest.Prefix(t)
			err := redislock.NewFencedScript(tt.body).Run(t.Context(), rdb, key, 34, time.Minute, nil).Err()
			require.ErrorContains(t, err, tt.want)
			require.NotErrorIs(t, err, fence.ErrStale)
			require.ErrorIs(t, redislock.FencedSet(t.Context(), rdb, key, "late", 33, time.Minute), fence.ErrStale, "the fence stays raised")
			assert.InDelta(t, time.Minute, rdb.PTTL(t.Context(), key).Val(), float64(slack))
		})
	}
	t.Run("is no Lua", func(t *testing.T) {
		key := redistest.Prefix(t)
		require.Error(t, redislock.NewFencedScript(`end`).Run(t.Context(), rdb, key, 34, time.Minute, nil).Err())
		assert.Zero(t, rdb.Exists(t.Context(), key).Val())
	})
}

// A holder who reads, computes and writes: what it has read must be what it
// overwrites.
func TestFencedReadBeforeTheWrite(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	key := redistest.Prefix(t)
	begin := redislock.NewFencedScript(`return redis.call('HGET', KEYS[1], 'value')`)
	require.NoError(t, redislock.FencedSet(t.Context(), rdb, key, "old", 33, 0))
	read, err := begin.Run(t.Context(), rdb, key, 34, 0, nil).Text()
	require.NoError(t, err)
	assert.Equal(t, "old", read)
	require.ErrorIs(t, redislock.FencedSet(t.Context(), rdb, key, "late", 33, 0), fence.ErrStale)
	require.NoError(t, redislock.FencedSet(t.Context(), rdb, key, read+" and new", 34, 0))
}

func TestFencedArgumentsThatCannotBe(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	key := redistest.Prefix(t)
	require.ErrorIs(t, redislock.FencedSet(t.Context(), rdb, key, "v", 0, time.Minute), fence.ErrMissing)
	require.ErrorContains(t, redislock.FencedSet(t.Context(), rdb, key, "v", 1, -time.Second), "negative")
	require.NoError(t, redislock.FencedSet(t.Context(), rdb, key+"long", "v", 1, math.MaxInt64))
	require.NoError(t, redislock.FencedSet(t.Context(), rdb, key+"long", "w", 2, math.MaxInt64))
	require.ErrorIs(t, redislock.FencedSet(t.Context(), rdb, key+"long", "late", 1, math.MaxInt64), fence.ErrStale)

	pipe := rdb.Pipeline()
	require.ErrorContains(t, redislock.FencedSet(t.Context(), pipe, key, "v", 1, time.Minute), "pipeline")
	assert.Zero(t, pipe.Len())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, redislock.FencedSet(ctx, rdb, key, "v", 1, time.Minute), context.Canceled)
	_, _, err := redislock.FencedGet(ctx, rdb, key)
	require.ErrorIs(t, err, context.Canceled)
	assert.Zero(t, rdb.Exists(t.Context(), key).Val())
}

// A Redis that is full refuses the write whole.
func TestFencedSetOnAFullRedis(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	key := redistest.Prefix(t)
	require.NoError(t, redislock.FencedSet(t.Context(), rdb, key, "before", 33, time.Minute))
	require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	err := redislock.FencedSet(t.Context(), rdb, key, "after", 34, time.Minute)
	require.ErrorContains(t, err, "OOM")
	require.NotErrorIs(t, err, fence.ErrStale)
	value, token, err := redislock.FencedGet(t.Context(), rdb, key)
	require.NoError(t, err)
	assert.Equal(t, "before", value)
	assert.EqualValues(t, 33, token)
}

func TestFencedRoundTrips(t *testing.T) {
	server := redistest.Standalone(t)
	proxy := redistest.NewProxy(t, server.Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	key := redistest.Prefix(t)
	set := func(token uint64) error {
		return redislock.FencedSet(t.Context(), rdb, key, "v", token, time.Minute)
	}
	require.NoError(t, set(34)) // connects, and loads the script
	proxy.Reset()
	for range 10 {
		require.NoError(t, set(34))
		require.ErrorIs(t, set(33), fence.ErrStale)
		_, _, err := redislock.FencedGet(t.Context(), rdb, key)
		require.NoError(t, err)
	}
	assert.EqualValues(t, 30, proxy.Stats().RoundTrips)
}

// What a value is, is the caller's business.
func ExampleFencedSet() {
	type account struct {
		Balance int `json:"balance"`
	}
	// Within Do of a lock.Locker, which has the token.
	_ = func(ctx context.Context, rdb redis.UniversalClient, token uint64) error {
		value, err := json.Marshal(account{Balance: 100})
		if err != nil {
			return err
		}
		return redislock.FencedSet(ctx, rdb, "account:7", value, token, 0) // kept until it is deleted
	}
}
