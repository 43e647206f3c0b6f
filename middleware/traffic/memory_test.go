package traffic_test

import (
	"testing"

	"github.com/herdless/herdless/middleware/traffic"
	"github.com/herdless/herdless/middleware/traffic/traffictest"
)

func TestMemoryStore(t *testing.T) {
	traffictest.Run(t, func(*testing.T) traffic.Store { return traffic.NewMemoryStore() })
}
