package sessiontest_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/herdless/herdless/session/sessiontest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

func TestRequest(t *testing.T) {
	stores := map[string]session.Store{
		"memory": session.NewMemoryStore(),
		"redis":  redisstore.New(redistest.Standalone(t).Client(t), &redisstore.Options{Prefix: redistest.Prefix(t)}),
	}
	cart := session.NewKey[[]string]("cart")
	for storeName, store := range stores {
		for name, o := range map[string]session.Options{
			"cookie": {}, "development": {DangerouslyAllowHTTP: true}, "header": {Header: "x-session"}, "bearer": {Header: "Authorization"},
		} {
			t.Run(storeName+"/"+name, func(t *testing.T) {
				m, err := session.New(store, &o)
				require.NoError(t, err)
				sees := func(r *http.Request) (user string, items []string) {
					m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						user, err = session.FromContext(r.Context()).User(r.Context())
						assert.NoError(t, err)
						items, err = cart.Get(r.Context())
						assert.NoError(t, err)
					})).ServeHTTP(httptest.NewRecorder(), r)
					return user, items
				}
				plain := httptest.NewRequest(http.MethodGet, "/", nil)
				plain.AddCookie(&http.Cookie{Name: "other", Value: "stays"})
				first := sessiontest.Request(t, m, plain, func(ctx context.Context, s *session.Session) error {
					return errors.Join(s.Login(ctx, "alice"), cart.Set(ctx, []string{"book"}))
				})
				second := sessiontest.Request(t, m, first, func(ctx context.Context, s *session.Session) error {
					return cart.Set(ctx, []string{"pen"})
				})
				third := sessiontest.Request(t, m, second, func(ctx context.Context, s *session.Session) error { return s.Renew(ctx) })
				for _, r := range []*http.Request{third, third} {
					user, items := sees(r)
					assert.Equal(t, "alice", user)
					assert.Equal(t, []string{"pen"}, items)
				}
				user, _ := sees(second)
				assert.Empty(t, user, "it has the token from before Renew")
				user, _ = sees(plain)
				assert.Empty(t, user, "the request that was given must not change")
				fourth := sessiontest.Request(t, m, third, func(ctx context.Context, s *session.Session) error { return s.Destroy(ctx) })
				assert.Equal(t, plain.Header, fourth.Header, "nothing of the session is left")
				for _, r := range []*http.Request{first, second, third, fourth} {
					c, err := r.Cookie("other")
					require.NoError(t, err)
					assert.Equal(t, "stays", c.Value)
				}
			})
		}
	}
}

// failing notes that a test failed.
type failing struct {
	testing.TB
	failed bool
}

func (f *failing) Helper()               {}
func (f *failing) Fatalf(string, ...any) { f.failed = true; runtime.Goexit() }

func TestRequestFailsTheTest(t *testing.T) {
	m, err := session.New(session.NewMemoryStore(), nil)
	require.NoError(t, err)
	for name, do := range map[string]func(ctx context.Context, s *session.Session) error{
		"do":        func(context.Context, *session.Session) error { return errors.New("no") },
		"no commit": func(ctx context.Context, s *session.Session) error { _ = s.Destroy(ctx); return s.Set(ctx, "a", 1) },
	} {
		f := &failing{TB: t}
		var ended sync.WaitGroup
		ended.Go(func() { sessiontest.Request(f, m, httptest.NewRequest(http.MethodGet, "/", nil), do) })
		ended.Wait()
		assert.True(t, f.failed, name)
	}
}

func TestClock(t *testing.T) {
	var clock sessiontest.Clock
	began := clock.Now()
	assert.Equal(t, began, clock.Now(), "it stands still")
	clock.Advance(time.Hour)
	clock.Advance(0)
	assert.Equal(t, time.Hour, clock.Now().Sub(began))
	assert.Panics(t, func() { clock.Advance(-1) })
}
