package pipelining_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/pipelining"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Answers of any type count, and what was big does not go by itself for ever, even
// if the client does not obey deadlines.
func TestTheSizeOfAnswers(t *testing.T) {
	for _, obeys := range []bool{true, false} {
		t.Run(fmt.Sprintf("ContextTimeoutEnabled=%v", obeys), func(t *testing.T) {
			o := &redis.Options{Addr: redistest.Standalone(t).Addr()}
			o.ContextTimeoutEnabled = obeys
			rdb := redis.NewClient(o)
			defer rdb.Close()
			sent, key, c := watch(rdb), redistest.Prefix(t), pipelining.New(rdb, false)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			big := strings.Repeat("x", 40<<10)
			require.NoError(t, rdb.Set(ctx, key, big, time.Minute).Err())
			require.NoError(t, rdb.HSet(ctx, key+"hash", "field", big).Err())
			require.NoError(t, rdb.Expire(ctx, key+"hash", time.Minute).Err())
			nested := redis.NewScript("return {1, {redis.call('GET', KEYS[1])}}")
			small := func(int) { assert.NoError(t, timeLeft(ctx, c, key)) }
			for name, get := range map[string]func(int){
				"string": func(int) {
					assert.NoError(t, c.Pipelined(ctx, func(p redis.Pipeliner) error { p.Get(ctx, key); return nil }))
				},
				"hash": func(int) {
					assert.NoError(t, c.Pipelined(ctx, func(p redis.Pipeliner) error { p.HGetAll(ctx, key+"hash"); return nil }))
				},
				"script": func(int) {
					_, err := c.Run(ctx, nested, []string{key})
					assert.NoError(t, err)
				},
			} {
				for range 20 {
					inParallel(32, get)
				}
				sent.reset()
				inParallel(32, get)
				assert.LessOrEqual(t, sent.longest.Load(), int64(1), name)
				for range 20 {
					inParallel(32, small)
				}
				sent.reset()
				for range 20 {
					inParallel(32, small)
				}
				assert.Greater(t, sent.longest.Load(), int64(1), "after %s", name)
			}
		})
	}
}

// What sends much goes by itself, however its arguments are spelled.
func TestTheSizeOfRequests(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: redistest.Standalone(t).Addr(), ContextTimeoutEnabled: true})
	defer rdb.Close()
	sent, key, c := watch(rdb), redistest.Prefix(t), pipelining.New(rdb, false)
	spelled := map[string]func(value string) any{
		"string": func(v string) any { return v },
		"[]byte": func(v string) any { return []byte(v) },
		"*Blob": func(v string) any {
			b := pipelining.Blob(v)
			return &b
		},
		"*Key": func(v string) any {
			k := pipelining.Key(v)
			return &k
		},
	}
	for name, as := range spelled {
		set := func(length int) func(int) {
			return func(i int) {
				name, value := fmt.Sprint(key, i), strings.Repeat("x", length)
				assert.NoError(t, c.Process(t.Context(), redis.NewStatusCmd(t.Context(), "set", name, as(value), "px", 60000)))
				assert.Equal(t, value, rdb.Get(t.Context(), name).Val())
			}
		}
		sent.reset()
		inParallel(32, set(40<<10))
		assert.LessOrEqual(t, sent.longest.Load(), int64(1), name)
		sent.reset()
		for range 20 {
			inParallel(32, set(10))
		}
		assert.Greater(t, sent.longest.Load(), int64(1), name)
	}
}

// go-redis routes a Key by what it shows in traces.
func TestAKey(t *testing.T) {
	key := pipelining.Key("{tag}k")
	assert.Equal(t, "get {tag}k: ", redis.NewStringCmd(t.Context(), "get", &key).String())
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		key := pipelining.Key(redistest.Prefix(t) + "k")
		require.NoError(t, rdb.Set(t.Context(), key.String(), "v", time.Minute).Err())
		get := redis.NewStringCmd(t.Context(), "get", &key)
		require.NoError(t, pipelining.New(rdb, false).Process(t.Context(), get))
		assert.Equal(t, "v", get.Val())
	})
}

// Traces of a Blob are text, which OpenTelemetry wants them to be.
func TestABlobInATrace(t *testing.T) {
	for value, shown := range map[string]string{"": "", `{"a": 1}`: `{"a": 1}`, "a\x00": "6100", "\xff~": "ff7e", "é": "c3a9"} {
		b := pipelining.Blob(value)
		assert.Equal(t, "set k "+shown+": ", redis.NewStatusCmd(t.Context(), "set", "k", &b).String())
	}
}

func timeLeft(ctx context.Context, c *pipelining.Client, key string) error {
	return c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.PTTL(ctx, key)
		return nil
	})
}
