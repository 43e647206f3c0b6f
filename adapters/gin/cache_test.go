package ginadapter_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPageThatRecoveryEndedIsNotStored(t *testing.T) {
	gin.SetMode(gin.TestMode)
	st := cache.NewMemoryStore(nil)
	pages, err := responsecache.New(st, &responsecache.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	r := gin.New()
	r.Use(ginadapter.Wrap(pages.With(responsecache.Policy{TTL: time.Minute}).Handler), gin.RecoveryWithWriter(io.Discard))
	fail := true
	r.GET("/page", func(c *gin.Context) {
		c.String(200, "half")
		if fail {
			fail = false
			panic("boom")
		}
		_, _ = c.Writer.WriteString(" whole")
	})
	s := httptest.NewServer(r)
	defer s.Close()
	get := func() string {
		resp, err := http.Get(s.URL + "/page")
		require.NoError(t, err)
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		return string(b) + " " + resp.Header.Get("Cache-Status")
	}
	get()
	assert.Contains(t, get(), "half whole")
}
