package session_test

import (
	"context"
	"log/slog"
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

// panicking is a store that fails, and panics where no request asks it.
type panicking struct {
	session.Store
	fails, panics atomic.Bool
	alive         atomic.Int64
}

func (s *panicking) Load(ctx context.Context, id string, d session.Digest) (session.Record, error) {
	if s.fails.Load() {
		return session.Record{}, errStore
	}
	return s.Store.Load(ctx, id, d)
}

func (s *panicking) LoadAll(ctx context.Context, id string, d session.Digest, again bool) (session.Record, error) {
	if s.fails.Load() {
		return session.Record{}, errStore
	}
	return s.Store.LoadAll(ctx, id, d, again)
}

func (s *panicking) Alive(ctx context.Context, ids []string) ([]bool, error) {
	s.alive.Add(1)
	if s.panics.Load() {
		panic("a mistake in the store")
	}
	if s.fails.Load() {
		return nil, errStore
	}
	return s.Store.Alive(ctx, ids)
}

func (s *panicking) Watch(ctx context.Context, id string, woken chan struct{}) (func(), error) {
	if s.panics.Load() {
		panic("a mistake in the store")
	}
	return s.Store.Watch(ctx, id, woken)
}

// What panics beside the requests does not end the process, as what panics in them does
// not: it is logged, and the next time is as if nothing had been.
func TestAPanicBesideTheRequests(t *testing.T) {
	for _, whose := range []string{"the store", "Observe"} {
		t.Run(whose, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var beside atomic.Bool // no request is under way
				var logs logBuffer
				store := &panicking{Store: session.NewMemoryStore()}
				m, err := session.New(store, &session.Options{
					Logger: slog.New(slog.NewTextHandler(&logs, nil)),
					Observe: func(context.Context, session.Event) {
						if whose == "Observe" && beside.Load() {
							panic("a mistake in Observe")
						}
					},
				})
				require.NoError(t, err)
				var open context.Context
				visit := func(handler http.HandlerFunc, cookies ...*http.Cookie) *httptest.ResponseRecorder {
					r := httptest.NewRequest(http.MethodGet, "https://example.com/", nil)
					for _, c := range cookies {
						r.AddCookie(c)
					}
					w := httptest.NewRecorder()
					m.Handler(handler).ServeHTTP(w, r)
					return w
				}
				read := func(_ http.ResponseWriter, r *http.Request) {
					_, _ = session.FromContext(r.Context()).User(r.Context())
				}
				cookie := visit(func(_ http.ResponseWriter, r *http.Request) {
					assert.NoError(t, session.FromContext(r.Context()).Set(r.Context(), "name", "value"))
				}).Result().Cookies()[0]
				visit(func(_ http.ResponseWriter, r *http.Request) {
					var stop func()
					open, stop, err = session.FromContext(r.Context()).Context(t.Context())
					assert.NoError(t, err)
					t.Cleanup(stop)
				}, cookie)
				synctest.Wait()

				store.fails.Store(true)
				beside.Store(true)
				store.panics.Store(whose == "the store")
				before := store.alive.Load()
				// The session that is open is looked at, the circuit breaker opens, and the
				// store is tried again.
				time.Sleep(5 * time.Second)
				assert.GreaterOrEqual(t, store.alive.Load(), before+5)
				assert.Contains(t, logs.String(), "a mistake in "+whose)

				beside.Store(false)
				store.panics.Store(false)
				store.fails.Store(false)
				time.Sleep(5 * time.Second)
				assert.Equal(t, http.StatusOK, visit(read, cookie).Code)
				assert.NoError(t, open.Err(), "the session lives")
				visit(func(_ http.ResponseWriter, r *http.Request) {
					assert.NoError(t, session.FromContext(r.Context()).Destroy(r.Context()))
				}, cookie)
				time.Sleep(time.Second)
				assert.ErrorIs(t, context.Cause(open), session.ErrGone, "whoever looks after it goes on")
			})
		})
	}
}
