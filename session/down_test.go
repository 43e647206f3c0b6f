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

	"github.com/herdless/herdless/adapters/redisconn"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// haltingStore never answers while it hangs.
type haltingStore struct {
	session.Store
	hangs   atomic.Bool
	commits atomic.Int64
}

func (h *haltingStore) wait(ctx context.Context) error {
	if !h.hangs.Load() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (h *haltingStore) Load(ctx context.Context, id string, d session.Digest) (session.Record, error) {
	if err := h.wait(ctx); err != nil {
		return session.Record{}, err
	}
	return h.Store.Load(ctx, id, d)
}

func (h *haltingStore) LoadAll(ctx context.Context, id string, d session.Digest, again bool) (session.Record, error) {
	if err := h.wait(ctx); err != nil {
		return session.Record{}, err
	}
	return h.Store.LoadAll(ctx, id, d, again)
}

func (h *haltingStore) Commit(ctx context.Context, d session.Delta) (session.Result, error) {
	h.commits.Add(1)
	if err := h.wait(ctx); err != nil {
		return session.Result{}, err
	}
	return h.Store.Commit(ctx, d)
}

func (h *haltingStore) Alive(ctx context.Context, ids []string) ([]bool, error) {
	if err := h.wait(ctx); err != nil {
		return nil, err
	}
	return h.Store.Alive(ctx, ids)
}

// While the store hangs and the circuit breaker is open, every request has its
// answer within 100 ms, also the one that finds out whether the store is back, and
// a change is not what that is tried with. It is noticed within a second.
func TestNobodyWaitsForAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &haltingStore{Store: session.NewMemoryStore()}
		m := newManager(t, store, &session.Options{Logger: slog.New(slog.DiscardHandler)})
		cookie := logIn(t, m, "alice")
		ask := func(login bool) (status int, took time.Duration) {
			began := time.Now()
			w, r := httptest.NewRecorder(), request(cookie)
			if login {
				r = httptest.NewRequest(http.MethodGet, "/", nil)
			}
			m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if s := session.FromContext(r.Context()); login {
					_ = s.Login(r.Context(), "bob")
				} else {
					_, _ = s.User(r.Context())
				}
			})).ServeHTTP(w, r)
			return w.Code, time.Since(began)
		}
		for _, login := range []bool{false, true} {
			store.hangs.Store(true)
			for !m.Stats().Open {
				status, _ := ask(false)
				require.Equal(t, http.StatusServiceUnavailable, status)
			}
			commits := store.commits.Load()
			for range 1000 { // over 10 s
				status, took := ask(login)
				require.Equal(t, http.StatusServiceUnavailable, status)
				require.Less(t, took, 100*time.Millisecond)
				time.Sleep(10 * time.Millisecond)
			}
			assert.Equal(t, commits, store.commits.Load())

			store.hangs.Store(false)
			back := time.Now()
			for status := 0; status != http.StatusOK; status, _ = ask(login) {
				time.Sleep(10 * time.Millisecond)
				require.Less(t, time.Since(back), 2*time.Second, "one trial that hangs, and one second")
			}
		}
	})
}

// Redis away and back, with a client of package redisconn.
func TestRedisIsAwayAndBack(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	rdb, err := redisconn.Open("redis://" + proxy.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { rdb.Close() })
	s := newSite(t, redisstore.New(rdb, &redisstore.Options{Prefix: redistest.Prefix(t)}), &session.Options{StaleFor: time.Minute})
	for path, when := range map[string]session.WhenDown{"/stale": session.Stale, "/anonymous": session.Anonymous} {
		s.mux.Handle(path, session.IfDown(when)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, err := session.FromContext(r.Context()).User(r.Context())
			assert.NoError(t, err)
			_, _ = w.Write([]byte(user))
		})))
	}
	cookie := s.raw("/login?user=alice").sessionCookies()[0].Value
	get := func(path string) reply { return s.raw(path, cookieName+"="+cookie) }
	require.Equal(t, "alice", get("/user").body)

	// Where the machine is busy the measurement is repeated.
	recovered := false
	for attempt := 0; attempt < 5 && !recovered; attempt++ {
		proxy.Refuse(true)
		require.Eventually(t, func() bool {
			return get("/user").StatusCode == http.StatusServiceUnavailable && s.manager.Stats().Open
		}, 20*time.Second, time.Millisecond)
		proxy.Reset()
		began := time.Now()
		for time.Since(began) < 2*time.Second {
			res := get("/user")
			require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
			require.Equal(t, "1", res.Header.Get("Retry-After"))
			require.Equal(t, http.StatusServiceUnavailable, get("/set?name=a&value=1").StatusCode)
			require.Equal(t, http.StatusOK, get("/plain").StatusCode, "a page that does not use its session")
			require.Equal(t, http.StatusOK, s.raw("/user").StatusCode, "a visitor without a cookie")
			res = get("/anonymous")
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Empty(t, res.body)
			res = get("/stale")
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Equal(t, "alice", res.body)
			time.Sleep(2 * time.Millisecond)
		}
		dialled, passed := proxy.Refused(), time.Since(began)
		assert.Positive(t, dialled, "somebody has to look")
		assert.LessOrEqual(t, float64(dialled), passed.Seconds()+1, "dials in %v", passed)

		proxy.Refuse(false)
		back := time.Now()
		require.Eventually(t, func() bool { return get("/user").body == "alice" }, 20*time.Second, time.Millisecond)
		recovered = time.Since(back) < time.Second
		t.Logf("%d dials in %v, back within %v", dialled, passed, time.Since(back))
	}
	assert.True(t, recovered, "within a second of its return Redis must be in use")
	assert.Empty(t, get("/get?name=a").body, "what was answered with a 503 was not written")
}
