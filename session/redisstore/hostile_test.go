package redisstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	first  = session.Digest{1}
	second = session.Digest{2}
)

func create(t *testing.T, store session.Store, id string) {
	t.Helper()
	res, err := store.Commit(t.Context(), session.Delta{
		ID: id, Digest: first, Create: true, Set: map[string][]byte{"a": []byte("1")},
		IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour,
	})
	require.NoError(t, err)
	require.Equal(t, session.Committed, res.Outcome)
	res, err = store.Commit(t.Context(), session.Delta{
		ID: id, Digest: first, Rotate: &session.Rotation{Digest: second, Grace: time.Hour},
	})
	require.NoError(t, err)
	require.Equal(t, session.Committed, res.Outcome)
}

// Whatever stands at the key and is not a session is none, whichever way it is
// looked at, and is not taken over.
func TestWhatIsNoSession(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		ctx := t.Context()
		prefix := redistest.Prefix(t)
		store := redisstore.New(rdb, &redisstore.Options{Prefix: prefix})
		spoilt := map[string]func(key string) error{
			"a string":        func(key string) error { return rdb.Set(ctx, key, "x", time.Hour).Err() },
			"nothing":         func(key string) error { return rdb.Set(ctx, key, "", time.Hour).Err() },
			"another kind":    func(key string) error { return rdb.SetRange(ctx, key, headAt, "hls1").Err() },
			"more than it is": func(key string) error { return rdb.Append(ctx, key, "x").Err() },
			"a hash": func(key string) error {
				return errors.Join(rdb.Del(ctx, key).Err(), rdb.HSet(ctx, key, "d", first[:]).Err(), rdb.Expire(ctx, key, time.Hour).Err())
			},
			"a list": func(key string) error {
				return errors.Join(rdb.Del(ctx, key).Err(), rdb.RPush(ctx, key, "x").Err(), rdb.Expire(ctx, key, time.Hour).Err())
			},
		}
		for i := range numbers {
			for _, value := range []float64{-1, 0.5, math.NaN(), math.Inf(1), math.Inf(-1), 1 << 53, 1e300, math.SmallestNonzeroFloat64} {
				spoilt[fmt.Sprintf("number %d = %v", i, value)] = func(key string) error {
					raw := binary.LittleEndian.AppendUint64(nil, math.Float64bits(value))
					return rdb.SetRange(ctx, key, numbersAt+int64(i)*8, string(raw)).Err()
				}
			}
		}
		for i := range 34 { // up to there it is cut within the names, the strings, the numbers and the magic
			spoilt[fmt.Sprintf("cut by %d", 10*i+1)] = func(key string) error {
				raw, err := rdb.Get(ctx, key).Result()
				return errors.Join(err, rdb.Set(ctx, key, raw[:max(0, len(raw)-10*i-1)], time.Hour).Err())
			}
			spoilt[fmt.Sprintf("cut by %d in front", 10*i+1)] = func(key string) error {
				raw, err := rdb.Get(ctx, key).Result()
				return errors.Join(err, rdb.Set(ctx, key, raw[min(len(raw), 10*i+1):], time.Hour).Err())
			}
		}
		// The lengths of six strings, how many values there are, where one is, and other lengths.
		for i, at := range lengths(t, store, rdb, prefix) {
			for _, value := range []uint32{1 << 31, 1<<32 - 1, 5000} {
				kind := "length"
				if i >= 6 && i <= 9 {
					kind = "index"
				}
				spoilt[fmt.Sprintf("%s %d = %d", kind, i, value)] = func(key string) error {
					return rdb.SetRange(ctx, key, at, string(binary.LittleEndian.AppendUint32(nil, value))).Err()
				}
			}
		}
		for name, spoil := range spoilt {
			id := "id: " + name
			create(t, store, id)
			was, err := store.Load(ctx, id, second)
			require.NoError(t, err)
			require.NoError(t, spoil(prefix+"{"+id[:4]+"}"+id[4:]))
			for _, digest := range []session.Digest{first, second, {}} {
				rec, err := store.Load(ctx, id, digest)
				assert.NoError(t, err, name)
				assert.Equal(t, session.Record{}, rec, name)
				bases := []any{nil, was.Basis}
				if strings.HasPrefix(name, "index") {
					bases = bases[:1] // what was seen of it is not looked at again
				}
				for _, basis := range bases {
					res, err := store.Commit(ctx, session.Delta{ID: id, Digest: digest, Set: map[string][]byte{"a": []byte("2")}, Basis: basis})
					assert.NoError(t, err, name)
					assert.Equal(t, session.Gone, res.Outcome, name)
				}
			}
		}
	})
}

// What create stores, see session.lua: one byte of values, and the head.
const (
	headAt    = 1
	numbersAt = headAt + 4 + 32
	numbers   = 12
)

// lengths returns where the lengths stand in a session that create has made.
func lengths(t *testing.T, store session.Store, rdb redis.UniversalClient, prefix string) (at []int64) {
	t.Helper()
	create(t, store, "model")
	raw, err := rdb.Get(t.Context(), prefix+"{mode}l").Bytes()
	require.NoError(t, err)
	next := int64(numbersAt + numbers*8)
	for range 6 {
		at = append(at, next)
		next += 4 + int64(binary.LittleEndian.Uint32(raw[next:]))
	}
	at = append(at, next, next+4, next+4+4+1, next+4+4+1+4) // of one value, whose name is "a", and which stands somewhere
	require.EqualValues(t, len(raw), next+4+4+1+4+4+8)
	return append(at, int64(len(raw)-8), int64(len(raw)-4)) // of the padding and the head
}

// A store that does not answer holds nobody longer than the context says.
func TestAStoppedRedis(t *testing.T) {
	server := redistest.NewStandalone(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { rdb.Close() })
	store := redisstore.New(rdb, nil)
	create(t, store, "sess-1")
	server.Stop(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := store.Load(ctx, "sess-1", second)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = store.Commit(ctx, session.Delta{ID: "sess-1", Digest: second})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = store.Delete(ctx, "sess-1")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	server.Continue(t)
	rec, err := store.Load(t.Context(), "sess-1", second)
	require.NoError(t, err)
	assert.Equal(t, session.Current, rec.State)
}

// When Redis is out of memory a change is refused whole.
func TestRedisIsFull(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	store := redisstore.New(rdb, nil)
	create(t, store, "sess-1")
	require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	_, err := store.Commit(t.Context(), session.Delta{
		ID: "sess-1", Digest: second, Set: map[string][]byte{"b": []byte("2")}, Delete: []string{"a"}, Rotate: &session.Rotation{Digest: first},
	})
	require.ErrorContains(t, err, "OOM")
	require.ErrorIs(t, err, session.ErrRefused)
	rec, err := store.Load(t.Context(), "sess-1", second)
	require.NoError(t, err)
	assert.Equal(t, map[string][]byte{"a": []byte("1")}, rec.Values.Map())
	assert.EqualValues(t, 2, rec.Version)
	deleted, err := store.Delete(t.Context(), "sess-1")
	require.NoError(t, err)
	assert.True(t, deleted, "a logout must work on a full server")
}

// A change may be of more values than a function in Lua takes arguments.
func TestManyValuesAtOnce(t *testing.T) {
	store := redisstore.New(redistest.Standalone(t).Client(t), &redisstore.Options{Prefix: redistest.Prefix(t)})
	create(t, store, "many")
	want := map[string][]byte{"a": []byte("1")}
	for i := range 9000 {
		want[strconv.Itoa(i)] = []byte{byte(i)}
	}
	res, err := store.Commit(t.Context(), session.Delta{ID: "many", Digest: second, Set: want})
	require.NoError(t, err)
	require.Equal(t, session.Committed, res.Outcome)
	rec, err := store.Load(t.Context(), "many", second)
	require.NoError(t, err)
	assert.Equal(t, want, rec.Values.Map())
}

// A session is one key, and every key has a TTL.
func TestKeys(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	store := redisstore.New(rdb, nil)
	create(t, store, "place-rest")
	keys, err := rdb.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Equal(t, []string{"herdless:session:{plac}e-rest"}, keys)
	ttl, err := rdb.PTTL(t.Context(), keys[0]).Result()
	require.NoError(t, err)
	assert.True(t, ttl > 59*time.Minute && ttl <= time.Hour, "TTL %v", ttl)
}

// A full Redis still gives back what was withdrawn, and tells of a digest that is reused.
func TestWhatAFullRedisStillDoes(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	store := redisstore.New(rdb, nil)
	commit(t, store, session.Committed, session.Delta{ID: "sess-1", Digest: first, Create: true, IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour})
	commit(t, store, session.Committed, session.Delta{ID: "sess-1", Digest: first, Rotate: &session.Rotation{Digest: second, Grace: time.Millisecond, Handover: []byte("h")}})
	commit(t, store, session.Committed, session.Delta{ID: "sess-2", Digest: first, Create: true, IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour})
	_, err := store.Take(t.Context(), "sess-2", first, "taker", time.Hour)
	require.NoError(t, err)
	require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	untilReused(t, store, "sess-1", first)
	_, err = store.Take(t.Context(), "sess-2", first, "taker", 0)
	assert.NoError(t, err)
	rec, err := store.Load(t.Context(), "sess-2", first)
	assert.NoError(t, err)
	assert.Equal(t, session.Current, rec.State)
}

// A session whose names cannot be right is gone for a commit that names none, too.
func TestNamesThatCannotBeRight(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	store := redisstore.New(rdb, &redisstore.Options{Prefix: prefix})
	commit(t, store, session.Committed, session.Delta{ID: "brok-1", Digest: first, Create: true, IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour, Meta: make([]byte, 2000), Set: map[string][]byte{"name": []byte("1")}})
	raw, err := rdb.Get(t.Context(), prefix+"{brok}-1").Bytes()
	require.NoError(t, err)
	at := bytes.LastIndex(raw, []byte("\x04\x00\x00\x00name"))
	require.NoError(t, rdb.SetRange(t.Context(), prefix+"{brok}-1", int64(at), "\xff\xff").Err())
	for range 2 {
		res, err := store.Commit(t.Context(), session.Delta{ID: "brok-1", Digest: first, Meta: []byte{}})
		assert.NoError(t, err)
		assert.Equal(t, session.Gone, res.Outcome)
	}
}

// The TTL of a session has been set anew by a tool, or by MIGRATE to a server with another clock.
func TestATTLOfSomebodyElse(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		store := redisstore.New(rdb, &redisstore.Options{Prefix: prefix})
		commit(t, store, session.Committed, session.Delta{ID: "migr-1", Digest: first, Create: true, IdleTimeout: time.Minute, AbsoluteTimeout: time.Hour})
		require.NoError(t, rdb.Expire(t.Context(), prefix+"{migr}-1", 5*time.Minute).Err()) // as from a server whose clock is 4 minutes behind
		rec, err := store.Load(t.Context(), "migr-1", first)
		require.NoError(t, err)
		assert.LessOrEqual(t, rec.ExpiresIn, time.Minute, "it ends when it says")
		res := commit(t, store, session.Committed, session.Delta{ID: "migr-1", Digest: first, Set: map[string][]byte{"a": []byte("1")}})
		assert.Equal(t, time.Minute, res.ExpiresIn)
		rec, err = store.Load(t.Context(), "migr-1", first)
		require.NoError(t, err)
		assert.Equal(t, session.Current, rec.State, "it was committed, for a minute")
	})
}

// Somebody has taken the TTL of sessions away. They end when they say.
func TestATTLTakenAway(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		prefix := redistest.Prefix(t)
		store := redisstore.New(rdb, &redisstore.Options{Prefix: prefix})
		ttlOf := func(id string) time.Duration {
			require.NoError(t, rdb.Persist(t.Context(), prefix+"{pers}"+id[4:]).Err())
			rec, err := store.Load(t.Context(), id, first)
			require.NoError(t, err)
			return rec.ExpiresIn
		}
		begin := func(id string, idle time.Duration) {
			commit(t, store, session.Committed, session.Delta{
				ID: id, Digest: first, Create: true, Owner: "pers-owner", Set: map[string][]byte{"a": []byte("1")}, IdleTimeout: idle, AbsoluteTimeout: time.Hour,
			})
		}
		begin("pers-1", time.Minute)
		assert.InDelta(t, time.Minute, ttlOf("pers-1"), float64(30*time.Second))
		res := commit(t, store, session.Committed, session.Delta{ID: "pers-1", Digest: first, Meta: []byte("m")})
		assert.Equal(t, time.Minute, res.ExpiresIn)
		left, err := rdb.PTTL(t.Context(), prefix+"{pers}-1").Result()
		require.NoError(t, err)
		assert.Positive(t, left, "it has one again")

		begin("pers-2", 300*time.Millisecond)
		ttlOf("pers-2")
		require.Eventually(t, func() bool {
			rec, err := store.Load(t.Context(), "pers-2", first)
			return assert.NoError(t, err) && rec.State == session.Missing
		}, 30*time.Second, 10*time.Millisecond)
		commit(t, store, session.Gone, session.Delta{ID: "pers-2", Digest: first, Meta: []byte("m")})
		listed, err := store.List(t.Context(), "pers-owner")
		require.NoError(t, err)
		require.Len(t, listed, 1)
		assert.Equal(t, "pers-1", listed[0].ID)
	})
}

// A session of so many names that the end of it does not hold them is read in a second step.
func TestAHeadOfManyNames(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	store := redisstore.New(rdb, &redisstore.Options{Prefix: prefix})
	want := map[string][]byte{"long": bytes.Repeat([]byte("x"), 5000)}
	for i := range 400 {
		want[fmt.Sprint("name", i)] = []byte{byte(i)}
	}
	commit(t, store, session.Committed, session.Delta{ID: "many-1", Digest: first, Create: true, Set: want, IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour})
	rec, err := store.Load(t.Context(), "many-1", first)
	require.NoError(t, err)
	require.Equal(t, want, rec.Values.Map())
	res, err := store.Commit(t.Context(), session.Delta{ID: "many-1", Digest: first, Set: map[string][]byte{"name7": []byte("!")}, Basis: rec.Basis})
	require.NoError(t, err)
	require.Equal(t, session.Committed, res.Outcome)
	require.NoError(t, rdb.SetRange(t.Context(), prefix+"{many}-1", 5000+400, "hls1").Err())
	rec, err = store.Load(t.Context(), "many-1", first)
	require.NoError(t, err)
	require.Equal(t, session.Record{}, rec)
}

// A session is as it was when Redis answered, and not as when it was asked.
func TestTheTimeOfWhatCameLate(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	store := redisstore.New(rdb, nil)
	commit(t, store, session.Committed, session.Delta{ID: "late-1", Digest: first, Create: true, IdleTimeout: time.Minute, AbsoluteTimeout: time.Hour})
	before, err := store.Load(t.Context(), "late-1", first) // it knows the time from here on
	require.NoError(t, err)
	const pause = 300 * time.Millisecond
	require.NoError(t, rdb.ClientPause(t.Context(), pause).Err())
	rec, err := store.Load(t.Context(), "late-1", first)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, rec.ReadAt.Sub(before.ReadAt), pause-10*time.Millisecond)
	assert.LessOrEqual(t, rec.ExpiresIn, time.Minute-pause+10*time.Millisecond)
}
