package redisidempotency_test

import (
	"testing"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/idempotency"
	"github.com/herdless/herdless/middleware/idempotency/idempotencytest"
	"github.com/herdless/herdless/middleware/idempotency/redisidempotency"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
)

func TestStore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		idempotencytest.Run(t, func(t *testing.T) idempotency.Store {
			return redisidempotency.New(rdb, &redisidempotency.Options{Prefix: redistest.Prefix(t)})
		})
	})
}

func TestNewNeedsAClient(t *testing.T) {
	for _, none := range []redisidempotency.Client{nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)} {
		assert.PanicsWithValue(t, "redisidempotency: New needs a client, such as that of redis.NewUniversalClient or redisconn.Open", func() {
			redisidempotency.New(none, nil)
		})
	}
}
