package redisstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/herdless/herdless/session/sessiontest"
	"github.com/redis/go-redis/v9"
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
