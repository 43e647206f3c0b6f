package responsecache_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herdless/herdless/middleware"
	"github.com/herdless/herdless/responsecache"
	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A page that shows who is logged in is nobody else's, whichever of the two
// stands outside, and even on a route that wrongly claims to be public.
func TestASessionAndTheCacheInEitherOrder(t *testing.T) {
	for _, outside := range []string{"cache", "session"} {
		for _, public := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s outside, Public: %v", outside, public), func(t *testing.T) {
				sessions, err := session.New(session.NewMemoryStore(), &session.Options{DangerouslyAllowHTTP: true})
				require.NoError(t, err)
				route := newCache(t, memoryStores(t), responsecache.Options{}).With(responsecache.Policy{TTL: time.Minute, Public: public})
				chain := middleware.Chain(route.Handler, sessions.Handler)
				if outside == "session" {
					chain = middleware.Chain(sessions.Handler, route.Handler)
				}
				s := newServer(t, chain(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					current := session.FromContext(r.Context())
					switch r.URL.Path {
					case "/login":
						assert.NoError(t, current.Login(r.Context(), r.URL.Query().Get("user")))
					case "/plain":
						fmt.Fprintf(w, "made at %v", time.Now())
					default:
						user, err := current.User(r.Context())
						assert.NoError(t, err)
						time.Sleep(5 * time.Millisecond)
						fmt.Fprintf(w, "hello %q", user)
					}
				})))

				cookies := map[string]string{}
				for _, user := range []string{"ada", "bob"} {
					// A login must not be a GET; if it is, the cache must not
					// hand one user's cookie to another all the same.
					set := s.get(t, "/login?user="+user).header.Get("Set-Cookie")
					require.NotEmpty(t, set)
					cookies[user], _, _ = strings.Cut(set, ";")
				}
				again := s.get(t, "/login?user=ada").header.Get("Set-Cookie")
				assert.NotEmpty(t, again)
				assert.NotContains(t, again, cookies["ada"])

				var wg sync.WaitGroup
				for range 10 {
					for user, cookie := range cookies {
						wg.Go(func() {
							assert.Equal(t, fmt.Sprintf("hello %q", user), s.get(t, "/hello", "Cookie", cookie).body)
						})
					}
				}
				wg.Wait()
				assert.Equal(t, `hello ""`, s.get(t, "/hello").body)

				plain := s.get(t, "/plain")
				assert.Equal(t, plain.body, s.get(t, "/plain").body, "a page that leaves the session alone is shared")
				if public {
					assert.Equal(t, plain.body, s.get(t, "/plain", "Cookie", cookies["ada"]).body)
				}
			})
		}
	}
}

// A refresh in the background is not made with the request of a user whom middleware outside
// has found out: the session, which keeps such a page out in the foreground, does not see it.
func TestARefreshIsNoUsersPage(t *testing.T) {
	type userKey struct{}
	for _, test := range []struct {
		name    string
		session session.Options
		options responsecache.Options
		public  bool
	}{
		{name: "token in a field", session: session.Options{Header: "X-Session-Token"}},
		{name: "cookie, Conformance", session: session.Options{DangerouslyAllowHTTP: true}, options: responsecache.Options{Profile: responsecache.Conformance}},
		{name: "cookie, Public", session: session.Options{DangerouslyAllowHTTP: true}, public: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			sessions, err := session.New(session.NewMemoryStore(), &test.session)
			require.NoError(t, err)
			c := newCache(t, memoryStores(t), test.options)
			page := c.With(responsecache.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour, Public: test.public}).Handler(
				counting(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%v's ", r.Context().Value(userKey{})) }))
			s := newServer(t, sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				current, user := session.FromContext(r.Context()), "nobody"
				if r.Method == http.MethodPost {
					assert.NoError(t, current.Login(r.Context(), "ada"))
					return
				}
				if r.Header.Get("Cookie")+r.Header.Get("X-Session-Token") != "" {
					var err error
					user, err = current.User(r.Context())
					assert.NoError(t, err)
				}
				page.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, user)))
			})))
			login := s.do(t, t.Context(), http.MethodPost, "/login").header
			cookie, _, _ := strings.Cut(login.Get("Set-Cookie"), ";")
			field := []string{"Cookie", cookie}
			if cookie == "" {
				field = []string{"X-Session-Token", login.Get("X-Session-Token")}
			}
			require.NotEmpty(t, field[1])

			require.Equal(t, "nobody's run 1", s.get(t, "/page").body)
			require.NoError(t, c.SoftPurge(t.Context(), "http://example.com/page"))
			require.Equal(t, "nobody's run 1", s.get(t, "/page", field...).body)
			next := ""
			await(t, "the page is made anew", func() bool { next = s.get(t, "/page").body; return next != "nobody's run 1" })
			assert.Equal(t, "nobody's run 2", next)
		})
	}
}

// What tells the cache that the page is as it was, or stands for it, may be for one user all
// the same, with fields that are that one's.
func TestWhatUpdatesAPageMayBeAUsers(t *testing.T) {
	for _, test := range []struct {
		name, method, body string
	}{
		{"200", http.MethodGet, "page"},
		{"304", http.MethodGet, "page"},
		{"HEAD", http.MethodHead, "page"},
		{"HEAD without a body", http.MethodHead, ""},
		{"POST", http.MethodPost, "page"},
		{"POST without a body", http.MethodPost, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			sessions, err := session.New(session.NewMemoryStore(), &session.Options{Header: "X-Session-Token"})
			require.NoError(t, err)
			c := newCache(t, memoryStores(t), responsecache.Options{})
			mux := http.NewServeMux()
			mux.HandleFunc("POST /login", func(_ http.ResponseWriter, r *http.Request) {
				assert.NoError(t, session.FromContext(r.Context()).Login(r.Context(), "ada"))
			})
			mux.Handle("/page", c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Session-Token") != "" {
					user, err := session.FromContext(r.Context()).User(r.Context())
					assert.NoError(t, err)
					w.Header().Set("X-User", user)
				}
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Content-Location", "/page")
				w.Header().Set("ETag", `"v1"`)
				switch {
				case test.name == "304" && r.Header.Get("If-None-Match") == `"v1"`:
					w.WriteHeader(http.StatusNotModified)
				case r.Method == http.MethodGet:
					fmt.Fprint(w, "page")
				case test.body != "":
					fmt.Fprint(w, test.body)
				}
			})))
			s := newServer(t, sessions.Handler(mux))
			token := s.do(t, t.Context(), http.MethodPost, "/login").header.Get("X-Session-Token")
			require.NotEmpty(t, token)
			s.get(t, "/page")
			require.Contains(t, s.get(t, "/page").cacheStatus(), "hit")
			mine := s.do(t, t.Context(), test.method, "/page", "X-Session-Token", token, "Cache-Control", "no-cache").header
			assert.Equal(t, "ada", mine.Get("X-User"))
			assert.Contains(t, mine.Get("Cache-Control"), "private")
			assert.Empty(t, s.get(t, "/page").header.Get("X-User"))
		})
	}
}
