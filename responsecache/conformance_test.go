package responsecache_test

import (
	"net/http"
	"testing"

	"github.com/herdless/herdless/internal/redistest"
	"github.com/herdless/herdless/responsecache"
	"github.com/herdless/herdless/responsecache/responsecachetest"
)

func TestConformance(t *testing.T) {
	t.Run("memory", func(t *testing.T) { conforms(t, memoryStores) })
	t.Run("redis", func(t *testing.T) {
		rdb := redistest.Standalone(t).Client(t)
		conforms(t, func(t testing.TB) stores { return redisStores(t, rdb) })
	})
}

func conforms(t *testing.T, newStores func(testing.TB) stores) {
	responsecachetest.Run(t, responsecachetest.Setup{
		New: func(t *testing.T, profile responsecache.Profile, policy responsecache.Policy, origin http.Handler) http.Handler {
			return newCache(t, newStores(t), responsecache.Options{Profile: profile}).With(policy).Handler(origin)
		},
	})
}
