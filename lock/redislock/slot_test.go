package redislock_test

import (
	"net"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/lock"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// While a Cluster moves a slot, key by key, some of a lease's keys are on one master and
// some on the other. A lease that the steps do not see then is not lost, and nobody
// else gets it.
func TestALeaseWhoseSlotIsMoved(t *testing.T) {
	cluster := redistest.NewCluster(t)
	rdb := cluster.Client(t)
	prefix := redistest.Prefix(t)
	store := storeOn(rdb, prefix)
	key := prefix + "{n}"
	reader, permit := request("reader"), request("permit")
	reader.Shared = true
	permit.Shared, permit.Limit = true, 2
	acquireNow(t, store, reader)
	acquireNow(t, store, permit)

	from := cluster.MasterOf(t, key)
	to := cluster.Masters(t)[0]
	if to == from {
		to = cluster.Masters(t)[1]
	}
	do := func(s *redistest.Server, args ...any) *redis.Cmd {
		t.Helper()
		cmd := s.Client(t).Do(t.Context(), args...)
		require.NoError(t, cmd.Err())
		return cmd
	}
	slot := rdb.ClusterKeySlot(t.Context(), key).Val()
	toID := do(to, "CLUSTER", "MYID").Val()
	host, port, err := net.SplitHostPort(to.Addr())
	require.NoError(t, err)
	do(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", do(from, "CLUSTER", "MYID").Val())
	do(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
	for _, moved := range []string{key, key + ":shared"} {
		do(from, "MIGRATE", host, port, moved, 0, 5000)
		for _, held := range []lock.Request{reader, permit} {
			ok, err := store.Extend(t.Context(), held)
			assert.True(t, ok || err != nil, "%s is not lost", held.Owner)
		}
		grant, err := store.TryAcquire(t.Context(), request("writer"))
		require.False(t, grant.Acquired)
		require.Error(t, err, "it cannot be told")
		ok, err := store.Release(t.Context(), permit)
		require.True(t, ok || err != nil, "the release is not taken for a late one")
	}
	for _, s := range append([]*redistest.Server{to, from}, cluster.Masters(t)...) {
		do(s, "CLUSTER", "SETSLOT", slot, "NODE", toID)
	}
	for _, held := range []lock.Request{reader, permit} {
		releaseHeld(t, store, held)
	}
	acquireNow(t, store, lock.Request{Name: "n", Owner: "next", TTL: time.Minute})
}
