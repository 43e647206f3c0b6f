package session_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// request returns one with the session cookie.
func request(cookie string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Cookie", cookieName+"="+cookie)
	return r
}

// visit loads the session of the cookie, returns its user, and commits.
func visit(t *testing.T, m *session.Manager, cookie string) (user string) {
	t.Helper()
	s := m.Load(request(cookie))
	user, err := s.User(t.Context())
	require.NoError(t, err)
	require.Nil(t, commit(t, m, s))
	return user
}

// logIn begins a session and returns its cookie.
func logIn(t *testing.T, m *session.Manager, user string) (cookie string) {
	t.Helper()
	s := m.Load(httptest.NewRequest(http.MethodGet, "/", nil))
	require.NoError(t, s.Login(t.Context(), user))
	return commit(t, m, s).Value
}

// commit commits s and returns the cookie that the response sets, or nil.
func commit(t *testing.T, m *session.Manager, s *session.Session) *http.Cookie {
	t.Helper()
	h := http.Header{}
	require.NoError(t, m.Commit(t.Context(), s, h))
	cookies := (&http.Response{Header: h}).Cookies()
	if len(cookies) == 0 {
		return nil
	}
	require.Len(t, cookies, 1)
	return cookies[0]
}

func TestIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, session.NewMemoryStore(), &session.Options{IdleTimeout: 2 * time.Second})
		cookie := logIn(t, m, "alice")
		for range 10 {
			time.Sleep(1900 * time.Millisecond)
			require.Equal(t, "alice", visit(t, m, cookie), "a session in use must live")
		}
		time.Sleep(2 * time.Second)
		require.Empty(t, visit(t, m, cookie))

		s := m.Load(request(cookie))
		require.NoError(t, s.Set(t.Context(), "a", 1))
		c := commit(t, m, s)
		assert.NotEqual(t, cookie[:24], c.Value[:24], "an expired token must not be adopted")
	})
}

func TestAbsoluteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, session.NewMemoryStore(), &session.Options{
			IdleTimeout: 2 * time.Second, AbsoluteTimeout: 5 * time.Second,
		})
		cookie := logIn(t, m, "alice")
		for range 4 {
			time.Sleep(time.Second)
			require.Equal(t, "alice", visit(t, m, cookie))
		}
		time.Sleep(time.Second)
		require.Empty(t, visit(t, m, cookie), "use must not keep a session beyond its absolute time")
	})
}

func TestReadsRenewTheIdleTimeNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spy := &spy{Store: session.NewMemoryStore()}
		m := newManager(t, spy, nil)
		cookie := logIn(t, m, "alice")
		spy.calls()
		for range 1000 { // over one idle time
			time.Sleep(30 * time.Minute / 1000)
			require.Equal(t, "alice", visit(t, m, cookie))
		}
		commits := spy.commits.Load()
		assert.True(t, commits >= 8 && commits <= 10, "%d writes for 1,000 reads", commits)
	})
}

func TestNothingIsRenewedWhereTheEndIsNear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spy := &spy{Store: session.NewMemoryStore()}
		m := newManager(t, spy, &session.Options{IdleTimeout: time.Hour, AbsoluteTimeout: time.Hour})
		cookie := logIn(t, m, "alice")
		time.Sleep(59 * time.Minute)
		spy.calls()
		require.Equal(t, "alice", visit(t, m, cookie))
		assert.Equal(t, [3]int64{1, 0, 0}, spy.calls(), "a write that prolongs nothing is none")
	})
}

// The same by the clock of a real Redis.
func TestTimeoutsOnRedis(t *testing.T) {
	rdb := redistest.Standalone(t).Client(t)
	store := redisstore.New(rdb, &redisstore.Options{Prefix: redistest.Prefix(t)})
	gone := func(m *session.Manager, cookie string) func() bool {
		return func() bool { return visit(t, m, cookie) == "" }
	}

	m := newManager(t, store, &session.Options{AbsoluteTimeout: 300 * time.Millisecond})
	cookie := logIn(t, m, "alice")
	require.Equal(t, "alice", visit(t, m, cookie))
	require.Eventually(t, gone(m, cookie), 10*time.Second, 5*time.Millisecond, "use must not keep a session beyond its absolute time")

	m = newManager(t, store, &session.Options{IdleTimeout: time.Second})
	used, idle := logIn(t, m, "alice"), logIn(t, m, "bob")
	require.Eventually(t, func() bool {
		require.Equal(t, "alice", visit(t, m, used), "a session in use must live")
		user, err := m.Load(request(idle)).User(t.Context()) // no Commit: the idle time runs on
		require.NoError(t, err)
		return user == ""
	}, 10*time.Second, 10*time.Millisecond)
}

// A session that stays when the browser is closed, and is to last longer, has a cookie that
// does, too.
func TestAPersistentSessionIsProlonged(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), nil)
	s.handle("/remember", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		d, err := time.ParseDuration(r.FormValue("d"))
		require.NoError(t, err)
		return sess.SetTimeouts(r.Context(), d, d, true)
	})
	b := s.browser()
	b.ok("/login?user=alice")
	for _, d := range []time.Duration{time.Hour, 720 * time.Hour, 2 * time.Hour} {
		cookies := b.get("/remember?d=%s", d).sessionCookies()
		require.Len(t, cookies, 1, d)
		assert.InDelta(t, d.Seconds(), cookies[0].MaxAge, 60)
	}
}
