package session_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
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

// rotating renews the token whenever it may, and gives the old one a grace.
func rotating(grace time.Duration) *session.Options {
	o := *patient
	o.RenewEvery, o.RenewGrace = time.Nanosecond, grace
	return &o
}

// aged logs in and returns a cookie that is old enough to be renewed: the clock of
// Redis counts milliseconds.
func aged(s *site) (cookie string) {
	cookie = s.raw("/login?user=alice").sessionCookies()[0].Value
	time.Sleep(3 * time.Millisecond)
	return cookie
}

// Twenty requests at once with one cookie, on three servers, all of which renew the
// token: all are authenticated, they agree on one new cookie, and what they write
// is there.
func TestTwentyRequestsAgreeOnOneNewToken(t *testing.T) {
	onThreeServers(t, rotating(time.Hour), func(t *testing.T, c cluster) {
		// The requests overlap: none commits before all have loaded.
		var loaded sync.WaitGroup
		c.handle("/write", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
			user, err := sess.User(r.Context())
			assert.NoError(t, err)
			loaded.Done()
			loaded.Wait()
			if r.FormValue("name") != "" {
				assert.NoError(t, sess.Set(r.Context(), r.FormValue("name"), "here"))
			}
			_, err = io.WriteString(w, user)
			return err
		})
		cookie := aged(c[0])
		replies := make([]reply, 20)
		loaded.Add(len(replies))
		var running sync.WaitGroup
		for i := range replies {
			running.Go(func() {
				path := "/write"
				if i%2 == 0 { // the others only read
					path += fmt.Sprintf("?name=value-%d", i)
				}
				replies[i] = c[i%3].raw(path, cookieName+"="+cookie)
			})
		}
		running.Wait()

		given := map[string]int{}
		for _, res := range replies {
			assert.Equal(t, http.StatusOK, res.StatusCode)
			assert.Equal(t, "alice", res.body)
			for _, set := range res.sessionCookies() {
				given[set.Value]++
			}
		}
		require.Len(t, given, 1, "new tokens")
		for renewed, times := range given {
			assert.NotEqual(t, cookie, renewed)
			assert.Equal(t, len(replies), times, "every answer brings the new token")
			for i := 0; i < len(replies); i += 2 {
				assert.Equal(t, "here", c[i%3].raw(fmt.Sprintf("/get?name=value-%d", i), cookieName+"="+renewed).body)
			}
		}
		// One that comes later with the old cookie, in its grace, is told as well.
		late := c[1].raw("/user", cookieName+"="+cookie)
		assert.Equal(t, "alice", late.body)
		require.Len(t, late.sessionCookies(), 1)
		assert.Contains(t, given, late.sessionCookies()[0].Value)
	})
}

// A token is not renewed again while the one before it is in its grace: else who
// still has that would be nobody in the middle of the grace.
func TestAGraceIsNotCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, session.NewMemoryStore(), &session.Options{RenewEvery: 5 * time.Second})
		old := logIn(t, m, "alice")
		time.Sleep(5 * time.Second)
		inFlight := m.Load(request(old))
		_, err := inFlight.User(t.Context())
		require.NoError(t, err)
		cookie, renewed := old, 0
		for range 29 { // of the 30 s that are the default
			s := m.Load(request(cookie))
			user, err := s.User(t.Context())
			require.NoError(t, err)
			require.Equal(t, "alice", user)
			if c := commit(t, m, s); c != nil {
				cookie = c.Value
				renewed++
			}
			time.Sleep(time.Second)
			user, err = m.Load(request(old)).User(t.Context())
			require.NoError(t, err)
			require.Equal(t, "alice", user, "the grace is not over")
		}
		assert.Equal(t, 1, renewed)
		require.NoError(t, inFlight.Set(t.Context(), "a", "1"))
		require.NoError(t, m.Commit(t.Context(), inFlight, http.Header{}), "a write that was under way when the token was renewed")

		time.Sleep(time.Second)
		s := m.Load(request(cookie))
		_, err = s.User(t.Context())
		require.NoError(t, err)
		require.NotNil(t, commit(t, m, s), "after the grace it is time for the next token")
	})
}

// While a server that is slow renews the token, whoever comes with the old one is
// authenticated, and what was under way is written.
func TestNobodyIsAnonymousDuringASlowRotation(t *testing.T) {
	proxy, rdb := flaky(t, &redis.Options{MaxRetries: -1})
	prefix := redistest.Prefix(t)
	slow := newSite(t, redisstore.New(rdb, &redisstore.Options{Prefix: prefix}), rotating(time.Hour))
	quick := newSite(t, redisstore.New(redistest.Standalone(t).Client(t), &redisstore.Options{Prefix: prefix}), rotating(time.Hour))
	b := slow.browser()
	b.ok("/login?user=alice")
	b.ok("/user") // the connections are open, and a pipeline's
	cookie := aged(slow)
	old := slow.with(cookie)
	entered, release := make(chan struct{}), make(chan struct{})
	quick.handle("/begun-before", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
		_, err := sess.User(r.Context())
		assert.NoError(t, err)
		entered <- struct{}{}
		<-release
		return sess.Set(r.Context(), "begun", "before")
	})
	written := make(chan reply)
	go func() { written <- quick.with(cookie).get("/begun-before") }()
	within(t, entered)

	proxy.SetLatency(150 * time.Millisecond)
	rotated := make(chan reply)
	go func() { rotated <- old.get("/user") }() // a load and a rotation: 300 ms at least
	var running sync.WaitGroup
	var done atomic.Bool
	var asked atomic.Int64
	for i := range 4 {
		running.Go(func() {
			for asked.Add(1); !done.Load(); asked.Add(1) {
				s := []*site{slow, quick}[i%2]
				res := s.raw("/user", cookieName+"="+cookie)
				assert.Equal(t, http.StatusOK, res.StatusCode)
				if !assert.Equal(t, "alice", res.body, "a request during the rotation was anonymous") {
					return
				}
			}
		})
	}
	res := within(t, rotated)
	assert.Equal(t, "alice", res.body)
	close(release)
	assert.Equal(t, http.StatusOK, within(t, written).StatusCode)
	done.Store(true)
	running.Wait()
	assert.Greater(t, asked.Load(), int64(4))
	proxy.SetLatency(0)
	require.NotEqual(t, cookie, old.cookie(), "the token was renewed")
	assert.Equal(t, "before", old.ok("/get?name=begun"))
}

// When the grace is over the old token is nobody's, and is told once to be stolen,
// whatever server it comes to.
func TestAnOldTokenAfterItsGrace(t *testing.T) {
	for _, revoke := range []bool{false, true} {
		t.Run(fmt.Sprintf("RevokeOnTheft %v", revoke), func(t *testing.T) {
			t.Parallel()
			onBothStores(t, func(t *testing.T, store session.Store) {
				t.Parallel()
				var mu sync.Mutex
				events := map[session.Kind][]string{}
				o := rotating(time.Second)
				o.RevokeOnTheft = revoke
				o.Observe = func(_ context.Context, e session.Event) {
					mu.Lock()
					defer mu.Unlock()
					events[e.Kind] = append(events[e.Kind], e.ID)
				}
				var c cluster
				for range 3 {
					c = append(c, newSite(t, store, o))
				}
				old := aged(c[0])
				renewed := c[0].raw("/user", cookieName+"="+old).sessionCookies()[0].Value

				// Asked with the new token only, so that nobody meets the end of
				// the grace by chance.
				time.Sleep(1100 * time.Millisecond)
				var running sync.WaitGroup
				for i := range 20 {
					running.Go(func() {
						res := c[i%3].raw("/user", cookieName+"="+old)
						assert.Equal(t, http.StatusOK, res.StatusCode)
						assert.Empty(t, res.body, "the old token is good for nothing")
						assert.Empty(t, res.sessionCookies())
					})
				}
				running.Wait()
				mu.Lock()
				assert.Equal(t, []string{old[:24]}, events[session.Theft], "exactly one event")
				mu.Unlock()
				want := "alice"
				if revoke {
					want = ""
				}
				for _, s := range c {
					assert.Equal(t, want, s.raw("/user", cookieName+"="+renewed).body)
				}
			})
		})
	}
}

// The answer that brought a new token is lost: in its grace the old one still finds
// the session, and its client is told the same new token.
func TestTheAnswerOfARotationIsLost(t *testing.T) {
	onThreeServers(t, rotating(time.Hour), func(t *testing.T, c cluster) {
		old := aged(c[0])
		b := c[0].with(old)
		lost := c[1].raw("/set?name=a&value=1", cookieName+"="+old)
		require.Len(t, lost.sessionCookies(), 1)
		b.at(c[2]).ok("/set?name=b&value=2")
		assert.Equal(t, lost.sessionCookies()[0].Value, b.cookie())
		assert.Equal(t, "1", b.ok("/get?name=a"))
		assert.Equal(t, "2", b.at(c[1]).ok("/get?name=b"))
	})
}

// The answer of Redis to a rotation is lost: the page comes all the same, and so
// does, with the next one, the token.
func TestTheReplyToARotationIsLost(t *testing.T) {
	proxy, rdb := flaky(t, &redis.Options{MaxRetries: -1})
	prefix := redistest.Prefix(t)
	s := newSite(t, redisstore.New(rdb, &redisstore.Options{Prefix: prefix}), rotating(time.Hour))
	cookie := aged(s)
	s.handle("/cut", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
		user, err := sess.User(r.Context())
		assert.NoError(t, err)
		proxy.SetLatency(time.Hour)
		go func() {
			direct := redistest.Standalone(t).Client(t)
			key := prefix + "{" + cookie[:4] + "}" + cookie[4:24]
			assert.Eventually(t, func() bool { return lookInto(direct.Get(context.Background(), key).Val()).graceEnds > 0 }, 20*time.Second, time.Millisecond)
			proxy.SetLatency(0)
			proxy.Cut()
		}()
		_, err = io.WriteString(w, user)
		return err
	})
	res := s.raw("/cut", cookieName+"="+cookie)
	assert.Equal(t, "alice", res.body)
	assert.Empty(t, res.sessionCookies())
	require.Eventually(t, func() bool { // other connections were cut as well
		res = s.raw("/user", cookieName+"="+cookie)
		return res.StatusCode == http.StatusOK
	}, 20*time.Second, time.Millisecond)
	assert.Equal(t, "alice", res.body)
	require.Len(t, res.sessionCookies(), 1)
	assert.Equal(t, "alice", s.raw("/user", cookieName+"="+res.sessionCookies()[0].Value).body)
}

// A browser that has kept both cookies, for two paths, is no thief.
func TestBothTokensOfASessionAreNoTheft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		thefts := 0
		m := newManager(t, session.NewMemoryStore(), &session.Options{
			RenewEvery: time.Second, RenewGrace: time.Second, RevokeOnTheft: true,
			Observe: func(_ context.Context, e session.Event) {
				if e.Kind == session.Theft {
					thefts++
				}
			},
		})
		old := logIn(t, m, "alice")
		time.Sleep(2 * time.Second)
		s := m.Load(request(old))
		_, err := s.User(t.Context())
		require.NoError(t, err)
		current := commit(t, m, s).Value
		time.Sleep(time.Second) // the grace
		r := request(old)
		r.Header.Set("Cookie", r.Header.Get("Cookie")+"; "+cookieName+"="+current)
		user, err := m.Load(r).User(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "alice", user)
		assert.Zero(t, thefts)
		user, err = m.Load(request(current)).User(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "alice", user, "the session lives")
	})
}

// A thief who keeps a session in use renews its token. The owner, who comes back
// later, has one from several renewals ago.
func TestATokenFromSeveralRenewalsAgoIsATheft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		thefts := 0
		m := newManager(t, session.NewMemoryStore(), &session.Options{
			RenewEvery: time.Minute, RenewGrace: time.Second, RevokeOnTheft: true,
			Observe: func(_ context.Context, e session.Event) {
				if e.Kind == session.Theft {
					thefts++
				}
			},
		})
		owners := logIn(t, m, "alice")
		thiefs := owners
		for range 5 {
			time.Sleep(2 * time.Minute)
			s := m.Load(request(thiefs))
			user, err := s.User(t.Context())
			require.NoError(t, err)
			require.Equal(t, "alice", user)
			thiefs = commit(t, m, s).Value
		}
		assert.Empty(t, visit(t, m, owners))
		assert.Equal(t, 1, thefts)
		assert.Empty(t, visit(t, m, thiefs), "the session is revoked for both")
		assert.Empty(t, visit(t, m, owners))
		assert.Equal(t, 1, thefts, "it is told once")
	})
}

// A library that takes the connection over most often sends a header of its own: a new token
// that nobody has asked for would never get to the client, and the old one would be taken for
// stolen soon.
func TestNoTokenIsRenewedAtAnUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, session.NewMemoryStore(), &session.Options{RenewEvery: time.Minute, IdleTimeout: time.Hour})
		s := m.Load(request(""))
		require.NoError(t, s.Set(t.Context(), "cart", "book"))
		cookie := commit(t, m, s).Value
		time.Sleep(2 * time.Minute)

		ask := func(status int) http.Header {
			w := httptest.NewRecorder()
			m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var v string
				_, err := session.FromContext(r.Context()).Get(r.Context(), "cart", &v)
				assert.NoError(t, err)
				assert.Equal(t, "book", v)
				w.WriteHeader(status)
			})).ServeHTTP(w, request(cookie))
			return w.Header()
		}
		assert.Empty(t, ask(http.StatusSwitchingProtocols)["Set-Cookie"])
		assert.Len(t, ask(http.StatusNoContent)["Set-Cookie"], 1, "it is due")
	})
}

// Whoever presents a stolen token does not keep the session by hanging up.
func TestATheftIsAnsweredAlsoIfTheClientLeaves(t *testing.T) {
	var clock sessiontest.Clock
	leave := func() {}
	s := newSite(t, session.NewMemoryStoreWithClock(clock.Now), &session.Options{
		RenewEvery: time.Minute, RevokeOnTheft: true,
		Observe: func(_ context.Context, e session.Event) {
			if e.Kind == session.Theft {
				leave()
			}
		},
	})
	b := s.browser()
	b.ok("/login?user=alice")
	old := b.cookie()
	clock.Advance(2 * time.Minute)
	b.ok("/user")
	require.NotEqual(t, old, b.cookie())
	clock.Advance(2 * time.Minute)

	ctx, cancel := context.WithCancel(t.Context())
	leave = cancel
	r := httptest.NewRequest("GET", s.URL+"/user", nil).WithContext(ctx)
	r.Header.Set("Cookie", cookieName+"="+old)
	s.Config.Handler.ServeHTTP(httptest.NewRecorder(), r)
	assert.ErrorIs(t, ctx.Err(), context.Canceled)
	assert.Empty(t, b.ok("/user"))
}

// A Commit behind the header tells no token, and so renews none.
func TestACommitAfterTheHeaderRenewsNothing(t *testing.T) {
	var clock sessiontest.Clock
	m := newManager(t, session.NewMemoryStoreWithClock(clock.Now), &session.Options{RenewEvery: time.Minute, RevokeOnTheft: true})
	r := sessiontest.Request(t, m, httptest.NewRequest("GET", "/", nil), func(ctx context.Context, s *session.Session) error {
		return s.Login(ctx, "alice")
	})
	for range 3 {
		clock.Advance(2 * time.Minute)
		s := m.Load(r)
		user, err := s.User(r.Context())
		require.NoError(t, err)
		require.Equal(t, "alice", user)
		require.NoError(t, m.Commit(r.Context(), s, nil))
	}
}
