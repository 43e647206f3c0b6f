package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

const cookieName = "__Host-session"

// onBothStores runs test on the memory store and on a real Redis, by itself and as
// a Cluster.
func onBothStores(t *testing.T, test func(t *testing.T, store session.Store)) {
	t.Run("memory", func(t *testing.T) { test(t, session.NewMemoryStore()) })
	t.Run("redis", func(t *testing.T) {
		rdb := redistest.Standalone(t).Client(t)
		test(t, redisstore.New(rdb, &redisstore.Options{Prefix: redistest.Prefix(t)}))
	})
	t.Run("cluster", func(t *testing.T) {
		rdb := redistest.SharedCluster(t).Client(t)
		test(t, redisstore.New(rdb, &redisstore.Options{Prefix: redistest.Prefix(t)}))
	})
}

// spy counts what goes to a store, and fails where it is told to.
type spy struct {
	session.Store
	loads, commits, deletes            atomic.Int64
	failLoad, failCommit, failDeletion atomic.Bool
}

var errStore = errors.New("the store is broken")

func (s *spy) Load(ctx context.Context, id string, d session.Digest) (session.Record, error) {
	s.loads.Add(1)
	if s.failLoad.Load() {
		return session.Record{}, errStore
	}
	return s.Store.Load(ctx, id, d)
}

func (s *spy) LoadAll(ctx context.Context, id string, d session.Digest, again bool) (session.Record, error) {
	s.loads.Add(1)
	if s.failLoad.Load() {
		return session.Record{}, errStore
	}
	return s.Store.LoadAll(ctx, id, d, again)
}

func (s *spy) Commit(ctx context.Context, d session.Delta) (session.Result, error) {
	s.commits.Add(1)
	if s.failCommit.Load() {
		return session.Result{}, errStore
	}
	return s.Store.Commit(ctx, d)
}

func (s *spy) Delete(ctx context.Context, id string) (bool, error) {
	s.deletes.Add(1)
	if s.failDeletion.Load() {
		return false, errStore
	}
	return s.Store.Delete(ctx, id)
}

// calls returns the count of loads, commits and deletes since the last one.
func (s *spy) calls() [3]int64 {
	return [3]int64{s.loads.Swap(0), s.commits.Swap(0), s.deletes.Swap(0)}
}

// site is a server with sessions.
type site struct {
	*httptest.Server
	t       *testing.T
	manager *session.Manager
	spy     *spy
	mux     *http.ServeMux
	logs    logBuffer
}

// logBuffer is a place for log lines, to be read while others write.
type logBuffer struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newManager(t *testing.T, store session.Store, o *session.Options) *session.Manager {
	t.Helper()
	m, err := session.New(store, o)
	require.NoError(t, err)
	return m
}

// newSite starts a site with the routes /get, /set, /delete, /user, /login,
// /renew, /logout and /plain.
func newSite(t *testing.T, store session.Store, o *session.Options) *site {
	t.Helper()
	return newSiteWith(t, store, o, false)
}

// newSiteWith is newSite, with HTTP/2 or without.
func newSiteWith(t *testing.T, store session.Store, o *session.Options, http2 bool) *site {
	t.Helper()
	s := &site{t: t, spy: &spy{Store: store}, mux: http.NewServeMux()}
	if o == nil {
		o = &session.Options{}
	}
	opts := *o
	opts.Logger = slog.New(slog.NewTextHandler(&s.logs, nil))
	m := newManager(t, s.spy, &opts)
	s.manager = m

	s.handle("/plain", func(http.ResponseWriter, *http.Request, *session.Session) error { return nil })
	s.handle("/get", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		var v string
		_, err := sess.Get(r.Context(), r.FormValue("name"), &v)
		io.WriteString(w, v)
		return err
	})
	s.handle("/set", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		return sess.Set(r.Context(), r.FormValue("name"), r.FormValue("value"))
	})
	s.handle("/delete", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		return sess.Delete(r.Context(), r.FormValue("name"))
	})
	s.handle("/user", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		user, err := sess.User(r.Context())
		io.WriteString(w, user)
		return err
	})
	s.handle("/login", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		return sess.Login(r.Context(), r.FormValue("user"))
	})
	s.handle("/renew", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		return sess.Renew(r.Context())
	})
	s.handle("/logout", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		return sess.Destroy(r.Context())
	})

	s.Server = httptest.NewUnstartedServer(m.Handler(s.mux))
	s.Config.ErrorLog = slog.NewLogLogger(opts.Logger.Handler(), slog.LevelInfo)
	s.EnableHTTP2 = http2
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// handle adds a route. An error that fn returns is dropped, as a careless
// handler would.
func (s *site) handle(path string, fn func(http.ResponseWriter, *http.Request, *session.Session) error) {
	s.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		_ = fn(w, r, session.FromContext(r.Context()))
	})
}

// browser is a client that keeps its cookies.
type browser struct {
	*http.Client
	site *site
}

func (s *site) browser() *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(s.t, err)
	c := *s.Client()
	c.Jar = jar
	return &browser{&c, s}
}

// reply is a response that has been read.
type reply struct {
	*http.Response
	body string
}

// get asks for the path, which may be a format.
func (b *browser) get(path string, args ...any) reply {
	b.site.t.Helper()
	res, err := b.Get(b.site.URL + fmt.Sprintf(path, args...))
	require.NoError(b.site.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(b.site.t, err)
	return reply{res, string(body)}
}

// ok is get that requires a 200, and returns the body.
func (b *browser) ok(path string, args ...any) string {
	b.site.t.Helper()
	res := b.get(path, args...)
	require.Equal(b.site.t, http.StatusOK, res.StatusCode, res.body)
	return res.body
}

// cookie returns the browser's session cookie, or "".
func (b *browser) cookie() string {
	u, _ := url.Parse(b.site.URL)
	for _, c := range b.Jar.Cookies(u) {
		if c.Name == cookieName {
			return c.Value
		}
	}
	return ""
}

// with returns a browser that has the cookie.
func (s *site) with(cookie string) *browser {
	b := s.browser()
	u, _ := url.Parse(s.URL)
	b.Jar.SetCookies(u, []*http.Cookie{{Name: cookieName, Value: cookie, Path: "/", Secure: true}})
	return b
}

// sessionCookies returns the session cookies that the response sets.
func (r reply) sessionCookies() (found []*http.Cookie) {
	for _, c := range r.Cookies() {
		if c.Name == cookieName {
			found = append(found, c)
		}
	}
	return found
}

// raw sends a request with these Cookie header lines, unchanged.
func (s *site) raw(path string, cookies ...string) reply {
	s.t.Helper()
	req := httptest.NewRequest(http.MethodGet, s.URL+path, nil)
	req.Header["Cookie"] = cookies
	rec := httptest.NewRecorder()
	s.Config.Handler.ServeHTTP(rec, req)
	return reply{rec.Result(), rec.Body.String()}
}

// within fails the test if ch stays silent.
func within[T any](t *testing.T, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(20 * time.Second):
		t.Fatal("timed out")
	}
	return v
}

// cluster is several servers that share a store, as a client of all of them sees
// it: its cookies are those of the host, whatever the port.
type cluster []*site

// onThreeServers runs test on three servers that share a memory store, and on
// three with clients of their own of one Redis, all of them with HTTP/1.1 and with
// HTTP/2.
func onThreeServers(t *testing.T, o *session.Options, test func(t *testing.T, c cluster)) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		start := func(t *testing.T, stores []session.Store) cluster {
			var c cluster
			for _, store := range stores {
				c = append(c, newSiteWith(t, store, o, protocol == "HTTP/2"))
			}
			return c
		}
		t.Run("memory, "+protocol, func(t *testing.T) {
			t.Parallel()
			store := session.NewMemoryStore()
			test(t, start(t, []session.Store{store, store, store}))
		})
		t.Run("redis, "+protocol, func(t *testing.T) {
			t.Parallel()
			prefix := redistest.Prefix(t)
			var stores []session.Store
			for range 3 {
				rdb := redistest.Standalone(t).Client(t)
				stores = append(stores, redisstore.New(rdb, &redisstore.Options{Prefix: prefix}))
			}
			test(t, start(t, stores))
		})
	}
}

// handle adds a route to all servers.
func (c cluster) handle(path string, fn func(http.ResponseWriter, *http.Request, *session.Session) error) {
	for _, s := range c {
		s.handle(path, fn)
	}
}

// at returns b on another server of its cluster.
func (b *browser) at(s *site) *browser { return &browser{b.Client, s} }
