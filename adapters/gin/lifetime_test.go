package ginadapter_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ginadapter "github.com/herdless/herdless/adapters/gin"
)

// What the suite allows, this adapter promises: 503.
func TestNextIsRefused(t *testing.T) {
	second := make(chan *httptest.ResponseRecorder, 3)
	try := func(next http.Handler, r *http.Request) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		second <- rec
	}
	for name, use := range map[string]mw{
		"for a second time": func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r)
				try(next, r)
			})
		},
		"with a request of another origin": func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				try(next, r.Clone(context.Background()))
				next.ServeHTTP(w, r)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := gin.New()
			r.GET("/", ginadapter.Wrap(use), func(c *gin.Context) { c.String(200, "page") })
			assert.Equal(t, "page", get(r, "/").Body.String())
			rec := <-second
			assert.Equal(t, http.StatusServiceUnavailable, rec.Code)
			assert.Equal(t, "no-store", rec.Result().Header.Get("Cache-Control"))
		})
	}
	t.Run("after the request", func(t *testing.T) {
		var late func()
		r := gin.New()
		r.GET("/", ginadapter.Wrap(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { late = func() { try(next, r) } })
		}), func(*gin.Context) { t.Error("the handler ran") })
		get(r, "/")
		late()
		assert.Equal(t, http.StatusServiceUnavailable, (<-second).Code)
	})
}

// Two Wraps of one chain must not take each other's next, also when the inner
// middleware hands its request to the outer one's.
func TestNestedWrapsKeepApart(t *testing.T) {
	var outerNext http.Handler
	r := gin.New()
	r.Use(ginadapter.Wrap(func(next http.Handler) http.Handler { outerNext = next; return next }))
	r.Use(ginadapter.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			outerNext.ServeHTTP(rec, r)
			assert.Equal(t, http.StatusServiceUnavailable, rec.Code)
			next.ServeHTTP(w, r)
		})
	}))
	r.GET("/", func(c *gin.Context) { c.String(200, "page") })
	assert.Equal(t, "page", get(r, "/").Body.String())
}

// A middleware that keeps its writer writes to nobody, and above all not to the
// client that gin's pooled Context serves by then.
func TestLateWritesReachNobody(t *testing.T) {
	kept := make(chan http.ResponseWriter, 1)
	r := gin.New()
	r.GET("/kept", ginadapter.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, r); kept <- w })
	}), func(c *gin.Context) { c.String(200, "kept") })
	r.GET("/other", func(c *gin.Context) { c.String(200, "other") })
	srv := httptest.NewServer(r)
	defer srv.Close()
	read := func(path string) string {
		res, err := srv.Client().Get(srv.URL + path)
		if !assert.NoError(t, err) {
			return ""
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		assert.NoError(t, err)
		return string(body)
	}
	assert.Equal(t, "kept", read("/kept"))
	w := <-kept
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 100 {
			w.Header().Set("X-Late", "yes")
			w.WriteHeader(500)
			_, err := w.Write([]byte("late"))
			assert.Error(t, err)
			_, err = io.WriteString(w, "late")
			assert.Error(t, err)
			rc := http.NewResponseController(w)
			assert.Error(t, rc.Flush())
			assert.Error(t, rc.SetWriteDeadline(time.Now()))
			_, _, err = rc.Hijack()
			assert.Error(t, err)
		}
	})
	for range 100 {
		assert.Equal(t, "other", read("/other"))
	}
	wg.Wait()
}

// A middleware that gives up on its handler is waited for: only when the handler
// has returned may gin have its Context back.
func TestTimeoutHandlerWaitsForTheHandler(t *testing.T) {
	returned := false
	r := gin.New()
	r.GET("/", ginadapter.Wrap(func(next http.Handler) http.Handler {
		return http.TimeoutHandler(next, time.Millisecond, "too slow")
	}), func(c *gin.Context) {
		<-c.Request.Context().Done()
		assert.Equal(t, "/", c.FullPath())
		c.String(200, "page")
		returned = true
	})
	rec := get(r, "/")
	assert.True(t, returned)
	assert.Equal(t, 503, rec.Code)
	assert.Equal(t, "too slow", rec.Body.String())
}

func TestPanicOfTheMiddlewareWaitsForTheHandler(t *testing.T) {
	begun, gate := make(chan struct{}), make(chan struct{})
	returned := false
	r := gin.New()
	r.Use(gin.CustomRecoveryWithWriter(io.Discard, func(c *gin.Context, _ any) {
		assert.True(t, returned)
		c.AbortWithStatus(500)
	}))
	r.GET("/", ginadapter.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			go next.ServeHTTP(httptest.NewRecorder(), r)
			<-begun
			close(gate)
			panic("the middleware's")
		})
	}), func(*gin.Context) {
		close(begun)
		<-gate
		returned = true
	})
	assert.Equal(t, 500, get(r, "/").Code)
}

// net/http removes the temporary files of an upload at the end of the request,
// if it finds them in its own request.
func TestUploadsAreRemoved(t *testing.T) {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", "name")
	require.NoError(t, err)
	_, _ = part.Write(bytes.Repeat([]byte("x"), 100_000))
	require.NoError(t, form.Close())

	names := make(chan string, 1)
	r := gin.New()
	r.MaxMultipartMemory = 1
	r.Use(ginadapter.Wrap(plain), ginadapter.Wrap(plain))
	r.POST("/", func(c *gin.Context) {
		header, err := c.FormFile("file")
		if !assert.NoError(t, err) {
			return
		}
		file, err := header.Open()
		if !assert.NoError(t, err) {
			return
		}
		defer file.Close()
		onDisk, ok := file.(*os.File)
		if assert.True(t, ok, "the upload is on disk") {
			names <- onDisk.Name()
		}
	})
	srv := httptest.NewServer(r)
	res, err := srv.Client().Post(srv.URL, form.FormDataContentType(), &body)
	require.NoError(t, err)
	res.Body.Close()
	srv.Close() // waits for the end of the request
	_, err = os.Stat(<-names)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestCloseNotify(t *testing.T) {
	t.Run("the client goes away", func(t *testing.T) {
		gone := make(chan bool, 1)
		r := gin.New()
		r.Use(ginadapter.Wrap(plain))
		r.GET("/", func(c *gin.Context) {
			gone <- c.Stream(func(w io.Writer) bool {
				_, _ = io.WriteString(w, "part")
				select {
				case <-c.Request.Context().Done():
				case <-time.After(time.Millisecond):
				}
				return true
			})
		})
		srv := httptest.NewServer(r)
		defer srv.Close()
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
		require.NoError(t, err)
		res, err := srv.Client().Do(req)
		require.NoError(t, err)
		cancel()
		res.Body.Close()
		assert.True(t, <-gone)
	})
	t.Run("a middleware's buffer has none", func(t *testing.T) {
		r := gin.New()
		r.Use(ginadapter.Wrap(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithCancel(r.Context())
				defer cancel()
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, r.WithContext(context.WithValue(ctx, cancelKey{}, cancel)))
				_, _ = w.Write(rec.Body.Bytes())
			})
		}))
		r.GET("/", func(c *gin.Context) {
			n := 0
			c.Stream(func(w io.Writer) bool { n++; fmt.Fprint(w, n); return n < 3 })
			c.Request.Context().Value(cancelKey{}).(context.CancelFunc)()
			assert.True(t, c.Stream(func(io.Writer) bool { return true }), "the request's context has ended")
		})
		assert.Equal(t, "123", get(r, "/").Body.String()[:3])
	})
}

type cancelKey struct{}

func TestPusher(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2: %v", h2), func(t *testing.T) {
			r := gin.New()
			r.Use(ginadapter.Wrap(plain))
			r.GET("/", func(c *gin.Context) {
				assert.Equal(t, h2, c.Writer.Pusher() != nil)
				c.Status(204)
			})
			srv := httptest.NewUnstartedServer(r)
			srv.EnableHTTP2 = h2
			srv.StartTLS()
			defer srv.Close()
			res, err := srv.Client().Get(srv.URL)
			require.NoError(t, err)
			res.Body.Close()
			assert.Equal(t, 204, res.StatusCode)
		})
	}
}

func TestHijack(t *testing.T) {
	hijack := func(w http.ResponseWriter) error {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			_ = conn.Close()
		}
		return err
	}
	r := gin.New()
	written := make(chan bool, 1)
	r.Use(func(c *gin.Context) { c.Next(); written <- c.Writer.Written() })
	r.GET("/handler", ginadapter.Wrap(plain), func(c *gin.Context) {
		if hijack(c.Writer) != nil {
			assert.False(t, c.Writer.Written(), "the handler can still answer")
			c.Status(501)
			return
		}
		assert.True(t, c.Writer.Written())
	})
	r.GET("/middleware", ginadapter.Wrap(answering(func(w http.ResponseWriter, _ *http.Request) {
		if hijack(w) != nil {
			w.WriteHeader(501)
		}
	})))
	for _, h2 := range []bool{false, true} {
		srv := httptest.NewUnstartedServer(r)
		srv.EnableHTTP2 = h2
		srv.StartTLS()
		defer srv.Close()
		for _, path := range []string{"/handler", "/middleware"} {
			t.Run(fmt.Sprintf("by the %s, HTTP/2: %v", path[1:], h2), func(t *testing.T) {
				res, err := srv.Client().Get(srv.URL + path)
				require.NoError(t, err)
				res.Body.Close()
				if h2 {
					assert.Equal(t, 501, res.StatusCode)
					<-written
				} else {
					assert.Equal(t, 204, res.StatusCode)
					assert.True(t, <-written, "gin in front knows")
				}
			})
		}
	}
}
