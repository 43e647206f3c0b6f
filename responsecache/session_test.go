package responsecache_test

import (
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
