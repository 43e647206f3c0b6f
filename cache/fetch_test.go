package cache_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

// patience is what even a busy machine should not need.
const patience = 20 * time.Second

// eachCluster runs test with two engines that share a store, as of two servers: in
// this process, and in Redis.
func eachCluster(t *testing.T, test func(t *testing.T, a, b *cache.Engine)) {
	t.Run("memory", func(t *testing.T) {
		es := newEngines(t, 2, newMemoryStore(t), cache.Options{StoreTimeout: patience, LeaseTTL: patience})
		test(t, es[0], es[1])
	})
	t.Run("Redis", func(t *testing.T) {
		rdb := redistest.Standalone(t).Client(t)
		prefix := redistest.Prefix(t)
		var es []*cache.Engine
		for range 2 {
			locker, err := lock.New(redislock.New(rdb, &redislock.Options{Prefix: prefix + "lock:"}), nil)
			require.NoError(t, err)
			e, err := cache.New(rediscache.New(rdb, &rediscache.Options{Prefix: prefix, ChunkBytes: 1 << 10}), &cache.Options{
				Locker: locker, StoreTimeout: patience, LeaseTTL: patience, Logger: quiet,
			})
			require.NoError(t, err)
			es = append(es, e)
		}
		test(t, es[0], es[1])
	})
}

// kept is an entry that is kept when it is stale.
func kept(data string, tags ...string) cache.Entry {
	e := value(data, time.Minute)
	e.StaleFor, e.Tags = time.Minute, tags
	return e
}

// loads returns a Load that brings e.
func loads(e cache.Entry) cache.Load {
	return func(context.Context, *cache.Loading) (cache.Entry, error) { return e, nil }
}

// judges returns a Judge that uses what is fresh, and says v of the rest.
func judges(v cache.Verdict) func(cache.Entry) cache.Verdict {
	return func(e cache.Entry) cache.Verdict {
		if e.TTL > 0 {
			return cache.Use
		}
		return v
	}
}

func fetch(t *testing.T, e *cache.Engine, f cache.Fetch) cache.Result {
	t.Helper()
	res, err := e.Fetch(t.Context(), f)
	require.NoError(t, err)
	return res
}

// fetched returns the data that a Fetch finds or loads.
func fetched(t *testing.T, e *cache.Engine, key string, load cache.Load) string {
	t.Helper()
	return string(fetch(t, e, cache.Fetch{Key: key, Load: load}).Entry.Data)
}

// found returns the data under key, or nothing.
func found(t *testing.T, e *cache.Engine, key string) string {
	t.Helper()
	entry, _, err := e.Get(t.Context(), key)
	require.NoError(t, err)
	return string(entry.Data)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, patience, time.Millisecond, what)
}

// wait returns what comes out of c, and fails the test if nothing does.
func wait[V any](t *testing.T, c <-chan V) (v V) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		require.FailNow(t, "nothing has happened")
	}
	return v
}

func TestALoadIsGivenWhatItReplaces(t *testing.T) {
	eachCluster(t, func(t *testing.T, a, b *cache.Engine) {
		var stale []string
		load := func(data string) cache.Load {
			return func(_ context.Context, l *cache.Loading) (cache.Entry, error) {
				e, ok := l.Stale()
				require.Equal(t, e.Kind != 0, ok)
				stale = append(stale, string(e.Data))
				return kept(data), nil
			}
		}
		f := cache.Fetch{Key: "key", Load: load("first"), Judge: judges(cache.FallBack)}
		assert.Equal(t, cache.Loaded, fetch(t, a, f).Source)
		f.Load = load("second")
		assert.Equal(t, "first", string(fetch(t, a, f).Entry.Data))
		require.NoError(t, a.SoftPurge(t.Context(), "key"))
		assert.Equal(t, "second", string(fetch(t, a, f).Entry.Data))

		// What is fresh, too, if Judge says so; and what was rejected, not.
		f.Load, f.Judge = load("third"), func(cache.Entry) cache.Verdict { return cache.FallBack }
		res := fetch(t, a, f)
		assert.Equal(t, "third", string(res.Entry.Data))
		assert.True(t, res.Stored, "it was judged, and may be replaced although it is fresh")
		assert.Equal(t, "third", found(t, b, "key"))
		f.Load, f.Judge = load("fourth"), func(cache.Entry) cache.Verdict { return cache.Reject }
		assert.True(t, fetch(t, a, f).Stored)
		assert.Equal(t, []string{"", "first", "second", ""}, stale)
	})
}

// A Load may take longer than StoreTimeout before it asks what it replaces.
func TestALoadAsksLateWhatItReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngines(t, 1, newMemoryStore(t), cache.Options{StoreTimeout: 50 * time.Millisecond})[0]
		fetched(t, e, "key", loads(kept("old")))
		require.NoError(t, e.SoftPurge(t.Context(), "key"))
		fetch(t, e, cache.Fetch{Key: "key", Judge: judges(cache.FallBack), Load: func(_ context.Context, l *cache.Loading) (cache.Entry, error) {
			time.Sleep(time.Second)
			old, ok := l.Stale()
			assert.True(t, ok)
			assert.Equal(t, "old", string(old.Data))
			return kept("new"), nil
		}})
	})
}

func TestWhatIsSharedIsHadBeforeTheEnd(t *testing.T) {
	eachCluster(t, func(t *testing.T, a, b *cache.Engine) {
		begun, proceed, shared := make(chan bool), make(chan bool), make(chan bool)
		ended := make(chan cache.Result, 1)
		go func() {
			res, _ := a.Fetch(context.Background(), cache.Fetch{Key: "key", Load: func(_ context.Context, l *cache.Loading) (cache.Entry, error) {
				close(begun)
				<-proceed
				l.Share(value("part", time.Second))
				l.Share(value("too late", time.Second))
				close(shared)
				<-proceed
				return kept("whole"), nil
			}})
			ended <- res
		}()
		wait(t, begun)
		// Who waits already gets it, and who comes afterwards; not one of another process.
		ask := func(e *cache.Engine) <-chan cache.Result {
			answer := make(chan cache.Result, 1)
			go func() {
				res, err := e.Fetch(context.Background(), cache.Fetch{Key: "key", Load: loads(kept("own"))})
				assert.NoError(t, err)
				answer <- res
			}()
			return answer
		}
		before, elsewhere := ask(a), ask(b)
		proceed <- true
		wait(t, shared)
		for _, answer := range []<-chan cache.Result{before, ask(a)} {
			res := wait(t, answer)
			assert.Equal(t, "part", string(res.Entry.Data))
			assert.Equal(t, cache.Waited, res.Source)
		}
		assert.Empty(t, found(t, a, "key"), "what is shared is not stored")

		// Who has purged it does not want it.
		require.NoError(t, a.Purge(t.Context(), "key"))
		after := ask(a)
		select {
		case res := <-after:
			assert.Fail(t, "after a purge", "got %q", res.Entry.Data)
		case res := <-elsewhere:
			assert.Fail(t, "in another process", "got %q", res.Entry.Data)
		case <-time.After(50 * time.Millisecond):
		}
		proceed <- true
		assert.Equal(t, "whole", string(wait(t, ended).Entry.Data))
		assert.Equal(t, "own", string(wait(t, after).Entry.Data))
		assert.Equal(t, "own", string(wait(t, elsewhere).Entry.Data))
	})
}

func TestWhatIsAddedIsAsOldAsTheLoad(t *testing.T) {
	eachCluster(t, func(t *testing.T, a, b *cache.Engine) {
		fetched(t, a, "key", func(ctx context.Context, l *cache.Loading) (cache.Entry, error) {
			assert.NoError(t, l.Add(ctx, "early", kept("early", "tag"), 0))
			assert.Equal(t, "early", found(t, b, "early"))
			require.NoError(t, b.PurgeTags(ctx, "tag"))
			assert.NoError(t, l.Add(ctx, "late", kept("late", "tag"), 0))
			assert.NoError(t, l.Add(ctx, "untouched", kept("untouched", "other"), 0))
			return kept("data", "tag"), nil
		})
		eventually(t, "the purge is known", func() bool { return found(t, a, "early") == "" })
		for _, e := range []*cache.Engine{a, b} {
			assert.Empty(t, found(t, e, "early"))
			assert.Empty(t, found(t, e, "late"), "it was begun before the purge")
			assert.Empty(t, found(t, e, "key"))
			assert.Equal(t, "untouched", found(t, e, "untouched"))
		}

		// It replaces what is fresh only if that was seen.
		old, _, err := a.Get(t.Context(), "untouched")
		require.NoError(t, err)
		fetched(t, a, "another key", func(ctx context.Context, l *cache.Loading) (cache.Entry, error) {
			assert.NoError(t, l.Add(ctx, "untouched", kept("unseen"), 0))
			assert.Equal(t, "untouched", found(t, a, "untouched"))
			assert.NoError(t, l.Add(ctx, "untouched", kept("seen"), old.Version))
			assert.Equal(t, "seen", found(t, a, "untouched"))
			return kept("data"), nil
		})
	})
}

func TestNothingIsAddedWithoutTheStore(t *testing.T) {
	e := newEngines(t, 1, brokenStore{}, cache.Options{})[0]
	fetched(t, e, "key", func(ctx context.Context, l *cache.Loading) (cache.Entry, error) {
		assert.False(t, l.Kept())
		assert.Error(t, l.Add(ctx, "other", kept("data"), 0))
		return kept("data"), nil
	})
}

func TestWhoDoesNotWaitIsToldThatTheKeyIsHeld(t *testing.T) {
	eachCluster(t, func(t *testing.T, a, b *cache.Engine) {
		for name, holder := range map[string]cache.Fetch{"waits": {Key: "waits"}, "does not wait either": {Key: "does not", NoWait: true}} {
			begun, proceed, ended := make(chan bool), make(chan bool), make(chan error, 1)
			holder.Load = func(context.Context, *cache.Loading) (cache.Entry, error) {
				close(begun)
				<-proceed
				return kept("data"), nil
			}
			go func() {
				_, err := a.Fetch(context.Background(), holder)
				ended <- err
			}()
			wait(t, begun)
			impatient := cache.Fetch{Key: holder.Key, Load: loads(kept("own")), NoWait: true}
			for _, e := range []*cache.Engine{a, b} {
				_, err := e.Fetch(t.Context(), impatient)
				require.ErrorIs(t, err, cache.ErrHeld, name)
			}
			close(proceed)
			require.NoError(t, wait(t, ended))
			for _, e := range []*cache.Engine{a, b} {
				res := fetch(t, e, impatient)
				assert.Equal(t, cache.Hit, res.Source, name)
				assert.Equal(t, "data", string(res.Entry.Data), name)
			}
		}
	})
}

// functions are a Fetch's as one value.
type functions struct{ f cache.Fetch }

func (f *functions) Judge(e cache.Entry) cache.Verdict { return f.f.Judge(e) }

func (f *functions) Load(ctx context.Context, l *cache.Loading) (cache.Entry, error) {
	return f.f.Load(ctx, l)
}

func (f *functions) Refresh(ctx context.Context, l *cache.Loading) (cache.Entry, error) {
	return f.f.Refresh(ctx, l)
}

// eachForm is eachCluster, with the functions of a Fetch as they are, and as one value.
// form is to be called for each Fetch, as that has a Room of its own.
func eachForm(t *testing.T, test func(t *testing.T, a, b *cache.Engine, form func(cache.Fetch) cache.Fetch)) {
	t.Run("functions", func(t *testing.T) {
		eachCluster(t, func(t *testing.T, a, b *cache.Engine) {
			test(t, a, b, func(f cache.Fetch) cache.Fetch { return f })
		})
	})
	t.Run("one value", func(t *testing.T) {
		eachCluster(t, func(t *testing.T, a, b *cache.Engine) {
			test(t, a, b, func(f cache.Fetch) cache.Fetch {
				return cache.Fetch{Key: f.Key, By: &functions{f}, Room: new(cache.Room), Inline: f.Refresh == nil}
			})
		})
	})
}

// With Refresh nobody waits; what it brings is had afterwards.
func TestARefreshIsMadeInTheBackground(t *testing.T) {
	eachForm(t, func(t *testing.T, a, b *cache.Engine, form func(cache.Fetch) cache.Fetch) {
		fetched(t, a, "key", loads(kept("old")))
		require.NoError(t, a.SoftPurge(t.Context(), "key"))
		proceed := make(chan bool)
		var refreshes atomic.Int32
		f := cache.Fetch{
			Key: "key", Judge: judges(cache.UseAndRefresh),
			Load: func(context.Context, *cache.Loading) (cache.Entry, error) {
				assert.Fail(t, "Load, though Refresh is there")
				return kept("wrong"), nil
			},
			Refresh: func(context.Context, *cache.Loading) (cache.Entry, error) {
				refreshes.Add(1)
				<-proceed
				return kept("new"), nil
			},
		}
		eventually(t, "the soft purge is known", func() bool {
			e, _, _ := b.Get(t.Context(), "key")
			return e.TTL <= 0
		})
		for range 20 {
			for _, e := range []*cache.Engine{a, b} {
				res := fetch(t, e, form(f))
				assert.Equal(t, "old", string(res.Entry.Data))
				assert.Equal(t, cache.Hit, res.Source)
			}
		}
		eventually(t, "a refresh", func() bool { // at first the lease of the last load may still be held
			fetch(t, a, form(f))
			return refreshes.Load() > 0
		})
		close(proceed)
		eventually(t, "the new value", func() bool {
			return string(fetch(t, a, form(f)).Entry.Data) == "new" && string(fetch(t, b, form(f)).Entry.Data) == "new"
		})
		assert.EqualValues(t, 1, refreshes.Load(), "one in the whole cluster")
	})
}

// Without, one caller loads, and the others have what there is.
func TestARefreshIsMadeByACaller(t *testing.T) {
	eachForm(t, func(t *testing.T, a, b *cache.Engine, form func(cache.Fetch) cache.Fetch) {
		fetched(t, a, "key", loads(kept("old")))
		require.NoError(t, a.SoftPurge(t.Context(), "key"))
		begun, proceed, ended := make(chan bool), make(chan bool), make(chan cache.Result, 1)
		var n atomic.Int32
		f := cache.Fetch{Key: "key", Judge: judges(cache.UseAndRefresh), Load: func(context.Context, *cache.Loading) (cache.Entry, error) {
			if n.Add(1) == 1 {
				close(begun)
			}
			<-proceed
			return kept("new"), nil
		}}
		go func() {
			res, _ := a.Fetch(context.Background(), form(f))
			for res.Source == cache.Hit { // the lease of the last load was still held
				res, _ = a.Fetch(context.Background(), form(f))
			}
			ended <- res
		}()
		wait(t, begun)
		for _, e := range []*cache.Engine{a, b} {
			answer := make(chan cache.Result, 1)
			go func() {
				res, err := e.Fetch(context.Background(), form(f))
				assert.NoError(t, err)
				answer <- res
			}()
			res := wait(t, answer)
			assert.Equal(t, "old", string(res.Entry.Data))
			assert.Equal(t, cache.Hit, res.Source)
		}
		close(proceed)
		assert.Equal(t, "new", string(wait(t, ended).Entry.Data))
		assert.EqualValues(t, 1, n.Load())
	})
}

// Callers of one lane share what they find, those of different ones what is computed
// only.
func TestLanesShareWhatIsComputed(t *testing.T) {
	e := newEngines(t, 1, peekless{newMemoryStore(t)}, cache.Options{StoreTimeout: patience, LeaseTTL: patience})[0]
	fetched(t, e, "key", loads(kept("old")))
	require.NoError(t, e.SoftPurge(t.Context(), "key"))
	begun, proceed := make(chan bool), make(chan bool)
	var n atomic.Int32
	load := func(context.Context, *cache.Loading) (cache.Entry, error) {
		if n.Add(1) == 1 {
			close(begun)
		}
		<-proceed
		return kept("new"), nil
	}
	var wg sync.WaitGroup
	ask := func(lane string) {
		wg.Go(func() {
			res, err := e.Fetch(context.Background(), cache.Fetch{Key: "key", Lane: lane, Load: load})
			assert.NoError(t, err)
			assert.Equal(t, "new", string(res.Entry.Data))
		})
	}
	ask("fresh")
	wait(t, begun)
	ask("fresh")
	ask("fresh, too")
	// Who does with what is stale does not wait for the others.
	answer := make(chan cache.Result, 1)
	wg.Go(func() {
		res, err := e.Fetch(context.Background(), cache.Fetch{
			Key: "key", Lane: "lenient", Load: load, Judge: func(cache.Entry) cache.Verdict { return cache.Use },
		})
		assert.NoError(t, err)
		answer <- res
	})
	assert.Equal(t, "old", string(wait(t, answer).Entry.Data))
	close(proceed)
	wg.Wait()
	assert.EqualValues(t, 1, n.Load(), "one load for all lanes")
}

// What is stale is better than an error, but not after a purge.
func TestAFallbackIsWithheldAfterAPurge(t *testing.T) {
	eachCluster(t, func(t *testing.T, a, _ *cache.Engine) {
		n := namespace(t, a, cache.Policy{TTL: time.Minute, StaleIfError: time.Hour, Backoff: time.Millisecond})
		for _, purged := range []bool{false, true} {
			_, err := n.Refresh(t.Context(), "1", func(context.Context, string) (user, error) { return user{Name: "old"}, nil })
			require.NoError(t, err)
			require.NoError(t, n.SoftDelete(t.Context(), "1"))
			u, err := n.Get(t.Context(), "1", func(ctx context.Context, _ string) (user, error) {
				if purged {
					assert.NoError(t, n.Delete(ctx, "1"))
				}
				return user{}, errSource
			})
			if purged {
				require.ErrorIs(t, err, errSource, "the stale value was purged while this caller waited")
				continue
			}
			require.NoError(t, err)
			assert.Equal(t, "old", u.Name)
			time.Sleep(5 * time.Millisecond) // the backoff
		}
	})
}

func TestAPanicInAFetchHarmsNobody(t *testing.T) {
	eachCluster(t, func(t *testing.T, a, b *cache.Engine) {
		assert.PanicsWithValue(t, "boom", func() {
			_, _ = a.Fetch(t.Context(), cache.Fetch{Key: "key", Load: func(context.Context, *cache.Loading) (cache.Entry, error) { panic("boom") }})
		})
		for _, e := range []*cache.Engine{a, b} {
			f := cache.Fetch{Key: "key", Load: loads(kept("data")), Judge: func(e cache.Entry) cache.Verdict {
				if e.Kind == cache.Uncacheable {
					return cache.Reject
				}
				return cache.Use
			}}
			assert.Equal(t, "data", string(fetch(t, e, f).Entry.Data))
		}
	})
}

// filled stores an entry with a body under key.
func filled(t *testing.T, e *cache.Engine, key, text string) cache.Body {
	t.Helper()
	return fetch(t, e, cache.Fetch{Key: key, Load: func(ctx context.Context, _ *cache.Loading) (cache.Entry, error) {
		w, err := e.CreateBody(ctx, key, time.Hour)
		require.NoError(t, err)
		for part := range strings.SplitAfterSeq(text, "\n") {
			_, err := io.WriteString(w, part)
			require.NoError(t, err)
		}
		body, err := w.Finish()
		require.NoError(t, err)
		entry := kept("head")
		entry.Body = body
		return entry, nil
	}}).Entry.Body
}

func bodyText(e *cache.Engine, key string, body cache.Body) (string, error) {
	r, err := e.OpenBody(context.Background(), key, body)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(r)
	return string(text), errors.Join(err, r.Close())
}

// What is said about a body can change without the body: a 304, for example.
func TestABodyOutlivesARefill(t *testing.T) {
	eachCluster(t, func(t *testing.T, a, b *cache.Engine) {
		want := strings.Repeat("a long line\n", 1000) // several chunks
		body := filled(t, a, "key", want)
		require.EqualValues(t, len(want), body.Size)
		for round := range 3 {
			require.NoError(t, a.SoftPurge(t.Context(), "key"))
			res := fetch(t, a, cache.Fetch{Key: "key", Judge: judges(cache.FallBack), Load: func(_ context.Context, l *cache.Loading) (cache.Entry, error) {
				stale, ok := l.Stale()
				assert.True(t, ok)
				entry := kept("new head")
				entry.Body = stale.Body
				return entry, nil
			}})
			require.True(t, res.Stored, "round %d", round)
			for _, e := range []*cache.Engine{a, b} {
				entry, ok, err := e.Get(t.Context(), "key")
				require.NoError(t, err)
				require.True(t, ok)
				assert.Equal(t, body, entry.Body)
				text, err := bodyText(e, "key", entry.Body)
				require.NoError(t, err)
				assert.True(t, text == want, "round %d", round)
			}
		}
		// A body that is not there makes no entry.
		res := fetch(t, a, cache.Fetch{Key: "other key", Load: func(context.Context, *cache.Loading) (cache.Entry, error) {
			entry := kept("head")
			entry.Body = body
			return entry, nil
		}})
		assert.False(t, res.Stored, "it is the body of another key")
		_, err := bodyText(a, "other key", body)
		require.ErrorIs(t, err, cache.ErrNoBody)
		assert.Zero(t, a.Stats().StoreErrors, "a body that is missing is no fault of the store")
	})
}

func TestAPartOfABodyIsRead(t *testing.T) {
	eachCluster(t, func(t *testing.T, a, b *cache.Engine) {
		want := strings.Repeat("0123456789", 1000)
		r, err := b.OpenBody(t.Context(), "key", filled(t, a, "key", want))
		require.NoError(t, err)
		_, err = r.(io.Seeker).Seek(-15, io.SeekEnd)
		require.NoError(t, err)
		text, err := io.ReadAll(r)
		require.NoError(t, err)
		assert.Equal(t, "567890123456789", string(text))
		require.NoError(t, r.Close())
	})
}

func TestABodyThatIsGivenUp(t *testing.T) {
	eachCluster(t, func(t *testing.T, a, _ *cache.Engine) {
		w, err := a.CreateBody(t.Context(), "key", time.Hour)
		require.NoError(t, err)
		_, err = io.WriteString(w, "half")
		require.NoError(t, err)
		w.Abort()
		w.Abort()
		_, err = w.Finish()
		require.ErrorContains(t, err, "ended")
		_, err = io.WriteString(w, "more")
		require.ErrorContains(t, err, "ended")
	})
}

func TestAStoreWithoutBodies(t *testing.T) {
	e := newEngines(t, 1, brokenStore{}, cache.Options{})[0]
	_, err := e.CreateBody(t.Context(), "key", time.Hour)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = e.OpenBody(t.Context(), "key", cache.Body{ID: "x", Size: 1})
	require.ErrorIs(t, err, errors.ErrUnsupported)
}
