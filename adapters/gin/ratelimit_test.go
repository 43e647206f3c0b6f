package ginadapter_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/middleware/clientip"
	"github.com/herdless/herdless/middleware/ratelimit"
)

// A gin router answers as a net/http handler does: status, fields, body, and no
// handler runs for who is denied. The key can be gin's route.
func TestRateLimit(t *testing.T) {
	store := ratelimit.NewMemoryStore()
	l, err := ratelimit.NewPolicies(store, []ratelimit.Policy{
		{Name: "api", Limits: []ratelimit.Limit{ratelimit.PerHour(2)}, Key: ratelimit.Join(clientip.Key, ratelimit.ByRoute)},
	}, &ratelimit.Options{XRateLimit: true})
	require.NoError(t, err)
	ran := 0
	r := gin.New()
	r.Use(ginadapter.Wrap(l.Handler))
	for _, route := range []string{"/items/:id", "/other"} {
		r.GET(route, func(c *gin.Context) {
			ran++
			c.String(http.StatusOK, "hello")
		})
	}
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w
	}
	for i, path := range []string{"/items/1", "/items/2"} {
		w := get(path)
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, "hello", w.Body.String())
		assert.Equal(t, `"api";q=2;w=3600`, w.Header().Get("RateLimit-Policy"))
		assert.Equal(t, []string{`"api";r=1;t=1800`, `"api";r=0;t=1800`}[i], w.Header().Get("RateLimit"))
		assert.Equal(t, []string{"1", "0"}[i], w.Header().Get("X-RateLimit-Remaining"))
		assert.Empty(t, w.Header().Get("Retry-After"))
	}
	w := get("/items/3")
	assert.Equal(t, http.StatusTooManyRequests, w.Code)
	assert.Equal(t, "1800", w.Header().Get("Retry-After"))
	assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	var problem struct {
		Violated []string `json:"violated-policies"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &problem))
	assert.Equal(t, []string{"api"}, problem.Violated)
	assert.Equal(t, 2, ran)
	assert.Equal(t, http.StatusOK, get("/other").Code, "another route")
	assert.Equal(t, http.StatusBadRequest, get("/none").Code, "no route, no key")
}

func TestConcurrencyLimit(t *testing.T) {
	c, err := ratelimit.NewConcurrency(ratelimit.NewMemoryStore(), "exports", 1, ratelimit.Everybody, nil)
	require.NoError(t, err)
	inside, finish := make(chan struct{}), make(chan struct{})
	r := gin.New()
	r.Use(ginadapter.Wrap(c.Handler))
	r.GET("/export", func(c *gin.Context) {
		close(inside)
		<-finish
		c.Status(http.StatusNoContent)
	})
	get := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/export", nil))
		return w
	}
	first := make(chan *httptest.ResponseRecorder)
	go func() { first <- get() }()
	select {
	case <-inside:
	case <-time.After(30 * time.Second):
		t.Fatal("the handler was not reached")
	}
	w := get()
	assert.Equal(t, http.StatusTooManyRequests, w.Code)
	assert.Equal(t, `"exports";r=0`, w.Header().Get("RateLimit"))
	close(finish)
	assert.Equal(t, http.StatusNoContent, (<-first).Code)
	assert.Zero(t, c.Stats().PermitsLost)
}
