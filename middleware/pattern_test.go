package middleware_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/herdless/herdless/middleware"
	"github.com/herdless/herdless/middleware/clientip"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/traffic"
)

// TestThePatternIsKnownOutside: what counts, traces and logs outside of the middleware
// here goes by the pattern that the ServeMux inside has found.
func TestThePatternIsKnownOutside(t *testing.T) {
	s := newSite(t)
	limiter, err := ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerMinute(100), clientip.Key, nil)
	require.NoError(t, err)
	concurrency, err := ratelimit.NewConcurrency(ratelimit.NewMemoryStore(), "all", 10, clientip.Key, nil)
	require.NoError(t, err)
	recorder, err := traffic.New(traffic.NewMemoryStore(), nil)
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("/product/{id}", func(http.ResponseWriter, *http.Request) {})
	for name, wrap := range map[string]middleware.Middleware{
		"session":     s.sessions.Handler,
		"limit":       limiter.Handler,
		"concurrency": concurrency.Handler,
		"idempotency": s.once.Handler,
		"cache":       s.pages.Handler,
		"traffic":     recorder.Handler,
		"all":         middleware.Chain(recorder.Handler, limiter.Handler, concurrency.Handler, s.sessions.Handler, s.pages.Handler),
	} {
		for _, method := range []string{"GET", "POST"} {
			r := httptest.NewRequest(method, "http://example.com/product/"+name, nil)
			r.Header.Set("Idempotency-Key", name)
			wrap(mux).ServeHTTP(httptest.NewRecorder(), r)
			assert.Equal(t, "/product/{id}", r.Pattern, "%s, %s", name, method)
		}
	}
}
