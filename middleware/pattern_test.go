package middleware_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestThePatternIsKnownOutside: what counts, traces and logs outside of the middleware
// here goes by the pattern that the ServeMux inside has found.
func TestThePatternIsKnownOutside(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/product/{id}", func(http.ResponseWriter, *http.Request) {})
	for name, wrap := range eachMiddleware(t) {
		for _, method := range []string{"GET", "POST"} {
			r := httptest.NewRequest(method, "http://example.com/product/"+name, nil)
			r.Header.Set("Idempotency-Key", name)
			wrap(mux).ServeHTTP(httptest.NewRecorder(), r)
			assert.Equal(t, "/product/{id}", r.Pattern, "%s, %s", name, method)
		}
	}
}
