package session_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
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

// Also where no step of the store is taken for them, because the value goes with what the
// request commits in the end.
func TestUpdatesOfOneRequest(t *testing.T) {
	before := map[string]func(ctx context.Context, s *session.Session) error{
		"a new session":         nil,
		"a session":             nil,
		"the value is set":      func(ctx context.Context, s *session.Session) error { return s.Set(ctx, "n", 0) },
		"another user logs in":  func(ctx context.Context, s *session.Session) error { return s.Login(ctx, "bob") },
		"it cannot be read":     func(ctx context.Context, s *session.Session) error { return s.Set(ctx, "n", "text") },
		"the value was removed": func(ctx context.Context, s *session.Session) error { return s.Delete(ctx, "n") },
	}
	for name, first := range before {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, session.NewMemoryStore(), nil)
			s.handle("/updates", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
				ctx := r.Context()
				if first != nil {
					assert.NoError(t, first(ctx, sess))
				}
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() {
						assert.NoError(t, sess.Update(ctx, "n", func(old session.Value) (any, error) {
							var n int
							old.Decode(&n)
							runtime.Gosched()
							return n + 1, nil
						}))
					})
				}
				wg.Wait()
				var n int
				_, err := sess.Get(ctx, "n", &n)
				fmt.Fprint(w, n)
				return err
			})
			b := s.browser()
			if name != "a new session" {
				b.ok("/login?user=alice")
			}
			assert.Equal(t, "20", b.ok("/updates"))
		})
	}
}
