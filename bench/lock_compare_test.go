package bench

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/herdless/herdless/bench/internal/report"
	"github.com/redis/go-redis/v9"
)

// lockEntrants take and release a lock of each worker's own.
func lockEntrants() []entrant {
	var out []entrant
	for _, c := range contenders {
		kind := report.Peer
		if c.name == "herdless" {
			kind = report.Ours
		}
		out = append(out, entrant{name: c.name, kind: kind, open: func(addr string) (*opened, error) {
			rdb := newClient(addr)
			l, err := c.open(rdb, lockTTL)
			if err != nil {
				return nil, err
			}
			ctx := context.Background()
			return &opened{worker: func(i int) (op, error) {
				name := c.name + strconv.Itoa(i)
				return func() error {
					h, err := l.try(ctx, name)
					if err != nil {
						return err
					}
					return h.unlock(ctx)
				}, nil
			}, close: func() { _ = rdb.Close() }}, nil
		}})
	}
	return out
}

var rawUnlock = redis.NewScript(`if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`)

// rawLocks are the two commands of a lock without anything else.
func rawLocks() []entrant {
	return raw("raw SET NX and EVALSHA",
		func(ctx context.Context, rdb *redis.Client) error { return rawUnlock.Load(ctx, rdb).Err() },
		func(ctx context.Context, rdb redis.Cmdable, worker int) error {
			key := "floor:lock:" + strconv.Itoa(worker)
			if ok, err := rdb.SetNX(ctx, key, "me", 8*time.Second).Result(); err != nil || !ok {
				return errorOr(err, errGaveUp)
			}
			n, err := rdb.EvalSha(ctx, rawUnlock.Hash(), []string{key}, "me").Int64()
			if err == nil && n != 1 {
				err = errGaveUp
			}
			return err
		})
}

func errorOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func lockScenarios() []scenario {
	return []scenario{{
		id: "lock", title: "Lock: take and release a lock of one's own", headline: "ops", loads: goroutines(1, 16, 128),
		text: "A lock that nobody else wants, one for each goroutine. herdless's has a fencing token and a queue besides; " +
			"redsync's and bsm's are a key.",
		entrants: slices.Concat(lockEntrants(), rawLocks()),
	}, {
		id: "lock-handover", title: "Lock: hand-over under contention", headline: "p50",
		text: "50 goroutines in three processes take one lock in turn and hold it for a millisecond. p50 and p99 are from one holder's release to " +
			"the next one's having it; the longest wait is of a goroutine for its turn. No two may hold it at a time, or the run fails.",
		measure: handOverCases,
	}}
}
