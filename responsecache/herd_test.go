package responsecache_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const patience = 20 * time.Second

// await polls until done, and fails the test after patience.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func TestAColdPageIsComputedOnceInTheCluster(t *testing.T) {
	eachStore(t, func(t *testing.T, s stores) {
		var runs atomic.Int32
		var servers []*server
		for range 3 {
			servers = append(servers, serve(t, s, responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
				n := runs.Add(1)
				time.Sleep(300 * time.Millisecond) // the work
				w.Header().Set("X-Run", fmt.Sprint(n))
				fmt.Fprintf(w, "run %d", n)
			}))
		}
		var computed, collapsed, hits atomic.Int32
		var wg sync.WaitGroup
		for i := range 150 {
			wg.Go(func() {
				resp := servers[i%3].get(t, "/page")
				assert.Equal(t, "run 1", resp.body)
				assert.Equal(t, "1", resp.header.Get("X-Run"))
				switch status := resp.cacheStatus(); {
				case strings.HasPrefix(status, "herdless; fwd=uri-miss; ttl="):
					computed.Add(1)
				case status == "herdless; fwd=uri-miss; collapsed":
					collapsed.Add(1)
				case strings.HasPrefix(status, "herdless; hit; ttl="):
					hits.Add(1)
				default:
					t.Errorf("unexpected Cache-Status %q", status)
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, runs.Load())
		assert.EqualValues(t, 1, computed.Load())
		assert.EqualValues(t, 149, collapsed.Load()+hits.Load())
		assert.Positive(t, collapsed.Load())
	})
}

// Those who wait for a page get the same header, and each in memory of its own.
func TestThoseWhoWaitMayChangeTheirHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := responsecache.New(cache.NewMemoryStore(nil), nil)
		require.NoError(t, err)
		h := c.With(responsecache.Policy{TTL: time.Minute}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			article(w, r)
		}))
		var collapsed atomic.Int32
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				w := &sink{header: http.Header{}}
				w.serve(h, asks("/page"))
				assert.Equal(t, len(fourKiB), w.size)
				assert.Equal(t, []string{`"v1"`}, w.header["Etag"])
				if strings.Contains(w.header.Get("Cache-Status"), "; fwd=uri-miss; collapsed; key=") {
					collapsed.Add(1)
					assert.Equal(t, fourKiB, w.body)
				}
				for _, values := range w.header {
					values[0] = "mine"
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 19, collapsed.Load())
	})
}

func TestAColdPageWithVariantsIsComputedOncePerVariant(t *testing.T) {
	eachStore(t, func(t *testing.T, s stores) {
		var runs atomic.Int32
		var servers []*server
		for range 3 {
			servers = append(servers, serve(t, s, responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
				runs.Add(1)
				time.Sleep(100 * time.Millisecond)
				w.Header().Set("Vary", "Accept-Language")
				fmt.Fprint(w, r.Header.Get("Accept-Language"))
			}))
		}
		languages := []string{"de", "en", "fr"}
		var wg sync.WaitGroup
		for i := range 90 {
			wg.Go(func() {
				language := languages[i/3%3]
				assert.Equal(t, language, servers[i%3].get(t, "/page", "Accept-Language", language).body)
			})
		}
		wg.Wait()
		assert.EqualValues(t, 3, runs.Load())
	})
}

// What is not for sharing is not shared with those who wait for it either.
func TestWaitersNeverGetWhatIsNotForThem(t *testing.T) {
	for name, set := range map[string]func(http.ResponseWriter, *http.Request){
		"private":    headers("Cache-Control", "private, max-age=60"),
		"no-store":   headers("Cache-Control", "no-store"),
		"Set-Cookie": headers("Set-Cookie", "id=1", "Cache-Control", "max-age=60"),
		"Vary: *":    headers("Vary", "*", "Cache-Control", "max-age=60"),
	} {
		t.Run(name, func(t *testing.T) {
			eachStore(t, func(t *testing.T, s stores) {
				var servers []*server
				for range 2 {
					servers = append(servers, serve(t, s, responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
						time.Sleep(50 * time.Millisecond)
						set(w, r)
						fmt.Fprint(w, r.Header.Get("X-User"))
					}))
				}
				var wg sync.WaitGroup
				for i := range 20 {
					wg.Go(func() {
						user := fmt.Sprint("user ", i)
						assert.Equal(t, user, servers[i%2].get(t, "/page", "X-User", user).body)
					})
				}
				wg.Wait()
			})
		})
	}
}

func TestCredentialsAreNeverMixedUp(t *testing.T) {
	for _, field := range []string{"Cookie", "Authorization"} {
		t.Run(field, func(t *testing.T) {
			s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(20 * time.Millisecond)
				fmt.Fprintf(w, "for %q", r.Header.Get(field))
			})
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					who := fmt.Sprint("id=", i%5)
					assert.Equal(t, fmt.Sprintf("for %q", who), s.get(t, "/page", field, who).body)
				})
			}
			wg.Wait()
			assert.Equal(t, `for ""`, s.get(t, "/page").body, "what was computed for one user must not be stored for all")
			assert.Equal(t, `for "id=7"`, s.get(t, "/page", field, "id=7").body, "what was stored for all must not be served to a user unless it is public")
		})
	}
}

func TestTheFirstClientGoingAwayHarmsNobody(t *testing.T) {
	eachStore(t, func(t *testing.T, s stores) {
		var runs atomic.Int32
		reached, proceed := make(chan struct{}), make(chan struct{})
		handler := func(w http.ResponseWriter, r *http.Request) {
			runs.Add(1)
			fmt.Fprint(w, "first half, ")
			_ = http.NewResponseController(w).Flush()
			close(reached)
			<-proceed
			for range 100 { // the connection is gone, and that is noticed
				if _, err := fmt.Fprint(w, strings.Repeat("x", 4096)); err != nil {
					return
				}
				if err := http.NewResponseController(w).Flush(); err != nil {
					return
				}
			}
			if r.Context().Err() == nil {
				fmt.Fprint(w, " the end")
			}
		}
		a := serve(t, s, responsecache.Policy{TTL: time.Minute}, handler)
		b := serve(t, s, responsecache.Policy{TTL: time.Minute}, handler)

		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = a.do(t, ctx, http.MethodGet, "/page") })
		<-reached
		for i := range 10 {
			wg.Go(func() {
				resp := []*server{a, b}[i%2].get(t, "/page")
				assert.NoError(t, resp.err)
				assert.Equal(t, "first half, "+strings.Repeat("x", 409_600)+" the end", resp.body)
			})
		}
		cancel()
		close(proceed)
		wg.Wait()
		assert.EqualValues(t, 1, runs.Load())
	})
}

func TestAnUnfinishedResponseIsNeverShared(t *testing.T) {
	for name, rest := range map[string]func(w http.ResponseWriter){
		"panic":               func(http.ResponseWriter) { panic("boom") },
		"ErrAbortHandler":     func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"short of its length": func(http.ResponseWriter) {},
	} {
		t.Run(name, func(t *testing.T) {
			eachStore(t, func(t *testing.T, s stores) {
				var fail atomic.Bool
				fail.Store(true)
				var runs atomic.Int32
				handler := func(w http.ResponseWriter, _ *http.Request) {
					runs.Add(1)
					w.Header().Set("Content-Length", "10")
					fmt.Fprint(w, "half.")
					time.Sleep(50 * time.Millisecond)
					if fail.Load() {
						rest(w)
						return
					}
					fmt.Fprint(w, "whole")
				}
				a := serve(t, s, responsecache.Policy{TTL: time.Minute}, handler)
				b := serve(t, s, responsecache.Policy{TTL: time.Minute}, handler)
				a.Config.ErrorLog, b.Config.ErrorLog = discardLog, discardLog
				var wg sync.WaitGroup
				for i := range 10 {
					wg.Go(func() {
						resp := []*server{a, b}[i%2].get(t, "/page")
						assert.Error(t, resp.err, "got %q, a half response that looks whole", resp.body)
					})
				}
				wg.Wait()
				fail.Store(false)
				await(t, "the page works, and is stored, afterwards", func() bool {
					resp := b.get(t, "/page")
					return resp.body == "half.whole" && strings.Contains(resp.cacheStatus(), "hit")
				})
			})
		})
	}
}

func TestAPurgeRemovesAPageEverywhere(t *testing.T) {
	eachStore(t, func(t *testing.T, s stores) {
		handler := counting(headers("Vary", "X-Variant"))
		a := serve(t, s, responsecache.Policy{TTL: time.Minute}, handler)
		b := serve(t, s, responsecache.Policy{TTL: time.Minute}, handler)
		require.Equal(t, "run 1", a.get(t, "/page?q=1", "X-Variant", "x").body)
		require.Equal(t, "run 2", a.get(t, "/page?q=1", "X-Variant", "y").body)
		require.Equal(t, "run 3", a.get(t, "/page?q=2", "X-Variant", "x").body)
		require.Equal(t, "run 1", b.get(t, "/page?q=1", "X-Variant", "x").body)

		require.NoError(t, b.cache.Purge(t.Context(), "http://EXAMPLE.com/page?q=1"))
		assert.Equal(t, "run 4", a.get(t, "/page?q=1", "X-Variant", "x").body)
		assert.Equal(t, "run 5", a.get(t, "/page?q=1", "X-Variant", "y").body, "a purge must remove all variants")
		assert.Equal(t, "run 3", a.get(t, "/page?q=2", "X-Variant", "x").body, "a purge must not remove other pages")
	})
}

func TestAPurgeDuringAComputationWins(t *testing.T) {
	eachStore(t, func(t *testing.T, s stores) {
		var content atomic.Value
		content.Store("old")
		read, proceed := make(chan struct{}), make(chan struct{})
		var once sync.Once
		a := serve(t, s, responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
			body := content.Load().(string)
			once.Do(func() {
				close(read)
				<-proceed
			})
			fmt.Fprint(w, body)
		})
		var wg sync.WaitGroup
		wg.Go(func() { assert.Equal(t, "old", a.get(t, "/page").body) })
		<-read
		content.Store("new")
		require.NoError(t, a.cache.Purge(t.Context(), "http://example.com/page"))
		close(proceed)
		wg.Wait()
		assert.Equal(t, "new", a.get(t, "/page").body)
	})
}

func TestPurgeRefusesWhatIsNoURL(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{})
	for _, bad := range []string{"", "/page", "example.com/page", "ftp://example.com/", "http://", "http://exa mple.com/", ":"} {
		require.ErrorContains(t, c.Purge(t.Context(), bad), "responsecache: ", bad)
	}
}
