package session_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patient gives the store time, where many ask it at once on a busy machine.
var patient = &session.Options{StoreTimeout: 20 * time.Second}

var (
	count = session.NewKey[int]("count")
	steps = session.NewKey[[]int]("steps")
)

// A hundred requests at once on three servers change the same values, and values
// of their own: no step is lost.
func TestAHundredRequestsAtOnceLoseNoStep(t *testing.T) {
	onThreeServers(t, patient, func(t *testing.T, c cluster) {
		c.handle("/step", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
			ctx := r.Context()
			var i int
			fmt.Sscan(r.FormValue("i"), &i)
			assert.NoError(t, sess.Set(ctx, "own-"+r.FormValue("i"), "here"))
			if _, err := sess.Add(ctx, "count", 1); !assert.NoError(t, err) {
				return err
			}
			if i%4 == 0 { // fewer, as each of them is overtaken by all others
				_, err := steps.Update(ctx, func(old []int) ([]int, error) { return append(old, i), nil })
				assert.NoError(t, err)
			}
			return nil
		})
		c.handle("/sum", func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
			n, err := count.Get(r.Context())
			assert.NoError(t, err)
			list, err := steps.Get(r.Context())
			assert.NoError(t, err)
			names, err := sess.Keys(r.Context())
			assert.NoError(t, err)
			own := slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, "own-") })
			slices.Sort(list)
			_, err = fmt.Fprint(w, n, " ", len(own), " ", slices.Compact(list))
			return err
		})
		b := c[0].browser()
		b.ok("/login?user=alice")
		var running sync.WaitGroup
		var want []int
		for i := range 100 {
			if i%4 == 0 {
				want = append(want, i)
			}
			running.Go(func() {
				res, err := b.Get(fmt.Sprintf("%s/step?i=%d", c[i%3].URL, i))
				if assert.NoError(t, err) {
					assert.Equal(t, http.StatusOK, res.StatusCode)
					res.Body.Close()
				}
			})
		}
		running.Wait()
		for _, s := range c {
			assert.Equal(t, fmt.Sprint(100, " ", 100, " ", want), b.at(s).ok("/sum"))
		}
	})
}

// A logout on one server while a request on another is slow: whatever that does
// then, the session is gone.
func TestALogoutOnAnotherServerIsFinal(t *testing.T) {
	o := *patient
	o.SlideEvery = 1e-9 // every read starts the idle time anew
	for name, tt := range map[string]struct {
		before, after func(r *http.Request, sess *session.Session) error
		status        int
	}{
		"write before, saved at the end": {
			before: func(r *http.Request, sess *session.Session) error { return sess.Set(r.Context(), "a", "2") },
			status: http.StatusUnauthorized,
		},
		"read before, write after": {
			after:  func(r *http.Request, sess *session.Session) error { return sess.Set(r.Context(), "a", "2") },
			status: http.StatusUnauthorized,
		},
		"read before and after": {
			after: func(r *http.Request, sess *session.Session) error {
				var v string
				found, err := sess.Get(r.Context(), "a", &v)
				if !found || v != "1" {
					return fmt.Errorf("the request must read on in what it has loaded, but found %v %q", found, v)
				}
				return err
			},
			status: http.StatusOK,
		},
		"Save": {
			after: func(r *http.Request, sess *session.Session) error {
				if err := sess.Set(r.Context(), "a", "2"); err != nil {
					return err
				}
				return wantGone(sess.Save(r.Context()))
			},
			status: http.StatusUnauthorized,
		},
		"Update": {
			after: func(r *http.Request, sess *session.Session) error {
				return wantGone(sess.Update(r.Context(), "a", func(session.Value) (any, error) { return "2", nil }))
			},
			status: http.StatusUnauthorized,
		},
		"Add": {
			after: func(r *http.Request, sess *session.Session) error {
				_, err := sess.Add(r.Context(), "n", 1)
				return wantGone(err)
			},
			status: http.StatusUnauthorized,
		},
		"Delete": {
			after:  func(r *http.Request, sess *session.Session) error { return sess.Delete(r.Context(), "a") },
			status: http.StatusUnauthorized,
		},
		"Renew": {
			after:  func(r *http.Request, sess *session.Session) error { return sess.Renew(r.Context()) },
			status: http.StatusUnauthorized,
		},
	} {
		t.Run(name, func(t *testing.T) {
			onThreeServers(t, &o, func(t *testing.T, c cluster) {
				b := c[0].browser()
				b.ok("/set?name=a&value=1")
				b.ok("/login?user=alice")
				token := b.cookie()
				entered, release, failed := make(chan error), make(chan struct{}), make(chan error, 1)
				c[0].handle("/overlaps", func(_ http.ResponseWriter, r *http.Request, sess *session.Session) error {
					_, err := sess.User(r.Context())
					if tt.before != nil {
						err = errors.Join(err, tt.before(r, sess))
					}
					entered <- err
					<-release
					err = nil
					if tt.after != nil {
						err = tt.after(r, sess)
					}
					failed <- err
					return nil
				})
				done := make(chan reply)
				go func() { done <- b.get("/overlaps") }()
				require.NoError(t, within(t, entered))
				c[1].with(token).ok("/logout")
				close(release)
				res := within(t, done)
				require.NoError(t, within(t, failed))
				assert.Equal(t, tt.status, res.StatusCode, res.body)
				assert.Empty(t, res.sessionCookies(), "no cookie for a session that is gone")
				for _, s := range c {
					assert.Empty(t, s.with(token).ok("/user"), "the old cookie must be anonymous")
					assert.Empty(t, s.with(token).ok("/get?name=a"))
				}
			})
		})
	}
}

// wantGone is nil if err is ErrGone.
func wantGone(err error) error {
	if errors.Is(err, session.ErrGone) {
		return nil
	}
	return fmt.Errorf("got %w, want ErrGone", err)
}

// What overlaps a logout leaves no key behind, nor a TTL: reads start the idle time
// anew and renew the token, which must not revive.
func TestAnOverlappedLogoutLeavesNoKey(t *testing.T) {
	for name, first := range map[string]func(r *http.Request, sess *session.Session) error{
		"write": func(r *http.Request, sess *session.Session) error { return sess.Set(r.Context(), "a", "2") },
		"read": func(r *http.Request, sess *session.Session) error {
			_, err := sess.User(r.Context())
			return err
		},
		"step up": func(r *http.Request, sess *session.Session) error { return sess.Login(r.Context(), "alice") },
	} {
		t.Run(name, func(t *testing.T) {
			rdb, prefix := redistest.Standalone(t).Client(t), redistest.Prefix(t)
			s := newSite(t, redisstore.New(rdb, &redisstore.Options{Prefix: prefix}), &session.Options{SlideEvery: 1e-9, RenewEvery: time.Nanosecond})
			b := s.browser()
			b.ok("/login?user=alice")
			b.ok("/set?name=a&value=1")
			logout := s.with(b.cookie())
			slowly(s, b, first, func() { logout.ok("/logout") })
			if name == "step up" {
				b.ok("/logout") // the password was given: it is a new session
			}
			keys, err := rdb.Keys(t.Context(), prefix+"*").Result()
			require.NoError(t, err)
			assert.Empty(t, keys)
		})
	}
}

// A long answer goes on long after it has read: what it sets then counts, also if it is what
// it has seen before.
func TestAValueThatIsSetLateIsNotTakenForTheOneBefore(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		m := newManager(t, store, nil)
		s := m.Load(request(""))
		require.NoError(t, s.Set(t.Context(), "theme", "light"))
		cookie := commit(t, m, s).Value
		other := func(change func(s *session.Session) error) {
			s := m.Load(request(cookie))
			require.NoError(t, change(s))
			commit(t, m, s)
		}
		theme := func() (v string) {
			_, err := m.Load(request(cookie)).Get(t.Context(), "theme", &v)
			require.NoError(t, err)
			return v
		}
		m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, ctx := session.FromContext(r.Context()), r.Context()
			var v string
			_, err := s.Get(ctx, "theme", &v)
			require.NoError(t, err)
			w.WriteHeader(http.StatusOK)
			other(func(s *session.Session) error { return s.Set(ctx, "theme", "dark") })
			require.NoError(t, s.Set(ctx, "theme", "light"))
			require.NoError(t, s.Save(ctx))
			assert.Equal(t, "light", theme())
			require.NoError(t, s.Delete(ctx, "theme"))
			require.NoError(t, s.Save(ctx))
			other(func(s *session.Session) error { return s.Set(ctx, "theme", "dark") })
			require.NoError(t, s.Delete(ctx, "theme"))
			require.NoError(t, s.Save(ctx))
			assert.Empty(t, theme())
		})).ServeHTTP(httptest.NewRecorder(), request(cookie))
	})
}
