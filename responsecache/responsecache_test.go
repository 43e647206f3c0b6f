package responsecache_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/herdless/herdless/responsecache"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

// stores is what the servers of a cluster share.
type stores struct {
	cache cache.Store
	lock  lock.Store
}

func memoryStores(t testing.TB) stores {
	t.Helper()
	return stores{cache: cache.NewMemoryStore(nil), lock: lock.NewMemoryStore()}
}

func redisStores(t testing.TB, rdb redis.UniversalClient) stores {
	t.Helper()
	prefix := redistest.Prefix(t)
	return stores{
		cache: rediscache.New(rdb, &rediscache.Options{Prefix: prefix + "cache:"}),
		lock:  redislock.New(rdb, &redislock.Options{Prefix: prefix + "lock:"}),
	}
}

// eachStore runs test on the in-process stores and on every kind of Redis.
func eachStore(t *testing.T, test func(t *testing.T, s stores)) {
	t.Run("memory", func(t *testing.T) { test(t, memoryStores(t)) })
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) { test(t, redisStores(t, rdb)) })
}

// newCache returns the cache of one server.
func newCache(t testing.TB, s stores, o responsecache.Options) *responsecache.Cache {
	t.Helper()
	locker, err := lock.New(s.lock, nil)
	require.NoError(t, err)
	o.Locker = locker
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.StoreTimeout == 0 { // machines of tests are slow when they are busy
		o.StoreTimeout = 2 * time.Second
	}
	if o.LeaseTTL == 0 {
		o.LeaseTTL = 2 * time.Second
	}
	c, err := responsecache.New(s.cache, &o)
	require.NoError(t, err)
	return c
}

// server is one server behind the load balancer of example.com.
type server struct {
	*httptest.Server
	cache *responsecache.Cache
}

// serve starts a server whose whole site is handler, cached under p.
func serve(t testing.TB, s stores, p responsecache.Policy, handler http.HandlerFunc) *server {
	t.Helper()
	c := newCache(t, s, responsecache.Options{})
	ts := httptest.NewServer(c.With(p).Handler(handler))
	t.Cleanup(ts.Close)
	return &server{Server: ts, cache: c}
}

type response struct {
	status int
	header http.Header
	body   string
	err    error // of reading the body
}

// cacheStatus returns the Cache-Status without the digest of the key.
func (r response) cacheStatus() string {
	return keyParameter.ReplaceAllString(strings.Join(r.header.Values("Cache-Status"), ", "), "")
}

var keyParameter = regexp.MustCompile(`; key="[0-9a-f]+"`)

// get asks s for path; headers are names and values in turn.
func (s *server) get(t testing.TB, path string, headers ...string) response {
	t.Helper()
	return s.do(t, t.Context(), http.MethodGet, path, headers...)
}

func (s *server) do(t testing.TB, ctx context.Context, method, path string, headers ...string) response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, nil)
	require.NoError(t, err)
	req.Host = "example.com"
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return response{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return response{status: resp.StatusCode, header: resp.Header, body: string(body), err: err}
}

// counting returns a handler that answers with the number of its run.
func counting(set func(w http.ResponseWriter, r *http.Request)) http.HandlerFunc {
	runs := make(chan int, 1)
	runs <- 0
	return func(w http.ResponseWriter, r *http.Request) {
		n := <-runs + 1
		runs <- n
		if set != nil {
			set(w, r)
		}
		fmt.Fprintf(w, "run %d", n)
	}
}

// headers returns a handler part that sets names and values in turn.
func headers(pairs ...string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			w.Header().Add(pairs[i], pairs[i+1])
		}
	}
}
