package redisstore_test

import (
	"context"
	"errors"
	"strconv"
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
			"a string": func(key string) error { return rdb.Set(ctx, key, "x", time.Hour).Err() },
			"a list": func(key string) error {
				return errors.Join(rdb.Del(ctx, key).Err(), rdb.RPush(ctx, key, "x").Err(), rdb.Expire(ctx, key, time.Hour).Err())
			},
			"no TTL": func(key string) error { return rdb.Persist(ctx, key).Err() },
			"no fields": func(key string) error {
				return rdb.HDel(ctx, key, "d", "r", "p", "g", "h", "n", "c", "i", "a", "s", "e", "l").Err()
			},
		}
		for _, field := range []string{"n", "c", "i", "a", "s", "e"} {
			for _, value := range []string{"", "x", "-1", "1e3", "0x10", " 1", "nan", "inf", "99999999999999999999"} {
				spoilt["field "+field+" = "+value] = func(key string) error { return rdb.HSet(ctx, key, field, value).Err() }
			}
			spoilt["no field "+field] = func(key string) error { return rdb.HDel(ctx, key, field).Err() }
		}
		for name, spoil := range spoilt {
			id := "id: " + name
			create(t, store, id)
			require.NoError(t, spoil(prefix+"{"+id[:4]+"}"+id[4:]))
			for _, digest := range []session.Digest{first, second, {}} {
				rec, err := store.Load(ctx, id, digest)
				assert.NoError(t, err, name)
				assert.Equal(t, session.Record{}, rec, name)
				res, err := store.Commit(ctx, session.Delta{ID: id, Digest: digest, Set: map[string][]byte{"a": []byte("2")}})
				assert.NoError(t, err, name)
				assert.Equal(t, session.Gone, res.Outcome, name)
			}
		}
	})
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
	assert.Equal(t, map[string][]byte{"a": []byte("1")}, rec.Values)
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
	assert.Equal(t, want, rec.Values)
}

// A change makes Redis write the fields that changed, and every key has a TTL.
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
	fields, err := rdb.HKeys(t.Context(), keys[0]).Result()
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"d", "r", "p", "g", "h", "n", "c", "i", "a", "e", "l", "s", "va"}, fields)
}
