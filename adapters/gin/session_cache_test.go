package ginadapter_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/responsecache"
	"github.com/herdless/herdless/session"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A page that depends on the session is for its own user only, whichever stands outside, the
// session or the cache, and whatever it takes for the header to go out: gin keeps it back.
func TestASessionAndTheCacheInEitherOrder(t *testing.T) {
	for _, outside := range []string{"cache", "session"} {
		t.Run(outside+" outside", func(t *testing.T) {
			sessions, err := session.New(session.NewMemoryStore(), &session.Options{Header: "X-Session-Token"})
			require.NoError(t, err)
			pages, err := responsecache.New(cache.NewMemoryStore(nil), nil)
			require.NoError(t, err)
			chain := []gin.HandlerFunc{
				ginadapter.Wrap(pages.With(responsecache.Policy{TTL: time.Minute}).Handler), ginadapter.Wrap(sessions.Handler),
			}
			if outside == "session" {
				chain[0], chain[1] = chain[1], chain[0]
			}
			e := gin.New()
			e.Use(chain...)
			user := func(c *gin.Context) string {
				name, err := ginadapter.Session(c).User(c)
				assert.NoError(t, err)
				return name
			}
			e.POST("/login", func(c *gin.Context) {
				assert.NoError(t, ginadapter.Session(c).Login(c, c.Query("user")))
			})
			e.GET("/string", func(c *gin.Context) { c.String(http.StatusOK, user(c)) })
			e.GET("/flush", func(c *gin.Context) {
				name := user(c)
				c.Status(http.StatusOK)
				c.Writer.Flush()
				fmt.Fprint(c.Writer, name)
			})
			e.GET("/empty", func(c *gin.Context) {
				c.Header("X-User", user(c))
				c.Status(http.StatusNoContent)
			})
			e.GET("/plain", func(c *gin.Context) { c.String(http.StatusOK, fmt.Sprint(time.Now().UnixNano())) })
			ask := func(method, path, token string) *httptest.ResponseRecorder {
				r := httptest.NewRequest(method, path, nil)
				if token != "" {
					r.Header.Set("X-Session-Token", token)
				}
				w := httptest.NewRecorder()
				e.ServeHTTP(w, r)
				return w
			}
			tokens := map[string]string{}
			for _, name := range []string{"ada", "bob"} {
				tokens[name] = ask(http.MethodPost, "/login?user="+name, "").Header().Get("X-Session-Token")
				require.NotEmpty(t, tokens[name])
			}
			for _, path := range []string{"/string", "/flush", "/empty"} {
				for range 2 {
					for _, name := range []string{"ada", "bob", ""} {
						w := ask(http.MethodGet, path, tokens[name])
						assert.Equal(t, name, w.Body.String()+w.Header().Get("X-User"), "%s: %v", path, w.Header())
						assert.Contains(t, w.Header().Get("Cache-Control"), "private", path)
					}
				}
			}
			assert.Equal(t, ask(http.MethodGet, "/plain", "").Body.String(), ask(http.MethodGet, "/plain", "").Body.String(), "what leaves the session alone is shared")
		})
	}
}
