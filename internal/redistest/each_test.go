package redistest_test

import (
	"path"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/redistest"
)

func TestEach(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ran := make(map[string]string)
	t.Run("all", func(t *testing.T) {
		redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
			t.Parallel()
			ctx, key := soon(t), redistest.Prefix(t)+"k"
			require.NoError(t, rdb.Set(ctx, key, "v", time.Minute).Err())
			require.Equal(t, "v", rdb.Get(ctx, key).Val())
			mu.Lock()
			defer mu.Unlock()
			ran[path.Base(t.Name())] = kind(rdb)
		})
	})
	require.Equal(t, map[string]string{"standalone": "client", "sentinel": "client", "cluster": "cluster"}, ran)
}

func kind(rdb redis.UniversalClient) string {
	if _, ok := rdb.(*redis.ClusterClient); ok {
		return "cluster"
	}
	return "client"
}

func TestPrefix(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 1000 {
		p := redistest.Prefix(t)
		require.Regexp(t, `^t[0-9a-f]{10}:$`, p)
		require.False(t, seen[p], "prefix %s came twice", p)
		seen[p] = true
	}
}
