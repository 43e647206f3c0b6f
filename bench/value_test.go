package bench

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/redis/go-redis/v9"
	"github.com/viccon/sturdyc"
)

// article is cached as about 1 kB of JSON.
type article struct{ Title, Text string }

var theArticle = article{Title: "title", Text: strings.Repeat("text ", 200)}

var errNotIt = errors.New("the value is not what was loaded")

// articles is a source that must be asked once for each worker's key.
type articles struct{ loads atomic.Int64 }

func (a *articles) load() (article, error) {
	a.loads.Add(1)
	return theArticle, nil
}

// openArticles has a key for each worker.
func openArticles(closeIt func(), get func(ctx context.Context, key string, a *articles) (article, error)) *opened {
	a := new(articles)
	var filled atomic.Int64
	ctx := context.Background()
	return &opened{
		worker: func(i int) (op, error) {
			key := strconv.Itoa(i)
			do := func() error {
				v, err := get(ctx, key, a)
				if err == nil && v.Text != theArticle.Text {
					err = errNotIt
				}
				return err
			}
			err := do()
			filled.Store(a.loads.Load())
			return do, err
		},
		check: func() error {
			if a.loads.Load() != filled.Load() {
				return errors.New("what was cached was loaded again")
			}
			return nil
		},
		close: closeIt,
	}
}

func herdlessArticles(store cache.Store, closeIt func()) (*opened, error) {
	engine, err := cache.New(store, &cache.Options{StoreTimeout: time.Second}) // by default 50 ms, which a full machine misses
	if err != nil {
		return nil, err
	}
	space, err := cache.For[article](engine, "article", cache.Policy{TTL: time.Hour})
	if err != nil {
		return nil, err
	}
	return openArticles(closeIt, func(ctx context.Context, key string, a *articles) (article, error) {
		return space.Get(ctx, key, func(context.Context, string) (article, error) { return a.load() })
	}), nil
}

func herdlessArticlesOnRedis(tier int64) func(string) (*opened, error) {
	return func(addr string) (*opened, error) {
		rdb, err := openRedis(addr)
		if err != nil {
			return nil, err
		}
		o := &rediscache.Options{TierBytes: tier, CompressAbove: -1, Prefix: "articles" + strconv.FormatInt(tier, 10) + ":"}
		return herdlessArticles(rediscache.New(rdb, o), func() { _ = rdb.Close() })
	}
}

func valueScenarios() []scenario {
	inProcess := []entrant{
		{name: "herdless in process over Redis", kind: report.Ours, local: true, open: herdlessArticlesOnRedis(0)},
		{name: "herdless in process", kind: report.Ours, local: true, open: func(string) (*opened, error) {
			return herdlessArticles(cache.NewMemoryStore(nil), func() {})
		}},
		{name: "sturdyc", kind: report.Peer, local: true, open: func(string) (*opened, error) {
			c := sturdyc.New[article](10_000, 10, time.Hour, 10)
			return openArticles(func() {}, func(ctx context.Context, key string, a *articles) (article, error) {
				return c.GetOrFetch(ctx, key, func(context.Context) (article, error) { return a.load() })
			}), nil
		}},
		{name: "sync.Map", kind: report.Floor, local: true, open: func(string) (*opened, error) {
			var m sync.Map
			return openArticles(func() {}, func(_ context.Context, key string, a *articles) (article, error) {
				if v, ok := m.Load(key); ok {
					return v.(article), nil
				}
				v, err := a.load()
				m.Store(key, v)
				return v, err
			}), nil
		}},
	}
	fromRedis := append([]entrant{
		{name: "herdless", kind: report.Ours, open: herdlessArticlesOnRedis(-1)},
	}, rawArticles()...)
	return []scenario{{
		id: "value-memory", title: "Cache-aside: a typed value in the process", headline: "ops", loads: goroutines(1, 128),
		text:     "A struct that is 1 kB of JSON, read through the typed API of each; a key for each goroutine.",
		entrants: inProcess,
	}, {
		id: "value-redis", title: "Cache-aside: a typed value from Redis", headline: "ops", loads: goroutines(1, 128),
		text:     "The same from Redis, JSON decoded each time. sturdyc does not read from Redis what is in its memory, so it has no part.",
		entrants: fromRedis,
	}}
}

// rawArticles read and decode one.
func rawArticles() []entrant {
	key := func(worker int) string { return "floor:article:" + strconv.Itoa(worker) }
	return raw("raw GET and JSON", func(ctx context.Context, rdb *redis.Client) error {
		data, err := json.Marshal(theArticle)
		for i := 0; i < connections && err == nil; i++ {
			err = rdb.Set(ctx, key(i), data, time.Hour).Err()
		}
		return err
	}, func(ctx context.Context, rdb redis.Cmdable, worker int) error {
		data, err := rdb.Get(ctx, key(worker)).Bytes()
		if err != nil {
			return err
		}
		var v article
		if err = json.Unmarshal(data, &v); err == nil && v.Text != theArticle.Text {
			err = errNotIt
		}
		return err
	})
}
