package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
	"github.com/herdless/herdless/responsecache"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(addrVar); addr != "" {
		if err := serveProcess(addr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(redistest.Run(m))
}

var body = bytes.Repeat([]byte("x"), 4096)

func page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write(body)
}

// discard is a ResponseWriter that costs as little as possible.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

func serveInLoop(b *testing.B, h http.Handler, cookie *http.Cookie) {
	r := httptest.NewRequest(http.MethodGet, "http://example.com/page", nil)
	if cookie != nil {
		r.AddCookie(cookie)
	}
	h.ServeHTTP(&discard{header: http.Header{}}, r)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		h.ServeHTTP(&discard{header: http.Header{}}, r)
	}
}

// BenchmarkCachedPage serves a page of 4 KiB.
func BenchmarkCachedPage(b *testing.B) {
	cached := func(store cache.Store) http.Handler {
		c, err := responsecache.New(store, nil)
		if err != nil {
			b.Fatal(err)
		}
		return c.With(responsecache.Policy{TTL: time.Hour}).Handler(http.HandlerFunc(page))
	}
	b.Run("plain handler", func(b *testing.B) { serveInLoop(b, http.HandlerFunc(page), nil) })
	b.Run("herdless in process", func(b *testing.B) {
		store := cache.NewMemoryStore(nil)
		serveInLoop(b, cached(store), nil)
	})
	rdb := redistest.Standalone(b).Client(b)
	b.Run("raw GET", func(b *testing.B) {
		key := redistest.Prefix(b) + "key"
		rdb.Set(b.Context(), key, body, time.Hour)
		for b.Loop() {
			if _, err := rdb.Get(context.Background(), key).Bytes(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("herdless on Redis", func(b *testing.B) {
		serveInLoop(b, cached(rediscache.New(rdb, fromRedis(b))), nil)
	})
	b.Run("herdless in process over Redis", func(b *testing.B) {
		serveInLoop(b, cached(rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(b)})), nil)
	})
}

// fromRedis are the options of a store that reads everything from Redis, as it
// would be read without herdless.
func fromRedis(b *testing.B) *rediscache.Options {
	return &rediscache.Options{Prefix: redistest.Prefix(b), TierBytes: -1, CompressAbove: -1}
}

// BenchmarkCachedValue reads a struct that is cached as 1 kB of JSON.
func BenchmarkCachedValue(b *testing.B) {
	type article struct{ Title, Text string }
	value := article{Title: "title", Text: string(bytes.Repeat([]byte("text "), 200))}
	rdb := redistest.Standalone(b).Client(b)
	b.Run("raw GET and JSON", func(b *testing.B) {
		key := redistest.Prefix(b) + "key"
		data, err := json.Marshal(value)
		if err != nil {
			b.Fatal(err)
		}
		rdb.Set(b.Context(), key, data, time.Hour)
		b.ReportAllocs()
		for b.Loop() {
			data, err := rdb.Get(context.Background(), key).Bytes()
			if err == nil {
				err = json.Unmarshal(data, &article{})
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, store := range map[string]cache.Store{
		"herdless in process":            cache.NewMemoryStore(nil),
		"herdless on Redis":              rediscache.New(rdb, fromRedis(b)),
		"herdless in process over Redis": rediscache.New(rdb, &rediscache.Options{Prefix: redistest.Prefix(b)}),
	} {
		b.Run(name, func(b *testing.B) {
			engine, err := cache.New(store, nil)
			if err != nil {
				b.Fatal(err)
			}
			articles, err := cache.For[article](engine, "article", cache.Policy{TTL: time.Hour})
			if err != nil {
				b.Fatal(err)
			}
			load := func(context.Context, string) (article, error) { return value, nil }
			b.ReportAllocs()
			for b.Loop() {
				if _, err := articles.Get(context.Background(), "1", load); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSessionRead reads one value of a session.
func BenchmarkSessionRead(b *testing.B) {
	rdb := redistest.Standalone(b).Client(b)
	for name, store := range map[string]session.Store{
		"herdless in process": session.NewMemoryStore(),
		"herdless on Redis":   redisstore.New(rdb, &redisstore.Options{Prefix: redistest.Prefix(b)}),
	} {
		b.Run(name, func(b *testing.B) {
			m, err := session.New(store, nil)
			if err != nil {
				b.Fatal(err)
			}
			set := httptest.NewRecorder()
			m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if err := session.FromContext(r.Context()).Set(r.Context(), "value", "some value"); err != nil {
					b.Error(err)
				}
			})).ServeHTTP(set, httptest.NewRequest(http.MethodGet, "http://example.com/", nil))
			serveInLoop(b, m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				var v string
				if ok, err := session.FromContext(r.Context()).Get(r.Context(), "value", &v); !ok || err != nil {
					b.Error(ok, err)
				}
			})), set.Result().Cookies()[0])
		})
	}
}

// BenchmarkRateLimit decides about one request.
func BenchmarkRateLimit(b *testing.B) {
	rdb := redistest.Standalone(b).Client(b)
	for name, store := range map[string]ratelimit.Store{
		"herdless in process": ratelimit.NewMemoryStore(),
		"herdless on Redis":   redislimit.New(rdb, &redislimit.Options{Prefix: redistest.Prefix(b)}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			limit := ratelimit.PerSecond(1_000_000)
			for b.Loop() {
				if _, err := store.Take(context.Background(), ratelimit.Request{Checks: []ratelimit.Check{{Key: "key", Limit: limit}}, N: 1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLock takes and releases a lease that nobody else wants.
func BenchmarkLock(b *testing.B) {
	rdb := redistest.Standalone(b).Client(b)
	for name, store := range map[string]lock.Store{
		"herdless in process": lock.NewMemoryStore(),
		"herdless on Redis":   redislock.New(rdb, &redislock.Options{Prefix: redistest.Prefix(b)}),
	} {
		b.Run(name, func(b *testing.B) {
			l, err := lock.New(store, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				lease, err := l.TryAcquire(context.Background(), "key", 10*time.Second)
				if err != nil {
					b.Fatal(err)
				}
				if err := lease.Release(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
