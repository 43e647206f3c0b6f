package redisidempotency_test

import (
	"testing"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/idempotency"
	"github.com/herdless/herdless/middleware/idempotency/idempotencytest"
	"github.com/herdless/herdless/middleware/idempotency/redisidempotency"
	"github.com/redis/go-redis/v9"
)

func TestStore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		idempotencytest.Run(t, func(t *testing.T) idempotency.Store {
			return redisidempotency.New(rdb, &redisidempotency.Options{Prefix: redistest.Prefix(t)})
		})
	})
}
