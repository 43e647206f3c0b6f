package redistraffic_test

import (
	"testing"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/middleware/traffic/redistraffic"
	"github.com/herdless/herdless/middleware/traffic/traffictest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
)

func TestStore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		traffictest.Run(t, func(t *testing.T) traffic.Store {
			return redistraffic.New(rdb, &redistraffic.Options{Prefix: redistest.Prefix(t), Site: "t"})
		})
	})
}

func TestNewNeedsAClient(t *testing.T) {
	for _, none := range []redistraffic.Client{nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)} {
		assert.PanicsWithValue(t, "redistraffic: New needs a client, such as that of redis.NewUniversalClient or redisconn.Open", func() {
			redistraffic.New(none, nil)
		})
	}
}
