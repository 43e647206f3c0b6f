package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-chi/httprate"
	"github.com/go-redis/redis_rate/v10"
	"github.com/herdless/herdless/bench/internal/report"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
	"github.com/redis/go-redis/v9"
)

// limiter decides about one request of a key.
type limiter func(ctx context.Context, key string) (allowed bool, err error)

// limitLibrary opens a limiter of so many requests an hour, all of them at once
// if a client wants to.
type limitLibrary struct {
	name  string
	kind  report.Kind
	local bool
	// localDenied says that a key that was denied costs no Redis.
	localDenied bool
	open        func(addr string, perHour int) (limiter, func(), error)
}

var limitLibraries = []limitLibrary{
	{"herdless", report.Ours, false, true, func(addr string, perHour int) (limiter, func(), error) {
		rdb, err := openRedis(addr)
		if err != nil {
			return nil, nil, err
		}
		l, err := ratelimit.New(redislimit.New(rdb, nil), ratelimit.PerHour(perHour), func(*http.Request) (string, error) { return "", nil }, &ratelimit.Options{Timeout: time.Second}) // by default 50 ms, which a full machine misses
		if err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context, key string) (bool, error) {
			d, err := l.Allow(ctx, key)
			return d.Allowed, err
		}, func() { _ = rdb.Close() }, nil
	}},
	{"go-redis/redis_rate", report.Peer, false, false, func(addr string, perHour int) (limiter, func(), error) {
		rdb := newClient(addr)
		l := redis_rate.NewLimiter(rdb)
		return func(ctx context.Context, key string) (bool, error) {
			r, err := l.Allow(ctx, key, redis_rate.PerHour(perHour))
			return err == nil && r.Allowed > 0, err
		}, func() { _ = rdb.Close() }, nil
	}},
	{"go-chi/httprate, of one process", report.Floor, true, true, func(_ string, perHour int) (limiter, func(), error) {
		l := httprate.NewRateLimiter(perHour, time.Hour)
		r := newRequest("/", nil)
		return func(_ context.Context, key string) (bool, error) {
			return !l.OnLimit(&sink{header: make(http.Header)}, r, key), nil
		}, func() {}, nil
	}},
}

var errDecision = errors.New("the decision is wrong")

// limitEntrants have a key for each worker. With deny all but the first request
// of a key are refused.
func limitEntrants(deny bool) []entrant {
	perHour, want := 1_000_000_000, true
	if deny {
		perHour, want = 1, false
	}
	var out []entrant
	for _, lib := range limitLibraries {
		out = append(out, entrant{name: lib.name, kind: lib.kind, local: lib.local, open: func(addr string) (*opened, error) {
			allow, closeLimiter, err := lib.open(addr, perHour)
			if err != nil {
				return nil, err
			}
			ctx := context.Background()
			return &opened{worker: func(i int) (op, error) {
				key := "key" + strconv.Itoa(i)
				// A key may have been used up by the entrant before, when it
				// was counted on the wire.
				if _, err := allow(ctx, key); err != nil {
					return nil, err
				}
				return func() error {
					allowed, err := allow(ctx, key)
					if err == nil && allowed != want {
						err = fmt.Errorf("%w: %s is allowed: %v", errDecision, key, allowed)
					}
					return err
				}, nil
			}, close: closeLimiter}, nil
		}})
	}
	return out
}

// rawScript is a decision without any arithmetic: one script that counts.
var rawScript = redis.NewScript(`
local n = redis.call('INCR', KEYS[1])
if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return n`)

func rawDecisions() []entrant {
	return raw("raw EVALSHA of INCR",
		func(ctx context.Context, rdb *redis.Client) error { return rawScript.Load(ctx, rdb).Err() },
		func(ctx context.Context, rdb redis.Cmdable, worker int) error {
			n, err := rdb.EvalSha(ctx, rawScript.Hash(), []string{"floor:limit:" + strconv.Itoa(worker)}, 3_600_000).Int64()
			if err == nil && n < 1 {
				err = errDecision
			}
			return err
		})
}

func limitScenarios() []scenario {
	loads := goroutines(1, 16, 128)
	return []scenario{
		{
			id: "limit-allowed", title: "Rate limit: an allowed request", headline: "ops", loads: loads,
			text: "A decision on a key that is far from its limit, a key for each goroutine, shared by all servers. " +
				"go-chi/httprate counts in one process and shares nothing; its store in Redis is not to be had here.",
			entrants: slices.Concat(limitEntrants(false), rawDecisions()),
		},
		{
			id: "limit-denied", title: "Rate limit: a denied request", headline: "ops", loads: loads,
			text:     "A decision on a key that has used its limit up.",
			entrants: deniedEntrants(),
		},
		{
			id: "limit-leased", title: "Rate limit: a hot key", headline: "ops", loads: loads,
			text: "A decision on one key that all goroutines share, and that is far from its limit. " +
				"With a batch, a process takes units ahead and decides by itself until they are used up.",
			entrants: hotEntrants(),
		},
	}
}

// hotEntrants decide about one key, with a batch and without.
func hotEntrants() []entrant {
	hot := func(name string, kind report.Kind, batch int) entrant {
		return entrant{name: name, kind: kind, free: batch > 0, open: func(addr string) (*opened, error) {
			rdb, err := openRedis(addr)
			if err != nil {
				return nil, err
			}
			l, err := ratelimit.NewPolicies(redislimit.New(rdb, nil), []ratelimit.Policy{{
				Name: "hot", Limits: []ratelimit.Limit{ratelimit.PerHour(1_000_000_000_000)}, Key: ratelimit.Everybody, Batch: batch,
			}}, &ratelimit.Options{Timeout: time.Second})
			if err != nil {
				return nil, err
			}
			return &opened{worker: func(int) (op, error) {
				return func() error {
					r, err := l.Allow(context.Background(), "hot")
					if err == nil && !r.Allowed {
						err = fmt.Errorf("%w: it is denied", errDecision)
					}
					return err
				}, nil
			}, close: func() { _ = rdb.Close() }}, nil
		}}
	}
	return []entrant{hot("herdless with a batch", report.Ours, 100_000), hot("herdless", report.Ours, 0)}
}

// deniedEntrants need no Redis, or may.
func deniedEntrants() []entrant {
	out := limitEntrants(true)
	for i := range out {
		out[i].free = limitLibraries[i].localDenied
	}
	return out
}
