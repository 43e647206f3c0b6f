package ratelimit_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/herdless/herdless/middleware/clientip"
	"github.com/herdless/herdless/middleware/ratelimit"
)

func Example() {
	limiter, err := ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerMinute(2), clientip.Key, nil)
	if err != nil {
		panic(err)
	}
	server := limiter.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "hello")
	}))

	for range 3 {
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		fmt.Printf("%d, retry after %q\n", w.Code, w.Header().Get("Retry-After"))
	}
	// Output:
	// 200, retry after ""
	// 200, retry after ""
	// 429, retry after "30"
}
