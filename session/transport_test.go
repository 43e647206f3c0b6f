package session_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// carriers are the ways in which a token travels: in a request, and back in a
// response, which tells "" for none and "gone" where it is taken back.
var carriers = map[string]struct {
	header string // Options.Header
	vary   string
	put    func(r *http.Request, token string)
	got    func(res *http.Response) string
}{
	"cookie": {
		vary: "Cookie",
		put:  func(r *http.Request, token string) { r.Header.Add("Cookie", cookieName+"="+token) },
		got: func(res *http.Response) string {
			set := reply{Response: res}.sessionCookies()
			switch {
			case len(set) == 0:
				return ""
			case set[0].MaxAge < 0:
				return "gone"
			}
			return set[0].Value
		},
	},
	"header": {
		header: "x-session", vary: "X-Session",
		put: func(r *http.Request, token string) { r.Header.Add("X-Session", token) },
		got: func(res *http.Response) string { return told(res, "X-Session") },
	},
	"bearer": {
		header: "Authorization", vary: "Authorization",
		put: func(r *http.Request, token string) { r.Header.Add("Authorization", "bearer "+token) },
		got: func(res *http.Response) string { return told(res, "Session-Token") },
	},
}

func told(res *http.Response, field string) string {
	values, ok := res.Header[field]
	switch {
	case !ok:
		return ""
	case values[0] == "":
		return "gone"
	}
	return strings.Join(values, "|")
}

// send sends a request with the tokens, unchanged.
func (s *site) send(path string, put func(r *http.Request, token string), tokens ...string) reply {
	s.t.Helper()
	req := httptest.NewRequest(http.MethodGet, s.URL+path, nil)
	for _, token := range tokens {
		put(req, token)
	}
	rec := httptest.NewRecorder()
	s.Config.Handler.ServeHTTP(rec, req)
	return reply{rec.Result(), rec.Body.String()}
}

// A session by whichever carrier, from its beginning to its end.
func TestCarriers(t *testing.T) {
	for name, c := range carriers {
		t.Run(name, func(t *testing.T) {
			onBothStores(t, func(t *testing.T, store session.Store) {
				s := newSite(t, store, &session.Options{Header: c.header})
				res := s.send("/set?name=a&value=1", c.put)
				first := c.got(res.Response)
				require.Len(t, first, 73)
				res = s.send("/login?user=alice", c.put, first)
				token := c.got(res.Response)
				require.Len(t, token, 73)
				require.NotEqual(t, first, token)

				res = s.send("/user", c.put, token)
				assert.Equal(t, "alice", res.body)
				assert.Empty(t, c.got(res.Response), "a client that has the token is not told again")
				assert.Equal(t, "private", res.Header.Get("Cache-Control"))
				assert.Equal(t, c.vary, res.Header.Get("Vary"))
				assert.Empty(t, s.send("/plain", c.put, token).Header.Get("Vary"))
				assert.Equal(t, "alice", s.send("/user", c.put, "garbage", first, token).body, "the bad ones come first")
				if c.header != "" {
					assert.Empty(t, s.raw("/user", cookieName+"="+token).body, "there is no cookie")
					assert.Empty(t, res.Cookies())
				}

				assert.Equal(t, "gone", c.got(s.send("/logout", c.put, token).Response))
				assert.Empty(t, s.send("/user", c.put, token).body)
			})
		})
	}
	t.Run("another scheme than Bearer", func(t *testing.T) {
		c := carriers["bearer"]
		s := newSite(t, session.NewMemoryStore(), &session.Options{Header: c.header})
		token := c.got(s.send("/login?user=alice", c.put).Response)
		for _, value := range []string{token, "Basic " + token, "Bearer", "Bearer" + token, "Bearer " + token + " x"} {
			res := s.send("/user", func(r *http.Request, v string) { r.Header.Set("Authorization", v) }, value)
			assert.Empty(t, res.body, value)
		}
		assert.Equal(t, "alice", s.send("/user", c.put, token).body)
	})
}

func TestHostileTokens(t *testing.T) {
	for carrier, c := range carriers {
		t.Run(carrier, func(t *testing.T) {
			onBothStores(t, func(t *testing.T, store session.Store) {
				s := newSite(t, store, &session.Options{Header: c.header})
				good := c.got(s.send("/login?user=alice", c.put).Response)
				s.spy.calls()
				hostile := map[string]string{
					"empty": "", "dot": ".", "6 kB": strings.Repeat("A", 6<<10), "6 kB of the right beginning": good + strings.Repeat("A", 6<<10),
					"NUL": good[:30] + "\x00" + good[31:], "NUL behind": good + "\x00", "not UTF-8": good[:30] + "\xff" + good[31:],
					"percent": strings.Replace(good, ".", "%2e", 1), "quoted inside": good[:30] + `"` + good[31:],
					"no dot": strings.Replace(good, ".", "A", 1), "two dots": good[:30] + "." + good[31:],
					"standard base64": strings.Repeat("+/", 12) + "." + strings.Repeat("+/", 24),
					"other checksum":  good[:72] + string(good[72]^1), "other secret": good[:27] + string(good[27]^1) + good[28:],
					"other id": string(good[0]^1) + good[1:], "truncated": good[:72], "longer": good + "A",
					"line break": good[:30] + "\n" + good[31:], "spaces": " " + good[1:], "twice": good + good, "twice with a comma": good + "," + good,
					// With a checksum that somebody computed:
					"padding bits": session.TokenFor(strings.Repeat("A", 23)+"=", make([]byte, 32)),
					"braces":       session.TokenFor("{"+strings.Repeat("A", 22)+"}", make([]byte, 32)),
				}
				for name, value := range hostile {
					for _, path := range []string{"/user", "/get?name=a"} {
						res := s.send(path, c.put, value)
						assert.Equal(t, 200, res.StatusCode, name)
						assert.Empty(t, res.body, "%s: nothing may come of it", name)
						assert.Empty(t, c.got(res.Response), name)
						if value != "" {
							assert.NotContains(t, fmt.Sprint(res.Header), value, "%s: nothing may be reflected", name)
						}
						assert.Equal(t, [3]int64{}, s.spy.calls(), "%s: no round trip", name)
					}
					res := s.send("/set?name=a&value=1", c.put, value)
					got := c.got(res.Response)
					require.Len(t, got, 73, name)
					assert.NotEqual(t, good[:24], got[:24], "%s: a session of our own making", name)
					s.spy.calls()
				}

				many := make([]string, 200)
				for i := range many {
					many[i] = fmt.Sprintf("%s%03d", good[:70], i)
				}
				s.send("/user", c.put, many...)
				assert.Equal(t, [3]int64{}, s.spy.calls(), "200 tokens")
				assert.Equal(t, "alice", s.send("/user", c.put, append(many, good)...).body, "and a good one behind them")
				s.spy.calls()
				for i := range many {
					many[i] = session.TokenFor(good[:24], fmt.Appendf(nil, "%032d", i))
				}
				s.send("/user", c.put, many...)
				assert.Equal(t, [3]int64{4, 0, 0}, s.spy.calls(), "200 tokens whose checksum somebody computed must cost four loads at most")

				assert.Equal(t, "gone", c.got(s.send("/logout", c.put, "<script>").Response), "a logout must make the client forget a bad token too")
				assert.Equal(t, [3]int64{}, s.spy.calls())
				assert.NotContains(t, s.logs.String(), good[25:33], "no secret may be logged")
			})
		})
	}
}

// What a program with two Managers, in one store and with one key, gets.
func TestManagersKeepApart(t *testing.T) {
	onBothStores(t, func(t *testing.T, store session.Store) {
		for name, o := range map[string][2]session.Options{
			"cookies":           {{Name: "shop"}, {Name: "admin"}},
			"cookie and header": {{Name: "shop"}, {Name: "api", Header: "Authorization"}},
			"headers":           {{Name: "shop", Header: "X-Shop"}, {Name: "admin", Header: "X-Admin"}},
		} {
			t.Run(name, func(t *testing.T) {
				var m [2]*session.Manager
				for i := range m {
					m[i] = newManager(t, store, &o[i])
				}
				users := [2]string{"alice", "root"}
				h := m[0].Handler(m[1].Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					page := ""
					for i := range m {
						s := m[i].Session(r.Context())
						if r.URL.Path == "/login" {
							assert.NoError(t, s.Login(r.Context(), users[i]))
						}
						user, err := s.User(r.Context())
						assert.NoError(t, err)
						page += user + " "
					}
					fmt.Fprint(w, page)
				})))
				serve := func(r *http.Request) *http.Response {
					w := httptest.NewRecorder()
					h.ServeHTTP(w, r)
					return w.Result()
				}
				put := func(r *http.Request, i int, token string) {
					switch header := o[i].Header; header {
					case "":
						r.AddCookie(&http.Cookie{Name: "__Host-" + o[i].Name, Value: token})
					case "Authorization":
						r.Header.Set(header, "Bearer "+token)
					default:
						r.Header.Set(header, token)
					}
				}
				res := serve(httptest.NewRequest(http.MethodGet, "/login", nil))
				assert.Equal(t, "private", res.Header.Get("Cache-Control"))
				var tokens [2]string
				for i := range m {
					switch header := o[i].Header; header {
					case "":
						for _, c := range res.Cookies() {
							if c.Name == "__Host-"+o[i].Name {
								tokens[i] = c.Value
							}
						}
						assert.Contains(t, strings.Join(res.Header["Vary"], ","), "Cookie")
					case "Authorization":
						tokens[i] = told(res, "Session-Token")
						assert.Contains(t, strings.Join(res.Header["Vary"], ","), header)
					default:
						tokens[i] = told(res, header)
						assert.Contains(t, strings.Join(res.Header["Vary"], ","), header)
					}
					require.Len(t, tokens[i], 73, "the token of %s", o[i].Name)
				}
				see := func(first, second string) string {
					r := httptest.NewRequest(http.MethodGet, "/", nil)
					put(r, 0, first)
					put(r, 1, second)
					w := httptest.NewRecorder()
					h.ServeHTTP(w, r)
					return w.Body.String()
				}
				assert.Equal(t, "alice root ", see(tokens[0], tokens[1]))
				assert.Equal(t, "  ", see(tokens[1], tokens[0]), "a token of one Manager is nothing to the other")

				// Users of one name are not the same user, either.
				for i := range m {
					infos, err := m[i].Sessions(t.Context(), users[1-i])
					require.NoError(t, err)
					assert.Empty(t, infos)
					n, err := m[i].RevokeAll(t.Context(), users[1-i])
					require.NoError(t, err)
					assert.Zero(t, n)
				}
				assert.Equal(t, "alice root ", see(tokens[0], tokens[1]))
			})
		}
	})
}

// Ten thousand visits and logouts of nobody, with no token or a bad one, leave
// nothing behind.
func TestAnonymousVisitsLeaveNothing(t *testing.T) {
	rdb := redistest.NewStandalone(t).Client(t)
	for name, store := range map[string]session.Store{"memory": session.NewMemoryStore(), "redis": redisstore.New(rdb, nil)} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, store, nil)
			paths := []string{"/plain", "/user", "/get?name=a", "/delete?name=a", "/renew", "/logout"}
			for i := range 10_000 {
				req := httptest.NewRequest([]string{http.MethodGet, http.MethodHead, http.MethodPost}[i%3], paths[i/3%len(paths)], nil)
				bad := i%7 == 0
				if bad {
					req.Header.Set("Cookie", cookieName+"=bad")
				}
				rec := httptest.NewRecorder()
				s.Config.Handler.ServeHTTP(rec, req)
				require.Equal(t, http.StatusOK, rec.Code)
				for _, c := range rec.Result().Cookies() {
					require.True(t, bad && c.MaxAge < 0, "%s %s set %v", req.Method, req.URL, c)
				}
			}
			assert.Equal(t, [3]int64{}, s.spy.calls(), "loads, commits, deletes")
		})
	}
	keys, err := rdb.DBSize(t.Context()).Result()
	require.NoError(t, err)
	assert.Zero(t, keys)
}

// A value of 4 MiB, however it comes, is refused with a typed error, and what is
// stored stays.
func TestAValueOfFourMebibytes(t *testing.T) {
	huge := strings.Repeat("x", 4<<20)
	ways := map[string]func(ctx context.Context, s *session.Session) error{
		"set":   func(ctx context.Context, s *session.Session) error { return s.Set(ctx, "a", huge) },
		"key":   func(ctx context.Context, _ *session.Session) error { return session.NewKey[string]("a").Set(ctx, huge) },
		"name":  func(ctx context.Context, s *session.Session) error { return s.Set(ctx, huge, 1) },
		"flash": func(ctx context.Context, s *session.Session) error { return s.AddFlash(ctx, "kind", huge) },
		"update": func(ctx context.Context, s *session.Session) error {
			return s.Update(ctx, "a", func(session.Value) (any, error) { return huge, nil })
		},
	}
	onBothStores(t, func(t *testing.T, store session.Store) {
		s := newSite(t, store, nil)
		for way, set := range ways {
			s.handle("/huge/"+way, func(w http.ResponseWriter, r *http.Request, sess *session.Session) error {
				err := set(r.Context(), sess)
				if assert.ErrorIs(t, err, session.ErrTooLarge, way) {
					http.Error(w, "too much", http.StatusRequestEntityTooLarge)
				}
				return nil
			})
		}
		b := s.browser()
		b.ok("/login?user=alice")
		b.ok("/set?name=a&value=old")
		cookie := b.cookie()
		for way := range ways {
			assert.Equal(t, http.StatusRequestEntityTooLarge, b.get("/huge/%s", way).StatusCode)
			assert.Equal(t, cookie, b.cookie())
			assert.Equal(t, "old", b.ok("/get?name=a"))
			assert.Equal(t, "alice", b.ok("/user"))

		}
		fresh := s.browser()
		assert.Equal(t, http.StatusRequestEntityTooLarge, fresh.get("/huge/set").StatusCode)
		assert.Empty(t, fresh.cookie(), "no session begins with what it cannot hold")
		b.ok("/set?name=a&value=new")
		assert.Equal(t, "new", b.ok("/get?name=a"))
	})
}
