package redistest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/internal/redistest"
)

func TestClusterShared(t *testing.T) {
	t.Parallel()
	c := redistest.SharedCluster(t)
	require.Same(t, c, redistest.SharedCluster(t))
	require.Len(t, c.Addrs(), 6)
	require.Equal(t, "redis+cluster://"+strings.Join(c.Addrs(), ","), c.URL())
	require.Len(t, c.Masters(t), 3)

	rdb, ctx, prefix := c.Client(t), soon(t), redistest.Prefix(t)
	used := make(map[string]int)
	for i := range 60 {
		key := fmt.Sprint(prefix, i)
		require.NoError(t, rdb.Set(ctx, key, i, time.Minute).Err())
		master := c.MasterOf(t, key)
		used[master.Addr()]++
		// Anybody else answers MOVED.
		require.Equal(t, i, must(master.Client(t).Get(ctx, key).Int()))
	}
	require.Len(t, used, 3, "keys did not spread over all masters: %v", used)
	require.Equal(t, c.MasterOf(t, prefix+"{a}1"), c.MasterOf(t, prefix+"{a}2"), "a hash tag did not hold")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// There and back, so that it shows that a failover leaves the cluster fit for
// the next one.
func TestClusterFailOver(t *testing.T) {
	t.Parallel()
	c := redistest.NewCluster(t)
	rdb, ctx := c.Client(t), soon(t)
	require.NoError(t, rdb.Set(ctx, "k", "v", 0).Err())
	first := c.MasterOf(t, "k")
	require.NoError(t, first.Client(t).Wait(ctx, 1, 10*time.Second).Err())

	c.FailOver(t, first)
	second := c.MasterOf(t, "k")
	require.NotEqual(t, first.Addr(), second.Addr())
	require.NotContains(t, c.Masters(t), first)
	require.Contains(t, c.Masters(t), second)
	require.Len(t, c.Masters(t), 3)
	require.Equal(t, "v", second.Client(t).Get(ctx, "k").Val(), "the failover lost replicated data")
	require.Equal(t, "v", rdb.Get(ctx, "k").Val(), "the client does not find the new master")
	require.NoError(t, rdb.Set(ctx, "k", "w", 0).Err())

	c.FailOver(t, second)
	require.Equal(t, first.Addr(), c.MasterOf(t, "k").Addr())
}

func TestClusterFailOverFromADeadMaster(t *testing.T) {
	t.Parallel()
	c := redistest.NewCluster(t)
	dead := c.MasterOf(t, "k")
	dead.Kill(t)
	c.FailOver(t, dead)
	require.NotEqual(t, dead, c.MasterOf(t, "k"))
	require.NoError(t, c.Client(t).Set(soon(t), "k", "v", 0).Err())
	// It keeps its place in the cluster.
	dead.Restart(t)
	c.FailOver(t, c.MasterOf(t, "k"))
	require.Equal(t, dead, c.MasterOf(t, "k"))
}

// Without FailOver: the cluster itself notices that a master hangs.
func TestClusterNoticesAHungMaster(t *testing.T) {
	t.Parallel()
	c := redistest.NewCluster(t)
	hung := c.MasterOf(t, "k")
	hung.Stop(t)
	require.Equal(t, hung, c.MasterOf(t, "k"), "a master that hangs is still the owner")
	eventually(t, "another owns the slot", func() bool { return c.MasterOf(t, "k") != hung })
	hung.Continue(t)
	eventually(t, "it is a replica", func() bool {
		return strings.Contains(hung.Client(t).Info(context.Background(), "replication").Val(), "role:slave")
	})
}

func TestNewClusterEndsWithTheTest(t *testing.T) {
	t.Parallel()
	var pids []int
	t.Run("test", func(t *testing.T) {
		for _, addr := range redistest.NewCluster(t).Addrs() {
			pids = append(pids, pidAt(t, addr))
		}
	})
	require.Len(t, pids, 6)
	for _, pid := range pids {
		require.True(t, redistest.Gone(pid), "process %d outlived its test", pid)
	}
}

func TestClusterNodesReply(t *testing.T) {
	t.Parallel()
	const nodes = "" +
		"07c3 127.0.0.1:30004@31004,hostname4 slave e7d1 0 1426238317239 4 connected\n" +
		"67ed 127.0.0.1:30002@31002 master - 0 1426238316232 2 connected 5461-10922 [93->-292f]\n" +
		"e7d1 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-5460 10924\n"
	for _, test := range []struct {
		name string
		slot int
		want string
	}{
		{"first", 0, "127.0.0.1:30001"},
		{"last of a range", 5460, "127.0.0.1:30001"},
		{"first of a range", 5461, "127.0.0.1:30002"},
		{"single", 10924, "127.0.0.1:30001"},
		{"unowned", 10923, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := redistest.SlotOwner(nodes, test.slot)
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
	for _, bad := range []string{"x", "a b c d e f x h", "a b c d e f 1 connected 1-x"} {
		_, err := redistest.SlotOwner(bad, 0)
		require.Error(t, err, "%q was taken", bad)
	}
}
