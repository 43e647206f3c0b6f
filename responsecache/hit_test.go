package responsecache_test

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/responsecache"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sink is the writer of a connection that is used again and again.
type sink struct {
	header http.Header
	code   int
	body   []byte // what was written last
	size   int
}

func (w *sink) Header() http.Header         { return w.header }
func (w *sink) WriteHeader(code int)        { w.code = code }
func (w *sink) Write(p []byte) (int, error) { w.body, w.size = p, w.size+len(p); return len(p), nil }

func (w *sink) serve(h http.Handler, r *http.Request) {
	clear(w.header)
	w.code, w.body, w.size = 0, nil, 0
	h.ServeHTTP(w, r)
}

var fourKiB = []byte(strings.Repeat("0123456789abcdef", 256))

// article answers as handlers of pages do.
func article(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "public, max-age=3600")
	h.Set("Etag", `"v1"`)
	_, _ = w.Write(fourKiB)
}

// asks returns a request such as browsers send.
func asks(target string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Header = http.Header{
		"Accept":          {"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"},
		"Accept-Encoding": {"gzip, deflate, br, zstd"},
		"Accept-Language": {"en-GB,en;q=0.5"},
		"Connection":      {"keep-alive"},
		"User-Agent":      {"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"},
	}
	return r
}

// cached returns handler behind a cache on store, and the target, which is cached.
func cached(t testing.TB, store cache.Store, p responsecache.Policy, handler http.HandlerFunc, target string) http.Handler {
	t.Helper()
	c, err := responsecache.New(store, &responsecache.Options{StoreTimeout: 2 * time.Second}) // machines of tests are slow when they are busy
	require.NoError(t, err)
	h := c.With(p).Handler(handler)
	w := &sink{header: http.Header{}}
	require.Eventually(t, func() bool {
		w.serve(h, asks(target))
		return strings.Contains(w.header.Get("Cache-Status"), "hit")
	}, 10*time.Second, time.Millisecond)
	return h
}

// allocations returns how many there are in each request. What else goes on in the
// process, the garbage collector's emptying of pools among it, only adds to them, so
// that the least of several counts is theirs.
func allocations(h http.Handler, r *http.Request) float64 {
	w, least := &sink{header: http.Header{}}, math.Inf(1)
	for range 10 {
		least = min(least, testing.AllocsPerRun(100, func() { w.serve(h, r) }))
	}
	return least
}

// TestAllocationsOfAHit: what a hit in this process may allocate is counted, because
// a count does not depend on the machine.
func TestAllocationsOfAHit(t *testing.T) {
	varies := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept-Language, Accept-Encoding")
		article(w, r)
	}
	rdb := obedient(t)
	for _, test := range []struct {
		name    string
		store   cache.Store
		policy  responsecache.Policy
		handler http.HandlerFunc
		target  string
		most    float64
	}{
		{name: "memory", store: cache.NewMemoryStore(nil), handler: article, target: "/articles/17", most: 1},
		{name: "memory, with a query", store: cache.NewMemoryStore(nil), handler: article, target: "/articles?page=2&order=new", most: 1},
		{name: "memory, Vary", store: cache.NewMemoryStore(nil), handler: varies, target: "/articles/17", most: 1},
		{name: "memory, compressed", store: cache.NewMemoryStore(nil), policy: responsecache.Policy{Compress: true}, handler: varies, target: "/articles/17", most: 1},
		// The deadline takes two of these.
		{name: "Redis", store: rediscache.New(rdb, fromRedis(t)), handler: article, target: "/articles/17", most: 8},
		{name: "memory over Redis", store: rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(t)}), handler: article, target: "/articles/17", most: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := cached(t, test.store, test.policy, test.handler, test.target)
			got := allocations(h, asks(test.target))
			t.Logf("%v allocations", got)
			if !raced { // its own are counted, too
				assert.LessOrEqual(t, got, test.most)
			}
		})
	}
}

// A long body from Redis passes through memory that is used again.
func TestALongBodyFromRedisTakesNoNewMemory(t *testing.T) {
	body := pattern(512 << 10)
	h := cached(t, rediscache.New(redistest.Standalone(t).Client(t), fromRedis(t)), responsecache.Policy{TTL: time.Hour},
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }, "/articles/17")
	w, r := &sink{header: http.Header{}}, asks("/articles/17")
	least := uint64(math.MaxUint64)
	for range 10 { // the garbage collector may have taken it in between
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10 {
			w.serve(h, r)
			require.Contains(t, w.header.Get("Cache-Status"), "; hit")
			require.Equal(t, len(body), w.size)
		}
		runtime.ReadMemStats(&after)
		least = min(least, (after.TotalAlloc-before.TotalAlloc)/10)
	}
	t.Logf("%d bytes for a hit", least)
	if !raced { // then pools lose some on purpose
		assert.Less(t, least, uint64(64<<10))
	}
}

// obedient returns a client that obeys deadlines, as redisconn's do: nothing else has to see
// to them then.
func obedient(tb testing.TB) *redis.Client {
	rdb := redis.NewClient(&redis.Options{Addr: redistest.Standalone(tb).Addr(), ContextTimeoutEnabled: true})
	tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// fromRedis are the options of a store that keeps nothing in this process.
func fromRedis(t testing.TB) *rediscache.Options {
	return &rediscache.Options{Prefix: redistest.Prefix(t), TierBytes: -1, CompressAbove: -1}
}

func TestAHitFromRedisIsOneRoundTrip(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.NewStandalone(t).Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr(), MaxRetries: -1})
	t.Cleanup(func() { _ = rdb.Close() })
	o := fromRedis(t)
	o.Staleness = time.Minute // so that the store seldom asks what was purged meanwhile
	h := cached(t, rediscache.New(rdb, o), responsecache.Policy{}, article, "/articles/17")
	w := &sink{header: http.Header{}}
	const hits = 20
	least := int64(math.MaxInt64)
	for range 10 { // when the store begins to listen to purges it adds to some
		before := proxy.Stats().RoundTrips
		for range hits {
			w.serve(h, asks("/articles/17"))
			require.Contains(t, w.header.Get("Cache-Status"), "; hit")
			require.Equal(t, fourKiB, w.body)
		}
		least = min(least, proxy.Stats().RoundTrips-before)
	}
	assert.EqualValues(t, hits, least)
}

// BenchmarkHit is a hit beside the handler itself.
func BenchmarkHit(b *testing.B) {
	rdb := obedient(b)
	on := func(store cache.Store) http.Handler {
		return cached(b, store, responsecache.Policy{}, article, "/articles/17")
	}
	for _, bench := range []struct {
		name    string
		handler http.Handler
	}{
		{"the handler itself", http.HandlerFunc(article)},
		{"in process", on(cache.NewMemoryStore(nil))},
		{"in process over Redis", on(rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(b)}))},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				w, r := &sink{header: http.Header{}}, asks("/articles/17")
				for pb.Next() {
					w.serve(bench.handler, r)
				}
			})
		})
	}
}

// BenchmarkHitFromRedis is a hit that this process does not have, of a page for each
// goroutine, beside a GET of as many bytes.
func BenchmarkHitFromRedis(b *testing.B) {
	for _, size := range []int{4 << 10, 512 << 10} {
		body := pattern(size)
		for _, goroutines := range []int{1, 128} {
			run := func(name string, prepare func(b *testing.B) func(g int) func()) {
				b.Run(fmt.Sprintf("%d KiB/%d at a time/%s", size>>10, goroutines, name), func(b *testing.B) {
					work := make([]func(), goroutines)
					for g, one := 0, prepare(b); g < goroutines; g++ {
						work[g] = one(g)
					}
					b.ReportAllocs()
					b.ResetTimer()
					var left atomic.Int64
					left.Store(int64(b.N))
					var wg sync.WaitGroup
					for _, do := range work {
						wg.Go(func() {
							for left.Add(-1) >= 0 {
								do()
							}
						})
					}
					wg.Wait()
				})
			}
			run("hit", func(b *testing.B) func(int) func() {
				c, err := responsecache.New(rediscache.New(obedient(b), fromRedis(b)), &responsecache.Options{StoreTimeout: 2 * time.Second})
				require.NoError(b, err)
				h := c.With(responsecache.Policy{TTL: time.Hour}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
				return func(g int) func() {
					w, r := &sink{header: http.Header{}}, asks(fmt.Sprint("/pages/", g))
					for !strings.Contains(w.header.Get("Cache-Status"), "hit") {
						w.serve(h, r)
					}
					return func() {
						if w.serve(h, r); w.size != size || len(w.header["Age"]) == 0 {
							panic(fmt.Sprint(w.code, w.size, w.header))
						}
					}
				}
			})
			run("raw GET", func(b *testing.B) func(int) func() {
				rdb, prefix := obedient(b), redistest.Prefix(b)
				return func(g int) func() {
					key := fmt.Sprint(prefix, g)
					require.NoError(b, rdb.Set(b.Context(), key, body, time.Hour).Err())
					return func() {
						if v, err := rdb.Get(b.Context(), key).Bytes(); err != nil || len(v) != size {
							panic(err)
						}
					}
				}
			})
		}
	}
}

// vandal changes all that it gets hold of in the header of a response.
type vandal struct{ http.ResponseWriter }

func (w vandal) WriteHeader(code int) {
	w.ResponseWriter.WriteHeader(code)
	for name, values := range w.Header() {
		_ = append(values, "more")
		for i := range values {
			values[i] = "changed"
		}
		delete(w.Header(), name)
	}
}

// TestNobodyChangesAStoredResponse: the header that middleware around the cache sees is
// the response's own, whatever becomes of it.
func TestNobodyChangesAStoredResponse(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Link"] = []string{"</a.css>; rel=preload", "</b.js>; rel=preload"}
		h.Add("X-Outer", "inner")
		h.Set("Vary", "Accept-Language")
		article(w, r)
	}
	requests := map[string]func(*http.Request){
		"plain":       func(*http.Request) {},
		"HEAD":        func(r *http.Request) { r.Method = http.MethodHead },
		"range":       func(r *http.Request) { r.Header.Set("Range", "bytes=0-9") },
		"conditional": func(r *http.Request) { r.Header.Set("If-None-Match", `"v1"`) },
		"max-age":     func(r *http.Request) { r.Header.Set("Cache-Control", "max-age=1000") },
	}
	rdb := obedient(t)
	for _, test := range []struct {
		name     string
		store    cache.Store
		compress bool
	}{
		{"memory", cache.NewMemoryStore(nil), false},
		{"memory, compressed", cache.NewMemoryStore(nil), true},
		{"Redis", rediscache.New(rdb, fromRedis(t)), false},
		{"Redis, compressed", rediscache.New(rdb, fromRedis(t)), true},
	} {
		h := cached(t, test.store, responsecache.Policy{Compress: test.compress}, handler, "/articles/17")
		outer := func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Outer", "outer")
				h.ServeHTTP(w, r)
			})
		}
		breaks := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(vandal{w}, r) })
		get := func(h http.Handler, change func(*http.Request)) (int, http.Header, string) {
			r, w := asks("/articles/17"), httptest.NewRecorder()
			change(r)
			h.ServeHTTP(w, r)
			w.Header().Del("Age")
			if strings.Contains(w.Header().Get("Cache-Status"), "; hit") {
				w.Header().Set("Cache-Status", "hit") // what it has left changes
			}
			return w.Code, w.Header().Clone(), w.Body.String()
		}
		for request, change := range requests {
			code, header, body := get(outer(h), change)
			require.Equal(t, "hit", header.Get("Cache-Status"), request)
			for other, broken := range requests {
				get(outer(breaks), broken)
				gotCode, gotHeader, gotBody := get(outer(h), change)
				assert.Equal(t, code, gotCode)
				assert.Equal(t, header, gotHeader, "%s after %s, %s", request, other, test.name)
				assert.Equal(t, body, gotBody)
			}
		}
	}
}

// What middleware around the cache has set stays beside what a hit says, or makes room for it.
func TestAHitBesideWhatMiddlewareHasSet(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Accept-Language")
		w.Header().Set("X-Same", "inner")
		w.Header().Set("Cache-Status", "inner; hit")
		article(w, r)
	}
	rdb := obedient(t)
	for name, store := range map[string]cache.Store{"memory": cache.NewMemoryStore(nil), "Redis": rediscache.New(rdb, fromRedis(t))} {
		h := cached(t, store, responsecache.Policy{}, handler, "/articles/17")
		for range 3 {
			w := httptest.NewRecorder()
			for name, value := range map[string]string{
				"Vary": "Origin", "X-Same": "outer", "X-Outer": "outer", "Age": "17", "Content-Length": "17", "Herdless-Cache-Control": "max-age=1",
			} {
				w.Header().Set(name, value)
			}
			h.ServeHTTP(w, asks("/articles/17"))
			got := w.Header()
			assert.Equal(t, []string{"Origin", "Accept-Language"}, got["Vary"], name)
			assert.Equal(t, []string{"inner"}, got["X-Same"], name)
			assert.Equal(t, []string{"outer"}, got["X-Outer"], name)
			assert.Equal(t, []string{"4096"}, got["Content-Length"], name)
			assert.Len(t, got["Age"], 1, name)
			assert.NotEqual(t, "17", got.Get("Age"), name)
			assert.NotContains(t, got, "Herdless-Cache-Control", name)
			if assert.Len(t, got["Cache-Status"], 2, name) {
				assert.Equal(t, "inner; hit", got["Cache-Status"][0], name)
				assert.Contains(t, got["Cache-Status"][1], "herdless; hit; ttl=", name)
			}
		}
	}
}
