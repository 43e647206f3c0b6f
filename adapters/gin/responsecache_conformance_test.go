package ginadapter_test

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/responsecache"
	"github.com/herdless/herdless/responsecache/responsecachetest"
)

func TestResponsecacheConformance(t *testing.T) {
	responsecachetest.Run(t, responsecachetest.Setup{
		New: func(t *testing.T, profile responsecache.Profile, policy responsecache.Policy, origin http.Handler) http.Handler {
			r := gin.New()
			// Pages are made anew in the background by a request to the router:
			// a gin chain cannot run again from the middle.
			pages, err := responsecache.New(cache.NewMemoryStore(nil), &responsecache.Options{
				Profile: profile, Refresh: r, Logger: slog.New(slog.DiscardHandler),
				StoreTimeout: 5 * time.Second, // machines of tests are slow when they are busy
			})
			require.NoError(t, err)
			serve := gin.WrapH(origin)
			r.Use(ginadapter.Wrap(pages.With(policy).Handler))
			r.NoRoute(serve) // for methods that Any does not know
			r.Any("/*path", serve)
			return r
		},
	})
}
