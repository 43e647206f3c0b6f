package session_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Fifty sessions of a user on three servers: one of them ends all others, while
// twenty logins race. What was logged in before is dead on the next request,
// everywhere; what lives is in the list, on every server, and what is in the list
// lives.
func TestRevokeOthersWhileLoginsRace(t *testing.T) {
	onThreeServers(t, patient, func(t *testing.T, c cluster) {
		c.handle("/others", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
			n, err := sess.RevokeOthers(r.Context())
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
			fmt.Fprint(w, n)
			return err
		})
		c.handle("/sessions", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
			infos, err := sess.Sessions(r.Context())
			assert.NoError(t, err)
			for _, info := range infos {
				assert.Equal(t, "alice", info.User)
				fmt.Fprintln(w, info.ID)
			}
			return err
		})
		// enter logs in without a jar, from a visit or from a session.
		enter := func(i int, cookie string) string {
			res := c[i%3].raw("/login?user=alice", cookieName+"="+cookie)
			if !assert.Equal(t, http.StatusOK, res.StatusCode, res.body) || !assert.Len(t, res.sessionCookies(), 1) {
				return ""
			}
			return res.sessionCookies()[0].Value
		}
		var older []string
		for i := range 50 {
			older = append(older, enter(i, ""))
		}
		me := older[7]
		visitors := make([]string, 20)
		for i := range visitors {
			if i%2 == 0 { // a session of nobody, which the login moves
				visitors[i] = c[i%3].raw("/set?name=a&value=1").sessionCookies()[0].Value
			}
		}

		racing := make([]string, len(visitors))
		start := make(chan struct{})
		var running sync.WaitGroup
		for i, cookie := range visitors {
			running.Go(func() {
				<-start
				racing[i] = enter(i, cookie)
			})
		}
		var ended string
		running.Go(func() {
			<-start
			res := c[1].raw("/others", cookieName+"="+me)
			ended = res.body
			assert.Equal(t, http.StatusOK, res.StatusCode)
			// At once, while logins go on.
			for i, cookie := range older {
				if cookie != me {
					assert.Empty(t, c[i%3].raw("/user", cookieName+"="+cookie).body, "an older session is alive")
				}
			}
		})
		close(start)
		running.Wait()

		list := strings.Fields(c[2].raw("/sessions", cookieName+"="+me).body)
		var alive []string
		for i, cookie := range append(older, racing...) {
			here := c[i%3].raw("/user", cookieName+"="+cookie).body
			for _, s := range c {
				assert.Equal(t, here, s.raw("/user", cookieName+"="+cookie).body, "the servers disagree")
			}
			switch {
			case here != "":
				assert.Equal(t, "alice", here)
				alive = append(alive, cookie[:24])
			case cookie == me:
				assert.Fail(t, "the session that has ended the others has ended itself")
			}
		}
		assert.ElementsMatch(t, alive, list)
		assert.Equal(t, fmt.Sprint(70-len(alive)), ended, "how many were ended")
	})
}

// A thief's request has loaded its session when the owner ends all others: it ends none, the
// owner's least of all, and is refused.
func TestWhoWasRevokedRevokesNobody(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, patient)
		loaded, ended := make(chan struct{}), make(chan struct{})
		failed := make(chan error, 1)
		s.handle("/steal", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
			user, err := sess.User(r.Context())
			assert.NoError(t, err)
			assert.Equal(t, "alice", user)
			close(loaded)
			<-ended
			n, err := sess.RevokeOthers(r.Context())
			assert.Zero(t, n)
			failed <- err
			return err
		})
		s.handle("/others", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
			n, err := sess.RevokeOthers(r.Context())
			assert.NoError(t, err)
			assert.Equal(t, 1, n)
			return err
		})
		owner, thief := s.browser(), s.browser()
		owner.ok("/login?user=alice")
		thief.ok("/login?user=alice")
		stolen := make(chan reply, 1)
		go func() { stolen <- s.raw("/steal", cookieName+"="+thief.cookie()) }()
		within(t, loaded)
		owner.ok("/others")
		close(ended)
		require.ErrorIs(t, within(t, failed), session.ErrGone)
		assert.Equal(t, http.StatusUnauthorized, within(t, stolen).StatusCode, "whatever the handler says")
		assert.Equal(t, "alice", owner.ok("/user"))
		assert.Empty(t, thief.ok("/user"))
		assert.EqualValues(t, 1, s.manager.Stats().Refused)
	})
}

// With a cap of three and twenty logins at once on three servers exactly three are
// alive, whether the others were refused or have been evicted.
func TestACapHoldsWhileLoginsRace(t *testing.T) {
	for _, evict := range []bool{false, true} {
		t.Run(fmt.Sprintf("evict %v", evict), func(t *testing.T) {
			o := *patient
			o.MaxPerUser, o.EvictOldest = 3, evict
			onThreeServers(t, &o, func(t *testing.T, c cluster) {
				var running sync.WaitGroup
				cookies := make([]string, 20)
				for i := range cookies {
					running.Go(func() {
						res := c[i%3].raw("/login?user=alice")
						if len(res.sessionCookies()) == 1 {
							cookies[i] = res.sessionCookies()[0].Value
							assert.Equal(t, http.StatusOK, res.StatusCode)
						} else {
							assert.False(t, evict, "a login was refused")
							assert.Equal(t, http.StatusConflict, res.StatusCode, res.body)
						}
					})
				}
				running.Wait()
				alive := 0
				for i, cookie := range cookies {
					if c[(i+1)%3].raw("/user", cookieName+"="+cookie).body == "alice" {
						alive++
					}
				}
				assert.Equal(t, 3, alive)
			})
		})
	}
}

// Ten thousand sessions of one user that have expired while no server ran leave the
// index with the next thing that touches it.
func TestTheIndexCleansItself(t *testing.T) {
	for name, touch := range map[string]func(m *session.Manager) error{
		"login": func(m *session.Manager) error {
			s := m.Load(request(""))
			if err := s.Login(t.Context(), "alice"); err != nil {
				return err
			}
			return m.Commit(t.Context(), s, http.Header{})
		},
		"list": func(m *session.Manager) error {
			infos, err := m.Sessions(t.Context(), "alice")
			if len(infos) != 1 {
				return fmt.Errorf("%d sessions in the list, want 1: %w", len(infos), err)
			}
			return err
		},
		"revoke": func(m *session.Manager) error {
			_, err := m.Revoke(t.Context(), "alice", "another")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
			store := redisstore.New(rdb, &redisstore.Options{Prefix: prefix})
			m := newManager(t, store, &session.Options{MaxPerUser: 3})
			id := logIn(t, m, "alice")[:24]
			index := prefix + "{" + id[:4] + "}user:" + ownerRest(t, rdb, prefix, id)
			expireTenThousand(t, rdb, prefix, index, id)
			n, err := rdb.ZCard(t.Context(), index).Result()
			require.NoError(t, err)
			require.EqualValues(t, 10_001, n)

			require.NoError(t, touch(m), "within StoreTimeout")
			want := int64(1)
			if name == "login" {
				want = 2
			}
			n, err = rdb.ZCard(t.Context(), index).Result()
			require.NoError(t, err)
			assert.Equal(t, want, n)
		})
	}
}

// ownerRest returns the part of the name of a session's owner that is in the key of
// its index.
func ownerRest(t *testing.T, rdb *redis.Client, prefix, id string) string {
	t.Helper()
	return storedAt(t, rdb, prefix+"{"+id[:4]+"}"+id[4:]).owner[4:]
}

// expireTenThousand copies the session ten thousand times, as sessions of the same
// owner, which have expired when it returns.
func expireTenThousand(t *testing.T, rdb *redis.Client, prefix, index, id string) {
	t.Helper()
	script := redis.NewScript(`
		local session, time = redis.call('GET', KEYS[1]), redis.call('TIME')
		local ends = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + 20
		for i = 1, 10000 do
			local rest = string.format('copy-of-session-%04d', i)
			redis.call('SET', ARGV[1] .. rest, session)
			redis.call('PEXPIREAT', ARGV[1] .. rest, string.format('%.0f', ends))
			redis.call('ZADD', KEYS[2], string.format('%.0f', ends), ARGV[2] .. rest)
		end`)
	base := prefix + "{" + id[:4] + "}"
	err := script.Run(t.Context(), rdb, []string{base + id[4:], index}, base, id[:4]).Err()
	require.True(t, err == nil || errors.Is(err, redis.Nil), "%v", err)
	require.Eventually(t, func() bool {
		n, err := rdb.Exists(t.Context(), base+"copy-of-session-10000").Result()
		return err == nil && n == 0
	}, 20*time.Second, 5*time.Millisecond)
}

// In the session's head a user that is no UTF-8, such as the bytes of a UUID, would be
// another one's, with the same bytes beside those that cannot be kept.
func TestAUserIsUTF8(t *testing.T) {
	s := newSite(t, session.NewMemoryStore(), nil)
	s.handle("/raw", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		err := sess.Login(r.Context(), "\xf0\x81id")
		require.ErrorContains(t, err, "UTF-8")
		user, err := sess.User(r.Context())
		fmt.Fprint(w, user)
		return err
	})
	assert.Empty(t, s.browser().ok("/raw"))
}
