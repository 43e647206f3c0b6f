package session_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/sessiontest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMemoryStore(t *testing.T) {
	sessiontest.Run(t, func(*testing.T) session.Store { return session.NewMemoryStore() })
}

func TestMemoryStoreIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore()
		create := func(i int) error {
			_, err := store.Commit(t.Context(), session.Delta{
				ID: string(rune(i)), Create: true, IdleTimeout: time.Second, AbsoluteTimeout: time.Hour,
			})
			return err
		}
		const surrogates = 0x10000 // from here on every rune is a different id
		for i := range 100_000 {
			require.NoError(t, create(surrogates+i))
		}
		assert.ErrorContains(t, create(1), "full with 100000 sessions")
		assert.NoError(t, create(surrogates), "a commit to a session that is there")
		time.Sleep(time.Second)
		assert.NoError(t, create(1), "sessions that have ended must make room")
	})
}

// Who is logged in is so also while there is no room for others.
func TestAFullMemoryStoreIsNotAway(t *testing.T) {
	store := session.NewMemoryStore()
	s := newSite(t, store, nil)
	b := s.browser()
	b.ok("/login?user=alice")
	for i := range 100_000 - 1 {
		_, err := store.Commit(t.Context(), session.Delta{
			ID: fmt.Sprint("fill-", i), Digest: session.Digest{1}, Create: true, IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour,
		})
		require.NoError(t, err)
	}
	for range 5 {
		assert.Equal(t, 503, s.browser().get("/set?name=a&value=b").StatusCode)
	}
	assert.Equal(t, "alice", b.ok("/user"))
}
