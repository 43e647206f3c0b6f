// Command gin is a server of a cluster: start as many as you like on one Redis.
package main

import (
	"cmp"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/gin-gonic/gin"
	ginadapter "github.com/herdless/herdless/adapters/gin"
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
	r := gin.Default()
	r.Use(ginadapter.Wrap(limiter.Handler))
	r.GET("/report", ginadapter.Wrap(onceAMinute.Handler), report)
	r.GET("/", ginadapter.Wrap(sessions.Handler), hello)
	log.Fatal(r.Run(cmp.Or(os.Getenv("LISTEN"), ":8080")))
}

func report(c *gin.Context) {
	time.Sleep(time.Second) // however many ask, on however many servers
	c.JSON(http.StatusOK, gin.H{"computed": time.Now()})
}

func hello(c *gin.Context) {
	ctx, s, visits := c.Request.Context(), ginadapter.Session(c), 0
	_, err := s.Get(ctx, "visits", &visits)
	if err == nil {
		err = s.Set(ctx, "visits", visits+1)
	}
	if err != nil {
		c.AbortWithStatus(http.StatusServiceUnavailable)
		return
	}
	c.JSON(http.StatusOK, gin.H{"visits": visits + 1})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
