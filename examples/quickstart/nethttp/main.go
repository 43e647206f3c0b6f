// Command nethttp shows herdless in front of net/http: a rate limit, a cached
// page and a session, in this process or, with REDIS_URL, shared by all.
package main

import (
	"cmp"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/herdless/herdless/adapters/redisconn"
	"github.com/herdless/herdless/cache"
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

var visits = session.NewKey[int]("visits")

func main() {
	var sessionStore session.Store = session.NewMemoryStore()
	var limitStore ratelimit.Store = ratelimit.NewMemoryStore()
	var lockStore lock.Store = lock.NewMemoryStore()
	var pageStore cache.Store = must(cache.NewMemoryStore(nil))
	if url := os.Getenv("REDIS_URL"); url != "" { // any number of processes share them
		rdb := must(redisconn.Open(url))
		sessionStore, limitStore = redisstore.New(rdb, nil), redislimit.New(rdb, nil)
		lockStore, pageStore = redislock.New(rdb, nil), rediscache.New(rdb, nil)
	}
	limiter := must(ratelimit.New(limitStore, ratelimit.PerMinute(100), clientip.Key, nil))
	pages := must(responsecache.New(pageStore, &responsecache.Options{Locker: must(lock.New(lockStore, nil))}))
	sessions := must(session.New(sessionStore, &session.Options{DangerouslyAllowHTTP: true}))

	report := func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Second) // however many ask, it runs once a minute
		_, _ = fmt.Fprintln(w, "computed at", time.Now().Format(time.TimeOnly))
	}
	hello := func(w http.ResponseWriter, r *http.Request) {
		n, err := visits.Get(r.Context())
		if err == nil {
			err = visits.Set(r.Context(), n+1)
		}
		if err != nil {
			http.Error(w, "come back in a moment", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintf(w, "visit number %d\n", n+1)
	}
	cached := pages.With(responsecache.Policy{TTL: time.Minute, Public: true})
	mux := http.NewServeMux()
	mux.Handle("GET /report", cached.Handler(http.HandlerFunc(report)))
	mux.Handle("GET /{$}", sessions.Handler(http.HandlerFunc(hello)))
	log.Fatal(http.ListenAndServe(cmp.Or(os.Getenv("LISTEN"), ":8080"), limiter.Handler(mux)))
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
