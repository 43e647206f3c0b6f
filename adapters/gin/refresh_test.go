package ginadapter_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/lock"
	"github.com/herdless/herdless/responsecache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stalePages is an application with a page that is stale as soon as it is made. What
// remakes it after the first time waits for proceed.
type stalePages struct {
	*httptest.Server
	runs    atomic.Int32
	reached chan struct{}
	proceed chan struct{}
}

func newStalePages(t *testing.T, withRefresh bool) *stalePages {
	t.Helper()
	app := &stalePages{reached: make(chan struct{}, 10), proceed: make(chan struct{})}
	r := gin.New()
	locker, err := lock.New(lock.NewMemoryStore(), nil)
	require.NoError(t, err)
	o := &responsecache.Options{Locker: locker, Logger: slog.New(slog.DiscardHandler)}
	if withRefresh {
		o.Refresh = r
	}
	pages, err := responsecache.New(cache.NewMemoryStore(nil), o)
	require.NoError(t, err)
	r.Use(ginadapter.Wrap(pages.Handler))
	r.GET("/page/:name", func(c *gin.Context) {
		if app.runs.Add(1) > 1 {
			app.reached <- struct{}{}
			<-app.proceed
		}
		c.Header("Cache-Control", "max-age=60, stale-while-revalidate=60")
		if app.runs.Load() == 1 {
			c.Header("Age", "61")
		}
		c.String(http.StatusOK, "%s, run %d", c.Param("name"), app.runs.Load())
	})
	app.Server = httptest.NewServer(r)
	t.Cleanup(app.Close)
	return app
}

func (app *stalePages) get(t *testing.T) (body, status string) {
	t.Helper()
	resp, err := http.Get(app.URL + "/page/one")
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b), resp.Header.Get("Cache-Status")
}

func TestAStalePageIsRefreshedFromTheTopOfTheRouter(t *testing.T) {
	app := newStalePages(t, true)
	body, _ := app.get(t)
	require.Equal(t, "one, run 1", body)
	for range 5 {
		body, status := app.get(t)
		assert.Equal(t, "one, run 1", body, "nobody waits")
		assert.Contains(t, status, "hit; ttl=-1")
	}
	require.Eventually(t, func() bool { app.get(t); return len(app.reached) > 0 }, 10*time.Second, 5*time.Millisecond)
	close(app.proceed)
	require.Eventually(t, func() bool { body, _ := app.get(t); return body == "one, run 2" }, 10*time.Second, 5*time.Millisecond)
	assert.EqualValues(t, 2, app.runs.Load(), "one refresh")
}

func TestAStalePageIsRefreshedByOneRequestWithoutRefresh(t *testing.T) {
	app := newStalePages(t, false)
	body, _ := app.get(t)
	require.Equal(t, "one, run 1", body)
	var wg sync.WaitGroup
	wg.Go(func() {
		body, status := app.get(t)
		for body == "one, run 1" { // the lease of the first request is being released
			body, status = app.get(t)
		}
		assert.Equal(t, "one, run 2", body)
		assert.Contains(t, status, "fwd=stale")
	})
	<-app.reached
	for range 5 {
		body, status := app.get(t)
		assert.Equal(t, "one, run 1", body, "the others get the stale one")
		assert.True(t, strings.Contains(status, "hit; ttl=-1"), status)
	}
	close(app.proceed)
	wg.Wait()
	body, _ = app.get(t)
	assert.Equal(t, "one, run 2", body)
	assert.EqualValues(t, 2, app.runs.Load())
}
