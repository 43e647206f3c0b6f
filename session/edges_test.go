package session_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A library that takes the connection over most often sends a header of its own: a new token
// that nobody has asked for would never get to the client, and the old one would be taken for
// stolen soon.
func TestNoTokenIsRenewedAtAnUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, session.NewMemoryStore(), &session.Options{RenewEvery: time.Minute, IdleTimeout: time.Hour})
		s := m.Load(request(""))
		require.NoError(t, s.Set(t.Context(), "cart", "book"))
		cookie := commit(t, m, s).Value
		time.Sleep(2 * time.Minute)

		ask := func(status int) http.Header {
			w := httptest.NewRecorder()
			m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var v string
				_, err := session.FromContext(r.Context()).Get(r.Context(), "cart", &v)
				assert.NoError(t, err)
				assert.Equal(t, "book", v)
				w.WriteHeader(status)
			})).ServeHTTP(w, request(cookie))
			return w.Header()
		}
		assert.Empty(t, ask(http.StatusSwitchingProtocols)["Set-Cookie"])
		assert.Len(t, ask(http.StatusNoContent)["Set-Cookie"], 1, "it is due")
	})
}

// What Save has done stands, and the client needs the token for it, whatever comes after.
func TestTheTokenOfASaveGoesOutWithALaterError(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		bad := &moody{Store: store}
		s := newSite(t, bad, nil)
		var own atomic.Bool // the handler answers itself
		s.handle("/login-and-more", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
			assert.NoError(t, sess.Login(r.Context(), "alice"))
			assert.NoError(t, sess.Save(r.Context()))
			assert.NoError(t, sess.Set(r.Context(), "more", "x"))
			bad.before = func(string) bool { return true }
			if own.Load() {
				assert.Error(t, sess.Save(r.Context()))
				w.WriteHeader(http.StatusInternalServerError)
			}
			return nil
		})
		for _, status := range []int{http.StatusServiceUnavailable, http.StatusInternalServerError} {
			own.Store(status == http.StatusInternalServerError)
			b := s.browser()
			b.ok("/set?name=cart&value=book")
			assert.Equal(t, status, b.get("/login-and-more").StatusCode)
			bad.before = nil
			assert.Equal(t, "alice", b.ok("/user"), "the session from before has ended")
			assert.Equal(t, "book", b.ok("/get?name=cart"))
		}
	})
}

// The program's code that the session calls may panic, and a middleware inside may recover
// and answer.
func TestAPanicInsideLeavesTheSessionUsable(t *testing.T) {
	store := session.NewMemoryStore()
	old := newManager(t, store, nil)
	s := old.Load(request(""))
	require.NoError(t, s.Set(t.Context(), "n", 1))
	cookie := commit(t, old, s).Value
	for name, test := range map[string]struct {
		options *session.Options
		store   session.Store
		use     func(ctx context.Context, s *session.Session) error
	}{
		"migrate": {
			&session.Options{Schema: 1, Migrate: func(string, int, []byte) ([]byte, error) { panic("broken") }}, store,
			func(ctx context.Context, s *session.Session) error { _, err := s.Add(ctx, "n", 1); return err },
		},
		"load": {
			nil, &panicky{Store: store},
			func(ctx context.Context, s *session.Session) error { _, err := s.User(ctx); return err },
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, test.store, test.options)
			h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				sess := session.FromContext(r.Context())
				defer func() {
					assert.NotNil(t, recover())
					w.WriteHeader(http.StatusInternalServerError)
					_, _ = io.WriteString(w, "sorry")
				}()
				_ = test.use(r.Context(), sess)
			}))
			done := make(chan *httptest.ResponseRecorder)
			go func() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, request(cookie))
				done <- w
			}()
			select {
			case w := <-done:
				assert.Equal(t, http.StatusInternalServerError, w.Code)
				assert.Empty(t, w.Header()["Set-Cookie"])
			case <-time.After(10 * time.Second):
				t.Fatal("it hangs")
			}
			var n int
			_, err := old.Load(request(cookie)).Get(t.Context(), "n", &n)
			require.NoError(t, err)
			assert.Equal(t, 1, n)
		})
	}
}

// panicky is a store that panics when it is asked.
type panicky struct{ session.Store }

func (panicky) Load(context.Context, string, session.Digest) (session.Record, error) { panic("broken") }

// A long answer goes on long after it has read: what it sets then counts, also if it is what
// it has seen before.
func TestAValueThatIsSetLateIsNotTakenForTheOneBefore(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		m := newManager(t, store, nil)
		s := m.Load(request(""))
		require.NoError(t, s.Set(t.Context(), "theme", "light"))
		cookie := commit(t, m, s).Value
		other := func(change func(s *session.Session) error) {
			s := m.Load(request(cookie))
			require.NoError(t, change(s))
			commit(t, m, s)
		}
		theme := func() (v string) {
			_, err := m.Load(request(cookie)).Get(t.Context(), "theme", &v)
			require.NoError(t, err)
			return v
		}
		m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, ctx := session.FromContext(r.Context()), r.Context()
			var v string
			_, err := s.Get(ctx, "theme", &v)
			require.NoError(t, err)
			w.WriteHeader(http.StatusOK)
			other(func(s *session.Session) error { return s.Set(ctx, "theme", "dark") })
			require.NoError(t, s.Set(ctx, "theme", "light"))
			require.NoError(t, s.Save(ctx))
			assert.Equal(t, "light", theme())
			require.NoError(t, s.Delete(ctx, "theme"))
			require.NoError(t, s.Save(ctx))
			other(func(s *session.Session) error { return s.Set(ctx, "theme", "dark") })
			require.NoError(t, s.Delete(ctx, "theme"))
			require.NoError(t, s.Save(ctx))
			assert.Empty(t, theme())
		})).ServeHTTP(httptest.NewRecorder(), request(cookie))
	})
}
