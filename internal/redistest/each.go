package redistest

import (
	"testing"

	"github.com/redis/go-redis/v9"
)

// Each runs fn as a subtest on each of the shared deployments, with a client
// of its own that is closed with the subtest: "standalone", "sentinel" and
// "cluster". A deployment whose subtest is not selected is not started. fn may
// call t.Parallel.
func Each(t *testing.T, fn func(t *testing.T, rdb redis.UniversalClient)) {
	t.Helper()
	t.Run("standalone", func(t *testing.T) { fn(t, Standalone(t).Client(t)) })
	t.Run("sentinel", func(t *testing.T) { fn(t, SharedSentinels(t).Client(t)) })
	t.Run("cluster", func(t *testing.T) { fn(t, SharedCluster(t).Client(t)) })
}
