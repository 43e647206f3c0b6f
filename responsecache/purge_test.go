package responsecache_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
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

// A program that serves none of the pages, such as one for the command line, purges them all the
// same, whatever their routes have in their keys.
func TestAPurgeByAnotherProgram(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		tenant := func(r *http.Request) string { return r.Header.Get("X-Tenant") }
		s := serve(t, st, responsecache.Policy{TTL: time.Minute, Key: tenant}, counting(nil))
		other := newCache(t, st, responsecache.Options{})
		handler := other.PurgeHandler(func(*http.Request) bool { return true })
		for name, purge := range map[string]func() error{
			"Purge": func() error { return other.Purge(t.Context(), "http://example.com/page") },
			"PurgeHandler": func() error {
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, httptest.NewRequest("PURGE", "http://example.com/page", nil))
				assert.Equal(t, http.StatusNoContent, w.Code)
				return nil
			},
		} {
			a, b := s.get(t, "/page", "X-Tenant", "a").body, s.get(t, "/page", "X-Tenant", "b").body
			require.Equal(t, a, s.get(t, "/page", "X-Tenant", "a").body)
			require.NoError(t, purge(), name)
			assert.NotEqual(t, a, s.get(t, "/page", "X-Tenant", "a").body, name)
			assert.NotEqual(t, b, s.get(t, "/page", "X-Tenant", "b").body, name)
		}
	})
}

func TestTags(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		handler := counting(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Surrogate-Key", "red  green")
			w.Header().Add("Cache-Tag", "with blank, blue")
			responsecache.AddTags(r.Context(), "added", r.URL.Path)
			if strings.HasPrefix(r.URL.Path, "/varies") {
				w.Header().Set("Vary", "X-A")
			}
		})
		p := responsecache.Policy{TTL: time.Minute, StaleIfError: time.Hour, Tags: []string{"route"}}
		a, b := serve(t, st, p, handler), serve(t, st, p, handler)
		for _, path := range []string{"/plain", "/varies"} {
			for _, tag := range []string{"red", "green", "with blank", "blue", "added", "route", path} {
				first := a.get(t, path)
				for _, field := range []string{"Surrogate-Key", "Cache-Tag"} {
					assert.Empty(t, first.header.Get(field))
				}
				assert.Equal(t, first.body, a.get(t, path).body)
				assert.Equal(t, first.body, b.get(t, path).body)
				require.NoError(t, b.cache.PurgeTags(t.Context(), "nothing", "Red", "blank"))
				assert.Equal(t, first.body, b.get(t, path).body)
				require.NoError(t, b.cache.PurgeTags(t.Context(), "other", tag))
				second := b.get(t, path)
				assert.NotEqual(t, first.body, second.body, tag)
				await(t, "everywhere", func() bool { return a.get(t, path).body == second.body })
			}
		}
		a.get(t, "/plain")
		require.NoError(t, a.cache.SoftPurgeTags(t.Context(), "route"))
		assert.Contains(t, a.get(t, "/plain").cacheStatus(), "fwd=stale")
		body := a.get(t, "/plain").body
		require.NoError(t, a.cache.PurgeAll(t.Context()))
		assert.NotEqual(t, body, a.get(t, "/plain").body)
	})
}

// What keeps a page keeps the tags that its handler has added to it, and they go out with
// none of it.
func TestAddedTagsOfAPageThatIsKept(t *testing.T) {
	many := make([]string, 900)
	for i := range many {
		many[i] = strings.Repeat("x", 100) + strconv.Itoa(i)
	}
	eachStore(t, func(t *testing.T, st stores) {
		for name, method := range map[string]string{"304": "GET", "304-another": "GET", "HEAD": "HEAD", "503": "GET"} {
			for _, tag := range []string{"added", many[899]} {
				var kept atomic.Bool
				var runs atomic.Int32
				path := fmt.Sprintf("/%s/%d", name, len(tag))
				s := serve(t, st, responsecache.Policy{StaleIfError: time.Hour}, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", "max-age=60")
					w.Header().Set("ETag", `"v1"`)
					if kept.Load() && name == "304-another" {
						responsecache.AddTags(r.Context(), "another")
					}
					switch {
					case !kept.Load():
						responsecache.AddTags(r.Context(), append(many, "added")...)
						fmt.Fprint(w, "run ", runs.Add(1))
					case name == "503":
						w.WriteHeader(http.StatusServiceUnavailable)
					case r.Header.Get("If-None-Match") != "":
						w.WriteHeader(http.StatusNotModified)
					}
				})
				require.Equal(t, "run 1", s.get(t, path).body)
				kept.Store(true)
				for range 2 {
					require.NoError(t, s.cache.SoftPurge(t.Context(), "http://example.com"+path))
					require.Equal(t, 200, s.do(t, t.Context(), method, path).status)
				}
				again := s.get(t, path)
				require.Equal(t, "run 1", again.body)
				for field, values := range again.header {
					assert.NotContains(t, strings.Join(values, ""), "added", field)
				}
				kept.Store(false)
				require.NoError(t, s.cache.PurgeTags(t.Context(), tag))
				assert.Equal(t, "run 2", s.get(t, path).body, "%s, %.10s", name, tag)
			}
		}
	})
}

// A tag that is known only when the page has been made, and that is purged meanwhile,
// keeps it out of the store, also where it is a variant or under a rule for queries.
func TestAPurgeOfATagDuringAComputation(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		for _, fields := range [][]string{nil, {"Vary", "X-A"}, {"No-Vary-Search", `params=("x")`}} {
			reached, proceed := make(chan struct{}, 1), make(chan struct{})
			var runs atomic.Int32
			path := fmt.Sprintf("/page%d?x=1", len(strings.Join(fields, "")))
			s := serve(t, st, responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
				n := runs.Add(1)
				if n == 1 {
					reached <- struct{}{}
					<-proceed
				}
				headers(fields...)(w, r)
				w.Header().Set("Cache-Tag", "late")
				fmt.Fprintf(w, "run %d", n)
			})
			done := make(chan struct{})
			go func() { defer close(done); s.get(t, path) }()
			<-reached
			require.NoError(t, s.cache.PurgeTags(t.Context(), "late"))
			close(proceed)
			<-done
			assert.Equal(t, "run 2", s.get(t, path).body, "%v", fields)
			assert.Equal(t, "run 2", s.get(t, path).body, "%v", fields)
		}
	})
}

// A page that is made before it is changed, on a server that knows of no No-Vary-Search yet,
// is not found under the rule that comes with it.
func TestAChangeWhileTheFirstRuleIsLearned(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		for _, varies := range []bool{false, true} {
			var state atomic.Value
			state.Store("old")
			reached, proceed := make(chan struct{}), make(chan struct{})
			var runs atomic.Int32
			path := fmt.Sprintf("/page-%v?u=", varies)
			handler := func(w http.ResponseWriter, r *http.Request) {
				if r.Method == "PUT" {
					state.Store("new")
					return
				}
				if varies {
					w.Header().Set("Vary", "X-A")
				}
				body := state.Load()
				switch n := runs.Add(1); {
				case varies && n == 1: // without a rule
				case n == 1 || varies && n == 2:
					close(reached)
					<-proceed
					fallthrough
				default:
					w.Header().Set("No-Vary-Search", `params=("u")`)
				}
				fmt.Fprint(w, body)
			}
			p := responsecache.Policy{TTL: time.Minute}
			one, other := serve(t, st, p, handler), serve(t, st, p, handler)
			if varies {
				require.Equal(t, "old", one.get(t, path+"1", "X-A", "1").body)
			}
			made := make(chan string)
			go func() { made <- one.get(t, path+"1", "X-A", "2").body }()
			<-reached
			require.Equal(t, 200, other.do(t, t.Context(), "PUT", path+"1").status)
			close(proceed)
			require.Equal(t, "old", <-made)
			for _, u := range []string{"1", "2"} {
				for _, s := range []*server{one, other} {
					assert.Equal(t, "new", s.get(t, path+u, "X-A", "2").body, "varies: %v, %s", varies, u)
				}
			}
		}
	})
}

// unread is a store that cannot be read for a while.
type unread struct {
	cache.Store
	fails atomic.Bool
}

func (u *unread) Get(ctx context.Context, key string) (cache.Entry, bool, error) {
	if u.fails.Load() {
		return cache.Entry{}, false, context.DeadlineExceeded
	}
	return u.Store.Get(ctx, key)
}

func (u *unread) Peek(string) (cache.Entry, bool) { return cache.Entry{}, false }

// Who changes a page and cannot learn the rule that its path has removes it all the same.
func TestAChangeWhileTheRuleCannotBeRead(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		handler := counting(headers("Cache-Control", "max-age=60", "No-Vary-Search", `params=("u")`))
		one := serve(t, st, responsecache.Policy{}, handler)
		store := &unread{Store: st.cache}
		other := serve(t, stores{cache: store, lock: st.lock}, responsecache.Policy{}, handler)
		first := one.get(t, "/page?u=1").body
		require.Equal(t, first, one.get(t, "/page?u=2").body)
		store.fails.Store(true)
		require.Equal(t, 200, other.do(t, t.Context(), "PUT", "/page?u=1").status)
		assert.NotEqual(t, first, one.get(t, "/page?u=1").body)
	})
}

func TestPurgeReachesEveryFormOfAPage(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		for name, purge := range map[string]func(c *responsecache.Cache, url string) error{
			"Purge":     func(c *responsecache.Cache, url string) error { return c.Purge(t.Context(), url) },
			"SoftPurge": func(c *responsecache.Cache, url string) error { return c.SoftPurge(t.Context(), url) },
		} {
			handler := counting(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Has("vary") {
					w.Header().Set("Vary", "X-A")
				}
				if r.URL.Query().Has("search") {
					w.Header().Set("No-Vary-Search", `params=("utm")`)
				}
			})
			p := responsecache.Policy{TTL: time.Minute, Key: func(r *http.Request) string { return r.Header.Get("X-Tenant") }}
			s := serve(t, st, p, handler)
			for _, path := range []string{"/" + name, "/" + name + "?vary", "/" + name + "/2?search&a=1&utm=9", "/" + name + "/3?search&vary"} {
				first, second := s.get(t, path, "X-A", "1"), s.get(t, path, "X-A", "2", "X-Tenant", "t")
				require.NotEqual(t, first.body, second.body)
				require.Equal(t, first.body, s.get(t, path, "X-A", "1").body, path)
				require.Equal(t, second.body, s.get(t, path, "X-A", "2", "X-Tenant", "t").body, path)
				require.NoError(t, purge(s.cache, "http://example.com"+path))
				assert.NotEqual(t, first.body, s.get(t, path, "X-A", "1").body, "%s %s", name, path)
				assert.NotEqual(t, second.body, s.get(t, path, "X-A", "2", "X-Tenant", "t").body, "%s %s", name, path)
			}
		}
	})
}

func TestPurgeHandler(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{})
	page := c.With(responsecache.Policy{TTL: time.Minute, StaleIfError: time.Hour, Tags: []string{"tag"}}).Handler(counting(nil))
	open := c.PurgeHandler(func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer secret" })
	closed := c.PurgeHandler(nil)
	send := func(h http.Handler, method string, fields ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "http://example.com/page", nil)
		for i := 0; i < len(fields); i += 2 {
			r.Header.Set(fields[i], fields[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	secret := []string{"Authorization", "Bearer secret"}
	body := func() string { return send(page, "GET").Body.String() }
	require.Equal(t, "run 1", body())

	assert.Equal(t, 403, send(closed, "PURGE", secret...).Code)
	assert.Equal(t, 403, send(open, "PURGE").Code)
	assert.Equal(t, 403, send(open, "PURGE", "Authorization", "Bearer other").Code)
	w := send(open, "GET", secret...)
	assert.Equal(t, 405, w.Code)
	assert.Equal(t, "PURGE, POST", w.Header().Get("Allow"))
	require.Equal(t, "run 1", body())

	assert.Equal(t, 204, send(open, "PURGE", secret...).Code)
	require.Equal(t, "run 2", body())
	assert.Equal(t, 204, send(open, "POST", append(secret, "Surrogate-Key", "a tag b")...).Code)
	require.Equal(t, "run 3", body())
	assert.Equal(t, 204, send(open, "PURGE", append(secret, "Cache-Tag", "a, tag")...).Code)
	require.Equal(t, "run 4", body())
	assert.Equal(t, 204, send(open, "PURGE", append(secret, "Soft-Purge", "1")...).Code)
	w = send(page, "GET")
	assert.Contains(t, w.Header().Get("Cache-Status"), "fwd=stale")
	require.Equal(t, "run 5", w.Body.String())
	assert.Equal(t, 204, send(open, "PURGE", append(secret, "Soft-Purge", "1", "Cache-Tag", "tag")...).Code)
	w = send(page, "GET")
	assert.Contains(t, w.Header().Get("Cache-Status"), "fwd=stale")
}

// Who asks after another server has purged a page does not read along while an older
// one is made.
func TestNobodyReadsAlongAfterAPurgeElsewhere(t *testing.T) {
	purges := map[string]func(ctx context.Context, c *responsecache.Cache) error{
		"URL": func(ctx context.Context, c *responsecache.Cache) error {
			return c.Purge(ctx, "http://example.com/page")
		},
		"soft": func(ctx context.Context, c *responsecache.Cache) error {
			return c.SoftPurge(ctx, "http://example.com/page")
		},
		"tag": func(ctx context.Context, c *responsecache.Cache) error { return c.PurgeTags(ctx, "t") },
	}
	eachStore(t, func(t *testing.T, st stores) {
		for name, purge := range purges {
			t.Run(name, func(t *testing.T) {
				var runs atomic.Int32
				proceed := make(chan struct{})
				handler := func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Tag", "t")
					n := runs.Add(1)
					fmt.Fprintf(w, "run %d", n)
					if n == 1 {
						_ = http.NewResponseController(w).Flush()
						<-proceed
					}
				}
				a, b := serve(t, st, responsecache.Policy{TTL: time.Minute}, handler), serve(t, st, responsecache.Policy{TTL: time.Minute}, handler)
				end := sync.OnceFunc(func() { close(proceed) })
				t.Cleanup(end) // before the servers close
				require.NoError(t, b.cache.PurgeAll(t.Context()))
				leader := a.open(t, "/page")
				require.Equal(t, "run 1", leader.read(t, 5))
				require.Equal(t, "run 1", a.open(t, "/page").read(t, 5), "before the purge")
				require.NoError(t, purge(t.Context(), b.cache))
				await(t, "nobody reads along", func() bool { // when the other server has heard of it
					begun := make(chan string, 1)
					follower := a.open(t, "/page")
					go func() { begun <- follower.read(t, 5) }()
					select {
					case body := <-begun:
						return body != "run 1"
					case <-time.After(200 * time.Millisecond):
						end()
						return <-begun != "run 1"
					}
				})
			})
		}
	})
}

// What else is purged does not keep anybody from reading along.
func TestReadingAlongWhileOtherPagesArePurged(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		var runs atomic.Int32
		proceed := make(chan struct{})
		s := serve(t, st, responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
			if fmt.Fprintf(w, "run %d", runs.Add(1)); runs.Load() == 1 {
				_ = http.NewResponseController(w).Flush()
				<-proceed
			}
		})
		leader := s.open(t, "/page")
		require.Equal(t, "run 1", leader.read(t, 5))
		require.NoError(t, s.cache.Purge(t.Context(), "http://example.com/other"))
		require.NoError(t, s.cache.PurgeTags(t.Context(), "other"))
		begun := make(chan string, 1)
		follower := s.open(t, "/page")
		go func() { begun <- follower.read(t, 5) }()
		select {
		case body := <-begun:
			assert.Equal(t, "run 1", body)
		case <-time.After(5 * time.Second):
			t.Error("it waits for the end")
		}
		close(proceed)
		assert.EqualValues(t, 1, runs.Load())
	})
}

// The body of a page whose validity is being asked for is there when the handler says
// that it still holds, even if the page is purged meanwhile: handlers of some routers
// cannot be asked again within one request.
func TestAPurgeDuringAValidation(t *testing.T) {
	eachStore(t, func(t *testing.T, st stores) {
		body := strings.Repeat("0123456789", 100_000) // in parts
		asked, proceed := make(chan struct{}, 9), make(chan struct{})
		var runs atomic.Int32
		s := serve(t, st, responsecache.Policy{}, func(w http.ResponseWriter, r *http.Request) {
			runs.Add(1)
			w.Header().Set("Cache-Control", "no-cache")
			w.Header().Set("ETag", `"1"`)
			if r.Header.Get("If-None-Match") == "" {
				fmt.Fprint(w, body)
				return
			}
			asked <- struct{}{}
			<-proceed
			w.WriteHeader(http.StatusNotModified)
		})
		await(t, "the page is stored", func() bool {
			s.get(t, "/page")
			return strings.Contains(s.get(t, "/page", "Cache-Control", "only-if-cached").cacheStatus(), "fwd=stale")
		})
		runs.Store(0)
		done := make(chan response)
		go func() { done <- s.get(t, "/page", "Range", "bytes=500000-") }()
		<-asked
		require.NoError(t, s.cache.Purge(t.Context(), "http://example.com/page"))
		close(proceed)
		got := <-done
		assert.Equal(t, 206, got.status)
		assert.True(t, got.body == body[500_000:], "a body of %d bytes", len(got.body))
		assert.EqualValues(t, 1, runs.Load(), "runs of the handler")
	})
}
