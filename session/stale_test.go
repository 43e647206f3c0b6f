package session_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// marker is something that a request holds.
type (
	marker  [64 << 10]byte
	markKey struct{}
)

// What is remembered for Stale must not keep the requests that it was read in.
func TestStaleKeepsNoRequests(t *testing.T) {
	store := redisstore.New(redistest.Standalone(t).Client(t), &redisstore.Options{Prefix: redistest.Prefix(t)})
	m, err := session.New(store, &session.Options{WhenDown: session.Stale, StaleFor: time.Hour})
	require.NoError(t, err)
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session.FromContext(r.Context())
		var n int
		_, _ = s.Get(r.Context(), "n", &n)
		if r.URL.Path == "/set" {
			assert.NoError(t, s.Set(r.Context(), "n", 1))
		}
	}))
	const requests = 200
	var freed atomic.Int64
	for i := range requests {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/set", nil))
		cookies := w.Result().Cookies()
		require.Len(t, cookies, 1, fmt.Sprint(i))
		mark := &marker{}
		runtime.AddCleanup(mark, func(int) { freed.Add(1) }, 0)
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(cookies[0])
		r = r.WithContext(context.WithValue(r.Context(), markKey{}, mark))
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	assert.Eventually(t, func() bool {
		runtime.GC()
		return freed.Load() > requests*9/10
	}, 20*time.Second, 10*time.Millisecond, "of %d requests", requests)
	runtime.KeepAlive(m)
}
