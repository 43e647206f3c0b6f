package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	gincache "github.com/chenyahui/gin-cache"
	"github.com/chenyahui/gin-cache/persist"
	"github.com/gin-gonic/gin"
	redisv8 "github.com/go-redis/redis/v8"
	"github.com/gofiber/fiber/v3"
	fibercache "github.com/gofiber/fiber/v3/middleware/cache"
	fiberredis "github.com/gofiber/storage/redis/v3"
	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/herdless/herdless/responsecache"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

const (
	pageTTL   = time.Hour
	pagePath  = "/page" // and a number
	largePath = "/large"
	small     = 4 << 10
	large     = 512 << 10
)

// pages is the handler behind every cache here, and counts how often it runs.
type pages struct {
	body []byte
	// large is the body of the page largePath.
	large []byte
	runs  atomic.Int64
	// work is what it does first.
	work func()
}

func newPages(length int) *pages {
	// Not compressible to nothing, and not the same throughout.
	b := make([]byte, 0, length+16)
	for i := uint64(1); len(b) < length; i++ {
		b = strconv.AppendUint(b, i*0x9E3779B97F4A7C15, 36)
	}
	return &pages{body: b[:length], work: func() {}}
}

// at runs and returns the page at a path.
func (p *pages) at(path string) []byte {
	p.work()
	p.runs.Add(1)
	if path == largePath {
		return p.large
	}
	return p.body
}

func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := p.at(r.URL.Path)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}

func (p *pages) gin(c *gin.Context) {
	c.Data(http.StatusOK, "text/plain; charset=utf-8", p.at(c.Request.URL.Path))
}

func (p *pages) fiber(c fiber.Ctx) error {
	body := p.at(c.Path())
	c.Set(fiber.HeaderContentType, "text/plain; charset=utf-8")
	return c.Send(body)
}

// policy is how long pages last, which only herdless can tell apart.
type policy struct{ ttl, stale time.Duration }

// pageLibrary is a site that caches pages.
type pageLibrary struct {
	name  string
	kind  report.Kind
	local bool
	open  func(addr string, p *pages, keep policy) (site, func(), error)
}

func herdlessPages(store cache.Store, locker cache.Locker, p *pages, keep policy) (site, error) {
	// A store may take 50 ms by default, which a full machine misses.
	c, err := responsecache.New(store, &responsecache.Options{Locker: locker, MaxBody: 64 << 20, StoreTimeout: time.Second})
	if err != nil {
		return nil, err
	}
	return httpSite{c.With(responsecache.Policy{TTL: keep.ttl, StaleWhileRevalidate: keep.stale}).Handler(p)}, nil
}

func herdlessInProcess(_ string, p *pages, keep policy) (site, func(), error) {
	s, err := herdlessPages(cache.NewMemoryStore(nil), nil, p, keep)
	return s, func() {}, err
}

// herdlessOnRedis has an in-process tier of so many bytes, 0 for the default and
// -1 for none.
func herdlessOnRedis(tier int64) func(addr string, p *pages, keep policy) (site, func(), error) {
	return func(addr string, p *pages, keep policy) (site, func(), error) {
		rdb, err := openRedis(addr)
		if err != nil {
			return nil, nil, err
		}
		locker, err := lock.New(redislock.New(rdb, nil), nil)
		if err != nil {
			return nil, nil, err
		}
		// The tier and no tier have the same keys, so they need two prefixes.
		o := &rediscache.Options{TierBytes: tier, CompressAbove: -1, Prefix: fmt.Sprintf("herdless%d:", tier)}
		s, err := herdlessPages(rediscache.New(rdb, o), locker, p, keep)
		return s, func() { _ = rdb.Close() }, err
	}
}

func ginPages(store persist.CacheStore, p *pages, keep policy) site {
	e := gin.New()
	e.GET("/*page", gincache.CacheByRequestURI(store, keep.ttl), p.gin)
	return httpSite{e}
}

func ginInProcess(_ string, p *pages, keep policy) (site, func(), error) {
	return ginPages(persist.NewMemoryStore(time.Minute), p, keep), func() {}, nil
}

func ginOnRedis(addr string, p *pages, keep policy) (site, func(), error) {
	rdb := redisv8.NewClient(&redisv8.Options{Addr: addr})
	return ginPages(persist.NewRedisStore(rdb), p, keep), func() { _ = rdb.Close() }, nil
}

func fiberPages(storage fiber.Storage, p *pages, keep policy) site {
	app := fiber.New()
	app.Use(fibercache.New(fibercache.Config{Expiration: keep.ttl, Storage: storage, MaxBytes: 1 << 30}))
	app.Get("/*", p.fiber)
	return fastSite{app.Handler()}
}

func fiberInProcess(_ string, p *pages, keep policy) (site, func(), error) {
	return fiberPages(nil, p, keep), func() {}, nil
}

func fiberOnRedis(addr string, p *pages, keep policy) (site, func(), error) {
	rdb := newClient(addr)
	return fiberPages(fiberredis.NewFromConnection(rdb), p, keep), func() { _ = rdb.Close() }, nil
}

var (
	localPageLibraries = []pageLibrary{
		{"herdless in process", report.Ours, true, herdlessInProcess},
		{"herdless in process over Redis", report.Ours, true, herdlessOnRedis(0)},
		{"gin-cache in process", report.Peer, true, ginInProcess},
		{"gofiber cache in process", report.Peer, true, fiberInProcess},
	}
	redisPageLibraries = []pageLibrary{
		{"herdless", report.Ours, false, herdlessOnRedis(-1)},
		{"gin-cache", report.Peer, false, ginOnRedis},
		{"gofiber cache", report.Peer, false, fiberOnRedis},
	}
)

// pageEntrants ask for one page of so many bytes.
func pageEntrants(libraries []pageLibrary, length int) []entrant {
	var out []entrant
	for _, lib := range libraries {
		out = append(out, entrant{name: lib.name, kind: lib.kind, local: lib.local, open: func(addr string) (*opened, error) {
			p := newPages(length)
			web, closeSite, err := lib.open(addr, p, policy{ttl: pageTTL})
			if err != nil {
				return nil, err
			}
			return openPages(web, p, closeSite, ownPage)
		}})
	}
	return out
}

// ownPage is a page for each worker, as those who ask for the same one at the
// same time may be answered together.
func ownPage(worker int) string { return pagePath + strconv.Itoa(worker) }

// openPages has each worker ask for a page. It fills the cache, and watches from
// then on that it is asked.
func openPages(web site, p *pages, closeSite func(), path func(worker int) string) (*opened, error) {
	var filled atomic.Int64
	return &opened{
		worker: func(i int) (op, error) {
			path, body := path(i), p.body
			if path == largePath {
				body = p.large
			}
			before := p.runs.Load()
			for range 2 { // made, or there from another turn; and from the cache
				a, err := must200(web, path, nil)
				if err != nil {
					return nil, err
				}
				if !bytes.Equal(a.body, body) {
					return nil, fmt.Errorf("the page has %d bytes that are not the handler's %d", len(a.body), len(body))
				}
			}
			if n := p.runs.Load() - before; n > 1 {
				return nil, fmt.Errorf("the handler ran %d times for one page", n)
			}
			filled.Store(p.runs.Load())
			return web.requests(path, nil, len(body)), nil
		},
		check: func() error {
			if n := p.runs.Load() - filled.Load(); n != 0 {
				return fmt.Errorf("the handler ran %d times for what was cached", n)
			}
			return nil
		},
		close: closeSite,
	}, nil
}

// handlerEntrants are the handler without a cache, and one that has its header
// and its body ready.
func handlerEntrants() []entrant {
	p := newPages(small)
	header := []string{"text/plain; charset=utf-8"}
	length := []string{strconv.Itoa(small)}
	prebuilt := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["Content-Type"], h["Content-Length"] = header, length
		_, _ = w.Write(p.body)
	})
	out := make([]entrant, 0, 2)
	for name, h := range map[string]http.Handler{"plain handler": p, "prebuilt header and body": prebuilt} {
		out = append(out, entrant{name: name, kind: report.Floor, local: true, open: func(string) (*opened, error) {
			return &opened{worker: func(int) (op, error) { return httpSite{h}.requests(pagePath, nil, small), nil }, close: func() {}}, nil
		}})
	}
	slices.SortFunc(out, func(a, b entrant) int { return len(a.name) - len(b.name) })
	return out
}

// rawPages reads a page's bytes with the clients there are.
func rawPages(body func(worker int) []byte) []entrant {
	key := func(worker int) string { return "floor:page:" + strconv.Itoa(worker) }
	check := func(worker, n int, err error) error {
		if want := len(body(worker)); err == nil && n != want {
			err = fmt.Errorf("%d bytes, not %d", n, want)
		}
		return err
	}
	out := raw("raw GET",
		func(ctx context.Context, rdb *redis.Client) error {
			for i := range connections {
				if err := rdb.Set(ctx, key(i), body(i), time.Hour).Err(); err != nil {
					return err
				}
			}
			return nil
		},
		func(ctx context.Context, rdb redis.Cmdable, worker int) error {
			v, err := rdb.Get(ctx, key(worker)).Bytes()
			return check(worker, len(v), err)
		})
	return append(out, entrant{name: "raw GET, rueidis", kind: report.Floor, open: func(addr string) (*opened, error) {
		client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true})
		if err != nil {
			return nil, err
		}
		ctx := context.Background()
		return &opened{
			worker: func(i int) (op, error) {
				set := client.B().Set().Key(key(i)).Value(rueidis.BinaryString(body(i))).Ex(time.Hour).Build()
				if err := client.Do(ctx, set).Error(); err != nil {
					return nil, err
				}
				return func() error {
					v, err := client.Do(ctx, client.B().Get().Key(key(i)).Build()).AsBytes()
					return check(i, len(v), err)
				}, nil
			},
			close: client.Close,
		}, nil
	}})
}

// always is the same body for every worker.
func always(length int) func(int) []byte {
	body := newPages(length).body
	return func(int) []byte { return body }
}

// hot has all goroutines do what the first one does. Some answer many with one
// command.
func hot(entrants []entrant) []entrant {
	out := slices.Clone(entrants)
	for i, e := range entrants {
		out[i].free = true
		out[i].open = func(addr string) (*opened, error) {
			o, err := e.open(addr)
			if err != nil {
				return nil, err
			}
			own := o.worker
			o.worker = func(int) (op, error) { return own(0) }
			return o, nil
		}
	}
	return out
}

func pageScenarios() []scenario {
	return []scenario{
		{
			id: "page-memory", title: "Response cache: a page of 4 KiB in the process", headline: "ops", loads: goroutines(1, 16, 128),
			text:     "A hit for a page that is in the process's memory, through the whole handler; a page for each goroutine. \"Over Redis\" is the in-process tier of the shared cache.",
			entrants: slices.Concat(pageEntrants(localPageLibraries, small), handlerEntrants()),
		},
		{
			id: "page-redis", title: "Response cache: a page of 4 KiB from Redis", headline: "ops", loads: goroutines(1, 16, 128),
			text:     "A hit that is read from Redis each time, a page for each goroutine; herdless's in-process tier is off, and so is compression.",
			entrants: slices.Concat(pageEntrants(redisPageLibraries, small), rawPages(always(small))),
		},
		{
			id: "page-redis-hot", title: "Response cache: one page of 4 KiB from Redis for all", headline: "ops", loads: goroutines(16, 128),
			text:     "As before, but all goroutines ask for the same page. herdless reads it once for those who ask at the same time.",
			entrants: hot(slices.Concat(pageEntrants(redisPageLibraries, small), rawPages(always(small)))),
		},
		{
			id: "page-redis-512k", title: "Response cache: a page of 512 KiB from Redis", headline: "ops", loads: goroutines(1, 16, 128),
			text:     "As before, with a large page.",
			entrants: slices.Concat(pageEntrants(redisPageLibraries, large), rawPages(always(large))),
		},
	}
}
