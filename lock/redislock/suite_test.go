package redislock_test

import (
	"testing"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/locktest"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/redis/go-redis/v9"
)

func TestStore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		locktest.Run(t, func(t *testing.T) lock.Store {
			return redislock.New(rdb, &redislock.Options{Prefix: redistest.Prefix(t)})
		})
	})
}
