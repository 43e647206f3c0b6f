package responsecache_test

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var discardLog = log.New(io.Discard, "", 0)

// Each case asks twice and says whether the second answer came from the store.
func TestWhatIsStored(t *testing.T) {
	const hit, miss = true, false
	minute := responsecache.Policy{TTL: time.Minute}
	none := responsecache.Policy{}
	future := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	tests := []struct {
		name     string
		policy   responsecache.Policy
		response []string
		status   int
		want     bool
	}{
		{"policy only", minute, nil, 200, hit},
		{"no policy, no lifetime", none, nil, 200, miss},
		{"max-age", none, []string{"Cache-Control", "max-age=60"}, 200, hit},
		{"max-age=0 beats the policy", minute, []string{"Cache-Control", "max-age=0"}, 200, miss},
		{"s-maxage beats max-age", none, []string{"Cache-Control", "max-age=60, s-maxage=0"}, 200, miss},
		{"s-maxage", none, []string{"Cache-Control", "max-age=0, s-maxage=60"}, 200, hit},
		{"case and white space", none, []string{"Cache-Control", " ,, MAX-Age = 60 "}, 200, miss}, // white space around "=" is invalid: stale
		{"upper case", none, []string{"Cache-Control", "MAX-AGE=60"}, 200, hit},
		{"quoted argument", none, []string{"Cache-Control", `max-age="60"`}, 200, hit},
		{"directive in a quoted string", none, []string{"Cache-Control", `ext="no-store, private", max-age=60`}, 200, hit},
		{"unclosed quote", minute, []string{"Cache-Control", `ext="max-age=60, private`}, 200, miss},
		{"malformed max-age is stale", minute, []string{"Cache-Control", "max-age=6O"}, 200, miss},
		{"negative max-age is stale", minute, []string{"Cache-Control", "max-age=-1"}, 200, miss},
		{"empty max-age is stale", minute, []string{"Cache-Control", "max-age="}, 200, miss},
		{"two that disagree are stale", none, []string{"Cache-Control", "max-age=60, max-age=30"}, 200, miss},
		{"two that agree", none, []string{"Cache-Control", "max-age=60", "Cache-Control", "max-age=60"}, 200, hit},
		{"huge max-age", none, []string{"Cache-Control", "max-age=99999999999999999999"}, 200, hit},
		{"Age uses the lifetime up", none, []string{"Cache-Control", "max-age=60", "Age", "60"}, 200, miss},
		{"Expires", none, []string{"Expires", future}, 200, hit},
		{"Expires 0 is stale", minute, []string{"Expires", "0"}, 200, miss},
		{"Expires with its own Date", none, []string{"Expires", future, "Date", future}, 200, miss},
		{"max-age beats Expires", none, []string{"Cache-Control", "max-age=60", "Expires", "0"}, 200, hit},
		{"no-store", minute, []string{"Cache-Control", "no-store, max-age=60"}, 200, miss},
		{"private", minute, []string{"Cache-Control", "private"}, 200, miss},
		{"private with fields", minute, []string{"Cache-Control", `private="x-a", max-age=60`}, 200, hit},
		{"no-cache", minute, []string{"Cache-Control", "no-cache"}, 200, miss},
		{"second field line", minute, []string{"Cache-Control", "max-age=60", "Cache-Control", "private"}, 200, miss},
		{"Set-Cookie", minute, []string{"Set-Cookie", "a=b"}, 200, miss},
		{"Vary *", minute, []string{"Vary", "Accept, *"}, 200, miss},
		{"Trailer", minute, []string{"Trailer", "X-Sum"}, 200, miss},
		{"404 by the policy", minute, nil, 404, miss},
		{"404 named in the policy", responsecache.Policy{TTL: time.Minute, Statuses: []int{200, 404}}, nil, 404, hit},
		{"404 with max-age", none, []string{"Cache-Control", "max-age=60"}, 404, hit},
		{"500 with max-age", none, []string{"Cache-Control", "max-age=60"}, 500, hit},
		{"206", minute, []string{"Cache-Control", "max-age=60", "Content-Range", "bytes 0-4/10"}, 206, miss},
		{"301 with max-age", none, []string{"Cache-Control", "max-age=60", "Location", "/x"}, 301, hit},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, memoryStores(t), tt.policy, counting(func(w http.ResponseWriter, r *http.Request) {
				headers(tt.response...)(w, r)
				w.WriteHeader(tt.status)
			}))
			first, second := s.get(t, "/page"), s.get(t, "/page")
			assert.Equal(t, tt.status, first.status)
			assert.Equal(t, "run 1", first.body)
			if tt.want == hit {
				assert.Equal(t, tt.status, second.status)
				assert.Equal(t, "run 1", second.body)
				assert.Contains(t, second.cacheStatus(), "herdless; hit; ttl=")
				assert.Contains(t, first.cacheStatus(), "; stored")
			} else {
				assert.Equal(t, "run 2", second.body)
				assert.Contains(t, second.cacheStatus(), "herdless; fwd=")
				assert.NotContains(t, first.cacheStatus(), "; stored")
			}
		})
	}
}

func TestWhichRequestsAreAnsweredFromTheStore(t *testing.T) {
	const hit, forwarded = "run 1", "run 2"
	tests := []struct {
		name    string
		request []string
		want    string
		status  string
	}{
		{"plain", nil, hit, "herdless; hit; ttl=59"},
		{"condition", []string{"If-None-Match", `"x"`}, hit, "herdless; hit; ttl=59"},
		{"no-store", []string{"Cache-Control", "no-store"}, forwarded, "herdless; fwd=request"},
		{"range", []string{"Range", "bytes=0-1"}, "ru", "herdless; hit; ttl=59"},
		{"if-match", []string{"If-Match", `"x"`}, forwarded, "herdless; fwd=bypass"},
		{"cookie", []string{"Cookie", "a=b"}, forwarded, "herdless; fwd=bypass"},
		{"authorization", []string{"Authorization", "Bearer x"}, forwarded, "herdless; fwd=bypass"},
		{"upgrade", []string{"Upgrade", "websocket", "Connection", "Upgrade"}, forwarded, "herdless; fwd=bypass"},
		{"unkeyed host", []string{"X-Forwarded-Host", "evil.example"}, hit, "herdless; hit; ttl=59"},
		{"method override", []string{"X-Http-Method-Override", "POST"}, hit, "herdless; hit; ttl=59"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, counting(nil))
			require.Equal(t, "run 1", s.get(t, "/page").body)
			resp := s.get(t, "/page", tt.request...)
			assert.Equal(t, tt.want, resp.body)
			assert.Equal(t, tt.status, resp.cacheStatus())
			assert.Equal(t, "run 1", s.get(t, "/page").body, "what was forwarded must not replace what is stored")
		})
	}
}

func TestCredentialsShareWhatIsPublic(t *testing.T) {
	for name, tt := range map[string]struct {
		policy   responsecache.Policy
		response []string
	}{
		"by the handler": {responsecache.Policy{TTL: time.Minute}, []string{"Cache-Control", "public, max-age=60"}},
		"by s-maxage":    {responsecache.Policy{}, []string{"Cache-Control", "s-maxage=60"}},
		"by the policy":  {responsecache.Policy{TTL: time.Minute, Public: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, memoryStores(t), tt.policy, counting(headers(tt.response...)))
			require.Equal(t, "run 1", s.get(t, "/page").body)
			assert.Equal(t, "run 1", s.get(t, "/page", "Cookie", "a=b").body)
			assert.Equal(t, "run 1", s.get(t, "/page", "Authorization", "Bearer x").body)
		})
	}
	t.Run("on a public route a request with a cookie fills for all", func(t *testing.T) {
		s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, Public: true}, counting(nil))
		require.Equal(t, "run 1", s.get(t, "/page", "Cookie", "a=b").body)
		assert.Equal(t, "run 1", s.get(t, "/page", "Cookie", "c=d").body)
		assert.Equal(t, "run 1", s.get(t, "/page").body)
	})
}

// No two pages share a key, whatever their names are made of.
func TestPagesAreNeverMixedUp(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Host, r.RequestURI)
	})
	paths := []string{
		"/", "/a", "/A", "/a/", "//a", "/a?", "/a?b", "/a%3Fb", "/a?a=1&b=2", "/a?a=1%26b=2", "/a?b=2&a=1", "/a%2Fb", "/a/b", "/%00", "/a%0d%0aHost:x",
		"/" + strings.Repeat("x", 60_000),
	}
	for range 2 {
		for _, path := range paths {
			assert.Equal(t, "example.com "+path, s.get(t, path).body)
		}
	}
}

// A 60 kB URL must not become a key of 60 kB; see also rediscache.
func TestVariants(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute, Vary: []string{"X-Tenant"}}, counting(headers("Vary", "Accept-Language,accept")))
	ask := func(tenant, language, accept string) string {
		return s.get(t, "/page", "X-Tenant", tenant, "Accept-Language", language, "Accept", accept).body
	}
	require.Equal(t, "run 1", ask("a", "de", "text/html"))
	assert.Equal(t, "run 2", ask("b", "de", "text/html"), "the policy's Vary counts")
	assert.Equal(t, "run 3", ask("a", "en", "text/html"))
	assert.Equal(t, "run 4", ask("a", "de", "text/plain"), "names are case-insensitive")
	assert.Equal(t, "run 1", ask("a", "de", "text/html"))
	assert.Equal(t, "run 5", ask("a", "de, en", "text/html"))
	assert.Equal(t, "run 5", ask("a", " de ,\ten ", "text/html"), "white space makes no difference")
	resp := s.get(t, "/page", "X-Tenant", "a", "Accept-Language", "de")
	assert.Equal(t, "run 6", resp.body, "absent is a value of its own")
	assert.Equal(t, []string{"Accept-Language,accept", "X-Tenant"}, resp.header.Values("Vary"))
}

func TestAHandlerThatVariesOnMoreLaterIsFollowed(t *testing.T) {
	vary := "A"
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", vary)
		fmt.Fprint(w, r.Header.Get("A"), r.Header.Get("B"))
	})
	require.Equal(t, "a1", s.get(t, "/page", "A", "a", "B", "1").body)
	vary = "A, B"
	for range 3 {
		for _, b := range []string{"2", "3"} {
			assert.Equal(t, "x"+b, s.get(t, "/page", "A", "x", "B", b).body)
		}
	}
}

func TestAHitIsTheSameResponse(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["X-Multi"] = []string{"one", "two"}
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "this connection only")
		w.Header().Set("Age", "5")
		_, _ = io.WriteString(w, "<!doctype html>")
		_, _ = io.Copy(w, strings.NewReader("<title>"))
		w.(http.Flusher).Flush()
		_, _ = w.Write([]byte("\x00\xff"))
	})
	first, second := s.get(t, "/page"), s.get(t, "/page")
	for _, resp := range []response{first, second} {
		assert.Equal(t, "<!doctype html><title>\x00\xff", resp.body)
		assert.Equal(t, []string{"one", "two"}, resp.header.Values("X-Multi"))
		assert.Equal(t, `"v1"`, resp.header.Get("ETag"))
		assert.Equal(t, "text/html; charset=utf-8", resp.header.Get("Content-Type"))
		assert.Equal(t, first.header.Get("Date"), resp.header.Get("Date"))
	}
	assert.Equal(t, "5", second.header.Get("Age"))
	assert.Empty(t, second.header.Get("X-Hop"))
	assert.Equal(t, "24", second.header.Get("Content-Length"))

	head := s.do(t, t.Context(), http.MethodHead, "/page")
	assert.Equal(t, 200, head.status)
	assert.Empty(t, head.body)
	assert.Equal(t, "24", head.header.Get("Content-Length"))
	assert.Contains(t, head.cacheStatus(), "hit")
}

func TestAHeadOfAColdPageDoesNotFillIt(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, counting(nil))
	head := s.do(t, t.Context(), http.MethodHead, "/page")
	assert.Equal(t, "herdless; fwd=uri-miss", head.cacheStatus())
	assert.Equal(t, "run 2", s.get(t, "/page").body)
}

// A HEAD keeps a page only if it tells that the page is the same.
func TestAHeadThatUpdatesAPage(t *testing.T) {
	const then, now = "Mon, 02 Jan 2006 15:04:05 GMT", "Tue, 03 Jan 2006 15:04:05 GMT"
	for _, test := range []struct {
		name      string
		get, head []string
		cache     string // of what is left of the page
	}{
		{"nothing", nil, nil, "fwd=stale"},
		{"nothing of a page with validators", []string{"ETag", `"a"`, "Last-Modified", then}, nil, "fwd=stale"},
		{"the same ETag", []string{"ETag", `"a"`}, []string{"ETag", `W/"a"`}, "hit"},
		{"another ETag", []string{"ETag", `"a"`}, []string{"ETag", `"b"`}, "fwd=uri-miss"},
		{"the same Last-Modified", []string{"ETag", `"a"`, "Last-Modified", then}, []string{"Last-Modified", then}, "hit"},
		{"another Last-Modified", []string{"ETag", `"a"`, "Last-Modified", then}, []string{"Last-Modified", now}, "fwd=uri-miss"},
		{"the same length", nil, []string{"Content-Length", "4"}, "hit"},
		{"another length", []string{"ETag", `"a"`}, []string{"ETag", `"a"`, "Content-Length", "5"}, "fwd=uri-miss"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, memoryStores(t), responsecache.Policy{StaleIfError: time.Hour}, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				if r.Method == http.MethodHead {
					headers(test.head...)(w, r)
					return
				}
				headers(test.get...)(w, r)
				fmt.Fprint(w, "page")
			})
			s.get(t, "/page")
			require.NoError(t, s.cache.SoftPurge(t.Context(), "http://example.com/page"))
			s.do(t, t.Context(), http.MethodHead, "/page")
			assert.Contains(t, s.get(t, "/page").cacheStatus(), test.cache)
		})
	}
}

// RFC 9111 §4.4.
func TestAnUnsafeMethodRemovesThePage(t *testing.T) {
	for method, wantRun := range map[string]string{"POST": "run 3", "PUT": "run 3", "DELETE": "run 3", "PATCH": "run 3", "FOO": "run 3", "OPTIONS": "run 1"} {
		t.Run(method, func(t *testing.T) {
			s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, counting(nil))
			require.Equal(t, "run 1", s.get(t, "/page").body)
			resp := s.do(t, t.Context(), method, "/page")
			assert.Equal(t, "run 2", resp.body)
			assert.Equal(t, "herdless; fwd=method", resp.cacheStatus())
			assert.Equal(t, wantRun, s.get(t, "/page").body)
		})
	}
	t.Run("a failed one does not", func(t *testing.T) {
		s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, counting(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w.WriteHeader(http.StatusForbidden)
			}
		}))
		require.Equal(t, "run 1", s.get(t, "/page").body)
		require.Equal(t, "run 2", s.do(t, t.Context(), "POST", "/page").body)
		assert.Equal(t, "run 1", s.get(t, "/page").body)
	})
}

// Fields that middleware outside of the cache sets belong to the request at
// hand. Those that it adds at the last moment count for whether to store.
func TestMiddlewareOutsideOfTheCache(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{})
	cached := c.With(responsecache.Policy{TTL: time.Minute}).Handler(counting(nil))
	s := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", r.Header.Get("X-Request-Id"))
		cached.ServeHTTP(w, r)
	}))
	assert.Equal(t, "1", s.get(t, "/page", "X-Request-Id", "1").header.Get("X-Request-Id"))
	second := s.get(t, "/page", "X-Request-Id", "2")
	assert.Equal(t, "run 1", second.body)
	assert.Equal(t, "2", second.header.Get("X-Request-Id"))

	s = newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cached.ServeHTTP(&lateCookie{ResponseWriter: w}, r)
	}))
	require.Equal(t, "run 2", s.get(t, "/other").body)
	assert.Equal(t, "run 3", s.get(t, "/other").body, "a response that got a cookie on its way out must not be stored")
}

func newServer(t *testing.T, h http.Handler) *server {
	t.Helper()
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	return &server{Server: ts}
}

// lateCookie adds a cookie just before the header goes out, as a session does.
type lateCookie struct {
	http.ResponseWriter
	wrote bool
}

func (l *lateCookie) WriteHeader(status int) {
	if !l.wrote {
		l.wrote = true
		l.Header().Add("Set-Cookie", "id=secret")
	}
	l.ResponseWriter.WriteHeader(status)
}

func TestLongBodiesPassThrough(t *testing.T) {
	c := newCache(t, memoryStores(t), responsecache.Options{MaxBody: 1000})
	s := newServer(t, c.With(responsecache.Policy{TTL: time.Minute}).Handler(counting(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, strings.NewReader(strings.Repeat("x", len(r.URL.Query().Get("n"))*100)))
	})))
	assert.Equal(t, "run 1", s.get(t, "/page?n=").body)
	assert.Equal(t, "run 1", s.get(t, "/page?n=").body)
	long := strings.Repeat("x", 1000)
	assert.Equal(t, long+"run 2", s.get(t, "/page?n=1234567890").body)
	assert.Equal(t, long+"run 3", s.get(t, "/page?n=1234567890").body)
}

// The first byte is never held back.
func TestStreamsPass(t *testing.T) {
	proceed := make(chan struct{})
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprint(w, "first\n")
		_ = http.NewResponseController(w).Flush()
		<-proceed
		fmt.Fprint(w, "second\n")
	})
	resp, err := http.Get(s.URL + "/page")
	require.NoError(t, err)
	defer resp.Body.Close()
	body := bufio.NewReader(resp.Body)
	line, err := body.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "first\n", line)
	close(proceed)
	rest, err := io.ReadAll(body)
	require.NoError(t, err)
	assert.Equal(t, "second\n", string(rest))
}

func TestNothingWrittenIsNothingStored(t *testing.T) {
	runs := 0
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(http.ResponseWriter, *http.Request) { runs++ })
	for range 3 {
		assert.Equal(t, 200, s.get(t, "/page").status)
	}
	assert.Equal(t, 3, runs)
}

func TestAHijackedConnectionIsLeftAlone(t *testing.T) {
	s := serve(t, memoryStores(t), responsecache.Policy{TTL: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nhijacked")
		_ = rw.Flush()
	})
	for range 2 {
		resp := s.get(t, "/page")
		assert.Equal(t, "hijacked", resp.body)
		assert.Empty(t, resp.cacheStatus())
	}
}

func TestARedisThatIsAwayCostsNoPage(t *testing.T) {
	redisServer := redistest.NewStandalone(t)
	st := redisStores(t, redisServer.Client(t))
	// Nothing in process, where the page would be found for another second.
	st.cache = rediscache.New(redisServer.Client(t), &rediscache.Options{TierBytes: -1})
	s := serve(t, st, responsecache.Policy{TTL: time.Minute}, counting(nil))
	require.Equal(t, "run 1", s.get(t, "/page").body)

	redisServer.Stop(t)
	began := time.Now()
	assert.Equal(t, "run 2", s.get(t, "/page").body)
	assert.Less(t, time.Since(began), patience)
	redisServer.Continue(t)
	await(t, "back from the store", func() bool { return strings.Contains(s.get(t, "/page").cacheStatus(), "hit") })

	redisServer.Kill(t)
	assert.Contains(t, s.get(t, "/page").body, "run ")
	redisServer.Restart(t)
	await(t, "stored again", func() bool { return strings.Contains(s.get(t, "/page").cacheStatus(), "hit") })
}

func TestNewReportsAllFaultsAtOnce(t *testing.T) {
	_, err := responsecache.New(nil, &responsecache.Options{Name: "a\nb", MaxBody: -1, LeaseTTL: 1, WaitTimeout: -1})
	for _, part := range []string{"store is nil", "Name", "MaxBody", "LeaseTTL", "WaitTimeout"} {
		require.ErrorContains(t, err, part)
	}
	var store *rediscache.Store
	var locker *lock.Locker
	var router *http.ServeMux
	_, err = responsecache.New(store, &responsecache.Options{Locker: locker, Refresh: router})
	for _, part := range []string{"store is nil", "Locker is a nil *lock.Locker", "Refresh is a nil *http.ServeMux"} {
		require.ErrorContains(t, err, part)
	}
	c := newCache(t, memoryStores(t), responsecache.Options{Name: `my "cache"`})
	s := newServer(t, c.Handler(counting(nil)))
	assert.Equal(t, `"my \"cache\""; fwd=uri-miss; detail=no-lifetime`, s.get(t, "/").cacheStatus())

	const noHandler = "responsecache: Handler needs a handler to wrap, and got nil"
	assert.PanicsWithValue(t, noHandler, func() { c.Handler(nil) })
	assert.PanicsWithValue(t, noHandler, func() { c.With(responsecache.Policy{}).Handler(http.HandlerFunc(nil)) })

	assert.PanicsWithValue(t, "responsecache: Policy.TTL is 60ns: write 60 * time.Second for seconds; at least 1ms is possible\n"+
		"responsecache: Policy.StaleIfError is 3.6µs: write 3600 * time.Second for seconds; at least 1ms is possible", func() {
		c.With(responsecache.Policy{TTL: 60, StaleIfError: 3600})
	})

	for name, p := range map[string]responsecache.Policy{
		"negative": {TTL: -1}, "star": {Vary: []string{"*"}}, "206": {Statuses: []int{206}}, "100": {Statuses: []int{100}},
	} {
		assert.Panics(t, func() { c.With(p) }, name)
	}
}
