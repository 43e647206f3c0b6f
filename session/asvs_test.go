package session_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What docs/security.md says of the sessions of users, and has no other test.

func TestUsersSeeAndEndTheirSessions(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		m := newManager(t, store, nil)
		var cookies []string
		for range 4 {
			cookies = append(cookies, logIn(t, m, "alice"))
		}
		bob := logIn(t, m, "bob")
		alive := func() (n int) {
			for _, c := range cookies {
				if visit(t, m, c) == "alice" {
					n++
				}
			}
			require.Equal(t, "bob", visit(t, m, bob))
			infos, err := m.Sessions(t.Context(), "alice")
			require.NoError(t, err)
			require.Len(t, infos, n, "the list shows what is alive")
			return n
		}
		require.Equal(t, 4, alive())
		infos, err := m.Load(request(cookies[0])).Sessions(t.Context())
		require.NoError(t, err)
		current := 0
		for _, info := range infos {
			assert.Equal(t, "192.0.2.1", info.Address)
			assert.False(t, info.CreatedAt.IsZero() || info.SeenAt.IsZero() || info.AuthenticatedAt.IsZero())
			if info.Current {
				current++
				assert.Equal(t, cookies[0][:24], info.ID)
			}
		}
		assert.Equal(t, 1, current)

		found, err := m.Revoke(t.Context(), "bob", cookies[1][:24])
		require.NoError(t, err)
		assert.False(t, found, "nobody ends the session of another user")
		found, err = m.Revoke(t.Context(), "alice", cookies[1][:24])
		require.NoError(t, err)
		assert.True(t, found)
		require.Equal(t, 3, alive())
		n, err := m.Load(request(cookies[0])).RevokeOthers(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 2, n)
		require.Equal(t, 1, alive())
		require.Equal(t, "alice", visit(t, m, cookies[0]))
		n, err = m.RevokeAll(t.Context(), "alice")
		require.NoError(t, err)
		assert.Equal(t, 1, n)
		require.Equal(t, 0, alive())
	})
}

func TestTheNumberOfSessionsIsCapped(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		refusing := newManager(t, store, &session.Options{MaxPerUser: 1})
		first := logIn(t, refusing, "alice")
		s := refusing.Load(newRequest())
		require.NoError(t, s.Login(t.Context(), "alice"))
		require.ErrorIs(t, s.Save(t.Context()), session.ErrTooManySessions)
		require.Equal(t, "alice", visit(t, refusing, first))

		evicting := newManager(t, store, &session.Options{MaxPerUser: 1, EvictOldest: true})
		second := logIn(t, evicting, "alice")
		require.Empty(t, visit(t, evicting, first))
		require.Equal(t, "alice", visit(t, evicting, second))
	})
}

func newRequest() *http.Request {
	r := request("")
	r.Header.Del("Cookie")
	return r
}

func TestAStepUpIsFreshForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, session.NewMemoryStore(), nil)
		cookie := logIn(t, m, "alice")
		fresh := func() bool {
			ok, err := m.Load(request(cookie)).AuthenticatedWithin(t.Context(), 5*time.Minute)
			require.NoError(t, err)
			return ok
		}
		require.True(t, fresh())
		time.Sleep(6 * time.Minute)
		require.False(t, fresh(), "ask for the password again")
		s := m.Load(request(cookie))
		require.NoError(t, s.Login(t.Context(), "alice"))
		before := cookie
		cookie = commit(t, m, s).Value
		require.True(t, fresh())
		require.Empty(t, visit(t, m, before), "a step up renews the token")
		require.Equal(t, before[:24], cookie[:24], "in the same session")
		ok, err := m.Load(newRequest()).AuthenticatedWithin(t.Context(), time.Hour)
		require.NoError(t, err)
		require.False(t, ok)
	})
}

// The cookie by default, to the letter, and what cannot be.
func TestTheDefaultCookie(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	s := m.Load(newRequest())
	require.NoError(t, s.Login(t.Context(), "alice"))
	got := commit(t, m, s)
	assert.Equal(t, "__Host-session="+got.Value+"; Path=/; HttpOnly; Secure; SameSite=Lax", got.Raw)
	assert.Less(t, len(got.Raw), 4096)

	m = newManager(t, session.NewMemoryStore(), &session.Options{SameSite: http.SameSiteNoneMode, Partitioned: true})
	s = m.Load(newRequest())
	require.NoError(t, s.Login(t.Context(), "alice"))
	got = commit(t, m, s)
	assert.Equal(t, "__Host-session="+got.Value+"; Path=/; HttpOnly; Secure; SameSite=None; Partitioned", got.Raw)

	m = newManager(t, session.NewMemoryStore(), &session.Options{Domain: "example.com", Name: "shop"})
	s = m.Load(newRequest())
	require.NoError(t, s.Login(t.Context(), "alice"))
	got = commit(t, m, s)
	assert.Equal(t, "__Secure-shop="+got.Value+"; Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax", got.Raw)

	for want, o := range map[string]session.Options{
		"with a Domain":       {CookieName: "__Host-session", Domain: "example.com"},
		"Partitioned without": {Partitioned: true, DangerouslyAllowHTTP: true},
		"cannot be one of":    {Domain: "not a domain"},
		"there is no cookie":  {Header: "Authorization", CookieName: "c"},
		"cannot name a field": {Header: "a b"},
	} {
		_, err := session.New(session.NewMemoryStore(), &o)
		assert.ErrorContains(t, err, want)
	}
}
