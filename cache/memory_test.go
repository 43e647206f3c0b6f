package cache_test

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

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

// Who keeps the handles of entries does not keep the entries, and each tells that its own
// is gone as soon as Peek does.
func TestMemoryStoreLetsGoOfWhatHasAHandle(t *testing.T) {
	const bound = 1 << 20
	s := cache.NewMemoryStore(&cache.MemoryOptions{MaxBytes: bound})
	var handles []cache.Handle
	var data []weak.Pointer[[64 << 10]byte]
	for i := range 200 {
		key, b := fmt.Sprint("key", i), new([64 << 10]byte)
		data = append(data, weak.Make(b))
		store(t, s, key, cache.Entry{Kind: cache.Value, Data: b[:], TTL: time.Hour})
		for range 3 {
			if e, ok := s.Peek(key); ok {
				handles = append(handles, e.Handle)
			}
		}
	}
	require.NotEmpty(t, handles)
	found := map[*byte]bool{}
	for _, h := range handles {
		if e, _, _, ok := h.Peek(); ok {
			found[&e.Data[0]] = true
		}
	}
	there := map[*byte]bool{}
	for i := range 200 {
		if e, ok := s.Peek(fmt.Sprint("key", i)); ok {
			there[&e.Data[0]] = true
		}
	}
	assert.Equal(t, there, found)
	assert.NotEmpty(t, there)
	assert.LessOrEqual(t, len(there)*(64<<10), bound)
	kept := len(there)
	clear(there)
	clear(found)
	runtime.GC()
	held := 0
	for _, p := range data {
		if p.Value() != nil {
			held++
		}
	}
	assert.Equal(t, kept, held, "others are held in memory")
	require.NoError(t, s.Purge(t.Context(), cache.Purge{Keys: keysUpTo(200)}))
	for _, h := range handles {
		_, _, _, ok := h.Peek()
		assert.False(t, ok)
	}
	runtime.KeepAlive(s)
}

func keysUpTo(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
	}
	return keys
}

// Of entries that replace one another a handle never finds an older one than was found
// before, and the one that was stored last is found when its Fill has returned.
func TestAHandleFindsNothingOlderThanPeek(t *testing.T) {
	s := newMemoryStore(t)
	store(t, s, "key", cache.Entry{Kind: cache.Value, TTL: time.Hour})
	var wg sync.WaitGroup
	var over atomic.Bool
	for range 4 {
		wg.Go(func() {
			var last uint64
			var h cache.Handle
			for !over.Load() {
				if h != nil {
					if e, _, _, ok := h.Peek(); ok {
						if e.Version < last {
							t.Errorf("version %d after %d", e.Version, last)
							return
						}
						continue
					}
				}
				if e, ok := s.Peek("key"); ok {
					last, h = max(last, e.Version), e.Handle
				}
			}
		})
	}
	for i := range 2_000 {
		require.NoError(t, s.Purge(t.Context(), cache.Purge{Keys: []string{"key"}, Soft: true}))
		b, err := s.Begin(t.Context(), "key", cache.Filling{Token: uint64(2 + i), TTL: time.Minute})
		require.NoError(t, err)
		before, hadBefore := s.Peek("key")
		stored, err := s.Fill(t.Context(), "key", b.Ticket, cache.Entry{Kind: cache.Value, TTL: time.Hour, StaleFor: time.Hour})
		require.NoError(t, err)
		require.True(t, stored)
		if hadBefore {
			_, _, _, ok := before.Handle.Peek()
			require.False(t, ok, "the old one is found after its successor was stored")
		}
		e, ok := s.Peek("key")
		require.True(t, ok)
		_, _, _, ok = e.Handle.Peek()
		require.True(t, ok)
	}
	over.Store(true)
	wg.Wait()
}
