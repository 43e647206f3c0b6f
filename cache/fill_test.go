package cache_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPurgeDuringALoadWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
		source := "old"
		res, err := e.Do(t.Context(), "key", func(ctx context.Context, _ *cache.Loading) (cache.Entry, error) {
			read := source
			source = "new"
			require.NoError(t, e.Purge(ctx, "key"))
			return value(read, time.Minute), nil
		})
		require.NoError(t, err)
		assert.Equal(t, "old", string(res.Entry.Data), "the caller itself asked before the purge")
		assert.False(t, res.Stored)
		res, err = e.Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) { return value(source, time.Minute), nil })
		require.NoError(t, err)
		assert.Equal(t, "new", string(res.Entry.Data))
	})
}

// Who asks after a purge must not get what was read before it, not even by
// sharing a computation of the same process that had begun.
func TestWhoAsksAfterAPurgeGetsTheNewValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		var source atomic.Value
		source.Store("old")
		load := func(context.Context, *cache.Loading) (cache.Entry, error) {
			read := source.Load().(string)
			time.Sleep(time.Second)
			return value(read, time.Minute), nil
		}
		var wg sync.WaitGroup
		ask := func(e *cache.Engine, want ...string) {
			wg.Go(func() {
				res, err := e.Do(t.Context(), "key", load)
				assert.NoError(t, err)
				assert.Contains(t, want, string(res.Entry.Data))
			})
		}
		ask(engines[0], "old")
		synctest.Wait()
		ask(engines[0], "old", "new") // asked before the purge
		ask(engines[1], "old", "new")
		synctest.Wait()
		source.Store("new")
		require.NoError(t, engines[1].Purge(t.Context(), "key"))
		for range 5 {
			ask(engines[0], "new")
			ask(engines[1], "new")
		}
		wg.Wait()
	})
}

// Also after a soft purge, if the policy does not let him have what is stale.
func TestWhoAsksAfterASoftPurgeGetsTheNewValue(t *testing.T) {
	for name, purge := range map[string]func(ctx context.Context, e *cache.Engine) error{
		"key":        func(ctx context.Context, e *cache.Engine) error { return e.SoftPurge(ctx, "key") },
		"tag":        func(ctx context.Context, e *cache.Engine) error { return e.SoftPurgeTags(ctx, "tag") },
		"prefix":     func(ctx context.Context, e *cache.Engine) error { return e.SoftPurgePrefix(ctx, "k") },
		"everything": func(ctx context.Context, e *cache.Engine) error { return e.SoftPurgeAll(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
				source := "old"
				load := func(context.Context, *cache.Loading) (cache.Entry, error) {
					e := value(source, time.Minute)
					e.Tags, e.StaleFor = []string{"tag"}, time.Minute
					time.Sleep(time.Second)
					return e, nil
				}
				go func() { _, _ = engines[0].Do(t.Context(), "key", load) }()
				synctest.Wait()
				source = "new"
				require.NoError(t, purge(t.Context(), engines[1]))
				for _, e := range engines {
					res, err := e.Do(t.Context(), "key", load)
					require.NoError(t, err)
					assert.Equal(t, "new", string(res.Entry.Data))
				}
			})
		})
	}
}

// A holder that is paused until its lease has ended must not overwrite what its
// successor computed. The lost lease is played by a Locker that gives it out
// twice.
func TestAnOvertakenFillIsRefused(t *testing.T) {
	store := newMemoryStore(t)
	var tokens atomic.Uint64
	locker := lockerFunc(func(ctx context.Context, fn func(context.Context, uint64) error) error { return fn(ctx, tokens.Add(1)) })
	paused, err := cache.New(store, &cache.Options{Locker: locker, Logger: quiet})
	require.NoError(t, err)
	successor, err := cache.New(store, &cache.Options{Locker: locker, Logger: quiet})
	require.NoError(t, err)

	res, err := paused.Do(t.Context(), "key", func(ctx context.Context, _ *cache.Loading) (cache.Entry, error) {
		res, err := successor.Do(ctx, "key", func(context.Context, *cache.Loading) (cache.Entry, error) { return value("newer", time.Minute), nil })
		assert.NoError(t, err)
		assert.True(t, res.Stored)
		return value("older", time.Minute), nil
	})
	require.NoError(t, err)
	assert.False(t, res.Stored)
	res, err = successor.Do(t.Context(), "key", nil)
	require.NoError(t, err)
	assert.Equal(t, "newer", string(res.Entry.Data))
}

// Also while whoever computed is still busy with the lease.
func TestWhoAsksAfterAPurgeSharesNothingOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemoryStore(t)
		var tokens atomic.Uint64
		locker := lockerFunc(func(ctx context.Context, fn func(context.Context, uint64) error) error {
			err := fn(ctx, tokens.Add(1))
			time.Sleep(100 * time.Millisecond) // a slow release
			return err
		})
		e, err := cache.New(store, &cache.Options{Locker: locker, Logger: quiet})
		require.NoError(t, err)
		var source atomic.Value
		source.Store("old")
		load := func(context.Context, *cache.Loading) (cache.Entry, error) {
			return value(source.Load().(string), time.Minute), nil
		}
		go func() { _, _ = e.Do(t.Context(), "key", load) }()
		synctest.Wait() // filled, releasing
		source.Store("new")
		require.NoError(t, e.Purge(t.Context(), "key"))
		res, err := e.Do(t.Context(), "key", load)
		require.NoError(t, err)
		assert.Equal(t, "new", string(res.Entry.Data))
		time.Sleep(time.Second) // until the leases are released
	})
}

func TestWithoutALockerNobodyStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemoryStore(t)
		older, err := cache.New(store, &cache.Options{Logger: quiet})
		require.NoError(t, err)
		time.Sleep(time.Second)
		younger, err := cache.New(store, &cache.Options{Logger: quiet})
		require.NoError(t, err)
		load := func(context.Context, *cache.Loading) (cache.Entry, error) { return value("data", time.Second), nil }
		_, err = younger.Do(t.Context(), "key", load)
		require.NoError(t, err)
		time.Sleep(2 * time.Second) // the entry is over; nobody computes
		began := time.Now()
		res, err := older.Do(t.Context(), "key", load)
		require.NoError(t, err)
		assert.Less(t, time.Since(began), 100*time.Millisecond)
		assert.True(t, res.Stored)
	})
}

func TestKeysCountForTheBoundOfTheMemoryStore(t *testing.T) {
	const bound = 1 << 20
	s := cache.NewMemoryStore(&cache.MemoryOptions{MaxBytes: bound})
	e, err := cache.New(s, &cache.Options{Logger: quiet})
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 5_000 {
		_, err := e.Do(t.Context(), fmt.Sprint(i)+strings.Repeat("x", 8<<10), func(context.Context, *cache.Loading) (cache.Entry, error) {
			return cache.Entry{Kind: cache.Uncacheable, TTL: time.Second}, nil
		})
		require.NoError(t, err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	assert.Less(t, grown, int64(8*bound))
	runtime.KeepAlive(s)
}

// Those who wait on another server for what a purge has spoilt must not wait for
// the lease's end.
func TestAPurgeStallsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		es := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		load := func(context.Context, *cache.Loading) (cache.Entry, error) {
			time.Sleep(100 * time.Millisecond)
			return value("data", time.Minute), nil
		}
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = es[0].Do(t.Context(), "key", load) })
		synctest.Wait()
		wg.Go(func() {
			_, _ = es[1].Do(t.Context(), "key", load)
			assert.Less(t, time.Since(began), 500*time.Millisecond)
		})
		synctest.Wait()
		time.Sleep(50 * time.Millisecond)
		require.NoError(t, es[0].Purge(t.Context(), "key"))
		wg.Wait()
	})
}

func TestSettleLetsTheOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			res, err := engines[0].Do(t.Context(), "key", func(_ context.Context, l *cache.Loading) (cache.Entry, error) {
				assert.True(t, l.Kept())
				time.Sleep(time.Second)
				l.Settle(cache.Entry{Kind: cache.Uncacheable, TTL: time.Second})
				l.Settle(value("too late", time.Minute))
				time.Sleep(time.Hour) // a stream
				return value("its own", time.Minute), nil
			})
			assert.NoError(t, err)
			assert.Equal(t, "its own", string(res.Entry.Data))
		})
		synctest.Wait()
		for i := range 20 {
			wg.Go(func() {
				res, err := engines[i%2].Do(t.Context(), "key", nil)
				assert.NoError(t, err)
				assert.Equal(t, cache.Uncacheable, res.Entry.Kind)
				assert.Less(t, time.Since(began), 1100*time.Millisecond)
			})
		}
		time.Sleep(3 * time.Second) // the marker is over, the stream is not
		for _, e := range engines {
			res, err := e.Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
				return value("data", time.Minute), nil
			})
			require.NoError(t, err)
			assert.Equal(t, "data", string(res.Entry.Data))
		}
		assert.Equal(t, 3*time.Second, time.Since(began), "a stream must not hold the key")
		wg.Wait()
	})
}
