package ginadapter_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/session"
)

// A client logs in at a node of plain net/http and goes on at a node of gin, and
// back. The nodes share nothing but the store.
func TestSessionAcrossServeMuxAndGin(t *testing.T) {
	store := session.NewMemoryStore()
	manager := func() *session.Manager {
		m, err := session.New(store, &session.Options{DangerouslyAllowHTTP: true})
		require.NoError(t, err)
		return m
	}

	mux := http.NewServeMux()
	mux.HandleFunc("/set", func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		assert.NoError(t, s.Set(r.Context(), "name", r.URL.Query().Get("name")))
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
		var name string
		_, err := session.FromContext(r.Context()).Get(r.Context(), "name", &name)
		fmt.Fprintf(w, "hello %s, error %v", name, err)
	})
	plainNode := httptest.NewServer(manager().Handler(mux))
	defer plainNode.Close()

	r := gin.New()
	r.Use(ginadapter.Wrap(manager().Handler))
	r.GET("/set", func(c *gin.Context) {
		assert.NoError(t, ginadapter.Session(c).Set(c.Request.Context(), "name", c.Query("name")))
		c.Status(http.StatusNoContent) // the cookie has to get out without a body
	})
	r.GET("/get", func(c *gin.Context) {
		var name string
		_, err := ginadapter.Session(c).Get(c.Request.Context(), "name", &name)
		c.String(200, "hello %s, error %v", name, err)
	})
	r.NoRoute(func(c *gin.Context) {
		assert.NoError(t, ginadapter.Session(c).Set(c.Request.Context(), "name", "lost")) // and with gin's own 404
	})
	ginNode := httptest.NewServer(r)
	defer ginNode.Close()

	for name, nodes := range map[string][2]string{
		"from plain to gin": {plainNode.URL, ginNode.URL},
		"from gin to plain": {ginNode.URL, plainNode.URL},
	} {
		t.Run(name, func(t *testing.T) {
			jar, err := cookiejar.New(nil) // cookies are shared by all ports of a host
			require.NoError(t, err)
			client := &http.Client{Jar: jar}
			visit := func(url string) (int, string) {
				res, err := client.Get(url)
				require.NoError(t, err)
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				return res.StatusCode, string(body)
			}
			_, body := visit(nodes[1] + "/get")
			assert.Equal(t, "hello , error <nil>", body, "nobody is known at first")
			status, _ := visit(nodes[0] + "/set?name=Ada")
			assert.Equal(t, 204, status)
			for range 2 {
				for _, node := range nodes {
					_, body := visit(node + "/get")
					assert.Equal(t, "hello Ada, error <nil>", body)
				}
			}
			visit(nodes[1] + "/set?name=Grace")
			_, body = visit(nodes[0] + "/get")
			assert.Equal(t, "hello Grace, error <nil>", body)
			status, _ = visit(ginNode.URL + "/unknown")
			assert.Equal(t, 404, status)
			_, body = visit(plainNode.URL + "/get")
			assert.Equal(t, "hello lost, error <nil>", body)
		})
	}
	t.Run("a new client's first page is a 404", func(t *testing.T) {
		res, err := http.Get(ginNode.URL + "/unknown")
		require.NoError(t, err)
		defer res.Body.Close()
		assert.Equal(t, 404, res.StatusCode)
		assert.NotEmpty(t, res.Cookies())
	})
}

func TestSessionWithoutManagerIsNil(t *testing.T) {
	r := gin.New()
	r.GET("/", func(c *gin.Context) { assert.Nil(t, ginadapter.Session(c)) })
	get(r, "/")
}
