package session_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGoroutinesShareASession(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		s.handle("/together", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
			ctx := r.Context()
			var running sync.WaitGroup
			for g := range 8 {
				running.Go(func() {
					for i := range 20 {
						name := fmt.Sprintf("value-%d", g)
						assert.NoError(t, sess.Set(ctx, name, fmt.Sprint(i)))
						assert.NoError(t, sess.Set(ctx, "shared", "same"))
						var v string
						found, err := sess.Get(ctx, name, &v)
						assert.True(t, found && err == nil && v == fmt.Sprint(i), "%v %v %q", found, err, v)
						assert.NoError(t, sess.Delete(ctx, "none"))
						assert.NoError(t, sess.Login(ctx, "alice"))
						_, err = sess.User(ctx)
						assert.NoError(t, err)
					}
				})
			}
			running.Wait()
			return nil
		})
		b := s.browser()
		b.ok("/set?name=first&value=here")
		s.spy.calls()
		b.ok("/together")
		assert.Equal(t, [3]int64{1, 1, 1}, s.spy.calls(), "loads, commits, deletes")
		for g := range 8 {
			require.Equal(t, "19", b.ok("/get?name=value-%d", g))
		}
		assert.Equal(t, "alice", b.ok("/user"))
	})
}

func TestManyRequestsAtOnceLoseNothing(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		b := s.browser()
		b.ok("/login?user=alice")
		var running sync.WaitGroup
		for i := range 30 {
			running.Go(func() {
				res, err := b.Get(fmt.Sprintf("%s/set?name=v%d&value=%d", s.URL, i, i))
				if assert.NoError(t, err) {
					res.Body.Close()
					assert.Equal(t, http.StatusOK, res.StatusCode)
				}
			})
		}
		running.Wait()
		for i := range 30 {
			require.Equal(t, fmt.Sprint(i), b.ok("/get?name=v%d", i))
		}
	})
}
