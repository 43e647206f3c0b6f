package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
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

// Who has made something and removed it from the cache must find it.
func TestErrNotFoundIsNotOlderThanAPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
		n := namespace(t, e, cache.Policy{TTL: time.Minute})
		var exists atomic.Bool
		load := func(ctx context.Context, key string) (user, error) {
			there := exists.Load()
			time.Sleep(time.Second)
			if !there {
				return user{}, cache.ErrNotFound
			}
			return user{ID: key, Name: "new"}, nil
		}
		go n.Get(t.Context(), "1", load)
		time.Sleep(100 * time.Millisecond)
		exists.Store(true)
		require.NoError(t, n.Delete(t.Context(), "1"))
		u, err := n.Get(t.Context(), "1", load)
		require.NoError(t, err)
		assert.Equal(t, "new", u.Name)
	})
}

type noFill struct{ *cache.MemoryStore }

func (noFill) Fill(context.Context, string, cache.Ticket, cache.Entry) (bool, error) {
	return false, errAway
}

// A store that fails now and then may take a purge and no fill.
func TestAFillThatFailsSharesNothingOlderThanAPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, noFill{newMemoryStore(t)}, cache.Options{})[0]
		n := namespace(t, e, cache.Policy{TTL: time.Minute})
		s := &source{name: "old"}
		s.do(sleep(time.Second))
		go n.Get(t.Context(), "1", s.load)
		time.Sleep(100 * time.Millisecond)
		s.set("new")
		require.NoError(t, n.Delete(t.Context(), "1"))
		u, err := n.Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		assert.Equal(t, "new", u.Name)
	})
}

type failOnce struct {
	*cache.MemoryStore
	n atomic.Int32
}

func (s *failOnce) Peek(string) (cache.Entry, bool) { return cache.Entry{}, false }
func (s *failOnce) Get(ctx context.Context, key string) (cache.Entry, bool, error) {
	if s.n.Add(1) == 1 {
		return cache.Entry{}, false, errAway
	}
	return s.MemoryStore.Get(ctx, key)
}

// Or a write, after a read that has failed.
func TestALoadWithoutTheStoreSharesNothingOlderThanAPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, &failOnce{MemoryStore: newMemoryStore(t)}, cache.Options{})[0]
		n := namespace(t, e, cache.Policy{TTL: time.Minute})
		s := &source{name: "old"}
		s.do(sleep(time.Second))
		go n.Get(t.Context(), "1", s.load)
		time.Sleep(100 * time.Millisecond)
		s.set("new")
		require.NoError(t, n.Put(t.Context(), "1", user{ID: "1", Name: "new"}, func(context.Context, string, user) error { return nil }))
		u, err := n.Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		assert.Equal(t, "new", u.Name)
	})
}

// WaitTimeout is for what others load.
func TestNobodyIsTiredOfItsOwnLoad(t *testing.T) {
	for _, giveUp := range []bool{false, true} {
		t.Run(fmt.Sprint(giveUp), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
				n := namespace(t, e, cache.Policy{TTL: time.Minute, GiveUp: giveUp}) // WaitTimeout 10 s, LoadTimeout 30 s
				s := &source{name: "v"}
				s.do(sleep(12 * time.Second))
				began := time.Now()
				_, err := n.Get(t.Context(), "1", s.load)
				assert.NoError(t, err)
				assert.Equal(t, 12*time.Second, time.Since(began))
				assert.EqualValues(t, 1, s.loads.Load())
				time.Sleep(time.Second)
				_, err = n.Get(t.Context(), "1", func(context.Context, string) (user, error) { return user{}, errors.New("it is not cached") })
				assert.NoError(t, err)
			})
		})
	}
}

// However their contexts ended.
func TestCallersThatGoAwayDoNotOpenTheBreaker(t *testing.T) {
	for name, end := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"deadline": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Nanosecond)
		},
		"cause": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(errors.New("another goroutine of the errgroup has failed"))
			return ctx, func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngines(t, 1, newMemoryStore(t), cache.Options{Logger: slog.New(slog.DiscardHandler)})[0]
			n := namespace(t, e, cache.Policy{TTL: time.Minute})
			for i := range 3 {
				ctx, cancel := end(t.Context())
				time.Sleep(time.Millisecond)
				if i == 0 {
					_, _ = n.GetMany(ctx, []string{"1"}, func(context.Context, []string) (map[string]user, error) { return nil, nil })
				}
				_, _ = e.Do(ctx, "x", func(context.Context, *cache.Loading) (cache.Entry, error) { return value("x", time.Minute), nil })
				cancel()
			}
			assert.False(t, e.Stats().BreakerOpen, "the store is well")
			assert.Zero(t, e.Stats().StoreErrors)
		})
	}
}

// Callers whose deadlines are shorter than StoreTimeout give up before the store
// has failed. It is noticed all the same, or none of them were ever served.
func TestAStoreThatHangsIsNoticedByCallersInAHurry(t *testing.T) {
	load := func(context.Context, *cache.Loading) (cache.Entry, error) { return value("x", time.Minute), nil }
	for name, get := range map[string]func(context.Context, *cache.Engine, *cache.Namespace[user]) error{
		"Get": func(ctx context.Context, _ *cache.Engine, n *cache.Namespace[user]) error {
			_, err := n.Get(ctx, "1", (&source{name: "Ada"}).load)
			return err
		},
		"GetMany": func(ctx context.Context, _ *cache.Engine, n *cache.Namespace[user]) error {
			_, err := n.GetMany(ctx, []string{"1"}, func(context.Context, []string) (map[string]user, error) {
				return map[string]user{"1": {Name: "Ada"}}, nil
			})
			return err
		},
		"Do": func(ctx context.Context, e *cache.Engine, _ *cache.Namespace[user]) error {
			_, err := e.Do(ctx, "1", load)
			return err
		},
	} {
		for _, patience := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond} {
			t.Run(fmt.Sprint(name, patience), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := &slowStore{Store: newMemoryStore(t), delay: time.Hour}
					e := newEngines(t, 1, hungStore{peekless{store}}, cache.Options{StoreTimeout: 50 * time.Millisecond})[0]
					n := namespace(t, e, cache.Policy{TTL: time.Minute})
					failed := 0
					for began := time.Now(); time.Since(began) < 1400*time.Millisecond; time.Sleep(5 * time.Millisecond) {
						noticed := time.Since(began) > 3*(50*time.Millisecond+patience)
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						if err := get(ctx, e, n); err != nil && noticed {
							failed++
						}
						cancel()
					}
					// Three open the circuit breaker, and once a second one tries again.
					assert.LessOrEqual(t, failed, 2)
					assert.True(t, e.Stats().BreakerOpen)
					time.Sleep(time.Second) // what goes on has a budget
				})
			})
		}
	}
}

// Callers who are too impatient for a store that is slow, but within its budget, are
// no reason to keep everybody from it.
func TestAStoreInTimeIsNotBlamedForCallersInAHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{Store: newMemoryStore(t), delay: 40 * time.Millisecond}
		e := newEngines(t, 1, peekless{store}, cache.Options{StoreTimeout: 50 * time.Millisecond})[0]
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), 39*time.Millisecond)
			_, err := e.Do(ctx, "1", nil)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
		}
		time.Sleep(time.Second)
		assert.False(t, e.Stats().BreakerOpen)
		assert.Zero(t, e.Stats().StoreErrors)
	})
}

// hungStore is a store that hangs for those who ask for many, too.
type hungStore struct{ cache.Store }

func (hungStore) GetMany(ctx context.Context, _ []string) ([]cache.Entry, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

type bomb struct{ s string }

func (b bomb) MarshalBinary() ([]byte, error)  { return []byte(b.s), nil }
func (b *bomb) UnmarshalBinary(d []byte) error { _ = d[100]; return nil }

// In goroutines that are the engine's a panic would end the process, and Decode
// sees bytes of older programs.
func TestADecodeThatPanicsIsAMiss(t *testing.T) {
	if os.Getenv("R5") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=TestADecodeThatPanicsIsAMiss$")
		cmd.Env = append(os.Environ(), "R5=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%.600s", out)
		return
	}
	e := newEngines(t, 1, peekless{newMemoryStore(t)}, cache.Options{})[0]
	n, err := cache.For[bomb](e, "b", cache.Policy{TTL: time.Minute})
	require.NoError(t, err)
	load := func(context.Context, string) (bomb, error) { return bomb{"short"}, nil }
	_, err = n.Get(t.Context(), "1", load)
	require.NoError(t, err)
	func() {
		defer func() { recover() }() // as net/http does
		_, err = n.Get(t.Context(), "1", load)
		t.Log(err)
	}()
	time.Sleep(100 * time.Millisecond)
}

// It loads a second time, and the outcome of the first load is still for those who
// wait for it.
func TestATiredMemberOfABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
		tired := namespace(t, e, cache.Policy{TTL: time.Minute, WaitTimeout: time.Second})
		patient := namespace(t, e, cache.Policy{TTL: time.Minute, WaitTimeout: time.Minute})
		many := func(ctx context.Context, keys []string) (map[string]user, error) {
			time.Sleep(2 * time.Second)
			return map[string]user{keys[0]: {ID: keys[0]}}, nil
		}
		go tired.GetMany(t.Context(), []string{"1"}, many)
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		_, err := patient.Get(t.Context(), "1", func(context.Context, string) (user, error) { return user{ID: "1"}, nil })
		assert.NoError(t, err)
		assert.Less(t, time.Since(began), 5*time.Second)
		time.Sleep(time.Minute)
	})
}

// Who may have a stale value has it while somebody else wants a new one.
func TestNobodyWaitsForARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, peekless{newMemoryStore(t)}, cache.Options{})[0]
		n := namespace(t, e, cache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour, StaleIfError: time.Hour})
		s := &source{name: "old"}
		_, err := n.Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		time.Sleep(time.Second)
		go n.Refresh(t.Context(), "1", func(context.Context, string) (user, error) { time.Sleep(time.Second); return user{}, errSource })
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		u, err := n.Get(t.Context(), "1", s.load)
		assert.NoError(t, err, "others get what there is, as a stale value")
		assert.Equal(t, "old", u.Name)
		assert.Zero(t, time.Since(began))
		time.Sleep(time.Minute)
	})
}

type slowGet struct {
	*cache.MemoryStore
	d atomic.Int64
}

func (s *slowGet) Peek(string) (cache.Entry, bool) { return cache.Entry{}, false }
func (s *slowGet) Get(ctx context.Context, key string) (cache.Entry, bool, error) {
	time.Sleep(time.Duration(s.d.Load()))
	return s.MemoryStore.Get(ctx, key)
}

// Also beside callers that do with a stale value.
func TestARefreshAlwaysLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowGet{MemoryStore: newMemoryStore(t)}
		e := newEngines(t, 1, store, cache.Options{})[0]
		n := namespace(t, e, cache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour})
		s := &source{name: "old"}
		_, err := n.Get(t.Context(), "1", s.load)
		require.NoError(t, err)
		time.Sleep(time.Second)
		s.set("new")
		stale := 0
		for range 10 {
			stop := make(chan struct{})
			var wg sync.WaitGroup
			store.d.Store(int64(time.Millisecond))
			for i := range 3 {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * 300 * time.Microsecond)
					for {
						select {
						case <-stop:
							return
						default:
							n.Get(t.Context(), "1", func(ctx context.Context, k string) (user, error) { time.Sleep(time.Hour); return user{}, ctx.Err() })
						}
					}
				})
			}
			time.Sleep(10 * time.Millisecond)
			want := s.loads.Load()
			_, err := n.Refresh(t.Context(), "1", s.load)
			if s.loads.Load() == want && err == nil {
				stale++
			}
			close(stop)
			wg.Wait()
			if stale > 0 {
				break
			}
		}
		assert.Zero(t, stale, "Refresh has returned without loading")
		time.Sleep(time.Hour)
	})
}

type fills struct {
	*cache.MemoryStore
	ttl time.Duration
}

func (f *fills) Fill(ctx context.Context, k string, t cache.Ticket, e cache.Entry) (bool, error) {
	f.ttl = e.TTL
	return f.MemoryStore.Fill(ctx, k, t, e)
}

func TestSetTTLZeroWithJitter(t *testing.T) {
	f := &fills{MemoryStore: newMemoryStore(t)}
	e := newEngines(t, 1, f, cache.Options{})[0]
	n := namespace(t, e, cache.Policy{TTL: time.Minute, Jitter: 0.1})
	_, err := n.Get(t.Context(), "1", func(ctx context.Context, _ string) (user, error) { cache.SetTTL(ctx, 0); return user{}, nil })
	require.NoError(t, err)
	assert.LessOrEqual(t, f.ttl, time.Duration(0))
}

func TestTheLongestTTL(t *testing.T) {
	e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
	n := namespace(t, e, cache.Policy{TTL: math.MaxInt64, StaleIfError: time.Hour})
	s := &source{name: "v"}
	for range 3 {
		_, err := n.Get(t.Context(), "1", s.load)
		require.NoError(t, err)
	}
	assert.EqualValues(t, 1, s.loads.Load())
}

func TestTagsCountForTheBoundOfTheMemoryStore(t *testing.T) {
	s := cache.NewMemoryStore(&cache.MemoryOptions{MaxBytes: 1 << 20})
	tags := make([]string, 1000)
	for i := range tags {
		tags[i] = fmt.Sprint("t", i)
	}
	kept := 0
	for i := range 3000 {
		e := value("x", time.Hour)
		e.Tags = tags
		store(t, s, fmt.Sprint(i), e)
	}
	for i := range 3000 {
		if _, ok := s.Peek(fmt.Sprint(i)); ok {
			kept++
		}
	}
	assert.Less(t, kept*8000, 2<<20, "bytes of tags alone, in a store of 1 MiB")
}

// A handler must know before it sends its header.
func TestABlobThatDoesNotExistWithoutTheStore(t *testing.T) {
	e := newEngines(t, 1, bodiless{}, cache.Options{Logger: slog.New(slog.DiscardHandler)})[0]
	b := blobs(t, e, cache.Policy{TTL: time.Minute})
	blob, err := b.Get(t.Context(), "1", func(context.Context, string, io.Writer) error { return cache.ErrNotFound })
	assert.ErrorIs(t, err, cache.ErrNotFound)
	if blob != nil {
		_, err = io.ReadAll(blob)
		t.Log(err)
		blob.Close()
	}
}

type (
	hungBodies struct{ *cache.MemoryStore }
	hungWriter struct{ ctx context.Context }
)

func (w hungWriter) Write([]byte) (int, error)   { <-w.ctx.Done(); return 0, w.ctx.Err() }
func (w hungWriter) Finish() (cache.Body, error) { return cache.Body{}, w.ctx.Err() }
func (w hungWriter) Abort()                      {}
func (hungBodies) CreateBody(ctx context.Context, _ string, _ time.Duration) (cache.BodyWriter, error) {
	return hungWriter{ctx}, nil
}

func TestAStoreThatHangsWhileABlobIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, hungBodies{newMemoryStore(t)}, cache.Options{StoreTimeout: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})[0]
		b := blobs(t, e, cache.Policy{TTL: time.Minute, WaitTimeout: time.Minute})
		began := time.Now()
		got, err := readBlob(t.Context(), b, "1", func(_ context.Context, _ string, w io.Writer) error { _, err := io.WriteString(w, "v"); return err })
		assert.NoError(t, err)
		assert.Equal(t, "v", got)
		assert.LessOrEqual(t, time.Since(began), time.Second)
		time.Sleep(time.Minute)
	})
}

// Those who waited for it get it all the same.
func TestABlobThatIsEvictedAtOnce(t *testing.T) {
	s := cache.NewMemoryStore(&cache.MemoryOptions{MaxBytes: 1 << 20})
	for i := range 2000 {
		store(t, s, fmt.Sprint(i), value(strings.Repeat("x", 700), time.Hour))
	}
	for range 20 {
		for i := range 2000 {
			s.Peek(fmt.Sprint(i))
		}
	}
	e := newEngines(t, 1, s, cache.Options{})[0]
	b := blobs(t, e, cache.Policy{TTL: time.Minute})
	var loads atomic.Int32
	got, err := readBlob(t.Context(), b, "1", func(_ context.Context, _ string, w io.Writer) error {
		loads.Add(1)
		_, err := io.WriteString(w, strings.Repeat("y", 300<<10))
		return err
	})
	require.NoError(t, err)
	assert.Len(t, got, 300<<10)
	assert.EqualValues(t, 1, loads.Load())
}

func TestRefusedBodiesAreBounded(t *testing.T) {
	s := cache.NewMemoryStore(&cache.MemoryOptions{MaxBytes: 2 << 20})
	e := newEngines(t, 1, s, cache.Options{})[0]
	b := blobs(t, e, cache.Policy{TTL: time.Minute})
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for i := range 10 {
		key := fmt.Sprint(i)
		_, err := readBlob(t.Context(), b, key, func(ctx context.Context, _ string, w io.Writer) error {
			w.Write(make([]byte, 1500<<10))
			return b.Delete(ctx, key)
		})
		require.NoError(t, err)
	}
	assert.Less(t, (heap()-before)>>20, int64(6), "MiB")
	runtime.KeepAlive(s)
}

// However often others write.
func TestADeadWriterIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemoryStore(t)
		_, err := s.BeginWrite(t.Context(), "k", time.Minute) // and dies
		require.NoError(t, err)
		for range 10 {
			time.Sleep(30 * time.Second)
			ticket, err := s.BeginWrite(t.Context(), "k", time.Minute)
			require.NoError(t, err)
			_, err = s.Write(t.Context(), "k", ticket, value("v", time.Hour))
			require.NoError(t, err)
		}
		require.NoError(t, s.Purge(t.Context(), cache.Purge{Keys: []string{"k"}}))
		store(t, s, "k", value("v", time.Hour))
		e, ok := s.Peek("k")
		require.True(t, ok)
		assert.Greater(t, e.TTL, 10*time.Second, "five minutes after the writer died")
	})
}

type hungOpen struct{ *cache.MemoryStore }

func (hungOpen) OpenBody(ctx context.Context, _ string, _ cache.Body) (io.ReadCloser, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestAStoreThatHangsWhileABlobIsOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, hungOpen{newMemoryStore(t)}, cache.Options{StoreTimeout: 50 * time.Millisecond})[0]
		b := blobs(t, e, cache.Policy{TTL: time.Minute})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		_, err := readBlob(ctx, b, "1", func(_ context.Context, _ string, w io.Writer) error { _, err := io.WriteString(w, "v"); return err })
		assert.NoError(t, err)
		assert.Less(t, time.Since(began), time.Second)
	})
}

type openOnce struct {
	*cache.MemoryStore
	fail atomic.Bool
}

func (s *openOnce) OpenBody(ctx context.Context, key string, b cache.Body) (io.ReadCloser, error) {
	if s.fail.Swap(false) {
		return nil, errAway
	}
	return s.MemoryStore.OpenBody(ctx, key, b)
}

func TestANetworkErrorRemovesNoBlob(t *testing.T) {
	s := &openOnce{MemoryStore: newMemoryStore(t)}
	e := newEngines(t, 1, s, cache.Options{})[0]
	b := blobs(t, e, cache.Policy{TTL: time.Minute})
	var loads atomic.Int32
	load := func(_ context.Context, _ string, w io.Writer) error {
		loads.Add(1)
		_, err := io.WriteString(w, "v")
		return err
	}
	_, err := readBlob(t.Context(), b, "1", load)
	require.NoError(t, err)
	s.fail.Store(true)
	_, err = readBlob(t.Context(), b, "1", load)
	require.NoError(t, err)
	assert.EqualValues(t, 2, loads.Load(), "straight from the source")
	for range 3 {
		_, err = readBlob(t.Context(), b, "1", load)
		require.NoError(t, err)
	}
	assert.EqualValues(t, 2, loads.Load(), "it is still there")
	assert.Zero(t, e.Stats().Purges)
}

func TestTheTiredLoadTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
		n := namespace(t, e, cache.Policy{TTL: time.Minute})
		s := &source{name: "v"}
		s.do(sleep(12 * time.Second))
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() {
				_, err := n.Get(t.Context(), "1", s.load)
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		assert.EqualValues(t, 2, s.loads.Load(), "the one they were tired of, and one for all of them")
	})
}

func TestALoadThatNoticesItsTimeoutFirst(t *testing.T) {
	e := newEngines(t, 1, newMemoryStore(t), cache.Options{})[0]
	n := namespace(t, e, cache.Policy{TTL: time.Minute, LoadTimeout: time.Millisecond})
	other := 0
	for i := range 300 {
		_, err := n.Get(t.Context(), fmt.Sprint(i), func(ctx context.Context, _ string) (user, error) { <-ctx.Done(); return user{}, ctx.Err() })
		if !errors.Is(err, cache.ErrLoadTimeout) {
			other++
		}
	}
	assert.Zero(t, other)
}
