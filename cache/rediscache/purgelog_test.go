package rediscache_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A purge whose record is lost must not bring back what it had reached.
func TestALostLogBringsNothingBack(t *testing.T) {
	losses := map[string]func(t *testing.T, rdb *redis.Client, prefix string){
		"head and log": func(t *testing.T, rdb *redis.Client, prefix string) {
			require.NoError(t, rdb.Del(t.Context(), prefix+"{purges}", prefix+"{purges}:log").Err())
		},
		"head": func(t *testing.T, rdb *redis.Client, prefix string) {
			require.NoError(t, rdb.Del(t.Context(), prefix+"{purges}").Err())
		},
		"log": func(t *testing.T, rdb *redis.Client, prefix string) {
			require.NoError(t, rdb.Del(t.Context(), prefix+"{purges}:log").Err())
		},
		"log, and another purge": func(t *testing.T, rdb *redis.Client, prefix string) {
			require.NoError(t, rdb.Del(t.Context(), prefix+"{purges}:log").Err())
			s := rediscache.New(rdb, &rediscache.Options{Prefix: prefix})
			purge(t, s, cache.Purge{Tags: []string{"another"}})
		},
	}
	for name, lose := range losses {
		t.Run(name, func(t *testing.T) {
			rdb := redistest.Standalone(t).Client(t)
			options := &rediscache.Options{Prefix: redistest.Prefix(t)}
			s := rediscache.New(rdb, options)
			require.True(t, fillWith(t, s, "key", 1, tagged("old")))
			purge(t, s, cache.Purge{Tags: []string{"tag"}})
			lose(t, rdb, options.Prefix)
			for _, s := range []*rediscache.Store{s, rediscache.New(rdb, options)} {
				assert.Empty(t, get(t, s, "key"))
			}
			require.True(t, fillWith(t, s, "key", 2, tagged("new")))
			assert.Equal(t, "new", get(t, rediscache.New(rdb, options), "key"))
		})
	}
}

func TestFlushedRedis(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	s, other := rediscache.New(rdb, nil), rediscache.New(rdb, nil)
	require.True(t, fillWith(t, s, "key", 1, tagged("old")))
	inTier(t, other, "key")
	require.NoError(t, rdb.FlushAll(t.Context()).Err())
	flushed := time.Now()
	assert.LessOrEqual(t, readOld(t, other, bound+slack).Sub(flushed), bound)
	assert.Empty(t, get(t, other, "key"))
	require.True(t, fillWith(t, s, "key", 2, tagged("new")))
	require.Eventually(t, func() bool { return get(t, other, "key") == "new" }, atLongest, time.Millisecond)
	inTier(t, other, "key")
}

// After a failover the epoch may be smaller than one that was seen before. What
// was purged in between is not known, so everything is given up.
func TestAnEpochThatGoesBackGivesUpEverything(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	options := &rediscache.Options{Prefix: redistest.Prefix(t)}
	s := rediscache.New(rdb, options)
	require.True(t, fillWith(t, s, "key", 1, tagged("old")))
	ahead := s.Known() + uint64(time.Hour.Microseconds())
	s.SetKnown(ahead)
	assert.Empty(t, get(t, s, "key"))
	assert.Greater(t, s.Known(), ahead)
	assert.Empty(t, get(t, rediscache.New(rdb, options), "key"))
	require.True(t, fillWith(t, s, "key", 2, tagged("new")))
	purge(t, s, cache.Purge{Tags: []string{"tag"}})
	assert.Empty(t, get(t, s, "key"))
	require.True(t, fillWith(t, s, "key", 3, tagged("new")))
	assert.Equal(t, "new", get(t, rediscache.New(rdb, options), "key"))
}

func TestAFullLogGivesUpWhatIsOlder(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	options := &rediscache.Options{Prefix: redistest.Prefix(t)}
	s := rediscache.New(rdb, options)
	s.SetLog(10, 100)
	require.True(t, fillWith(t, s, "old", 1, tagged("old")))
	purge(t, s, cache.Purge{Tags: []string{"tag"}})
	require.True(t, fillWith(t, s, "young", 1, tagged("young")))
	for i := range 10 {
		purge(t, s, cache.Purge{Tags: []string{fmt.Sprint(i)}})
	}
	records, err := rdb.ZCard(t.Context(), options.Prefix+"{purges}:log").Result()
	require.NoError(t, err)
	assert.EqualValues(t, 10, records)
	for _, s := range []*rediscache.Store{s, rediscache.New(rdb, options)} {
		assert.Empty(t, get(t, s, "old"), "its purge is not in the log any more")
		assert.Equal(t, "young", get(t, s, "young"), "every purge since is in the log")
	}
	purge(t, s, cache.Purge{Tags: []string{"x", "y"}})
	for _, s := range []*rediscache.Store{s, rediscache.New(rdb, options)} {
		assert.Empty(t, get(t, s, "young"), "purges since may have been dropped")
	}
}

func TestALongLogIsReadInPages(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	options := &rediscache.Options{Prefix: redistest.Prefix(t)}
	s := rediscache.New(rdb, options)
	const tags = 57
	var some []string
	for i := range tags {
		tag := fmt.Sprint("tag", i)
		require.True(t, fillWith(t, s, tag, 1, cache.Entry{Kind: cache.Value, Data: []byte("old"), TTL: time.Minute, Tags: []string{tag}}))
		some = append(some, tag)
	}
	require.True(t, fill(t, s, "other", 1, "data"))
	// Alone, in one epoch longer than a page, and alone again.
	for _, tag := range some[:20] {
		purge(t, s, cache.Purge{Tags: []string{tag}})
	}
	purge(t, s, cache.Purge{Tags: some[20:50]})
	for _, tag := range some[50:] {
		purge(t, s, cache.Purge{Tags: []string{tag}})
	}
	for _, page := range []int{1, 7, 10, 56, 57, 58} {
		reader := rediscache.New(rdb, options)
		reader.SetLog(1000, page)
		for _, tag := range some {
			assert.Empty(t, get(t, reader, tag), "page %d", page)
		}
		assert.Equal(t, "data", get(t, reader, "other"))
	}
}

// Where Redis is full, purges must still work.
func TestPurgesWorkInAFullRedis(t *testing.T) {
	server := redistest.NewStandalone(t, "--maxmemory-policy", "noeviction")
	rdb := server.Client(t)
	s := rediscache.New(rdb, &rediscache.Options{TierBytes: -1})
	require.True(t, fillWith(t, s, "key", 1, tagged("old")))
	require.True(t, fillWith(t, s, "other", 1, tagged("old")))
	purge(t, s, cache.Purge{Tags: []string{"nothing"}})
	w, err := s.BeginWrite(t.Context(), "other", time.Minute)
	require.NoError(t, err)
	require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	require.ErrorContains(t, rdb.Set(t.Context(), "x", "y", time.Minute).Err(), "OOM")
	require.NoError(t, s.Purge(t.Context(), cache.Purge{Keys: []string{"key"}}))
	assert.Empty(t, get(t, s, "key"))
	require.NoError(t, s.Purge(t.Context(), cache.Purge{Tags: []string{"tag"}}))
	assert.Empty(t, get(t, s, "other"))
	stored, err := s.Write(t.Context(), "other", w, cache.Entry{})
	require.NoError(t, err)
	assert.False(t, stored)
}
