package redisstore_test

import (
	"testing"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/herdless/herdless/session/sessiontest"
	"github.com/redis/go-redis/v9"
)

func TestStore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		sessiontest.Run(t, func(t *testing.T) session.Store {
			return redisstore.New(rdb, &redisstore.Options{Prefix: redistest.Prefix(t)})
		})
	})
}
