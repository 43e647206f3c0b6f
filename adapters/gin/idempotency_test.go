package ginadapter_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/middleware/idempotency"
)

// Duplicates of a POST to a gin router run its handler once, and all get its answer.
func TestIdempotencyKeys(t *testing.T) {
	everybody := func(*http.Request) (string, error) { return "everybody", nil }
	once, err := idempotency.New(idempotency.NewMemoryStore(), everybody, time.Hour, nil)
	require.NoError(t, err)
	var payments atomic.Int64
	r := gin.New()
	r.Use(ginadapter.Wrap(once.Handler))
	r.POST("/pay", func(c *gin.Context) {
		n := payments.Add(1)
		time.Sleep(50 * time.Millisecond)
		c.Header("X-Attempt", fmt.Sprint(idempotency.Attempt(c.Request.Context())))
		c.JSON(http.StatusCreated, gin.H{"payment": n, "amount": c.PostForm("amount")})
	})
	pay := func(key string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(http.MethodPost, "/pay", strings.NewReader("amount=5"))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Idempotency-Key", key)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		return w
	}
	var running sync.WaitGroup
	for range 20 {
		running.Go(func() {
			w := pay("k")
			assert.Equal(t, http.StatusCreated, w.Code)
			assert.JSONEq(t, `{"payment":1,"amount":"5"}`, w.Body.String())
			assert.Equal(t, "1", w.Header().Get("X-Attempt"))
		})
	}
	running.Wait()
	assert.EqualValues(t, 1, payments.Load())
	assert.JSONEq(t, `{"payment":2,"amount":"5"}`, pay("another").Body.String())
}
