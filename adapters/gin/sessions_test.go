package ginadapter_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/adapters/redisconn"
	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
)

// ginNodes starts three gin servers, the last of them with HTTP/1.1 and the others
// with HTTP/2, on the stores. Their handlers look at no error.
func ginNodes(t *testing.T, stores []session.Store, o session.Options, routes func(r *gin.Engine)) []*httptest.Server {
	t.Helper()
	var nodes []*httptest.Server
	for i, store := range stores {
		o.Logger = slog.New(slog.DiscardHandler)
		o.StoreTimeout = 20 * time.Second // for busy machines
		m, err := session.New(store, &o)
		require.NoError(t, err)
		r := gin.New()
		r.Use(ginadapter.Wrap(m.Handler))
		r.GET("/login", func(c *gin.Context) {
			_ = ginadapter.Session(c).Login(c.Request.Context(), c.Query("user"))
			c.Status(http.StatusNoContent)
		})
		r.GET("/user", func(c *gin.Context) {
			user, _ := ginadapter.Session(c).User(c.Request.Context())
			c.String(http.StatusOK, user)
		})
		r.GET("/set", func(c *gin.Context) {
			_ = ginadapter.Session(c).Set(c.Request.Context(), c.Query("name"), c.Query("value"))
			c.JSON(http.StatusOK, gin.H{"saved": true})
		})
		r.GET("/get", func(c *gin.Context) {
			var v string
			_, _ = ginadapter.Session(c).Get(c.Request.Context(), c.Query("name"), &v)
			c.String(http.StatusOK, v)
		})
		r.GET("/logout", func(c *gin.Context) {
			_ = ginadapter.Session(c).Destroy(c.Request.Context())
			c.Redirect(http.StatusSeeOther, "/user")
		})
		if routes != nil {
			routes(r)
		}
		s := httptest.NewUnstartedServer(r)
		s.EnableHTTP2 = i < 2
		s.StartTLS()
		t.Cleanup(s.Close)
		nodes = append(nodes, s)
	}
	return nodes
}

// ask sends a request with the cookie, and returns the status, the body and the
// cookie that comes back.
func ask(t *testing.T, node *httptest.Server, path, cookie string) (status int, body, set string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, node.URL+path, nil)
	require.NoError(t, err)
	if cookie != "" {
		req.AddCookie(&http.Cookie{Name: "__Host-session", Value: cookie})
	}
	res, err := node.Client().Transport.RoundTrip(req) // follows no redirect
	if !assert.NoError(t, err) {
		return 0, "", ""
	}
	defer res.Body.Close()
	buf := make([]byte, 1<<10)
	n, _ := res.Body.Read(buf)
	for _, c := range res.Cookies() {
		set = c.Value
	}
	return res.StatusCode, string(buf[:n]), set
}

func onEachStore(t *testing.T, test func(t *testing.T, stores []session.Store)) {
	t.Run("memory", func(t *testing.T) {
		store := session.NewMemoryStore()
		test(t, []session.Store{store, store, store})
	})
	t.Run("redis", func(t *testing.T) {
		prefix := redistest.Prefix(t)
		var stores []session.Store
		for range 3 {
			stores = append(stores, redisstore.New(redistest.Standalone(t).Client(t), &redisstore.Options{Prefix: prefix}))
		}
		test(t, stores)
	})
}

// What sessions promise holds in gin as well: no step of many at once is lost, a
// logout elsewhere is final, and a login ends the old token everywhere.
func TestSessionsOfGinOverlap(t *testing.T) {
	onEachStore(t, func(t *testing.T, stores []session.Store) {
		entered, release := make(chan struct{}), make(chan struct{})
		nodes := ginNodes(t, stores, session.Options{}, func(r *gin.Engine) {
			r.GET("/add", func(c *gin.Context) {
				sum, err := ginadapter.Session(c).Add(c.Request.Context(), "n", 1)
				assert.NoError(t, err)
				c.String(http.StatusOK, "%d", sum)
			})
			r.GET("/slow", func(c *gin.Context) {
				assert.NoError(t, ginadapter.Session(c).Set(c.Request.Context(), "a", "slow"))
				entered <- struct{}{}
				<-release
				assert.ErrorIs(t, ginadapter.Session(c).Save(c.Request.Context()), session.ErrGone)
				c.JSON(http.StatusOK, gin.H{"saved": true})
			})
		})
		_, _, visitor := ask(t, nodes[0], "/set?name=a&value=1", "")
		_, _, cookie := ask(t, nodes[1], "/login?user=alice", visitor)
		for _, node := range nodes {
			_, user, _ := ask(t, node, "/user", visitor)
			assert.Empty(t, user, "the token from before the login is dead")
		}
		var running sync.WaitGroup
		for i := range 30 {
			running.Go(func() {
				status, _, _ := ask(t, nodes[i%3], "/add", cookie)
				assert.Equal(t, http.StatusOK, status)
				status, _, _ = ask(t, nodes[(i+1)%3], fmt.Sprintf("/set?name=own-%d&value=here", i), cookie)
				assert.Equal(t, http.StatusOK, status)
			})
		}
		running.Wait()
		_, sum, _ := ask(t, nodes[2], "/add", cookie)
		assert.Equal(t, "31", sum)
		for i := range 30 {
			_, own, _ := ask(t, nodes[i%3], fmt.Sprintf("/get?name=own-%d", i), cookie)
			assert.Equal(t, "here", own)
		}

		running.Go(func() {
			status, body, set := ask(t, nodes[0], "/slow", cookie)
			assert.Equal(t, http.StatusUnauthorized, status)
			assert.NotContains(t, body, "saved")
			assert.Empty(t, set)
		})
		<-entered
		status, _, _ := ask(t, nodes[2], "/logout", cookie)
		assert.Equal(t, http.StatusSeeOther, status)
		close(release)
		running.Wait()
		for _, node := range nodes {
			_, user, _ := ask(t, node, "/user", cookie)
			assert.Empty(t, user)
		}
	})
}

// Twenty requests at once in gin agree on one new token.
func TestATokenIsRenewedOnceInGin(t *testing.T) {
	onEachStore(t, func(t *testing.T, stores []session.Store) {
		nodes := ginNodes(t, stores, session.Options{RenewEvery: time.Nanosecond, RenewGrace: time.Hour}, nil)
		_, _, cookie := ask(t, nodes[0], "/login?user=alice", "")
		time.Sleep(3 * time.Millisecond) // the clock of Redis counts milliseconds
		var running sync.WaitGroup
		var mu sync.Mutex
		given := map[string]bool{}
		for i := range 20 {
			running.Go(func() {
				status, body, set := ask(t, nodes[i%3], "/user", cookie)
				assert.Equal(t, http.StatusOK, status)
				assert.Equal(t, "alice", body)
				mu.Lock()
				defer mu.Unlock()
				given[set] = true
			})
		}
		running.Wait()
		assert.Len(t, given, 1)
		assert.NotContains(t, given, "")
		assert.NotContains(t, given, cookie)
	})
}

// A store that is away: no 200 and no cookie for what was not saved.
func TestTheStoreOfGinIsAway(t *testing.T) {
	proxy := redistest.NewProxy(t, redistest.Standalone(t).Addr())
	rdb, err := redisconn.Open("redis://" + proxy.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { rdb.Close() })
	store := redisstore.New(rdb, &redisstore.Options{Prefix: redistest.Prefix(t)})
	nodes := ginNodes(t, []session.Store{store}, session.Options{}, nil)
	_, _, cookie := ask(t, nodes[0], "/login?user=alice", "")
	_, _, _ = ask(t, nodes[0], "/set?name=a&value=1", cookie)

	proxy.Refuse(true)
	for range 5 {
		for path, visitor := range map[string]string{"/set?name=a&value=2": cookie, "/login?user=bob": cookie, "/set?name=b&value=1": ""} {
			status, body, set := ask(t, nodes[0], path, visitor)
			assert.Equal(t, http.StatusServiceUnavailable, status, path)
			assert.NotContains(t, body, "saved")
			assert.Empty(t, set)
		}
		status, _, _ := ask(t, nodes[0], "/user", "")
		assert.Equal(t, http.StatusOK, status, "a visitor without a cookie")
	}
	proxy.Refuse(false)
	require.Eventually(t, func() bool {
		_, value, _ := ask(t, nodes[0], "/get?name=a", cookie)
		return value == "1"
	}, 20*time.Second, 10*time.Millisecond)
}
