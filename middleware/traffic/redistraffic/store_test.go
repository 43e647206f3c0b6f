package redistraffic_test

import (
	"testing"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/middleware/traffic/redistraffic"
	"github.com/herdless/herdless/middleware/traffic/traffictest"
	"github.com/redis/go-redis/v9"
)

func TestStore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		traffictest.Run(t, func(t *testing.T) traffic.Store {
			return redistraffic.New(rdb, &redistraffic.Options{Prefix: redistest.Prefix(t), Site: "t"})
		})
	})
}
