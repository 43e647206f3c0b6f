package responsecache_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whoever sends another User-Agent each time gets the right page, and fills the
// store up to a bound only.
func TestVariantsAreBounded(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	prefix := redistest.Prefix(t)
	c := newCache(t, stores{
		cache: rediscache.New(rdb, &rediscache.Options{Prefix: prefix + "cache:"}),
		lock:  redislock.New(rdb, &redislock.Options{Prefix: prefix + "lock:"}),
	}, responsecache.Options{})
	h := c.With(responsecache.Policy{TTL: time.Minute}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "User-Agent")
		fmt.Fprint(w, "for ", r.UserAgent())
	}))
	get := func(agent string) string {
		r := httptest.NewRequest(http.MethodGet, "http://example.com/page", nil)
		r.Header.Set("User-Agent", agent)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Body.String()
	}
	agents := 10_000
	if testing.Short() {
		agents = 2_000
	}
	for i := range agents {
		agent := fmt.Sprint("agent ", i)
		require.Equal(t, "for "+agent, get(agent))
		if i%1000 == 0 {
			require.Equal(t, "for "+agent, get(agent))
		}
	}
	// 256 variants, 64 sets, the index, and the log of purges.
	entries := 0
	iter := rdb.Scan(t.Context(), 0, prefix+"cache:*", 10_000).Iterator()
	for iter.Next(t.Context()) {
		entries++
	}
	require.NoError(t, iter.Err())
	assert.Less(t, entries, 340)
}

// What clients send has bounds, and no two requests can be taken for one another.
func TestHostileRequests(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		page := r.Host + " " + r.RequestURI
		w.Header().Set("Content-Length", strconv.Itoa(len(page)))
		fmt.Fprint(w, page)
	})
	long := strings.Repeat("x", 60<<10)
	targets := []string{
		"/?a=1&b=2", "/?a=1%26b=2", "/?a=1;b=2", "/?b=2&a=1", "/?a=1&b=2&", "/?", "/", "//", "/%2f", "/%2F", "/a%00b", "/a%0d%0ab",
		"/" + long, "/" + long + "y", "/?" + long, "/?" + long + "y", "/a,b", "/1:a,", "/a?1:b,",
	}
	for range 2 {
		for _, target := range targets {
			for _, host := range []string{"example.com", "example.com:81", "other.example"} {
				got := raw(t, s, "GET "+target+" HTTP/1.1\r\nHost: "+host+"\r\nX-Forwarded-Host: evil.example\r\nConnection: close\r\n\r\n")
				assert.True(t, strings.HasSuffix(got, "\r\n\r\n"+host+" "+target), "%.80s", target)
			}
		}
	}
}

// Two caches on one store that compare requests differently do not take each other's
// word for which variant a request selects.
func TestProfilesOnOneStoreSelectForThemselves(t *testing.T) {
	s, runs := memoryStores(t), 0
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		runs++
		w.Header().Set("Vary", "X-V")
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, "run ", runs)
	})
	get := func(profile responsecache.Profile, value string) string {
		w, r := httptest.NewRecorder(), asks("/page")
		r.Header.Set("X-V", value)
		newCache(t, s, responsecache.Options{Profile: profile}).Handler(handler).ServeHTTP(w, r)
		return w.Body.String()
	}
	for range 3 {
		require.Equal(t, "run 1", get(responsecache.Conformance, "a,b"))
		require.Equal(t, "run 1", get(responsecache.Conformance, "a, b"), "white space around members does not count")
		require.Equal(t, "run 2", get(responsecache.Safe, "a, b"), "for all that is known it does")
	}
}
