package session_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/herdless/herdless/session/sessiontest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAFailedLoadNeverOverwrites(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		s.handle("/careless", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
			ctx := r.Context()
			var cart string
			_, err := sess.Get(ctx, "cart", &cart)
			assert.ErrorIs(t, err, errStore)
			s.spy.failLoad.Store(false) // the store is back, too late for this request
			assert.ErrorIs(t, sess.Set(ctx, "cart", cart+"pen"), errStore)
			assert.ErrorIs(t, sess.Login(ctx, "mallory"), errStore)
			assert.ErrorIs(t, sess.Renew(ctx), errStore)
			assert.ErrorIs(t, sess.Delete(ctx, "cart"), errStore)
			assert.ErrorIs(t, sess.Destroy(ctx), errStore)
			_, err = sess.User(ctx)
			assert.ErrorIs(t, err, errStore)
			io.WriteString(w, "saved!")
			return nil
		})
		b := s.browser()
		b.ok("/set?name=cart&value=book")
		b.ok("/login?user=alice")
		s.spy.calls()

		s.spy.failLoad.Store(true)
		res := b.get("/careless")
		assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		assert.Equal(t, "1", res.Header.Get("Retry-After"))
		assert.NotContains(t, res.body, "saved!")
		assert.Empty(t, res.sessionCookies())
		assert.Equal(t, [3]int64{1, 0, 0}, s.spy.calls(), "one load, and nothing may be written after it has failed")
		assert.Equal(t, "book", b.ok("/get?name=cart"))
		assert.Equal(t, "alice", b.ok("/user"))
	})
}

func TestTheStoreIsDown(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), nil)
	s.handle("/careful", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		if err := sess.Set(r.Context(), "a", "2"); err != nil {
			http.Error(w, "my own page", http.StatusInternalServerError)
		}
		return nil
	})
	b := s.browser()
	b.ok("/set?name=a&value=1")
	s.spy.failLoad.Store(true)
	res := b.get("/careful")
	assert.Equal(t, http.StatusInternalServerError, res.StatusCode)
	assert.Equal(t, "my own page\n", res.body)
	assert.Equal(t, http.StatusServiceUnavailable, b.get("/user").StatusCode, "who is logged in must not look like nobody")
	assert.Equal(t, http.StatusOK, b.get("/plain").StatusCode, "a page that needs no session needs no store")
	assert.Equal(t, http.StatusServiceUnavailable, b.get("/logout").StatusCode, "a failed logout must not look like one")
	assert.NotEmpty(t, b.cookie(), "the user must be able to try again")

	s.spy.failLoad.Store(false)
	b.recovers()
	s.spy.failDeletion.Store(true)
	assert.Equal(t, http.StatusServiceUnavailable, b.get("/logout").StatusCode)
	assert.NotEmpty(t, b.cookie())
	s.spy.failDeletion.Store(false)
	b.recovers()
	b.ok("/logout")
	assert.Empty(t, b.cookie())
}

// recovers waits until the store is asked again.
func (b *browser) recovers() {
	b.site.t.Helper()
	require.Eventually(b.site.t, func() bool { return b.get("/user").StatusCode == http.StatusOK }, 10*time.Second, 20*time.Millisecond)
}

func TestAFailedSaveIsNeverA200(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		write := func(sess *session.Session, r *http.Request) { assert.NoError(t, sess.Set(r.Context(), "a", "2")) }
		for name, respond := range map[string]http.HandlerFunc{
			"nothing":    func(http.ResponseWriter, *http.Request) {},
			"Write":      func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok")) },
			"200":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) },
			"204":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
			"redirect":   func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusSeeOther) },
			"Flush":      func(w http.ResponseWriter, _ *http.Request) { http.NewResponseController(w).Flush() },
			"io.Copy":    func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, strings.NewReader("ok")) },
			"own-error":  func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "mine", http.StatusInternalServerError) },
			"Hijack":     func(w http.ResponseWriter, _ *http.Request) { http.NewResponseController(w).Hijack() },
			"set-header": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "4711") },
		} {
			s.handle("/"+name, func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
				write(sess, r)
				w.Header().Set("X-Saved", "yes")
				http.SetCookie(w, &http.Cookie{Name: "saved", Value: "yes"})
				respond(w, r)
				return nil
			})
		}
		b := s.browser()
		b.ok("/set?name=a&value=1")
		for _, name := range []string{
			"nothing", "Write", "200", "204", "redirect", "Flush", "io.Copy", "own-error", "Hijack", "set-header",
		} {
			s.spy.failCommit.Store(true)
			res := b.get("/%s", name)
			assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode, name)
			assert.Equal(t, "The session store is not available.\n", res.body, name)
			assert.Empty(t, res.Header.Get("X-Saved"), "%s: the handler's headers tell of a success that was none", name)
			assert.Empty(t, res.Cookies(), name)
			assert.Equal(t, "no-store", res.Header.Get("Cache-Control"), name)
			res = s.browser().get("/login?user=alice")
			assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode, name)
			assert.Empty(t, res.Cookies(), "%s: no cookie for a session that was not saved", name)
			s.spy.failCommit.Store(false)
			assert.Equal(t, "1", b.ok("/get?name=a"), name)
		}
		assert.Contains(t, s.logs.String(), errStore.Error())
	})
}

func TestAFailedRenewalOfTheIdleTimeFailsNothing(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), &session.Options{SlideEvery: 1e-9})
	b := s.browser()
	b.ok("/set?name=a&value=1")
	s.spy.failCommit.Store(true)
	s.spy.calls()
	assert.Equal(t, "1", b.ok("/get?name=a"))
	assert.Equal(t, [3]int64{1, 1, 0}, s.spy.calls())
	assert.Contains(t, s.logs.String(), "could not renew the idle time")
}

func TestErrorHandler(t *testing.T) {
	var got error
	respond := func(http.ResponseWriter) {}
	o := &session.Options{ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
		got = err
		respond(w)
	}}
	s := newSite(t, session.NewMemoryStore(), o)
	s.spy.failCommit.Store(true)

	respond = func(w http.ResponseWriter) { http.Error(w, "mine", http.StatusBadGateway) }
	res := s.browser().get("/set?name=a&value=1")
	assert.Equal(t, http.StatusBadGateway, res.StatusCode)
	assert.Equal(t, "mine\n", res.body)
	require.ErrorIs(t, got, errStore)

	respond = func(http.ResponseWriter) {}
	res = s.browser().get("/set?name=a&value=1")
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode, "an ErrorHandler that writes nothing must not make it a 200")
}

func TestTooLarge(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, &session.Options{MaxBytes: 100})
		big := strings.Repeat("x", 60)
		s.handle("/too-large", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
			ctx := r.Context()
			assert.ErrorIs(t, sess.Set(ctx, "b", strings.Repeat("x", 4<<20)), session.ErrTooLarge)
			assert.NoError(t, sess.Set(ctx, "a", big))
			assert.ErrorIs(t, sess.Set(ctx, "b", big), session.ErrTooLarge, "a value pending counts")
			assert.NoError(t, sess.Set(ctx, "b", "fits"), "the session must be of use after it")
			return nil
		})
		b := s.browser()
		b.ok("/too-large")
		assert.Equal(t, big, b.ok("/get?name=a"))
		assert.Equal(t, "fits", b.ok("/get?name=b"))

		// Each of two fits, both together do not: the store refuses the later.
		b = s.browser()
		b.ok("/set?name=c&value=1")
		res := slowly(s, b, func(r *http.Request, sess *session.Session) error {
			return sess.Set(r.Context(), "a", big)
		}, func() { b.ok("/set?name=b&value=%s", big) })
		assert.Equal(t, http.StatusInternalServerError, res.StatusCode)
		assert.Empty(t, b.ok("/get?name=a"))
		assert.Equal(t, big, b.ok("/get?name=b"))
	})
}

func TestAPanicCommitsNothing(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), nil)
	b := s.browser()
	b.ok("/set?name=a&value=1")
	s.handle("/panic", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		require.NoError(t, sess.Set(r.Context(), "a", "2"))
		panic(http.ErrAbortHandler)
	})
	_, err := b.Get(s.URL + "/panic")
	require.Error(t, err)
	assert.Equal(t, "1", b.ok("/get?name=a"))
}

func TestChangesAfterTheHeader(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		s.handle("/late", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
			ctx := r.Context()
			_, err := sess.User(ctx)
			require.NoError(t, err)
			w.Write([]byte("begun"))
			http.NewResponseController(w).Flush()
			return sess.Set(ctx, "a", r.FormValue("value"))
		})
		s.handle("/too-late", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
			ctx := r.Context()
			if r.FormValue("touch") != "" {
				_, err := sess.User(ctx)
				require.NoError(t, err)
			}
			w.WriteHeader(http.StatusAccepted)
			assert.ErrorContains(t, sess.Login(ctx, "alice"), "too late")
			assert.ErrorContains(t, sess.Renew(ctx), "too late")
			assert.ErrorContains(t, sess.Set(ctx, "a", "3"), "too late")
			return nil
		})
		fresh := s.browser()
		assert.Equal(t, http.StatusAccepted, fresh.get("/too-late").StatusCode)
		assert.Equal(t, http.StatusAccepted, fresh.get("/too-late?touch=1").StatusCode, "no session can begin without its cookie")
		assert.Empty(t, fresh.cookie())

		b := s.browser()
		b.ok("/set?name=a&value=1")
		b.ok("/late?value=2")
		assert.Equal(t, "2", b.ok("/get?name=a"))
		assert.Equal(t, http.StatusAccepted, b.get("/too-late").StatusCode,
			"a first use after the header comes too late to mark the response as private")
		assert.Equal(t, "2", b.ok("/get?name=a"))

		s.spy.failCommit.Store(true)
		res, err := b.Get(s.URL + "/late?value=4")
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		assert.Error(t, err, "the 200 that is out must not be completed")
		assert.Contains(t, s.logs.String(), "could not save after the header")
	})
}

// flaky connects to a Redis through a proxy, without go-redis' own retries.
func flaky(t *testing.T, o *redis.Options) (*redistest.Proxy, *redis.Client) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	o.Addr = proxy.Addr()
	rdb := redis.NewClient(o)
	t.Cleanup(func() { rdb.Close() })
	return proxy, rdb
}

func TestRedisIsDown(t *testing.T) {
	proxy, rdb := flaky(t, &redis.Options{MaxRetries: -1, DialerRetries: 1})
	s := newSite(t, redisstore.New(rdb, &redisstore.Options{Prefix: redistest.Prefix(t)}), nil)
	b := s.browser()
	b.ok("/set?name=a&value=1")

	proxy.Refuse(true)
	assert.Equal(t, http.StatusServiceUnavailable, b.get("/set?name=a&value=2").StatusCode)
	assert.Equal(t, http.StatusServiceUnavailable, b.get("/login?user=alice").StatusCode)
	assert.Equal(t, http.StatusServiceUnavailable, b.get("/logout").StatusCode)
	res := s.browser().get("/login?user=alice")
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	assert.Empty(t, res.Cookies())
	assert.Equal(t, http.StatusOK, b.get("/plain").StatusCode)
	assert.Equal(t, http.StatusOK, s.browser().get("/user").StatusCode, "who has no cookie needs no store")

	proxy.Refuse(false)
	require.Eventually(t, func() bool { return b.get("/get?name=a").body == "1" }, 10*time.Second, 10*time.Millisecond,
		"the session must be back, unchanged")
}

// A reply that is lost makes go-redis repeat the command. The second arrival
// must not be taken for another's change.
func TestRedisRepliesAreLost(t *testing.T) {
	proxy, rdb := flaky(t, &redis.Options{MaxRetries: 10, MinRetryBackoff: -1, MaxRetryBackoff: -1})
	prefix := redistest.Prefix(t)
	s := newSite(t, redisstore.New(rdb, &redisstore.Options{Prefix: prefix}), nil)
	b := s.browser()
	b.ok("/login?user=alice")
	b.ok("/set?name=a&value=1")

	direct := redistest.Standalone(t).Client(t)
	version := func() int { return int(storedAt(t, direct, keyOf(prefix, b.cookie())).version) }
	lostReply := func(path string) reply {
		before := version()
		proxy.SetLatency(500 * time.Millisecond) // the server acts at once, the reply takes its time
		done := make(chan reply)
		go func() { done <- b.get("%s", path) }()
		require.Eventually(t, func() bool { return version() > before }, 10*time.Second, time.Millisecond)
		proxy.SetLatency(0)
		proxy.Cut()
		res := within(t, done)
		assert.Equal(t, before+2, version(), "%s: the command must have arrived twice", path)
		return res
	}
	for _, path := range []string{"/login?user=alice", "/renew", "/set?name=a&value=2"} {
		assert.Equal(t, http.StatusOK, lostReply(path).StatusCode, path)
		assert.Equal(t, "alice", b.ok("/user"), path)
	}
	assert.Equal(t, "2", b.ok("/get?name=a"))
}

func TestCommitWithoutASession(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	require.ErrorIs(t, m.Commit(t.Context(), nil, nil), session.ErrNoSession)
	require.ErrorContains(t, m.Commit(t.Context(), newManager(t, session.NewMemoryStore(), nil).Load(request("")), nil), "another Manager")
	_, err := session.NewKey[int]("n").Get(t.Context())
	require.ErrorIs(t, err, session.ErrNoSession)
	require.ErrorIs(t, session.NewKey[int]("n").Set(t.Context(), 1), session.ErrNoSession)
	require.ErrorIs(t, session.NewKey[int]("n").Delete(t.Context()), session.ErrNoSession)
	require.ErrorIs(t, session.FromContext(t.Context()).Login(t.Context(), "alice"), session.ErrNoSession)
}

func TestAValueThatCannotBeCoded(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	s := m.Load(httptest.NewRequest(http.MethodGet, "/", nil))
	ctx := t.Context()
	assert.ErrorContains(t, s.Set(ctx, "f", func() {}), `"f"`)
	require.NoError(t, s.Set(ctx, "a", "text"))
	var n int
	found, err := s.Get(ctx, "a", &n)
	assert.True(t, !found && err == nil, "what cannot be decoded is as good as none: %v", err)
	var text string
	found, err = s.Get(ctx, "a", &text)
	assert.True(t, found && err == nil && text == "text", "one bad read must not spoil the session: %v", err)
	require.False(t, errors.Is(err, session.ErrGone))
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

// askingHandler adds the user of the request to what is logged.
type askingHandler struct{ slog.Handler }

func (h askingHandler) Handle(ctx context.Context, r slog.Record) error {
	if s := session.FromContext(ctx); s != nil {
		user, _ := s.User(ctx)
		r.AddAttrs(slog.String("user", user))
	}
	return h.Handler.Handle(ctx, r)
}

// A Logger that asks for the session of the context does not wait for itself.
func TestALoggerThatAsksForTheUser(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), &session.Options{Logger: slog.New(askingHandler{slog.NewTextHandler(io.Discard, nil)})})
	r := sessiontest.Request(t, m, httptest.NewRequest("GET", "/", nil), func(ctx context.Context, s *session.Session) error {
		return s.Set(ctx, "x", "text")
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			var n int
			_, _ = session.FromContext(r.Context()).Get(r.Context(), "x", &n) // cannot be decoded, which is logged
		})).ServeHTTP(httptest.NewRecorder(), r)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the request hangs")
	}
}

// Handlers that answer themselves say nothing of a store that fails, and many that do not
// would say the same.
func TestAFailingStoreIsLoggedOnceForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs strings.Builder
		store := &panicking{Store: session.NewMemoryStore()}
		m := newManager(t, store, &session.Options{Logger: slog.New(slog.NewTextHandler(&logs, nil))})
		r := sessiontest.Request(t, m, httptest.NewRequest("GET", "/", nil), func(ctx context.Context, s *session.Session) error {
			return s.Login(ctx, "alice")
		})
		store.fails.Store(true)
		for _, answers := range []bool{true, false} {
			logs.Reset()
			for range 100 { // in ten seconds
				w := httptest.NewRecorder()
				m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if _, err := session.FromContext(r.Context()).User(r.Context()); err != nil && answers {
						http.Error(w, "later", http.StatusServiceUnavailable)
					}
				})).ServeHTTP(w, r)
				assert.Equal(t, http.StatusServiceUnavailable, w.Code)
				time.Sleep(100 * time.Millisecond)
			}
			lines := strings.Count(logs.String(), "\n")
			assert.Positive(t, lines)
			assert.LessOrEqual(t, lines, 11)
			assert.Contains(t, logs.String(), "the store fails")
		}
	})
}

// A login that is too late, and whose error nobody looks at, is logged.
func TestWhatIsTooLateIsLogged(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), nil)
	for path, late := range map[string]func(ctx context.Context, s *session.Session) error{
		"/late-login": func(ctx context.Context, s *session.Session) error { return s.Login(ctx, "alice") },
		"/late-set":   func(ctx context.Context, s *session.Session) error { return s.Set(ctx, "x", 1) },
		"/late-timeouts": func(ctx context.Context, s *session.Session) error {
			return s.SetTimeouts(ctx, time.Hour, time.Hour, true)
		},
	} {
		s.handle(path, func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
			_, _ = io.WriteString(w, "done")
			_ = http.NewResponseController(w).Flush()
			return late(r.Context(), sess)
		})
		before := strings.Count(s.logs.String(), "after the header")
		s.browser().ok("%s", path)
		assert.Equal(t, before+1, strings.Count(s.logs.String(), "after the header"), path)
	}
}

func TestGetNeedsAPointer(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), nil)
	s.handle("/get-number", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		var n int
		for _, v := range []any{n, nil, (*int)(nil)} {
			_, err := sess.Get(r.Context(), "n", v)
			assert.ErrorContains(t, err, "pointer")
			_, err = sess.Pop(r.Context(), "n", v)
			assert.ErrorContains(t, err, "pointer")
		}
		return nil
	})
	s.browser().ok("/get-number")
}
