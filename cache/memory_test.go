package cache_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/cachetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newMemoryStore(t testing.TB) *cache.MemoryStore {
	t.Helper()
	s := cache.NewMemoryStore(nil)
	return s
}

func TestMemoryStore(t *testing.T) {
	cachetest.Run(t, func(t *testing.T) cache.Store { return newMemoryStore(t) })
}

func store(t testing.TB, s cache.Store, key string, entry cache.Entry) {
	t.Helper()
	b, err := s.Begin(t.Context(), key, cache.Filling{Token: 1, TTL: time.Minute})
	require.NoError(t, err)
	_, err = s.Fill(t.Context(), key, b.Ticket, entry)
	require.NoError(t, err)
}

func TestMemoryStoreCountsAgeAndTimeLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemoryStore(t)
		store(t, s, "key", cache.Entry{Kind: cache.Value, TTL: time.Minute})
		time.Sleep(20 * time.Second)
		e, ok, err := s.Get(t.Context(), "key")
		require.NoError(t, err)
		require.True(t, ok)
		assert.Equal(t, 20*time.Second, e.Age)
		assert.Equal(t, 40*time.Second, e.TTL)
		time.Sleep(40 * time.Second)
		_, ok, err = s.Get(t.Context(), "key")
		require.NoError(t, err)
		assert.False(t, ok, "an entry must be gone at the instant its time is over")
	})
}

func TestMemoryStoreIsBoundedInBytes(t *testing.T) {
	const bound = 4 << 20
	s := cache.NewMemoryStore(&cache.MemoryOptions{MaxBytes: bound})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 2_000 {
		store(t, s, fmt.Sprint("key", i), cache.Entry{Kind: cache.Value, Data: make([]byte, 64<<10), TTL: time.Hour})
	}
	held := 0
	for i := range 2_000 {
		e, _, err := s.Get(t.Context(), fmt.Sprint("key", i))
		require.NoError(t, err)
		held += len(e.Data)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	assert.LessOrEqual(t, held, bound)
	assert.Greater(t, held, bound/2, "the store must use the room that it has")
	assert.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(4*bound), "125 MiB were stored in a store of 4 MiB")
	runtime.KeepAlive(s)
}

func TestMemoryStoreRefusesANegativeBound(t *testing.T) {
	assert.Panics(t, func() { cache.NewMemoryStore(&cache.MemoryOptions{MaxBytes: -1}) })
}
