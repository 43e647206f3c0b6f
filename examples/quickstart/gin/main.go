// Command gin shows herdless in front of gin: a rate limit, a cached page and a
// session, in this process or, with REDIS_URL, shared by all.
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
	cached := pages.With(responsecache.Policy{TTL: time.Minute, Public: true})

	r := gin.Default()
	r.Use(ginadapter.Wrap(limiter.Handler))
	r.GET("/report", ginadapter.Wrap(cached.Handler), func(c *gin.Context) {
		time.Sleep(time.Second) // however many ask, it runs once a minute
		c.JSON(http.StatusOK, gin.H{"computed": time.Now()})
	})
	r.GET("/", ginadapter.Wrap(sessions.Handler), func(c *gin.Context) {
		s, visits := ginadapter.Session(c), 0
		_, err := s.Get(c.Request.Context(), "visits", &visits)
		if err == nil {
			err = s.Set(c.Request.Context(), "visits", visits+1)
		}
		if err != nil {
			c.AbortWithStatus(http.StatusServiceUnavailable)
			return
		}
		c.JSON(http.StatusOK, gin.H{"visits": visits + 1})
	})
	log.Fatal(r.Run(cmp.Or(os.Getenv("LISTEN"), ":8080")))
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
