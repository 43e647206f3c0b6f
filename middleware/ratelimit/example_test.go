package ratelimit_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

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

// So many a minute and so many a day for each client, more for those who pay, and so
// many for all of them together: a request is charged under all of that or under
// nothing.
func ExampleNewPolicies() {
	limiter, err := ratelimit.NewPolicies(ratelimit.NewMemoryStore(), []ratelimit.Policy{
		{
			Name:   "client",
			Limits: []ratelimit.Limit{ratelimit.PerMinute(2), {Rate: 1000, Period: 24 * time.Hour}},
			Key:    clientip.Key,
			Tier:   func(r *http.Request) string { return r.Header.Get("X-Plan") }, // which an outer handler has set
			Tiers: map[string][]ratelimit.Limit{
				"gold": {ratelimit.PerMinute(200), {Rate: 100_000, Period: 24 * time.Hour}},
			},
		},
		{Name: "all", Limits: []ratelimit.Limit{ratelimit.PerSecond(5000)}, Key: ratelimit.Everybody},
	}, nil)
	if err != nil {
		panic(err)
	}
	server := limiter.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for range 3 {
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		fmt.Printf("%d, retry after %q\n", w.Code, w.Header().Get("Retry-After"))
	}
	result, err := limiter.Peek(context.Background(), "192.0.2.1", "everybody")
	if err != nil {
		panic(err)
	}
	fmt.Println("left of the day:", result.Limits[1].Remaining)
	// Output:
	// 200, retry after ""
	// 200, retry after ""
	// 429, retry after "30"
	// left of the day: 998
}

// A job takes as many units as there are, and does that much.
func ExampleLimiter_AtMost() {
	limiter, err := ratelimit.New(ratelimit.NewMemoryStore(), ratelimit.PerHour(100), ratelimit.Everybody, nil)
	if err != nil {
		panic(err)
	}
	for _, waiting := range []int{70, 70} {
		result, err := limiter.AtMost(context.Background(), waiting, "newsletter")
		if err != nil {
			panic(err)
		}
		fmt.Printf("%d letters wait, %d may be sent now\n", waiting, result.Taken)
	}
	// Output:
	// 70 letters wait, 70 may be sent now
	// 70 letters wait, 30 may be sent now
}

// Two exports at a time, on however many servers.
func ExampleConcurrency() {
	exports, err := ratelimit.NewConcurrency(ratelimit.NewMemoryStore(), "exports", 2, ratelimit.Everybody, nil)
	if err != nil {
		panic(err)
	}
	for range 3 {
		permit, err := exports.Acquire(context.Background(), "everybody")
		if err != nil {
			fmt.Println(err)
			continue
		}
		defer permit.Release(context.Background())
		fmt.Println("exporting")
	}
	// Output:
	// exporting
	// exporting
	// ratelimit: all permits are held
}
