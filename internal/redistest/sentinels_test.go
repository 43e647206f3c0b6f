package redistest_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/redistest"
)

func TestSentinelsShared(t *testing.T) {
	t.Parallel()
	s := redistest.SharedSentinels(t)
	require.Same(t, s, redistest.SharedSentinels(t))
	require.Equal(t, "herdless", s.MasterName())
	require.Len(t, s.Addrs(), 3)
	a := s.Addrs()
	require.Equal(t, "redis+sentinel://"+a[0]+","+a[1]+","+a[2]+"/herdless/0", s.URL())

	// What one writes through the sentinels, all servers have.
	ctx, key := soon(t), redistest.Prefix(t)+"k"
	require.NoError(t, s.Client(t).Set(ctx, key, "v", time.Minute).Err())
	require.Equal(t, "v", s.Primary(t).Client(t).Get(ctx, key).Val())
	require.Len(t, s.Replicas(t), 2)
	for _, replica := range s.Replicas(t) {
		require.NotEqual(t, s.Primary(t), replica)
		rdb := replica.Client(t)
		eventually(t, "the replica has the value", func() bool { return rdb.Get(ctx, key).Val() == "v" })
		require.ErrorContains(t, rdb.Set(ctx, key, "w", 0).Err(), "READONLY")
	}
	for _, addr := range s.Addrs() {
		sentinel := redis.NewSentinelClient(&redis.Options{Addr: addr})
		defer sentinel.Close()
		require.NoError(t, sentinel.CkQuorum(ctx, s.MasterName()).Err())
	}
}

// Twice, so that it shows that a failover leaves the deployment fit for the
// next one.
func TestSentinelsFailOver(t *testing.T) {
	t.Parallel()
	s := redistest.NewSentinels(t)
	rdb, ctx := s.Client(t), soon(t)
	for range 2 {
		old := s.Primary(t)
		require.NoError(t, rdb.Set(ctx, "k", old.Addr(), 0).Err())
		require.NoError(t, rdb.Wait(ctx, 2, 10*time.Second).Err())
		s.FailOver(t)
		require.NotEqual(t, old.Addr(), s.Primary(t).Addr())
		require.Contains(t, s.Replicas(t), old)
		direct := s.Primary(t).Client(t)
		require.Equal(t, old.Addr(), direct.Get(ctx, "k").Val(), "the failover lost replicated data")
		require.NoError(t, direct.Set(ctx, "k", "new", 0).Err(), "the new primary refuses writes")
		eventually(t, "the client follows", func() bool { return rdb.Set(ctx, "k", "newer", 0).Err() == nil })
	}
}

// Without FailOver: the sentinels themselves notice that a primary is dead.
func TestSentinelsNoticeADeadPrimary(t *testing.T) {
	t.Parallel()
	s := redistest.NewSentinels(t)
	old := s.Primary(t)
	old.Kill(t)
	eventually(t, "there is another primary", func() bool { return s.Primary(t) != old })
	rdb := s.Primary(t).Client(t)
	eventually(t, "it accepts writes", func() bool { return rdb.Set(t.Context(), "k", "v", 0).Err() == nil })
	old.Restart(t)
	stale := old.Client(t)
	eventually(t, "the old one becomes its replica", func() bool { return stale.Get(t.Context(), "k").Val() == "v" })
	s.FailOver(t)
}

func TestSentinelsFailOverWithAServerDown(t *testing.T) {
	t.Parallel()
	s := redistest.NewSentinels(t)
	s.Replicas(t)[0].Kill(t)
	old := s.Primary(t)
	s.FailOver(t)
	require.NotEqual(t, old, s.Primary(t))
}

func TestNewSentinelsEndsWithTheTest(t *testing.T) {
	t.Parallel()
	var pids []int
	t.Run("test", func(t *testing.T) {
		s := redistest.NewSentinels(t)
		pids = append(pids, s.Primary(t).PID())
		for _, replica := range s.Replicas(t) {
			pids = append(pids, replica.PID())
		}
		for _, addr := range s.Addrs() {
			pids = append(pids, pidAt(t, addr))
		}
	})
	require.Len(t, pids, 6)
	for _, pid := range pids {
		require.True(t, redistest.Gone(pid), "process %d outlived its test", pid)
	}
}

// pidAt asks the server at an address for its process id.
func pidAt(t *testing.T, addr string) int {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: addr, Protocol: 2})
	defer rdb.Close()
	return infoInt(t, rdb.Info(context.Background(), "server").Val(), "process_id")
}
