package redisstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/herdless/herdless/session/sessiontest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb redis.UniversalClient) {
		sessiontest.Run(t, func(t *testing.T) session.Store {
			return redisstore.New(rdb, &redisstore.Options{Prefix: redistest.Prefix(t)})
		})
	})
}

// In the millisecond in which a session ends, all operations agree on whether it
// has: one that says "gone" is never followed by one that finds it.
func TestTheLastMillisecond(t *testing.T) {
	store := redisstore.New(redistest.Standalone(t).Client(t), &redisstore.Options{Prefix: redistest.Prefix(t)})
	for i := range 200 {
		id, digest := fmt.Sprint("session", i), session.Digest{byte(i), 1}
		_, err := store.Commit(t.Context(), session.Delta{
			ID: id, Digest: digest, Create: true, IdleTimeout: 3 * time.Millisecond, AbsoluteTimeout: time.Hour,
		})
		require.NoError(t, err)
		for {
			rec, err := store.Load(t.Context(), id, digest)
			require.NoError(t, err)
			if rec.State == session.Missing {
				break
			}
		}
		found, err := store.Delete(t.Context(), id)
		require.NoError(t, err)
		require.False(t, found, "round %d: Load said that it has ended, and Delete has found it", i)
	}
}

// A client that reads from replicas may send them whatever only reads, and a replica
// may lag: it does not have a new session yet. A script goes to the primary.
func TestWhatMayGoToAReplica(t *testing.T) {
	cluster := redistest.SharedCluster(t)
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), ReadOnly: true})
	t.Cleanup(func() { rdb.Close() })
	store := redisstore.New(rdb, &redisstore.Options{Prefix: redistest.Prefix(t)})
	create(t, store, "sess-1")
	sent := &recorder{}
	rdb.AddHook(sent)
	rec, err := store.Load(t.Context(), "sess-1", second)
	require.NoError(t, err)
	require.Equal(t, session.Current, rec.State)
	for range 2 { // the first time Redis does not know the script
		alive, err := store.Alive(t.Context(), []string{"sess-1", "sess-2"})
		require.NoError(t, err)
		require.Equal(t, []bool{true, false}, alive)
	}
	require.GreaterOrEqual(t, len(sent.names), 5)
	for _, name := range sent.names {
		require.Contains(t, []string{"eval", "evalsha"}, name)
	}
}

// recorder is a hook that notes the names of commands.
type recorder struct{ names []string }

func (r *recorder) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *recorder) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		r.names = append(r.names, cmd.Name())
		return next(ctx, cmd)
	}
}

func (r *recorder) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			r.names = append(r.names, cmd.Name())
		}
		return next(ctx, cmds)
	}
}

func TestNewNeedsAClient(t *testing.T) {
	for _, none := range []redisstore.Client{nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)} {
		assert.PanicsWithValue(t, "redisstore: New needs a client, such as that of redis.NewUniversalClient or redisconn.Open", func() {
			redisstore.New(none, nil)
		})
	}
}
