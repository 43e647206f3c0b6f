// Command nethttp is a server of a cluster: start as many as you like on one
// Redis.
package main

import (
	"cmp"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/herdless/herdless/adapters/redisconn"
	"github.com/herdless/herdless/cache/rediscache"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/lock/redislock"
	"github.com/herdless/herdless/middleware/clientip"
	"github.com/herdless/herdless/middleware/ratelimit"
	"github.com/herdless/herdless/middleware/ratelimit/redislimit"
	"github.com/herdless/herdless/responsecache"
	"github.com/herdless/herdless/session"
	"github.com/herdless/herdless/session/redisstore"
)

func main() {
	rdb := must(redisconn.Open(cmp.Or(os.Getenv("REDIS_URL"), "redis://localhost:6379")))
	locker := must(lock.New(redislock.New(rdb, nil), nil))
	store := rediscache.New(rdb, nil)
	pages := must(responsecache.New(store, &responsecache.Options{Locker: locker}))
	sessions := must(session.New(redisstore.New(rdb, nil), &session.Options{DangerouslyAllowHTTP: true})) // without https, see below
	limiter := must(ratelimit.New(redislimit.New(rdb, nil), ratelimit.PerMinute(100), clientip.Key, nil)) // without a balancer, see below

	onceAMinute := pages.With(responsecache.Policy{TTL: time.Minute, Public: true})
	http.Handle("GET /report", onceAMinute.Handler(http.HandlerFunc(report)))
	http.Handle("GET /{$}", sessions.Handler(http.HandlerFunc(hello)))
	log.Fatal(http.ListenAndServe(cmp.Or(os.Getenv("LISTEN"), ":8080"), limiter.Handler(http.DefaultServeMux)))
}

func report(w http.ResponseWriter, _ *http.Request) {
	time.Sleep(time.Second) // however many ask, on however many servers
	fmt.Fprintln(w, "computed at", time.Now())
}

var visits = session.NewKey[int]("visits")

func hello(w http.ResponseWriter, r *http.Request) {
	n, err := visits.Get(r.Context())
	if err == nil {
		err = visits.Set(r.Context(), n+1)
	}
	if err != nil {
		http.Error(w, "try again in a moment", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "visit number", n+1)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
