package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/herdless/herdless/adapters/redisconn"
	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/middleware/traffic/redistraffic"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
)

// staleness is for how long at most a node can still show from its own memory
// what another has purged. In general it takes milliseconds.
const staleness = 250 * time.Millisecond

// redisLog takes what go-redis has to say by itself. The stores return the same
// faults as errors, which are told where they matter, so here they are details.
type redisLog struct{ *slog.Logger }

func (l redisLog) Printf(ctx context.Context, format string, v ...any) {
	l.DebugContext(ctx, fmt.Sprintf(format, v...))
}

// stores is what the nodes of a cluster share, and all that they share.
type stores struct {
	sessions session.Store
	pages    cache.Store
	locks    lock.Store
	limits   ratelimit.Store
	figures  traffic.Store

	ping  func(ctx context.Context) error
	close func() error
}

// inProcess returns stores in the memory of this process.
func inProcess() *stores {
	return &stores{
		sessions: session.NewMemoryStore(),
		pages:    cache.NewMemoryStore(nil),
		locks:    lock.NewMemoryStore(),
		limits:   ratelimit.NewMemoryStore(),
		figures:  traffic.NewMemoryStore(),
		ping:     func(context.Context) error { return nil },
		close:    func() error { return nil },
	}
}

// onRedis returns stores on Redis, over a client of their own.
func onRedis(ctx context.Context, url string) (*stores, error) {
	rdb, err := redisconn.Open(url)
	if err != nil {
		return nil, fmt.Errorf("-redis: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := redisconn.Check(ctx, rdb); err != nil {
		_ = rdb.Close()
		return nil, fmt.Errorf("-redis: %w", err)
	}
	return &stores{
		sessions: redisstore.New(rdb, nil),
		pages:    rediscache.New(rdb, &rediscache.Options{Staleness: staleness}),
		locks:    redislock.New(rdb, nil),
		limits:   redislimit.New(rdb, nil),
		figures:  redistraffic.New(rdb, nil),
		ping:     func(ctx context.Context) error { return rdb.Ping(ctx).Err() },
		close:    rdb.Close,
	}, nil
}
