package redisstore_test

import (
	"net"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// moving is a slot of a Cluster on its way to another master.
type moving struct {
	t        *testing.T
	cluster  *redistest.Cluster
	from, to *redistest.Server
	slot     int64
}

// move begins to move the slot of key, and leaves every key where it is.
func move(t *testing.T, cluster *redistest.Cluster, key string) *moving {
	t.Helper()
	m := &moving{t: t, cluster: cluster, from: cluster.MasterOf(t, key), to: cluster.Masters(t)[0]}
	if m.to == m.from {
		m.to = cluster.Masters(t)[1]
	}
	m.slot = m.do(m.from, "CLUSTER", "KEYSLOT", key).Val().(int64)
	m.do(m.to, "CLUSTER", "SETSLOT", m.slot, "IMPORTING", m.do(m.from, "CLUSTER", "MYID").Val())
	m.do(m.from, "CLUSTER", "SETSLOT", m.slot, "MIGRATING", m.do(m.to, "CLUSTER", "MYID").Val())
	return m
}

func (m *moving) do(s *redistest.Server, args ...any) *redis.Cmd {
	m.t.Helper()
	cmd := s.Client(m.t).Do(m.t.Context(), args...)
	require.NoError(m.t, cmd.Err())
	return cmd
}

// take moves a key.
func (m *moving) take(key string) {
	m.t.Helper()
	host, port, err := net.SplitHostPort(m.to.Addr())
	require.NoError(m.t, err)
	require.Equal(m.t, "OK", m.do(m.from, "MIGRATE", host, port, key, 0, 5000).Val())
}

// finish makes it the other master's slot.
func (m *moving) finish() {
	m.t.Helper()
	toID := m.do(m.to, "CLUSTER", "MYID").Val()
	for _, s := range append([]*redistest.Server{m.to, m.from}, m.cluster.Masters(m.t)...) {
		m.do(s, "CLUSTER", "SETSLOT", m.slot, "NODE", toID)
	}
}

// begin begins sessions of an owner.
func begin(t *testing.T, store session.Store, owner string, ids ...string) {
	t.Helper()
	for _, id := range ids {
		res, err := store.Commit(t.Context(), session.Delta{
			ID: id, Digest: second, Create: true, Owner: owner, IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour,
		})
		require.NoError(t, err)
		require.Equal(t, session.Committed, res.Outcome)
	}
}

// While a Cluster moves a slot, and afterwards, a logout that waits for replicas goes to the
// server that has the session, and waits there.
func TestALogoutThatWaitsWhileItsSlotIsMoved(t *testing.T) {
	cluster := redistest.NewCluster(t)
	prefix := redistest.Prefix(t)
	others := redisstore.New(cluster.Client(t), &redisstore.Options{Prefix: prefix})
	waits := func(replicas int, timeout time.Duration) *redisstore.Store {
		rdb := cluster.Client(t)
		_, err := rdb.MasterForKey(t.Context(), "a") // it knows the Cluster as it is
		require.NoError(t, err)
		return redisstore.New(rdb, &redisstore.Options{Prefix: prefix, Wait: redisstore.Wait{Replicas: replicas, Timeout: timeout}})
	}
	ended := func(id string) {
		t.Helper()
		alive, err := others.Alive(t.Context(), []string{id})
		require.NoError(t, err)
		require.Equal(t, []bool{false}, alive)
	}
	begin(t, others, "sessowner", "sess-1", "sess-2", "sess-3", "sess-4")
	begin(t, others, "", "sess-a", "sess-b")
	one, two := waits(1, 10*time.Second), waits(2, 500*time.Millisecond) // each master has one
	slot := move(t, cluster, prefix+"{sess}-1")

	slot.take(prefix + "{sess}-1")
	slot.take(prefix + "{sess}-a")
	found, err := one.Delete(t.Context(), "sess-1")
	require.NoError(t, err, "of a session that has been moved")
	require.True(t, found)
	ended("sess-1")
	_, err = two.Delete(t.Context(), "sess-a")
	require.ErrorContains(t, err, "only 1 of 2 replicas", "it waits where it has ended")
	ended("sess-a")
	found, err = one.Delete(t.Context(), "sess-2")
	require.NoError(t, err, "of one that has not")
	require.True(t, found)

	for _, key := range []string{"-3", "-4", "-b", "user:owner"} {
		slot.take(prefix + "{sess}" + key)
	}
	ids, ok, err := one.Revoke(t.Context(), "sessowner", session.Selection{Only: "sess-3"})
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, []string{"sess-3"}, ids)

	stale, staler := waits(1, 10*time.Second), waits(2, 500*time.Millisecond)
	slot.finish()
	ids, ok, err = stale.Revoke(t.Context(), "sessowner", session.Selection{})
	require.NoError(t, err, "by a client that does not know of the move")
	require.True(t, ok)
	require.Equal(t, []string{"sess-4"}, ids)
	ended("sess-4")
	_, err = staler.Delete(t.Context(), "sess-b")
	require.ErrorContains(t, err, "only 1 of 2 replicas")
	ended("sess-b")
}

// While a Cluster moves a slot, the list of a user's sessions may be on another server than
// they are: then who ends them is told that it cannot be done, and none is forgotten.
func TestARevocationWhileItsSlotIsMoved(t *testing.T) {
	cluster := redistest.NewCluster(t)
	for _, first := range []string{"list", "session"} {
		t.Run(first, func(t *testing.T) {
			prefix := redistest.Prefix(t)
			store := redisstore.New(cluster.Client(t), &redisstore.Options{Prefix: prefix})
			begin(t, store, "sessowner", "sess-1")
			list, key := prefix+"{sess}user:owner", prefix+"{sess}-1"
			if first == "session" {
				list, key = key, list
			}
			slot := move(t, cluster, list)
			slot.take(list)
			_, _, err := store.Revoke(t.Context(), "sessowner", session.Selection{})
			require.Error(t, err)
			_, err = store.List(t.Context(), "sessowner")
			require.Error(t, err)
			d := session.Delta{
				ID: "sess-2", Digest: second, Create: true, Owner: "sessowner", MaxOwned: 1, EvictOldest: true,
				IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour,
			}
			if first == "list" {
				_, err = store.Commit(t.Context(), d)
				require.Error(t, err)
			}
			slot.take(key)
			slot.finish()
			ids, ok, err := store.Revoke(t.Context(), "sessowner", session.Selection{})
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, []string{"sess-1"}, ids)
		})
	}
}
