package ginadapter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ginadapter "github.com/herdless/herdless/adapters/gin"
	"github.com/herdless/herdless/cache"
	"github.com/herdless/herdless/responsecache"
	"github.com/herdless/herdless/session"
)

// eachProtocol runs test with a server of handler behind gin.Recovery, which takes
// http.ErrAbortHandler for a connection that is dead and goes on.
func eachProtocol(t *testing.T, handlers []gin.HandlerFunc, test func(t *testing.T, s *httptest.Server)) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			e := gin.New()
			e.Use(gin.RecoveryWithWriter(io.Discard))
			e.GET("/:page", handlers...)
			s := httptest.NewUnstartedServer(e)
			s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
			s.EnableHTTP2 = http2
			s.StartTLS()
			t.Cleanup(s.Close)
			test(t, s)
		})
	}
}

// read returns what a GET brings, and the error of that or of its end.
func read(t *testing.T, s *httptest.Server, path string, cookies ...*http.Cookie) (*http.Response, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
	require.NoError(t, err)
	for _, c := range cookies {
		r.AddCookie(c)
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// failingStore fails to save when it is told to.
type failingStore struct {
	session.Store
	fails atomic.Bool
}

func (s *failingStore) Commit(ctx context.Context, d session.Delta) (session.Result, error) {
	if s.fails.Load() {
		return session.Result{}, errors.New("broken")
	}
	return s.Store.Commit(ctx, d)
}

func TestALateSaveThatFailsCutsTheResponseOff(t *testing.T) {
	store := &failingStore{}
	m, err := session.New(store, &session.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	handler := func(c *gin.Context) {
		s, ctx := ginadapter.Session(c), c.Request.Context()
		if c.Param("page") == "first" {
			assert.NoError(t, s.Set(ctx, "x", "1"))
			return
		}
		var v string
		_, _ = s.Get(ctx, "x", &v)
		c.String(http.StatusOK, "order placed")
		c.Writer.Flush()
		store.fails.Store(true)
		assert.NoError(t, s.Set(ctx, "x", "2"))
	}
	eachProtocol(t, []gin.HandlerFunc{ginadapter.Wrap(m.Handler), handler}, func(t *testing.T, s *httptest.Server) {
		store.Store = session.NewMemoryStore()
		store.fails.Store(false)
		resp, _, err := read(t, s, "/first")
		require.NoError(t, err)
		_, _, err = read(t, s, "/late", resp.Cookies()...)
		assert.Error(t, err)
	})
}

func TestHalfAPageDoesNotLookWhole(t *testing.T) {
	handler := func(begun, proceed chan struct{}) gin.HandlerFunc {
		return func(c *gin.Context) {
			if c.Param("page") == "half" {
				fmt.Fprint(c.Writer, "half ")
				c.Writer.Flush()
				close(begun)
				<-proceed
			}
			panic(http.ErrAbortHandler)
		}
	}
	pages, err := responsecache.New(cache.NewMemoryStore(nil), nil)
	require.NoError(t, err)
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"nothing": func(next http.Handler) http.Handler { return next },
		"cache":   pages.With(responsecache.Policy{TTL: time.Minute}).Handler,
	} {
		t.Run(name, func(t *testing.T) {
			var begun, proceed chan struct{}
			next := func(c *gin.Context) { handler(begun, proceed)(c) }
			eachProtocol(t, []gin.HandlerFunc{ginadapter.Wrap(wrap), next}, func(t *testing.T, s *httptest.Server) {
				begun, proceed = make(chan struct{}), make(chan struct{})
				leads := make(chan error, 1)
				go func() {
					_, _, err := read(t, s, "/half")
					leads <- err
				}()
				<-begun
				follows := make(chan error, 1)
				if name == "cache" {
					r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/half", nil)
					require.NoError(t, err)
					resp, err := s.Client().Do(r) // has the header, and reads along
					require.NoError(t, err)
					defer resp.Body.Close()
					close(proceed)
					_, err = io.ReadAll(resp.Body)
					follows <- err
				} else {
					close(proceed)
					follows <- io.ErrUnexpectedEOF
				}
				assert.Error(t, <-leads)
				assert.Error(t, <-follows)
				_, _, err := read(t, s, "/none")
				assert.Error(t, err, "not even a header")
			})
		})
	}
}

// A middleware that gives up while its handler still runs elsewhere leaves gin's Context to
// that until it is over.
func TestABreakOffWhileTheHandlerRuns(t *testing.T) {
	begun, over := make(chan struct{}), make(chan struct{})
	breaksOff := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			go func() {
				defer close(over)
				next.ServeHTTP(w, r)
			}()
			<-begun
			panic(http.ErrAbortHandler)
		})
	}
	handler := func(c *gin.Context) {
		close(begun)
		for range 100 {
			c.Writer = &wrapped{c.Writer} // as middleware does
			runtime.Gosched()
		}
	}
	eachProtocol(t, []gin.HandlerFunc{ginadapter.Wrap(breaksOff), handler}, func(t *testing.T, s *httptest.Server) {
		begun, over = make(chan struct{}), make(chan struct{})
		_, _, err := read(t, s, "/page")
		assert.Error(t, err)
		<-over
	})
}

type wrapped struct{ gin.ResponseWriter }
