package responsecache_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A page whose name is known is not mistaken for another one, whatever in the request
// or what middleware has made of it is different.
func TestAPageThatIsKnownIsNotMistakenForAnother(t *testing.T) {
	c, err := responsecache.New(cache.NewMemoryStore(nil), nil)
	require.NoError(t, err)
	p := responsecache.Policy{TTL: time.Hour}
	answers := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%v %s %s %s", r.TLS != nil, r.Host, r.RequestURI, r.URL)
	})
	plain := c.With(p).Handler(answers)
	p.Key = func(r *http.Request) string { return r.Header.Get("X-Tenant") }
	tenants := c.With(p).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "for ", r.Header.Get("X-Tenant"))
	}))
	get := func(h http.Handler, change func(*http.Request)) string {
		r, w := httptest.NewRequest(http.MethodGet, "/a/b?x=1", nil), httptest.NewRecorder()
		change(r)
		h.ServeHTTP(w, r)
		return w.Body.String()
	}
	changes := map[string]func(*http.Request){
		"none":                         func(*http.Request) {},
		"host":                         func(r *http.Request) { r.Host = "other.example" },
		"scheme":                       func(r *http.Request) { r.TLS = &tls.ConnectionState{} },
		"target":                       func(r *http.Request) { r.RequestURI = "/a/c?x=1" },
		"query":                        func(r *http.Request) { r.RequestURI, r.URL.RawQuery = "/a/b?x=2", "x=2" },
		"no query":                     func(r *http.Request) { r.RequestURI, r.URL.RawQuery = "/a/b", "" },
		"an empty query":               func(r *http.Request) { r.RequestURI, r.URL.RawQuery, r.URL.ForceQuery = "/a/b?", "", true },
		"rewritten path":               func(r *http.Request) { r.URL.Path = "/a/c" },
		"prefix":                       func(r *http.Request) { r.URL.Path = "/b" },
		"rewritten to a question mark": func(r *http.Request) { r.URL.Path, r.URL.RawQuery = "/a/b?x=1", "" },
		"rewritten query":              func(r *http.Request) { r.URL.RawQuery = "x=3" },
		"no query any more":            func(r *http.Request) { r.URL.RawQuery = "" },
		"raw path":                     func(r *http.Request) { r.URL = &url.URL{Path: "/a/b", RawPath: "/a%2Fb", RawQuery: "x=1"} },
	}
	for range 4 { // to be known takes a hit
		for name, change := range changes {
			want := get(answers, change)
			if name == "prefix" { // the target names the page
				want = "false example.com /a/b?x=1 /a/b?x=1"
				get(plain, changes["none"])
			}
			assert.Equal(t, want, get(plain, change), name)
		}
		for _, tenant := range []string{"one", "two"} {
			assert.Equal(t, "for "+tenant, get(tenants, func(r *http.Request) { r.Header.Set("X-Tenant", tenant) }))
		}
	}
}

// A page that is found again without looking for its key is gone as soon as any other.
func TestAPageThatIsFoundAgainGoesAtOnce(t *testing.T) {
	const page = "http://example.com/page"
	eachStore(t, func(t *testing.T, st stores) {
		s := serve(t, st, responsecache.Policy{TTL: time.Hour, StaleWhileRevalidate: time.Hour, Tags: []string{"tag"}}, counting(nil))
		c, ctx := s.cache, t.Context()
		for name, remove := range map[string]func() error{
			"purge":           func() error { return c.Purge(ctx, page) },
			"purge of a tag":  func() error { return c.PurgeTags(ctx, "tag") },
			"purge of all":    func() error { return c.PurgeAll(ctx) },
			"unsafe request":  func() error { s.do(t, ctx, http.MethodPost, "/page"); return nil },
			"request for new": func() error { s.get(t, "/page", "Cache-Control", "no-cache"); return nil },
		} {
			before := s.get(t, "/page").body
			for range 3 { // to be known takes a hit, and to be found again one more
				require.Equal(t, before, s.get(t, "/page").body)
			}
			require.NoError(t, remove())
			assert.NotEqual(t, before, s.get(t, "/page").body, name)
		}
		for name, remove := range map[string]func() error{
			"soft purge":          func() error { return c.SoftPurge(ctx, page) },
			"soft purge of a tag": func() error { return c.SoftPurgeTags(ctx, "tag") },
		} {
			before := s.get(t, "/page")
			for range 3 {
				require.Contains(t, s.get(t, "/page").cacheStatus(), "; hit; ttl=3")
			}
			require.NoError(t, remove())
			assert.NotContains(t, s.get(t, "/page").cacheStatus(), "; ttl=3", name)
			await(t, "a new one", func() bool { return s.get(t, "/page").body != before.body })
		}
	})
}

// So is one whose time is over.
func TestAPageThatIsFoundAgainEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := responsecache.New(cache.NewMemoryStore(nil), nil)
		require.NoError(t, err)
		h := c.With(responsecache.Policy{TTL: time.Minute}).Handler(counting(nil))
		get := func() (body, age string) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/page", nil))
			return w.Body.String(), w.Header().Get("Age")
		}
		for _, want := range []string{"run 1", "run 2"} {
			body, _ := get()
			require.Equal(t, want, body)
			for second := range 60 {
				body, age := get()
				assert.Equal(t, want, body)
				assert.Equal(t, strconv.Itoa(second), age)
				time.Sleep(time.Second)
			}
		}
	})
}
