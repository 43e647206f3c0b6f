package cache_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/lock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var quiet = slog.New(slog.DiscardHandler)

// newEngines returns n engines, as of n servers, on store and one lock store. On a
// busy machine even a store in this process can take 50 ms: tests of the budget say
// what theirs is.
func newEngines(t testing.TB, n int, store cache.Store, o cache.Options) []*cache.Engine {
	t.Helper()
	locks := lock.NewMemoryStore()
	engines := make([]*cache.Engine, n)
	for i := range engines {
		locker, err := lock.New(locks, nil)
		require.NoError(t, err)
		o.Locker = locker
		if o.Logger == nil {
			o.Logger = quiet
		}
		if o.StoreTimeout == 0 {
			o.StoreTimeout = 2 * time.Second
		}
		engines[i], err = cache.New(store, &o)
		require.NoError(t, err)
	}
	return engines
}

func value(data string, ttl time.Duration) cache.Entry {
	return cache.Entry{Kind: cache.Value, Data: []byte(data), TTL: ttl}
}

func TestAColdKeyIsLoadedOnceInTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 3, newMemoryStore(t), cache.Options{})
		var loads, waited, loaded atomic.Int32
		var wg sync.WaitGroup
		for i := range 1_500 {
			wg.Go(func() {
				res, err := engines[i%3].Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
					loads.Add(1)
					time.Sleep(800 * time.Millisecond)
					return value("data", time.Minute), nil
				})
				assert.NoError(t, err)
				assert.Equal(t, "data", string(res.Entry.Data))
				switch res.Source {
				case cache.Waited:
					waited.Add(1)
				case cache.Loaded:
					loaded.Add(1)
					assert.True(t, res.Stored)
				}
			})
		}
		began := time.Now()
		wg.Wait()
		assert.EqualValues(t, 1, loads.Load())
		assert.EqualValues(t, 1, loaded.Load())
		assert.EqualValues(t, 1_499, waited.Load())
		assert.Equal(t, 800*time.Millisecond, time.Since(began), "those who wait must be woken, not poll")

		res, err := engines[1].Do(t.Context(), "key", nil)
		require.NoError(t, err)
		assert.Equal(t, cache.Hit, res.Source)
	})
}

// A caller that goes away takes only itself away: neither its load nor those who
// wait behind it end with it.
func TestACallerThatGoesAwayHarmsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		var loads atomic.Int32
		load := func(ctx context.Context, _ *cache.Loading) (cache.Entry, error) {
			loads.Add(1)
			time.Sleep(time.Second)
			return value("data", time.Minute), ctx.Err()
		}
		var wg sync.WaitGroup
		wg.Go(func() { // loads
			res, err := engines[0].Do(ctx, "key", load)
			assert.NoError(t, err, "a load that has begun goes on, and its context does not end")
			assert.Equal(t, "data", string(res.Entry.Data))
		})
		synctest.Wait()
		wg.Go(func() { // leads those of the other server
			_, err := engines[1].Do(ctx, "key", load)
			assert.ErrorIs(t, err, context.Canceled)
		})
		synctest.Wait()
		for range 10 { // follow
			wg.Go(func() {
				res, err := engines[1].Do(t.Context(), "key", load)
				assert.NoError(t, err)
				assert.Equal(t, "data", string(res.Entry.Data))
			})
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		assert.EqualValues(t, 1, loads.Load())
	})
}

func TestAWaiterKeepsItsOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		go func() {
			_, _ = engines[0].Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
				time.Sleep(2 * time.Second)
				return value("data", time.Minute), nil
			})
		}()
		synctest.Wait()
		for _, e := range engines {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			began := time.Now()
			_, err := e.Do(ctx, "key", nil)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, 100*time.Millisecond, time.Since(began))
			cancel()
		}
		time.Sleep(3 * time.Second)
	})
}

func TestWhoHasWaitedLongEnoughLoadsForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{WaitTimeout: time.Second})
		go func() {
			_, _ = engines[0].Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
				time.Sleep(time.Minute)
				return value("slow", time.Minute), nil
			})
		}()
		synctest.Wait()
		for i, e := range engines {
			began := time.Now()
			res, err := e.Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) { return value("own", time.Minute), nil })
			require.NoError(t, err)
			assert.Equal(t, "own", string(res.Entry.Data))
			assert.False(t, res.Stored, "engine %d", i)
			assert.Equal(t, time.Second, time.Since(began))
		}
		time.Sleep(2 * time.Minute)
	})
}

// Who comes after one that has waited for too long, and loads for itself, does not wait for
// that load: what both have waited for may come before.
func TestNobodyWaitsForOneThatHasBecomeTired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{WaitTimeout: 4 * time.Second})
		load := func(name string, takes time.Duration) cache.Load {
			return func(context.Context, *cache.Loading) (cache.Entry, error) {
				time.Sleep(takes)
				return value(name, time.Minute), nil
			}
		}
		go engines[0].Do(t.Context(), "key", load("first", 6*time.Second))
		synctest.Wait()
		go engines[1].Do(t.Context(), "key", load("of the tired one", 6*time.Second)) // from 4 s on
		time.Sleep(5 * time.Second)
		began := time.Now()
		res, err := engines[1].Do(t.Context(), "key", load("one more", 0))
		require.NoError(t, err)
		assert.Equal(t, "first", string(res.Entry.Data))
		assert.LessOrEqual(t, time.Since(began), 1100*time.Millisecond)
		time.Sleep(time.Minute)
	})
}

// A store that is too busy to answer in time is when a herd must not be let
// loose.
func TestABusyStoreStillGivesOneComputation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{Store: newMemoryStore(t), delay: 200 * time.Millisecond}
		engines := newEngines(t, 3, store, cache.Options{StoreTimeout: time.Second})
		var loads atomic.Int32
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				res, err := engines[i%3].Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
					loads.Add(1)
					time.Sleep(800 * time.Millisecond)
					return value("data", time.Minute), nil
				})
				assert.NoError(t, err)
				assert.Equal(t, "data", string(res.Entry.Data))
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, loads.Load())
	})
}

func TestWithoutPushesThoseWhoWaitAskAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, deafStore{newMemoryStore(t)}, cache.Options{})
		var loads atomic.Int32
		var wg sync.WaitGroup
		began := time.Now()
		for i := range 20 {
			wg.Go(func() {
				_, err := engines[i%2].Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
					loads.Add(1)
					time.Sleep(3 * time.Second)
					return value("data", time.Minute), nil
				})
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, loads.Load())
		assert.Less(t, time.Since(began), 3500*time.Millisecond)
	})
}

// deafStore is a store that nobody can watch.
type deafStore struct{ cache.Store }

func (deafStore) Watch(context.Context, string) (<-chan struct{}, func(), error) {
	return nil, nil, errAway
}

// slowStore is a store whose reads take a while.
type slowStore struct {
	cache.Store
	delay time.Duration
	fast  atomic.Bool // the delay is over
	reads atomic.Int32
}

func (s *slowStore) hurry() { s.fast.Store(true) }

func (s *slowStore) Get(ctx context.Context, key string) (cache.Entry, bool, error) {
	s.reads.Add(1)
	if s.fast.Load() {
		return s.Store.Get(ctx, key)
	}
	select {
	case <-time.After(s.delay):
		return s.Store.Get(ctx, key)
	case <-ctx.Done():
		return cache.Entry{}, false, ctx.Err()
	}
}

type lockerFunc func(ctx context.Context, fn func(context.Context, uint64) error) error

func (f lockerFunc) TryDo(ctx context.Context, _ string, _ time.Duration, fn func(context.Context, uint64) error) error {
	return f(ctx, fn)
}

func TestAPanicInALoadStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		var wg sync.WaitGroup
		wg.Go(func() {
			assert.PanicsWithValue(t, "boom", func() {
				_, _ = engines[0].Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
					time.Sleep(time.Second)
					panic("boom")
				})
			})
		})
		synctest.Wait()
		for i := range 20 {
			wg.Go(func() {
				res, err := engines[i%2].Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
					t.Error("those who waited for a load that failed are to compute for themselves")
					return cache.Entry{}, nil
				})
				assert.NoError(t, err)
				assert.Equal(t, cache.Uncacheable, res.Entry.Kind)
			})
		}
		began := time.Now()
		wg.Wait()
		assert.Equal(t, time.Second, time.Since(began), "those who waited must go on at once")
		time.Sleep(2 * time.Second)
		res, err := engines[1].Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) { return value("data", time.Minute), nil })
		require.NoError(t, err)
		assert.True(t, res.Stored, "the key must work afterwards")
	})
}

func TestAnErrorIsTheCallersOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
		boom := errors.New("boom")
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := e.Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
				time.Sleep(time.Second)
				return value("half", time.Minute), boom
			})
			assert.ErrorIs(t, err, boom)
		})
		synctest.Wait()
		res, err := e.Do(t.Context(), "key", nil)
		require.NoError(t, err, "the error of one caller's load must not become another's")
		assert.Equal(t, cache.Uncacheable, res.Entry.Kind)
		wg.Wait()
	})
}

func TestAnUncacheableOutcomeDoesNotQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		var loads atomic.Int32
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				res, err := engines[i%2].Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
					loads.Add(1)
					time.Sleep(time.Second)
					return cache.Entry{Kind: cache.Uncacheable, TTL: 10 * time.Second}, nil
				})
				assert.NoError(t, err)
				assert.Equal(t, cache.Uncacheable, res.Entry.Kind)
			})
		}
		began := time.Now()
		wg.Wait()
		assert.EqualValues(t, 1, loads.Load(), "one must find out, and tell the others")
		assert.Equal(t, time.Second, time.Since(began))
	})
}

func TestWithoutTheStoreEveryProcessComputesForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 3, brokenStore{}, cache.Options{})
		var loads atomic.Int32
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				res, err := engines[i%3].Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
					loads.Add(1)
					time.Sleep(time.Second)
					return value("data", time.Minute), nil
				})
				assert.NoError(t, err)
				assert.Equal(t, "data", string(res.Entry.Data))
				assert.False(t, res.Stored)
			})
		}
		wg.Wait()
		assert.EqualValues(t, 3, loads.Load(), "one per process")
	})
}

func TestWithoutTheLockerNothingIsLost(t *testing.T) {
	broken := lockerFunc(func(context.Context, func(context.Context, uint64) error) error {
		return errors.New("connection refused")
	})
	e, err := cache.New(newMemoryStore(t), &cache.Options{Locker: broken, Logger: quiet})
	require.NoError(t, err)
	res, err := e.Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) { return value("data", time.Minute), nil })
	require.NoError(t, err)
	assert.Equal(t, "data", string(res.Entry.Data))
	assert.False(t, res.Stored)
}

func TestALockerThatHangsIsGivenUpAfterStoreTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := lockerFunc(func(ctx context.Context, _ func(context.Context, uint64) error) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
		e, err := cache.New(newMemoryStore(t), &cache.Options{Locker: hung, Logger: quiet, StoreTimeout: 300 * time.Millisecond})
		require.NoError(t, err)
		began := time.Now()
		_, err = e.Do(t.Context(), "key", func(ctx context.Context, _ *cache.Loading) (cache.Entry, error) {
			return value("data", time.Minute), ctx.Err()
		})
		require.NoError(t, err)
		assert.Equal(t, 300*time.Millisecond, time.Since(began))

		// Also one that hears of no cancellation, such as by a Redis that hangs; what it has
		// taken in the end is released at once.
		released := make(chan struct{})
		deaf := lockerFunc(func(ctx context.Context, fn func(context.Context, uint64) error) error {
			time.Sleep(time.Minute)
			defer close(released)
			return fn(ctx, 1)
		})
		e, err = cache.New(newMemoryStore(t), &cache.Options{Locker: deaf, Logger: quiet, StoreTimeout: 300 * time.Millisecond})
		require.NoError(t, err)
		began = time.Now()
		_, err = e.Do(t.Context(), "key", func(ctx context.Context, _ *cache.Loading) (cache.Entry, error) {
			return value("data", time.Minute), ctx.Err()
		})
		require.NoError(t, err)
		assert.Equal(t, 300*time.Millisecond, time.Since(began))
		<-released
		assert.Equal(t, time.Minute, time.Since(began))
	})
}

func TestEnginesWithoutALockerStillShareTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemoryStore(t)
		var loads atomic.Int32
		var wg sync.WaitGroup
		for range 2 {
			e, err := cache.New(store, &cache.Options{Logger: quiet})
			require.NoError(t, err)
			for range 50 {
				wg.Go(func() {
					res, err := e.Do(t.Context(), "key", func(context.Context, *cache.Loading) (cache.Entry, error) {
						loads.Add(1)
						time.Sleep(time.Second)
						return value("data", time.Minute), nil
					})
					assert.NoError(t, err)
					assert.Equal(t, "data", string(res.Entry.Data))
				})
			}
		}
		wg.Wait()
		assert.LessOrEqual(t, loads.Load(), int32(2), "one per process at most")
	})
}

func TestNewReportsAllFaultsAtOnce(t *testing.T) {
	_, err := cache.New(nil, &cache.Options{LeaseTTL: time.Millisecond, WaitTimeout: -1, StoreTimeout: -1})
	for _, part := range []string{"store is nil", "LeaseTTL", "WaitTimeout", "StoreTimeout"} {
		require.ErrorContains(t, err, part)
	}
	_, err = cache.New((*cache.MemoryStore)(nil), nil)
	require.ErrorContains(t, err, "store is nil")
	var locker *lock.Locker
	_, err = cache.New(cache.NewMemoryStore(nil), &cache.Options{Locker: locker})
	require.ErrorContains(t, err, "Options.Locker is a nil *lock.Locker")
	e, err := cache.New(cache.NewMemoryStore(nil), nil)
	require.NoError(t, err)
	_, err = cache.ForCodec[string](e, "n", cache.Policy{TTL: time.Minute}, (*nilCodec)(nil))
	require.ErrorContains(t, err, "codec is nil")
}

type nilCodec struct{ cache.Codec[string] }

// brokenStore is a store whose server is away.
type brokenStore struct{}

var errAway = errors.New("connection refused")

func (brokenStore) Get(context.Context, string) (cache.Entry, bool, error) {
	return cache.Entry{}, false, errAway
}

func (brokenStore) GetMany(context.Context, []string) ([]cache.Entry, error) { return nil, errAway }

func (brokenStore) Peek(string) (cache.Entry, bool) { return cache.Entry{}, false }

func (brokenStore) Begin(context.Context, string, cache.Filling) (cache.Beginning, error) {
	return cache.Beginning{}, errAway
}

func (brokenStore) Fill(context.Context, string, cache.Ticket, cache.Entry) (bool, error) {
	return false, errAway
}

func (brokenStore) BeginWrite(context.Context, string, time.Duration) (cache.Ticket, error) {
	return cache.Ticket{}, errAway
}

func (brokenStore) Write(context.Context, string, cache.Ticket, cache.Entry) (bool, error) {
	return false, errAway
}
func (brokenStore) Purge(context.Context, cache.Purge) error { return errAway }
func (brokenStore) Watch(context.Context, string) (<-chan struct{}, func(), error) {
	return nil, nil, errAway
}
func (brokenStore) LeaseName(key string) string { return key }
