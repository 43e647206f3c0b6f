package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type user struct {
	ID   string
	Name string
}

func namespace(t testing.TB, e *cache.Engine, p cache.Policy) *cache.Namespace[user] {
	t.Helper()
	n, err := cache.For[user](e, "user", p)
	require.NoError(t, err)
	return n
}

// source is what is behind a cache: a value under each key, counted loads, and
// whatever a load does besides.
type source struct {
	mu     sync.Mutex
	name   string
	loads  atomic.Int32
	during func(ctx context.Context) error
}

func (s *source) set(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name = name
}

func (s *source) do(during func(ctx context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.during = during
}

func (s *source) load(ctx context.Context, key string) (user, error) {
	s.loads.Add(1)
	s.mu.Lock()
	u, during := user{ID: key, Name: s.name}, s.during
	s.mu.Unlock()
	if during != nil {
		if err := during(ctx); err != nil {
			return user{}, err
		}
	}
	return u, nil
}

func sleep(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errSource = errors.New("the source is down")

func TestGetLoadsOnceInTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 3, newMemoryStore(t), cache.Options{})
		s := &source{name: "Ada", during: sleep(800 * time.Millisecond)}
		var wg sync.WaitGroup
		began := time.Now()
		for i := range 1_500 {
			wg.Go(func() {
				u, err := namespace(t, engines[i%3], cache.Policy{TTL: time.Minute}).Get(t.Context(), "1", s.load)
				assert.NoError(t, err)
				assert.Equal(t, user{"1", "Ada"}, u)
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, s.loads.Load())
		assert.Equal(t, 800*time.Millisecond, time.Since(began))
		stats := engines[0].Stats()
		assert.Zero(t, stats.StoreErrors)
		_, err := namespace(t, engines[0], cache.Policy{TTL: time.Minute}).Get(t.Context(), "1", nil)
		require.NoError(t, err)
		assert.EqualValues(t, 1, engines[0].Stats().HitsLocal-stats.HitsLocal)
	})
}

func TestThePolicyIsValidated(t *testing.T) {
	e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
	_, err := cache.For[user](e, "user", cache.Policy{})
	require.ErrorContains(t, err, "TTL")
	_, err = cache.For[user](nil, "", cache.Policy{
		TTL: -1, Jitter: 1, NegativeTTL: -1, StaleWhileRevalidate: -1, StaleIfError: -1, EarlyRefresh: -1,
		LoadTimeout: time.Hour, SoftLoadTimeout: -1, WaitTimeout: -1, Backoff: -1, WriteTimeout: -1,
	})
	for _, part := range []string{"engine", "name", "TTL", "Jitter", "NegativeTTL", "StaleWhileRevalidate", "StaleIfError", "EarlyRefresh", "LoadTimeout", "SoftLoadTimeout", "WaitTimeout", "Backoff", "WriteTimeout"} {
		require.ErrorContains(t, err, part)
	}
	_, err = cache.For[user](e, "user", cache.Policy{
		TTL: 60, NegativeTTL: 60, StaleWhileRevalidate: 60, StaleIfError: 60,
		LoadTimeout: 60, SoftLoadTimeout: 60, WaitTimeout: 60, Backoff: 60, WriteTimeout: 60,
	})
	for _, field := range []string{"TTL", "NegativeTTL", "StaleWhileRevalidate", "StaleIfError", "LoadTimeout", "SoftLoadTimeout", "WaitTimeout", "Backoff", "WriteTimeout"} {
		require.ErrorContains(t, err, "Policy."+field+" is 60ns: write 60 * time.Second")
	}
	_, err = cache.For[user](e, "user", cache.Policy{TTL: time.Millisecond})
	require.NoError(t, err)
	for _, name := range []string{"a:b", "4", "a b", "ä", "a{b}"} { // keys of two namespaces must differ
		_, err = cache.For[user](e, name, cache.Policy{TTL: 1})
		require.ErrorContains(t, err, "name")
	}
	_, err = cache.ForCodec[user](e, "user", cache.Policy{TTL: 1}, nil)
	require.ErrorContains(t, err, "codec")
}

func TestTheFirstCallerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := namespace(t, newEngines(t, 1, newMemoryStore(t), cache.Options{})[0], cache.Policy{TTL: time.Minute})
		s := &source{name: "Ada", during: sleep(time.Second)}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := n.Get(ctx, "1", s.load)
			assert.ErrorIs(t, err, context.Canceled)
		})
		synctest.Wait()
		for range 10 {
			wg.Go(func() {
				u, err := n.Get(t.Context(), "1", s.load)
				assert.NoError(t, err)
				assert.Equal(t, "Ada", u.Name)
			})
		}
		time.Sleep(100 * time.Millisecond)
		cancel()
		wg.Wait()
		assert.EqualValues(t, 1, s.loads.Load())
	})
}

func TestAllCallersGoAway(t *testing.T) {
	// The bubble does not end before every goroutine in it has.
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		n := namespace(t, engines[0], cache.Policy{TTL: time.Minute})
		var cause atomic.Value
		s := &source{during: func(ctx context.Context) error {
			<-ctx.Done()
			cause.Store(ctx.Err())
			return ctx.Err()
		}}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				_, err := n.Get(ctx, "1", s.load)
				assert.ErrorIs(t, err, context.Canceled)
			})
		}
		time.Sleep(100 * time.Millisecond)
		cancel()
		wg.Wait()
		synctest.Wait()
		assert.Equal(t, context.Canceled, cause.Load(), "a load that nobody waits for is told to stop")

		// And the lease is free, nothing is remembered as a failure.
		s.do(nil)
		s.set("Ada")
		began := time.Now()
		u, err := namespace(t, engines[1], cache.Policy{TTL: time.Minute}).Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		assert.Equal(t, "Ada", u.Name)
		assert.Less(t, time.Since(began), 100*time.Millisecond)
	})
}

func TestAPanicIsAnErrorOfAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := namespace(t, newEngines(t, 1, newMemoryStore(t), cache.Options{})[0], cache.Policy{TTL: time.Minute})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				_, err := n.Get(t.Context(), "1", func(context.Context, string) (user, error) {
					time.Sleep(time.Second)
					panic("boom")
				})
				var p *cache.PanicError
				if assert.ErrorAs(t, err, &p) {
					assert.Equal(t, "boom", p.Value)
					assert.Contains(t, string(p.Stack), "namespace_test.go")
				}
			})
		}
		began := time.Now()
		wg.Wait()
		assert.Equal(t, time.Second, time.Since(began))
		time.Sleep(time.Second)
		u, err := n.Get(t.Context(), "1", (&source{name: "Ada"}).load)
		require.NoError(t, err)
		assert.Equal(t, "Ada", u.Name)
	})
}

func TestAFailingLoadIsNotRepeatedByEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 3, newMemoryStore(t), cache.Options{})
		p := cache.Policy{TTL: time.Minute, Backoff: time.Second}
		s := &source{during: func(context.Context) error {
			time.Sleep(100 * time.Millisecond)
			return errSource
		}}
		var wg sync.WaitGroup
		began := time.Now()
		for i := range 60 {
			wg.Go(func() {
				_, err := namespace(t, engines[i%3], p).Get(t.Context(), "1", s.load)
				assert.True(t, errors.Is(err, errSource) || errors.Is(err, cache.ErrLoadFailed), "%v", err)
			})
		}
		wg.Wait()
		assert.Equal(t, 100*time.Millisecond, time.Since(began), "nobody waits for a second failure")
		assert.EqualValues(t, 1, s.loads.Load())
		for time.Since(began) < 900*time.Millisecond { // the window
			for _, e := range engines {
				_, err := namespace(t, e, p).Get(t.Context(), "1", s.load)
				require.Error(t, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		assert.LessOrEqual(t, s.loads.Load(), int32(3), "one in a window and process")
		s.do(nil)
		time.Sleep(2 * time.Second)
		_, err := namespace(t, engines[0], p).Get(t.Context(), "1", s.load)
		require.NoError(t, err)
	})
}

// Who comes to a failing key of another process tries once, and what that brings
// is for all.
func TestOneSuccessEndsABackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		p := cache.Policy{TTL: time.Minute, Backoff: time.Minute}
		_, err := namespace(t, engines[0], p).Get(t.Context(), "1", func(context.Context, string) (user, error) { return user{}, errSource })
		require.ErrorIs(t, err, errSource)
		s := &source{name: "Ada"}
		for _, e := range []*cache.Engine{engines[1], engines[0]} {
			u, err := namespace(t, e, p).Get(t.Context(), "1", s.load)
			require.NoError(t, err)
			assert.Equal(t, "Ada", u.Name)
		}
		assert.EqualValues(t, 1, s.loads.Load())
	})
}

func TestDeadlinesOfWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		s := &source{name: "Ada", during: sleep(2 * time.Second)}
		go func() {
			_, _ = namespace(t, engines[0], cache.Policy{TTL: time.Minute}).Get(t.Context(), "1", s.load)
		}()
		synctest.Wait()
		for _, e := range engines {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, err := namespace(t, e, cache.Policy{TTL: time.Minute}).Get(ctx, "1", s.load)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, 100*time.Millisecond, time.Since(began))

			began = time.Now()
			_, err = namespace(t, e, cache.Policy{TTL: time.Minute, WaitTimeout: 200 * time.Millisecond, GiveUp: true}).Get(t.Context(), "1", s.load)
			require.ErrorIs(t, err, cache.ErrWaitTimeout)
			assert.Equal(t, 200*time.Millisecond, time.Since(began))

			u, err := namespace(t, e, cache.Policy{TTL: time.Minute, WaitTimeout: 200 * time.Millisecond}).Get(t.Context(), "1",
				func(context.Context, string) (user, error) { return user{Name: "own"}, nil })
			require.NoError(t, err)
			assert.Equal(t, "own", u.Name)
		}
		time.Sleep(3 * time.Second)
	})
}

func TestLoadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := namespace(t, newEngines(t, 1, newMemoryStore(t), cache.Options{})[0], cache.Policy{TTL: time.Minute, LoadTimeout: time.Second})
		for name, during := range map[string]func(context.Context) error{
			"a load that obeys": sleep(time.Hour),
			"one that does not": func(context.Context) error { time.Sleep(time.Hour); return nil },
		} {
			began := time.Now()
			_, err := n.Get(t.Context(), name, (&source{during: during}).load)
			require.ErrorIs(t, err, cache.ErrLoadTimeout, name)
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			assert.Equal(t, time.Second, time.Since(began), name)
		}
		time.Sleep(2 * time.Hour)
	})
}

func TestStaleWhileRevalidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 3, newMemoryStore(t), cache.Options{})
		p := cache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour}
		s := &source{name: "old", during: sleep(time.Second)}
		_, err := namespace(t, engines[0], p).Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		s.set("new")
		time.Sleep(2 * time.Minute)
		began := time.Now()
		for range 100 {
			for _, e := range engines {
				u, err := namespace(t, e, p).Get(t.Context(), "1", s.load)
				require.NoError(t, err)
				assert.Equal(t, "old", u.Name)
			}
			time.Sleep(5 * time.Millisecond)
		}
		assert.Equal(t, 500*time.Millisecond, time.Since(began), "nobody waits")
		time.Sleep(time.Second)
		for _, e := range engines {
			u, err := namespace(t, e, p).Get(t.Context(), "1", s.load)
			require.NoError(t, err)
			assert.Equal(t, "new", u.Name)
		}
		assert.EqualValues(t, 2, s.loads.Load(), "one refresh in the cluster")
		assert.EqualValues(t, 100, engines[0].Stats().HitsStale)
		time.Sleep(2 * time.Hour)
		s.set("newest")
		u, err := namespace(t, engines[0], p).Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		assert.Equal(t, "newest", u.Name, "what is too old is gone")
	})
}

// The refresh of a source that is down is not tried by each caller.
func TestARefreshThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		p := cache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour, Backoff: time.Second}
		s := &source{name: "old"}
		_, err := namespace(t, engines[0], p).Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		s.do(func(context.Context) error { return errSource })
		time.Sleep(2 * time.Minute)
		s.loads.Store(0)
		for range 1_000 {
			for _, e := range engines {
				u, err := namespace(t, e, p).Get(t.Context(), "1", s.load)
				require.NoError(t, err)
				assert.Equal(t, "old", u.Name)
			}
			time.Sleep(5 * time.Millisecond)
		}
		assert.LessOrEqual(t, s.loads.Load(), int32(2*6), "one in each window of a second and process")
		assert.GreaterOrEqual(t, s.loads.Load(), int32(4))
	})
}

func TestStaleIfError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		p := cache.Policy{TTL: time.Minute, StaleIfError: time.Hour, Backoff: time.Second, SoftLoadTimeout: 300 * time.Millisecond}
		s := &source{name: "old"}
		get := func(e *cache.Engine) (string, error) {
			u, err := namespace(t, e, p).Get(t.Context(), "1", s.load)
			return u.Name, err
		}
		_, err := get(engines[0])
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)

		s.do(func(context.Context) error { return errSource })
		for range 100 { // in the backoff as well
			for _, e := range engines {
				name, err := get(e)
				require.NoError(t, err)
				assert.Equal(t, "old", name)
			}
		}
		assert.LessOrEqual(t, s.loads.Load(), int32(1+2))

		time.Sleep(2 * time.Second)
		s.set("new")
		s.do(sleep(time.Second))
		began := time.Now()
		name, err := get(engines[0])
		require.NoError(t, err)
		assert.Equal(t, "old", name)
		assert.Equal(t, 300*time.Millisecond, time.Since(began), "the soft timeout")
		time.Sleep(time.Second)
		s.do(nil)
		for _, e := range engines {
			name, err := get(e)
			require.NoError(t, err)
			assert.Equal(t, "new", name, "the load went on")
		}

		time.Sleep(2 * time.Minute)
		s.set("newest")
		name, err = get(engines[0])
		require.NoError(t, err)
		assert.Equal(t, "newest", name, "stale is for errors only")

		time.Sleep(2 * time.Hour)
		s.do(func(context.Context) error { return errSource })
		_, err = get(engines[0])
		require.ErrorIs(t, err, errSource, "what is too old is gone")
	})
}

func TestAWaiterThatIsTiredGetsTheStaleValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		p := cache.Policy{TTL: time.Minute, StaleIfError: time.Hour, WaitTimeout: time.Second, GiveUp: true}
		s := &source{name: "old"}
		_, err := namespace(t, engines[0], p).Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		s.do(sleep(10 * time.Second))
		s.set("new")
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				began := time.Now()
				u, err := namespace(t, engines[i%2], p).Get(t.Context(), "1", s.load)
				assert.NoError(t, err)
				assert.Equal(t, "old", u.Name)
				assert.Equal(t, time.Second, time.Since(began))
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		assert.EqualValues(t, 2, s.loads.Load())
	})
}

func TestEarlyRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
		s := &source{during: sleep(time.Second)}
		n := namespace(t, e, cache.Policy{TTL: 100 * time.Second, EarlyRefresh: 1})
		began := time.Now()
		waits := 0
		for time.Since(began) < time.Hour {
			before := time.Now()
			_, err := n.Get(t.Context(), "1", s.load)
			require.NoError(t, err)
			if time.Since(before) > 0 {
				waits++
			}
			time.Sleep(100 * time.Millisecond)
		}
		// With a caller each 0.1 s, nearly all refreshes come early, a few
		// seconds before the end.
		assert.InDelta(t, 3600/97.0, float64(s.loads.Load()), 3)
		assert.LessOrEqual(t, waits, 10, "one, and where the refresh was chosen in the last second")
	})
}

func TestJitter(t *testing.T) {
	store := newMemoryStore(t)
	n := namespace(t, newEngines(t, 1, store, cache.Options{})[0], cache.Policy{TTL: 100 * time.Second, Jitter: 0.2})
	var ttls []time.Duration
	for i := range 200 {
		_, err := n.Get(t.Context(), fmt.Sprint(i), (&source{}).load)
		require.NoError(t, err)
		e, _ := store.Peek(fmt.Sprint("user:", i))
		ttls = append(ttls, e.TTL)
	}
	assert.LessOrEqual(t, slices.Max(ttls), 100*time.Second)
	assert.GreaterOrEqual(t, slices.Min(ttls), 79*time.Second)
	assert.Greater(t, slices.Max(ttls)-slices.Min(ttls), 10*time.Second)
}

func TestNegativeResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
		s := &source{during: func(context.Context) error {
			time.Sleep(time.Second)
			return fmt.Errorf("no such row: %w", cache.ErrNotFound)
		}}
		for _, tt := range []struct {
			negative time.Duration
			want     int32
		}{{0, 3}, {time.Minute, 1}} {
			s.loads.Store(0)
			n, err := cache.For[user](e, fmt.Sprint("user", tt.negative), cache.Policy{TTL: time.Hour, NegativeTTL: tt.negative})
			require.NoError(t, err)
			for range 3 {
				var wg sync.WaitGroup
				for range 10 {
					wg.Go(func() {
						_, err := n.Get(t.Context(), "1", s.load)
						assert.ErrorIs(t, err, cache.ErrNotFound)
					})
				}
				wg.Wait()
				time.Sleep(2 * time.Millisecond) // "not remembered" is for a moment
			}
			// Who asks while a load is under way must not get its ErrNotFound:
			// there may be something since.
			assert.GreaterOrEqual(t, s.loads.Load(), tt.want, "NegativeTTL %v", tt.negative)
			assert.LessOrEqual(t, s.loads.Load(), 2*tt.want, "NegativeTTL %v", tt.negative)
		}
		time.Sleep(2 * time.Minute)
		n, err := cache.For[user](e, "user1m0s", cache.Policy{TTL: time.Hour, NegativeTTL: time.Minute})
		require.NoError(t, err)
		s.do(nil)
		s.set("Ada")
		u, err := n.Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		assert.Equal(t, "Ada", u.Name)
	})
}

// What the source has no more is no failure to be covered up by a stale value.
func TestWhatIsDeletedInTheSourceIsNotServedStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, negative := range []time.Duration{0, time.Minute} {
			engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
			p := cache.Policy{TTL: time.Minute, NegativeTTL: negative, StaleIfError: time.Hour, StaleWhileRevalidate: time.Hour}
			s := &source{name: "Ada"}
			_, err := namespace(t, engines[0], p).Get(t.Context(), "1", s.load)
			require.NoError(t, err)
			time.Sleep(2 * time.Minute)
			s.do(func(context.Context) error { return cache.ErrNotFound })
			_, err = namespace(t, engines[0], p).Get(t.Context(), "1", s.load)
			require.NoError(t, err, "while it is revalidated")
			time.Sleep(time.Second)
			for _, e := range engines {
				_, err = namespace(t, e, p).Get(t.Context(), "1", s.load)
				require.ErrorIs(t, err, cache.ErrNotFound, "NegativeTTL %v", negative)
			}
			assert.Zero(t, engines[0].Stats().LoadErrors)
		}
	})
}

func TestTagsOfABatch(t *testing.T) {
	// So long a lease that none is lost on a busy machine.
	e := newEngines(t, 1, newMemoryStore(t), cache.Options{LeaseTTL: 10 * time.Second})[0]
	n := namespace(t, e, cache.Policy{TTL: time.Minute})
	load := func(ctx context.Context, keys []string) (map[string]user, error) {
		users := map[string]user{}
		cache.AddTags(ctx, "all")
		for _, key := range keys {
			users[key] = user{ID: key}
			cache.AddTagsFor(ctx, key, "user "+key)
		}
		return users, nil
	}
	keys := make([]string, 1_100) // one more tag each would be too many for one value
	for i := range keys {
		keys[i] = fmt.Sprint(i)
	}
	cached := func() int {
		found := 0
		for _, key := range keys {
			if _, err := n.Get(t.Context(), key, func(context.Context, string) (user, error) { return user{}, cache.ErrNotFound }); err == nil {
				found++
			}
		}
		return found
	}
	_, err := n.GetMany(t.Context(), keys, load)
	require.NoError(t, err)
	assert.Equal(t, 1_100, cached())
	require.NoError(t, e.PurgeTags(t.Context(), "user 3"))
	assert.Equal(t, 1_099, cached())
	require.NoError(t, e.PurgeTags(t.Context(), "all"))
	assert.Zero(t, cached())
}

func TestAValueWithTooManyTagsIsNotKept(t *testing.T) {
	e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
	n := namespace(t, e, cache.Policy{TTL: time.Minute})
	s := &source{during: func(ctx context.Context) error {
		for i := range 1_001 {
			cache.AddTags(ctx, fmt.Sprint(i))
		}
		return nil
	}}
	for range 5 {
		_, err := n.Get(t.Context(), "1", s.load)
		require.NoError(t, err)
	}
	assert.EqualValues(t, 5, s.loads.Load())
	assert.Zero(t, e.Stats().StoreErrors)
}

// The client that has changed something may have gone.
func TestAPurgeGoesOnWithoutItsCaller(t *testing.T) {
	n := namespace(t, newEngines(t, 1, newMemoryStore(t), cache.Options{})[0], cache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Minute})
	s := &source{name: "old"}
	_, err := n.Get(t.Context(), "1", s.load)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.set("new")
	require.NoError(t, n.SoftDelete(ctx, "1"))
	u, err := n.Get(t.Context(), "1", s.load)
	require.NoError(t, err)
	assert.Equal(t, "old", u.Name)
	require.NoError(t, n.Delete(ctx, "1"))
	u, err = n.Get(t.Context(), "1", s.load)
	require.NoError(t, err)
	assert.Equal(t, "new", u.Name)
}

func TestPutIsWriteThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		p := cache.Policy{TTL: time.Minute}
		a, b := namespace(t, engines[0], p), namespace(t, engines[1], p)
		s := &source{name: "old"}
		write := func(_ context.Context, _ string, u user) error { s.set(u.Name); return nil }

		require.NoError(t, a.Put(t.Context(), "1", user{"1", "Ada"}, write))
		u, err := b.Get(t.Context(), "1", nil)
		require.NoError(t, err)
		assert.Equal(t, "Ada", u.Name)

		err = a.Put(t.Context(), "1", user{"1", "Bob"}, func(context.Context, string, user) error { return errSource })
		require.ErrorIs(t, err, errSource)
		u, err = b.Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		assert.Equal(t, "Ada", u.Name, "from the source: the cached value went with the failure")
		assert.EqualValues(t, 1, s.loads.Load())

		assert.Panics(t, func() {
			_ = a.Put(t.Context(), "1", user{}, func(context.Context, string, user) error { panic("boom") })
		})
		_, err = b.Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		assert.EqualValues(t, 2, s.loads.Load())
	})
}

// A load that read the source before a Put, and ends after it, cannot bring the
// old value back: neither for those who ask later, nor into the cache.
func TestPutBeatsASlowLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for round := range 50 {
			engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
			p := cache.Policy{TTL: time.Minute}
			s := &source{name: "old", during: sleep(time.Duration(round) * time.Millisecond)}
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = namespace(t, engines[0], p).Get(t.Context(), "1", s.load) })
			wg.Go(func() {
				time.Sleep(20 * time.Millisecond)
				err := namespace(t, engines[1], p).Put(t.Context(), "1", user{"1", "new"}, func(_ context.Context, _ string, u user) error {
					time.Sleep(5 * time.Millisecond)
					s.set(u.Name)
					time.Sleep(5 * time.Millisecond)
					return nil
				})
				assert.NoError(t, err)
				for _, e := range engines {
					u, err := namespace(t, e, p).Get(t.Context(), "1", s.load)
					assert.NoError(t, err)
					assert.Equal(t, "new", u.Name, "round %d", round)
				}
			})
			wg.Wait()
			for _, e := range engines {
				u, err := namespace(t, e, p).Get(t.Context(), "1", s.load)
				require.NoError(t, err)
				assert.Equal(t, "new", u.Name, "round %d", round)
			}
		}
	})
}

func TestPutSaysWhenTheCacheCouldNotBeTold(t *testing.T) {
	n := namespace(t, newEngines(t, 1, brokenStore{}, cache.Options{})[0], cache.Policy{TTL: time.Minute})
	written := false
	err := n.Put(t.Context(), "1", user{}, func(context.Context, string, user) error { written = true; return nil })
	assert.True(t, written, "a cache that is away is no reason not to write")
	require.ErrorIs(t, err, cache.ErrNotPurged)
	require.ErrorIs(t, err, errAway)
}

func TestDeleteAndRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		p := cache.Policy{TTL: time.Minute, StaleIfError: time.Minute, Backoff: time.Millisecond}
		a, b := namespace(t, engines[0], p), namespace(t, engines[1], p)
		s := &source{name: "old"}
		for _, key := range []string{"1", "2", "21"} {
			_, err := a.Get(t.Context(), key, s.load)
			require.NoError(t, err)
		}
		s.set("new")
		u, err := a.Refresh(t.Context(), "1", s.load)
		require.NoError(t, err)
		assert.Equal(t, "new", u.Name)
		u, err = b.Get(t.Context(), "1", nil)
		require.NoError(t, err)
		assert.Equal(t, "new", u.Name)

		s.do(func(context.Context) error { return errSource })
		u, err = a.Refresh(t.Context(), "1", s.load)
		require.ErrorIs(t, err, errSource, "who asks for the newest must not get an old one: %v", u)
		time.Sleep(time.Second)
		u, err = b.Get(t.Context(), "1", s.load)
		require.NoError(t, err, "the others still have the old one")
		assert.Equal(t, "new", u.Name)

		s.do(nil)
		require.NoError(t, a.Delete(t.Context(), "2"))
		u, err = b.Get(t.Context(), "2", s.load)
		require.NoError(t, err)
		assert.Equal(t, "new", u.Name)
		u, err = b.Get(t.Context(), "21", s.load)
		require.NoError(t, err)
		assert.Equal(t, "old", u.Name)
		require.NoError(t, a.DeletePrefix(t.Context(), "2"))
		u, err = b.Get(t.Context(), "21", s.load)
		require.NoError(t, err)
		assert.Equal(t, "new", u.Name)
	})
}

func TestTagsThatALoadFindsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		p := cache.Policy{TTL: time.Minute}
		s := &source{name: "old"}
		s.do(func(ctx context.Context) error {
			time.Sleep(time.Second)
			cache.AddTags(ctx, "team 7")
			return nil
		})
		var wg sync.WaitGroup
		wg.Go(func() { // reads the source before the purge
			u, err := namespace(t, engines[0], p).Get(t.Context(), "1", s.load)
			assert.NoError(t, err)
			assert.Equal(t, "old", u.Name)
		})
		time.Sleep(500 * time.Millisecond)
		s.set("new")
		require.NoError(t, engines[1].PurgeTags(t.Context(), "team 7"))
		wg.Wait()
		u, err := namespace(t, engines[1], p).Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		assert.Equal(t, "new", u.Name)
		assert.EqualValues(t, 1, engines[0].Stats().FillsRefused)

		s.set("newest")
		require.NoError(t, engines[0].SoftPurgeTags(t.Context(), "another"))
		u, err = namespace(t, engines[1], p).Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		assert.Equal(t, "new", u.Name)
		require.NoError(t, engines[0].SoftPurgeTags(t.Context(), "team 7"))
		u, err = namespace(t, engines[1], p).Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		assert.Equal(t, "newest", u.Name, "a policy without stale values knows no soft purge")
	})
}

func TestSetTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := namespace(t, newEngines(t, 1, newMemoryStore(t), cache.Options{})[0], cache.Policy{TTL: time.Minute})
		for _, tt := range []struct {
			ttl, after time.Duration
			kept       bool
		}{
			{0, 0, false},
			{time.Second, 500 * time.Millisecond, true},
			{time.Second, 2 * time.Second, false},
			{time.Hour, 2 * time.Minute, true},
		} {
			key := fmt.Sprint(tt)
			s := &source{during: func(ctx context.Context) error {
				time.Sleep(time.Millisecond)
				cache.SetTTL(ctx, tt.ttl)
				return nil
			}}
			var wg sync.WaitGroup
			for range 10 { // who waits gets it, kept or not
				wg.Go(func() {
					_, err := n.Get(t.Context(), key, s.load)
					assert.NoError(t, err)
				})
			}
			wg.Wait()
			before := s.loads.Load()
			assert.LessOrEqual(t, before, int32(2), key)
			time.Sleep(tt.after)
			_, err := n.Get(t.Context(), key, s.load)
			require.NoError(t, err)
			assert.Equal(t, tt.kept, s.loads.Load() == before, key)
		}
	})
}

func TestAnotherSchemaIsAMiss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		e := engines[0]
		v1, err := cache.For[string](e, "x", cache.Policy{TTL: time.Hour, Schema: 1})
		require.NoError(t, err)
		v2, err := cache.For[int](e, "x", cache.Policy{TTL: time.Hour, Schema: 2})
		require.NoError(t, err)
		same, err := cache.For[int](engines[1], "x", cache.Policy{TTL: time.Hour, Schema: 1})
		require.NoError(t, err)
		_, err = v1.Get(t.Context(), "1", func(context.Context, string) (string, error) { return "one", nil })
		require.NoError(t, err)
		for _, n := range []*cache.Namespace[int]{v2, same} { // the latter cannot decode it
			synctest.Wait() // until the lease is released
			began := time.Now()
			i, err := n.Get(t.Context(), "1", func(context.Context, string) (int, error) { return 1, nil })
			require.NoError(t, err)
			assert.Equal(t, 1, i)
			i, err = n.Get(t.Context(), "1", nil)
			require.NoError(t, err)
			assert.Equal(t, 1, i)
			assert.Zero(t, time.Since(began))
			_, err = v1.Refresh(t.Context(), "1", func(context.Context, string) (string, error) { return "one", nil })
			require.NoError(t, err)
		}
	})
}

func TestCodecs(t *testing.T) {
	roundTrip(t, user{"1", "Ada"})
	roundTrip(t, "text")
	roundTrip(t, []byte{0, 1, 2})
	roundTrip(t, map[string]int{"a": 1})
	roundTrip(t, time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)) // marshals itself
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	roundTrip(t, &at)
	roundTrip(t, big.NewInt(42)) // text only: JSON
	roundTrip[any](t, "anything")

	_, err := cache.DefaultCodec[*time.Time]().Encode(nil)
	require.ErrorContains(t, err, "nil")
}

func roundTrip[V any](t *testing.T, v V) {
	t.Helper()
	codec := cache.DefaultCodec[V]()
	b, err := codec.Encode(v)
	require.NoError(t, err)
	got, err := codec.Decode(b)
	require.NoError(t, err)
	assert.Equal(t, v, got)
	n, err := cache.For[V](newEngines(t, 1, newMemoryStore(t), cache.Options{})[0], "n", cache.Policy{TTL: time.Minute})
	require.NoError(t, err)
	for range 2 {
		got, err = n.Get(t.Context(), "k", func(context.Context, string) (V, error) { return v, nil })
		require.NoError(t, err)
		assert.Equal(t, v, got)
	}
}

func TestALoadThatEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := namespace(t, newEngines(t, 1, newMemoryStore(t), cache.Options{})[0], cache.Policy{TTL: time.Minute})
		began := time.Now()
		_, err := n.Get(t.Context(), "1", func(context.Context, string) (user, error) { runtime.Goexit(); return user{}, nil })
		require.ErrorContains(t, err, "goroutine")
		_, err = n.GetMany(t.Context(), []string{"2", "3"}, func(context.Context, []string) (map[string]user, error) { runtime.Goexit(); return nil, nil })
		require.ErrorContains(t, err, "goroutine")
		assert.Zero(t, time.Since(began))
	})
}

func TestWhatIsObserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var events []cache.Event
		var n *cache.Namespace[user]
		var inside atomic.Bool
		e := newEngines(t, 1, newMemoryStore(t), cache.Options{Observe: func(ctx context.Context, event cache.Event) {
			mu.Lock()
			events = append(events, event)
			mu.Unlock()
			if inside.CompareAndSwap(false, true) { // who observes may use the engine
				_, _ = n.Get(ctx, "inside", (&source{}).load)
			}
		}})[0]
		n = namespace(t, e, cache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Minute, Backoff: time.Millisecond})
		_, _ = n.Get(t.Context(), "first", (&source{}).load)
		synctest.Wait()
		events = nil
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { _, _ = n.Get(t.Context(), "1", (&source{during: sleep(time.Second)}).load) })
		}
		wg.Wait()
		_, _ = n.Get(t.Context(), "1", nil)
		_, _ = n.Get(t.Context(), "2", (&source{during: func(context.Context) error { return errSource }}).load)
		_ = e.PurgeTags(t.Context(), "tag")
		time.Sleep(90 * time.Second)
		// The refresh takes its time, so that it ends after the hit in any case.
		_, _ = n.Get(t.Context(), "1", (&source{during: sleep(time.Second)}).load)
		time.Sleep(2 * time.Second)
		_, _ = n.Get(t.Context(), "3", func(ctx context.Context, _ string) (user, error) { return user{}, n.Delete(ctx, "3") })

		var got []string
		for _, ev := range events {
			assert.NotContains(t, ev.Kind.String(), "EventKind")
			got = append(got, fmt.Sprintf("%d %s %v %v %v", ev.Kind, ev.Key, ev.Local, ev.Took, ev.Err != nil))
		}
		assert.Equal(t, []string{
			fmt.Sprintf("%d user:1 false 0s false", cache.Missed),
			fmt.Sprintf("%d user:1 false 1s false", cache.LoadEnded),
			fmt.Sprintf("%d user:1 false 1s false", cache.WaitEnded),
			fmt.Sprintf("%d user:1 true 0s false", cache.HitFresh),
			fmt.Sprintf("%d user:2 false 0s false", cache.Missed),
			fmt.Sprintf("%d user:2 false 0s true", cache.LoadEnded),
			fmt.Sprintf("%d  false 0s false", cache.Purged),
			fmt.Sprintf("%d user:1 true 0s false", cache.HitStale),
			fmt.Sprintf("%d user:1 false 1s false", cache.LoadEnded),
			fmt.Sprintf("%d user:3 false 0s false", cache.Missed),
			fmt.Sprintf("%d  false 0s false", cache.Purged),
			fmt.Sprintf("%d user:3 false 0s false", cache.LoadEnded),
			fmt.Sprintf("%d user:3 false 0s false", cache.FillRefused),
		}, got)
		stats := e.Stats()
		assert.EqualValues(t, 1, stats.FillsRefused)
		assert.EqualValues(t, 1, stats.LoadErrors)
		assert.EqualValues(t, 2, stats.Purges)
	})
}

func TestGetMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := newEngines(t, 2, newMemoryStore(t), cache.Options{})
		p := cache.Policy{TTL: time.Minute, NegativeTTL: time.Minute}
		var mu sync.Mutex
		var calls [][]string
		load := func(_ context.Context, keys []string) (map[string]user, error) {
			mu.Lock()
			calls = append(calls, keys)
			mu.Unlock()
			time.Sleep(time.Second)
			users := map[string]user{}
			for _, key := range keys {
				if key != "nobody" {
					users[key] = user{key, "many"}
				}
			}
			return users, nil
		}
		a, b := namespace(t, engines[0], p), namespace(t, engines[1], p)
		got, err := a.GetMany(t.Context(), nil, nil)
		require.NoError(t, err)
		assert.Empty(t, got)

		keys := []string{"1", "2", "3", "2", "nobody"}
		want := map[string]user{"1": {"1", "many"}, "2": {"2", "many"}, "3": {"3", "many"}}
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				got, err := []*cache.Namespace[user]{a, b}[i%2].GetMany(t.Context(), keys, load)
				assert.NoError(t, err)
				assert.Equal(t, want, got)
			})
		}
		wg.Wait()
		assert.Equal(t, time.Second, time.Since(began))
		loaded := slices.Concat(calls...)
		slices.Sort(loaded)
		assert.Equal(t, []string{"1", "2", "3", "nobody"}, loaded, "each key once in the cluster")
		assert.LessOrEqual(t, len(calls), 4)

		calls = nil
		s := &source{name: "single", during: sleep(500 * time.Millisecond)}
		wg.Go(func() { _, _ = b.Get(t.Context(), "5", s.load) })
		synctest.Wait()
		got, err = a.GetMany(t.Context(), []string{"1", "4", "5", "nobody", "6"}, load)
		require.NoError(t, err)
		assert.Equal(t, map[string]user{"1": {"1", "many"}, "4": {"4", "many"}, "5": {"5", "single"}, "6": {"6", "many"}}, got)
		require.Len(t, calls, 1, "one call for all that nobody else loads")
		assert.ElementsMatch(t, []string{"4", "6"}, calls[0])
		wg.Wait()

		// Part of it cannot be had.
		got, err = a.GetMany(t.Context(), []string{"1", "7", "8"}, func(context.Context, []string) (map[string]user, error) { return nil, errSource })
		require.ErrorIs(t, err, errSource)
		assert.Equal(t, map[string]user{"1": {"1", "many"}}, got)
		_, err = a.GetMany(t.Context(), []string{"9"}, func(context.Context, []string) (map[string]user, error) { panic("boom") })
		var p1 *cache.PanicError
		require.ErrorAs(t, err, &p1)

		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var ended atomic.Bool
		_, err = a.GetMany(ctx, []string{"10", "11"}, func(ctx context.Context, _ []string) (map[string]user, error) {
			<-ctx.Done()
			ended.Store(true)
			return nil, ctx.Err()
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		assert.True(t, ended.Load(), "a load that nobody waits for is told to stop")
	})
}

func TestABreakerKeepsEverybodyFromAStoreThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{Store: newMemoryStore(t), delay: time.Hour}
		var mu sync.Mutex
		var kinds []cache.EventKind
		e := newEngines(t, 1, peekless{store}, cache.Options{StoreTimeout: 50 * time.Millisecond, Observe: func(_ context.Context, event cache.Event) {
			mu.Lock()
			defer mu.Unlock()
			kinds = append(kinds, event.Kind)
		}})[0]
		n := namespace(t, e, cache.Policy{TTL: time.Minute})
		s := &source{name: "Ada"}
		var slow int
		for range 500 {
			began := time.Now()
			_, err := n.Get(t.Context(), "1", s.load)
			require.NoError(t, err)
			switch took := time.Since(began); took {
			case 0:
			case 50 * time.Millisecond:
				slow++
			default:
				t.Fatalf("a caller was held up for %v", took)
			}
			time.Sleep(10 * time.Millisecond)
		}
		assert.LessOrEqual(t, slow, 3+6, "three until it opens, then one a second")
		assert.True(t, e.Stats().BreakerOpen)
		store.hurry()
		recovered := time.Now()
		for e.Stats().BreakerOpen {
			_, err := n.Get(t.Context(), "1", s.load)
			require.NoError(t, err)
			time.Sleep(10 * time.Millisecond)
		}
		assert.LessOrEqual(t, time.Since(recovered), 2*time.Second)
		s.loads.Store(0)
		for range 2 {
			_, err := n.Get(t.Context(), "1", s.load)
			require.NoError(t, err)
		}
		assert.LessOrEqual(t, s.loads.Load(), int32(1))
		mu.Lock()
		defer mu.Unlock()
		changes := 0
		for _, k := range kinds {
			if k == cache.BreakerChanged {
				changes++
			}
		}
		assert.Equal(t, 2, changes)
		assert.Contains(t, kinds, cache.StoreFailed)
		assert.Contains(t, kinds, cache.LoadEnded)
	})
}

// peekless is a store that has nothing at hand.
type peekless struct{ cache.Store }

func (peekless) Peek(string) (cache.Entry, bool) { return cache.Entry{}, false }

func TestANamespaceHasOneTypeOfValues(t *testing.T) {
	e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
	for range 2 {
		_, err := cache.For[user](e, "user", cache.Policy{TTL: time.Minute})
		require.NoError(t, err)
	}
	_, err := cache.For[*user](e, "user", cache.Policy{TTL: time.Minute})
	require.ErrorContains(t, err, "user")
	_, err = cache.NewBlobs(e, "user", cache.Policy{TTL: time.Minute})
	require.Error(t, err)
	_, err = cache.For[*user](newEngines(t, 1, newMemoryStore(t), cache.Options{})[0], "user", cache.Policy{TTL: time.Minute})
	require.NoError(t, err)
}
