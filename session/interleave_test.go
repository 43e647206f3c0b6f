package session_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A server that takes no more data is not one that is away: what can be done
// without is done.
func TestAFullRedisIsNotAway(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	s := newSite(t, redisstore.New(rdb, nil), nil)
	b := s.browser()
	b.ok("/login?user=alice")
	require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	for range 5 {
		assert.Equal(t, http.StatusServiceUnavailable, s.browser().get("/set?name=a&value=1").StatusCode)
	}
	assert.False(t, s.manager.Stats().Open)
	assert.EqualValues(t, 5, s.manager.Stats().StoreFailed)
	assert.Equal(t, "alice", b.ok("/user"))
	b.ok("/logout")
	assert.Empty(t, b.ok("/user"))
}

// Who goes by what was read a while ago changes nothing, not for others either.
func TestNobodyRevokesByAStaleSession(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), &session.Options{WhenDown: session.Stale})
	s.handle("/others", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		_, err := sess.User(r.Context())
		require.NoError(t, err)
		_, err = sess.RevokeOthers(r.Context())
		assert.ErrorIs(t, err, errStore)
		return err
	})
	b, other := s.browser(), s.browser()
	b.ok("/login?user=alice")
	other.ok("/login?user=alice")
	assert.Equal(t, "alice", b.ok("/user"))
	s.spy.failLoad.Store(true)
	assert.Equal(t, http.StatusServiceUnavailable, b.get("/others").StatusCode)
	s.spy.failLoad.Store(false)
	assert.Equal(t, "alice", other.ok("/user"))
}

// An Update after a Login in the same request is an Update: what others do to the
// value before the login is saved is not lost.
func TestUpdateBesideALogin(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		m := newManager(t, store, nil)
		ctx := t.Context()
		s := m.Load(request(""))
		_, err := s.Add(ctx, "n", 1)
		require.NoError(t, err)
		cookie := commit(t, m, s).Value
		for i, user := range []string{"alice", "alice"} { // a login, and a step up
			s = m.Load(request(cookie))
			require.NoError(t, s.Login(ctx, user))
			_, err = m.Load(request(cookie)).Add(ctx, "n", 1)
			require.NoError(t, err)
			_, err = s.Add(ctx, "n", 1)
			require.NoError(t, err)
			cookie = commit(t, m, s).Value
			var n int
			_, err = m.Load(request(cookie)).Get(ctx, "n", &n)
			require.NoError(t, err)
			assert.Equal(t, 3+2*i, n)
		}
		s = m.Load(request(cookie))
		require.NoError(t, s.Login(ctx, "bob"))
		sum, err := s.Add(ctx, "n", 1)
		require.NoError(t, err)
		assert.EqualValues(t, 1, sum, "what was alice's is not bob's")
		cookie = commit(t, m, s).Value
		var n int
		_, err = m.Load(request(cookie)).Get(ctx, "n", &n)
		require.NoError(t, err)
		assert.Equal(t, 1, n)
	})
}

// However often tokens are renewed, each is accepted for the whole of its grace.
func TestRenewalsWithinAGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, session.NewMemoryStore(), &session.Options{RenewEvery: 2 * time.Second, RenewGrace: 10 * time.Second})
		first := logIn(t, m, "alice")
		next := func(cookie string) string {
			time.Sleep(2100 * time.Millisecond)
			s := m.Load(request(cookie))
			user, err := s.User(t.Context())
			require.NoError(t, err)
			require.Equal(t, "alice", user)
			if c := commit(t, m, s); c != nil {
				return c.Value
			}
			return cookie
		}
		second := next(first)
		require.NotEqual(t, first, second)
		cookie := second
		for range 4 {
			cookie = next(cookie)
			s := m.Load(request(first))
			user, err := s.User(t.Context())
			require.NoError(t, err)
			require.Equal(t, "alice", user, "the first token is in its grace")
		}
		assert.NotEqual(t, second, next(cookie), "and once that is over there is a new one")
	})
}

// moody is a Store that fails at some steps, before or after they have happened.
type moody struct {
	session.Store
	before, after func(step string) bool
}

func (m *moody) do(step string, do func() error) error {
	if m.before != nil && m.before(step) {
		return errStore
	}
	err := do()
	if err == nil && m.after != nil && m.after(step) {
		err = errStore
	}
	return err
}

func (m *moody) Commit(ctx context.Context, d session.Delta) (res session.Result, err error) {
	err = m.do("commit", func() (err error) { res, err = m.Store.Commit(ctx, d); return })
	return res, err
}

func (m *moody) Delete(ctx context.Context, id string) (found bool, err error) {
	err = m.do("delete", func() (err error) { found, err = m.Store.Delete(ctx, id); return })
	return found, err
}

func (m *moody) Take(ctx context.Context, id string, d session.Digest, taker string, hold time.Duration) (rec session.Record, err error) {
	err = m.do("take", func() (err error) { rec, err = m.Store.Take(ctx, id, d, taker, hold); return })
	return rec, err
}

// A login that fails at one of its steps, whether that has happened or not, leaves
// the visitor where he was, and nobody logged in.
func TestALoginThatFails(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		for _, step := range []string{"take", "commit", "delete"} {
			for _, when := range []string{"before", "after"} {
				user := step + "-" + when
				bad := &moody{Store: store}
				s := newSite(t, bad, &session.Options{MaxPerUser: 1})
				b := s.browser()
				b.ok("/set?name=cart&value=book")
				var failed bool
				once := func(at string) bool {
					fail := at == step && !failed
					failed = failed || fail
					return fail
				}
				if when == "before" {
					bad.before = once
				} else {
					bad.after = once
				}
				status := b.get("/login?user=%s", user).StatusCode
				require.True(t, failed)
				assert.Equal(t, "book", b.ok("/get?name=cart"), user)
				if step == "delete" && when == "after" { // it was the last step, and nothing brings back what has ended
					assert.Equal(t, http.StatusOK, status)
					assert.Equal(t, user, b.ok("/user"))
					continue
				}
				assert.Equal(t, http.StatusServiceUnavailable, status, user)
				assert.Empty(t, b.ok("/user"), user)
				infos, err := s.manager.Sessions(t.Context(), user)
				require.NoError(t, err)
				assert.Empty(t, infos, user)
				b.ok("/login?user=%s", user)
				assert.Equal(t, user, b.ok("/user"))
			}
		}
	})
}

// A client that goes away in the middle of a login can come back.
func TestAClientLeavesInTheMiddleOfALogin(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		bad := &moody{Store: store}
		m := newManager(t, bad, nil)
		s := m.Load(request(""))
		require.NoError(t, s.Set(t.Context(), "cart", "book"))
		cookie := commit(t, m, s).Value
		ctx, cancel := context.WithCancelCause(t.Context())
		bad.after = func(step string) bool {
			if step == "take" {
				cancel(errors.New("gone"))
			}
			return false
		}
		s = m.Load(request(cookie))
		require.NoError(t, s.Login(ctx, "alice"))
		require.ErrorIs(t, m.Commit(ctx, s, http.Header{}), session.ErrUnavailable)
		var cart string
		_, err := m.Load(request(cookie)).Get(t.Context(), "cart", &cart)
		require.NoError(t, err)
		assert.Equal(t, "book", cart)
	})
}

// The last word on how long a cookie is kept has who logs in.
func TestALoginThatIsNotRemembered(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(), nil)
	ctx := t.Context()
	s := m.Load(request(""))
	require.NoError(t, s.SetTimeouts(ctx, time.Hour, time.Hour, true))
	require.NoError(t, s.Set(ctx, "a", 1))
	c := commit(t, m, s)
	assert.Positive(t, c.MaxAge)
	s = m.Load(request(c.Value))
	require.NoError(t, s.SetTimeouts(ctx, time.Minute, time.Hour, false))
	require.NoError(t, s.Login(ctx, "alice"))
	assert.Zero(t, commit(t, m, s).MaxAge)
}
