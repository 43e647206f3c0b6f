package ginadapter_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ginadapter "github.com/herdless/herdless/adapters/gin"
)

type mw = func(http.Handler) http.Handler

// pass does nothing.
func pass(next http.Handler) http.Handler { return next }

// answering answers in place of everything behind it.
func answering(h http.HandlerFunc) mw {
	return func(http.Handler) http.Handler { return h }
}

// mark writes its name around whatever comes from behind it.
func mark(name string) mw {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, name+"(")
			next.ServeHTTP(w, r)
			_, _ = io.WriteString(w, ")")
		})
	}
}

// recovering answers 500 for a panic behind it.
func recovering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				http.Error(w, fmt.Sprintf("recovered %v", v), 500)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	return rec
}

func TestGinInFrontLearnsTheTruth(t *testing.T) {
	hello := func(c *gin.Context) { c.String(201, "hello") }
	for name, tc := range map[string]struct {
		mw      mw
		handler gin.HandlerFunc
		path    string
		status  int
		size    int
		written bool
	}{
		"handler writes":       {pass, hello, "/", 201, 5, true},
		"middleware adds":      {mark("m"), func(c *gin.Context) { c.String(200, "x") }, "/", 200, 4, true},
		"status only":          {pass, func(c *gin.Context) { c.Status(204) }, "/", 204, -1, false},
		"AbortWithStatus":      {pass, func(c *gin.Context) { c.AbortWithStatus(403) }, "/", 403, 0, true},
		"nothing":              {pass, func(*gin.Context) {}, "/", 200, -1, false},
		"unknown route":        {pass, hello, "/unknown", 404, len("404 page not found"), true},
		"answered by body":     {answering(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("no")) }), hello, "/unknown", 200, 2, true},
		"answered by status":   {answering(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }), hello, "/", 401, 0, true},
		"answered by an error": {answering(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTooManyRequests) }), hello, "/", 429, 3, true},
		"answered by silence":  {answering(func(http.ResponseWriter, *http.Request) {}), hello, "/unknown", 200, -1, false},
		"flushed":              {pass, func(c *gin.Context) { c.Writer.Flush() }, "/", 200, 0, true},
		"recovered":            {recovering, func(*gin.Context) { panic("x") }, "/", 500, len("recovered x\n"), true},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			r := gin.New()
			r.Use(gin.LoggerWithConfig(gin.LoggerConfig{Output: &log, Formatter: func(p gin.LogFormatterParams) string {
				return fmt.Sprintf("%d %d", p.StatusCode, p.BodySize)
			}}))
			var written bool
			r.Use(func(c *gin.Context) { c.Next(); written = c.Writer.Written() })
			r.Use(ginadapter.Wrap(tc.mw))
			r.GET("/", tc.handler)
			rec := get(r, tc.path)
			assert.Equal(t, fmt.Sprintf("%d %d", tc.status, tc.size), log.String(), "what gin.Logger says")
			assert.Equal(t, tc.written, written)
			assert.Equal(t, tc.status, rec.Code)
			assert.Equal(t, max(0, tc.size), rec.Body.Len())
		})
	}
}

func TestGinBehindLearnsTheTruth(t *testing.T) {
	r := gin.New()
	r.Use(ginadapter.Wrap(pass), func(c *gin.Context) {
		assert.Equal(t, -1, c.Writer.Size())
		assert.False(t, c.Writer.Written())
		c.Next()
		assert.Equal(t, 202, c.Writer.Status())
		assert.Equal(t, 4, c.Writer.Size())
		assert.True(t, c.Writer.Written())
	})
	r.GET("/", func(c *gin.Context) {
		c.String(202, "1234")
		c.Status(500) // too late
	})
	r.GET("/string", func(c *gin.Context) {
		c.Status(202)
		_, _ = c.Writer.WriteString("1234")
	})
	assert.Equal(t, "1234", get(r, "/").Body.String())
	assert.Equal(t, "1234", get(r, "/string").Body.String())
}

// gin goes on with the chain when a handler returns. After a middleware it must
// not, whatever the middleware did with the rest of the chain.
func TestTheRestOfTheChainRunsOnceOrNever(t *testing.T) {
	for name, tc := range map[string]struct {
		mw      mw
		ran     string
		aborted bool
	}{
		"called":        {pass, "first last ", false},
		"not called":    {answering(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }), "", true},
		"not answered":  {answering(func(http.ResponseWriter, *http.Request) {}), "", true},
		"called twice":  {func(n http.Handler) http.Handler { return twice{n} }, "first last ", false},
		"in background": {func(n http.Handler) http.Handler { return background{n} }, "first last ", false},
	} {
		t.Run(name, func(t *testing.T) {
			ran, aborted := "", false
			r := gin.New()
			r.Use(func(c *gin.Context) { c.Next(); aborted = c.IsAborted() })
			r.Use(ginadapter.Wrap(tc.mw))
			r.GET("/", func(c *gin.Context) {
				if begun, ok := c.Request.Context().Value(begunKey{}).(chan struct{}); ok {
					close(begun)
				}
				ran += "first "
			}, func(*gin.Context) { ran += "last " })
			get(r, "/")
			assert.Equal(t, tc.ran, ran)
			assert.Equal(t, tc.aborted, aborted)
		})
	}
	t.Run("recovered by the middleware", func(t *testing.T) {
		ran := ""
		r := gin.New()
		r.Use(ginadapter.Wrap(recovering))
		r.GET("/", func(*gin.Context) { panic("first") }, func(*gin.Context) { ran = "last" })
		assert.Equal(t, 500, get(r, "/").Code)
		assert.Empty(t, ran)
	})
	t.Run("aborted behind the middleware", func(t *testing.T) {
		ran := ""
		r := gin.New()
		r.Use(ginadapter.Wrap(pass))
		r.GET("/", func(c *gin.Context) { c.AbortWithStatus(403) }, func(*gin.Context) { ran = "last" })
		assert.Equal(t, 403, get(r, "/").Code)
		assert.Empty(t, ran)
	})
}

type twice struct{ next http.Handler }

func (h twice) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.next.ServeHTTP(w, r)
	h.next.ServeHTTP(httptest.NewRecorder(), r)
}

type background struct{ next http.Handler }

func (h background) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	begun := make(chan struct{})
	go h.next.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithValue(r.Context(), begunKey{}, begun)))
	<-begun
}

// begunKey is the key of a channel that the first handler closes.
type begunKey struct{}

func TestPanicsReachGinRecovery(t *testing.T) {
	for name, r := range map[string]func(r *gin.Engine){
		"of the handler": func(r *gin.Engine) {
			r.GET("/", ginadapter.Wrap(plain), func(*gin.Context) { panic("x") })
		},
		"of the middleware": func(r *gin.Engine) {
			r.GET("/", ginadapter.Wrap(answering(func(http.ResponseWriter, *http.Request) { panic("x") })))
		},
		"of the middleware after next": func(r *gin.Engine) {
			r.GET("/", ginadapter.Wrap(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, r); panic("x") })
			}), func(*gin.Context) {})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got any
			e := gin.New()
			e.Use(gin.CustomRecoveryWithWriter(io.Discard, func(c *gin.Context, v any) {
				got = v
				c.AbortWithStatus(500)
			}))
			r(e)
			assert.Equal(t, 500, get(e, "/").Code)
			assert.Equal(t, "x", got)
		})
	}
}

func TestGroupsAndSingleRoutes(t *testing.T) {
	page := func(c *gin.Context) { c.String(200, "page") }
	shared := ginadapter.Wrap(mark("shared"))
	r := gin.New()
	r.Use(ginadapter.Wrap(mark("engine")))
	r.GET("/", page)
	group := r.Group("/group", ginadapter.Wrap(mark("group")), shared)
	group.GET("/a", page)
	group.GET("/b", ginadapter.Wrap(mark("route")), shared, page)
	assert.Equal(t, "engine(page)", get(r, "/").Body.String())
	assert.Equal(t, "engine(group(shared(page)))", get(r, "/group/a").Body.String())
	assert.Equal(t, "engine(group(shared(route(shared(page)))))", get(r, "/group/b").Body.String())
}

func TestNoRouteAndNoMethodHandlers(t *testing.T) {
	r := gin.New()
	r.HandleMethodNotAllowed = true
	r.Use(ginadapter.Wrap(mark("m")))
	r.POST("/known", func(*gin.Context) {})
	handlers := map[string]gin.HandlerFunc{
		"m(own page)": func(c *gin.Context) { _, _ = c.Writer.WriteString("own page") }, // gin's status stands
		"m(json)":     func(c *gin.Context) { c.Data(404, "application/json", []byte("json")) },
	}
	for want, h := range handlers {
		r.NoRoute(h)
		r.NoMethod(h)
		assert.Equal(t, want, get(r, "/unknown").Body.String())
		assert.Equal(t, want, get(r, "/known").Body.String())
	}
	t.Run("status of an own page", func(t *testing.T) {
		r := gin.New()
		r.Use(ginadapter.Wrap(plain))
		r.NoRoute(func(c *gin.Context) { _, _ = c.Writer.WriteString("own page") })
		assert.Equal(t, 404, get(r, "/unknown").Code)
	})
	t.Run("another status without a body", func(t *testing.T) {
		for _, status := range []int{405, 410} {
			r := gin.New()
			r.Use(ginadapter.Wrap(plain))
			r.NoRoute(func(c *gin.Context) { c.Status(status) })
			rec := get(r, "/unknown")
			assert.Equal(t, status, rec.Code)
			assert.Empty(t, rec.Body.String())
		}
	})
}

func TestRequestIsNewBehindAndOldInFront(t *testing.T) {
	type key struct{}
	var before, after, behind *http.Request
	r := gin.New()
	r.Use(func(c *gin.Context) {
		before = c.Request
		c.Next()
		after = c.Request
	})
	r.Use(ginadapter.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "value")))
		})
	}))
	r.GET("/", func(c *gin.Context) { behind = c.Request })
	get(r, "/")
	assert.Same(t, before, after)
	assert.Equal(t, "value", behind.Context().Value(key{}))
}

// gin middleware that answers for handlers that only report errors stays
// possible in front, as long as nothing was written.
func TestErrorHandlerInFront(t *testing.T) {
	r := gin.New()
	r.Use(func(c *gin.Context) {
		c.Next()
		if len(c.Errors) > 0 && !c.Writer.Written() {
			c.JSON(500, gin.H{"error": c.Errors.String()})
		}
	})
	r.Use(ginadapter.Wrap(plain))
	r.GET("/silent", func(c *gin.Context) { _ = c.Error(io.ErrUnexpectedEOF) })
	r.GET("/aborted", func(c *gin.Context) { _ = c.AbortWithError(400, io.ErrUnexpectedEOF) })
	assert.Equal(t, 500, get(r, "/silent").Code)
	assert.Contains(t, get(r, "/silent").Body.String(), "unexpected EOF")
	assert.Equal(t, 400, get(r, "/aborted").Code)
	assert.Empty(t, get(r, "/aborted").Body.String())
}

// lateHeaders is a writer like gzip's, which decides about its headers at the
// first write.
type lateHeaders struct {
	gin.ResponseWriter
}

func (w lateHeaders) Write(p []byte) (int, error) {
	w.Header().Set("Content-Encoding", "upper")
	return w.ResponseWriter.Write(bytes.ToUpper(p))
}

func (w lateHeaders) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

func TestEncodingWriterInFront(t *testing.T) {
	for name, use := range map[string][]gin.HandlerFunc{
		"in front": {func(c *gin.Context) { c.Writer = lateHeaders{c.Writer} }, ginadapter.Wrap(plain)},
		"behind":   {ginadapter.Wrap(plain), func(c *gin.Context) { c.Writer = lateHeaders{c.Writer} }},
	} {
		t.Run(name, func(t *testing.T) {
			r := gin.New()
			r.Use(use...)
			r.GET("/", func(c *gin.Context) { c.String(201, "page") })
			for path, status := range map[string]int{"/": 201, "/unknown": 404} {
				rec := get(r, path)
				assert.Equal(t, status, rec.Code)
				assert.Equal(t, "upper", rec.Result().Header.Get("Content-Encoding"))
				assert.Equal(t, strings.ToUpper(rec.Body.String()), rec.Body.String())
			}
		})
	}
}

func TestHandleContext(t *testing.T) {
	statuses := 0
	counting := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			cw := &countingWriter{ResponseWriter: w}
			next.ServeHTTP(cw, r)
			statuses += cw.headers
		})
	}
	r := gin.New()
	r.Use(ginadapter.Wrap(counting))
	r.GET("/app", func(c *gin.Context) { c.String(200, "app") })
	r.NoRoute(func(c *gin.Context) {
		c.Request.URL.Path = "/app"
		r.HandleContext(c)
	})
	rec := get(r, "/deep/link")
	assert.Equal(t, 200, rec.Code)
	assert.Equal(t, "app", rec.Body.String())
	assert.Equal(t, 1, statuses, "the middleware of the second run sees the response, and only that one")
}

// A status that gin middleware in front has set is the status of handlers that
// set none, and the middleware has to know.
func TestStatusFromInFront(t *testing.T) {
	var seen *countingWriter
	r := gin.New()
	r.Use(func(c *gin.Context) { c.Status(202) }, ginadapter.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen = &countingWriter{ResponseWriter: w}
			next.ServeHTTP(seen, r)
		})
	}))
	r.GET("/", func(*gin.Context) {})
	assert.Equal(t, 202, get(r, "/").Code)
	assert.Equal(t, 1, seen.headers)
}

type countingWriter struct {
	http.ResponseWriter
	headers int
}

func (w *countingWriter) WriteHeader(status int) {
	w.headers++
	w.ResponseWriter.WriteHeader(status)
}

func TestWrapRefusesNil(t *testing.T) {
	assert.PanicsWithValue(t, "ginadapter: Wrap: the middleware is nil", func() { ginadapter.Wrap(nil) })
	assert.PanicsWithValue(t, "ginadapter: Wrap: the middleware returned a nil handler", func() {
		ginadapter.Wrap(func(http.Handler) http.Handler { return nil })
	})
}

func TestMiddlewareIsAppliedOnce(t *testing.T) {
	applied := 0
	h := ginadapter.Wrap(func(next http.Handler) http.Handler { applied++; return next })
	r := gin.New()
	r.GET("/", h, func(c *gin.Context) { c.String(200, "page") })
	for range 3 {
		require.Equal(t, "page", get(r, "/").Body.String())
	}
	assert.Equal(t, 1, applied)
}
