package session_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestValuesSurviveRequests(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		b := s.browser()
		res := b.get("/set?name=colour&value=blue")
		require.Len(t, res.sessionCookies(), 1)
		c := res.sessionCookies()[0]
		assert.True(t, c.Secure && c.HttpOnly && c.SameSite == http.SameSiteLaxMode && c.Path == "/" && c.Domain == "", c.Raw)
		assert.True(t, c.MaxAge == 0 && c.Expires.IsZero(), "the cookie must last as long as the browser: %s", c.Raw)

		assert.Equal(t, "blue", b.ok("/get?name=colour"))
		assert.Empty(t, b.get("/set?name=size&value=XL").sessionCookies(), "a client that has the cookie needs no other")
		b.ok("/delete?name=colour")
		assert.Empty(t, b.ok("/get?name=colour"))
		assert.Equal(t, "XL", b.ok("/get?name=size"))
		assert.Empty(t, s.browser().ok("/get?name=size"), "another browser must have a session of its own")
	})
}

func TestOnlyWhatChangedCosts(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), nil)
	b := s.browser()
	for _, tt := range []struct {
		name, path string
		want       [3]int64 // loads, commits, deletes
	}{
		{"anonymous, untouched", "/plain", [3]int64{0, 0, 0}},
		{"anonymous read", "/get?name=a", [3]int64{0, 0, 0}},
		{"anonymous delete", "/delete?name=a", [3]int64{0, 0, 0}},
		{"anonymous renewal", "/renew", [3]int64{0, 0, 0}},
		{"anonymous logout", "/logout", [3]int64{0, 0, 0}},
		{"first write", "/set?name=a&value=1", [3]int64{0, 1, 0}},
		{"untouched", "/plain", [3]int64{0, 0, 0}},
		{"read", "/get?name=a", [3]int64{1, 0, 0}},
		{"user", "/user", [3]int64{1, 0, 0}},
		{"write", "/set?name=a&value=2", [3]int64{1, 1, 0}},
		{"write of an equal value", "/set?name=a&value=2", [3]int64{1, 0, 0}},
		{"delete of nothing", "/delete?name=b", [3]int64{1, 0, 0}},
		{"login", "/login?user=alice", [3]int64{1, 1, 1}},
		{"step up", "/login?user=alice", [3]int64{1, 1, 0}},
		{"logout", "/logout", [3]int64{1, 0, 1}},
		{"after the logout", "/user", [3]int64{0, 0, 0}},
	} {
		res := b.get("%s", tt.path)
		assert.Equal(t, http.StatusOK, res.StatusCode, tt.name)
		assert.Equal(t, tt.want, s.spy.calls(), "loads, commits, deletes: %s", tt.name)
		if tt.want[1] == 0 && tt.name != "logout" {
			assert.Empty(t, res.sessionCookies(), "%s must set no cookie", tt.name)
		}
	}
}

func TestOverlappingRequestsKeepBothValues(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		entered, release := make(chan struct{}), make(chan struct{})
		s.handle("/slow", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
			err := sess.Set(r.Context(), "slow", "here")
			entered <- struct{}{}
			<-release
			return err
		})
		b := s.browser()
		b.ok("/set?name=first&value=here")

		done := make(chan string)
		go func() { done <- b.ok("/slow") }()
		within(t, entered)
		b.ok("/set?name=quick&value=here")
		close(release)
		within(t, done)
		for _, name := range []string{"first", "slow", "quick"} {
			assert.Equal(t, "here", b.ok("/get?name=%s", name), name)
		}
	})
}

func TestLoginRenewsTheToken(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		b := s.browser()
		b.ok("/set?name=cart&value=book")
		before := b.cookie()
		b.ok("/login?user=alice")
		after := b.cookie()

		require.NotEqual(t, before, after)
		assert.Equal(t, "alice", b.ok("/user"))
		assert.Equal(t, "book", b.ok("/get?name=cart"))

		old := s.with(before)
		assert.Empty(t, old.ok("/user"), "the token from before the login must be dead")
		assert.Empty(t, old.ok("/get?name=cart"))
		old.ok("/set?name=cart&value=evil")
		assert.NotEqual(t, before[:24], old.cookie()[:24], "a write with the old token must begin another session")
		old = s.with(before)
		old.ok("/logout")
		assert.Equal(t, "alice", b.ok("/user"), "the old token must not end the session")
		assert.Equal(t, "book", b.ok("/get?name=cart"))

		b.ok("/renew")
		assert.NotEqual(t, after, b.cookie())
		assert.Empty(t, s.with(after).ok("/user"))
		assert.Equal(t, "alice", b.ok("/user"))
	})
}

func TestLoginWithoutASessionBeginsOne(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		b := s.browser()
		b.ok("/login?user=alice")
		assert.Equal(t, "alice", b.ok("/user"))
	})
}

func TestAnotherUserInheritsNothing(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		b := s.browser()
		b.ok("/set?name=cart&value=book")
		b.ok("/login?user=alice")
		b.ok("/login?user=alice")
		assert.Equal(t, "book", b.ok("/get?name=cart"), "the values of one user must stay")
		b.ok("/login?user=bob")
		assert.Equal(t, "bob", b.ok("/user"))
		assert.Empty(t, b.ok("/get?name=cart"))
	})
}

func TestLoginNeedsAUser(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), nil)
	b := s.browser()
	b.ok("/login?user=")
	assert.Empty(t, b.cookie())
}

func TestLogoutIsFinal(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		s.handle("/logout-and-on", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
			ctx := r.Context()
			require.NoError(t, sess.Set(ctx, "a", "dropped"))
			require.NoError(t, sess.Destroy(ctx))
			require.NoError(t, sess.Destroy(ctx), "again")
			assert.ErrorIs(t, sess.Set(ctx, "a", "2"), session.ErrGone)
			assert.ErrorIs(t, sess.Delete(ctx, "a"), session.ErrGone)
			assert.ErrorIs(t, sess.Login(ctx, "alice"), session.ErrGone)
			assert.ErrorIs(t, sess.Renew(ctx), session.ErrGone)
			var v string
			found, err := sess.Get(ctx, "a", &v)
			assert.False(t, found)
			assert.NoError(t, err)
			user, err := sess.User(ctx)
			assert.Empty(t, user)
			assert.NoError(t, err)
			return nil
		})
		b := s.browser()
		b.ok("/set?name=a&value=1")
		b.ok("/login?user=alice")
		token := b.cookie()

		res := b.get("/logout-and-on")
		assert.Equal(t, http.StatusOK, res.StatusCode, "a logout is a success, whatever came after it")
		require.Len(t, res.sessionCookies(), 1)
		assert.Negative(t, res.sessionCookies()[0].MaxAge, "the cookie must expire")
		assert.Empty(t, b.cookie())
		assert.Empty(t, s.with(token).ok("/user"))
		assert.Empty(t, s.with(token).ok("/get?name=a"))
	})
}

// slowly runs b's request to a handler that does first, and then, after
// meanwhile, answers.
func slowly(s *site, b *browser, first func(r *http.Request, sess *session.Session) error, meanwhile func()) reply {
	s.t.Helper()
	entered, release := make(chan error), make(chan struct{})
	s.handle("/slowly", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		entered <- first(r, sess)
		<-release
		_, err := w.Write([]byte("done"))
		return err
	})
	done := make(chan reply)
	go func() { done <- b.get("/slowly") }()
	require.NoError(s.t, within(s.t, entered))
	meanwhile()
	close(release)
	return within(s.t, done)
}

func TestLogoutOverlapsASlowWrite(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		b := s.browser()
		b.ok("/set?name=a&value=1")
		b.ok("/login?user=alice")
		token := b.cookie()

		res := slowly(s, b, func(r *http.Request, sess *session.Session) error {
			return sess.Set(r.Context(), "a", "2")
		}, func() { s.with(token).ok("/logout") })
		assert.Equal(t, http.StatusUnauthorized, res.StatusCode, "a lost write must not look like a success")
		assert.NotContains(t, res.body, "done")
		assert.Empty(t, res.sessionCookies())

		assert.Empty(t, s.with(token).ok("/user"), "the logout must not be undone")
		assert.Empty(t, s.with(token).ok("/get?name=a"))
		b.ok("/set?name=a&value=3")
		assert.Equal(t, "3", b.ok("/get?name=a"), "the user must recover within one request")
	})
}

func TestLogoutOverlapsASlowRead(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		// Nearly every read starts the idle time anew, which must not revive.
		s := newSite(t, store, &session.Options{SlideEvery: 1e-9})
		b := s.browser()
		b.ok("/login?user=alice")
		token := b.cookie()
		s.spy.calls()
		time.Sleep(2 * time.Millisecond) // Redis counts in milliseconds: in the same one nothing has passed

		res := slowly(s, b, func(r *http.Request, sess *session.Session) error {
			_, err := sess.User(r.Context())
			return err
		}, func() { s.with(token).ok("/logout") })
		assert.Equal(t, http.StatusOK, res.StatusCode, "the page rests on what was true when it was begun")
		assert.Equal(t, [3]int64{2, 1, 1}, s.spy.calls(), "the read must have tried to start the idle time anew")
		assert.Empty(t, s.with(token).ok("/user"), "the logout must not be undone")
	})
}

// A response that comes late must not take from the browser the cookie that an
// overlapping login has given it.
func TestALateRefusalLeavesTheNewCookie(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		b := s.browser()
		b.ok("/set?name=a&value=1")
		res := slowly(s, b, func(r *http.Request, sess *session.Session) error {
			return sess.Set(r.Context(), "a", "2")
		}, func() { b.ok("/login?user=alice") })
		assert.Equal(t, http.StatusUnauthorized, res.StatusCode, "the token was renewed under the write")
		assert.Equal(t, "alice", b.ok("/user"))
		assert.Equal(t, "1", b.ok("/get?name=a"))
	})
}

func TestForeignTokensAreNeverAdopted(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)

		elsewhere := newSite(t, session.NewMemoryStore(), nil).browser() // has the same, public key
		elsewhere.ok("/login?user=mallory")
		destroyed := s.browser()
		destroyed.ok("/login?user=alice")
		token := destroyed.cookie()
		destroyed.ok("/logout")

		for name, token := range map[string]string{"chosen by the client": elsewhere.cookie(), "destroyed": token} {
			b := s.with(token)
			assert.Empty(t, b.ok("/user"), name)
			b.ok("/set?name=a&value=1")
			assert.NotEqual(t, token[:24], b.cookie()[:24], "a session must not begin under a token that was %s", name)
			b = s.with(token)
			b.ok("/login?user=bob")
			assert.NotEqual(t, token[:24], b.cookie()[:24], name)
			assert.Empty(t, s.with(token).ok("/user"), name)
		}
	})
}

func TestTheValidOneOfSeveralCookiesCounts(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		b := s.browser()
		b.ok("/login?user=alice")
		elsewhere := newSite(t, session.NewMemoryStore(), nil).browser()
		elsewhere.ok("/login?user=mallory")

		pair := func(v string) string { return cookieName + "=" + v }
		good, unknown, bad := pair(b.cookie()), pair(elsewhere.cookie()), pair("garbage")
		for _, header := range []string{
			good, bad + "; " + good, unknown + "; " + good, bad + "; " + unknown + "; " + good, good + "; " + unknown,
		} {
			assert.Equal(t, "alice", s.raw("/user", header).body, header)
		}
		assert.Equal(t, "alice", s.raw("/user", bad, unknown, good).body, "three lines")
		assert.Empty(t, s.raw("/user", bad, unknown).body)
	})
}
