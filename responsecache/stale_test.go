package responsecache_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Nobody waits for a stale page, and of all servers one makes it anew.
func TestAStalePageIsRefreshedOnceInTheCluster(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		var runs atomic.Int32
		reached, proceed := make(chan struct{}, 100), make(chan struct{})
		handler := func(w http.ResponseWriter, _ *http.Request) {
			n := runs.Add(1)
			if n > 1 {
				reached <- struct{}{}
				<-proceed
			}
			fmt.Fprintf(w, "run %d", n)
		}
		p := responsecache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour}
		servers := []*server{serve(t, st, p, handler), serve(t, st, p, handler), serve(t, st, p, handler)}
		require.Equal(t, "run 1", servers[0].get(t, "/page").body)
		require.NoError(t, servers[0].cache.SoftPurge(t.Context(), "http://example.com/page"))
		for i := 0; i < 60 || len(reached) == 0; i++ { // a refresh waits for a lease that is being released
			require.Equal(t, "run 1", servers[i%3].get(t, "/page").body)
			require.Less(t, i, 5000)
		}
		close(proceed)
		for _, s := range servers {
			await(t, "the new page is everywhere", func() bool { return s.get(t, "/page").body == "run 2" })
		}
		assert.EqualValues(t, 2, runs.Load())
	})
}

// While the handler fails a stale page hides it, and the handler is asked once in a
// while only, whoever asks.
func TestAStalePageHidesFailures(t *testing.T) {
	for name, fail := range map[string]func(w http.ResponseWriter){
		"502":   func(w http.ResponseWriter) { w.WriteHeader(502); fmt.Fprint(w, "bad gateway") },
		"503":   func(w http.ResponseWriter) { w.Header().Set("Set-Cookie", "a=b"); http.Error(w, "busy", 503) },
		"504":   func(w http.ResponseWriter) { w.WriteHeader(504) },
		"panic": func(http.ResponseWriter) { panic("boom") },
	} {
		t.Run(name, func(t *testing.T) {
			var runs atomic.Int32
			var fails atomic.Bool
			s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, StaleIfError: time.Hour}, func(w http.ResponseWriter, _ *http.Request) {
				n := runs.Add(1)
				if fails.Load() {
					w.Header().Set("X-Failed", "yes")
					fail(w)
					return
				}
				fmt.Fprintf(w, "run %d", n)
			})
			require.Equal(t, "run 1", s.get(t, "/page").body)
			require.NoError(t, s.cache.SoftPurge(t.Context(), "http://example.com/page"))
			fails.Store(true)
			first := s.get(t, "/page")
			assert.Equal(t, 200, first.status)
			assert.Equal(t, "run 1", first.body)
			assert.Empty(t, first.header.Get("X-Failed"))
			assert.Empty(t, first.header.Get("Set-Cookie"))
			assert.Contains(t, first.cacheStatus(), "detail=stale-if-error")
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() { assert.Equal(t, "run 1", s.get(t, "/page").body) })
			}
			wg.Wait()
			assert.LessOrEqual(t, runs.Load(), int32(4), "not each of them asks")
			fails.Store(false)
			await(t, "it is well again", func() bool {
				return strings.HasPrefix(s.get(t, "/page").body, "run ") && s.get(t, "/page").body != "run 1"
			})
		})
	}
	t.Run("not an error for the policy", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, memoryStores(t), responsecache.Policy{
			TTL: time.Minute, StaleIfError: time.Hour, IsError: func(status int, _ http.Header) bool { return status == 418 },
		}, func(w http.ResponseWriter, _ *http.Request) {
			switch runs.Add(1) {
			case 2:
				w.WriteHeader(418)
			case 3, 4:
				w.WriteHeader(503)
			default:
				fmt.Fprint(w, "page")
			}
		})
		purge := func() { require.NoError(t, s.cache.SoftPurge(t.Context(), "http://example.com/page")) }
		require.Equal(t, 200, s.get(t, "/page").status)
		purge()
		require.Equal(t, 200, s.get(t, "/page").status)
		purge()
		await(t, "the error comes through", func() bool { return s.get(t, "/page").status == 503 })
	})
	t.Run("without permission", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
			if runs.Add(1) > 1 {
				w.WriteHeader(503)
			}
			fmt.Fprint(w, "page")
		})
		require.Equal(t, 200, s.get(t, "/page").status)
		require.NoError(t, s.cache.SoftPurge(t.Context(), "http://example.com/page"))
		assert.Equal(t, 503, s.get(t, "/page").status)
	})
	t.Run("the connection is given up on purpose", func(t *testing.T) {
		var runs atomic.Int32
		s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, StaleIfError: time.Hour}, func(w http.ResponseWriter, _ *http.Request) {
			if runs.Add(1) == 2 {
				panic(http.ErrAbortHandler)
			}
			fmt.Fprint(w, "page")
		})
		s.Config.ErrorLog = discardLog
		require.Equal(t, "page", s.get(t, "/page").body)
		require.NoError(t, s.cache.SoftPurge(t.Context(), "http://example.com/page"))
		assert.Error(t, s.get(t, "/page").err)
		assert.Equal(t, "page", s.get(t, "/page").body)
	})
}

// A refresh in the background that panics harms nobody.
func TestARefreshThatPanics(t *testing.T) {
	var runs atomic.Int32
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour}, func(w http.ResponseWriter, _ *http.Request) {
		if n := runs.Add(1); n == 2 {
			panic("boom")
		}
		fmt.Fprintf(w, "run %d", runs.Load())
	})
	require.Equal(t, "run 1", s.get(t, "/page").body)
	require.NoError(t, s.cache.SoftPurge(t.Context(), "http://example.com/page"))
	require.Equal(t, "run 1", s.get(t, "/page").body)
	await(t, "it is tried again", func() bool { return s.get(t, "/page").body == "run 3" })
}

// A client that wants no stored page does not take a stale one from the others, when
// all that the handler has is an error.
func TestANoCacheRequestLeavesWhatStaleIfErrorNeeds(t *testing.T) {
	for name, fail := range map[string]func(w http.ResponseWriter){
		"503":   func(w http.ResponseWriter) { w.WriteHeader(503) },
		"panic": func(http.ResponseWriter) { panic("boom") },
		"short": func(w http.ResponseWriter) { w.Header().Set("Content-Length", "10"); fmt.Fprint(w, "half") },
	} {
		t.Run(name, func(t *testing.T) {
			var fails atomic.Bool
			s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, StaleIfError: time.Hour}, func(w http.ResponseWriter, _ *http.Request) {
				if fails.Load() {
					fail(w)
					return
				}
				fmt.Fprint(w, "page")
			})
			s.Config.ErrorLog = discardLog
			require.Equal(t, "page", s.get(t, "/page").body)
			require.NoError(t, s.cache.SoftPurge(t.Context(), "http://example.com/page"))
			fails.Store(true)
			require.NotEqual(t, "page", s.get(t, "/page", "Cache-Control", "no-cache").body)
			if name != "short" { // which nobody knows beforehand
				assert.Equal(t, "page", s.get(t, "/page").body)
				assert.NotEqual(t, "page", s.get(t, "/page", "Cache-Control", "no-cache").body, "it wants no stale page")
			}
			fails.Store(false)
			assert.Equal(t, "page", s.get(t, "/page", "Cache-Control", "only-if-cached, max-stale").body)
		})
	}
}

// Those who want no stored page do not run a handler that fails one after the other.
func TestNoCacheRequestsDoNotQueueForAFailure(t *testing.T) {
	for name, p := range map[string]responsecache.Policy{
		"a fresh page":              {TTL: time.Minute},
		"a stale one":               {TTL: time.Minute},
		"one that may be used then": {TTL: time.Minute, StaleIfError: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			const clients = 8
			var fails atomic.Bool
			var begun, now, most atomic.Int32
			s := serve(t, memoryStores(t), p, func(w http.ResponseWriter, _ *http.Request) {
				if !fails.Load() {
					fmt.Fprint(w, "page")
					return
				}
				for n := now.Add(1); ; {
					if was := most.Load(); n <= was || most.CompareAndSwap(was, n) {
						break
					}
				}
				defer now.Add(-1)
				for began := time.Now(); begun.Load() < clients && time.Since(began) < 10*time.Second; {
					time.Sleep(time.Millisecond)
				}
				time.Sleep(200 * time.Millisecond)
				w.WriteHeader(503)
			})
			require.Equal(t, "page", s.get(t, "/page").body)
			if name != "a fresh page" {
				require.NoError(t, s.cache.SoftPurge(t.Context(), "http://example.com/page"))
			}
			fails.Store(true)
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() {
					begun.Add(1)
					assert.Equal(t, 503, s.get(t, "/page", "Cache-Control", "no-cache").status)
				})
			}
			wg.Wait()
			assert.Greater(t, most.Load(), int32(1))
		})
	}
}

// A page that hides a failure is not used for longer than stale-if-error allows, even
// if its validator keeps it in the store.
func TestAStalePageHidesNoFailureAfterItsTime(t *testing.T) {
	const fresh, stale, slack = 200 * time.Millisecond, 600 * time.Millisecond, 50 * time.Millisecond
	var fails atomic.Bool
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: fresh, StaleIfError: stale}, func(w http.ResponseWriter, _ *http.Request) {
		if fails.Load() {
			w.WriteHeader(503)
			return
		}
		w.Header().Set("ETag", `"page"`)
		fmt.Fprint(w, "page")
	})
	last := 0
	for attempt := 0; attempt < 5 && last != 503; attempt++ { // of a busy machine
		path := fmt.Sprintf("/page/%d", attempt)
		fails.Store(false)
		require.Equal(t, "page", s.get(t, path).body)
		end := time.Now().Add(fresh + stale + slack)
		fails.Store(true)
		for asked := time.Now(); !asked.After(end); {
			asked = time.Now()
			last = s.get(t, path).status
		}
	}
	assert.Equal(t, 503, last)
}

// What leads to the route may give a handler up that runs on.
func TestARefreshThatIsGivenUp(t *testing.T) {
	var stale atomic.Bool
	var given sync.Map // the pages whose refresh was given up
	mux := http.NewServeMux()
	c := newCache(t, memoryStores(t), responsecache.Options{Refresh: http.TimeoutHandler(mux, 10*time.Millisecond, "too late")})
	mux.Handle("/", c.With(responsecache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour}).Handler(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !stale.Load() {
				fmt.Fprint(w, "old")
				return
			}
			if _, again := given.LoadOrStore(r.URL.Path, true); !again {
				<-r.Context().Done() // and writes all the same
			}
			fmt.Fprint(w, "new")
		})))
	ts := httptest.NewServer(mux)
	t.Cleanup(ts.Close)
	s := &server{Server: ts, cache: c}
	const pages = 50
	for i := range pages {
		path := fmt.Sprintf("/page/%d", i)
		require.Equal(t, "old", s.get(t, path).body)
		require.NoError(t, c.SoftPurge(t.Context(), "http://example.com"+path))
	}
	stale.Store(true)
	for i := range pages {
		require.Equal(t, "old", s.get(t, fmt.Sprintf("/page/%d", i)).body)
	}
	for i := range pages {
		await(t, "it is tried again", func() bool { return s.get(t, fmt.Sprintf("/page/%d", i)).body == "new" })
	}
}

// A cache around a whole router, and one of its routes with a policy of its own: a
// refresh that comes through the router has come to its page at the outer one.
func TestARefreshThroughACacheWithinTheSame(t *testing.T) {
	var runs atomic.Int32
	var router http.Handler
	c := newCache(t, memoryStores(t), responsecache.Options{Refresh: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { router.ServeHTTP(w, r) })})
	mux := http.NewServeMux()
	mux.Handle("/page", c.With(responsecache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "run ", runs.Add(1))
	})))
	router = c.Handler(mux)
	ts := httptest.NewServer(router)
	t.Cleanup(ts.Close)
	s := &server{Server: ts, cache: c}
	require.Equal(t, "run 1", s.get(t, "/page").body)
	require.NoError(t, c.SoftPurge(t.Context(), "http://example.com/page"))
	require.Equal(t, "run 1", s.get(t, "/page").body)
	await(t, "a new page", func() bool { return s.get(t, "/page").body == "run 2" })
}

// purging is a store in which something happens before each fill of a page begins.
type purging struct {
	cache.BodyStore
	before func()
}

func (s *purging) Begin(ctx context.Context, key string, f cache.Filling) (cache.Beginning, error) {
	if s.before != nil {
		s.before()
	}
	return s.BodyStore.Begin(ctx, key, f)
}

// A stale page that was found, and purged before a fill of it had begun, is not stored
// again in place of a failure.
func TestAFailureDoesNotBringAPurgedPageBack(t *testing.T) {
	const page = "http://example.com/page"
	for name, purge := range map[string]func(context.Context, *responsecache.Cache) error{
		"URL": func(ctx context.Context, c *responsecache.Cache) error { return c.Purge(ctx, page) },
		"tag": func(ctx context.Context, c *responsecache.Cache) error { return c.PurgeTags(ctx, "news") },
		"all": func(ctx context.Context, c *responsecache.Cache) error { return c.PurgeAll(ctx) },
	} {
		eachStore(t, func(t *testing.T, st stores) {
			t.Run(name, func(t *testing.T) {
				store := &purging{BodyStore: st.cache.(cache.BodyStore)}
				st.cache = store
				var fails atomic.Bool
				var version atomic.Int32
				s := serve(t, st, responsecache.Policy{TTL: time.Minute, StaleIfError: time.Hour, Tags: []string{"news"}}, func(w http.ResponseWriter, _ *http.Request) {
					if fails.Load() {
						w.WriteHeader(http.StatusBadGateway)
						return
					}
					fmt.Fprint(w, "version ", version.Load())
				})
				require.Equal(t, "version 0", s.get(t, "/page").body)
				require.NoError(t, s.cache.SoftPurge(t.Context(), page))
				version.Store(1)
				fails.Store(true)
				var once sync.Once
				store.before = func() { once.Do(func() { assert.NoError(t, purge(t.Context(), s.cache)) }) }
				s.get(t, "/page") // which began before the purge
				fails.Store(false)
				r := s.get(t, "/page")
				assert.NotEqual(t, "version 0", r.body, r.cacheStatus())
			})
		})
	}
}

// What middleware outside of the cache has set counts for a refresh in the background as it
// does for a client: how long the page lasts, and what the handler adds to it.
func TestARefreshHasTheHeaderFromOutside(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{})
	var visits atomic.Int32
	cached := c.Handler(counting(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Content-Security-Policy", "from the handler")
	}))
	s := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=60, stale-while-revalidate=3600")
		w.Header().Set("Content-Security-Policy", "from outside")
		if visits.Add(1) > 1 {
			w.Header().Set("Set-Cookie", "visitor=1") // which a client may get, but not the page
		}
		cached.ServeHTTP(w, r)
	}))
	policies := func() []string { return s.get(t, "/page").header["Content-Security-Policy"] }
	require.Equal(t, "run 1", s.get(t, "/page").body)
	require.NoError(t, c.SoftPurge(t.Context(), "http://example.com/page"))
	require.Equal(t, "run 1", s.get(t, "/page").body)
	await(t, "the page is made anew", func() bool { return s.get(t, "/page").body == "run 2" })
	for range 3 {
		assert.Equal(t, "run 2", s.get(t, "/page").body, "it is there for its lifetime")
		assert.Equal(t, []string{"from outside", "from the handler"}, policies())
	}
}
